//! How does a thread get into `archived_sessions` and back (spec 9.1, 9.2)?
//!
//! A move of one file, by its logical path; what is in the archive keeps its name, size, mtime and number on disk. Where
//! the plain file and its `.zst` both exist, whichever order is taken keeps the plain one, which is the truth, in
//! `sessions` as long as they are apart: Codex looks there first, and would go on with an outdated `.zst`.
//! Depends on `placement`, `content`, `rollout` and `scan`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::content::{self, Encoding, Located};
use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::home::Home;
use super::placement::{self, is_interrupted_move, make_folder, move_no_replace, sync_folder};
use super::rollout::{RolloutName, ThreadId};
use super::scan::{self, ROOTS};
use super::tree::split_path;

/// The folder of the locks that Codex holds while it writes threads (spec 1.3).
const WRITER_LOCKS: &str = "thread-writer-locks";
/// How often a file that is being compressed or decompressed meanwhile is looked for again.
const SWAP_ATTEMPTS_MAX: u32 = 3;

/// How a thread is moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct MoveOptions<'a> {
    /// Logical paths of the files of this thread, where the caller has them (from the index). None: the names of all
    /// files are looked at.
    pub known: Option<&'a [Vec<u8>]>,
    /// Also when a process holds the thread's writer lock.
    pub despite_writer: bool,
    /// Set the mtime to now afterwards: `unarchive` by command does, a rename does not.
    pub touch: bool,
    /// Survive a power cut.
    pub durable: bool,
}

/// Where a file is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its logical path below the home.
    pub path: Vec<u8>,
    /// The file on disk: the plain one where both exist.
    pub file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Archive,
    Unarchive,
}

impl Direction {
    /// The roots it moves from and to.
    fn roots(self) -> (&'static str, &'static str) {
        match self {
            Direction::Archive => (ROOTS[0], ROOTS[1]),
            Direction::Unarchive => (ROOTS[1], ROOTS[0]),
        }
    }

    /// The order of the halves: the plain one is in `sessions` while they are apart.
    fn order(self) -> [Encoding; 2] {
        match self {
            Direction::Archive => [Encoding::Zstd, Encoding::Plain],
            Direction::Unarchive => [Encoding::Plain, Encoding::Zstd],
        }
    }
}

/// The logical path of a rollout of this name in the archive.
pub fn archived_path(name: &RolloutName) -> Vec<u8> {
    format!("{}/{}", ROOTS[1], name.plain()).into_bytes()
}

/// The logical path of a rollout of this name when it is active: the date folders are those of its name.
pub fn active_path(name: &RolloutName) -> Vec<u8> {
    let (year, month, day) = name.date_parts();
    format!("{}/{year}/{month}/{day}/{}", ROOTS[0], name.plain()).into_bytes()
}

/// Where the rollout of this name at the logical path `path` is once it was archived, or taken back.
pub fn other_path(name: &RolloutName, path: &[u8]) -> Vec<u8> {
    if path.starts_with(ROOTS[1].as_bytes()) { active_path(name) } else { archived_path(name) }
}

/// Moves the rollout `path` (logical, below `sessions`) into the archive.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Denied`] for a path outside of `sessions`, also by links, and for a name that is
/// no rollout's; [`StoreError::Exists`] where the archive has the name or the id already; [`StoreError::Busy`] while a
/// process writes the thread; else [`StoreError::Io`].
pub fn archive(home: &Home, path: &[u8], options: &MoveOptions<'_>) -> Result<Moved> {
    relocate(home, path, Direction::Archive, options)
}

/// Moves the rollout `path` (logical, below `archived_sessions`) to the date folders of its name.
///
/// # Errors
/// As [`archive`].
pub fn unarchive(home: &Home, path: &[u8], options: &MoveOptions<'_>) -> Result<Moved> {
    relocate(home, path, Direction::Unarchive, options)
}

/// Logical paths of all files of a thread, the current one last (spec 9.6): an active file before an archived one, then the
/// latest stamp, then the highest rollout id.
///
/// # Errors
/// [`StoreError::Io`] where a root is there and cannot be read; folders deeper down are passed over.
pub fn files_of(home: &Home, thread: ThreadId) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    visit_rollouts(home, &mut |path, name| {
        if name.thread_id() == thread {
            found.push((path, name));
        }
    })?;
    found.sort_by_key(|(path, name)| {
        let is_active = path.starts_with(b"sessions/");
        (is_active, name.stamp_seconds(), name.rollout_id(), path.clone())
    });
    Ok(found.into_iter().map(|(path, _)| path).collect())
}

