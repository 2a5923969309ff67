//! Does the program do what its help says, as far as it needs no mount? Each test runs the real binary on a made home.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const COMMANDS: [&str; 21] = [
    "record",
    "mount",
    "unmount",
    "index",
    "list",
    "latest",
    "show",
    "archive",
    "unarchive",
    "name",
    "unname",
    "fork",
    "trash",
    "status",
    "watch",
    "pending",
    "persist",
    "doctor",
    "sample-home",
    "completions",
    "man",
];
/// How long a process may take that has little to do.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Long enough to see that a process waits.
const MOMENT: Duration = Duration::from_millis(700);
/// An ordinary user without files.
const NOBODY: u32 = 65_534;

/// A home with five rollouts: three active (one torn), one archived, one damaged; the first has a name.
struct MadeHome {
    dir: tempfile::TempDir,
}

fn id(number: u32) -> String {
    format!("0198c0de-0000-7000-8000-{number:012}")
}

fn rollout(number: u32) -> String {
    let id = id(number);
    let header = serde_json::json!({
        "timestamp": "2026-01-02T03:04:05.000Z", "type": "session_meta",
        "payload": {"id": id, "timestamp": "2026-01-02T03:04:05.000Z", "cwd": "/src/app", "originator": "codex_cli_rs",
            "cli_version": "0.101.0", "source": "cli", "model_provider": "openai"},
    });
    let message = serde_json::json!({
        "timestamp": "2026-01-02T03:04:06.000Z", "type": "event_msg",
        "payload": {"type": "user_message", "message": format!("question {number}")},
    });
    format!("{header}\n{message}\n")
}

impl MadeHome {
    fn new() -> MadeHome {
        let home = MadeHome { dir: tempfile::tempdir().unwrap() };
        let day = home.root().join("sessions/2026/01/02");
        fs::create_dir_all(&day).unwrap();
        fs::create_dir(home.root().join("archived_sessions")).unwrap();
        fs::write(home.file(1), rollout(1)).unwrap();
        fs::write(home.file(2), rollout(2)).unwrap();
        fs::write(home.file(3), rollout(3) + "{\"timestamp\":\"2026-01-02T").unwrap();
        let archived = format!("archived_sessions/rollout-2026-01-02T03-04-05-{}.jsonl", id(4));
        fs::write(home.root().join(archived), rollout(4)).unwrap();
        let damaged = format!("rollout-2026-01-02T03-04-05-{}.jsonl.zst", id(5));
        fs::write(day.join(damaged), "this is not zstd").unwrap();
        let named =
            serde_json::json!({"id": id(1), "thread_name": "planb", "updated_at": "2026-01-02T03:04:07Z"});
        fs::write(home.root().join("session_index.jsonl"), format!("{named}\n")).unwrap();
        home
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, number: u32) -> PathBuf {
        let name = format!("rollout-2026-01-02T03-04-05-{}.jsonl", id(number));
        self.root().join("sessions/2026/01/02").join(name)
    }

    fn index_file(&self) -> PathBuf {
        self.root().join(".rolloutfs/index.sqlite")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).env("CODEX_HOME", self.root());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        json_of(&self.run(arguments))
    }

    /// Takes the lock of the state folder, as a mount does.
    fn hold(&self) -> File {
        fs::create_dir_all(self.root().join(".rolloutfs")).unwrap();
        let lock = self.root().join(".rolloutfs/lock");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(lock).unwrap();
        // SAFETY: flock on a descriptor that `file` owns.
        assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
        file.write_all(b"process 1 (mounted at /mnt/codex)\n").unwrap();
        file
    }

    fn set_backfill(&self, status: &str) {
        let connection = rusqlite::Connection::open(self.index_file()).unwrap();
        connection.busy_timeout(WAIT_MAX).unwrap();
        connection.execute("UPDATE backfill_state SET status = ?1", [status]).unwrap();
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rolloutfs"));
    command.stdin(Stdio::null()).env_remove("CODEX_HOME").env_remove("RUST_LOG").env("HOME", "/nonexistent");
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:?} {}", stdout(output), stderr(output)))
}

fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// Ends a process that should have ended by itself.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Running {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn output(mut self) -> Output {
        use std::io::Read;
        let end = Instant::now() + WAIT_MAX;
        while !self.has_ended() {
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let Some(mut pipe) = self.0.stdout.take() {
            pipe.read_to_end(&mut stdout).unwrap();
        }
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_command_has_help_and_the_main_help_has_the_exit_codes() {
    for command in COMMANDS {
        let output = program().args([command, "--help"]).output().unwrap();
        assert_eq!(code(&output), 0, "{command}");
        assert!(stdout(&output).contains(&format!("Usage: rolloutfs {command}")), "{}", stdout(&output));
    }
    let help = stdout(&program().arg("--help").output().unwrap());
    for wanted in COMMANDS.iter().chain(&["Exit codes:", "130"]) {
        assert!(help.contains(wanted), "{wanted} is not in {help}");
    }
    assert!(stdout(&program().arg("--version").output().unwrap()).starts_with("rolloutfs "));
}

#[test]
fn wrong_usage_exits_with_2() {
    let table: [&[&str]; 7] = [
        &[],
        &["no-such-command"],
        &["index", "--no-such-flag"],
        &["unmount"],
        &["completions", "no-such-shell"],
        &["completions"],
        &["-v", "-q", "doctor"],
    ];
    for arguments in table {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn what_is_no_home_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    for home in [dir.path().to_owned(), dir.path().join("none"), dir.path().join("notes.txt")] {
        for command in ["index", "status"] {
            let output = program().arg(command).env("CODEX_HOME", &home).output().unwrap();
            assert_eq!(code(&output), 1, "{command} {}", home.display());
            let said = stderr(&output);
            assert!(said.starts_with("rolloutfs: ") && said.contains("is not a Codex home"), "{said}");
        }
    }
    let output = program().arg("index").env_remove("HOME").output().unwrap();
    assert!(code(&output) == 1 && stderr(&output).contains("set CODEX_HOME"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is made");
}

#[test]
fn index_counts_and_names_what_cannot_be_read() {
    let home = MadeHome::new();
    let summary = home.json(&["index", "--json"]);
    for (pointer, expected) in [
        ("/counts/rollouts", 5),
        ("/counts/archived", 1),
        ("/counts/compressed", 1),
        ("/counts/unread", 0),
        ("/counts/failed", 1),
        ("/counts/torn", 1),
        ("/counts/named", 1),
        ("/failures_omitted", 0),
    ] {
        assert_eq!(
            summary.pointer(pointer).and_then(Value::as_i64),
            Some(expected),
            "{pointer}: {summary:#}"
        );
    }
    assert_eq!(summary["backfill"]["status"], "complete");
    assert_eq!(summary["indexed_by"], "this process");
    let failures = summary["failures"].as_array().unwrap();
    assert!(failures.len() == 1 && failures[0]["path"].as_str().unwrap().contains(&id(5)), "{failures:?}");
    assert!(failures[0]["error"].as_str().unwrap().contains("decompress"), "{failures:?}");

    fs::write(home.file(6), rollout(6)).unwrap();
    fs::remove_file(home.file(2)).unwrap();
    fs::remove_file(home.file(3)).unwrap();
    let again = home.json(&["index", "--json"]);
    assert_eq!(again["counts"]["rollouts"], 4, "{again:#}");
    let output = home.run(&["index"]);
    let words = stdout(&output);
    assert_eq!(code(&output), 0);
    assert!(words.contains("rollouts:") && words.contains(&id(5)) && !words.contains('{'), "{words}");
}

#[test]
fn an_ordinary_user_is_told_which_file_may_not_be_read() {
    let home = MadeHome::new();
    let closed = home.file(1);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // Where the build lies another user may have no way in.
    let program = home.root().join("rolloutfs");
    fs::copy(env!("CARGO_BIN_EXE_rolloutfs"), &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env("CODEX_HOME", home.root()).env("HOME", "/nonexistent");
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.output().unwrap()
    };
    if is_root() {
        let chowned =
            Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(home.root()).status().unwrap();
        assert!(chowned.success());
    }
    let summary = json_of(&run(&["index", "--json"]));
    assert_eq!(summary["counts"]["failed"], 2, "{summary:#}");
    assert!(summary["failures"][0]["error"].as_str().unwrap().contains("Permission denied"), "{summary:#}");
    let output = run(&["doctor", "--json"]);
    let checks = json_of(&output);
    let permissions =
        checks.as_array().unwrap().iter().find(|check| check["check"] == "permissions").unwrap();
    assert_eq!((permissions["verdict"].as_str(), code(&output)), (Some("problem"), 5), "{checks:#}");
    assert!(permissions["found"].as_str().unwrap().contains(&id(1)), "{permissions}");
}

#[test]
fn rebuild_makes_another_index_and_is_refused_while_a_mount_has_the_home() {
    let home = MadeHome::new();
    home.json(&["index", "--json"]);
    let mark = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.query_row("SELECT count(*) FROM meta WHERE key = 'mark'", [], |row| row.get::<_, i64>(0))
    };
    let connection = rusqlite::Connection::open(home.index_file()).unwrap();
    connection.execute("INSERT INTO meta VALUES ('mark', 1)", []).unwrap();
    drop(connection);
    home.json(&["index", "--json"]);
    assert_eq!(mark(&home.index_file()), Ok(1), "the index is kept");

    let held = home.hold();
    let refused = home.run(&["index", "--rebuild"]);
    assert_eq!(code(&refused), 4, "{}", stderr(&refused));
    let said = stderr(&refused);
    assert!(said.contains("mounted at /mnt/codex") && said.contains("rolloutfs unmount"), "{said}");
    assert_eq!(mark(&home.index_file()), Ok(1));
    drop(held);

    let summary = home.json(&["index", "--rebuild", "--json"]);
    assert_eq!(summary["counts"]["rollouts"], 5);
    assert_eq!(mark(&home.index_file()), Ok(0), "the index is another one");
}

#[test]
fn index_reports_what_a_mount_has_read() {
    let home = MadeHome::new();
    home.json(&["index", "--json"]);
    let _held = home.hold();
    let summary = home.json(&["index", "--json"]);
    assert_eq!(summary["counts"]["rollouts"], 5);
    assert_eq!(summary["indexed_by"], "process 1 (mounted at /mnt/codex)");
}

#[test]
fn index_waits_for_the_mount_that_is_at_it() {
    let home = MadeHome::new();
    home.json(&["index", "--json"]);
    let _held = home.hold();
    home.set_backfill("running");
    let mut waiting = Running::start(home.command(&["index", "--json"]));
    std::thread::sleep(MOMENT);
    assert!(!waiting.has_ended(), "the backfill is not complete");
    home.set_backfill("complete");
    let output = waiting.output();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(json_of(&output)["indexed_by"].as_str().unwrap().contains("/mnt/codex"));
}

#[test]
fn index_goes_on_where_the_mount_that_was_at_it_is_gone() {
    let home = MadeHome::new();
    home.json(&["index", "--json"]);
    let held = home.hold();
    home.set_backfill("running");
    let mut waiting = Running::start(home.command(&["index", "--json"]));
    std::thread::sleep(MOMENT);
    assert!(!waiting.has_ended());
    drop(held);
    let summary = json_of(&waiting.output());
    assert_eq!(summary["indexed_by"], "this process");
    assert_eq!(summary["backfill"]["status"], "complete");
}

#[test]
fn a_signal_ends_the_wait_with_its_own_exit_code() {
    for (signal, expected) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let home = MadeHome::new();
        home.json(&["index", "--json"]);
        let _held = home.hold();
        home.set_backfill("running");
        let waiting = Running::start(home.command(&["index"]));
        std::thread::sleep(MOMENT);
        // SAFETY: a signal to a child that is not waited for yet, so its number is not another's.
        assert_eq!(unsafe { libc::kill(waiting.0.id() as libc::pid_t, signal) }, 0);
        let output = waiting.output();
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn two_at_once_are_both_right() {
    let home = MadeHome::new();
    let both = [(); 2].map(|()| Running::start(home.command(&["index", "--json"])));
    for output in both.map(Running::output) {
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(json_of(&output)["counts"]["rollouts"], 5);
    }
}

#[test]
fn status_without_a_mount_tells_of_the_index() {
    let home = MadeHome::new();
    let before = home.json(&["status", "--json"]);
    assert_eq!((&before["mounted"], &before["state_dir"]), (&Value::Bool(false), &Value::Null));
    assert!(before["advice"].as_str().unwrap().contains("rolloutfs index"));
    assert!(!home.root().join(".rolloutfs").exists(), "nothing is made");
    home.json(&["index", "--json"]);
    let after = home.json(&["status", "--json"]);
    assert_eq!((&after["counts"]["rollouts"], &after["advice"]), (&5.into(), &Value::Null), "{after:#}");
    assert!(after["index_bytes"].as_i64().unwrap() > 0 && after["index_written_at"].as_i64().unwrap() > 0);
    let words = stdout(&home.run(&["status"]));
    assert!(words.contains("mounted:") && words.contains("KiB") && words.contains("complete"), "{words}");
}

#[test]
fn what_is_not_mounted_is_not_found() {
    let home = MadeHome::new();
    for command in ["status", "unmount"] {
        let output = home.run(&[command, home.root().to_str().unwrap()]);
        assert_eq!(code(&output), 3, "{}", stderr(&output));
        assert!(stderr(&output).contains("nothing is mounted"), "{}", stderr(&output));
    }
}

/// All files below, with size, time and content.
fn snapshot(dir: &Path) -> Vec<(PathBuf, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, status) = (entry.path(), entry.metadata().unwrap());
        if status.is_dir() {
            found.extend(snapshot(&path));
        }
        let content = if status.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.push((path, status.mtime(), status.mtime_nsec(), content));
    }
    found.sort();
    found
}

fn index_check(home: &MadeHome) -> (String, String) {
    let checks = home.json(&["doctor", "--json"]);
    let check = checks.as_array().unwrap().iter().find(|check| check["check"] == "index").unwrap().clone();
    let text = |key: &str| check[key].as_str().unwrap().to_owned();
    (text("verdict"), text("found"))
}

#[test]
fn doctor_says_how_each_thing_is_and_its_exit_follows() {
    let home = MadeHome::new();
    let output = home.run(&["doctor", "--json"]);
    let checks = json_of(&output);
    let mut problems = 0;
    for check in checks.as_array().unwrap() {
        let verdict = check["verdict"].as_str().unwrap();
        assert!(["ok", "warning", "problem"].contains(&verdict), "{check}");
        assert!(check["check"].is_string() && check["found"].is_string(), "{check}");
        assert_eq!(check["remedy"].is_string(), verdict != "ok", "{check}");
        problems += usize::from(verdict == "problem");
    }
    assert_eq!(code(&output), if problems > 0 { 5 } else { 0 }, "{checks:#}");
    for wanted in [
        "/dev/fuse",
        "fusermount3",
        "/etc/fuse.conf",
        "kernel",
        "home",
        "home folders",
        "state folder",
        "permissions",
        "inotify watches",
        "index",
        "mounts",
    ] {
        assert!(
            checks.as_array().unwrap().iter().any(|check| check["check"] == wanted),
            "{wanted}: {checks:#}"
        );
    }
    assert!(stdout(&home.run(&["doctor"])).contains("ok       home"));
    let nowhere = program().args(["doctor", "--json"]).output().unwrap();
    assert_eq!(code(&nowhere), 5);
}

#[test]
fn doctor_compares_the_index_with_the_disk_and_touches_nothing() {
    let home = MadeHome::new();
    let before = snapshot(home.root());
    let (verdict, found) = index_check(&home);
    assert!(verdict == "ok" && found.contains("none yet"), "{found}");
    assert_eq!(snapshot(home.root()), before);

    home.json(&["index", "--json"]);
    fs::write(home.file(6), rollout(6)).unwrap();
    fs::write(home.file(1), rollout(1) + "{}\n").unwrap();
    fs::remove_file(home.file(2)).unwrap();
    let before = snapshot(home.root());
    let (verdict, found) = index_check(&home);
    assert_eq!(verdict, "warning");
    for expected in
        ["1 on disk but not in it", "1 in it but not on disk", "1 changed since", "1 could not be read"]
    {
        assert!(found.contains(expected), "{found}");
    }
    assert_eq!(snapshot(home.root()), before, "doctor never writes");

    fs::write(home.index_file(), "no database at all ".repeat(100)).unwrap();
    assert_eq!(index_check(&home).0, "problem");
    assert_eq!(code(&home.run(&["doctor"])), 5);
}

#[test]
fn each_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = program().args(["completions", shell]).output().unwrap();
        assert!(code(&output) == 0 && stdout(&output).contains("rolloutfs"), "{shell}");
        assert!(stdout(&output).contains("sample-home"), "{shell}");
    }
}

