//! How does a mount follow its home, and what does its status say of it?

use std::fs;
use std::time::Duration;

use crate::common::{TestHome, thread_id};
use crate::harness::{Mounted, can_mount, exists, wait_for};

/// A clock of a tenth of a second, a comparison, and the kernel's second.
const BY_CLOCK_MAX: Duration = Duration::from_secs(5);

#[test]
fn a_mount_by_the_clock_follows_its_home() {
    if !can_mount() {
        return;
    }
    let home = TestHome::sample(50, 9);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &["-o", "poll=0.1"]);
    let status = mount.status();
    assert_eq!((&status["watch"]["mode"], &status["watch"]["folders"]), (&"clock".into(), &0.into()));
    assert_eq!(status["watch"]["compare_every_seconds"], 0.1);
    let by_id = mount.path(format!("by-id/{}.jsonl", thread_id(1)));
    let by_cwd = mount.path("by-cwd/srv/clock");
    assert!(!exists(&by_id) && !exists(&by_cwd));
    let path = home.thread("2026-02-08T10-00-00", 1, "/srv/clock", "a question");
    let within = |what: &str, is_true: &mut dyn FnMut() -> bool| {
        println!("{what}: after {:?}", wait_for(what, BY_CLOCK_MAX, is_true));
    };
    within("a new thread", &mut || exists(&by_id) && exists(&by_cwd));
    let (disk, shown) = (home.path().join(&path), mount.path(&path));
    fs::write(&disk, fs::read_to_string(&disk).unwrap() + "{}\n").unwrap();
    within("an append", &mut || fs::read(&shown).unwrap() == fs::read(&disk).unwrap());
    fs::remove_file(&disk).unwrap();
    within("a removed thread", &mut || !exists(&by_id) && !exists(&by_cwd) && !exists(&shown));
    mount.unmount();
}

/// A filesystem that a program serves tells nobody what changes behind it: here it is a mount of ours.
#[test]
fn a_home_on_a_filesystem_that_does_not_tell_is_followed_by_the_clock() {
    if !can_mount() {
        return;
    }
    let home = TestHome::sample(20, 9);
    let below = Mounted::new(&home.path(), &home.beside("below"), &[]);
    let state = home.beside("state");
    let words = ["--state-dir", state.to_str().unwrap()];
    let mount = Mounted::new(below.at(), &home.beside("mnt"), &words);
    let watch = mount.status()["watch"].clone();
    assert_eq!(watch["mode"], "clock");
    assert!(watch["reason"].as_str().unwrap().contains("fuse"), "{watch}");
    mount.unmount();
    below.unmount();
}

#[test]
fn the_status_says_how_the_mount_is() {
    if !can_mount() {
        return;
    }
    let home = TestHome::sample(30, 9);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    home.thread("2026-02-08T10-00-00", 1, "/srv/new", "a question");
    wait_for("the new thread", BY_CLOCK_MAX, || exists(&mount.path("by-cwd/srv/new")));
    let pending =
        mount.path(format!("sessions/2026/02/08/rollout-2026-02-08T11-00-00-{}.jsonl", thread_id(2)));
    fs::write(&pending, "{}\n").unwrap();
    let refused =
        fs::write(pending.with_file_name(format!("rollout-2026-02-08T10-00-00-{}.jsonl", thread_id(1))), "x");
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
    std::thread::sleep(Duration::from_millis(600));
    let status = mount.status();
    let watch = &status["watch"];
    assert_eq!(
        (&watch["mode"], &watch["not_watched"], &watch["lag_ms"]),
        (&"events".into(), &0.into(), &0.into())
    );
    assert!(watch["folders"].as_u64() > Some(3) && watch["last_lag_ms"].is_u64(), "{watch}");
    assert_eq!((&watch["compared"], &watch["last_compared_why"]), (&1.into(), &"start".into()));
    assert!(watch["last_compared_at"].is_u64() && watch["last_compared_ms"].is_u64());
    assert_eq!(status["threads"]["pending"], 1);
    assert_eq!(status["errors"]["by_errno"]["EPERM"], 1, "{}", status["errors"]);
    assert!(status["errors"]["last"].is_null(), "a refusal is no error: {}", status["errors"]);
    assert!(status["descriptors"].as_u64() > Some(5) && status["memory_bytes"].as_u64() > Some(1 << 20));
    // A sample home has a damaged thread.
    assert_eq!(status["backfill"]["outcome"], "partial_failure", "{}", status["backfill"]);
    mount.unmount();
}
