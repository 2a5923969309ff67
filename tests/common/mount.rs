//! How does a test mount a home? The real program in front, in a process of its own, which ends with the test whatever happens.
#![allow(dead_code, reason = "not every test uses everything")]
#![allow(unreachable_pub, reason = "a module of tests")]

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_rolloutfs");
/// An ordinary user without files.
pub const NOBODY: u32 = 65_534;
/// How long anything may take that ends by itself.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
pub const POLL: Duration = Duration::from_millis(5);
/// A mount older than this is killed: whoever hangs in it gets an error. `ROLLOUTFS_TEST_LIFE_SECONDS` says otherwise.
const MOUNT_LIFE_MAX: Duration = Duration::from_secs(150);
/// An answer that the kernel got before everything was read lives so long, and a little.
const EARLY_ANSWERS_LIFE: Duration = Duration::from_millis(1100);
/// How long the daemon may take to end when it is told to.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// Says why a test did not run, to the terminal and to the list that the caller keeps.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    println!("skipped: {test}: {reason}");
    if let Some(list) = std::env::var_os("ROLLOUTFS_SKIPPED") {
        let file = OpenOptions::new().append(true).create(true).open(list);
        let _ = file.and_then(|mut file| writeln!(file, "skipped: {test}: {reason}"));
    }
}

/// True where a mount can be tried and all these programs are there; says what is missing otherwise.
pub fn can_mount_with(tools: &[&str]) -> bool {
    if !Path::new("/dev/fuse").exists() {
        skipped("there is no /dev/fuse");
        return false;
    }
    let mut needed = tools.to_vec();
    if !is_root() {
        needed.push("fusermount3");
    }
    for tool in needed {
        if !has_tool(tool) {
            skipped(&format!("{tool} is not installed"));
            return false;
        }
    }
    true
}

/// True where a mount can be tried.
pub fn can_mount() -> bool {
    can_mount_with(&[])
}

/// True where the test runs as root; says so otherwise.
pub fn can_be_root() -> bool {
    if !is_root() {
        skipped("it needs root");
    }
    is_root()
}

/// True if the program is found in the path.
pub fn has_tool(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Does this test run as root?
pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Lets ordinary users into `/dev/fuse`, as every distribution does.
pub fn open_device_to_all() {
    let device = Path::new("/dev/fuse");
    let mode = fs::metadata(device).unwrap().permissions().mode();
    if mode & 0o006 != 0o006 {
        println!("notice: /dev/fuse has mode {mode:o}; made 0666 for the tests of ordinary users");
        fs::set_permissions(device, fs::Permissions::from_mode(0o666)).unwrap();
    }
}

/// Waits until `is_true`, and says how long it took.
///
/// # Panics
/// With the text after `at_most`.
pub fn wait_for(what: &str, at_most: Duration, mut is_true: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    loop {
        if is_true() {
            return began.elapsed();
        }
        assert!(began.elapsed() < at_most, "{what}: not within {at_most:?}");
        std::thread::sleep(POLL);
    }
}

/// Waits for a process at most this long; None: it still runs.
pub fn wait_end(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + at_most;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Sends a signal to a process that we started and did not wait for yet.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: takes two integers; the process is ours and not reaped.
    unsafe { libc::kill(pid as i32, signal) };
}

/// The type of the topmost mount at a path (absolute, free of links), asked of the table alone.
pub fn mounted_type(at: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_there = |line: &&str| line.split(' ').nth(4) == at.to_str();
    let line = table.lines().rev().find(is_there)?;
    line.split(" - ").nth(1)?.split(' ').next().map(str::to_owned)
}

/// The words of `rolloutfs mount`.
pub fn mount_command(home: &Path, at: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("mount").args(words).arg("--").args([home, at]).stdin(Stdio::null());
    command
}

/// Runs a program to its end, at most [`WAIT_MAX`], with what it wrote.
pub fn run(command: &mut Command) -> Output {
    let program = command.get_program().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program:?}: {error}"));
    let status = wait_end(&mut child, WAIT_MAX).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} did not end within {WAIT_MAX:?}")
    });
    Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
}

/// What a program wrote, which must have succeeded.
pub fn text_of(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The lines of a text, sorted.
pub fn sorted_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Fails with the first lines that only one of the two has.
pub fn assert_same_lines(left: &[String], right: &[String], what: &str) {
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let known: std::collections::HashSet<_> = b.iter().collect();
        a.iter().filter(|line| !known.contains(line)).take(10).cloned().collect()
    };
    assert_eq!((only(left, right), only(right, left)), (Vec::new(), Vec::new()), "{what}");
    assert_eq!(left.len(), right.len(), "{what}: lines");
}

