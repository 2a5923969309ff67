//! How does `rolloutfs mount` return with the daemon behind it? By starting itself again, and waiting
//! for one word on a pipe.
//!
//! May depend on the standard library and libc only. Starting again rather than forking, because a
//! fork of a process with threads may only exec.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// The hidden option that tells the daemon which descriptor to answer on.
pub(super) const READY_OPTION: &str = "--ready-fd";

/// What the daemon writes when it serves.
const READY: &[u8] = b"ready\n";

/// What precedes the daemon's error.
const FAILED: &[u8] = b"failed\n";

/// The most that is read of the daemon's error, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The mode of a log file that we create: it may quote threads.
const LOG_MODE: u32 = 0o600;

/// The exit code when the daemon gave none.
const EXIT_FAILURE: u8 = 1;

/// The first descriptor that is not standard input, output or error.
const FIRST_FREE_DESCRIPTOR: RawFd = 3;

/// The daemon did not start.
#[derive(Debug, PartialEq, Eq)]
pub struct DaemonError {
    /// What to exit with: the daemon's own code where it had one.
    pub exit_code: u8,
    /// What to print.
    pub text: String,
}

impl fmt::Display for DaemonError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for DaemonError {}

impl From<DaemonError> for String {
    fn from(error: DaemonError) -> String {
        error.text
    }
}

/// Starts this program again with `args` and [`READY_OPTION`], in a session of its own, with `/` as
/// its folder, no input, no output, and standard error at the end of `log_file` or nowhere. Returns
/// its process id when it says that it is ready.
///
/// The option goes before the first `--`, else to the end. Relative paths in `args` must be made
/// absolute by the caller, because the daemon's folder is another; `log_file` is opened here.
pub(super) fn spawn_daemon(args: &[OsString], log_file: Option<&Path>) -> Result<u32, DaemonError> {
    let mut command = Command::new("/proc/self/exe");
    // What `ps` shows, and what a program that looks at its own name sees.
    command.arg0(std::env::args_os().next().unwrap_or_else(|| "rolloutfs".into()));
    start(command, args, log_file)
}

/// [`spawn_daemon`] for any program.
fn start(mut command: Command, args: &[OsString], log_file: Option<&Path>) -> Result<u32, DaemonError> {
    let failed = |what: &str, error: &dyn fmt::Display| DaemonError {
        exit_code: EXIT_FAILURE,
        text: format!("{what}: {error}"),
    };
    let errors = match log_file {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).mode(LOG_MODE).open(path);
            file.map_err(|error| failed(&format!("cannot open the log file {}", path.display()), &error))?
                .into()
        }
        None => Stdio::null(),
    };
    let (ours, theirs) = io::pipe().map_err(|error| failed("cannot make a pipe", &error))?;
    let ready = theirs.as_raw_fd();
    command.args(with_ready_option(args, ready)).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    // SAFETY: the closure only makes system calls, which are async-signal-safe, on a number.
    unsafe { command.pre_exec(move || leave_parent(ready)) };
    let child = command.spawn().map_err(|error| failed("cannot start the daemon", &error))?;
    // The daemon alone must hold this end, or its death would not end our waiting.
    drop(theirs);
    await_answer(child, ours, log_file)
}

/// `args` with the hidden option where it is still read as an option.
fn with_ready_option(args: &[OsString], ready: RawFd) -> Vec<OsString> {
    let at = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let (options, rest) = args.split_at(at);
    let ready = ready.to_string();
    let ours = [OsStr::new(READY_OPTION), OsStr::new(&ready)].map(OsStr::to_owned);
    [options, &ours, rest].concat()
}

