//! Can the home be read, does it lead back into a mount, and is there room for the state?

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;

use super::Check;
use super::disk::{Disk, may, shown};
use crate::cli::mounts::{Mount, containing};
use crate::store::ROOTS;
use crate::store::home::{Home, STATE_DIR_NAME};

/// Below this much free space the state is cramped.
const STATE_ROOM_BYTES: u64 = 64 << 20;
/// Below this much the index cannot grow at all.
const STATE_ROOM_BYTES_MIN: u64 = 1 << 20;

/// Do `sessions` and `archived_sessions` lie on a disk, and not in a mount of ours?
pub(super) fn links(home: &Home, mounts: &[Mount]) -> Vec<Check> {
    if let Some(mount) = containing(mounts, home.root()) {
        let found = format!("the home lies in the mount at {}", mount.mount_point.display());
        return vec![Check::problem("home folders", found, home_of(mount))];
    }
    let mut checks: Vec<_> = ROOTS.iter().filter_map(|root| link(home, root, mounts)).collect();
    if checks.is_empty() {
        let there: Vec<_> = ROOTS.iter().filter(|root| home.root().join(root).is_dir()).copied().collect();
        let found = if there.is_empty() { "no threads yet".into() } else { there.join(", ") };
        checks.push(Check::ok("home folders", found));
    }
    checks
}

fn home_of(mount: &Mount) -> String {
    format!("use the home that has the files: --home {}", mount.home.display())
}

/// What is worth telling of one of the two folders.
fn link(home: &Home, root: &str, mounts: &[Mount]) -> Option<Check> {
    let path = home.root().join(root);
    let name = "home folders";
    match fs::canonicalize(&path) {
        Ok(target) if target == path => (!path.is_dir()).then(|| {
            Check::problem(name, format!("{root} is no folder"), format!("move {} away", path.display()))
        }),
        Ok(target) => Some(match containing(mounts, &target) {
            Some(mount) => Check::problem(
                name,
                format!("{root} is a link into the mount at {}", mount.mount_point.display()),
                home_of(mount),
            ),
            None => Check::ok(name, format!("{root} is a link to {}", target.display())),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let target = fs::read_link(&path).ok()?;
            Some(Check::warning(
                name,
                format!("{root} is a link to {}, which is not there", target.display()),
                "mount the disk it is on, or correct the link",
            ))
        }
        Err(error) => Some(Check::problem(
            name,
            format!("{root}: {error}"),
            "see the check of mounts below; else correct the link or its permissions",
        )),
    }
}

/// May everything be read?
pub(super) fn readable(disk: &Disk) -> Check {
    let name = "permissions";
    let (folders, files) = (disk.closed_folders.len(), disk.closed_files_count);
    if folders == 0 && files == 0 {
        let found = format!("all {} files in {} folders may be read", disk.files.len(), disk.folders_count);
        return Check::ok(name, found);
    }
    let first = disk.closed_folders.first().map(|(path, error)| format!("{} ({error})", shown(path)));
    let first = first.or_else(|| disk.closed_file.as_deref().map(shown)).unwrap_or_default();
    Check::problem(
        name,
        format!("{folders} folders and {files} files may not be read, such as {first}"),
        "as their owner or root: `chmod u+rX`, or `chown` them to the user who mounts; `ls -l` says whose they are",
    )
}

/// Can the state folder be written, and is there room?
pub(super) fn state(home: &Home, given: Option<&Path>) -> Check {
    let name = "state folder";
    let folder = given.map(Path::to_owned).or_else(|| home.find_state_dir(None));
    let folder = folder.unwrap_or_else(|| home.root().join(STATE_DIR_NAME));
    let there = existing(&folder);
    if !may(&there, libc::W_OK | libc::X_OK) {
        let found = format!("{} may not be written", there.display());
        return match given {
            Some(_) => Check::problem(name, found, "give another with --state-dir"),
            None => Check::warning(
                name,
                found,
                "the index then goes to the user's state folder (~/.local/state/rolloutfs), or where --state-dir says",
            ),
        };
    }
    match free_bytes(&there) {
        Ok(free) => judge_room(&folder, free),
        Err(error) => {
            Check::warning(name, format!("{}: {error}", there.display()), "see that its disk is mounted")
        }
    }
}

fn judge_room(folder: &Path, free: u64) -> Check {
    let name = "state folder";
    let found = format!("{}, {} free", folder.display(), HumanBytes(free));
    let remedy = "make room, or put the state on another disk with --state-dir";
    match free {
        0..STATE_ROOM_BYTES_MIN => Check::problem(name, found, remedy),
        STATE_ROOM_BYTES_MIN..STATE_ROOM_BYTES => Check::warning(name, found, remedy),
        _ => Check::ok(name, found),
    }
}

/// The folder, or the nearest above it that is there.
fn existing(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/")).to_owned()
}

/// Bytes that an ordinary user can still write there.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut numbers = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is NUL-terminated and `numbers` has room for what the call writes; both outlive it.
    if unsafe { libc::statvfs(path.as_ptr(), numbers.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and filled it.
    let numbers = unsafe { numbers.assume_init() };
    Ok(numbers.f_bavail.saturating_mul(numbers.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Ok, Problem, Warning};
    use super::*;
    use std::os::unix::fs::symlink;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sessions")).unwrap();
        let home = Home::open(dir.path()).unwrap();
        (dir, home)
    }

    #[test]
    fn links_into_a_mount_are_a_problem() {
        let (_dir, home) = home();
        let elsewhere = tempfile::tempdir().unwrap();
        let target = fs::canonicalize(elsewhere.path()).unwrap();
        let archived = home.root().join("archived_sessions");
        let mounts = [Mount { mount_point: target.clone(), home: "/other".into() }];
        assert_eq!(links(&home, &mounts), [Check::ok("home folders", "sessions")]);
        symlink(&target, &archived).unwrap();
        let into = &links(&home, &mounts)[0];
        assert!(into.verdict == Problem && into.remedy.as_deref().unwrap().contains("--home /other"));
        assert_eq!(links(&home, &[])[0].verdict, Ok);
        drop(elsewhere);
        assert_eq!(links(&home, &[])[0].verdict, Warning, "the target is gone");
        let own = [Mount { mount_point: home.root().to_owned(), home: "/other".into() }];
        assert_eq!(links(&home, &own)[0].verdict, Problem);
    }

    #[test]
    fn room_is_judged() {
        for (free, expected) in [(0, Problem), (2 << 20, Warning), (1 << 30, Ok)] {
            assert_eq!(judge_room(Path::new("/s"), free).verdict, expected, "{free}");
        }
        let (dir, home) = home();
        assert_ne!(state(&home, None).verdict, Problem);
        assert!(!dir.path().join(STATE_DIR_NAME).exists(), "nothing is made");
        assert!(existing(&dir.path().join("a/b/c")).ends_with(dir.path().file_name().unwrap()));
    }

    #[test]
    fn closed_folders_and_files_are_counted() {
        let mut disk = Disk::default();
        assert_eq!(readable(&disk).verdict, Ok);
        disk.closed_files_count = 2;
        disk.closed_file = Some(b"sessions/x".to_vec());
        let check = readable(&disk);
        assert!(
            check.verdict == Problem && check.found.contains("2 files") && check.found.contains("sessions/x")
        );
    }
}