/// A mounted home. Ends with the test, also with one that failed.
pub struct Mounted {
    child: Child,
    home: PathBuf,
    at: PathBuf,
    log: PathBuf,
    /// Since when everything is read, as far as somebody waited for it.
    settled: std::cell::Cell<Option<Instant>>,
    /// Dropped, it ends the watch over the mount's life.
    _alive: mpsc::Sender<()>,
}

impl Mounted {
    /// Mounts a home at `at` with these options, and waits until everything is read.
    pub fn new(home: &Path, at: &Path, words: &[&str]) -> Mounted {
        let mounted = Mounted::unsettled(home, at, words);
        mounted.wait_settled();
        mounted
    }

    /// Mounts, and waits only until there is a mount.
    pub fn unsettled(home: &Path, at: &Path, words: &[&str]) -> Mounted {
        Mounted::start(home, at, words, |_| {})
    }

    /// The same, with a chance to change the command before it starts.
    pub fn start(home: &Path, at: &Path, words: &[&str], change: impl FnOnce(&mut Command)) -> Mounted {
        fs::create_dir_all(at).unwrap_or_else(|error| {
            // A dead mount is there, and is to be cleared by the program.
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{}: {error}", at.display());
        });
        let log = at.with_extension("log");
        let errors = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        let mut command = mount_command(home, at, &[&["-f"], words].concat());
        command.stdout(Stdio::null()).stderr(errors);
        change(&mut command);
        let child = command.spawn().unwrap();
        let alive = watch_life(child.id());
        let mut mounted = Mounted {
            child,
            home: home.to_owned(),
            at: at.to_owned(),
            log,
            settled: Default::default(),
            _alive: alive,
        };
        mounted.wait_mounted();
        mounted
    }

    fn wait_mounted(&mut self) {
        let status = self.at.join(".rolloutfs/status.json");
        let began = Instant::now();
        // Answered by the new daemon: the dead one before it has another process id, or no answer.
        while read_json(&status).is_none_or(|status| status["pid"] != self.child.id()) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("rolloutfs mount ended with {status}: {}", self.log_text());
            }
            assert!(began.elapsed() < WAIT_MAX, "not mounted in time: {}", self.log_text());
            std::thread::sleep(POLL);
        }
    }

    /// Waits until every file is read.
    pub fn wait_settled(&self) {
        wait_for("everything is read", WAIT_MAX, || self.status()["progress"]["settled"] == true);
        self.settled.set(Some(Instant::now()));
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// A path below the mount.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.at.join(below)
    }

    /// The home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon said.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The status as it is now.
    pub fn status(&self) -> Value {
        read_json(&self.path(".rolloutfs/status.json")).expect("a mount has a status")
    }

    /// All requests so far, and those of each kind. The status is made anew at most twice a second, so this
    /// waits for one that was made after the call.
    pub fn requests(&self) -> (u64, Value) {
        std::thread::sleep(Duration::from_millis(600));
        let requests = self.status()["requests"].clone();
        let kinds = requests.as_object().unwrap().iter();
        let total = kinds.filter(|(kind, _)| !matches!(kind.as_str(), "errors" | "notices"));
        (total.map(|(_, count)| count.as_u64().unwrap()).sum(), requests)
    }

    /// `find MNT -printf` of everything that a listing shows of a node. Waits out the lifetime of what was told
    /// before everything was read: the root's attributes, which every look at the status asks for.
    pub fn find(&self) -> Vec<String> {
        if let Some(settled) = self.settled.get() {
            std::thread::sleep(EARLY_ANSWERS_LIFE.saturating_sub(settled.elapsed()));
        }
        sorted_lines(&text_of(
            Command::new("find")
                .args([".", "-printf", "%p %y %i %s %T@ %n %m %U %G %l\n"])
                .current_dir(&self.at),
        ))
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, number: i32) {
        signal(self.child.id(), number);
    }

    /// Waits until the daemon ended, and tells how.
    pub fn wait_end(&mut self) -> ExitStatus {
        let status = wait_end(&mut self.child, WAIT_MAX);
        status.unwrap_or_else(|| panic!("the daemon does not end: {}", self.log_text()))
    }

    /// Ends the mount as a user does, and checks that it ended well.
    pub fn unmount(mut self) {
        text_of(Command::new(PROGRAM).arg("unmount").arg(&self.at));
        let status = self.wait_end();
        assert!(status.success(), "{status}: {}", self.log_text());
        assert_eq!(mounted_type(&self.at), None);
    }

    /// Kills the daemon at once. The mount point is dead then.
    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.wait_end();
        // The mount stays; the home and the mount point belong to the test.
        self.forget_mount();
    }

    fn forget_mount(&mut self) {
        self.at = PathBuf::new();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon said:\n{}---", self.log_text());
        }
        if self.child.try_wait().ok().flatten().is_none() {
            self.signal(libc::SIGTERM);
            if wait_end(&mut self.child, END_WAIT_MAX).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        if !self.at.as_os_str().is_empty() {
            detach(&self.at);
        }
    }
}

