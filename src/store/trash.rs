//! Where does a thread go that is removed, and how does it come back?
//!
//! `<state>/trash/<item>/` holds the files as they were and `info.json`, which says where each belongs. `info.json` is
//! written and synced before the first file comes, and goes after the last: so an item without files is the rest of
//! a removal that did not begin or of a restoration that is done. Names stay in `session_index.jsonl` until the item is
//! destroyed, so that a restored thread has its name. Nothing is destroyed unless [`Trash::destroy`] is told to, and
//! what another thread goes on from only with force. A pending thread comes from the spool and is restored to the home:
//! whoever takes it back wants to see it. Depends on `placement`, `archive`, `session_index` and `home`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use super::archive::{self, archived_path, files_of, visit_rollouts};
use super::areas::{Area, Areas};
use super::content::{self, Encoding};
use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::home::{Home, SESSION_INDEX_NAME, STATE_DIR_NAME, give_folder_to_owner_of};
use super::placement::{is_ours, make_folder, move_no_replace, sync_folder};
use super::rollout::{RolloutName, ThreadId};
use super::row::DiskStat;
use super::scan::ROOTS;
use super::session_index;
use super::tree::split_path;

mod bases;
mod info;
#[cfg(test)]
mod tests;

pub use info::{INFO_NAME, TrashInfo, TrashedFile};
use info::{count_present, decode_path, encode_path, info_of_names, read_info, removed_before, write_info};

/// The folder of the trash in a state folder.
pub const TRASH_DIR_NAME: &str = "trash";
/// Items of one thread within a second.
const ITEMS_A_SECOND_MAX: u32 = 1000;
/// An item without files and younger than this may be one that is just being filled.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(3600);
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

impl TrashItem {
    /// How long ago it was removed; None where that is not known.
    pub fn removed_before(&self) -> Option<Duration> {
        removed_before(&self.info)
    }
}

/// Why and how something is removed.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Where the files lie: in the home, or in the spool.
    pub area: Area,
    /// The thread's name.
    pub name: Option<String>,
    /// Who removes it or why, in words.
    pub why: String,
    /// Also when a process holds the thread's writer lock. It goes on writing to the file in the trash.
    pub despite_writer: bool,
}

/// Where the files of an item are after its restoration, or why it stays in the trash.
pub type Restored = Result<Vec<PathBuf>>;

/// A name that was kept before it is dropped.
#[derive(Debug)]
pub struct KeptName {
    file: PathBuf,
    before_bytes: u64,
    after_bytes: u64,
}

impl KeptName {
    /// It was not dropped: its line goes again, unless another came after it.
    pub fn take_back(self) {
        let cut = || {
            let file = fs::OpenOptions::new().write(true).open(&self.file)?;
            if file.metadata()?.len() != self.after_bytes {
                return Ok(());
            }
            if self.before_bytes == 0 { fs::remove_file(&self.file) } else { file.set_len(self.before_bytes) }
        };
        if let Err(error) = cut() {
            log::debug!("{}: {error}; it has a name that was not dropped", self.file.display());
        }
    }
}

/// The trash of a home.
#[derive(Clone, Debug)]
pub struct Trash {
    home: Home,
    areas: Areas,
    folder: PathBuf,
}

/// What [`Trash::destroy`] did.
#[derive(Clone, Debug, Default)]
pub struct Destroyed {
    /// Items that are gone.
    pub gone: Vec<TrashItem>,
    /// Items that stay because the history of another rollout lies in them, with what that rollout is.
    pub needed: Vec<(TrashItem, String)>,
}

impl Trash {
    /// The trash in the state folder `state_dir`. Nothing is made.
    pub fn new(home: &Home, state_dir: &Path) -> Trash {
        let areas = Areas::new(home, state_dir);
        Trash { home: home.clone(), areas, folder: state_dir.join(TRASH_DIR_NAME) }
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

    /// Moves files (paths on disk below the home or the spool, as [`companions`] answers them) into a new item. All of them belong to
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
            files.extend(self.look_at(options.area, path, &files)?);
        }
        if files.is_empty() {
            let what = paths
                .first()
                .map_or_else(String::new, |path| self.areas.join(options.area, path).display().to_string());
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
        if let Err(error) = self.fill_item(options.area, &folder, &info) {
            self.empty_item(options.area, &folder, &info);
            return Err(error);
        }
        let present = count_present(&folder, &info);
        Ok(TrashItem { id, folder, info, present })
    }

    fn fill_item(&self, area: Area, folder: &Path, info: &TrashInfo) -> Result<()> {
        write_info(&self.home, folder, info)?;
        sync_folder(&self.folder)?;
        hit("trash.info_written");
        for file in &info.files {
            let from = self.areas.join(area, &decode_path(&file.path));
            match move_no_replace(&from, &folder.join(&file.stored), true) {
                // Gone meanwhile is what was wanted (spec 9.3).
                Err(StoreError::NotFound { .. }) => {}
                moved => moved?,
            }
            hit("trash.file_moved");
        }
        Ok(())
    }

    /// Undoes a removal that was refused half-way, the file that counts first. What cannot go back stays an item.
    fn empty_item(&self, area: Area, folder: &Path, info: &TrashInfo) {
        for file in info.files.iter().rev() {
            let (stored, from) = (folder.join(&file.stored), self.areas.join(area, &decode_path(&file.path)));
            if fs::symlink_metadata(&stored).is_err() {
                continue;
            }
            match move_no_replace(&stored, &from, false) {
                Ok(()) => {}
                Err(error) => {
                    log::error!("{error}; it is in the trash: rolloutfs trash restore brings it back")
                }
            }
        }
        if let Err(error) = remove_item(folder) {
            log::warn!("{error}; an empty item of the trash is left, and trash empty removes it");
        }
    }

