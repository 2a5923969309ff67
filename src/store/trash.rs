//! Where does a thread go that is removed, and how does it come back?
//!
//! `<state>/trash/<item>/` holds the files as they were and `info.json`, which says where each belongs. `info.json` is
//! written and synced before the first file comes, and goes after the last: so an item without files is the rest of
//! a removal that did not begin or of a restoration that is done. Names stay in `session_index.jsonl` until the item is
//! destroyed, so that a restored thread has its name. Nothing is destroyed unless [`Trash::destroy`] is told to.
//! Depends on `placement`, `archive`, `session_index` and `home`.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use super::archive::{self, archived_path, files_of};
use super::content::{self, Encoding};
use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::home::{Home, STATE_DIR_NAME};
use super::placement::{is_ours, make_folder, move_no_replace, sync_folder};
use super::rollout::{RolloutName, ThreadId};
use super::row::DiskStat;
use super::scan::ROOTS;
use super::session_index;
use super::tree::split_path;

/// The folder of the trash in a state folder.
pub const TRASH_DIR_NAME: &str = "trash";
/// The file of an item that says what it is.
pub const INFO_NAME: &str = "info.json";
/// Bytes of an `info.json` that are read.
const INFO_BYTES_MAX: u64 = 1 << 20;
/// Items of one thread within a second.
const ITEMS_A_SECOND_MAX: u32 = 1000;
/// An item without files and younger than this may be one that is just being filled.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(3600);
/// Why an item is there whose `info.json` cannot be read.
const WHY_UNKNOWN: &str = "not known: its info.json is missing or damaged";

/// One file of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashedFile {
    /// Its name in the item's folder.
    pub stored: String,
    /// Where it was: path on disk below the home, `%` and bytes that are not UTF-8 as `%XX`.
    pub path: String,
    /// Its size on disk.
    pub size_bytes: u64,
    /// Its mtime, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// What `info.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashInfo {
    /// The thread, of files that are rollouts.
    pub thread_id: Option<ThreadId>,
    /// Its name when it was removed.
    pub name: Option<String>,
    /// When it was removed, RFC 3339 in UTC.
    pub removed_at: String,
    /// Who removed it or why, in words.
    pub why: String,
    /// Its files, the one that counts last.
    pub files: Vec<TrashedFile>,
}

/// One item of the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrashItem {
    /// Its id: the name of its folder, which begins with the time of the removal.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What it is.
    #[serde(flatten)]
    pub info: TrashInfo,
    /// Files that are there now: fewer than `info.files` after an interrupted removal or restoration.
    pub present: usize,
}

/// Why and how something is removed.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// The thread's name.
    pub name: Option<String>,
    /// Who removes it or why, in words.
    pub why: String,
    /// Also when a process holds the thread's writer lock. It goes on writing to the file in the trash.
    pub despite_writer: bool,
}

/// The trash of a home.
#[derive(Clone, Debug)]
pub struct Trash {
    home: Home,
    folder: PathBuf,
}

impl Trash {
    /// The trash in the state folder `state_dir`. Nothing is made.
    pub fn new(home: &Home, state_dir: &Path) -> Trash {
        Trash { home: home.clone(), folder: state_dir.join(TRASH_DIR_NAME) }
    }

