//! How does a mount begin and end? In front and behind, by every door, and where it must not begin.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::TestHome;
use crate::harness::{
    FreedPoint, Mounted, PROGRAM, WAIT_MAX, assert_nobody_answers, assert_same_lines, can_mount,
    can_mount_with, exists, is_root, mount_command, mounted_type, names_in, read_json, run, text_of,
    wait_for,
};

/// A small home.
fn small_home(threads: u64) -> TestHome {
    let home = TestHome::empty();
    for number in 0..threads {
        home.thread(&format!("2026-02-08T10-00-{:02}", number % 60), number, "/srv/demo", "a question");
    }
    home
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// True once a process that is not our child is gone, or nobody's but dead.
fn is_gone(pid: u64) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[test]
fn mount_returns_when_the_tree_is_there_and_unmount_ends_the_daemon() {
    if !can_mount_with(&["fusermount3"]) {
        return;
    }
    let home = small_home(20);
    let at = home.beside("mnt");
    fs::create_dir(&at).unwrap();
    let _freed = FreedPoint(at.clone());
    let unmounts: [&[&str]; 3] = [&[PROGRAM, "unmount"], &["fusermount3", "-u"], &["umount"]];
    for unmount in unmounts.iter().filter(|words| words[0] != "umount" || is_root()) {
        let output = run(&mut mount_command(&home.path(), &at, &[]));
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("is mounted at"), "{}", said(&output));
        // No waiting: it is there.
        assert_eq!(mounted_type(&at).as_deref(), Some("fuse.rolloutfs"));
        assert_eq!(names_in(&at.join("by-id")).len(), 20);
        let pid = read_json(&at.join(".rolloutfs/status.json")).unwrap()["pid"].as_u64().unwrap();
        let output = run(Command::new(unmount[0]).args(&unmount[1..]).arg(&at));
        assert!(output.status.success(), "{unmount:?}: {}", said(&output));
        assert_eq!(mounted_type(&at), None, "{unmount:?}");
        wait_for("the daemon is gone", WAIT_MAX, || is_gone(pid));
        assert!(names_in(&at).is_empty());
    }
    let output = run(Command::new(PROGRAM).arg("unmount").arg(&at));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
}

#[test]
fn a_home_that_was_unmounted_just_now_can_be_mounted_again() {
    if !can_mount() {
        return;
    }
    let home = small_home(5);
    let at = home.beside("mnt");
    fs::create_dir(&at).unwrap();
    let _freed = FreedPoint(at.clone());
    for round in 0..5 {
        let output = run(&mut mount_command(&home.path(), &at, &[]));
        assert!(output.status.success(), "round {round}: {}", said(&output));
        let output = run(Command::new(PROGRAM).arg("unmount").arg(&at));
        assert!(output.status.success(), "round {round}: {}", said(&output));
    }
}

#[test]
fn every_end_of_a_mount_in_front_is_clean() {
    if !can_mount_with(&["fusermount3"]) {
        return;
    }
    let home = small_home(5);
    let at = home.beside("mnt");
    type End = (&'static str, fn(&Mounted));
    let ends: [End; 5] = [
        ("SIGINT", |mount| mount.signal(libc::SIGINT)),
        ("SIGTERM", |mount| mount.signal(libc::SIGTERM)),
        ("SIGHUP", |mount| mount.signal(libc::SIGHUP)),
        ("unmount", |mount| drop(text_of(Command::new(PROGRAM).arg("unmount").arg(mount.at())))),
        ("fusermount3 -u", |mount| drop(text_of(Command::new("fusermount3").arg("-u").arg(mount.at())))),
    ];
    for (how, end) in ends {
        let mut mount = Mounted::new(&home.path(), &at, &[]);
        end(&mount);
        let status = mount.wait_end();
        assert!(status.success(), "{how}: {status}: {}", mount.log_text());
        assert_eq!(mounted_type(&at), None, "{how}");
        assert!(names_in(&at).is_empty(), "{how}");
    }
}

#[test]
fn a_file_that_is_open_is_served_until_it_is_closed_after_an_unmount() {
    if !can_mount() {
        return;
    }
    let home = small_home(5);
    let path = home.thread("2026-02-08T11-00-00", 9, "/srv/demo", "a question");
    let mut mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    let mut open = fs::File::open(mount.path(&path)).unwrap();
    text_of(Command::new(PROGRAM).arg("unmount").arg(mount.at()));
    assert_eq!(mounted_type(mount.at()), None);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, fs::read_to_string(home.path().join(&path)).unwrap());
    drop(open);
    let status = mount.wait_end();
    assert!(status.success(), "{status}: {}", mount.log_text());
}