/// Shows `visit` the logical path and the name of every rollout of the home.
pub(super) fn visit_rollouts(home: &Home, visit: &mut dyn FnMut(Vec<u8>, RolloutName)) -> Result<()> {
    let mut dirs: Vec<_> = ROOTS.iter().map(|root| root.as_bytes().to_vec()).collect();
    while let Some(dir) = dirs.pop() {
        let listing = match scan::list(&home.areas(), &dir) {
            Ok(Some(listing)) => listing,
            Ok(None) => continue,
            // Not an empty home: one that cannot be looked at.
            Err(error) if !dir.contains(&b'/') => return Err(error),
            Err(error) => {
                log::warn!("{error}; what is in it is not looked at");
                continue;
            }
        };
        if scan::depth(&dir) < scan::DEPTH_MAX {
            dirs.extend(listing.dirs.iter().map(|name| scan::join(&dir, name)));
        }
        for name in listing.files.keys() {
            if let Some(parsed) = RolloutName::parse(name) {
                visit(scan::join(&dir, name), parsed);
            }
        }
    }
    Ok(())
}

/// Refuses while another process holds the thread's writer lock. The lock is tried shared and given back at once.
///
/// # Errors
/// [`StoreError::Busy`]. A lock that cannot be looked at is no lock.
pub fn check_no_writer(home: &Home, thread: ThreadId) -> Result<()> {
    let path = home.root().join(WRITER_LOCKS).join(format!("{thread}.lock"));
    let Ok(lock) = File::open(&path) else { return Ok(()) };
    // SAFETY: flock on a descriptor that `lock` owns. Closing it gives the lock back.
    let refused = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } != 0;
    if refused && std::io::Error::last_os_error().kind() == ErrorKind::WouldBlock {
        return Err(StoreError::Busy {
            path,
            holder: format!("the Codex process that writes thread {thread}"),
            remedy: "end that session first".to_owned(),
        });
    }
    Ok(())
}

/// The plain file and the `.zst` of a rollout, those that exist.
#[derive(Clone, Debug, Default)]
struct Halves {
    plain: Option<PathBuf>,
    zstd: Option<PathBuf>,
}

impl Halves {
    fn at(logical: &Path) -> Result<Halves> {
        let there = |path: PathBuf| match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some(path)),
            Ok(_) => Err(StoreError::denied(&path, "it is a link or no file, and rollouts are files")),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(StoreError::io("look at", &path)(error)),
        };
        let plain = there(logical.to_owned())?;
        Ok(Halves { plain, zstd: there(content::compressed_path(logical))? })
    }

    fn get(&self, encoding: Encoding) -> Option<&Path> {
        match encoding {
            Encoding::Plain => self.plain.as_deref(),
            Encoding::Zstd => self.zstd.as_deref(),
        }
    }

    fn is_none(&self) -> bool {
        self.plain.is_none() && self.zstd.is_none()
    }
}

fn half(logical: &Path, encoding: Encoding) -> PathBuf {
    match encoding {
        Encoding::Plain => logical.to_owned(),
        Encoding::Zstd => content::compressed_path(logical),
    }
}

fn relocate(home: &Home, path: &[u8], direction: Direction, options: &MoveOptions<'_>) -> Result<Moved> {
    let name = check_source(home, path, direction)?;
    let target = match direction {
        Direction::Archive => archived_path(&name),
        Direction::Unarchive => active_path(&name),
    };
    if !options.despite_writer {
        check_no_writer(home, name.thread_id())?;
    }
    check_id_is_free(home, &name, &target, direction, options.known)?;
    hit("archive.checked");
    let (folder, _) = split_path(&target);
    make_folder(home, folder, options.durable)?;
    hit("archive.folder_made");
    // By its plain name: a path that was given with `.zst` means the same rollout.
    let from = home.join(split_path(path).0).join(name.plain());
    let to = home.join(&target);
    move_halves(&from, &to, direction)?;
    let file = content::locate(&to)?.path;
    if options.touch {
        set_mtime_now(&file)?;
        hit("archive.touched");
    }
    if options.durable {
        to.parent().map_or(Ok(()), sync_folder)?;
        from.parent().map_or(Ok(()), sync_folder)?;
        hit("archive.synced");
    }
    Ok(Moved { path: target, file })
}

