//! What do the tests of writing share? A real daemon as a child, writers in processes of their own, and numbered lines.
//!
//! The test process opens nothing below a mount for longer than a call, and a watchdog kills a daemon that answers no more:
//! so nothing waits for good.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A daemon is there after this time, or it is a failure.
const START_MAX: Duration = Duration::from_secs(30);
/// A writer has ended so long after its daemon did, or it is a failure.
pub const WRITER_END_MAX: Duration = Duration::from_secs(20);
/// A daemon that lives longer is taken for one that hangs.
const LIFE_MAX: Duration = Duration::from_secs(1200);
/// The variable that makes a run of this test program a writer.
const WRITER: &str = "ROLLOUTFS_TEST_WRITER";

/// Why the tests of mounts cannot run here, if so.
pub fn reason_to_skip() -> Option<String> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let reason = match device {
        Err(error) => format!("/dev/fuse: {error}"),
        // SAFETY: no arguments, no failure.
        Ok(_) if unsafe { libc::geteuid() } != 0 && which("fusermount3").is_none() => {
            "neither root nor fusermount3".to_owned()
        }
        Ok(_) => return None,
    };
    println!("skipped: {reason}");
    Some(reason)
}

/// Finds a program.
pub fn which(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A number from the environment, for the long versions.
pub fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A home, a place to mount it, and a place for notes.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("rolloutfs-write-").tempdir().unwrap();
        for name in ["home/sessions", "mnt", "notes"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Place { dir }
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn notes(&self) -> PathBuf {
        self.dir.path().join("notes")
    }

    pub fn mount(&self) -> Daemon {
        self.mount_with(&[], &[])
    }

    /// Mounts with environment and arguments.
    pub fn mount_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Daemon {
        Daemon::start(&self.home(), &self.mnt(), environment, arguments)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        clear(&self.mnt());
    }
}

/// The real program, serving; killed and unmounted when dropped.
pub struct Daemon {
    child: Child,
    mnt: PathBuf,
    log: PathBuf,
    leaves_dead_mount: bool,
}

/// What the watchdog looks at: processes and when they have lived long enough.
static WATCHED: Mutex<Vec<(u32, Instant)>> = Mutex::new(Vec::new());

fn watch(process: u32) {
    static IS_RUNNING: AtomicBool = AtomicBool::new(false);
    WATCHED.lock().unwrap().push((process, Instant::now() + LIFE_MAX));
    if !IS_RUNNING.swap(true, Ordering::SeqCst) {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                for (process, _) in WATCHED.lock().unwrap().iter().filter(|(_, end)| *end < Instant::now()) {
                    eprintln!("daemon {process} hangs and is killed");
                    // SAFETY: takes integers; it is a child of ours that nobody has waited for.
                    unsafe { libc::kill(*process as i32, libc::SIGKILL) };
                }
            }
        });
    }
}