    /// The trash of a home whose state folder is not open: in the one given, else the one that has the index, else the
    /// home's own.
    pub fn of_home(home: &Home, given: Option<&Path>) -> Trash {
        let state_dir = match given {
            Some(given) => given.to_owned(),
            None => home.find_state_dir(None).unwrap_or_else(|| home.root().join(STATE_DIR_NAME)),
        };
        Trash::new(home, &state_dir)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves files (paths on disk below the home, as [`companions`] answers them) into a new item. All of them belong to
    /// one thread, the one that counts last: as long as it is in its place, the thread is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where none exists, [`StoreError::Busy`] while a process writes the thread,
    /// [`StoreError::Denied`] for what is no file below `sessions` or `archived_sessions`, else [`StoreError::Io`].
    pub fn put(&self, paths: &[Vec<u8>], options: &PutOptions) -> Result<TrashItem> {
        let thread_id =
            paths.iter().find_map(|path| Some(RolloutName::parse(split_path(path).1)?.thread_id()));
        let mut files = Vec::new();
        for path in paths {
            files.extend(self.look_at(path, &files)?);
        }
        if files.is_empty() {
            let what =
                paths.first().map_or_else(String::new, |path| self.home.join(path).display().to_string());
            return Err(StoreError::NotFound { what });
        }
        if let Some(thread) = thread_id.filter(|_| !options.despite_writer) {
            archive::check_no_writer(&self.home, thread)?;
        }
        let now = OffsetDateTime::now_utc();
        let format =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let removed_at = now.format(&format).unwrap_or_default();
        let why = options.why.clone();
        let info = TrashInfo { thread_id, name: options.name.clone(), removed_at, why, files };
        let (id, folder) = self.make_item(now, thread_id)?;
        hit("trash.folder_made");
        write_info(&folder, &info)?;
        sync_folder(&self.folder)?;
        hit("trash.info_written");
        for file in &info.files {
            let from = self.home.join(&decode_path(&file.path));
            match move_no_replace(&from, &folder.join(&file.stored), true) {
                // Gone meanwhile is what was wanted (spec 9.3).
                Err(StoreError::NotFound { .. }) => {}
                moved => moved?,
            }
            hit("trash.file_moved");
        }
        let present = count_present(&folder, &info);
        Ok(TrashItem { id, folder, info, present })
    }

    fn look_at(&self, path: &[u8], before: &[TrashedFile]) -> Result<Option<TrashedFile>> {
        let file = self.home.join(path);
        match archive::check_inside(&self.home, path, &ROOTS) {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            checked => checked?,
        }
        let found = match fs::symlink_metadata(&file) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            found => found.map_err(StoreError::io("look at", &file))?,
        };
        if !found.is_file() {
            return Err(StoreError::denied(&file, "it is no regular file"));
        }
        let name = encode_path(split_path(path).1);
        let taken = |stored: &str| stored == INFO_NAME || before.iter().any(|other| other.stored == stored);
        let stored = if taken(&name) { format!("{}.{name}", before.len() + 1) } else { name };
        let disk = DiskStat::of(&found);
        let path = encode_path(path);
        Ok(Some(TrashedFile { stored, path, size_bytes: disk.size_bytes, mtime_ns: disk.mtime_ns }))
    }

