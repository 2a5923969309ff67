//! `rolloutfs pending`, with and without a mount.

use std::fs;
use std::process::{Command, Output};

use super::mount::{Mount, can_mount, names};
use super::{active, id, meta, thread, with_threads};

fn pending(mount: &Mount, words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["30", env!("CARGO_BIN_EXE_rolloutfs"), "pending"]).args(words);
    command.arg("--home").arg(mount.home()).output().unwrap()
}

fn listed(mount: &Mount) -> Vec<u64> {
    let output = pending(mount, &["list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let items: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |item: &serde_json::Value| {
        let id = item["id"].as_str().unwrap();
        assert_eq!(item["size_bytes"], fs::metadata(item["file"].as_str().unwrap()).unwrap().len());
        u64::from_str_radix(&id[id.len() - 12..], 16).unwrap()
    };
    items.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn pending_threads_are_listed_persisted_and_discarded() {
    if !can_mount() {
        return;
    }
    for mounted in [true, false] {
        let mut mount = Mount::of(|home| with_threads(home, [50]), &[]);
        assert_eq!(listed(&mount), [0; 0]);
        for number in 1..=5 {
            fs::write(mount.path(&active(number)), meta(number, "")).unwrap();
        }
        if !mounted {
            mount.unmount();
        }
        assert_eq!(listed(&mount), [1, 2, 3, 4, 5]);
        let unknown = pending(&mount, &["persist", &id(9)]);
        assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
        let text = pending(&mount, &["persist", &id(1)]);
        assert!(text.status.success(), "{text:?}");
        assert!(String::from_utf8_lossy(&text.stdout).contains(&id(1)));
        assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), meta(1, ""));
        assert!(pending(&mount, &["discard", &id(2)]).status.success());
        assert!(!mount.home().join(active(2)).exists());
        let trash = mount.home().join(".rolloutfs/trash");
        assert_eq!(names(&trash).len(), 1);
        let item = trash.join(&names(&trash)[0]);
        assert_eq!(fs::read_to_string(item.join(super::name(2))).unwrap(), meta(2, ""));
        assert!(pending(&mount, &["discard", &id(3), "--yes"]).status.success());
        assert_eq!(names(&trash).len(), 1);
        assert_eq!(listed(&mount), [4, 5]);
        let mut persist = Command::new(env!("CARGO_BIN_EXE_rolloutfs"));
        let done = persist.args(["persist", "--home"]).arg(mount.home()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(listed(&mount), [0; 0]);
        if !mounted {
            mount.start(&[]);
        }
        assert_eq!(names(&mount.path(super::DAY)), [1, 4, 5, 50].map(super::name));
        assert_eq!(names(&mount.home().join(super::DAY)), [1, 4, 5, 50].map(super::name));
        assert_eq!(fs::read_to_string(mount.path(&active(50))).unwrap(), thread(50));
    }
}

#[test]
fn a_home_without_a_state_has_nothing_pending() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("sessions")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rolloutfs"))
        .args(["pending", "persist", "--home"])
        .arg(home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(home.path()), ["sessions"], "nothing is made");
}

/// Spec 2.10: the lines of the summer of 2025.
#[test]
fn a_thread_of_the_bare_era_is_materialised_by_its_first_user_message() {
    if !can_mount() {
        return;
    }
    let mount = Mount::new(&[]);
    let header = format!(
        "{{\"id\":\"{}\",\"timestamp\":\"2026-02-08T09:15:02.417Z\",\"instructions\":null}}\n{{\"record_type\":\"state\"}}\n",
        id(1)
    );
    let message =
        "{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"hi\"}]}\n";
    fs::create_dir_all(mount.path(super::DAY)).unwrap();
    fs::write(mount.beside("old"), header.clone() + message).unwrap();
    fs::copy(mount.beside("old"), mount.path(&active(1))).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), header.clone() + message);
    fs::write(mount.path(&active(2)), header.replace(&id(1), &id(2))).unwrap();
    assert!(!mount.home().join(active(2)).exists());
}

/// What fsync promises holds of the place in the home too.
#[test]
fn fsync_that_materialises_syncs_the_name_in_the_home() {
    if !can_mount() {
        return;
    }
    let has_strace = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if !has_strace {
        return println!("skipped: strace is not installed");
    }
    let mount = Mount::new(&["--materialize=fsync"]);
    fs::create_dir_all(mount.path(super::DAY)).unwrap();
    fs::write(mount.path(&active(1)), meta(1, "")).unwrap();
    let trace = mount.beside("trace");
    let errors = mount.beside("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=renameat2,fsync,fdatasync", "-o"])
        .arg(&trace)
        .args(["-p", &mount.pid().to_string()])
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    super::wait_until("strace is attached", || {
        let said = fs::read_to_string(&errors).unwrap();
        if said.contains("attached") { Ok(()) } else { Err(said) }
    });
    let synced = fs::File::open(mount.path(&active(1))).and_then(|file| file.sync_all());
    // SAFETY: takes integers; the child is ours and not waited for.
    unsafe { libc::kill(strace.id() as i32, libc::SIGINT) };
    strace.wait().unwrap();
    synced.unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), meta(1, ""));
    let calls = fs::read_to_string(&trace).unwrap();
    let (before, after) = calls.split_once("renameat2(").unwrap_or_else(|| panic!("no rename: {calls}"));
    assert!(before.contains(&super::name(1)), "its bytes first: {calls}");
    let home = fs::canonicalize(mount.home()).unwrap();
    for folder in ["sessions/2026/02/08", "sessions/2026/02", "sessions/2026", "sessions"] {
        let synced = format!("<{}>)", home.join(folder).display());
        assert!(after.contains(&synced), "{folder} after the rename: {calls}");
    }
}
