//! What happens between mount and unmount, whatever the tree is? The mount session: options, the mount
//! point, the descriptor of `/dev/fuse`, the worker threads, signals, and the end.
//!
//! May depend on fuser, libc and the system; never on the store or on the views.
//!
//! We make and end the mount ourselves and hand fuser only the descriptor, because its own unmount
//! (0.18.0) takes down whatever is mounted at the path after somebody else has unmounted ours, and is
//! not lazy for root.

mod error;
mod fusermount;
mod guard;
#[cfg(test)]
mod live_tests;
mod mount_point;
mod mountinfo;
mod options;
mod signals;
mod tuning;

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

pub use error::MountError;
pub use guard::Guard;
pub use mount_point::{check_mountpoint, clear_dead};
pub use mountinfo::{MountInfo, is_mounted, mounts, parse as parse_mounts};
pub use options::{DashO, MountOptions, parse_dash_o, poll_interval};
pub use signals::on_termination;
pub use tuning::{raise_nofile_limit, set_read_ahead};

/// The type our mounts have in `/proc/self/mountinfo`.
pub const FS_TYPE: &str = "fuse.rolloutfs";

/// The device through which the kernel speaks FUSE.
const DEVICE: &str = "/dev/fuse";

/// The most worker threads a mount may have; each holds a request buffer of 16 MiB, lazily touched.
pub const THREADS_MAX: usize = 64;

/// Mounts on `mountpoint` and returns the descriptor that the requests come from.
///
/// Root calls `mount(2)` itself; anybody else goes through the setuid helper `fusermount3`. The
/// mount exists when this returns, but answers nothing until [`run_session`] and [`serve`]. When the
/// descriptor is closed before that, the mount point is dead until [`unmount`] or [`clear_dead`].
/// Call [`check_mountpoint`] first: its canonical path is what belongs here.
pub fn mount(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let metadata =
        mountpoint.metadata().map_err(|source| MountError::from_mount_errno(mountpoint, source))?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory { path: mountpoint.to_owned() });
    }
    if is_root() {
        mount_as_root(mountpoint, metadata.mode() & libc::S_IFMT, options)
    } else {
        fusermount::mount(mountpoint, options)
    }
}

/// Mounts with `mount(2)`, which needs `CAP_SYS_ADMIN`.
fn mount_as_root(mountpoint: &Path, root_mode: u32, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    let data = options.kernel_data(device.as_raw_fd(), root_mode);
    let [source, target, kind, data] = [
        options.fs_name.as_bytes(),
        mountpoint.as_os_str().as_bytes(),
        format!("fuse.{}", options.subtype).as_bytes(),
        data.as_bytes(),
    ]
    .map(CString::new);
    let no_nul = |_| MountError::io("mount on", mountpoint)(io::ErrorKind::InvalidInput.into());
    let (source, target) = (source.map_err(no_nul)?, target.map_err(no_nul)?);
    let (kind, data) = (kind.map_err(no_nul)?, data.map_err(no_nul)?);
    // SAFETY: all four pointers are NUL-terminated strings that live until after the call, and the
    // kernel copies what they point to.
    let outcome = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            options.kernel_flags(),
            data.as_ptr().cast(),
        )
    };
    if outcome != 0 {
        return Err(MountError::from_mount_errno(mountpoint, io::Error::last_os_error()));
    }
    Ok(device)
}

/// Opens `/dev/fuse`; the descriptor is not inherited by programs we start.
fn open_device() -> Result<OwnedFd, MountError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(DEVICE)
        .map(OwnedFd::from)
        .map_err(MountError::from_device_error)
}

/// Unmounts `mountpoint` lazily: the name is gone at once, and the mount session ends when the last
/// open file or working directory below it does. Refuses what is no mount of ours, so that a wrong
/// path never takes down another filesystem. Works on a dead mount.
pub fn unmount(mountpoint: &Path) -> Result<(), MountError> {
    let path = mount_point::resolve(mountpoint);
    let Some(info) = is_mounted(&path) else {
        return Err(MountError::NotMounted { path });
    };
    if info.fs_type != FS_TYPE {
        return Err(MountError::NotOurs { path, fs_type: info.fs_type });
    }
    detach(&path, Requests::Serve)
}