    /// A folder that nobody had: `<UTC time>-<last 8 digits of the thread's id>`, and a number where that is taken.
    fn make_item(&self, now: OffsetDateTime, thread: Option<ThreadId>) -> Result<(String, PathBuf)> {
        let recursive = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        recursive.map_err(StoreError::io("make the folder", &self.folder))?;
        if let Some(state_dir) = self.folder.parent() {
            sync_folder(state_dir)?;
        }
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let stem = now.format(&format).unwrap_or_default();
        let stem = format!("{stem}-{}", thread.map_or_else(|| "file".to_owned(), ThreadId::last8));
        for number in 1..=ITEMS_A_SECOND_MAX {
            let id = if number == 1 { stem.clone() } else { format!("{stem}-{number}") };
            let folder = self.folder.join(&id);
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| (id, folder.clone())).map_err(StoreError::io("make", &folder)),
            }
        }
        Err(StoreError::exists(&self.folder.join(stem), "too many items within a second; try again"))
    }

    /// The items with something in them, the oldest first. An item whose `info.json` is gone is told by its file names.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the trash is there and cannot be read.
    pub fn list(&self) -> Result<Vec<TrashItem>> {
        Ok(self.all()?.into_iter().filter(|item| item.present > 0).collect())
    }

    fn all(&self) -> Result<Vec<TrashItem>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(StoreError::io("list", &self.folder))?,
        };
        let mut items = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("list", &self.folder))?;
            let (Ok(id), true) = (entry.file_name().into_string(), entry.path().is_dir()) else { continue };
            let folder = entry.path();
            let info = match read_info(&folder) {
                Some(info) => info,
                None => info_of_names(&folder)?,
            };
            items.push(TrashItem { id, present: count_present(&folder, &info), folder, info });
        }
        items.sort_by(|one, other| (&one.info.removed_at, &one.id).cmp(&(&other.info.removed_at, &other.id)));
        Ok(items)
    }

    /// The one item that `text` means: an item's id; a thread's id or the last digits of it; its name. Of a thread with
    /// several items the one removed last.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Invalid`] names the items of several threads; [`StoreError::Io`].
    pub fn find(&self, text: &str) -> Result<TrashItem> {
        let items = self.list()?;
        let lower = text.trim().to_ascii_lowercase();
        let rules: [&dyn Fn(&TrashItem) -> bool; 4] = [
            &|item| item.id == text.trim(),
            &|item| item.info.thread_id.is_some_and(|id| id.to_string() == lower),
            &|item| item.info.name.as_deref() == Some(text),
            &|item| item.info.thread_id.is_some_and(|id| id.last8() == lower),
        ];
        for rule in rules {
            let mut meant: Vec<_> = items.iter().filter(|item| rule(item)).collect();
            let Some(last) = meant.pop() else { continue };
            if meant.iter().all(|item| item.info.thread_id == last.info.thread_id) {
                return Ok(last.clone());
            }
            let ids: Vec<_> = meant.iter().chain([&last]).map(|item| format!("\n  {}", item.id)).collect();
            let text = text.escape_debug();
            return Err(StoreError::Invalid(format!(
                "{text} means several items; give one of these:{}",
                ids.concat()
            )));
        }
        let what = format!("{} in the trash {}", text.escape_debug(), self.folder.display());
        Err(StoreError::NotFound { what })
    }

    /// Puts the files of an item back where they were, the one that counts first, or below the folder `to` (logical, in
    /// the home). What an interrupted restoration put back is left there. Answers where they are now.
    ///
    /// # Errors
    /// [`StoreError::Exists`] where a file or the id is there already: then nothing is moved. [`StoreError::NotFound`] for
    /// an item without files; [`StoreError::Denied`] for a folder outside of the two; else [`StoreError::Io`].
    pub fn restore(&self, item: &TrashItem, to: Option<&[u8]>) -> Result<Vec<PathBuf>> {
        let mut moves = Vec::new();
        for file in item.info.files.iter().rev() {
            let from = item.folder.join(&file.stored);
            let old = decode_path(&file.path);
            let target = match to {
                Some(folder) => [folder, b"/", split_path(&old).1].concat(),
                None => old,
            };
            if fs::symlink_metadata(&from).is_ok() {
                moves.push((from, target));
            }
        }
        if moves.is_empty() {
            return Err(StoreError::NotFound { what: format!("a file of the trashed item {}", item.id) });
        }
        self.check_room(item, &moves)?;
        hit("trash.restore_checked");
        let mut restored = Vec::new();
        for (from, target) in moves {
            make_folder(&self.home, split_path(&target).0, true)?;
            hit("trash.restore_folder_made");
            let to = self.home.join(&target);
            move_no_replace(&from, &to, true)?;
            hit("trash.file_restored");
            restored.push(to);
        }
        remove_item(&item.folder)?;
        Ok(restored)
    }

    fn check_room(&self, item: &TrashItem, moves: &[(PathBuf, Vec<u8>)]) -> Result<()> {
        let own: Vec<Vec<u8>> =
            item.info.files.iter().map(|file| logical(&decode_path(&file.path))).collect();
        let others = match item.info.thread_id {
            Some(thread) => files_of(&self.home, thread)?,
            None => Vec::new(),
        };
        for (at, (from, target)) in moves.iter().enumerate() {
            let file = self.home.join(target);
            if moves[..at].iter().any(|(_, other)| other == target) {
                return Err(StoreError::exists(
                    &file,
                    "the item has two files for it; restore it without --to",
                ));
            }
            match archive::check_inside(&self.home, target, &ROOTS) {
                // Its folder will be made.
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            if fs::symlink_metadata(&file).is_ok() && !super::placement::is_interrupted_move(from, &file)? {
                return Err(StoreError::exists(&file, "nothing is replaced; move it out of the way"));
            }
            let key = |path: &[u8]| RolloutName::parse(split_path(path).1).map(|name| name.key_id());
            let same_id = |other: &&Vec<u8>| {
                !own.contains(other)
                    && **other != logical(target)
                    && key(other).is_some()
                    && key(other) == key(target)
            };
            if let Some(other) = others.iter().find(same_id) {
                return Err(StoreError::exists(
                    &self.home.join(other),
                    "it has the thread id of what is restored",
                ));
            }
        }
        Ok(())
    }

    /// Destroys the items that were removed at least `older_than` ago, and the names of threads that have no file
    /// left anywhere. Answers what is gone. Empty folders of interrupted removals go as well.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was destroyed before stays so.
    pub fn destroy(&self, older_than: Duration) -> Result<Vec<TrashItem>> {
        let now = SystemTime::now();
        let mut gone = Vec::new();
        for item in self.all()? {
            // The folder's own mtime: the last time that a file came or went. A clock set back makes it young.
            let changed = fs::metadata(&item.folder).and_then(|found| found.modified());
            let since_change =
                changed.ok().and_then(|then| now.duration_since(then).ok()).unwrap_or_default();
            if item.present == 0 {
                if since_change >= LEFTOVER_AGE_MIN {
                    remove_item(&item.folder)?;
                }
                continue;
            }
            if removed_before(&item.info).unwrap_or(since_change) < older_than {
                continue;
            }
            for file in &item.info.files {
                let stored = item.folder.join(&file.stored);
                match fs::remove_file(&stored) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &stored)(error));
                    }
                    _ => hit("trash.file_destroyed"),
                }
            }
            remove_item(&item.folder)?;
            gone.push(item);
        }
        self.drop_names(&gone)?;
        Ok(gone)
    }

    /// Spec 13.3, 3: the names of what was deleted go last.
    fn drop_names(&self, gone: &[TrashItem]) -> Result<()> {
        let mut threads: HashSet<ThreadId> = gone.iter().filter_map(|item| item.info.thread_id).collect();
        for item in self.list()? {
            item.info.thread_id.map(|thread| threads.remove(&thread));
        }
        if threads.is_empty() {
            return Ok(());
        }
        archive::visit_rollouts(&self.home, &mut |_, name| {
            threads.remove(&name.thread_id());
        })?;
        let names = self.home.session_index();
        let ids = threads.iter().map(|thread| thread.uuid()).collect();
        for id in session_index::names_by_ids(&names, &ids)?.keys() {
            session_index::remove(&names, *id)?;
        }
        Ok(())
    }
}