/// The checks of spec 9.1, 2 and 3.
fn check_source(home: &Home, path: &[u8], direction: Direction) -> Result<RolloutName> {
    let (root, _) = direction.roots();
    check_inside(home.root(), path, &[root])?;
    RolloutName::parse(split_path(path).1).ok_or_else(|| {
        let reason = "only files named rollout-<time>-<thread id>.jsonl are threads";
        StoreError::denied(&home.join(path), reason)
    })
}

/// The folder of a path below `base` must lie in one of its `roots`, also when its links are followed.
pub(super) fn check_inside(base: &Path, path: &[u8], roots: &[&str]) -> Result<()> {
    let join = |path: &[u8]| base.join(OsStr::from_bytes(path));
    let file = join(path);
    let outside =
        || StoreError::denied(&file, format!("it must be in the home's folder {}", roots.join(" or ")));
    let is_plain = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
    let components: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let root = roots.iter().find(|root| components[0] == root.as_bytes()).ok_or_else(outside)?;
    if components.len() < 2 || !components.iter().all(|component| is_plain(component)) {
        return Err(outside());
    }
    let resolve = |path: PathBuf| match fs::canonicalize(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(StoreError::NotFound { what: file.display().to_string() })
        }
        resolved => resolved.map_err(StoreError::io("resolve", &path)),
    };
    let is_inside = resolve(join(split_path(path).0))?.starts_with(resolve(base.join(root))?);
    if is_inside { Ok(()) } else { Err(outside()) }
}

/// A folder of the target root must not have another file with this id.
fn check_id_is_free(
    home: &Home,
    name: &RolloutName,
    target: &[u8],
    direction: Direction,
    known: Option<&[Vec<u8>]>,
) -> Result<()> {
    let looked_up;
    let known = match known {
        Some(known) => known,
        None => {
            looked_up = files_of(home, name.thread_id())?;
            &looked_up
        }
    };
    let (_, root) = direction.roots();
    let in_root = |path: &[u8]| path.strip_prefix(root.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
    let same_id = |path: &[u8]| {
        RolloutName::parse(split_path(path).1).is_some_and(|other| {
            (other.thread_id(), other.rollout_id()) == (name.thread_id(), name.rollout_id())
        })
    };
    match known.iter().find(|path| path.as_slice() != target && in_root(path) && same_id(path)) {
        Some(other) => Err(StoreError::exists(&home.join(other), "it has the same thread id")),
        None => Ok(()),
    }
}

/// Moves what exists of a rollout. Whoever compresses or decompresses it meanwhile takes a name away that was just
/// seen: then it is looked at again.
fn move_halves(from: &Path, to: &Path, direction: Direction) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let moved = try_move_halves(from, to, direction).map_err(gone_meanwhile);
        match moved {
            Err(StoreError::NotFound { .. }) if attempt < SWAP_ATTEMPTS_MAX => {
                // Waits as a reader does; an error of its own when nothing comes.
                content::locate(from)?;
            }
            other => return other,
        }
    }
}

/// What was there a moment ago and is gone was moved by another: not found, like what was never there.
fn gone_meanwhile(error: StoreError) -> StoreError {
    match error {
        StoreError::Io { source, path, .. } if source.kind() == ErrorKind::NotFound => {
            StoreError::NotFound { what: path.display().to_string() }
        }
        other => other,
    }
}

fn try_move_halves(from: &Path, to: &Path, direction: Direction) -> Result<()> {
    let source = Halves::at(from)?;
    let target = Halves::at(to)?;
    if source.is_none() {
        return Err(StoreError::NotFound { what: from.display().to_string() });
    }
    check_target_is_free(&source, &target)?;
    let mut moved: Vec<(&Path, PathBuf)> = Vec::new();
    for encoding in direction.order() {
        let Some(half_from) = source.get(encoding) else { continue };
        let half_to = half(to, encoding);
        if let Err(error) = move_no_replace(half_from, &half_to, false) {
            // What was moved goes back: a refusal leaves the thread where it was, whole.
            for (from, to) in moved {
                if let Err(error) = move_no_replace(&to, from, false) {
                    log::warn!(
                        "{error}; archive or unarchive the thread again to have both its files in one place"
                    );
                }
            }
            return Err(error);
        }
        match encoding {
            Encoding::Plain => hit("archive.plain_moved"),
            Encoding::Zstd => hit("archive.zst_moved"),
        }
        moved.push((half_from, half_to));
    }
    Ok(())
}

