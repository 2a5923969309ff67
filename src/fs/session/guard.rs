//! Who ends the calls of a mount whose daemon was killed? A process that does nothing else.
//!
//! When a daemon dies, the kernel ends its mount's calls as soon as the device is closed. But a notice (`inval_entry`)
//! waits in the kernel, unkillably, for the folder that a call holds, and that call waits for us: then the thread of the
//! notice outlives `kill -9`, and with it the table of descriptors, the lock of the home, and every caller, for good.
//! The guard is told by the kernel when the daemon's main thread is gone, and aborts the mount: calls end with
//! ECONNABORTED, and everything else follows.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::is_mounted;

/// Where the kernel shows connections by the minor number of their device, if it is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// Of `linux/mount.h`; libc has them not.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
/// The signal by which the kernel tells the guard.
const TOLD_BY: libc::c_int = libc::SIGUSR1;

/// The guard's process. Dropped before the daemon ends by itself.
#[derive(Debug)]
pub struct Guard {
    process: libc::pid_t,
}

/// What the guard needs, made before the fork: after it nothing may be allocated.
struct Orders {
    target: CString,
    /// The file that ends the connection when it is written to.
    abort: Option<OwnedFd>,
    mount_id: Option<u64>,
    parent: libc::pid_t,
}

impl Guard {
    /// Watches over the thread that calls this, which must live as long as the mount is served. None where there can be
    /// no guard.
    pub fn start(mountpoint: &Path) -> Option<Guard> {
        let info = is_mounted(mountpoint)?;
        let minor = info.minor;
        let target = CString::new(mountpoint.as_os_str().as_bytes()).ok()?;
        let abort = open_abort(minor);
        if let Err(error) = &abort {
            log::debug!("the guard cannot abort the connection by its file: {error}");
        }
        let (abort, mount_id) = (abort.ok(), mount_id(&target));
        let orders = Orders { target, abort, mount_id, parent: std::process::id() as libc::pid_t };
        // Before the kernel writes a core it waits for every thread, also for the one of the notice, and the main thread is
        // not gone then: nobody would be told. Besides, a core would hold what threads say.
        // SAFETY: takes integers.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        let (mut is_armed, arms) = io::pipe().ok()?;
        // SAFETY: the child makes system calls alone, which are async-signal-safe, and never returns.
        match unsafe { libc::fork() } {
            0 => stand_guard(&orders, arms.as_raw_fd()),
            -1 => {
                log::debug!("no guard: {}", std::io::Error::last_os_error());
                None
            }
            process => {
                // A daemon that is killed before the guard asked to be told would never be told of.
                drop(arms);
                let _ = is_armed.read(&mut [0]);
                Some(Guard { process })
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: take integers and a null pointer; the process is our child, not yet waited for.
        unsafe {
            libc::kill(self.process, libc::SIGKILL);
            libc::waitpid(self.process, std::ptr::null_mut(), 0);
        }
    }
}

/// Opens the file that ends the connection of this device.
fn open_abort(minor: u32) -> io::Result<OwnedFd> {
    let open = |path: &Path| OpenOptions::new().write(true).open(path).map(OwnedFd::from);
    match open(Path::new(&format!("{CONNECTIONS}/{minor}/abort"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Not mounted here. Root has a mount of its own, which is nowhere in the tree.
            let control = mount_control()?;
            open(Path::new(&format!("/proc/self/fd/{}/{minor}/abort", control.as_raw_fd())))
        }
        opened => opened,
    }
}

/// Mounts the files that control connections, at no place; needs root, and Linux 5.2.
fn mount_control() -> io::Result<OwnedFd> {
    let owned = |fd: libc::c_long| match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a descriptor that was opened just now, and that nobody else has.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    };
    // SAFETY: system calls with integers, a string and null pointers, as their manual pages want them.
    unsafe {
        let context = owned(libc::syscall(libc::SYS_fsopen, c"fusectl".as_ptr(), FSOPEN_CLOEXEC))?;
        let (none, number) = (std::ptr::null::<libc::c_char>(), context.as_raw_fd());
        if libc::syscall(libc::SYS_fsconfig, number, FSCONFIG_CMD_CREATE, none, none, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        owned(libc::syscall(libc::SYS_fsmount, number, FSMOUNT_CLOEXEC, 0))
    }
}

/// The child. It holds no other descriptor, or it would keep the mount and the lock of the home alive itself.
fn stand_guard(orders: &Orders, arms: libc::c_int) -> ! {
    // SAFETY: system calls with integers, and with strings and sets that outlive them.
    unsafe {
        libc::setsid();
        let mut told: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut told);
        libc::sigprocmask(libc::SIG_SETMASK, &told, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, TOLD_BY);
        libc::write(arms, c"1".as_ptr().cast(), 1);
        // All but the one that ends the connection: others may be pipes that somebody waits on.
        let kept = orders.abort.as_ref().map_or(libc::c_uint::MAX, |abort| abort.as_raw_fd() as libc::c_uint);
        if kept > 0 {
            libc::syscall(libc::SYS_close_range, 0, kept - 1, 0);
        }
        if kept < libc::c_uint::MAX {
            libc::syscall(libc::SYS_close_range, kept + 1, libc::c_uint::MAX, 0);
        }
        libc::prctl(libc::PR_SET_NAME, c"guard".as_ptr());
        libc::sigemptyset(&mut told);
        libc::sigaddset(&mut told, TOLD_BY);
        // If it is not the parent, it was gone before we asked to be told. A wait that was interrupted, as by SIGSTOP and
        // SIGCONT, tells nothing.
        while libc::getppid() == orders.parent && libc::sigwaitinfo(&told, std::ptr::null_mut()) < 0 {}
        let aborted = orders
            .abort
            .as_ref()
            .is_some_and(|abort| libc::write(abort.as_raw_fd(), c"1".as_ptr().cast(), 1) == 1);
        if !aborted && orders.mount_id.is_some() && mount_id(&orders.target) == orders.mount_id {
            // Root can still do it without that file. It says EBUSY and leaves the mount; where nobody uses the mount it
            // takes it away too.
            libc::umount2(orders.target.as_ptr(), libc::MNT_FORCE | libc::UMOUNT_NOFOLLOW);
        }
        libc::_exit(0)
    }
}

/// The kernel's number of the mount at a path, without asking the mount: its daemon may be gone. The unique one where the
/// kernel has it (6.8): the other is used again, and then we would end the calls of the mount that came after.
fn mount_id(target: &CString) -> Option<u64> {
    const STATX_MNT_ID: libc::c_uint = 0x1000;
    const STATX_MNT_ID_UNIQUE: libc::c_uint = 0x4000;
    const AT_STATX_DONT_SYNC: libc::c_int = 0x4000;
    // SAFETY: all zero is a statx; the string and the room for the answer outlive the call.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let flags = AT_STATX_DONT_SYNC | libc::AT_SYMLINK_NOFOLLOW;
        let done = libc::statx(
            libc::AT_FDCWD,
            target.as_ptr(),
            flags,
            STATX_MNT_ID | STATX_MNT_ID_UNIQUE,
            &mut found,
        );
        (done == 0 && found.stx_mask & (STATX_MNT_ID | STATX_MNT_ID_UNIQUE) != 0)
            .then(|| (u64::from(found.stx_dev_minor) << 40) ^ found.stx_mnt_id)
    }
}
