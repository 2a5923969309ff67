//! Does fsync above sync below? Seen with `strace` on the daemon.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::bench::{Bench, DAY, answer, append, create, header, sync, user, write_file};
use super::harness::reason_to_skip;
use super::strace::{self, Strace, syncs};

/// fsync, fdatasync and O_SYNC reach the file below, and its folders the first time, before the call returns.
#[test]
fn what_is_synced_above_is_synced_below_before_the_call_returns() {
    if let Some(reason) = reason_to_skip().or_else(strace::reason_to_skip) {
        println!("skipped: {reason}");
        return;
    }
    let mut bench = Bench::new();
    let (number, in_home) = bench.thread();
    let (pending, pending_path) = bench.free();
    let (dd, dd_path) = bench.free();
    let (user_synced, user_path) = bench.free();
    write_file(&bench.home("session_index.jsonl"), b"");
    let daemon = bench.mount();
    for path in [&pending_path, &user_path] {
        create(&bench.mnt(path)).unwrap();
    }
    append(&bench.mnt(&user_path), &header(user_synced)).unwrap();
    let open = |path: &str, flags: i32| {
        fs::OpenOptions::new().append(true).custom_flags(flags).open(bench.mnt(path)).unwrap()
    };
    let write = |path: &str, flags: i32, bytes: &[u8]| {
        assert_eq!(open(path, flags).write(bytes).unwrap(), bytes.len());
    };
    // The folders of the day, up to the one that is asked for.
    let folders = |root: PathBuf| -> Vec<PathBuf> {
        Path::new(DAY).ancestors().map(|folder| root.join(folder).components().collect()).collect()
    };
    let home = folders(bench.place.home());
    let mut spool = folders(bench.pending(""));
    spool.push(bench.home(".rolloutfs"));
    let check = |what: &str, call: &str, file: &Path, folders: &[PathBuf], act: &dyn Fn()| {
        let strace = Strace::note(&daemon, &bench.place.notes().join("strace"), "fsync,fdatasync");
        act();
        let returned = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let noted = strace.end();
        let is_index = |path: &Path| path.to_string_lossy().contains("index.sqlite");
        let done: Vec<_> = syncs(&noted)
            .into_iter()
            .filter(|sync| sync.ended <= returned && !is_index(&sync.path))
            .map(|sync| (sync.call, sync.path))
            .collect();
        let file = (call.to_owned(), file.to_owned());
        let folders = folders.iter().map(|folder| ("fsync".to_owned(), folder.clone()));
        let expected: Vec<_> = std::iter::once(file).chain(folders).collect();
        assert_eq!(done, expected, "{what}: {noted}");
    };
    let (below, below_pending) = (bench.home(&in_home), bench.pending(&pending_path));
    check("fsync, pending", "fsync", &below_pending, &spool, &|| open(&pending_path, 0).sync_all().unwrap());
    check("again", "fsync", &below_pending, &[], &|| open(&pending_path, 0).sync_all().unwrap());
    check("fdatasync", "fdatasync", &below_pending, &[], &|| open(&pending_path, 0).sync_data().unwrap());
    check("O_SYNC, pending", "fsync", &below_pending, &[], &|| {
        write(&pending_path, libc::O_SYNC, &header(pending));
    });
    check("O_DSYNC", "fdatasync", &below, &home, &|| write(&in_home, libc::O_DSYNC, &answer(number, 3)));
    check("O_SYNC", "fsync", &below, &[], &|| write(&in_home, libc::O_SYNC, &answer(number, 4)));
    check("fsync", "fsync", &below, &[], &|| open(&in_home, 0).sync_all().unwrap());
    let placed = bench.home(&user_path);
    check("O_SYNC, materialised by it", "fsync", &placed, &home, &|| {
        write(&user_path, libc::O_SYNC, &user(user_synced));
    });
    // In the home and in the spool.
    check("fsync of a folder", "fsync", &home[0], &spool[..1], &|| sync(&bench.mnt(DAY)).unwrap());
    let input = bench.place.notes().join("input");
    fs::write(&input, header(dd)).unwrap();
    check("dd conv=fsync", "fsync", &bench.pending(&dd_path), &spool, &|| {
        let of = format!("of={}", bench.mnt(&dd_path).display());
        let mut dd = Command::new("dd");
        dd.args([&format!("if={}", input.display()), &of, "conv=fsync", "status=none"]);
        assert!(dd.status().unwrap().success());
    });
    check("O_SYNC, names", "fsync", &bench.home("session_index.jsonl"), &home[4..], &|| {
        write("session_index.jsonl", libc::O_SYNC, b"\n");
    });
    daemon.unmount();
}
