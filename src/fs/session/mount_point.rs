//! May this folder be the mount point of that home, and is a dead mount in the way?
//!
//! May depend on the standard library, libc and the mount table only.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::error::MountError;
use super::mountinfo::{MountInfo, is_mounted};

/// How many links a path may lead through, as in the kernel.
const LINKS_MAX: usize = 40;

/// The folders of a home that the mount reads, and must not cover.
const SERVED_FOLDERS: [&str; 2] = ["sessions", "archived_sessions"];

/// The mode of a mount point that we create.
const CREATED_MODE: u32 = 0o700;

/// Checks that `mountpoint` can show `home`, and returns it absolute and free of links.
///
/// Where only the last component is missing it is created with mode 0700, which the log tells. A
/// folder that is not empty is allowed, with a warning: the mount hides what is in it. Refused are a
/// file, a live mount of ours, and every overlap by which the mount would cover its own files: the home
/// or a folder above it, `sessions` or `archived_sessions` or a folder within, and a home whose
/// `sessions` or `archived_sessions` is a link into the mount point. Elsewhere within the home is fine.
///
/// A dead mount fails here: call [`clear_dead`] first.
pub fn check_mountpoint(home: &Path, mountpoint: &Path) -> Result<PathBuf, MountError> {
    let path = resolve(mountpoint);
    // Before anything that a live but stuck mount would hang on.
    if let Some(info) = is_mounted(&path).filter(|info| info.fs_type == super::FS_TYPE) {
        let source_name = info.source.to_string_lossy().into_owned();
        return Err(MountError::AlreadyMounted { path, source_name });
    }
    if let Some(reason) = overlap(&resolve(home), &path) {
        return Err(MountError::Recursive { path, reason });
    }
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => warn_unless_empty(&path),
        Ok(_) => return Err(MountError::NotADirectory { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(MountError::NotADirectory { path });
        }
        Err(error) => return Err(MountError::io("look at", &path)(error)),
    }
    Ok(path)
}

/// How a mount at `path` would cover the files of `home`; both are resolved.
fn overlap(home: &Path, path: &Path) -> Option<String> {
    let home_name = home.display();
    if path == home {
        return Some(
            "it is the Codex home itself; choose a folder outside, or one within such as `.mnt`".into(),
        );
    }
    if home.starts_with(path) {
        return Some(format!(
            "the Codex home {home_name} lies within it and would be hidden; choose another folder"
        ));
    }
    for folder in SERVED_FOLDERS {
        let served = resolve(&home.join(folder));
        if path.starts_with(&served) || path.starts_with(home.join(folder)) {
            return Some(format!(
                "it lies within {home_name}/{folder}, which is what is mounted; choose a folder outside"
            ));
        }
        if served.starts_with(path) {
            return Some(format!(
                "{home_name}/{folder} is a link to {}, within it, so the mount would serve itself; mount the home \
                 that has the files",
                served.display()
            ));
        }
    }
    None
}

/// Creates a missing mount point in a folder that exists.
fn create(path: &Path) -> Result<(), MountError> {
    match DirBuilder::new().mode(CREATED_MODE).create(path) {
        Ok(()) => log::info!("created the mount point {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(MountError::io("create the mount point", path)(error)),
    }
    Ok(())
}

/// Warns that the mount hides files.
fn warn_unless_empty(path: &Path) {
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        log::warn!("{} is not empty: what is in it is hidden until you unmount", path.display());
    }
}

/// Unmounts a dead FUSE mount at `mountpoint`, of whatever program and user, whose every access fails
/// with ENOTCONN because its daemon is gone. True when there was one. A live mount is left alone.
pub fn clear_dead(mountpoint: &Path) -> Result<bool, MountError> {
    let path = resolve(mountpoint);
    let Some(info) = is_mounted(&path).filter(MountInfo::is_fuse) else {
        return Ok(false);
    };
    if !is_dead(&path, &info) {
        return Ok(false);
    }
    super::detach(&path, super::Requests::Serve)?;
    log::info!("cleared a dead mount of {} at {}", info.source.to_string_lossy(), path.display());
    Ok(true)
}

