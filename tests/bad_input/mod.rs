//! Bad input is data, not an error: what the store does with homes that are odd, closed, read-only, or on a full disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rolloutfs::fs::{Fs, FsOptions};
use rolloutfs::store::StoreOptions;
use rolloutfs::store::error::StoreError;
use rolloutfs::store::home::{Home, STATE_DIR_NAME};
use rolloutfs::store::node::NodeNumber;
use rolloutfs::store::row::{ReadState, Row};

use super::common::{TestHome, difference, thread_id, thread_text, try_walk, wait_until, walk};

const DAY: &str = "sessions/2026/02/08";

fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

fn row(fs: &Fs, path: &str) -> Row {
    fs.store().index().read(|reader| reader.queries().row_by_path(path.as_bytes())).unwrap().unwrap()
}

fn has(tree: &[String], start: &str) -> bool {
    tree.iter().any(|line| line.starts_with(start))
}

fn number(fs: &Fs, path: &str) -> NodeNumber {
    path.split('/').fold(NodeNumber::ROOT, |dir, name| {
        fs.lookup(dir, name.as_bytes()).unwrap().unwrap_or_else(|_| panic!("{path}: no {name}")).attr.number
    })
}

#[test]
fn what_is_no_home_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    let refused = Home::open(dir.path());
    assert!(matches!(refused, Err(StoreError::NotAHome { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made in it");
}

/// Runs one test of this binary in a process of a user who is not root, so that permissions count.
fn run_as_nobody(test: &str) {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", test, "--nocapture"]).current_dir("/");
    command.env(CHILD, "1").env("TMPDIR", &own).env("XDG_STATE_HOME", own.join("state"));
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

const CHILD: &str = "ROLLOUTFS_TEST_AS_NOBODY";

#[test]
fn unreadable_files_and_folders_are_shown_and_read_once_they_can_be() {
    run_as_nobody("bad_input::child_that_may_not_read");
}

#[test]
fn child_that_may_not_read() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let home = TestHome::empty();
    let shut = home.thread("2026-02-08T10-00-00", 1, "/shut", "closed file");
    let open = home.thread("2026-02-08T10-00-01", 2, "/open", "open file");
    let inside = home.thread("2026-01-31T10-00-00", 3, "/inside", "in a closed folder");
    let (file, folder) = (home.path().join(&shut), home.path().join("sessions/2026/01/31"));
    let permit = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    permit(&file, 0o000);
    permit(&folder, 0o000);
    let fs = home.tree();
    let tree = walk(&fs);
    assert!(has(&tree, &format!("/{shut} ")) && has(&tree, &format!("/{open} ")));
    assert!(has(&tree, "/sessions/2026/01/31 ") && !has(&tree, &format!("/{inside} ")));
    assert!(has(&tree, "/health/unreadable/rollout-2026-02-08T10-00-00"));
    assert!(has(&tree, "/by-cwd/open/") && !has(&tree, "/by-cwd/shut"));
    assert!(fs.read(number(&fs, &shut), 0, 10).unwrap_err().to_string().contains("ermission denied"));
    assert!(row(&fs, &shut).error.unwrap().contains("ermission denied"));
    permit(&file, 0o600);
    permit(&folder, 0o700);
    wait_until("what can be read is read", || {
        let tree = try_walk(&fs)?;
        let there = has(&tree, "/by-cwd/shut/") && has(&tree, "/by-cwd/inside/");
        if there && !has(&tree, "/health/unreadable/") { Ok(()) } else { Err(format!("{tree:#?}")) }
    });
    // And back: a file that was read is known until it changes.
    permit(&folder, 0o000);
    fs.store().flush();
    permit(&folder, 0o700);
    wait_until("nothing is lost", || {
        fs.store().flush();
        if has(&try_walk(&fs)?, &format!("/{inside} ")) { Ok(()) } else { Err("lost".into()) }
    });
}

#[test]
fn a_read_only_home_has_its_state_elsewhere() {
    run_as_nobody("bad_input::child_that_may_not_write");
}

#[test]
fn child_that_may_not_write() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let home = TestHome::empty();
    let path = home.thread("2026-02-08T10-00-00", 1, "/srv", "hello");
    fs::set_permissions(home.path(), Permissions::from_mode(0o555)).unwrap();
    let fs = home.tree();
    assert!(has(&walk(&fs), &format!("/{path} ")));
    let state = std::env::var_os("XDG_STATE_HOME").unwrap();
    assert!(
        fs.store().state_dir().starts_with(Path::new(&state).join("rolloutfs")),
        "{:?}",
        fs.store().state_dir()
    );
    drop(fs);
    assert!(!home.path().join(STATE_DIR_NAME).exists());
    assert!(Home::open(&home.path()).unwrap().find_state_dir(None).is_some(), "it is found again");
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_line_of_50_mb_and_bytes_that_are_no_text_are_passed_over() {
    let home = TestHome::empty();
    let id = thread_id(1);
    let huge = format!(
        "{{\"timestamp\":\"2026-02-08T09:16:00.000Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"agent_message\",\"message\":\"{}\"}}}}\n",
        "x".repeat(50 << 20)
    );
    let tail = thread_text(&id, "/late", "after").lines().nth(1).unwrap().to_owned() + "\n";
    let path = format!("{DAY}/rollout-2026-02-08T10-00-00-{id}.jsonl");
    home.write(&path, [thread_text(&id, "/huge", "before"), huge, tail].concat());
    let odd = thread_id(2);
    let raw = thread_text(&odd, "/odd", "text").into_bytes();
    let cut_at = raw.windows(4).position(|window| window == b"/odd").unwrap() + 1;
    let raw = [&raw[..cut_at], &b"\xff\xfe"[..], &raw[cut_at..]].concat();
    let odd_path = format!("{DAY}/rollout-2026-02-08T10-00-01-{odd}.jsonl");
    home.write(&odd_path, &raw);
    let nul = thread_id(3);
    home.write(&format!("{DAY}/rollout-2026-02-08T10-00-02-{nul}.jsonl"), vec![0; 100_000]);
    let began = Instant::now();
    let fs = home.tree();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let huge = row(&fs, &path);
    assert_eq!((huge.file.state, huge.lines, huge.file.torn), (ReadState::Read, 4, false));
    assert_eq!(huge.meta.first_user_message.as_deref(), Some("before"));
    assert_eq!(fs.read(number(&fs, &odd_path), 0, 1 << 20).unwrap(), raw, "byte for byte");
    let tree = walk(&fs);
    assert!(
        has(&tree, "/health/unreadable/rollout-2026-02-08T10-00-02"),
        "NULs, as power loss leaves them, are nothing"
    );
    assert!(has(&tree, &format!("/{odd_path} ")));
}

#[test]
fn a_day_of_ten_thousand_is_listed_in_order() {
    let home = TestHome::empty();
    for number in 0..10_000u64 {
        let (minute, second) = (number / 60 % 60, number % 60);
        let stamp = format!("2026-02-08T{:02}-{minute:02}-{second:02}", number / 3600);
        home.write(&format!("{DAY}/rollout-{stamp}-{}.jsonl", thread_id(number)), "{}\n");
    }
    let began = Instant::now();
    let fs = home.tree();
    let dir = number(&fs, DAY);
    let mut names = Vec::new();
    fs.readdir(dir, 2, true, &mut |entry| {
        names.push(entry.name);
        true
    })
    .unwrap();
    assert_eq!(names.len(), 10_000);
    assert!(names.is_sorted(), "in the order of time");
    for name in names.iter().step_by(997) {
        assert!(fs.lookup(dir, name).unwrap().is_ok());
    }
    // Generous: what takes a second must not take minutes.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// A small filesystem in memory, for the state; unmounted when it goes.
struct SmallDisk(std::ffi::CString);

impl SmallDisk {
    fn mount(path: &Path) -> Option<SmallDisk> {
        fs::create_dir(path).unwrap();
        let target = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let disk = SmallDisk(target);
        (is_root() && disk.resize(0, c"size=1m")).then_some(disk)
    }

    fn resize(&self, flags: libc::c_ulong, size: &std::ffi::CStr) -> bool {
        // SAFETY: all are C strings that live until the call returns.
        let result = unsafe {
            libc::mount(c"none".as_ptr(), self.0.as_ptr(), c"tmpfs".as_ptr(), flags, size.as_ptr().cast())
        };
        result == 0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // SAFETY: a C string that lives until the call returns.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_full_disk_stops_the_index_and_not_the_store() {
    let home = TestHome::sample(700, 6);
    let state = home.beside("state");
    let Some(disk) = SmallDisk::mount(&state) else {
        println!("skipped: mounting a small filesystem takes root");
        return;
    };
    let options = StoreOptions { state_dir: Some(state), ..StoreOptions::default() };
    let fs = Fs::new(home.store_with(options), FsOptions::default()).unwrap();
    let trouble = wait_until("trouble", || fs.store().progress().trouble().ok_or_else(|| "none".to_owned()));
    assert!(trouble.contains("full"), "{trouble}");
    assert!(!fs.store().is_settled());
    // What is there is served, and the status says what is the matter.
    for name in ["README.md", "sessions", "threads.jsonl"] {
        let number = number(&fs, name);
        assert!(fs.getattr(number).is_ok(), "{name}");
    }
    let mut listed = 0;
    fs.readdir(NodeNumber::ROOT, 0, true, &mut |_| {
        listed += 1;
        true
    })
    .unwrap();
    assert!(listed > 10);
    let status = fs.read(number(&fs, ".rolloutfs/status.json"), 0, 1 << 20).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert!(status["progress"]["trouble"].as_str().is_some_and(|text| text.contains("full")), "{status:#}");
    assert!(disk.resize(libc::MS_REMOUNT, c"size=64m"));
    wait_until("it goes on", || {
        let progress = fs.store().progress();
        let done = progress.is_settled() && progress.trouble().is_none();
        if done { Ok(()) } else { Err(format!("{:?}", progress.trouble())) }
    });
    let went_on = walk(&fs);
    drop(fs);
    assert_eq!(difference(&walk(&home.tree()), &went_on), (Vec::new(), Vec::new()));
}
