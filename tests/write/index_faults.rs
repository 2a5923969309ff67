//! What does a caller get when only the index cannot be written? It is a cache: what is on disk is told so.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::bench::{
    Bench, CATCH_UP_MAX, DAY, answer, append, await_no_trouble, create, differences, header, name, sync,
    text, user, write_file,
};
use super::common::thread_id;
use super::harness::reason_to_skip;
use super::strace::{self, Strace};

/// Calls that are made while only the index cannot be written. It is made of the files and may be late: what is on disk is
/// told so, and what can be answered from the index alone is refused whole.
fn index_fault(errno_name: &str, expected: i32) {
    if let Some(reason) = reason_to_skip().or_else(strace::reason_to_skip) {
        println!("skipped: {reason}");
        return;
    }
    let mut bench = Bench::new();
    let threads: Vec<_> = (0..5).map(|_| bench.thread()).collect();
    let [(appended, append_path), (archived, archive_path), (_, removed_path), (named, _), (_, linked_path)] =
        &threads[..]
    else {
        unreachable!()
    };
    let entry = format!(
        "{{\"id\":\"{}\",\"thread_name\":\"old\",\"updated_at\":\"2026-02-08T09:15:01Z\"}}\n",
        thread_id(*named)
    );
    write_file(&bench.home("session_index.jsonl"), entry.as_bytes());
    let (pending, pending_path) = bench.free();
    let (renamed, renamed_path) = bench.free();
    let (_, free_path) = bench.free();
    let daemon = bench.mount();
    let (above, scratch) = (bench.mnt(&pending_path), bench.mnt(&format!("{DAY}/.x.tmp")));
    create(&above).and_then(|()| append(&above, &header(pending))).unwrap();
    create(&scratch).and_then(|()| append(&scratch, &text(renamed))).unwrap();

    let database = bench.home(".rolloutfs/index.sqlite");
    let files = vec![database.clone(), database.with_extension("sqlite-wal")];
    let notes = bench.place.notes().join("strace");
    let strace = Strace::fail(&daemon, &notes, "pwrite64,ftruncate,fallocate", "", errno_name, &files);
    let before = bench.on_disk();
    let errno = |done: io::Result<()>| done.err().and_then(|error| error.raw_os_error());
    let new = bench.mnt(&free_path);
    assert_eq!(errno(create(&new)), Some(expected), "create");
    assert_eq!(errno(create(&bench.mnt(&format!("{DAY}/.y.tmp")))), Some(expected), "create a scratch file");
    assert_eq!(errno(fs::create_dir(bench.mnt("sessions/2026/03"))), Some(expected), "mkdir");
    assert!(!bench.pending("sessions/2026/03").exists());
    assert_eq!(differences(&before, &bench.on_disk()), Vec::<String>::new());

    append(&bench.mnt(append_path), &answer(*appended, 3)).unwrap();
    let whole = [text(*appended), answer(*appended, 3)].concat();
    assert!(
        fs::read(bench.home(append_path)).unwrap() == whole
            && fs::read(bench.mnt(append_path)).unwrap() == whole
    );
    // It is materialised, and goes on being written.
    append(&above, &user(pending)).unwrap();
    append(&above, &answer(pending, 3)).unwrap();
    sync(&above).unwrap();
    let whole = [text(pending), answer(pending, 3)].concat();
    assert!(fs::read(bench.home(&pending_path)).unwrap() == whole && fs::read(&above).unwrap() == whole);
    assert!(!bench.pending(&pending_path).exists());

    // Append-only as any in the home.
    let cut = fs::OpenOptions::new().write(true).open(&above).and_then(|file| file.set_len(0));
    assert_eq!(errno(cut), Some(libc::EPERM), "truncate");
    assert!(fs::read(bench.home(&pending_path)).unwrap() == whole);

    let into = format!("archived_sessions/{}", name(*archived));
    fs::rename(bench.mnt(archive_path), bench.mnt(&into)).unwrap();
    assert!(fs::read(bench.home(&into)).unwrap() == text(*archived) && !bench.home(archive_path).exists());
    assert!(fs::read(bench.mnt(&into)).unwrap() == text(*archived), "by the name that the kernel knows");
    fs::remove_file(bench.mnt(removed_path)).unwrap();
    assert!(!bench.home(removed_path).exists());
    fs::rename(&scratch, bench.mnt(&renamed_path)).unwrap();
    assert_eq!(fs::read(bench.home(&renamed_path)).unwrap(), text(renamed));
    fs::rename(bench.mnt("by-name/old.jsonl"), bench.mnt("by-name/new.jsonl")).unwrap();
    let link = format!("../{linked_path}");
    let linked = std::os::unix::fs::symlink(&link, bench.mnt("by-name/linked.jsonl"));
    assert_eq!(
        errno(linked),
        Some(expected),
        "ln -s: the name is given, and there is no link yet to answer with"
    );
    append(&bench.mnt("session_index.jsonl"), b"\n").unwrap();
    let names = fs::read_to_string(bench.home("session_index.jsonl")).unwrap();
    assert!(names.contains("\"new\"") && names.contains("\"linked\"") && names.ends_with("\n\n"), "{names}");
    let end = Instant::now() + CATCH_UP_MAX;
    while daemon.status()["progress"]["trouble"].is_null() {
        assert!(Instant::now() < end, "the status tells no trouble");
        std::thread::sleep(Duration::from_millis(20));
    }
    let noted = strace.end();
    assert!(noted.contains("(INJECTED)"));

    await_no_trouble(&daemon);
    create(&new).unwrap();
    fs::create_dir(bench.mnt("sessions/2026/03")).unwrap();
    let shown = bench.shown();
    for (path, is_there) in [
        (bench.mnt(&into), true),
        (bench.mnt(archive_path), false),
        (bench.mnt(removed_path), false),
        (bench.mnt(&renamed_path), true),
        (bench.mnt("by-name/new.jsonl"), true),
        (bench.mnt("by-name/linked.jsonl"), true),
        (bench.mnt("by-name/old.jsonl"), false),
        (scratch.clone(), false),
    ] {
        assert_eq!(fs::metadata(&path).is_ok(), is_there, "{}", path.display());
    }
    daemon.unmount();
    let daemon = bench.mount();
    assert_eq!(differences(&shown, &bench.shown()), Vec::<String>::new(), "mounted again");
    daemon.unmount();
}

#[test]
fn an_index_that_cannot_be_written_fails_no_write() {
    index_fault("ENOSPC", libc::ENOSPC);
}

#[test]
fn an_index_on_a_broken_disk_fails_no_write() {
    index_fault("EIO", libc::EIO);
}