/// What is at the target is in the way, unless an interrupted try of the same move left it there: the same file, a
/// copy on another disk, or the other half of the same content.
fn check_target_is_free(source: &Halves, target: &Halves) -> Result<()> {
    let in_the_way =
        |path: &Path| StoreError::exists(path, "nothing is replaced; move one of the two out of the way");
    for encoding in [Encoding::Plain, Encoding::Zstd] {
        let Some(there) = target.get(encoding) else { continue };
        let left_by_us = match source.get(encoding) {
            Some(same) => is_interrupted_move(same, there)?,
            None => match (encoding, &source.plain, &source.zstd) {
                (Encoding::Plain, _, Some(zstd)) => is_other_half(there, zstd)?,
                (Encoding::Zstd, Some(plain), _) => is_other_half(plain, there)?,
                _ => false,
            },
        };
        if !left_by_us {
            return Err(in_the_way(there));
        }
    }
    Ok(())
}

/// True if the content of `zstd` is the beginning of `plain`, as it is when the plain one was made from it or the
/// other way round, and appended to since. A damaged one is not.
fn is_other_half(plain: &Path, zstd: &Path) -> Result<bool> {
    let located = |path: &Path, encoding: Encoding| {
        let stat = fs::symlink_metadata(path).map_err(StoreError::io("look at", path))?;
        Ok::<_, StoreError>(Located { path: path.to_owned(), encoding, stat })
    };
    let plain = located(plain, Encoding::Plain)?;
    let mut whole = content::open_decoded_reader(&plain)?;
    let mut start = content::open_decoded_reader(&located(zstd, Encoding::Zstd)?)?;
    match placement::starts_with(&mut *whole, &mut *start) {
        Ok(same) => Ok(same),
        Err(error) if error.raw_os_error().is_none() => Ok(false),
        Err(error) => Err(StoreError::io("compare", &plain.path)(error)),
    }
}