#[test]
fn a_dead_mount_point_is_cleared_by_mount_and_by_unmount() {
    if !can_mount() {
        return;
    }
    let home = small_home(5);
    let at = home.beside("mnt");
    let _freed = FreedPoint(at.clone());
    Mounted::new(&home.path(), &at, &[]).kill();
    assert_nobody_answers(&at);
    let mount = Mounted::new(&home.path(), &at, &[]);
    assert_eq!(names_in(&mount.path("by-id")).len(), 5);
    mount.kill();
    let output = run(Command::new(PROGRAM).arg("unmount").arg(&at));
    // 3: the guard of the killed daemon was there first.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", said(&output));
    wait_for("the mount is gone", WAIT_MAX, || mounted_type(&at).is_none());
}

#[test]
fn a_mount_that_would_hide_its_own_files_is_refused_and_one_beside_them_is_not() {
    if !can_mount() {
        return;
    }
    let home = small_home(5);
    fs::create_dir(home.path().join("archived_sessions")).unwrap();
    for (at, words) in [
        (home.path().join("sessions"), "lies within"),
        (home.path().join("sessions/2026"), "lies within"),
        (home.path().join("archived_sessions"), "lies within"),
        (home.path(), "the Codex home itself"),
        (home.path().parent().unwrap().to_owned(), "would be hidden"),
        (home.path().join("sessions/2026/02/08/x/y"), "lies within"),
    ] {
        let output = run(&mut mount_command(&home.path(), &at, &[]));
        assert_eq!(output.status.code(), Some(1), "{}: {}", at.display(), said(&output));
        assert!(said(&output).contains(words), "{}: {}", at.display(), said(&output));
        assert_eq!(mounted_type(&at), None, "{}", at.display());
    }
    let mount = Mounted::new(&home.path(), &home.path().join(".mnt"), &[]);
    assert_eq!(names_in(&mount.path("by-id")).len(), 5);
    assert!(!exists(&mount.path(".mnt")));
    mount.unmount();
}

#[test]
fn a_home_has_one_daemon_and_others_beside_it_that_read_only() {
    if !can_mount() {
        return;
    }
    let home = TestHome::sample(60, 51);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    let second = home.beside("second");
    fs::create_dir(&second).unwrap();
    let _freed = FreedPoint(second.clone());
    let began = std::time::Instant::now();
    for front in [&["-f"][..], &[]] {
        let output = run(&mut mount_command(&home.path(), &second, front));
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        let holder = mount.pid().to_string();
        for word in [holder.as_str(), "--read-only", mount.at().to_str().unwrap()] {
            assert!(said(&output).contains(word), "{word}: {}", said(&output));
        }
        assert_eq!(mounted_type(&second), None);
    }
    println!("two refusals took {:?}", began.elapsed());
    let same_place = run(&mut mount_command(&home.path(), mount.at(), &["--read-only"]));
    assert_eq!(same_place.status.code(), Some(4), "{}", said(&same_place));
    assert!(said(&same_place).contains("already mounted"), "{}", said(&same_place));

    let beside = Mounted::unsettled(&home.path(), &second, &["--read-only"]);
    assert_eq!(beside.status()["writer"], false);
    assert_same_lines(&mount.find(), &beside.find(), "beside");
    // It sees what the other one's index learns.
    let path = home.thread("2026-02-08T11-00-00", 77, "/srv/demo", "a question");
    for place in [&mount, &beside] {
        wait_for("a new thread is seen", WAIT_MAX, || exists(&place.path(&path)));
    }
    beside.unmount();
    assert!(exists(&mount.path(&path)));
    mount.unmount();
}

#[test]
fn options_are_those_of_fstab() {
    if !can_mount() || !is_root() {
        return crate::harness::skipped("allow_other needs root, or user_allow_other in /etc/fuse.conf");
    }
    let home = TestHome::sample(60, 52);
    let at = home.beside("mnt");
    let words = [
        "-o",
        "ro,allow_other,nodev,nosuid,noatime",
        "-o",
        "uid=1234,gid=5678,umask=027,views=by-id:by-name",
    ];
    let mount = Mounted::new(&home.path(), &at, &words);
    let options =
        text_of(Command::new("sh").args(["-c", "grep \" $0 fuse.rolloutfs \" /proc/mounts"]).arg(&at));
    for option in ["ro,", "allow_other", "default_permissions", "nosuid", "nodev", "noatime"] {
        assert!(options.contains(option), "{option}: {options}");
    }
    assert!(options.starts_with(home.path().to_str().unwrap()), "{options}");
    assert!(exists(&mount.path("by-name")) && !exists(&mount.path("by-cwd")));
    mount.unmount();
    let output = run(&mut mount_command(&home.path(), &at, &["-f", "-o", "ro,no_such_option"]));
    assert!(!output.status.success() && said(&output).contains("no_such_option"), "{}", said(&output));
    let output = run(&mut mount_command(Path::new("/no/such/home"), &at, &["-f"]));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("/no/such/home"), "{}", said(&output));
}