/// Is the FUSE mount `info` at `path` without a daemon?
///
/// statfs rather than stat, because the kernel answers stat from its cache. It asks the daemon only on
/// behalf of the user who mounted (or of all, with `allow_other`), so root asks in that user's name.
pub(super) fn is_dead(path: &Path, info: &MountInfo) -> bool {
    // ECONNABORTED: it ended while we asked.
    let is_not_connected =
        |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED));
    // Opening just the place needs no right to the mount, and no answer of its daemon.
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
    let place = match place {
        Ok(place) => place,
        Err(error) => return is_not_connected(&error),
    };
    let owner = info.super_number("user_id").zip(info.super_number("group_id"));
    let ask = || statfs(place.as_raw_fd()).err();
    let answer = match owner {
        Some((uid, gid)) if super::is_root() && (uid, gid) != (0, 0) => as_user(uid, gid, ask),
        _ => ask(),
    };
    answer.is_some_and(|error| is_not_connected(&error))
}

/// Asks the filesystem for its numbers, to see whether it answers.
fn statfs(place: i32) -> io::Result<()> {
    let mut numbers = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `numbers` is room for what the kernel writes, and is not read.
    match unsafe { libc::fstatfs(place, numbers.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `ask` in a thread that is the user `uid` and nothing else. The bare system calls change the
/// one thread, which ends here; those of libc would change the whole process.
fn as_user(uid: u32, gid: u32, ask: impl FnOnce() -> Option<io::Error> + Send) -> Option<io::Error> {
    std::thread::scope(|scope| {
        let asking = move || {
            // SAFETY: both take three integers and change the calling thread's credentials only.
            let changed = unsafe {
                libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                    && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            };
            if changed { ask() } else { None }
        };
        std::thread::Builder::new().name("statfs".to_owned()).spawn_scoped(scope, asking).ok()?.join().ok()?
    })
}

/// Makes `path` absolute and free of links, `.` and `..`, as far as it exists; the rest is taken as
/// written. Unlike `canonicalize` it answers for missing paths and for dead mounts, because it asks
/// nothing of the last component but whether it is a link.
pub(super) fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest: VecDeque<OsString> = components(&absolute).collect();
    let mut resolved = PathBuf::from("/");
    let mut links = 0;
    while let Some(component) = rest.pop_front() {
        if component == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&component);
        match fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                for component in components(&target).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(component);
                }
            }
            _ => resolved = next,
        }
    }
    resolved
}