fn set_mtime_now(path: &Path) -> Result<()> {
    let set = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    set.map_err(StoreError::io("set the time of", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::Duration;

    use tempfile::TempDir;

    use super::super::failpoint::crash;
    use super::super::placement::tests::two_disks;
    use super::*;

    const NAME: &str = "rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
    const ACTIVE: &str =
        "sessions/2026/02/08/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
    const ARCHIVED: &str =
        "archived_sessions/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
    const CONTENT: &str = "{\"a\":1}\n{\"b\":2}\n";

    struct Made {
        dir: TempDir,
        home: Home,
    }

    impl Made {
        fn new() -> Made {
            let dir = TempDir::new().unwrap();
            fs::create_dir_all(dir.path().join("sessions")).unwrap();
            let home = Home::open(dir.path()).unwrap();
            Made { dir, home }
        }

        fn with(files: &[(&str, &[u8])]) -> Made {
            let made = Made::new();
            files.iter().for_each(|(path, content)| made.write(path, content));
            made
        }

        fn write(&self, path: &str, content: &[u8]) {
            let file = self.dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, content).unwrap();
            let then = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 987_654_321);
            File::options().append(true).open(file).unwrap().set_modified(then).unwrap();
        }

        fn stat(&self, path: &str) -> (u64, i64, i64, u64) {
            let found = fs::symlink_metadata(self.dir.path().join(path)).unwrap();
            (found.ino(), found.mtime(), found.mtime_nsec(), found.len())
        }

        /// All files of the two roots.
        fn files(&self) -> Vec<String> {
            let mut dirs: Vec<_> = ROOTS.map(|root| self.dir.path().join(root)).into();
            let mut found = Vec::new();
            while let Some(dir) = dirs.pop() {
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    let path = entry.path();
                    if path.is_dir() {
                        dirs.push(path);
                    } else {
                        found.push(path.strip_prefix(self.dir.path()).unwrap().to_str().unwrap().to_owned());
                    }
                }
            }
            found.sort();
            found
        }

        fn archive(&self, path: &str) -> Result<Moved> {
            archive(&self.home, path.as_bytes(), &MoveOptions::default())
        }

        fn unarchive(&self, path: &str) -> Result<Moved> {
            unarchive(&self.home, path.as_bytes(), &MoveOptions::default())
        }
    }

    fn zst(path: &str) -> String {
        format!("{path}.zst")
    }

    fn packed(content: &str) -> Vec<u8> {
        zstd::encode_all(content.as_bytes(), 3).unwrap()
    }

    /// Spec 11.8, row 1.
    #[test]
    fn archived_in_the_flat_folder_and_back_in_the_date_folder_of_its_name() {
        let made = Made::with(&[(ACTIVE, CONTENT.as_bytes())]);
        let before = made.stat(ACTIVE);
        let moved = made.archive(ACTIVE).unwrap();
        assert_eq!(moved.path, ARCHIVED.as_bytes());
        assert_eq!((made.files(), made.stat(ARCHIVED)), (vec![ARCHIVED.to_owned()], before), "mtime is kept");
        // By a rename the mtime is kept, by the command it is now.
        assert_eq!(made.unarchive(ARCHIVED).unwrap().path, ACTIVE.as_bytes());
        assert_eq!((made.files(), made.stat(ACTIVE)), (vec![ACTIVE.to_owned()], before));
        made.archive(ACTIVE).unwrap();
        let options = MoveOptions { touch: true, durable: true, ..MoveOptions::default() };
        unarchive(&made.home, ARCHIVED.as_bytes(), &options).unwrap();
        let age = fs::metadata(made.dir.path().join(ACTIVE)).unwrap().modified().unwrap().elapsed().unwrap();
        assert!(age < Duration::from_secs(60), "{age:?}");
        assert_eq!(made.stat(ACTIVE).0, before.0);
    }

    #[test]
    fn a_file_in_another_date_folder_comes_back_to_that_of_its_name() {
        let elsewhere = ACTIVE.replace("02/08/", "03/01/");
        let made = Made::with(&[(&elsewhere, b"x")]);
        made.archive(&elsewhere).unwrap();
        assert_eq!(made.unarchive(ARCHIVED).unwrap().path, ACTIVE.as_bytes());
    }

    /// Spec 11.8, row 2.
    #[test]
    fn a_compressed_one_moves_as_it_is_and_has_its_plain_logical_path() {
        let made = Made::with(&[(&zst(ACTIVE), &packed(CONTENT))]);
        let before = made.stat(&zst(ACTIVE));
        let moved = made.archive(ACTIVE).unwrap();
        assert_eq!((moved.path.as_slice(), made.files()), (ARCHIVED.as_bytes(), vec![zst(ARCHIVED)]));
        assert_eq!(moved.file, made.home.root().join(zst(ARCHIVED)));
        assert_eq!(made.stat(&zst(ARCHIVED)), before);
        made.unarchive(&zst(ARCHIVED)).unwrap();
        assert_eq!(made.files(), [zst(ACTIVE)]);
    }

    /// Spec 11.8, row 3.
    #[test]
    fn a_path_outside_or_a_name_without_the_id_is_refused() {
        let made = Made::with(&[
            (NAME, b"x"),
            (ARCHIVED, b"x"),
            ("sessions/2026/02/08/notes.jsonl", b"x"),
            ("sessions/2026/02/08/rollout-2026-02-08T10-15-01-planb.jsonl", b"x"),
            (&ACTIVE.replace(".jsonl", " (1).jsonl"), b"x"),
        ]);
        let before = made.files();
        for path in [
            NAME,
            ARCHIVED,
            "",
            "sessions",
            &format!("sessions/../{NAME}"),
            &format!("sessions/./2026/../../{NAME}"),
            &format!("/sessions/{NAME}"),
            &format!("sessionsx/{NAME}"),
            "sessions/2026/02/08/notes.jsonl",
            "sessions/2026/02/08/rollout-2026-02-08T10-15-01-planb.jsonl",
            &ACTIVE.replace(".jsonl", " (1).jsonl"),
        ] {
            assert!(matches!(made.archive(path), Err(StoreError::Denied { .. })), "{path}");
        }
        assert!(matches!(made.unarchive(ACTIVE), Err(StoreError::Denied { .. })));
        assert!(matches!(made.archive(ACTIVE), Err(StoreError::NotFound { .. })));
        assert!(matches!(made.archive(&ACTIVE.replace("/02/", "/04/")), Err(StoreError::NotFound { .. })));
        assert_eq!(made.files(), before);
    }

    #[test]
    fn links_do_not_lead_out_of_the_home() {
        let outside = TempDir::new().unwrap();
        fs::write(outside.path().join(NAME), "theirs").unwrap();
        let made = Made::new();
        symlink(outside.path(), made.dir.path().join("sessions/linked")).unwrap();
        assert!(matches!(made.archive(&format!("sessions/linked/{NAME}")), Err(StoreError::Denied { .. })));
        fs::create_dir_all(made.dir.path().join("sessions/2026/02/08")).unwrap();
        symlink(outside.path().join(NAME), made.dir.path().join(ACTIVE)).unwrap();
        assert!(matches!(made.archive(ACTIVE), Err(StoreError::Denied { .. })), "a link is no rollout");
        // Nor does the way in: the year's folder is a link.
        made.write(ARCHIVED, b"ours");
        fs::remove_dir_all(made.dir.path().join("sessions/2026")).unwrap();
        symlink(outside.path(), made.dir.path().join("sessions/2026")).unwrap();
        assert!(matches!(made.unarchive(ARCHIVED), Err(StoreError::Denied { .. })));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(made.dir.path().join(ARCHIVED)).unwrap(), "ours");
    }

    #[test]
    fn roots_may_be_links_to_one_store() {
        let made = Made::new();
        let store = TempDir::new().unwrap();
        fs::remove_dir(made.dir.path().join("sessions")).unwrap();
        for root in ROOTS {
            fs::create_dir(store.path().join(root)).unwrap();
            symlink(store.path().join(root), made.dir.path().join(root)).unwrap();
        }
        made.write(ACTIVE, b"x");
        made.archive(ACTIVE).unwrap();
        made.unarchive(ARCHIVED).unwrap();
        assert_eq!(made.files(), [ACTIVE]);
    }

    #[test]
    fn nothing_is_replaced_and_no_id_is_there_twice() {
        let other_time = ARCHIVED.replace("T10-15-01", "T11-00-00");
        let cases = [
            vec![(ACTIVE.to_owned(), "new".as_bytes().to_vec()), (ARCHIVED.to_owned(), b"old".to_vec())],
            vec![(ACTIVE.to_owned(), b"new".to_vec()), (other_time, b"old".to_vec())],
            vec![(ACTIVE.to_owned(), b"new".to_vec()), (zst(ARCHIVED), packed("old"))],
            vec![(ACTIVE.to_owned(), b"new".to_vec()), (zst(ARCHIVED), b"damaged".to_vec())],
            vec![(zst(ACTIVE), packed("new")), (ARCHIVED.to_owned(), b"old".to_vec())],
            vec![(zst(ACTIVE), packed("new")), (zst(ARCHIVED), packed("old"))],
        ];
        for case in cases {
            let made = Made::new();
            case.iter().for_each(|(path, content)| made.write(path, content));
            let refused = made.archive(ACTIVE);
            assert!(matches!(refused, Err(StoreError::Exists { .. })), "{case:?} {refused:?}");
            for (path, content) in &case {
                assert_eq!(&fs::read(made.dir.path().join(path)).unwrap(), content);
            }
        }
        let made = Made::with(&[(ARCHIVED, b"old"), (&ACTIVE.replace("/08/", "/09/"), b"new")]);
        assert!(matches!(made.unarchive(ARCHIVED), Err(StoreError::Exists { .. })));
        // The caller's list of files spares the look at all names.
        let known = [ARCHIVED.as_bytes().to_vec()];
        let options = MoveOptions { known: Some(&known), ..MoveOptions::default() };
        unarchive(&made.home, ARCHIVED.as_bytes(), &options).unwrap();
    }

    #[test]
    fn a_name_with_two_ids_goes_by_its_thread_and_beside_its_first_file() {
        let second = ACTIVE.replace(".jsonl", "_0198c0de-0000-7000-8000-0000000000bb.jsonl");
        let second_archived = ARCHIVED.replace(".jsonl", "_0198c0de-0000-7000-8000-0000000000bb.jsonl");
        let made = Made::with(&[(ACTIVE, b"first"), (&second, b"second")]);
        let thread = RolloutName::parse(NAME.as_bytes()).unwrap().thread_id();
        let paths = files_of(&made.home, thread).unwrap();
        assert_eq!(paths, [ACTIVE.as_bytes(), second.as_bytes()], "the current one last");
        for path in &paths {
            archive(&made.home, path, &MoveOptions::default()).unwrap();
        }
        assert_eq!(made.files(), [ARCHIVED, second_archived.as_str()]);
        made.unarchive(&second_archived).unwrap();
        assert_eq!(files_of(&made.home, thread).unwrap(), [ARCHIVED.as_bytes(), second.as_bytes()]);
    }

    #[test]
    fn a_thread_that_is_written_stays_unless_asked() {
        let made = Made::with(&[(ACTIVE, b"x")]);
        let lock = "thread-writer-locks/0198c0de-0000-7000-8000-000000000001.lock";
        made.write(lock, b"");
        let held = File::open(made.dir.path().join(lock)).unwrap();
        // SAFETY: flock on a descriptor that `held` owns.
        assert_eq!(unsafe { libc::flock(held.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
        let refused = made.archive(ACTIVE).unwrap_err();
        assert!(matches!(refused, StoreError::Busy { .. }), "{refused}");
        assert!(refused.to_string().contains("end that session"), "{refused}");
        let options = MoveOptions { despite_writer: true, ..MoveOptions::default() };
        archive(&made.home, ACTIVE.as_bytes(), &options).unwrap();
        assert!(matches!(made.unarchive(ARCHIVED), Err(StoreError::Busy { .. })));
        drop(held);
        made.unarchive(ARCHIVED).unwrap();
        // The probe left nothing behind.
        let taken = File::open(made.dir.path().join(lock)).unwrap();
        // SAFETY: flock on a descriptor that `taken` owns.
        assert_eq!(unsafe { libc::flock(taken.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
    }

    #[test]
    fn the_modes_of_the_file_and_of_new_folders_are_kept() {
        let made = Made::with(&[(ACTIVE, b"x")]);
        let mode = |path: &str| fs::metadata(made.dir.path().join(path)).unwrap().mode() & 0o7777;
        fs::set_permissions(made.dir.path().join(ACTIVE), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(made.dir.path().join("sessions"), fs::Permissions::from_mode(0o750)).unwrap();
        made.archive(ACTIVE).unwrap();
        assert_eq!((mode(ARCHIVED), mode("archived_sessions")), (0o400, 0o750));
        fs::remove_dir_all(made.dir.path().join("sessions/2026")).unwrap();
        let options = MoveOptions { touch: true, ..MoveOptions::default() };
        unarchive(&made.home, ARCHIVED.as_bytes(), &options).unwrap();
        assert_eq!((mode(ACTIVE), mode("sessions/2026/02")), (0o400, 0o750));
    }

    #[test]
    fn a_thousand_round_trips_keep_mtime_and_number() {
        let made = Made::with(&[(ACTIVE, CONTENT.as_bytes())]);
        let before = made.stat(ACTIVE);
        for _ in 0..1000 {
            made.archive(ACTIVE).unwrap();
            made.unarchive(ARCHIVED).unwrap();
        }
        assert_eq!((made.files(), made.stat(ACTIVE)), (vec![ACTIVE.to_owned()], before));
        assert_eq!(fs::read_to_string(made.dir.path().join(ACTIVE)).unwrap(), CONTENT);
    }

    #[test]
    fn movers_at_once_neither_lose_nor_double_a_thread() {
        let made = Made::with(&[(ACTIVE, CONTENT.as_bytes())]);
        let before = made.stat(ACTIVE);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..50 {
                        let moved =
                            if turn % 2 == 0 { made.archive(ACTIVE) } else { made.unarchive(ARCHIVED) };
                        let expected = matches!(
                            moved,
                            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Exists { .. })
                        );
                        assert!(expected, "{moved:?}");
                    }
                });
            }
        });
        let files = made.files();
        assert_eq!(files.len(), 1);
        assert_eq!(made.stat(&files[0]), before);
    }

    #[test]
    fn the_child_of_the_crash_tests() {
        let Some((home, what)) = crash::asked() else { return };
        let home = Home::open(&home).unwrap();
        let options = MoveOptions { touch: true, durable: true, ..MoveOptions::default() };
        match what.as_str() {
            "archive" => archive(&home, ACTIVE.as_bytes(), &MoveOptions { touch: false, ..options }),
            _ => unarchive(&home, ARCHIVED.as_bytes(), &options),
        }
        .unwrap();
    }

    /// The content that a reader of the thread gets, by Codex's rules: active before archived, plain before `.zst`.
    fn content_of(made: &Made) -> String {
        let found = files_of(&made.home, RolloutName::parse(NAME.as_bytes()).unwrap().thread_id()).unwrap();
        let located = content::locate(&made.home.join(found.last().unwrap())).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut content::open_decoded_reader(&located).unwrap(), &mut text)
            .unwrap();
        text
    }

    const TEST: &str = "store::archive::tests::the_child_of_the_crash_tests";

    #[test]
    fn a_crash_at_any_point_leaves_one_whole_file_and_the_next_try_succeeds() {
        let points = ["checked", "folder_made", "plain_moved", "touched", "synced"];
        for (what, from, to) in [("archive", ACTIVE, ARCHIVED), ("unarchive", ARCHIVED, ACTIVE)] {
            for point in
                points.map(|point| format!("archive.{point}")).iter().chain([&"place.moved".to_owned()])
            {
                let made = Made::with(&[(from, CONTENT.as_bytes())]);
                let aborted = crash::child_aborts(TEST, made.dir.path(), what, point);
                assert_eq!(aborted, what == "unarchive" || !point.ends_with("touched"), "{what} {point}");
                let files = made.files();
                assert!(files == [from] || files == [to], "{what} {point}: {files:?}");
                assert_eq!(content_of(&made), CONTENT);
                if files == [from] {
                    let again = if what == "archive" { made.archive(from) } else { made.unarchive(from) };
                    again.unwrap();
                }
                assert_eq!((made.files(), content_of(&made)), (vec![to.to_owned()], CONTENT.to_owned()));
            }
        }
    }

    /// The `.zst` is older than the plain file: Codex decompressed it, appended, and ended before it removed it.
    #[test]
    fn both_halves_move_and_a_crash_between_never_shows_the_outdated_one() {
        let old = "{\"a\":1}\n";
        for (what, from, to) in [("archive", ACTIVE, ARCHIVED), ("unarchive", ARCHIVED, ACTIVE)] {
            for point in [
                "archive.checked",
                "archive.plain_moved",
                "archive.zst_moved",
                "place.moved",
                "place.moved:2",
                "",
            ] {
                let made = Made::with(&[(from, CONTENT.as_bytes()), (&zst(from), &packed(old))]);
                assert_eq!(crash::child_aborts(TEST, made.dir.path(), what, point), !point.is_empty());
                assert_eq!(content_of(&made), CONTENT, "{what} {point}");
                assert_eq!(made.files().len(), 2, "{what} {point}");
                if made.files() != [to.to_owned(), zst(to)] {
                    let again = if what == "archive" { made.archive(from) } else { made.unarchive(from) };
                    again.unwrap();
                }
                assert_eq!(
                    (made.files(), content_of(&made)),
                    (vec![to.to_owned(), zst(to)], CONTENT.to_owned())
                );
            }
        }
    }

    #[test]
    fn between_disks_it_is_copied_and_a_crash_loses_nothing() {
        let there = match two_disks() {
            Ok((_, there)) => there,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        for point in ["", "place.copied", "place.copy_placed", "place.moved", "archive.plain_moved"] {
            let made = Made::with(&[(ACTIVE, CONTENT.as_bytes())]);
            let before = made.stat(ACTIVE);
            let _ = fs::remove_dir_all(there.path().join("archive"));
            fs::create_dir(there.path().join("archive")).unwrap();
            symlink(there.path().join("archive"), made.dir.path().join("archived_sessions")).unwrap();
            assert_eq!(crash::child_aborts(TEST, made.dir.path(), "archive", point), !point.is_empty());
            assert_eq!(content_of(&made), CONTENT, "{point}");
            if made.dir.path().join(ACTIVE).exists() {
                made.archive(ACTIVE).unwrap();
            }
            assert_eq!(
                (made.files(), content_of(&made)),
                (vec![ARCHIVED.to_owned()], CONTENT.to_owned()),
                "{point}"
            );
            let after = made.stat(ARCHIVED);
            assert_eq!((after.1, after.2, after.3), (before.1, before.2, before.3), "{point}");
        }
    }
}