/// Between fork and exec: a session of its own, and no descriptor that the parent had by accident (a
/// pipe of the shell would never close) but `ready`.
fn leave_parent(ready: RawFd) -> io::Result<()> {
    // SAFETY: setsid has no arguments. It fails only for a process group leader, which a child is not.
    if unsafe { libc::setsid() } == -1 {
        return Err(io::Error::last_os_error());
    }
    // Flagged, not closed: the standard library reports a failed exec through one of them. Linux before
    // 5.11 does not know the flag; there what is inherited stays.
    // SAFETY: takes integers, and changes only this process's table of descriptors.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_FREE_DESCRIPTOR,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    // SAFETY: F_SETFD takes an integer.
    if unsafe { libc::fcntl(ready, libc::F_SETFD, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits until the daemon is ready, says why not, or dies.
fn await_answer(mut child: Child, pipe: PipeReader, log_file: Option<&Path>) -> Result<u32, DaemonError> {
    let mut answer = vec![];
    let mut pipe = BufReader::new(pipe.take(ANSWER_BYTES_MAX));
    let reading = pipe.read_until(b'\n', &mut answer);
    if reading.is_ok() && answer == READY {
        return Ok(child.id());
    }
    // What cannot be read is missing from the text, no more.
    let _ = pipe.read_to_end(&mut answer);
    let status = child.wait();
    let exit_code = status.as_ref().ok().and_then(ExitStatus::code).and_then(|code| u8::try_from(code).ok());
    let exit_code = exit_code.filter(|code| *code != 0).unwrap_or(EXIT_FAILURE);
    if let Some(text) = answer.strip_prefix(FAILED) {
        return Err(DaemonError { exit_code, text: String::from_utf8_lossy(text).into_owned() });
    }
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let hint = match log_file {
        Some(path) => format!("see {}", path.display()),
        None => "run it with --foreground to see why".to_owned(),
    };
    Err(DaemonError { exit_code, text: format!("the daemon ended without a word ({how}); {hint}") })
}

/// The daemon's end of the pipe that its parent waits on. Dropped without a word, it makes the parent
/// report how the daemon ended.
#[derive(Debug)]
pub(super) struct ReadyPipe(File);

impl ReadyPipe {
    /// Takes over the descriptor given by [`READY_OPTION`]. Fails for one that is no pipe, such as when a
    /// user gives the option by hand.
    pub(super) fn from_fd(fd: RawFd) -> io::Result<ReadyPipe> {
        if fd < FIRST_FREE_DESCRIPTOR {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{READY_OPTION} is not for users"),
            ));
        }
        // SAFETY: takes integers; an unknown descriptor is an error. Programs we start shall not hold it.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, and nobody else owns it: spawn_daemon left it open for us alone.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        if !std::os::unix::fs::FileTypeExt::is_fifo(&file.metadata()?.file_type()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{READY_OPTION} is not for users"),
            ));
        }
        Ok(ReadyPipe(file))
    }

    /// Tells the parent that the mount is served; it returns to its caller.
    pub(super) fn ready(self) {
        self.say(READY, "");
    }

    /// Tells the parent why there is no mount. The process then ends with the code to pass on.
    pub(super) fn failed(self, text: &str) {
        self.say(FAILED, text);
    }

    /// Writes one answer. A parent that is gone is no reason to stop.
    fn say(mut self, word: &[u8], text: &str) {
        let answer = [word, text.as_bytes()].concat();
        if let Err(error) = self.0.write_all(&answer) {
            log::debug!("nobody waits for the daemon: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    /// Starts a shell script as the daemon; in it `$2` is the ready descriptor. Some shells read only one
    /// digit after `>&`, so scripts open it by its path.
    fn start_script(script: &str, log_file: Option<&Path>) -> Result<u32, DaemonError> {
        let args = ["-c", script, "sh"].map(OsString::from);
        start(Command::new("sh"), &args, log_file)
    }

    /// Script, exit code, words of the error.
    #[test]
    fn failures_are_passed_on() {
        for (script, exit_code, words) in [
            ("printf 'failed\\nno such home' >/proc/self/fd/$2; exit 4", 4, "no such home"),
            ("printf 'failed\\nno code' >/proc/self/fd/$2", 1, "no code"),
            ("exit 3", 3, "without a word (exit status: 3)"),
            ("exit 0", 1, "without a word (exit status: 0)"),
            ("kill -9 $$", 1, "signal: 9"),
            ("printf 'rea' >/proc/self/fd/$2; exit 5", 5, "without a word"),
        ] {
            let error = start_script(script, None).expect_err(script);
            assert_eq!(error.exit_code, exit_code, "{script}");
            assert!(error.text.contains(words), "{script}: {error}");
        }
    }

    #[test]
    fn this_program_started_again_with_an_option_it_does_not_know_is_an_error() {
        // The test harness is this program here, and ends with 101.
        let error = spawn_daemon(&["--list".into()], None).expect_err("there is no daemon");
        assert_eq!(error.exit_code, 101, "{error}");
        assert!(error.text.contains("--foreground"), "{error}");
    }

    /// Kills the daemon at the end of its test, and takes it off the list of processes.
    struct Killed(u32);

    impl Drop for Killed {
        fn drop(&mut self) {
            // SAFETY: take integers and a null pointer; the process is our child, not yet waited for.
            unsafe {
                libc::kill(self.0 as i32, libc::SIGKILL);
                libc::waitpid(self.0 as i32, std::ptr::null_mut(), 0);
            }
        }
    }

    /// A daemon that is ready: its session, folder, descriptors and log.
    #[test]
    fn a_daemon_is_detached() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("log");
        std::fs::write(&log, "before\n").expect("write");
        // A pipe that the daemon must not hold open.
        let (reader, writer) = io::pipe().expect("a pipe");
        // SAFETY: F_SETFD takes an integer; the pipe is ours.
        assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        // A child says the word, because a shell moves its own output for a while to do so.
        let script = "echo oops >&2; sh -c \"echo ready >/proc/self/fd/$2\"; exec sleep 60";
        let daemon = Killed(start_script(script, Some(&log)).expect("it is ready"));
        drop((reader, writer));
        let process = Path::new("/proc").join(daemon.0.to_string());
        let stat = std::fs::read_to_string(process.join("stat")).expect("it lives");
        assert_eq!(stat.split(' ').nth(5), Some(daemon.0.to_string().as_str()), "its session");
        let link = |name: &str| std::fs::read_link(process.join(name)).expect("a link");
        for (name, target) in [
            ("cwd", Path::new("/")),
            ("fd/0", Path::new("/dev/null")),
            ("fd/1", Path::new("/dev/null")),
            ("fd/2", &log),
        ] {
            assert_eq!(link(name), target, "{name}");
        }
        assert_eq!(std::fs::read_dir(process.join("fd")).expect("a folder").count(), 4, "and the ready pipe");
        assert_eq!(std::fs::read_to_string(&log).expect("the log"), "before\noops\n");
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let error = start_script("exit 0", Some(Path::new("/no/such/log"))).expect_err("no such folder");
        assert!(error.text.contains("/no/such/log"), "{error}");
    }

    #[test]
    fn the_hidden_option_stands_before_a_double_dash() {
        for (args, expected) in [
            (vec!["mount", "h", "m"], "mount h m --ready-fd 7"),
            (vec!["mount", "-f", "--", "h", "--", "m"], "mount -f --ready-fd 7 -- h -- m"),
            (vec![], "--ready-fd 7"),
        ] {
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            assert_eq!(with_ready_option(&args, 7).join(OsStr::new(" ")), expected);
        }
    }

    #[test]
    fn the_pipe_carries_one_word() {
        for (ready, expected) in [(true, "ready\n"), (false, "failed\nwhy")] {
            let (mut reader, writer) = io::pipe().expect("a pipe");
            let pipe = ReadyPipe::from_fd(OwnedFd::from(writer).into_raw_fd()).expect("a pipe");
            if ready {
                pipe.ready()
            } else {
                pipe.failed("why")
            }
            let mut answer = String::new();
            reader.read_to_string(&mut answer).expect("read");
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn what_is_no_pipe_is_refused() {
        let file = tempfile::tempfile().expect("a temporary file");
        for fd in [-1, 0, 2, 1_000_000, OwnedFd::from(file).into_raw_fd()] {
            assert!(ReadyPipe::from_fd(fd).is_err(), "{fd}");
        }
    }

    #[test]
    fn a_parent_that_is_gone_does_no_harm() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        ReadyPipe::from_fd(OwnedFd::from(writer).into_raw_fd()).expect("a pipe").ready();
    }
}