/// The components of `path` that matter: names and `..`.
fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A folder with a home `h` that has both served folders, and a few places to mount on.
    fn sample() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("it exists");
        for path in ["h/sessions/2026", "h/archived_sessions", "h/.mnt", "m/full", "sessions-elsewhere"] {
            fs::create_dir_all(root.join(path)).expect("create");
        }
        fs::write(root.join("file"), "x").expect("write");
        fs::write(root.join("m/full/x"), "x").expect("write");
        symlink("h", root.join("home-link")).expect("link");
        symlink("h/sessions", root.join("sessions-link")).expect("link");
        symlink("m", root.join("m-link")).expect("link");
        symlink("loop", root.join("loop")).expect("link");
        (folder, root)
    }

    /// Home, mount point, and what it resolves to or the words of the refusal.
    #[test]
    fn mount_points_are_accepted_or_refused() {
        let table = [
            ("h", "m", Ok("m")),
            ("h", "m/", Ok("m")),
            ("h", "m/../m/./", Ok("m")),
            ("h", "m-link", Ok("m")),
            ("h", "m/full", Ok("m/full")),
            ("h", "new", Ok("new")),
            ("h", "m-link/new", Ok("m/new")),
            ("h", "h/.mnt", Ok("h/.mnt")),
            ("home-link", "home-link/.mnt", Ok("h/.mnt")),
            ("h", "h/sessions-2", Ok("h/sessions-2")),
            ("h", "new/missing/deep", Err("mkdir -p")),
            ("h", "file", Err("not a directory")),
            ("h", "file/x", Err("not a directory")),
            ("h", "loop", Err("cannot look at")),
            ("h", "h", Err("home itself")),
            ("home-link", "h", Err("home itself")),
            ("h", "home-link/.", Err("home itself")),
            ("h", "", Err("lies within it")),
            ("h", "/", Err("lies within it")),
            ("h", "h/sessions", Err("/h/sessions, which is what is mounted")),
            ("h", "h/sessions/2026", Err("/h/sessions, which is what is mounted")),
            ("h", "h/sessions/new", Err("/h/sessions, which is what is mounted")),
            ("h", "h/archived_sessions", Err("/h/archived_sessions, which is what is mounted")),
            ("h", "sessions-link/2026", Err("/h/sessions, which is what is mounted")),
            ("home-link", "h/.mnt/../sessions", Err("/h/sessions, which is what is mounted")),
        ];
        for (home, mountpoint, expected) in table {
            let (_folder, root) = sample();
            let found = check_mountpoint(&root.join(home), &root.join(mountpoint));
            match (&found, expected) {
                (Ok(path), Ok(expected)) => assert_eq!(path, &root.join(expected), "{home} at {mountpoint}"),
                (Err(error), Err(words)) => {
                    let error = error.to_string();
                    assert!(error.contains(words), "{home} at {mountpoint}: {error}");
                }
                _ => panic!("{home} at {mountpoint}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_refusal_creates_nothing() {
        let (_folder, root) = sample();
        assert!(check_mountpoint(&root.join("h"), &root.join("h/sessions/new")).is_err());
        assert!(!root.join("h/sessions/new").exists());
    }

    #[test]
    fn a_created_mount_point_is_private() {
        let (_folder, root) = sample();
        let path = check_mountpoint(&root.join("h"), &root.join("new")).expect("it is created");
        assert_eq!(fs::metadata(path).expect("it exists").permissions().mode() & 0o7777, CREATED_MODE);
    }

    /// Homes whose served folders are links: into the mount point (not yet there) and elsewhere.
    #[test]
    fn a_home_that_leads_into_the_mount_point_is_refused() {
        for (link, mountpoint, refused) in [
            (".mnt/sessions", "h/.mnt", true),
            ("../m/sessions", "m", true),
            ("../m/sessions", "m-link", true),
            ("../m", "m", true),
            ("../m-link/not/yet", "m", true),
            ("../sessions-elsewhere", "m", false),
            ("../sessions-elsewhere", "sessions-elsewhere", true),
        ] {
            let (_folder, root) = sample();
            fs::remove_dir_all(root.join("h/sessions")).expect("remove");
            symlink(link, root.join("h/sessions")).expect("link");
            let found = check_mountpoint(&root.join("h"), &root.join(mountpoint));
            let is_refused = matches!(found, Err(MountError::Recursive { .. }));
            assert_eq!(is_refused, refused, "{link} at {mountpoint}: {found:?}");
        }
    }

    #[test]
    fn resolve_agrees_with_canonicalize_where_that_answers() {
        let (_folder, root) = sample();
        for path in
            ["m-link/full/x", "home-link/sessions/../.mnt", "sessions-link/..", "/proc/self/../self/fd/.."]
        {
            let path = root.join(path);
            let expected = path.canonicalize().expect("it exists");
            // `/proc/self` is a link to a number.
            assert_eq!(resolve(&path), expected, "{}", path.display());
        }
        assert_eq!(resolve(&root.join("m-link/a/../b")), root.join("m/b"));
        assert_eq!(resolve(&root.join("loop/x")), root.join("loop/x"));
    }

    #[test]
    fn a_plain_folder_is_no_dead_mount() {
        let (_folder, root) = sample();
        for path in ["m", "file", "missing", "missing/deep", "loop"] {
            assert!(!clear_dead(&root.join(path)).expect(path), "{path}");
        }
        assert!(!clear_dead(Path::new("/proc")).expect("proc is no FUSE mount"));
    }
}
