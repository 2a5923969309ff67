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
