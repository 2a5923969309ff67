//! How does a file get its place in the home, whole, at once, and over no other file?
//!
//! One rename that replaces nothing; where the system has none, a link and an unlink; between file systems a copy
//! under a temporary name, synced and renamed. A process that dies in between leaves the file whole in one place, or
//! in both: then the next try finishes. Temporary names are ones that are never taken for rollouts. Depends on `home`,
//! `error` and `failpoint`.

use std::ffi::CString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::home::Home;
use super::scan::ROOTS;

mod temporary;

pub use temporary::Temporary;
pub(super) use temporary::is_ours;

/// Folders of a home that has no `sessions` yet.
const FOLDER_MODE_DEFAULT: u32 = 0o700;
/// Bytes compared at once.
const COMPARE_BYTES: usize = 128 * 1024;

/// How a file is moved within a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// `renameat2` that does not replace, and a link where there is none.
    Rename,
    /// `link` and `unlink`.
    Link,
}

/// Makes the folder `path` (logical, below the home) and those above it. New ones have the mode and the owner of the
/// home's `sessions`, else mode 0700. With `durable` they survive a power cut.
///
/// # Errors
/// [`StoreError::Denied`] where a link below the roots would lead elsewhere, [`StoreError::Io`] where something else
/// is in the way or the disk refuses.
pub fn make_folder(home: &Home, path: &[u8], durable: bool) -> Result<PathBuf> {
    let like = fs::metadata(home.root().join(ROOTS[0])).ok();
    let mut folder = home.root().to_owned();
    for (depth, component) in path.split(|&byte| byte == b'/').enumerate() {
        let parent = folder.clone();
        folder.push(std::ffi::OsStr::from_bytes(component));
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            // A root may be a link to another disk.
            Ok(found) if found.is_symlink() && depth == 0 && folder.is_dir() => {}
            Ok(found) if found.is_symlink() => {
                return Err(StoreError::denied(&folder, "a link there would lead out of the home's folders"));
            }
            Ok(_) => return Err(StoreError::io("make the folder", &folder)(ErrorKind::NotADirectory.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_one(&folder, like.as_ref()).map_err(StoreError::io("make the folder", &folder))?;
                if durable {
                    sync_folder(&parent)?;
                }
            }
            Err(error) => return Err(StoreError::io("look at", &folder)(error)),
        }
    }
    Ok(folder)
}

