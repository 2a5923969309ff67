//! How does an ordinary user mount and unmount? Through the setuid helper `fusermount3`, which sends
//! the descriptor of `/dev/fuse` over a socket.
//!
//! May depend on the standard library and libc only.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::error::MountError;
use super::options::MountOptions;

/// Where the helper is when PATH does not lead to it: a daemon's PATH may be empty, and NixOS keeps
/// setuid programs apart.
const HELPERS: &[&str] =
    &["fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3", "/run/wrappers/bin/fusermount3"];

/// The environment variable that tells the helper which descriptor to answer on.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// The most that is kept of what the helper writes, in bytes.
const HELPER_TEXT_BYTES_MAX: u64 = 16 * 1024;

/// Mounts on `mountpoint`, which is absolute.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::io("mount on", mountpoint)(source);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let text = options.helper_text();
    let arguments = [OsStr::new("-o"), OsStr::new(&text), OsStr::new("--"), mountpoint.as_os_str()];
    let child =
        start(&arguments, Some(theirs.as_raw_fd())).map_err(|error| not_started(mountpoint, error))?;
    // The helper alone must hold its end, or its death would not end our waiting.
    drop(theirs);
    let received = receive_descriptor(&ours);
    drop(ours);
    let (success, status, text) = finish(child).map_err(failed)?;
    match received {
        Ok(Some(device)) => {
            if !text.is_empty() {
                log::debug!("{}", text.trim());
            }
            Ok(device)
        }
        Ok(None) if success => Err(failed(io::Error::other("fusermount3 sent no descriptor"))),
        Ok(None) => Err(MountError::from_helper(mountpoint, &text, &status)),
        Err(error) => Err(failed(error)),
    }
}

/// Lazily unmounts `mountpoint`, which is absolute.
pub(super) fn unmount(mountpoint: &Path) -> Result<(), MountError> {
    let arguments = [OsStr::new("-u"), OsStr::new("-z"), OsStr::new("--"), mountpoint.as_os_str()];
    let child = start(&arguments, None).map_err(|error| not_started(mountpoint, error))?;
    let (success, status, text) = finish(child).map_err(MountError::io("unmount", mountpoint))?;
    if success { Ok(()) } else { Err(MountError::from_helper(mountpoint, &text, &status)) }
}

/// Why the helper did not start.
fn not_started(mountpoint: &Path, error: io::Error) -> MountError {
    if error.kind() == io::ErrorKind::NotFound {
        return MountError::HelperMissing;
    }
    MountError::io("start fusermount3 for", mountpoint)(error)
}

/// Starts the first helper found, with `socket` left open in it.
fn start(arguments: &[&OsStr], socket: Option<RawFd>) -> io::Result<Child> {
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for helper in HELPERS {
        let mut command = Command::new(helper);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(socket) = socket {
            command.env(SOCKET_VARIABLE, socket.to_string());
            // SAFETY: fcntl is async-signal-safe, and the closure touches nothing but a number.
            unsafe { command.pre_exec(move || keep_open_over_exec(socket)) };
        }
        outcome = command.spawn();
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
    outcome
}

/// Clears the close-on-exec flag of `descriptor`; for the time between fork and exec.
fn keep_open_over_exec(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an integer and changes only this process's table of descriptors.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits for the helper: whether it succeeded, how it ended, and what it wrote.
fn finish(mut child: Child) -> io::Result<(bool, String, String)> {
    let mut text = vec![];
    if let Some(stderr) = child.stderr.take() {
        stderr.take(HELPER_TEXT_BYTES_MAX).read_to_end(&mut text)?;
    }
    let status = child.wait()?;
    Ok((status.success(), status.to_string(), String::from_utf8_lossy(&text).into_owned()))
}

/// Receives the descriptor that the helper sends; `None` when it closes its end without one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Room for one descriptor, aligned as a control message header.
    let mut control = [MaybeUninit::<libc::cmsghdr>::zeroed(); 4];
    // SAFETY: a msghdr of zeros is a valid empty one: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let received = loop {
        // SAFETY: the message points to buffers on this stack, with their true lengths.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        let error = io::Error::last_os_error();
        match received {
            -1 if error.kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(error),
            _ => break received,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel filled `message`, and CMSG_FIRSTHDR answers null where it holds no header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: a header that is not null lies within `control`.
    let Some(header) = (unsafe { header.as_ref() }) else {
        return Ok(None);
    };
    // SAFETY: CMSG_LEN only computes.
    let one_descriptor = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) };
    let is_rights = header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS;
    if !is_rights || (header.cmsg_len as u64) < u64::from(one_descriptor) {
        return Ok(None);
    }
    // SAFETY: the message is long enough for one descriptor, which the kernel opened for us alone.
    let descriptor =
        unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()) };
    Ok(Some(descriptor))
}
