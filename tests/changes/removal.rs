//! What `rm` of a thread does: by default, and where it was told otherwise.

use std::fs;
use std::io::Write;

use super::mount::{Mount, can_mount, errno, names};
use super::{active, archived, id, meta, thread, with_threads};

#[test]
fn to_the_trash_by_default() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=3), &[]);
    let trash = mount.home().join(".rolloutfs/trash");
    let mut open = fs::OpenOptions::new().append(true).open(mount.path(&active(1))).unwrap();
    fs::remove_file(mount.path(&active(1))).unwrap();
    let item = trash.join(&names(&trash)[0]);
    assert_eq!(fs::read_to_string(item.join(super::name(1))).unwrap(), thread(1));
    let info: serde_json::Value = serde_json::from_slice(&fs::read(item.join("info.json")).unwrap()).unwrap();
    assert_eq!(info["thread_id"], id(1));
    assert_eq!(info["files"][0]["path"], active(1));
    // The writer learns that it is gone, and nothing appears again.
    assert!(open.write(b"x\n").is_err());
    assert!(!mount.path(&active(1)).exists() && !mount.home().join(active(1)).exists());
    // The same thread may be written anew.
    fs::write(mount.path(&active(1)), thread(1)).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), thread(1));
    // Pending ones are somebody's work too.
    fs::write(mount.path(&active(9)), meta(9, "")).unwrap();
    fs::remove_file(mount.path(&active(9))).unwrap();
    assert!(!mount.path(&active(9)).exists() && !mount.home().join(active(9)).exists());
    assert_eq!(names(&trash).len(), 2);
    fs::rename(mount.path(&active(2)), mount.path(&archived(2))).unwrap();
    fs::remove_file(mount.path(&archived(2))).unwrap();
    assert_eq!(names(&trash).len(), 3);
    assert!(!mount.path(&format!("by-id/{}.jsonl", id(2))).exists());
}

#[test]
fn denied_or_for_good_where_asked_for() {
    if !can_mount() {
        return;
    }
    for (flag, deletes) in [("--rm=deny", false), ("--rm=delete", true)] {
        let mount = Mount::of(|home| with_threads(home, 1..=2), &[flag]);
        fs::write(mount.path(&active(9)), meta(9, "")).unwrap();
        fs::write(mount.path("note.tmp"), "x").unwrap();
        for number in [1, 9] {
            let removed = fs::remove_file(mount.path(&active(number)));
            assert_eq!(errno(removed), if deletes { None } else { Some(libc::EPERM) }, "{flag} {number}");
            assert_eq!(mount.path(&active(number)).exists(), !deletes);
        }
        fs::remove_file(mount.path("note.tmp")).unwrap();
        assert_eq!(mount.home().join(active(1)).exists(), !deletes);
        assert!(!mount.home().join(active(9)).exists());
        let trash = mount.home().join(".rolloutfs/trash");
        assert!(!trash.exists() || names(&trash).is_empty(), "{flag}");
        if !deletes {
            mount.logged("--rm=deny");
        }
    }
}

/// A header whose history before it lies in another thread.
fn fork_of(base: u64) -> String {
    let base = id(base);
    format!(
        ",\"history_mode\":\"paginated\",\"forked_from_id\":\"{base}\",\
         \"history_base\":{{\"thread_id\":\"{base}\",\"end_ordinal_exclusive\":1,\"end_byte_offset\":9}}"
    )
}