/// The paths on disk (below the home) of what exists of the rollout `path` (logical): plain and `.zst`. With `everywhere`
/// also in the other of the two folders, which are all files of the thread by that name (spec 9.3). In the order of
/// [`Trash::put`]: archived before active, `.zst` before plain, so that what counts is last.
pub fn companions(home: &Home, path: &[u8], everywhere: bool) -> Vec<Vec<u8>> {
    let path = logical(path);
    let mut places = vec![path.clone()];
    if let Some(name) = RolloutName::parse(split_path(&path).1).filter(|_| everywhere) {
        places.extend([archived_path(&name), archive::active_path(&name)]);
        places.sort();
        places.dedup();
    }
    let mut found = Vec::new();
    for place in places {
        for encoding in [Encoding::Zstd, Encoding::Plain] {
            let on_disk = match encoding {
                Encoding::Plain => place.clone(),
                Encoding::Zstd if RolloutName::parse(split_path(&place).1).is_none() => continue,
                Encoding::Zstd => content::compressed_path(Path::new(std::ffi::OsStr::from_bytes(&place)))
                    .into_os_string()
                    .as_bytes()
                    .to_vec(),
            };
            if fs::symlink_metadata(home.join(&on_disk)).is_ok_and(|found| found.is_file()) {
                found.push(on_disk);
            }
        }
    }
    found
}

/// The path under which a file on disk is shown.
fn logical(path: &[u8]) -> Vec<u8> {
    let (folder, name) = split_path(path);
    match RolloutName::parse(name) {
        Some(parsed) if parsed.is_compressed() => [folder, b"/", parsed.plain().as_bytes()].concat(),
        _ => path.to_vec(),
    }
}

fn write_info(folder: &Path, info: &TrashInfo) -> Result<()> {
    let path = folder.join(INFO_NAME);
    let write = || {
        let mut file = File::create_new(&path)?;
        serde_json::to_writer_pretty(&mut file, info)?;
        file.write_all(b"\n")?;
        hit("trash.info_unsynced");
        file.sync_all()
    };
    write().map_err(StoreError::io("write", &path))?;
    sync_folder(folder)
}

/// None where it is missing, torn, or names a place outside of the item.
fn read_info(folder: &Path) -> Option<TrashInfo> {
    use std::io::Read;
    let mut text = String::new();
    File::open(folder.join(INFO_NAME)).ok()?.take(INFO_BYTES_MAX).read_to_string(&mut text).ok()?;
    let info: TrashInfo = serde_json::from_str(&text).ok()?;
    let is_name = |stored: &str| {
        !stored.is_empty() && !stored.contains('/') && !matches!(stored, "." | ".." | INFO_NAME)
    };
    info.files.iter().all(|file| is_name(&file.stored)).then_some(info)
}

/// What the names and attributes of its files tell of an item without `info.json`.
fn info_of_names(folder: &Path) -> Result<TrashInfo> {
    let mut info = TrashInfo {
        thread_id: None,
        name: None,
        removed_at: String::new(),
        why: WHY_UNKNOWN.to_owned(),
        files: Vec::new(),
    };
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))?.flatten() {
        let (Ok(stored), Ok(found)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
        if stored == INFO_NAME || is_ours(stored.as_bytes()) || !found.is_file() {
            continue;
        }
        let disk = DiskStat::of(&found);
        let name = RolloutName::parse(stored.as_bytes());
        let path = match &name {
            Some(name) => {
                let plain = String::from_utf8_lossy(&archive::active_path(name)).into_owned();
                if name.is_compressed() { plain + ".zst" } else { plain }
            }
            None => format!("{}/{stored}", ROOTS[0]),
        };
        info.thread_id = info.thread_id.or(name.map(|name| name.thread_id()));
        let (size_bytes, mtime_ns) = (disk.size_bytes, disk.mtime_ns);
        info.files.push(TrashedFile { stored, path, size_bytes, mtime_ns });
    }
    // The plain file after its `.zst`.
    info.files.sort_by(|one, other| other.stored.cmp(&one.stored));
    Ok(info)
}

fn count_present(folder: &Path, info: &TrashInfo) -> usize {
    info.files.iter().filter(|file| fs::symlink_metadata(folder.join(&file.stored)).is_ok()).count()
}

fn removed_before(info: &TrashInfo) -> Option<Duration> {
    let then =
        OffsetDateTime::parse(&info.removed_at, &time::format_description::well_known::Rfc3339).ok()?;
    // In the future: a clock that was set back. It is young then.
    Some(Duration::try_from(OffsetDateTime::now_utc() - then).unwrap_or_default())
}

