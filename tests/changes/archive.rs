//! Archiving and bringing back, many threads at a time, plain and compressed, while others read.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mount::{Mount, can_mount, mtime_ns, names, set_mtime};
use super::{DAY, active, archived, id, item, name, thread};

const THREADS: u64 = 1000;
/// Every fifth is compressed.
const COMPRESSED_EVERY: u64 = 5;

fn is_compressed(number: u64) -> bool {
    number.is_multiple_of(COMPRESSED_EVERY)
}

fn make_many(home: &Path, count: u64) {
    fs::create_dir_all(home.join(DAY)).unwrap();
    for number in 1..=count {
        let text = thread(number) + "{\"needle\":1}\n";
        let (path, bytes) = match is_compressed(number) {
            true => (active(number) + ".zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
            false => (active(number), text.into_bytes()),
        };
        fs::write(home.join(&path), bytes).unwrap();
        set_mtime(&home.join(&path), 1_700_000_000 + number);
    }
}

/// Number of the inode, mtime and size of each file, by name.
fn stats(dir: &Path) -> BTreeMap<String, (u64, i64, u64)> {
    let stat = |name: &String| {
        let found = fs::symlink_metadata(dir.join(name)).unwrap();
        (found.ino(), mtime_ns(&dir.join(name)), found.len())
    };
    names(dir).into_iter().map(|name| (name.clone(), stat(&name))).collect()
}

/// Threads with the needle, by a tool that does not know of the kernel's and our caches.
fn hits(mount: &Mount) -> usize {
    mount.ok("grep -rl needle sessions archived_sessions | wc -l").trim().parse().unwrap()
}

#[test]
fn a_thousand_threads_go_and_come_back_while_others_read() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| make_many(home, THREADS), &[]);
    let before = stats(&mount.path(DAY));
    assert_eq!(before.len(), THREADS as usize);
    assert_eq!(hits(&mount), THREADS as usize);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Acquire) || rounds == 0 {
                // Files go away under it: what it says of them does not matter, that it ends does.
                let output = mount.sh("grep -rl needle sessions archived_sessions | wc -l");
                assert!(output.status.success(), "{output:?}");
                rounds += 1;
            }
        });
        mount.ok(&format!("mv {DAY}/rollout-* archived_sessions/"));
        assert_eq!(stats(&mount.path("archived_sessions")), before);
        assert_eq!(names(&mount.path(DAY)), [""; 0]);
        assert_eq!(names(&mount.path("archived/2026/02/08")).len(), THREADS as usize);
        assert_eq!(names(&mount.home().join(DAY)), [""; 0]);
        assert_eq!(hits(&mount), THREADS as usize);
        mount.ok(&format!("mv archived_sessions/rollout-* {DAY}/"));
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
    assert_eq!(stats(&mount.path(DAY)), before);
    assert_eq!(hits(&mount), THREADS as usize);
    assert!(!mount.path("archived/2026").exists());
    let on_disk = names(&mount.home().join(DAY));
    assert_eq!(on_disk.len(), THREADS as usize);
    let compressed = on_disk.iter().filter(|name| name.ends_with(".zst")).count() as u64;
    assert_eq!(compressed, THREADS / COMPRESSED_EVERY, "they stay compressed");
}

#[test]
fn the_first_append_to_a_compressed_thread_decodes_it() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| make_many(home, 10), &[]);
    for (number, archive) in [(5, false), (10, true)] {
        let path = if archive { archived(number) } else { active(number) };
        if archive {
            fs::rename(mount.path(&active(number)), mount.path(&path)).unwrap();
        }
        let text = fs::read_to_string(mount.path(&path)).unwrap();
        let inode = fs::metadata(mount.path(&path)).unwrap().ino();
        let mut file = fs::OpenOptions::new().append(true).open(mount.path(&path)).unwrap();
        assert!(mount.home().join(path.clone() + ".zst").exists(), "opening it is nothing");
        file.write_all(item("more").as_bytes()).unwrap();
        assert!(!mount.home().join(path.clone() + ".zst").exists());
        let expected = text + &item("more");
        assert_eq!(fs::read_to_string(mount.home().join(&path)).unwrap(), expected);
        assert_eq!(fs::read_to_string(mount.path(&path)).unwrap(), expected);
        assert_eq!(fs::metadata(mount.path(&path)).unwrap().ino(), inode);
        assert_eq!(fs::metadata(mount.path(&path)).unwrap().len(), expected.len() as u64);
    }
}

#[test]
fn what_is_archived_elsewhere_is_followed_and_pending_ones_do_not_go() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| make_many(home, 3), &[]);
    fs::create_dir_all(mount.home().join("archived_sessions")).unwrap();
    // By Codex, beside the mount: in its own time.
    fs::rename(mount.home().join(active(1)), mount.home().join(archived(1))).unwrap();
    super::wait_until("archived beside the mount", || {
        if mount.path(&archived(1)).exists() && !mount.path(&active(1)).exists() {
            Ok(())
        } else {
            Err(format!("{:?}", names(&mount.path("archived_sessions"))))
        }
    });
    fs::rename(mount.path(&archived(1)), mount.path(&active(1))).unwrap();
    assert!(mount.home().join(active(1)).exists());
    // A pending thread may be archived as well: it stays pending there.
    fs::write(mount.path(&active(9)), super::meta(9, "")).unwrap();
    fs::rename(mount.path(&active(9)), mount.path(&archived(9))).unwrap();
    assert_eq!(fs::read_to_string(mount.path(&archived(9))).unwrap(), super::meta(9, ""));
    assert!(!mount.home().join(archived(9)).exists() && !mount.path(&active(9)).exists());
    fs::OpenOptions::new()
        .append(true)
        .open(mount.path(&archived(9)))
        .unwrap()
        .write_all(super::user("x").as_bytes())
        .unwrap();
    assert!(mount.home().join(archived(9)).exists());
    let _ = (id(1), name(1));
}
