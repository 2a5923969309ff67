//! Why could it not be mounted or unmounted, and what can the user do about it?
//!
//! May depend on the standard library and libc only. The one place that gives `mount(2)`'s errno and
//! fusermount3's texts a meaning.

use std::io;
use std::path::{Path, PathBuf};

/// A mount or unmount that did not happen. Each text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// There is no `/dev/fuse`, or no driver behind it.
    #[error(
        "this kernel offers no FUSE ({detail}): load the module with `sudo modprobe fuse`; in a container, \
         start it with `--device /dev/fuse --cap-add SYS_ADMIN`"
    )]
    DeviceMissing {
        /// What was found.
        detail: String,
    },
    /// `/dev/fuse` is there, but not for this user.
    #[error(
        "/dev/fuse cannot be opened ({detail}): it should be readable and writable by everybody, \
         `sudo chmod 666 /dev/fuse`; in a container, start it with `--device /dev/fuse`"
    )]
    DeviceDenied {
        /// The system's error.
        detail: String,
    },
    /// The setuid helper that mounts for ordinary users is not installed.
    #[error(
        "fusermount3 is not installed, and without it only root can mount: `sudo apt install fuse3` \
         (Fedora: `dnf install fuse3`, Arch: `pacman -S fuse3`)"
    )]
    HelperMissing,
    /// `allow_other` by an ordinary user, which the administrator has not permitted.
    #[error(
        "allow_other is not permitted to ordinary users here: put a line `user_allow_other` into \
         /etc/fuse.conf, or mount without allow_other, or as root"
    )]
    AllowOtherRefused,
    /// The mount point does not exist, nor does the folder it would be created in.
    #[error("mount point {} does not exist: create it with `mkdir -p`", path.display())]
    Missing {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point is a file.
    #[error("mount point {} is not a directory: choose or create an empty one", path.display())]
    NotADirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// An ordinary user may mount only where they may write.
    #[error("mount point {} is not yours ({detail}): choose a folder that you own", path.display())]
    NotOwned {
        /// The mount point.
        path: PathBuf,
        /// What was missing.
        detail: String,
    },
    /// The kernel refused.
    #[error(
        "not permitted at {} ({detail}): run it as the user who mounted or as root; in a container, mounting \
         needs `--cap-add SYS_ADMIN --device /dev/fuse`, and often `--security-opt apparmor=unconfined`",
        path.display()
    )]
    NotPermitted {
        /// The mount point.
        path: PathBuf,
        /// The system's or the helper's words.
        detail: String,
    },
    /// A mount of ours is there already.
    #[error(
        "{} is already mounted there: {}; `rolloutfs unmount {}` ends it", source_name, path.display(), path.display()
    )]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
        /// The home that is mounted.
        source_name: String,
    },
    /// There is nothing to unmount.
    #[error("nothing is mounted at {}: `findmnt -t fuse.rolloutfs` lists the mounts", path.display())]
    NotMounted {
        /// The path given.
        path: PathBuf,
    },
    /// What is mounted there is not ours to unmount.
    #[error("{} is a mount of type {fs_type}, not of rolloutfs: use `umount`", path.display())]
    NotOurs {
        /// The path given.
        path: PathBuf,
        /// The type of what is mounted.
        fs_type: String,
    },
    /// The mount would hide the files it serves, or serve itself.
    #[error("{} cannot be the mount point: {reason}", path.display())]
    Recursive {
        /// The mount point.
        path: PathBuf,
        /// How the two overlap and what to do.
        reason: String,
    },
    /// The administrator's limit for ordinary users is reached.
    #[error("too many FUSE mounts of ordinary users: unmount some, or raise `mount_max` in /etc/fuse.conf")]
    TooMany,
    /// The helper said something we have no better words for.
    #[error("{text}")]
    Helper {
        /// What fusermount3 wrote.
        text: String,
    },
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl MountError {
    /// A function for `map_err` that puts `action` and `path` on an I/O error.
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> MountError + 'a {
        move |source| MountError::Io { action, path: path.to_owned(), source }
    }

    /// What an error of opening `/dev/fuse` means.
    pub(super) fn from_device_error(error: io::Error) -> MountError {
        let detail = error.to_string();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::DeviceMissing { detail },
            Some(libc::EACCES | libc::EPERM) => MountError::DeviceDenied { detail },
            _ => MountError::io("open", Path::new(super::DEVICE))(error),
        }
    }

    /// What an error of `mount(2)`, or of a look at the mount point before it, means.
    pub(super) fn from_mount_errno(path: &Path, error: io::Error) -> MountError {
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.raw_os_error() {
            Some(libc::ENOENT) => MountError::Missing { path },
            Some(libc::ENOTDIR) => MountError::NotADirectory { path },
            Some(libc::EPERM | libc::EACCES) => MountError::NotPermitted { path, detail },
            Some(libc::ENODEV) => MountError::DeviceMissing { detail },
            _ => MountError::io("mount on", &path)(error),
        }
    }

    /// What fusermount3's `text` on its standard error means. An empty text stands for `status`.
    pub(super) fn from_helper(path: &Path, text: &str, status: &str) -> MountError {
        let path = path.to_owned();
        let detail = text.trim().trim_start_matches("fusermount3: ").replace("\nfusermount3: ", "; ");
        let says = |part: &str| detail.contains(part);
        if detail.is_empty() {
            MountError::Helper { text: format!("fusermount3 ended without a word ({status})") }
        } else if says("user_allow_other") {
            MountError::AllowOtherRefused
        } else if says("fuse device not found") || says("unknown filesystem type") {
            MountError::DeviceMissing { detail }
        } else if says("/dev/fuse") && (says("Permission denied") || says("Operation not permitted")) {
            MountError::DeviceDenied { detail }
        } else if says("mount_max") {
            MountError::TooMany
        } else if says("no write access to mountpoint") || says("not owned by user") {
            MountError::NotOwned { path, detail }
        } else if says("No such file or directory") {
            MountError::Missing { path }
        } else if says("Not a directory") || says("not a directory") {
            MountError::NotADirectory { path }
        } else if says("not found in /etc/mtab") || says("not mounted") || says("Invalid argument") {
            MountError::NotMounted { path }
        } else if says("Operation not permitted") || says("Permission denied") {
            MountError::NotPermitted { path, detail }
        } else {
            MountError::Helper { text: format!("fusermount3: {detail}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each text of fusermount3 with the words that must stand in ours.
    #[test]
    fn helper_texts_become_advice() {
        let table = [
            (
                "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n",
                "without allow_other",
            ),
            ("fusermount3: fuse device not found, try 'modprobe fuse' first\n", "modprobe fuse"),
            ("fusermount3: failed to open /dev/fuse: Permission denied\n", "sudo chmod 666 /dev/fuse"),
            (
                "fusermount3: too many FUSE filesystems mounted; mount_max=N can be set in /etc/fuse.conf\n",
                "raise `mount_max`",
            ),
            ("fusermount3: user has no write access to mountpoint /m\n", "choose a folder that you own"),
            ("fusermount3: mountpoint /m not owned by user\n", "choose a folder that you own"),
            ("fusermount3: bad mount point /m: No such file or directory\n", "mkdir -p"),
            ("fusermount3: mount failed: Operation not permitted\n", "--cap-add SYS_ADMIN"),
            ("fusermount3: entry for /m not found in /etc/mtab\n", "nothing is mounted at /m"),
            ("fusermount3: mounting over filesystem type 0x9fa0 is forbidden\n", "0x9fa0 is forbidden"),
            ("", "exit status: 1"),
        ];
        for (text, expected) in table {
            let shown = MountError::from_helper(Path::new("/m"), text, "exit status: 1").to_string();
            assert!(shown.contains(expected), "{text:?} became {shown:?}");
        }
    }

    /// Errno of the device and of the mount with the words that must stand in ours.
    #[test]
    fn errnos_become_advice() {
        let device = |errno| MountError::from_device_error(io::Error::from_raw_os_error(errno)).to_string();
        let mount = |errno| {
            MountError::from_mount_errno(Path::new("/m"), io::Error::from_raw_os_error(errno)).to_string()
        };
        for (shown, expected) in [
            (device(libc::ENOENT), "modprobe fuse"),
            (device(libc::EACCES), "chmod 666"),
            (device(libc::EPERM), "--device /dev/fuse"),
            (device(libc::EMFILE), "cannot open /dev/fuse"),
            (mount(libc::ENOENT), "mkdir -p"),
            (mount(libc::ENOTDIR), "not a directory"),
            (mount(libc::EPERM), "--cap-add SYS_ADMIN"),
            (mount(libc::ENODEV), "modprobe fuse"),
            (mount(libc::ENOMEM), "cannot mount on /m"),
        ] {
            assert!(shown.contains(expected), "{shown:?} lacks {expected:?}");
        }
    }
}