/// Removes an item that has no files any more. Anything that is in it for another reason stays, and the item with it.
fn remove_item(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))?.flatten() {
        if is_ours(entry.file_name().as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let others = fs::read_dir(folder).map_err(StoreError::io("list", folder))?.flatten();
    if others.into_iter().any(|entry| entry.file_name() != INFO_NAME) {
        return Ok(());
    }
    let info = folder.join(INFO_NAME);
    match fs::remove_file(&info) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &info)(error));
        }
        _ => hit("trash.info_removed"),
    }
    fs::remove_dir(folder).map_err(StoreError::io("remove", folder))?;
    folder.parent().map_or(Ok(()), sync_folder)
}

/// A path as text: `%` and bytes that are not UTF-8 become `%XX`.
fn encode_path(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// The path that was encoded; a `%` without two digits behind it stands for itself.
fn decode_path(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                path.push(byte);
                at += 3;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::super::failpoint::crash;
    use super::super::placement::tests::two_disks;
    use super::*;

    const ID: &str = "0198c0de-0000-7000-8000-000000000001";
    const ACTIVE: &str =
        "sessions/2026/02/08/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
    const ARCHIVED: &str =
        "archived_sessions/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";

    struct Made {
        dir: TempDir,
        home: Home,
        trash: Trash,
    }

    impl Made {
        fn with(files: &[&str]) -> Made {
            let dir = TempDir::new().unwrap();
            let made_home = Home::open(dir.path()).unwrap();
            let trash = Trash::of_home(&made_home, None);
            let made = Made { dir, home: made_home, trash };
            fs::create_dir(made.dir.path().join("sessions")).unwrap();
            files.iter().for_each(|path| made.write(path));
            made
        }

        fn write(&self, path: &str) {
            let file = self.dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, format!("content of {path}")).unwrap();
            let then = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 987_654_321);
            File::options().append(true).open(file).unwrap().set_modified(then).unwrap();
        }

        fn put(&self, path: &str) -> Result<TrashItem> {
            put(&self.home, &self.trash, path)
        }

        /// Files below the roots, with what a move keeps.
        fn files(&self) -> Vec<(String, u64, i64, u32)> {
            let mut dirs: Vec<_> = ROOTS.map(|root| self.dir.path().join(root)).into();
            let mut found = Vec::new();
            while let Some(dir) = dirs.pop() {
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    let stat = entry.metadata().unwrap();
                    if stat.is_dir() {
                        dirs.push(entry.path());
                        continue;
                    }
                    if is_ours(entry.file_name().as_bytes()) {
                        continue;
                    }
                    let path =
                        entry.path().strip_prefix(self.dir.path()).unwrap().to_str().unwrap().to_owned();
                    assert_eq!(fs::read_to_string(entry.path()).unwrap(), format!("content of {path}"));
                    found.push((path, stat.len(), stat.mtime_nsec(), stat.mode()));
                }
            }
            found.sort();
            found
        }

        fn items(&self) -> Vec<TrashItem> {
            self.trash.list().unwrap()
        }
    }

    fn put(home: &Home, trash: &Trash, path: &str) -> Result<TrashItem> {
        let options = PutOptions {
            name: Some("planb".to_owned()),
            why: "rm in a test".to_owned(),
            ..PutOptions::default()
        };
        trash.put(&companions(home, path.as_bytes(), true), &options)
    }

    /// Spec 11.8, row 4, but that it can be undone.
    #[test]
    fn all_four_files_of_a_thread_are_one_item_and_come_back_as_they_were() {
        let zst = [ACTIVE, ARCHIVED].map(|path| format!("{path}.zst"));
        let all = [ACTIVE, ARCHIVED, &zst[0], &zst[1]];
        for count in 1..=4 {
            let made = Made::with(&all[..count]);
            let before = made.files();
            let item = made.put(ACTIVE).unwrap();
            assert_eq!((made.files(), item.present, item.info.files.len()), (vec![], count, count));
            assert_eq!(item.info.files.last().unwrap().path, ACTIVE, "what counts is last");
            assert_eq!(item.info.files[0].mtime_ns, 1_700_000_000_987_654_321);
            assert_eq!(made.items(), std::slice::from_ref(&item));
            assert_eq!(fs::metadata(&item.folder).unwrap().mode() & 0o777, 0o700);
            let restored = made.trash.restore(&item, None).unwrap();
            assert_eq!((restored.len(), made.files()), (count, before));
            assert!(made.items().is_empty() && !item.folder.exists());
        }
        let refused = Made::with(&[]).put(ACTIVE);
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    }

    #[test]
    fn an_item_says_what_it_is() {
        let made = Made::with(&[ACTIVE]);
        let item = made.put(ACTIVE).unwrap();
        assert!(item.id.ends_with("Z-00000001"), "{}", item.id);
        let info: serde_json::Value =
            serde_json::from_slice(&fs::read(item.folder.join(INFO_NAME)).unwrap()).unwrap();
        assert_eq!(
            (&info["thread_id"], &info["name"], &info["why"]),
            (&ID.into(), &"planb".into(), &"rm in a test".into())
        );
        assert_eq!(info["files"][0]["size_bytes"], format!("content of {ACTIVE}").len());
        assert!(info["removed_at"].as_str().unwrap().ends_with('Z'));
        for text in [item.id.as_str(), ID, "planb", "00000001"] {
            assert_eq!(made.trash.find(text).unwrap(), item, "{text}");
        }
        assert!(matches!(made.trash.find("other"), Err(StoreError::NotFound { .. })));
        // A second item of the same thread within the second; the last is meant.
        made.write(ACTIVE);
        let second = made.put(ACTIVE).unwrap();
        assert_ne!(second.id, item.id);
        assert_eq!(made.trash.find(ID).unwrap().id, second.id);
    }

    #[test]
    fn only_files_of_the_two_roots_are_taken() {
        let made = Made::with(&[ACTIVE]);
        fs::write(made.dir.path().join("auth.json"), "secret").unwrap();
        symlink("../auth.json", made.dir.path().join("sessions/link")).unwrap();
        symlink("..", made.dir.path().join("sessions/up")).unwrap();
        let options = PutOptions::default();
        for path in [
            "auth.json",
            "sessions/../auth.json",
            "sessions",
            "sessions/",
            "sessionsx/a",
            "sessions/link",
            "sessions/up/auth.json",
            "sessions/2026",
        ] {
            let refused = made.trash.put(&[path.as_bytes().to_vec()], &options);
            assert!(matches!(refused, Err(StoreError::Denied { .. })), "{path} {refused:?}");
        }
        assert!(made.items().is_empty());
    }

    #[test]
    fn files_that_are_no_rollouts_and_odd_names_come_back_too() {
        use std::os::unix::ffi::OsStringExt;
        let made = Made::with(&[]);
        for name in [
            b"sessions/info.json".to_vec(),
            b"sessions/50%41 \xff.txt".to_vec(),
            b"sessions/a/deep.jsonl".to_vec(),
        ] {
            let file = made.dir.path().join(std::ffi::OsString::from_vec(name.clone()));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "x").unwrap();
            let item = made.trash.put(&companions(&made.home, &name, true), &PutOptions::default()).unwrap();
            assert!(!file.exists() && item.present == 1);
            made.trash.restore(&item, None).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"x");
        }
        assert_eq!(decode_path("a%4%zz%"), b"a%4%zz%");
    }

    #[test]
    fn a_restored_thread_replaces_nothing_and_its_id_stays_the_only_one() {
        let made = Made::with(&[ACTIVE]);
        let item = made.put(ACTIVE).unwrap();
        let moved = ACTIVE.replace("/08/", "/09/");
        for (in_the_way, restores) in
            [(ACTIVE, false), (ARCHIVED, false), (moved.as_str(), false), ("sessions/other", true)]
        {
            made.write(in_the_way);
            let restored = made.trash.restore(&item, None);
            assert_eq!(restored.is_ok(), restores, "{in_the_way}: {restored:?}");
            if !restores {
                assert!(matches!(restored, Err(StoreError::Exists { .. })));
                assert_eq!((made.files().len(), made.items().len()), (1, 1));
            }
            fs::remove_file(made.dir.path().join(in_the_way)).unwrap();
        }
    }

    #[test]
    fn it_is_restored_to_a_folder_that_was_given() {
        let made = Made::with(&[ACTIVE]);
        let item = made.put(ACTIVE).unwrap();
        for bad in ["", "log", "sessions/..", "sessions//x", ".."] {
            let refused = made.trash.restore(&item, Some(bad.as_bytes()));
            assert!(matches!(refused, Err(StoreError::Denied { .. })), "{bad} {refused:?}");
        }
        let restored = made.trash.restore(&item, Some(b"archived_sessions")).unwrap();
        assert_eq!(restored, [made.home.root().join(ARCHIVED)]);
    }

    #[test]
    fn a_thread_that_is_written_stays_unless_asked() {
        use std::os::fd::AsRawFd;
        let made = Made::with(&[ACTIVE]);
        let locks = made.dir.path().join("thread-writer-locks");
        fs::create_dir(&locks).unwrap();
        let held = File::create(locks.join(format!("{ID}.lock"))).unwrap();
        // SAFETY: flock on a descriptor that `held` owns.
        assert_eq!(unsafe { libc::flock(held.as_raw_fd(), libc::LOCK_EX) }, 0);
        assert!(matches!(made.put(ACTIVE), Err(StoreError::Busy { .. })));
        assert!(made.items().is_empty() && made.files().len() == 1);
        let options = PutOptions { despite_writer: true, ..PutOptions::default() };
        made.trash.put(&[ACTIVE.into()], &options).unwrap();
    }

    #[test]
    fn only_what_is_old_is_destroyed_and_its_name_with_it() {
        let second = ACTIVE.replace("000001", "000002");
        let made = Made::with(&[ACTIVE, &second]);
        let names = made.home.session_index();
        for (id, name) in [(ID, "one"), (&ID.replace("000001", "000002"), "two")] {
            session_index::rename(&names, id.parse().unwrap(), name).unwrap();
        }
        let (one, two) = (made.put(ACTIVE).unwrap(), made.put(&second).unwrap());
        assert!(made.trash.destroy(Duration::from_secs(3600)).unwrap().is_empty());
        assert_eq!(made.items().len(), 2);
        // The first was removed ten days ago.
        let mut info = one.info.clone();
        let then = OffsetDateTime::now_utc() - Duration::from_secs(10 * 86_400);
        info.removed_at = then.format(&time::format_description::well_known::Rfc3339).unwrap();
        fs::write(one.folder.join(INFO_NAME), serde_json::to_vec(&info).unwrap()).unwrap();
        let gone = made.trash.destroy(Duration::from_secs(9 * 86_400)).unwrap();
        assert_eq!(gone.iter().map(|item| &item.id).collect::<Vec<_>>(), [&one.id]);
        assert_eq!(made.items(), [two]);
        assert!(!one.folder.exists());
        let text = fs::read_to_string(&names).unwrap();
        assert!(!text.contains("one") && text.contains("two"), "{text}");
        assert_eq!(made.trash.destroy(Duration::ZERO).unwrap().len(), 1);
        assert_eq!(fs::read_to_string(&names).unwrap(), "");
    }

    #[test]
    fn a_name_stays_while_the_thread_has_a_file() {
        let made = Made::with(&[ACTIVE]);
        session_index::rename(&made.home.session_index(), ID.parse().unwrap(), "one").unwrap();
        made.put(ACTIVE).unwrap();
        made.write(ACTIVE);
        made.trash.destroy(Duration::ZERO).unwrap();
        assert!(fs::read_to_string(made.home.session_index()).unwrap().contains("one"));
    }

    #[test]
    fn leftovers_are_understood() {
        let zst = format!("{ACTIVE}.zst");
        let made = Made::with(&[ACTIVE, &zst]);
        let before = made.files();
        assert!(
            made.items().is_empty() && made.trash.destroy(Duration::ZERO).unwrap().is_empty(),
            "no trash yet"
        );
        let item = made.put(ACTIVE).unwrap();
        for damage in ["", "{", "{\"files\":[{\"stored\":\"../../x\"}]}"] {
            fs::write(item.folder.join(INFO_NAME), damage).unwrap();
            let found = made.items();
            assert_eq!((found.len(), found[0].present), (1, 2), "{damage}");
            assert_eq!(found[0].info.why, WHY_UNKNOWN);
        }
        fs::remove_file(item.folder.join(INFO_NAME)).unwrap();
        let found = made.trash.find(ID).unwrap();
        made.trash.restore(&found, None).unwrap();
        assert_eq!(made.files(), before);
        // An item without files is none, and goes once it is surely no removal that is under way.
        let (_, folder) = made.trash.make_item(OffsetDateTime::now_utc(), None).unwrap();
        write_info(&folder, &item.info).unwrap();
        fs::write(made.trash.folder().join("stray"), "x").unwrap();
        assert!(made.items().is_empty() && made.trash.destroy(Duration::ZERO).unwrap().is_empty());
        assert!(folder.exists());
        let then = SystemTime::now() - 2 * LEFTOVER_AGE_MIN;
        File::open(&folder).unwrap().set_modified(then).unwrap();
        made.trash.destroy(Duration::ZERO).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn the_child_of_the_crash_tests() {
        let Some((home, what)) = crash::asked() else { return };
        let state = fs::read_link(home.join("state")).ok();
        let home = Home::open(&home).unwrap();
        let trash = Trash::of_home(&home, state.as_deref());
        match what.as_str() {
            "put" => drop(put(&home, &trash, ACTIVE).unwrap()),
            "restore" => drop(trash.restore(&trash.find(ID).unwrap(), None).unwrap()),
            _ => drop(trash.destroy(Duration::ZERO).unwrap()),
        }
    }

    const TEST: &str = "store::trash::tests::the_child_of_the_crash_tests";

    fn whole_places(made: &Made) -> (usize, usize) {
        (made.files().len(), made.items().iter().map(|item| item.present).sum())
    }

    #[test]
    fn a_crash_while_putting_leaves_the_thread_in_one_place_and_the_next_try_succeeds() {
        for point in [
            "trash.folder_made",
            "trash.info_unsynced",
            "trash.info_written",
            "place.moved",
            "trash.file_moved",
        ] {
            let made = Made::with(&[ACTIVE]);
            let before = made.files();
            assert!(crash::child_aborts(TEST, made.dir.path(), "put", point), "{point}");
            let (in_place, in_trash) = whole_places(&made);
            assert_eq!(in_place + in_trash, 1, "{point}");
            if in_place == 1 {
                made.put(ACTIVE).unwrap();
            }
            assert_eq!(whole_places(&made), (0, 1), "{point}");
            made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
            assert_eq!(made.files(), before, "{point}");
        }
    }

    #[test]
    fn a_crash_while_restoring_leaves_the_thread_in_one_place_and_the_next_try_succeeds() {
        let points = [
            "trash.restore_checked",
            "trash.restore_folder_made",
            "place.moved",
            "trash.file_restored",
            "trash.info_removed",
        ];
        for point in points {
            let made = Made::with(&[ACTIVE]);
            let before = made.files();
            made.put(ACTIVE).unwrap();
            assert!(crash::child_aborts(TEST, made.dir.path(), "restore", point), "{point}");
            let (in_place, in_trash) = whole_places(&made);
            assert_eq!(in_place + in_trash, 1, "{point}");
            if in_trash == 1 {
                made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
            }
            assert_eq!((made.files(), made.items()), (before, vec![]), "{point}");
        }
    }

    #[test]
    fn a_crash_between_the_files_of_a_thread_keeps_each_in_one_place() {
        let zst = format!("{ARCHIVED}.zst");
        for pass in 1..=3 {
            let made = Made::with(&[ACTIVE, ARCHIVED, &zst]);
            let before = made.files();
            let point = format!("trash.file_moved:{pass}");
            assert!(crash::child_aborts(TEST, made.dir.path(), "put", &point));
            assert_eq!(whole_places(&made), (3 - pass, pass));
            assert_eq!(made.dir.path().join(ACTIVE).exists(), pass < 3, "what counts goes last");
            if pass < 3 {
                made.put(ACTIVE).unwrap();
            }
            assert_eq!(whole_places(&made), (0, 3));
            // The item with what counts first, then the other.
            while let Some(item) = made.items().pop() {
                let restored = made.trash.restore(&item, None);
                assert!(restored.is_ok(), "{pass} {restored:?}");
            }
            assert_eq!(made.files(), before);

            made.put(ACTIVE).unwrap();
            let point = format!("trash.file_restored:{pass}");
            assert!(crash::child_aborts(TEST, made.dir.path(), "restore", &point));
            assert_eq!(whole_places(&made), (pass, 3 - pass));
            assert!(made.dir.path().join(ACTIVE).exists(), "what counts comes first");
            if pass < 3 {
                made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
            }
            assert_eq!((made.files(), made.items()), (before, vec![]));
        }
    }

    #[test]
    fn a_crash_while_destroying_is_finished_by_the_next() {
        for point in ["trash.file_destroyed", "trash.info_removed"] {
            let made = Made::with(&[ACTIVE]);
            made.put(ACTIVE).unwrap();
            assert!(crash::child_aborts(TEST, made.dir.path(), "destroy", point), "{point}");
            assert_eq!(whole_places(&made), (0, 0), "{point}");
            made.write(ACTIVE);
            made.put(ACTIVE).unwrap();
            assert_eq!(made.trash.destroy(Duration::ZERO).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_trash_on_another_disk_loses_nothing_at_any_point() {
        let there = match two_disks() {
            Ok((_, there)) => there,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        for (what, point) in [
            ("put", "place.copied"),
            ("put", "place.copy_placed"),
            ("put", "place.moved"),
            ("restore", "place.copied"),
            ("restore", "place.copy_placed"),
            ("restore", "place.moved"),
        ] {
            let mut made = Made::with(&[ACTIVE]);
            let before = made.files();
            let state = TempDir::new_in(there.path()).unwrap();
            fs::set_permissions(state.path(), fs::Permissions::from_mode(0o700)).unwrap();
            symlink(state.path(), made.dir.path().join("state")).unwrap();
            made.trash = Trash::of_home(&made.home, Some(state.path()));
            if what == "restore" {
                made.put(ACTIVE).unwrap();
            }
            assert!(crash::child_aborts(TEST, made.dir.path(), what, point), "{what} {point}");
            let (in_place, in_trash) = whole_places(&made);
            assert!(in_place + in_trash >= 1, "{what} {point}");
            if what == "put" && in_place == 1 {
                made.put(ACTIVE).unwrap();
            }
            if what == "put" {
                assert_eq!(made.files(), []);
            }
            if made.files().is_empty() || in_trash == 1 {
                made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
            }
            assert_eq!(made.files(), before, "{what} {point}");
        }
    }
}
