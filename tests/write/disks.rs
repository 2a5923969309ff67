//! What do threads suffer on a disk that is really full, and on one that is really read-only? As root: each test makes
//! small disks of its own in memory, and they go when it ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bench::{DAY, answer, append, await_no_trouble, create, header, name, text, user, write_file};
use super::common::thread_id;
use super::harness::{Place, reason_to_skip};

/// Why no disk can be made here, if so.
fn reason() -> Option<String> {
    // SAFETY: no arguments, no failure.
    let is_root = unsafe { libc::geteuid() } == 0;
    reason_to_skip().or_else(|| (!is_root).then(|| "it needs root".to_owned())).or_else(|| {
        let dir = tempfile::tempdir().unwrap();
        Disk::new(dir.path(), "size=64k").err()
    })
}

/// A disk in memory. It goes when it is dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn new(at: &Path, options: &str) -> Result<Disk, String> {
        fs::create_dir_all(at).unwrap();
        let said =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output().unwrap();
        if said.status.success() {
            Ok(Disk { at: at.to_owned() })
        } else {
            Err(format!("no disk can be mounted: {}", String::from_utf8_lossy(&said.stderr).trim()))
        }
    }

    fn remount(&self, how: &str) {
        let said =
            Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.at).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    /// Takes all that is free, and answers the file that has it.
    fn fill(&self) -> PathBuf {
        let filler = self.at.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        let block = [0x5a; 4096];
        while io::Write::write(&mut file, &block).is_ok_and(|count| count > 0) {}
        filler
    }

    /// Takes all file numbers that are free, and answers the folder of those who have them.
    fn fill_numbers(&self) -> PathBuf {
        let filler = self.at.join("fillers");
        fs::create_dir(&filler).unwrap();
        let mut number = 0;
        while fs::File::create(filler.join(format!("{number}"))).is_ok() {
            number += 1;
        }
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn errno(done: io::Result<()>) -> Option<i32> {
    done.err().and_then(|error| error.raw_os_error())
}

/// Appends until the disk is full: nothing that was taken may be lost.
fn append_until_full(path: &Path, number: u64, whole: &mut Vec<u8>) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    for line in 10.. {
        let bytes = answer(number, line);
        match io::Write::write(&mut file, &bytes) {
            Ok(count) => {
                whole.extend_from_slice(&bytes[..count]);
                if count < bytes.len() {
                    // Taken in part, as on any disk: the next write says why.
                    continue;
                }
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                return;
            }
        }
    }
}

#[test]
fn a_full_disk_takes_no_more_and_loses_nothing() {
    if let Some(reason) = reason() {
        println!("skipped: {reason}");
        return;
    }
    let place = Place::new();
    let disk = Disk::new(&place.home(), "size=4m,mode=755").unwrap();
    let (home, mnt) = (place.home(), place.mnt());
    let path = |number| format!("{DAY}/{}", name(number));
    write_file(&home.join(path(1)), &text(1));
    write_file(&home.join(path(3)), &text(3));
    let daemon = place.mount();
    daemon.await_settled();
    create(&mnt.join(path(2))).and_then(|()| append(&mnt.join(path(2)), &header(2))).unwrap();
    let filler = disk.fill();
    let (mut in_home, mut pending) = (text(1), header(2));
    append_until_full(&mnt.join(path(1)), 1, &mut in_home);
    append_until_full(&mnt.join(path(2)), 2, &mut pending);
    let check = |in_home: &[u8], pending: &[u8]| {
        for (number, bytes) in [(1, in_home), (2, pending)] {
            assert!(fs::read(mnt.join(path(number))).unwrap() == bytes, "{number}");
        }
    };
    check(&in_home, &pending);
    // A move takes no room.
    let archived = format!("archived_sessions/{}", name(3));
    let moved = errno(fs::rename(mnt.join(path(3)), mnt.join(&archived)));
    assert!(moved.is_none_or(|errno| errno == libc::ENOSPC), "{moved:?}");
    let lies = if moved.is_none() { home.join(&archived) } else { home.join(path(3)) };
    assert_eq!(fs::read(lies).unwrap(), text(3));
    fs::remove_file(&filler).unwrap();
    // Whatever half line there is gets its end, as every program does.
    for (number, whole) in [(1, &mut in_home), (2, &mut pending)] {
        let more = [b"\n".to_vec(), user(number)].concat();
        append(&mnt.join(path(number)), &more).unwrap();
        whole.extend(more);
    }
    check(&in_home, &pending);
    assert!(fs::read(home.join(path(2))).unwrap() == pending, "materialised");
    if moved.is_some() {
        fs::rename(mnt.join(path(3)), mnt.join(&archived)).unwrap();
    }
    await_no_trouble(&daemon);
    assert_eq!(fs::read(mnt.join(&archived)).unwrap(), text(3));
    daemon.unmount();
    let daemon = place.mount();
    daemon.await_settled();
    check(&in_home, &pending);
    daemon.unmount();
}