fn make_one(folder: &Path, like: Option<&Metadata>) -> io::Result<()> {
    let mode = like.map_or(FOLDER_MODE_DEFAULT, |like| like.mode() & 0o7777);
    match fs::DirBuilder::new().mode(mode & 0o700).create(folder) {
        // Codex makes the same folders.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        made => made?,
    }
    let made = fs::metadata(folder)?;
    let owner = match like {
        Some(like) => (like.uid(), like.gid()),
        None => folder.parent().map_or(Ok((made.uid(), made.gid())), |parent| {
            fs::metadata(parent).map(|parent| (parent.uid(), parent.gid()))
        })?,
    };
    if owner != (made.uid(), made.gid()) {
        // Else a folder made by root would shut its user out. Others may not and need not.
        let _ = chown(folder, Some(owner.0), Some(owner.1));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

/// Makes what happened to the names in a folder survive a power cut.
///
/// # Errors
/// [`StoreError::Io`]. File systems that cannot sync a folder are not asked twice.
pub fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|open| open.sync_all()) {
        Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Err(StoreError::io("sync", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Moves the file `from` to `to`, which must not be there; its folder must. Content, mode and times are kept, and the
/// number on disk too within a file system. With `durable` the move survives a power cut.
///
/// # Errors
/// [`StoreError::Exists`], [`StoreError::NotFound`] where `from` is gone, [`StoreError::Busy`] when it is written while it
/// is copied to another file system, else [`StoreError::Io`].
pub fn move_no_replace(from: &Path, to: &Path, durable: bool) -> Result<()> {
    move_by(Means::Rename, from, to, durable)
}

fn move_by(means: Means, from: &Path, to: &Path, durable: bool) -> Result<()> {
    match rename_no_replace(means, from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::CrossesDevices => copy_across(from, to)?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if !is_second_link(from, to)? {
                return Err(StoreError::exists(to, "nothing is replaced"));
            }
            // A link that an earlier try made before it ended.
            fs::remove_file(from).map_err(StoreError::io("remove", from))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !from.exists() => {
            return Err(StoreError::NotFound { what: from.display().to_string() });
        }
        Err(error) => return Err(StoreError::io("move", from)(error)),
    }
    hit("place.moved");
    if durable {
        to.parent().map_or(Ok(()), sync_folder)?;
        from.parent().map_or(Ok(()), sync_folder)?;
    }
    Ok(())
}

/// True if `to` is what an earlier, interrupted move of `from` left: [`move_no_replace`] would finish it.
///
/// # Errors
/// [`StoreError::Io`] when one of them cannot be read.
pub fn is_interrupted_move(from: &Path, to: &Path) -> Result<bool> {
    Ok(is_second_link(from, to)? || is_copy(from, to)?)
}

/// True if the two are links to one file: and not one link by two ways, which must not be removed.
fn is_second_link(one: &Path, other: &Path) -> Result<bool> {
    let look = |path: &Path| match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    };
    let (Some(found), Some(other_found)) = (look(one)?, look(other)?) else { return Ok(false) };
    if (found.dev(), found.ino()) != (other_found.dev(), other_found.ino()) || found.nlink() < 2 {
        return Ok(false);
    }
    let place = |path: &Path| {
        let parent = path.parent().unwrap_or(Path::new("."));
        let parent = fs::canonicalize(parent).map_err(StoreError::io("resolve", parent))?;
        Ok::<_, StoreError>((parent, path.file_name().map(ToOwned::to_owned)))
    };
    Ok(place(one)? != place(other)?)
}

/// True if the two lie on different file systems and have the same bytes and mtime.
fn is_copy(one: &Path, other: &Path) -> Result<bool> {
    let stat = |path: &Path| fs::symlink_metadata(path).map_err(StoreError::io("look at", path));
    let (found, other_found) = (stat(one)?, stat(other)?);
    let times = |found: &Metadata| (found.len(), found.mtime(), found.mtime_nsec());
    if found.dev() == other_found.dev() || times(&found) != times(&other_found) || !other_found.is_file() {
        return Ok(false);
    }
    let open = |path: &Path| open_to_read(path).map_err(StoreError::io("open", path));
    starts_with(&mut open(one)?, &mut open(other)?).map_err(StoreError::io("compare", one))
}

/// True if the bytes of `whole` begin with all those of `start`.
pub(super) fn starts_with(whole: &mut dyn Read, start: &mut dyn Read) -> io::Result<bool> {
    let (mut expected, mut found) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    loop {
        let length = match start.read(&mut expected) {
            Ok(0) => return Ok(true),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match whole.read_exact(&mut found[..length]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if found[..length] != expected[..length] {
            return Ok(false);
        }
    }
}

fn rename_no_replace(means: Means, from: &Path, to: &Path) -> io::Result<()> {
    match means {
        Means::Rename => match renameat2_no_replace(from, to) {
            // Not on this system, or not on this file system.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput) => {
                rename_no_replace(Means::Link, from, to)
            }
            outcome => outcome,
        },
        Means::Link => {
            fs::hard_link(from, to)?;
            hit("place.linked");
            // Refused: one name again, the old one.
            fs::remove_file(from).inspect_err(|_| drop(fs::remove_file(to)))
        }
    }
}

fn renameat2_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both are strings that end in NUL and live through the call. Not every C library has the function, the
    // system call is there since Linux 3.15.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Size, mtime and number: what tells that a file was written or replaced.
fn state(found: &Metadata) -> (u64, i64, i64, u64, u64) {
    (found.len(), found.mtime(), found.mtime_nsec(), found.dev(), found.ino())
}

/// Moves a file to another file system: copied, synced, placed, and only then removed.
fn copy_across(from: &Path, to: &Path) -> Result<()> {
    let is_second_try = fs::symlink_metadata(to).is_ok();
    if !is_second_try {
        copy_and_place(from, to)?;
    } else if !is_interrupted_move(from, to)? {
        return Err(StoreError::exists(to, "nothing is replaced"));
    }
    hit("place.copy_placed");
    fs::remove_file(from).map_err(|error| {
        // One file again, the old one; unless somebody has written to the copy.
        if !is_second_try && is_copy(from, to).unwrap_or(false) {
            let _ = fs::remove_file(to);
        }
        StoreError::io("remove", from)(error)
    })
}

fn copy_and_place(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let mut source = open_to_read(from).map_err(StoreError::io("open", from))?;
    let before = source.metadata().map_err(StoreError::io("look at", from))?;
    let mut temporary = Temporary::create(folder)?;
    io::copy(&mut source, temporary.file()).map_err(StoreError::io("copy to", to))?;
    temporary.take_after(&before)?;
    temporary.sync()?;
    hit("place.copied");
    let unchanged = || fs::symlink_metadata(from).is_ok_and(|now| state(&now) == state(&before));
    let busy = || StoreError::Busy {
        path: from.to_owned(),
        holder: "a process that writes it".to_owned(),
        remedy: "try again when it is done".to_owned(),
    };
    if !unchanged() {
        return Err(busy());
    }
    temporary.place(to)?;
    let kept = sync_folder(folder).and_then(|()| if unchanged() { Ok(()) } else { Err(busy()) });
    if kept.is_err() {
        fs::remove_file(to).map_err(StoreError::io("remove", to))?;
    }
    kept
}

#[cfg(test)]
pub(super) mod tests {
    use tempfile::TempDir;

    use super::super::failpoint::crash;
    use super::*;

    /// Two folders on different file systems, or why there are none.
    pub(in crate::store) fn two_disks() -> std::result::Result<(TempDir, TempDir), String> {
        let here = TempDir::new().unwrap();
        let there = TempDir::new_in("/dev/shm").map_err(|error| format!("/dev/shm: {error}"))?;
        let device = |dir: &TempDir| fs::metadata(dir.path()).unwrap().dev();
        if device(&here) == device(&there) {
            return Err("the temporary folder is on /dev/shm".to_owned());
        }
        Ok((here, there))
    }

    fn file(path: &Path, content: &str) -> (u64, i64, i64, u64, u64) {
        fs::write(path, content).unwrap();
        let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
        File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
        state(&fs::metadata(path).unwrap())
    }

    #[test]
    fn both_means_move_and_replace_nothing() {
        for means in [Means::Rename, Means::Link] {
            let dir = TempDir::new().unwrap();
            let (from, to) = (dir.path().join("a"), dir.path().join("b"));
            let before = file(&from, "one");
            move_by(means, &from, &to, true).unwrap();
            assert_eq!(state(&fs::metadata(&to).unwrap()), before, "{means:?}");
            assert!(!from.exists());
            file(&from, "two");
            assert!(matches!(move_by(means, &from, &to, false), Err(StoreError::Exists { .. })));
            assert_eq!(fs::read_to_string(&to).unwrap(), "one");
            assert_eq!(fs::read_to_string(&from).unwrap(), "two");
            fs::remove_file(&from).unwrap();
            let gone = move_by(means, &from, &dir.path().join("c"), false);
            assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
            std::os::unix::fs::symlink("nowhere", dir.path().join("c")).unwrap();
            let refused = move_by(means, &to, &dir.path().join("c"), false);
            assert!(matches!(refused, Err(StoreError::Exists { .. })), "a dangling link is a name too");
        }
    }

    #[test]
    fn an_interrupted_link_is_finished() {
        let dir = TempDir::new().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        file(&from, "one");
        fs::hard_link(&from, &to).unwrap();
        assert!(is_interrupted_move(&from, &to).unwrap());
        move_no_replace(&from, &to, false).unwrap();
        assert!(!from.exists() && to.exists());
    }

    #[test]
    fn a_file_is_not_moved_over_itself() {
        let dir = TempDir::new().unwrap();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("alias")).unwrap();
        let (one, same) = (real.join("a"), dir.path().join("alias/a"));
        file(&one, "one");
        for links in 1..=2 {
            for means in [Means::Rename, Means::Link] {
                for to in [&one, &same] {
                    let refused = move_by(means, &one, to, false);
                    assert!(
                        matches!(refused, Err(StoreError::Exists { .. })),
                        "{links} {means:?} {refused:?}"
                    );
                    assert_eq!(fs::read_to_string(&one).unwrap(), "one");
                }
            }
            fs::hard_link(&one, real.join(format!("b{links}"))).unwrap();
        }
    }

    #[test]
    fn between_file_systems_all_but_the_number_is_kept() {
        let (here, there) = match two_disks() {
            Ok(disks) => disks,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let (from, to) = (here.path().join("a"), there.path().join("b"));
        let before = file(&from, "one");
        fs::set_permissions(&from, fs::Permissions::from_mode(0o640)).unwrap();
        move_no_replace(&from, &to, true).unwrap();
        let after = fs::metadata(&to).unwrap();
        assert_eq!((after.len(), after.mtime(), after.mtime_nsec()), (before.0, before.1, before.2));
        assert_eq!(after.mode() & 0o7777, 0o640);
        assert!(!from.exists());
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 1, "no temporary is left");
        file(&from, "two");
        assert!(matches!(move_no_replace(&from, &to, false), Err(StoreError::Exists { .. })));
        // As left by a process that ended before it removed the first: the same bytes and mtime.
        file(&from, "one");
        assert!(is_interrupted_move(&from, &to).unwrap());
        move_no_replace(&from, &to, false).unwrap();
        assert!(!from.exists() && fs::read_to_string(&to).unwrap() == "one");
    }

    #[test]
    fn the_child_of_the_crash_tests() {
        let Some((home, what)) = crash::asked() else { return };
        let means = if what == "link" { Means::Link } else { Means::Rename };
        let to = fs::read_link(home.join("there")).unwrap_or_else(|_| home.clone()).join("b");
        move_by(means, &home.join("a"), &to, true).unwrap();
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_file_whole_and_the_next_try_finishes() {
        let test = "store::placement::tests::the_child_of_the_crash_tests";
        let disks = two_disks();
        if let Err(reason) = &disks {
            eprintln!("skipped: {reason}");
        }
        let points = [
            ("rename", "place.moved"),
            ("link", "place.linked"),
            ("link", "place.moved"),
            ("copy", "place.copied"),
        ];
        let copies = [("copy", "place.copy_placed"), ("copy", "place.moved")];
        for (what, point) in points.into_iter().chain(copies) {
            let home = TempDir::new().unwrap();
            let mut to = home.path().join("b");
            if what == "copy" {
                let Ok((_, there)) = &disks else { continue };
                std::os::unix::fs::symlink(there.path(), home.path().join("there")).unwrap();
                to = there.path().join("b");
            }
            let from = home.path().join("a");
            file(&from, "all of it");
            assert!(crash::child_aborts(test, home.path(), what, point), "{what} {point}");
            let places = [&from, &to].into_iter().filter(|path| path.exists());
            let mut count = 0;
            for place in places {
                assert_eq!(fs::read_to_string(place).unwrap(), "all of it", "{what} {point}");
                count += 1;
            }
            assert!(count >= 1, "{what} {point}");
            if from.exists() {
                move_no_replace(&from, &to, true).unwrap();
            }
            assert!(!from.exists() && fs::read_to_string(&to).unwrap() == "all of it", "{what} {point}");
            let left = fs::read_dir(to.parent().unwrap()).unwrap().flatten();
            assert!(left.into_iter().all(|entry| !is_ours(entry.file_name().as_bytes())), "{what} {point}");
            fs::remove_file(to).unwrap();
        }
    }

    #[test]
    fn folders_follow_the_home() {
        let dir = TempDir::new().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let mode = |path: &str| fs::metadata(home.root().join(path)).unwrap().mode() & 0o7777;
        make_folder(&home, b"archived_sessions", true).unwrap();
        assert_eq!(mode("archived_sessions"), 0o700);
        fs::create_dir(dir.path().join("sessions")).unwrap();
        fs::set_permissions(dir.path().join("sessions"), fs::Permissions::from_mode(0o2775)).unwrap();
        for _ in 0..2 {
            make_folder(&home, b"sessions/2026/02/08", true).unwrap();
        }
        assert_eq!((mode("sessions/2026"), mode("sessions/2026/02/08")), (0o2775, 0o2775));
    }

    #[test]
    fn a_file_or_a_link_in_the_way_of_a_folder_is_refused() {
        let dir = TempDir::new().unwrap();
        let home = Home::open(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("sessions/2026")).unwrap();
        fs::write(dir.path().join("sessions/2026/02"), "").unwrap();
        let outside = TempDir::new().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("sessions/2026/03")).unwrap();
        assert!(matches!(make_folder(&home, b"sessions/2026/02/08", false), Err(StoreError::Io { .. })));
        assert!(matches!(make_folder(&home, b"sessions/2026/03/08", false), Err(StoreError::Denied { .. })));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        // A root that is a link to a folder elsewhere is the user's wish.
        std::os::unix::fs::symlink(outside.path(), dir.path().join("archived_sessions")).unwrap();
        make_folder(&home, b"archived_sessions", false).unwrap();
    }
}
