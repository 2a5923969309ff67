//! How does a test make a system call of the daemon fail, or see which it makes? By `strace`, attached for that time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::{Daemon, which};

/// It is attached after this time, and gone so long after it was told to.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// `strace` on a daemon. Detached when dropped.
pub struct Strace {
    process: Child,
    traced: u32,
    output: PathBuf,
}

/// Why calls of another process cannot be made to fail here, if so.
pub fn reason_to_skip() -> Option<String> {
    if which("strace").is_none() {
        return Some("strace is not installed".to_owned());
    }
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let attached = attach(sleeper.id(), &dir.path().join("out"), &["-e", "trace=write"]);
    let reason = match attached {
        Ok(strace) => {
            drop(strace);
            None
        }
        Err(said) => Some(format!("strace cannot attach: {}", said.trim())),
    };
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    reason
}

/// Attaches to all threads of a process; Err is what strace said.
fn attach(traced: u32, output: &Path, arguments: &[&str]) -> Result<Strace, String> {
    let errors = output.with_extension("err");
    let process = Command::new("strace")
        .args(["-f", "-qq", "-ttt", "-T", "-y", "-s", "0", "-p", &traced.to_string(), "-o"])
        .arg(output)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors).unwrap())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut strace = Strace { process, traced, output: output.to_owned() };
    let end = Instant::now() + WAIT_MAX;
    while !tracers(traced).iter().all(|&tracer| tracer == strace.process.id()) {
        if strace.process.try_wait().unwrap().is_some() {
            return Err(fs::read_to_string(errors).unwrap_or_default());
        }
        assert!(Instant::now() < end, "strace does not attach");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(strace)
}

/// Who traces each thread of a process; 0 for nobody.
fn tracers(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let status = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    status
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok()))
        .collect()
}

impl Strace {
    /// Makes `calls` (names, separated by commas) fail with `errno`, where they name one of `paths` or a descriptor of
    /// one, or always where there are none. `when` as strace's: a number, or empty for each time.
    pub fn fail(
        daemon: &Daemon,
        notes: &Path,
        calls: &str,
        when: &str,
        errno: &str,
        paths: &[PathBuf],
    ) -> Strace {
        // Not every machine has each of them.
        let calls: Vec<_> = calls.split(',').map(|call| format!("?{call}")).collect();
        let calls = calls.join(",");
        let trace = format!("trace={calls}");
        let when = if when.is_empty() { String::new() } else { format!(":when={when}") };
        let inject = format!("inject={calls}:error={errno}{when}");
        let mut arguments = vec!["-e", &trace, "-e", &inject];
        for path in paths {
            arguments.extend(["-P", path.to_str().unwrap()]);
        }
        attach(daemon.pid(), notes, &arguments).unwrap()
    }

    /// Notes these calls.
    pub fn note(daemon: &Daemon, notes: &Path, calls: &str) -> Strace {
        attach(daemon.pid(), notes, &["-e", &format!("trace={calls}")]).unwrap()
    }

    /// Detaches, and answers what it noted.
    pub fn end(mut self) -> String {
        self.detach();
        assert!(tracers(self.traced).iter().all(|&tracer| tracer == 0), "the daemon is still traced");
        fs::read_to_string(&self.output).unwrap()
    }

    fn detach(&mut self) {
        if self.process.try_wait().unwrap().is_some() {
            return;
        }
        // SAFETY: takes integers; it is a child of ours that nobody has waited for.
        unsafe { libc::kill(self.process.id() as i32, libc::SIGINT) };
        let end = Instant::now() + WAIT_MAX;
        while self.process.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.detach();
    }
}

/// A sync that came to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Synced {
    /// `fsync` or `fdatasync`.
    pub call: String,
    /// Of what.
    pub path: PathBuf,
    /// When it was over, seconds since 1970.
    pub ended: f64,
}

/// The syncs in what strace noted, those that succeeded: lines like `7 1.5 fsync(3</a/b>) = 0 <0.01>`.
pub fn syncs(noted: &str) -> Vec<Synced> {
    let mut found = Vec::new();
    let mut begun = std::collections::HashMap::new();
    for line in noted.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [thread, time, rest @ ..] = &words[..] else { continue };
        let text = rest.join(" ");
        let began: f64 = time.parse().unwrap();
        let text = if text.ends_with("<unfinished ...>") {
            begun.insert(thread.to_owned(), (began, text));
            continue;
        } else if text.starts_with("<...") {
            let Some((_, start)) = begun.remove(thread) else { continue };
            start.replace("<unfinished ...>", "") + &text
        } else {
            text
        };
        let Some((call, rest)) = text.split_once('(') else { continue };
        if !call.ends_with("sync") || !text.contains("= 0 <") {
            continue;
        }
        let (_, path) = rest.split_once('<').unwrap();
        let path = path.split_once(">").unwrap().0;
        // A resumed call has the time of its end, a whole one that of its begin.
        let took: f64 = text.rsplit_once('<').unwrap().1.trim_end_matches('>').parse().unwrap();
        let ended = if text.contains("resumed") { began } else { began + took };
        found.push(Synced { call: call.to_owned(), path: path.into(), ended });
    }
    found
}
