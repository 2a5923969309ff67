//! Who ends the calls of a mount whose daemon was killed? A process that does nothing else.
//!
//! When a daemon dies, the kernel ends its mount's calls as soon as the device is closed. But a notice (`inval_entry`)
//! waits in the kernel, unkillably, for the folder that a call holds, and that call waits for us: then the thread of the
//! notice outlives `kill -9`, and with it the table of descriptors, the lock of the home, and every caller, for good.
//! The guard is told by the kernel when the daemon's main thread is gone, and aborts the mount: calls end with
//! ECONNABORTED, and everything else follows.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::is_mounted;

/// Where the kernel shows connections by the minor number of their device, if it is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
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
    abort: CString,
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
        let abort = CString::new(format!("{CONNECTIONS}/{minor}/abort")).ok()?;
        let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(mountpoint).ok()?;
        let mount_id = mount_id(place.as_raw_fd());
        drop(place);
        let orders = Orders { target, abort, mount_id, parent: std::process::id() as libc::pid_t };
        // SAFETY: the child makes system calls alone, which are async-signal-safe, and never returns.
        match unsafe { libc::fork() } {
            0 => stand_guard(&orders),
            -1 => {
                log::debug!("no guard: {}", std::io::Error::last_os_error());
                None
            }
            process => Some(Guard { process }),
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

/// The child. It holds no descriptor, or it would keep the mount and the lock of the home alive itself.
fn stand_guard(orders: &Orders) -> ! {
    // SAFETY: system calls with integers, and with strings and sets that outlive them.
    unsafe {
        libc::setsid();
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"guard".as_ptr());
        let mut told: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut told);
        libc::sigprocmask(libc::SIG_SETMASK, &told, std::ptr::null_mut());
        libc::sigemptyset(&mut told);
        libc::sigaddset(&mut told, TOLD_BY);
        libc::prctl(libc::PR_SET_PDEATHSIG, TOLD_BY);
        // Else it was gone before we asked to be told.
        if libc::getppid() == orders.parent {
            libc::sigwaitinfo(&told, std::ptr::null_mut());
        }
        // While it is held, no other mount gets its numbers: a new one may be made there at any moment. The first
        // descriptor of a process without any is 0.
        let place = libc::open(orders.target.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC);
        if place == 0 && orders.mount_id.is_some() && mount_id(place) == orders.mount_id {
            let abort = libc::open(orders.abort.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if abort < 0 || libc::write(abort, c"1".as_ptr().cast(), 1) != 1 {
                // Without that file root can still do it. It says EBUSY when it is done: the mount itself stays.
                libc::umount2(c"/proc/self/fd/0".as_ptr(), libc::MNT_FORCE);
            }
        }
        libc::_exit(0)
    }
}

/// The kernel's number of an open place's mount, without asking the mount: its daemon may be gone. The unique one where
/// the kernel has it (6.8): the other is used again, and then we would end the calls of the mount that came after.
fn mount_id(place: libc::c_int) -> Option<u64> {
    const STATX_MNT_ID: libc::c_uint = 0x1000;
    const STATX_MNT_ID_UNIQUE: libc::c_uint = 0x4000;
    const AT_STATX_DONT_SYNC: libc::c_int = 0x4000;
    // SAFETY: all zero is a statx; the string and the room for the answer outlive the call.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let flags = AT_STATX_DONT_SYNC | libc::AT_EMPTY_PATH;
        let wanted = STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
        let done = libc::statx(place, c"".as_ptr(), flags, wanted, &mut found);
        (done == 0 && found.stx_mask & wanted != 0)
            .then(|| (u64::from(found.stx_dev_minor) << 40) ^ found.stx_mnt_id)
    }
}
