//! Whose are the files that a daemon of root makes in the home of another user?

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use super::mount::{Mount, can_mount, names};
use super::{DAY, active, meta, thread, user, with_threads};

/// An ordinary user without files.
const USER: u32 = 65_534;

/// Paths below a folder that are not the user's.
fn of_others(dir: &std::path::Path) -> Vec<String> {
    let output = Command::new("find")
        .arg(dir)
        .args(["!", "-uid", "65534", "-o", "!", "-gid", "65534"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn what_root_makes_is_the_users() {
    // SAFETY: no arguments, no failure.
    if unsafe { libc::geteuid() } != 0 {
        return println!("skipped: it needs root");
    }
    if !can_mount() {
        return;
    }
    let mut mount = Mount::of(
        |home| {
            with_threads(home, 1..=2);
            let packed = zstd::encode_all(thread(3).as_bytes(), 1).unwrap();
            fs::write(home.join(active(3) + ".zst"), packed).unwrap();
            fs::set_permissions(home.join("sessions"), fs::Permissions::from_mode(0o755)).unwrap();
            let given = Command::new("chown").args(["-R", "65534:65534"]).arg(home).status().unwrap();
            assert!(given.success());
        },
        &[],
    );
    // Everything that makes a file: pending, materialised, scratch, a name, the trash, a decoded copy, a thaw.
    mount.ok("mkdir -p sessions/2026/03/01");
    fs::write(mount.path(&active(8)), meta(8, "")).unwrap();
    fs::write(mount.path(&active(9)), meta(9, "") + &user("hi")).unwrap();
    let march = "sessions/2026/03/01/rollout-2026-03-01T09-15-02-0198c0de-0000-7000-8000-00000000000a.jsonl";
    fs::write(mount.path(march), meta(10, "") + &user("hi")).unwrap();
    fs::write(mount.path("note.tmp"), "x").unwrap();
    fs::write(mount.path(&format!("{DAY}/note.tmp")), "x").unwrap();
    symlink(format!("../{}", active(1)), mount.path("by-name/one.jsonl")).unwrap();
    fs::remove_file(mount.path(&active(2))).unwrap();
    assert_eq!(fs::read_to_string(mount.path(&active(3))).unwrap(), thread(3));
    mount.ok(&format!("printf x >> {}", active(3)));
    fs::rename(mount.path(&active(1)), mount.path(&super::archived(1))).unwrap();
    assert!(!names(&mount.home().join(".rolloutfs/cache")).is_empty(), "a copy was decoded");
    assert_eq!(of_others(&mount.home()), [""; 0]);
    let mode = |path: &str| fs::metadata(mount.home().join(path)).unwrap().mode() & 0o777;
    assert_eq!(mode("sessions/2026/03/01"), 0o755);
    assert_eq!(mode(".rolloutfs"), 0o700);
    mount.unmount();
    assert_eq!(of_others(&mount.home()), [""; 0]);
    // With the state elsewhere, where it is root's: what gets its place in the home is the user's.
    let state = mount.beside("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(0), Some(0)).unwrap();
    mount.start(&["--state-dir", state.to_str().unwrap()]);
    fs::write(mount.path(&active(7)), meta(7, "") + &user("hi")).unwrap();
    let placed = fs::metadata(mount.home().join(active(7))).unwrap();
    assert_eq!((placed.uid(), placed.gid()), (USER, USER));
}

/// Codex runs as the user, and needs the folder of the writer locks.
#[test]
fn what_root_records_is_the_users() {
    // SAFETY: no arguments, no failure.
    if unsafe { libc::geteuid() } != 0 {
        return println!("skipped: it needs root");
    }
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("sessions")).unwrap();
    let given = Command::new("chown").args(["-R", "65534:65534"]).arg(home.path()).status().unwrap();
    assert!(given.success());
    let item = r#"{"type":"event_msg","payload":{"type":"user_message","message":"hi"}}"#;
    let recorded = Command::new("sh")
        .args(["-c", "printf '%s\\n' \"$1\" | \"$2\" record --home \"$3\"", "sh", item])
        .arg(env!("CARGO_BIN_EXE_rolloutfs"))
        .arg(home.path())
        .output()
        .unwrap();
    assert!(recorded.status.success(), "{recorded:?}");
    let found = Command::new("find").arg(home.path()).args(["-name", "rollout-*.jsonl"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout).lines().count(), 1);
    assert_eq!(of_others(home.path()), [""; 0]);
}
