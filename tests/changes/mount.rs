//! A mounted home for a test: the real program as a child, which goes when the test ends, also when it fails.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How long a mount may take, under load.
const READY_MAX: Duration = Duration::from_secs(30);
/// After this a mount is taken for hung: its daemon is killed, so that calls in it fail instead of waiting for ever.
const TEST_MAX: Duration = Duration::from_secs(150);
/// Seconds a command may take.
const COMMAND_SECONDS_MAX: &str = "60";

/// A home and its mount.
pub struct Mount {
    dir: tempfile::TempDir,
    at: PathBuf,
    daemon: Option<Daemon>,
}

struct Daemon {
    child: Child,
    // Closed when the daemon is done with: the watchdog ends.
    _watchdog: Sender<()>,
}

/// True if this machine can mount.
pub fn can_mount() -> bool {
    let can = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !can {
        eprintln!("SKIPPED: /dev/fuse cannot be opened here");
    }
    can
}

impl Mount {
    /// Mounts an empty home.
    pub fn new(flags: &[&str]) -> Mount {
        Mount::of(|_| {}, flags)
    }

    /// Makes a home and mounts it.
    pub fn of(make: impl FnOnce(&Path), flags: &[&str]) -> Mount {
        Mount::placed(make, flags, "mnt")
    }

    /// The same with the mount at a path below the temporary folder; the home that is mounted is `home`.
    pub fn placed(make: impl FnOnce(&Path), flags: &[&str], at: &str) -> Mount {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        fs::write(dir.path().join("home/config.toml"), "").unwrap();
        fs::create_dir_all(dir.path().join(at)).unwrap();
        make(&dir.path().join("home"));
        let at = dir.path().join(at);
        let mut mount = Mount { dir, at, daemon: None };
        mount.start(flags);
        mount
    }

    /// Starts the daemon, and waits until everything is read.
    pub fn start(&mut self, flags: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_rolloutfs"))
            .args(["-vv", "mount", "-f"])
            .args(flags)
            .args([&self.home(), &self.at])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let (alive, ended) = channel::<()>();
        let pid = child.id() as i32;
        std::thread::spawn(move || {
            if ended.recv_timeout(TEST_MAX) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a test took too long: its daemon {pid} is killed");
                // SAFETY: a number is passed; the child is ours and not waited for yet.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        });
        self.daemon = Some(Daemon { child, _watchdog: alive });
        let end = Instant::now() + READY_MAX;
        while !self.is_settled() {
            let exited = self.daemon.as_mut().unwrap().child.try_wait().unwrap();
            assert!(exited.is_none() && Instant::now() < end, "not mounted: {exited:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_settled(&self) -> bool {
        let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = self.at.to_str().unwrap();
        if !mounted.lines().any(|line| line.split(' ').nth(4) == Some(at)) {
            return false;
        }
        let status = fs::read(self.path(".rolloutfs/status.json")).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap_or_default();
        status["progress"]["settled"] == true
    }

    /// Kills the daemon and takes its mount away.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
        }
        let _ = Command::new("fusermount3").args(["-uz"]).arg(&self.at).stderr(Stdio::null()).status();
    }

    /// Unmounts in good order.
    pub fn unmount(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let done = Command::new("timeout").args(["20", "fusermount3", "-u"]).arg(&self.at).status().unwrap();
        assert!(done.success());
        let end = Instant::now() + READY_MAX;
        while daemon.child.try_wait().unwrap().is_none() {
            if Instant::now() >= end {
                let _ = daemon.child.kill();
                let _ = daemon.child.wait();
                panic!("the daemon did not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().child.id()
    }

    /// The folder around home and mount.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The home's folder.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A path in the mount.
    pub fn path(&self, path: &str) -> PathBuf {
        self.at.join(path)
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits until the log has this text.
    pub fn logged(&self, text: &str) {
        super::wait_until(&format!("{text:?} in the log"), || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    /// Runs a line of shell in the mount's root, with the home as `$H`.
    pub fn sh(&self, line: &str) -> Output {
        let mut shell = Command::new("timeout");
        shell.args(["-k", "1", COMMAND_SECONDS_MAX, "bash", "-c", line]);
        shell.current_dir(&self.at).env("H", self.home()).env("M", &self.at).env("LC_ALL", "C");
        shell.stdin(Stdio::null()).output().unwrap()
    }

    /// The same, and it must succeed. Standard output.
    pub fn ok(&self, line: &str) -> String {
        let output = self.sh(line);
        assert!(output.status.success(), "{line}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every file and folder below a root of the home and the mount's own trees, for "nothing changed".
    pub fn state(&self) -> String {
        self.ok("cd $H && find . -path ./.rolloutfs/index.sqlite* -prune -o -path ./.rolloutfs/lock -prune -o -type f -print0 | sort -z | xargs -0 md5sum; \
                 cd $M && find . -path ./README.md -prune -o -path ./threads.jsonl -prune -o -printf '%p %y %i %s %l\\n' | sort; \
                 cat $M/threads.jsonl")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The errno of what failed.
pub fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// `renameat2` with flags.
pub fn rename_with(from: &Path, to: &Path, flags: u32) -> std::io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both strings end in NUL and live through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// mtime, nanoseconds.
pub fn mtime_ns(path: &Path) -> i64 {
    let stat = fs::symlink_metadata(path).unwrap();
    stat.mtime() * 1_000_000_000 + stat.mtime_nsec()
}

/// Sets the mtime, seconds.
pub fn set_mtime(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Names in a folder, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