#[test]
fn man_pages_are_one_a_command() {
    let page = stdout(&program().arg("man").output().unwrap());
    assert!(page.contains(".TH rolloutfs 1") && page.contains("Exit codes"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new/man1");
    let output = program().arg("man").arg(&target).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for command in COMMANDS {
        let page = target.join(format!("rolloutfs-{command}.1"));
        assert!(fs::metadata(&page).is_ok_and(|page| page.len() > 100), "{}", page.display());
    }
    assert!(target.join("rolloutfs.1").is_file());
}

#[test]
fn a_watch_tells_line_by_line_and_ends_with_the_signal() {
    use std::io::{BufRead, BufReader};
    for (signal, exit) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let home = MadeHome::new();
        let mut watch = Running::start(home.command(&["watch", "--json"]));
        let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
        let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
        let first = next();
        assert_eq!((&first["event"], &first["rollouts"]), (&Value::from("watching"), &Value::from(5)));
        let path = format!("sessions/2026/01/02/rollout-2026-01-02T03-04-05-{}.jsonl", id(77));
        let beside = home.root().join("beside");
        fs::write(&beside, rollout(77)).unwrap();
        fs::rename(&beside, home.root().join(&path)).unwrap();
        let appeared = next();
        assert_eq!((&appeared["event"], &appeared["path"]), (&Value::from("appeared"), &Value::from(path)));
        assert_eq!(
            (&appeared["id"], &appeared["bytes"]),
            (&Value::from(id(77)), &Value::from(rollout(77).len()))
        );
        assert!(appeared["from"].is_null() && appeared["at"].as_str().unwrap().ends_with('Z'));
        // SAFETY: takes two integers; the process is ours and not reaped.
        unsafe { libc::kill(watch.0.id() as i32, signal) };
        assert_eq!(code(&watch.output()), exit);
    }
}

#[test]
fn a_watch_ends_when_nobody_reads_it_and_knows_only_what_is_mounted() {
    let home = MadeHome::new();
    let mut watch = Running::start(home.command(&["watch", "--poll", "0.1"]));
    drop(watch.0.stdout.take());
    for number in 0.. {
        if watch.has_ended() {
            break;
        }
        assert!(number < 1000, "it does not end");
        OpenOptions::new().append(true).open(home.file(1)).unwrap().write_all(b"{}\n").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = watch.output();
    assert_eq!((code(&ended), stderr(&ended)), (0, String::new()));
    let nowhere = home.run(&["watch", "/proc"]);
    assert_eq!(code(&nowhere), 3, "{}", stderr(&nowhere));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = MadeHome::new();
    let table: [&[&str]; 8] = [
        &["--help"],
        &["index"],
        &["index", "--json"],
        &["status"],
        &["completions", "bash"],
        &["man"],
        &["doctor"],
        &["doctor", "--json"],
    ];
    for arguments in table {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = home.command(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        assert!(
            !stderr(&output).contains("pipe") && !stderr(&output).contains("panic"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_full_disk_below_standard_output_is_a_failure() {
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
    let output = program().arg("man").stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("standard output: No space left"), "{}", stderr(&output));
}

#[test]
fn flags_and_rust_log_say_how_much_is_told() {
    let home = MadeHome::new();
    let told = |arguments: &[&str], rust_log: &str| {
        // The damaged file is read again each time, and warned of.
        let output = home.command(arguments).env("RUST_LOG", rust_log).output().unwrap();
        assert_eq!(code(&output), 0);
        stderr(&output).contains("rolloutfs: warning: ")
    };
    assert!(told(&["index"], ""));
    assert!(!told(&["index", "-q"], ""));
    assert!(!told(&["index"], "error"));
    assert!(told(&["index", "-v"], "error"), "the flag is stronger");
}
