//! Files that are no rollouts, and the renames that make rollouts of them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};

use super::mount::{Mount, can_mount, errno, mtime_ns, names, rename_with, set_mtime};
use super::{DAY, active, item, meta, name, thread, user, with_threads};

fn new_file(path: &std::path::Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).unwrap()
}

#[test]
fn codex_compresses_and_takes_back() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=2), &[]);
    let (path, lies) = (mount.path(&active(1)), mount.home().join(active(1)));
    set_mtime(&path, 1_700_000_000);
    let inode = fs::metadata(&path).unwrap().ino();
    let text = fs::read(&path).unwrap();
    // Compress: temporary, mode, time, sync, rename, unlink.
    let temporary = mount.path(&format!("{DAY}/rollout-compress-a1B2c3.tmp"));
    let mut file = new_file(&temporary);
    file.write_all(&zstd::encode_all(&text[..], 3).unwrap()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
    assert!(zstd::decode_all(File::open(&temporary).unwrap()).unwrap() == text);
    file.sync_all().unwrap();
    assert_eq!(names(&mount.home().join(DAY)), [1, 2].map(name), "nothing of it in the home");
    let compressed = mount.path(&(active(1) + ".zst"));
    rename_with(&temporary, &compressed, libc::RENAME_NOREPLACE).unwrap();
    assert!(!temporary.exists());
    assert_eq!(fs::read(&path).unwrap(), text);
    fs::remove_file(&path).unwrap();
    // The thread is still there, decoded; on disk the compressed file alone.
    assert_eq!(fs::read(&path).unwrap(), text);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(mtime_ns(&path), 1_700_000_000_000_000_000);
    assert_eq!(names(&mount.path(DAY)), [1, 2].map(name));
    assert!(!compressed.exists(), "shown under its plain name alone");
    assert_eq!(names(&mount.home().join(DAY)), [name(1) + ".zst", name(2)]);
    let trash = mount.home().join(".rolloutfs/trash");
    assert!(!trash.exists() || names(&trash).is_empty());
    // Taken back by us: Codex sees a plain file, and appends.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(item("more").as_bytes()).unwrap();
    let longer = [&text[..], item("more").as_bytes()].concat();
    assert_eq!(fs::read(&lies).unwrap(), longer);
    assert_eq!(names(&mount.home().join(DAY)), [1, 2].map(name));
    // A compressed file that is not the thread's bytes does not let it go.
    let temporary = mount.path(&format!("{DAY}/rollout-compress-x.tmp"));
    fs::write(&temporary, zstd::encode_all(&b"other"[..], 3).unwrap()).unwrap();
    rename_with(&temporary, &compressed, libc::RENAME_NOREPLACE).unwrap();
    fs::remove_file(&path).unwrap();
    let item = trash.join(&names(&trash)[0]);
    assert_eq!(fs::read(item.join(name(1))).unwrap(), longer);
}

#[test]
fn codex_materialises_by_link_else_by_rename() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, [2]), &[]);
    let temporary = mount.path(&format!("{DAY}/.rollout-materialize-Ab12Cd"));
    let mut file = new_file(&temporary);
    file.write_all(thread(1).as_bytes()).unwrap();
    file.sync_all().unwrap();
    let path = mount.path(&active(1));
    assert_eq!(errno(fs::hard_link(&temporary, &path)), Some(libc::EPERM));
    mount.logged("hard link");
    rename_with(&temporary, &path, libc::RENAME_NOREPLACE).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), thread(1));
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), thread(1));
    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(fs::metadata(mount.path(&format!("by-id/{}.jsonl", super::id(1)))).unwrap().ino(), inode);
    fs::write(&temporary, "x").unwrap();
    assert_eq!(errno(rename_with(&temporary, &path, libc::RENAME_NOREPLACE)), Some(libc::EEXIST));
    fs::remove_file(&temporary).unwrap();
}