    fn look_at(&self, area: Area, path: &[u8], before: &[TrashedFile]) -> Result<Option<TrashedFile>> {
        let file = self.areas.join(area, path);
        match archive::check_inside(self.areas.root(area), path, &ROOTS) {
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
        self.home.make_private_folder(&self.folder)?;
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
                made => {
                    made.map_err(StoreError::io("make", &folder))?;
                    give_folder_to_owner_of(self.home.root(), &folder);
                    return Ok((id, folder));
                }
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

    /// Keeps a name that is about to be dropped, as a line that can be appended to the names file again.
    ///
    /// # Errors
    /// As [`session_index::rename`].
    pub fn keep_name(&self, thread: ThreadId, name: &str) -> Result<KeptName> {
        self.home.make_private_folder(&self.folder)?;
        let file = self.folder.join(SESSION_INDEX_NAME);
        let length = || fs::metadata(&file).map_or(0, |found| found.len());
        let before_bytes = length();
        session_index::rename(&file, thread.uuid(), name)?;
        Ok(KeptName { before_bytes, after_bytes: length(), file })
    }

    /// Puts the files of an item back where they were, the one that counts first, or below the folder `to` (logical, in
    /// the home). What an interrupted restoration put back is left there. Answers where they are now.
    ///
    /// # Errors
    /// [`StoreError::Exists`] where a file or the id is there already: then nothing is moved. [`StoreError::NotFound`] for
    /// an item without files; [`StoreError::Denied`] for a folder outside of the two; else [`StoreError::Io`].
    pub fn restore(&self, item: &TrashItem, to: Option<&[u8]>) -> Restored {
        let others = match item.info.thread_id {
            Some(thread) => files_of(&self.home, thread)?,
            None => Vec::new(),
        };
        self.restore_beside(item, to, &others)
    }

    /// Restores many items, those that were removed last first, and shows `done` the outcome of each. The home is
    /// walked once for all of them.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the home cannot be read, and what `done` answers.
    pub fn restore_all(
        &self,
        items: &[TrashItem],
        to: Option<&[u8]>,
        done: &mut dyn FnMut(&TrashItem, Restored) -> Result<()>,
    ) -> Result<()> {
        let wanted: HashSet<ThreadId> = items.iter().filter_map(|item| item.info.thread_id).collect();
        let mut others: HashMap<ThreadId, Vec<Vec<u8>>> = HashMap::new();
        visit_rollouts(&self.home, &mut |path, name| {
            if wanted.contains(&name.thread_id()) {
                others.entry(name.thread_id()).or_default().push(path);
            }
        })?;
        let mut items: Vec<_> = items.iter().collect();
        items.sort_by(|one, other| (&other.info.removed_at, &other.id).cmp(&(&one.info.removed_at, &one.id)));
        for item in items {
            let known = item.info.thread_id.and_then(|thread| others.get(&thread));
            let restored = self.restore_beside(item, to, known.map_or(&[], Vec::as_slice));
            if let (Some(thread), Ok(files)) = (item.info.thread_id, &restored) {
                let below = files.iter().filter_map(|file| file.strip_prefix(self.home.root()).ok());
                let paths = below.map(|path| logical(path.as_os_str().as_bytes()));
                others.entry(thread).or_default().extend(paths);
            }
            done(item, restored)?;
        }
        Ok(())
    }

    /// `others`: the logical paths of the thread's files in the home.
    fn restore_beside(&self, item: &TrashItem, to: Option<&[u8]>, others: &[Vec<u8>]) -> Restored {
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
        self.check_room(item, &moves, others)?;
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

    fn check_room(&self, item: &TrashItem, moves: &[(PathBuf, Vec<u8>)], others: &[Vec<u8>]) -> Result<()> {
        let own: Vec<Vec<u8>> =
            item.info.files.iter().map(|file| logical(&decode_path(&file.path))).collect();
        for (at, (from, target)) in moves.iter().enumerate() {
            let file = self.home.join(target);
            if moves[..at].iter().any(|(_, other)| other == target) {
                return Err(StoreError::exists(
                    &file,
                    "the item has two files for it; restore it without --to",
                ));
            }
            match archive::check_inside(self.home.root(), target, &ROOTS) {
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
    /// left anywhere; with everything also the names that were dropped. An item in which the history of another rollout lies (spec 9.3) stays, but with `force`. Empty
    /// folders of interrupted removals go as well.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was destroyed before stays so.
    pub fn destroy(&self, older_than: Duration, force: bool) -> Result<Destroyed> {
        let now = SystemTime::now();
        let (mut doomed, mut staying) = (Vec::new(), Vec::new());
        for item in self.all()? {
            // The folder's own mtime: the last time that a file came or went. A clock set back makes it young.
            let changed = fs::metadata(&item.folder).and_then(|found| found.modified());
            let since_change =
                changed.ok().and_then(|then| now.duration_since(then).ok()).unwrap_or_default();
            if item.present == 0 {
                if since_change >= LEFTOVER_AGE_MIN {
                    remove_item(&item.folder)?;
                }
            } else if removed_before(&item.info).unwrap_or(since_change) < older_than {
                staying.push(item);
            } else {
                doomed.push(item);
            }
        }
        let needed = if force { Vec::new() } else { bases::take_needed(&self.home, &mut doomed, staying)? };
        for item in &doomed {
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
        }
        self.drop_names(&doomed)?;
        if older_than.is_zero() && needed.is_empty() {
            let names = self.folder.join(SESSION_INDEX_NAME);
            match fs::remove_file(&names) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &names)(error));
                }
                _ => {}
            }
        }
        Ok(Destroyed { gone: doomed, needed })
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
        visit_rollouts(&self.home, &mut |_, name| {
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