#[test]
fn what_a_fork_goes_on_from_is_not_deleted_for_good() {
    if !can_mount() {
        return;
    }
    let make = |home: &std::path::Path| {
        with_threads(home, [1]);
        fs::write(home.join(active(2)), meta(2, &fork_of(1))).unwrap();
    };
    let mount = Mount::of(make, &["--rm=delete"]);
    assert_eq!(errno(fs::remove_file(mount.path(&active(1)))), Some(libc::EPERM));
    mount.logged("remove that first");
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), thread(1));
    fs::remove_file(mount.path(&active(2))).unwrap();
    fs::remove_file(mount.path(&active(1))).unwrap();
    drop(mount);
    // To the trash it goes: that is undone.
    let mount = Mount::of(make, &[]);
    fs::remove_file(mount.path(&active(1))).unwrap();
    mount.logged("cannot be read without it");
    let empty = |words: &[&str]| trash(&mount, &[&["empty", "--all"], words].concat());
    let refused = empty(&[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&active(2)), "{refused:?}");
    assert_eq!(names(&mount.home().join(".rolloutfs/trash")).len(), 1);
    let forced = empty(&["--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert_eq!(names(&mount.home().join(".rolloutfs/trash")).len(), 0);
}

fn trash(mount: &Mount, words: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new("timeout");
    command.args(["30", env!("CARGO_BIN_EXE_rolloutfs"), "trash"]).args(words);
    command.arg("--home").arg(mount.home()).output().unwrap()
}

#[test]
fn all_that_rm_took_comes_back_at_once() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=20), &[]);
    // The mount's root cannot be removed, nor its two folders; all threads in them can.
    let output = mount.sh("rm -rf sessions archived_sessions; true");
    assert!(output.status.success());
    assert!(!mount.path(super::DAY).exists());
    assert_eq!(names(&mount.home().join(".rolloutfs/trash")).len(), 20);
    let restored = trash(&mount, &["restore", "--since", "10m"]);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(String::from_utf8_lossy(&restored.stdout).matches("restored: ").count(), 20);
    for number in 1..=20 {
        assert_eq!(fs::read_to_string(mount.home().join(active(number))).unwrap(), thread(number));
        super::wait_until("the mount shows it", || match fs::read_to_string(mount.path(&active(number))) {
            Ok(text) if text == thread(number) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    // One that cannot be restored does not keep the others.
    mount.ok(&format!("rm {} {}", active(1), active(2)));
    fs::write(mount.path(&active(1)), thread(1)).unwrap();
    let some = trash(&mount, &["restore", "--all"]);
    assert_eq!(some.status.code(), Some(1), "{some:?}");
    assert!(String::from_utf8_lossy(&some.stderr).contains("is there already"), "{some:?}");
    assert!(mount.home().join(active(2)).exists());
    assert!(trash(&mount, &["restore", "--since", "0s"]).status.success(), "nothing is that young");
    for wrong in [&["restore"][..], &["restore", "--all", "x"], &["restore", "--all", "--since", "1d"]] {
        assert_eq!(trash(&mount, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_pending_thread_goes_to_the_trash_without_a_moment_in_the_home() {
    if !can_mount() {
        return;
    }
    let mut mount = Mount::new(&[]);
    let untouched = |mount: &Mount| {
        let sessions = mount.home().join("sessions");
        assert!(!sessions.exists() || names(&sessions).is_empty(), "{:?}", names(&sessions));
    };
    mount.ok(&format!("mkdir -p {}", super::DAY));
    for number in [1, 2] {
        fs::write(mount.path(&active(number)), meta(number, "")).unwrap();
    }
    fs::remove_file(mount.path(&active(1))).unwrap();
    untouched(&mount);
    mount.unmount();
    let mut discard = std::process::Command::new(env!("CARGO_BIN_EXE_rolloutfs"));
    let discarded = discard.args(["pending", "discard", "--home"]).arg(mount.home()).output().unwrap();
    assert!(discarded.status.success(), "{discarded:?}");
    untouched(&mount);
    assert_eq!(names(&mount.home().join(".rolloutfs/trash")).len(), 2);
    // Whoever takes one back wants to see it: it has its place then.
    assert!(trash(&mount, &["restore", &id(1)]).status.success());
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), meta(1, ""));
}

/// As fstab spells it.
#[test]
fn options_of_writing_have_a_spelling_in_fstab() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, [1]), &["-o", "rm=deny,materialize=create"]);
    assert_eq!(errno(fs::remove_file(mount.path(&active(1)))), Some(libc::EPERM));
    fs::write(mount.path(&active(2)), meta(2, "")).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(2))).unwrap(), meta(2, ""));
    drop(mount);
    let mount = Mount::of(|home| with_threads(home, [1]), &["-o", "rm=deny", "--rm=trash"]);
    fs::remove_file(mount.path(&active(1))).unwrap();
}