/// What becomes of the requests on their way when the mount goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// Somebody serves them, or nobody is there to wait.
    Serve,
    /// Nobody serves them: they fail at once, where we are root. Otherwise when the descriptors close,
    /// which is when this process ends.
    Abort,
}

/// Lazily unmounts whatever is on top at `path`, which is resolved.
fn detach(path: &Path, requests: Requests) -> Result<(), MountError> {
    if !is_root() {
        return fusermount::unmount(path);
    }
    let target = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| MountError::io("unmount", path)(io::ErrorKind::InvalidInput.into()))?;
    let abort = if requests == Requests::Abort { libc::MNT_FORCE } else { 0 };
    let flags = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW | abort;
    // SAFETY: `target` is a NUL-terminated string that lives until after the call.
    let outcome = unsafe { libc::umount2(target.as_ptr(), flags) };
    if outcome == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Somebody else was faster.
        Some(libc::EINVAL) => Err(MountError::NotMounted { path: path.to_owned() }),
        Some(libc::EPERM) => {
            Err(MountError::NotPermitted { path: path.to_owned(), detail: error.to_string() })
        }
        _ => Err(MountError::io("unmount", path)(error)),
    }
}

/// Answers the kernel's first request and returns the session, not yet running, so that the caller
/// can take its `notifier()` before [`serve`].
///
/// `threads` workers (1 to [`THREADS_MAX`]), each with a descriptor of its own where this user may
/// open `/dev/fuse`. Who may enter is the kernel's decision: without `allow_other` it admits nobody
/// but the user who mounted. fuser repeats that check by user id, and its `Owner` setting would refuse
/// root where the administrator has let root in (`fuse.allow_sys_admin_access`) or where root closes a
/// file it inherited (`sudo cat < file`). So without `allow_other` fuser is told `RootAndOwner`.
///
/// After an error the mount is dead: the caller unmounts it.
pub fn run_session<FS: fuser::Filesystem>(
    fs: FS,
    fd: OwnedFd,
    threads: usize,
    allow_other: bool,
) -> io::Result<fuser::Session<FS>> {
    let mut config = fuser::Config::default();
    config.acl = if allow_other { fuser::SessionACL::All } else { fuser::SessionACL::RootAndOwner };
    config.n_threads = Some(threads.clamp(1, THREADS_MAX));
    // fusermount3 opens the device with rights of its own. Cloning needs ours, and fuser gives up
    // when it fails, so we try first.
    config.clone_fd =
        open_device().inspect_err(|error| log::debug!("one descriptor for all: {error}")).is_ok();
    fuser::Session::from_fd(fs, fd, config.acl, config)
}

/// Serves until `mountpoint` (as [`check_mountpoint`] returned it) is unmounted, by us or by anybody:
/// both are a clean end. Leaves no dead mount point behind when the connection was aborted or a
/// worker failed.
///
/// After an error the caller ends the process soon: a `Notifier` holds the connection open, and who
/// waits for an answer then waits unkillably. For the same reason this process opens no file below
/// its own mount: a child forked meanwhile closes it at exec, and that close asks us.
pub fn serve<FS: fuser::Filesystem>(session: fuser::Session<FS>, mountpoint: &Path) -> io::Result<()> {
    let ours = is_mounted(mountpoint).filter(MountInfo::is_fuse);
    let outcome = session.run();
    let same = |now: &MountInfo| ours.as_ref().is_some_and(|ours| ours.is_same_mount(now));
    if let Some(now) = is_mounted(mountpoint).filter(same) {
        // The kernel reuses mount and device numbers, so after a clean end a mount with our numbers
        // may already be another's: only a dead one is ours. After an error nobody may be left to
        // answer the question, so it is not asked.
        let nobody_serves = outcome.is_err() || mount_point::is_dead(mountpoint, &now);
        if nobody_serves && let Err(error) = detach(mountpoint, Requests::Abort) {
            log::warn!("{error}");
        }
    }
    outcome
}

/// Does this process act as root?
fn is_root() -> bool {
    effective_uid() == 0
}

/// The user id the kernel checks.
fn effective_uid() -> u32 {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