#[test]
fn a_migration_replaces_a_thread_and_keeps_the_old_one() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=2), &[]);
    let path = mount.path(&active(1));
    let inode = fs::metadata(&path).unwrap().ino();
    let temporary = mount.path(&format!("{DAY}/.{}.paginated.tmp", name(1)));
    let mut file = new_file(&temporary);
    let new = meta(1, ",\"history_mode\":\"paginated\"") + &user("migrated");
    file.write_all(new.as_bytes()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
    file.sync_all().unwrap();
    fs::rename(&temporary, &path).unwrap();
    File::open(mount.path(DAY)).unwrap().sync_all().unwrap();
    for path in [&path, &mount.home().join(active(1))] {
        assert_eq!(fs::read_to_string(path).unwrap(), new);
        assert_eq!(mtime_ns(path), 1_700_000_000_000_000_000);
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the thread's number");
    assert_eq!(names(&mount.path(DAY)), [1, 2].map(name));
    let trash = mount.home().join(".rolloutfs/trash");
    let item = trash.join(&names(&trash)[0]);
    assert_eq!(fs::read_to_string(item.join(name(1))).unwrap(), thread(1));
    // It can be appended to and replaced again.
    OpenOptions::new().append(true).open(&path).unwrap().write_all(item_line().as_bytes()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), new.clone() + &item_line());
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), new + &item_line());
}

fn item_line() -> String {
    item("after")
}

#[test]
fn scratch_is_written_in_any_way_and_outlives_the_mount() {
    if !can_mount() {
        return;
    }
    let mut mount = Mount::of(|home| with_threads(home, 1..=2), &[]);
    let path = mount.path(&format!("{DAY}/draft.txt"));
    fs::write(&path, "0123456789").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"AB", 3).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "012AB56789");
    file.set_len(5).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "012AB");
    std::os::unix::fs::FileExt::write_at(&file, b"Z", 8).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"012AB\0\0\0Z");
    drop(file);
    let second = mount.path(&format!("{DAY}/second.txt"));
    fs::write(&second, "second").unwrap();
    fs::rename(&second, &path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    assert!(!second.exists());
    // Across folders, into the root and back.
    fs::rename(&path, mount.path("draft.txt")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("draft.txt")).unwrap(), "second");
    assert_eq!(names(&mount.path(DAY)), [1, 2].map(name));
    fs::rename(mount.path("draft.txt"), &path).unwrap();
    mount.kill();
    mount.start(&[]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    assert_eq!(names(&mount.home().join(DAY)), [1, 2].map(name));
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_temporary_becomes_a_thread_by_its_name() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, [2]), &[]);
    // As rsync names it; without a user message the thread is pending then.
    let temporary = mount.path(&format!("{DAY}/.{}.Xy12Ab", name(1)));
    fs::write(&temporary, meta(1, "")).unwrap();
    fs::rename(&temporary, mount.path(&active(1))).unwrap();
    assert_eq!(fs::read_to_string(mount.path(&active(1))).unwrap(), meta(1, ""));
    assert!(!mount.home().join(active(1)).exists());
    assert!(mount.path(&format!("by-id/{}.jsonl", super::id(1))).exists());
    // A newer copy over it, this time with one.
    fs::write(&temporary, thread(1)).unwrap();
    fs::rename(&temporary, mount.path(&active(1))).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), thread(1));
    assert_eq!(fs::read_to_string(mount.path(&active(1))).unwrap(), thread(1));
    // A thread never becomes a temporary; a pending one may.
    assert_eq!(errno(fs::rename(mount.path(&active(1)), &temporary)), Some(libc::EPERM));
    fs::write(mount.path(&active(3)), meta(3, "")).unwrap();
    fs::rename(mount.path(&active(3)), &temporary).unwrap();
    assert!(!mount.path(&active(3)).exists());
    assert!(!mount.path(&format!("by-id/{}.jsonl", super::id(3))).exists());
    assert_eq!(fs::read_to_string(&temporary).unwrap(), meta(3, ""));
}