/// The home on a disk that has room and no file numbers left, the state on another: a thread is copied there.
#[test]
fn a_thread_that_finds_no_place_stays_pending_until_there_is_one() {
    if let Some(reason) = reason() {
        println!("skipped: {reason}");
        return;
    }
    for is_full_of_bytes in [false, true] {
        let place = Place::new();
        let disk = Disk::new(&place.home(), "size=1m,nr_inodes=64,mode=755").unwrap();
        let (home, mnt, state) = (place.home(), place.mnt(), place.notes().join("state"));
        let path = |number| format!("{DAY}/{}", name(number));
        let pending = |number| state.join("pending").join(path(number));
        write_file(&home.join(path(1)), &text(1));
        let daemon = place.mount_with(&[], &["--state-dir", state.to_str().unwrap()]);
        daemon.await_settled();
        let filler = if is_full_of_bytes { disk.fill() } else { disk.fill_numbers() };
        create(&mnt.join(path(2))).and_then(|()| append(&mnt.join(path(2)), &header(2))).unwrap();
        let refused = errno(append(&mnt.join(path(2)), &user(2)));
        assert_eq!(refused, Some(libc::ENOSPC), "full of bytes: {is_full_of_bytes}");
        assert_eq!(fs::read(pending(2)).unwrap(), header(2));
        assert_eq!(fs::read(mnt.join(path(2))).unwrap(), header(2));
        let names: Vec<_> = fs::read_dir(home.join(DAY)).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, [name(1).as_str()], "no temporary");
        if is_full_of_bytes {
            fs::remove_file(filler).unwrap();
        } else {
            fs::remove_dir_all(filler).unwrap();
        }
        append(&mnt.join(path(2)), &user(2)).unwrap();
        assert_eq!(fs::read(home.join(path(2))).unwrap(), text(2));
        assert!(!pending(2).exists());
        assert_eq!(fs::read(mnt.join(path(2))).unwrap(), text(2));
        daemon.unmount();
    }
}

#[test]
fn a_read_only_disk_refuses_with_erofs_until_it_is_writable() {
    if let Some(reason) = reason() {
        println!("skipped: {reason}");
        return;
    }
    let place = Place::new();
    let disk = Disk::new(&place.home(), "size=4m,mode=755").unwrap();
    let (home, mnt, state) = (place.home(), place.mnt(), place.notes().join("state"));
    let path = |number| format!("{DAY}/{}", name(number));
    for number in [1, 3, 4, 5, 6] {
        write_file(&home.join(path(number)), &text(number));
    }
    let zst = home.join(path(7)).with_extension("jsonl.zst");
    write_file(&zst, &zstd::encode_all(&text(7)[..], 3).unwrap());
    let entry = |number: u64, name: &str| {
        let id = thread_id(number);
        format!("{{\"id\":\"{id}\",\"thread_name\":\"{name}\",\"updated_at\":\"unknown\"}}\n")
    };
    write_file(&home.join("session_index.jsonl"), (entry(5, "old") + &entry(6, "gone")).as_bytes());
    let daemon = place.mount_with(&[], &["--state-dir", state.to_str().unwrap()]);
    daemon.await_settled();
    create(&mnt.join(path(2))).and_then(|()| append(&mnt.join(path(2)), &header(2))).unwrap();
    let temporary = mnt.join(format!("{DAY}/.x.tmp"));
    create(&temporary).and_then(|()| append(&temporary, &text(8))).unwrap();
    let archived = format!("archived_sessions/{}", name(3));
    type Call<'a> = (&'a str, &'a dyn Fn() -> io::Result<()>);
    let calls: [Call<'_>; 8] = [
        ("append", &|| append(&mnt.join(path(1)), &answer(1, 3))),
        ("materialise", &|| append(&mnt.join(path(2)), &user(2))),
        ("archive", &|| fs::rename(mnt.join(path(3)), mnt.join(&archived))),
        ("rm", &|| fs::remove_file(mnt.join(path(4)))),
        ("name", &|| fs::rename(mnt.join("by-name/old.jsonl"), mnt.join("by-name/new.jsonl"))),
        ("unname", &|| fs::remove_file(mnt.join("by-name/gone.jsonl"))),
        ("thaw", &|| append(&mnt.join(path(7)), &answer(7, 3))),
        ("rename", &|| fs::rename(&temporary, mnt.join(path(8)))),
    ];
    let tree = || {
        let find = Command::new("find").arg(&home).arg(&state).args(["-type", "f", "-size", "+0"]).output();
        let mut lines: Vec<_> =
            String::from_utf8(find.unwrap().stdout).unwrap().lines().map(str::to_owned).collect();
        lines.retain(|line| !line.contains("index.sqlite"));
        lines.sort();
        lines
    };
    let before = tree();
    disk.remount("ro");
    for (what, call) in &calls {
        assert_eq!(errno(call()), Some(libc::EROFS), "{what}: {}", daemon.log_text());
    }
    assert_eq!(tree(), before);
    for (number, bytes) in [(1, text(1)), (2, header(2)), (3, text(3)), (4, text(4)), (7, text(7))] {
        assert_eq!(fs::read(mnt.join(path(number))).unwrap(), bytes, "{number}");
    }
    // A thread is still begun: it is kept beside the disk.
    create(&mnt.join(path(9))).and_then(|()| append(&mnt.join(path(9)), &header(9))).unwrap();
    disk.remount("rw");
    for (what, call) in &calls {
        call().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let whole = [
        (1, [text(1), answer(1, 3)].concat()),
        (2, text(2)),
        (7, [text(7), answer(7, 3)].concat()),
        (8, text(8)),
    ];
    for (number, bytes) in whole {
        assert_eq!(fs::read(home.join(path(number))).unwrap(), bytes, "{number}");
        assert_eq!(fs::read(mnt.join(path(number))).unwrap(), bytes, "{number}");
    }
    assert!(!zst.exists() && !home.join(path(4)).exists() && home.join(&archived).exists());
    assert!(fs::symlink_metadata(mnt.join("by-name/new.jsonl")).is_ok());
    assert!(fs::symlink_metadata(mnt.join("by-name/gone.jsonl")).is_err());
    daemon.unmount();
}