/// Takes away whatever of ours is mounted there, dead or alive.
pub fn detach(at: &Path) {
    while mounted_type(at).as_deref() == Some("fuse.rolloutfs") {
        let done = if is_root() {
            let path = CString::new(at.as_os_str().as_bytes()).unwrap();
            // SAFETY: a NUL-terminated path that lives until after the call.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) == 0 }
        } else {
            let helper = Command::new("fusermount3").arg("-uz").arg(at).stderr(Stdio::null()).status();
            helper.is_ok_and(|status| status.success())
        };
        if !done {
            break;
        }
    }
}

/// A mount point that is freed when the test ends: for mounts that a test makes by hand.
pub struct FreedPoint(pub PathBuf);

impl Drop for FreedPoint {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

/// Kills the process when it lives too long: whoever hangs in its mount then gets an error, and the test fails.
fn watch_life(pid: u32) -> mpsc::Sender<()> {
    let (alive, dropped) = mpsc::channel::<()>();
    let told = std::env::var("ROLLOUTFS_TEST_LIFE_SECONDS").ok().and_then(|text| text.parse().ok());
    let life = told.map_or(MOUNT_LIFE_MAX, Duration::from_secs);
    std::thread::spawn(move || {
        if dropped.recv_timeout(life) == Err(mpsc::RecvTimeoutError::Timeout) {
            signal(pid, libc::SIGKILL);
        }
    });
    alive
}

/// A JSON file, if it is there and whole.
pub fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The lines of `threads.jsonl`, all of which must parse.
pub fn thread_lines(mount: &Path) -> Vec<Value> {
    let text = fs::read(mount.join("threads.jsonl")).unwrap();
    assert!(text.is_empty() || text.ends_with(b"\n"), "the last line is cut");
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
        })
        .collect()
}

/// Names in a folder, in the order of the listing.
pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The inode number at a path, links not followed.
pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).ino()
}

/// True if there is something at the path, be it a link that leads nowhere.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Gives a tree to a user.
pub fn give_to(user: u32, path: &Path) {
    text_of(Command::new("chown").args(["-hR", &format!("{user}:{user}")]).arg(path));
}

/// Lets everybody pass through a folder to what they may reach below.
pub fn open_folder(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What a command does as another user; run by root.
pub fn as_user(user: u32, program: impl AsRef<OsStr>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.uid(user).gid(user).current_dir("/").env_remove("HOME").env_remove("CODEX_HOME");
    command
}

/// Runs one test of this binary again as an ordinary user, where we are root. It must pass there.
pub fn rerun_as_nobody(test: &str) {
    open_device_to_all();
    let own = std::env::current_exe().unwrap();
    for program in [own.as_path(), Path::new(PROGRAM)] {
        if !run(as_user(NOBODY, "test").arg("-x").arg(program)).status.success() {
            skipped(&format!("user {NOBODY} cannot run {}", program.display()));
            return;
        }
    }
    if !has_tool("fusermount3") {
        skipped("fusermount3 is not installed");
        return;
    }
    let output = run(as_user(NOBODY, own).args(["--exact", test, "--nocapture", "--test-threads=1"]));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "as user {NOBODY}: {text}");
    print!("{text}");
}

/// After a kill of the daemon: what is left of the mount answers no call, and none waits for good. Its guard ends the
/// connection and, where it has no other means, the mount with it.
pub fn assert_nobody_answers(at: &Path) {
    let error = fs::metadata(at.join("README.md")).unwrap_err();
    let ended = [libc::ENOTCONN, libc::ECONNABORTED, libc::ENOENT];
    assert!(error.raw_os_error().is_some_and(|errno| ended.contains(&errno)), "{error}");
}
