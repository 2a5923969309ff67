//! Which mounts of ours are there? As the kernel lists them, without touching a mount, which may be dead.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fs::session::{self, MountInfo};

/// A mount of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
    /// The home that it shows.
    pub(crate) home: PathBuf,
}

/// All mounts of ours, as the kernel lists them; none where `/proc` is not there.
pub(crate) fn ours() -> Vec<Mount> {
    ours_of(session::mounts())
}

/// The first mount of this home (a canonical path).
pub(crate) fn of_home(home: &Path) -> Option<Mount> {
    ours().into_iter().find(|mount| mount.home == home)
}

/// The mount of ours at this path.
pub(crate) fn at(path: &Path) -> Option<Mount> {
    // A dead mount cannot be resolved; its absolute path is then what the kernel lists.
    let resolved = fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok()?;
    ours().into_iter().rev().find(|mount| mount.mount_point == resolved)
}

/// The mount of ours that a canonical path lies in.
pub(crate) fn containing<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    mounts.iter().find(|mount| path.starts_with(&mount.mount_point))
}

fn ours_of(mounts: Vec<MountInfo>) -> Vec<Mount> {
    let ours = mounts.into_iter().filter(|info| info.fs_type == session::FS_TYPE);
    ours.map(|info| Mount { mount_point: info.mount_point, home: info.source.into() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:45 / /mnt/a\\040b rw,nosuid shared:7 master:2 - fuse.rolloutfs /home/u/my\\040codex rw,user_id=1000
41 27 0:46 / /mnt/b rw - fuse.sshfs /home/u rw
broken
42 27 0:47 / /mnt/c\\134 rw - fuse.rolloutfs /h rw";

    #[test]
    fn finds_ours_only() {
        let mount = |at: &str, home: &str| Mount { mount_point: at.into(), home: home.into() };
        let mounts = ours_of(session::parse_mounts(TABLE));
        assert_eq!(mounts, [mount("/mnt/a b", "/home/u/my codex"), mount("/mnt/c\\", "/h")]);
        assert_eq!(containing(&mounts, Path::new("/mnt/a b/sessions")), mounts.first());
        assert_eq!(containing(&mounts, Path::new("/mnt/a bc")), None);
    }

    #[test]
    fn a_plain_folder_is_no_mount_of_ours() {
        assert_eq!(at(Path::new("/proc")), None);
        assert_eq!(at(Path::new("/no/such/folder")), None);
    }
}
