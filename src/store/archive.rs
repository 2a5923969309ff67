//! How does a thread get into `archived_sessions` and back (spec 9.1, 9.2)?
//!
//! A move of one file, by its logical path; what is in the archive keeps its name, size, mtime and number on disk. Where
//! the plain file and its `.zst` both exist, whichever order is taken keeps the plain one, which is the truth, in
//! `sessions` as long as they are apart: Codex looks there first, and would go on with an outdated `.zst`.
//! Depends on `placement`, `content`, `rollout` and `scan`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
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
            path: home.root().join(format!("thread {thread}")),
            holder: "a Codex process that writes it".to_owned(),
            remedy: format!("end that session first ({} is locked)", path.display()),
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
    let file = home.join(path);
    let outside = || StoreError::denied(&file, format!("the rollout must be in the home's {root} folder"));
    let is_plain = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
    let components: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    if components.len() < 2 || components[0] != root.as_bytes() || !components.iter().all(|one| is_plain(one))
    {
        return Err(outside());
    }
    let (folder, file_name) = split_path(path);
    let name = RolloutName::parse(file_name).ok_or_else(|| {
        StoreError::denied(&file, "only files named rollout-<time>-<thread id>.jsonl are threads")
    })?;
    let resolve = |path: PathBuf| match fs::canonicalize(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(StoreError::NotFound { what: file.display().to_string() })
        }
        resolved => resolved.map_err(StoreError::io("resolve", &path)),
    };
    if !resolve(home.join(folder))?.starts_with(resolve(home.root().join(root))?) {
        return Err(outside());
    }
    Ok(name)
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
        let moved = try_move_halves(from, to, direction);
        match moved {
            Err(StoreError::NotFound { .. }) if attempt < SWAP_ATTEMPTS_MAX => {
                // Waits as a reader does; an error of its own when nothing comes.
                content::locate(from)?;
            }
            other => return other,
        }
    }
}

fn try_move_halves(from: &Path, to: &Path, direction: Direction) -> Result<()> {
    let source = Halves::at(from)?;
    let target = Halves::at(to)?;
    if source.is_none() {
        return Err(StoreError::NotFound { what: from.display().to_string() });
    }
    check_target_is_free(&source, &target)?;
    for encoding in direction.order() {
        let Some(half_from) = source.get(encoding) else { continue };
        move_no_replace(half_from, &half(to, encoding), false)?;
        match encoding {
            Encoding::Plain => hit("archive.plain_moved"),
            Encoding::Zstd => hit("archive.zst_moved"),
        }
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