impl Daemon {
    fn start(home: &Path, mnt: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Daemon {
        let log = mnt.with_file_name("daemon.log");
        let errors = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rolloutfs"));
        command.args(["mount", "-f"]).args(arguments).arg(home).arg(mnt);
        command.envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().unwrap();
        watch(child.id());
        let mut daemon = Daemon { child, mnt: mnt.to_owned(), log, leaves_dead_mount: false };
        let end = Instant::now() + START_MAX;
        // A dead mount of an earlier daemon may still be there.
        while !is_mounted(mnt) || !is_answered(mnt) {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended at its start ({status}): {}", daemon.log_text());
            }
            assert!(Instant::now() < end, "no mount: {}", daemon.log_text());
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until everything is listed and read.
    pub fn await_settled(&self) {
        let end = Instant::now() + START_MAX;
        while self.status()["progress"]["settled"] != true {
            assert!(Instant::now() < end, "it does not settle: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What `status.json` says; null where it cannot be read whole.
    pub fn status(&self) -> serde_json::Value {
        let text = fs::read(self.mnt.join(".rolloutfs/status.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// What it logged, and earlier daemons of this place.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it at once, as a crash would. The dead mount stays for the next daemon to clear.
    pub fn kill(mut self) {
        self.leaves_dead_mount = true;
    }

    /// Ended by itself?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Unmounts, and waits until it is done.
    pub fn unmount(mut self) {
        // SAFETY: takes integers; it is a child of ours that nobody has waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let end = Instant::now() + START_MAX;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not end: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        WATCHED.lock().unwrap().retain(|(process, _)| *process != self.child.id());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        if !self.leaves_dead_mount {
            clear(&self.mnt);
        }
    }
}

/// Takes away what is mounted there. As root, who waits for an answer from it is freed.
pub fn clear(mnt: &Path) {
    let target = std::ffi::CString::new(mnt.to_str().unwrap()).unwrap();
    if is_mounted(mnt) {
        // SAFETY: the name ends in NUL and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) };
    }
    while is_mounted(mnt) {
        let unmounted = Command::new("fusermount3").arg("-uz").arg(mnt).stderr(Stdio::null()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            break;
        }
    }
}

/// Asks for what the kernel does not keep and what no bare folder has: only a living daemon answers.
fn is_answered(mnt: &Path) -> bool {
    fs::metadata(mnt.join(".rolloutfs/status.json")).is_ok()
}

fn is_mounted(mnt: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let wanted = mnt.to_str().unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == Some(wanted))
}

/// Small, seeded, and good enough to spread things.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

/// What a line is for the rules of recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Meta,
    Response,
    User,
}

/// Line `number` of a writer, about `bytes` long, with a checksum over its filling; ends in a newline.
pub fn line(writer: u64, number: u64, bytes: usize, kind: Kind, thread: &str) -> Vec<u8> {
    let mut random = Random::new(writer.wrapping_mul(0x9E37_79B9).wrapping_add(number) ^ 0x5555);
    let filling: String =
        (0..bytes.saturating_sub(240).max(4)).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
    let sum = xxhash_rust::xxh3::xxh3_64(filling.as_bytes());
    let own = format!("\"w\":{writer},\"n\":{number},\"sum\":\"{sum:016x}\",\"fill\":\"{filling}\"");
    let (kind, payload) = match kind {
        Kind::Meta => (
            "session_meta",
            format!(
                "\"id\":\"{thread}\",\"timestamp\":\"2026-02-08T09:15:01.002Z\",\"cwd\":\"/w\",\
                 \"originator\":\"codex_cli_rs\",\"cli_version\":\"0.99.0\",\"source\":\"cli\""
            ),
        ),
        Kind::Response => ("response_item", "\"type\":\"message\",\"role\":\"assistant\"".to_owned()),
        Kind::User => ("event_msg", "\"type\":\"user_message\",\"message\":\"go\"".to_owned()),
    };
    format!(
        "{{\"timestamp\":\"2026-02-08T09:15:02.401Z\",\"type\":\"{kind}\",\"payload\":{{{payload},{own}}}}}\n"
    )
    .into_bytes()
}

/// Writer and number of a line (without its newline) that is whole; None for any other.
pub fn parse_line(line: &[u8]) -> Option<(u64, u64)> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    let payload = value.get("payload")?;
    let filling = payload.get("fill")?.as_str()?;
    let sum = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(filling.as_bytes()));
    (payload.get("sum")?.as_str()? == sum).then_some(())?;
    Some((payload.get("w")?.as_u64()?, payload.get("n")?.as_u64()?))
}

/// What a writer does to one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub file: PathBuf,
    pub thread: String,
    pub writer: u64,
    /// The first line's number; 1 is a `session_meta`.
    pub first: u64,
    pub lines: u64,
    /// The line that a user wrote; 0 for none.
    pub user_at: u64,
    /// Shortest and longest line.
    pub bytes: (u64, u64),
    /// Where each acknowledged line is noted.
    pub notes: PathBuf,
    /// Sync after each so many lines; 0 for never.
    pub sync_each: u64,
    /// A cut line at the end gets its newline before the first line.
    pub heals: bool,
}

/// Starts a process that does all tasks at once, a thread each.
pub fn start_writer(tasks: &[Task]) -> Writer {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "harness::the_child_that_writes", "--nocapture", "--test-threads=1"])
        .env(WRITER, serde_json::to_string(tasks).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Writer(child)
}

/// A writer's process. It ends with its test.
pub struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a writer; a writer that waits for good is a failure.
pub fn await_writer(writer: Writer) {
    await_writer_within(writer, WRITER_END_MAX);
}

/// Waits for a writer that has much to do.
pub fn await_writer_within(mut writer: Writer, at_most: Duration) {
    let end = Instant::now() + at_most;
    loop {
        if let Some(status) = writer.0.try_wait().unwrap() {
            assert!(status.success(), "the writer: {status}");
            return;
        }
        assert!(Instant::now() < end, "the writer waits for good");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_child_that_writes() {
    let Ok(tasks) = std::env::var(WRITER) else { return };
    let tasks: Vec<Task> = serde_json::from_str(&tasks).unwrap();
    std::thread::scope(|scope| {
        for task in &tasks {
            scope.spawn(|| work(task));
        }
    });
}

/// Notes: `o` opened, `a N` line N is acknowledged, `s N COUNT` a short write, `e N ERRNO` the end.
fn work(task: &Task) {
    let mut notes = OpenOptions::new().create(true).append(true).open(&task.notes).unwrap();
    let mut note = |text: String| notes.write_all(text.as_bytes()).unwrap();
    let folder = task.file.parent().unwrap();
    // A daemon that dies between the two calls of `create_dir_all` makes it say that the folder is there. That it is not
    // may be said by the kernel, which remembers so, after the daemon's death.
    let made = fs::create_dir_all(folder).or_else(|first| match fs::metadata(folder) {
        Err(second) if second.kind() == std::io::ErrorKind::NotFound => Err(first),
        found => found.map(drop),
    });
    let opened = made
        .and_then(|()| OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(&task.file));
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return note(format!("e 0 {}\n", error.raw_os_error().unwrap_or(0))),
    };
    note("o\n".to_owned());
    if task.heals
        && let Err(error) = heal(&mut file)
    {
        return note(format!("e 0 {}\n", error.raw_os_error().unwrap_or(0)));
    }
    let mut random = Random::new(task.writer ^ (task.first << 20) ^ 0x1234_5678);
    for number in task.first..task.first + task.lines {
        let bytes = task.bytes.0 + random.below(task.bytes.1 - task.bytes.0 + 1);
        let kind = match number {
            1 => Kind::Meta,
            _ if number == task.user_at => Kind::User,
            _ => Kind::Response,
        };
        let line = line(task.writer, number, bytes as usize, kind, &task.thread);
        match file.write(&line) {
            Ok(count) if count == line.len() => note(format!("a {number}\n")),
            Ok(count) => return note(format!("s {number} {count}\n")),
            Err(error) => return note(format!("e {number} {}\n", error.raw_os_error().unwrap_or(0))),
        }
        if task.sync_each > 0
            && number % task.sync_each == 0
            && let Err(error) = file.sync_all()
        {
            return note(format!("e {number} {}\n", error.raw_os_error().unwrap_or(0)));
        }
    }
}

/// A line that a crash cut off gets its end, as every program does that appends lines to a file it did not write.
fn heal(file: &mut File) -> std::io::Result<()> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    match text.last() {
        None | Some(b'\n') => Ok(()),
        Some(_) => file.write_all(b"\n"),
    }
}

/// What a writer noted of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    pub is_opened: bool,
    /// The last acknowledged line.
    pub acknowledged: u64,
    /// The line that was taken in part.
    pub short: Option<u64>,
    /// How it ended.
    pub errno: Option<i32>,
}

/// Reads the notes of all writers of one file.
pub fn read_notes(path: &Path) -> Noted {
    let mut noted = Noted::default();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["o"] => noted.is_opened = true,
            ["a", number] => noted.acknowledged = number.parse().unwrap(),
            ["s", number, _] => noted.short = Some(number.parse().unwrap()),
            ["e", _, errno] => noted.errno = Some(errno.parse().unwrap()),
            _ => panic!("a note {line:?}"),
        }
    }
    noted
}
