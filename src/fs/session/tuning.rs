//! Which limits of the system are worth raising for a mount?
//!
//! May depend on libc and the mount table only. Nothing here may fail a mount.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::{MountInfo, is_mounted};

/// How far the kernel reads ahead on our mounts, in KiB; its default of 128 makes eight times as many
/// requests of a long read.
const READ_AHEAD_KIB: u32 = 1024;

/// Raises the soft limit of open files to the hard one, for the descriptors of the files below.
/// Returns the limit that now holds.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit to write to.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a valid rlimit to read from.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Has the kernel read 1 MiB ahead on the mount at `mountpoint`. Only root may say so, and only where
/// `/sys` is writable; elsewhere the default stays.
pub fn set_read_ahead(mountpoint: &Path) {
    let Some(info) = is_mounted(mountpoint).filter(MountInfo::is_fuse) else {
        return log::debug!("no read-ahead for {}: not a FUSE mount", mountpoint.display());
    };
    let path = read_ahead_file(&info);
    if let Err(error) = fs::write(&path, READ_AHEAD_KIB.to_string()) {
        log::debug!("cannot write {}: {error}", path.display());
    }
}

/// The file that holds a mount's read-ahead.
pub(super) fn read_ahead_file(info: &MountInfo) -> PathBuf {
    PathBuf::from(format!("/sys/class/bdi/{}:{}/read_ahead_kb", info.major, info.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_once_and_for_all() {
        let first = raise_nofile_limit().expect("getrlimit and setrlimit work");
        assert!(first > 0);
        assert_eq!(raise_nofile_limit().expect("again"), first);
    }

    #[test]
    fn no_read_ahead_where_nothing_is_mounted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        set_read_ahead(folder.path());
        set_read_ahead(Path::new("/proc"));
    }
}
