//! Does the daemon stay as small as it was, whatever happens in its home?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::churn::Churn;
use crate::common::TestHome;
use crate::harness::{Mounted, can_mount, run};
use crate::storm::{assert_same, at_rest};
use crate::{number_from, process_status};

/// Threads that the home has throughout.
const THREADS: usize = 300;
/// How long the short form takes, in seconds.
const SECONDS: u64 = 12;
/// Things that happen in a second.
const STEPS_PER_SECOND: u64 = 200;
/// The first part of the time, in which caches fill: not compared.
const WARM_SHARE: u64 = 5;
/// Memory that may come on top, of what was there and besides.
const MEMORY_SHARE: u64 = 5;
const MEMORY_MORE_BYTES: u64 = 16 << 20;
/// Descriptors and watches that may come on top: a descriptor of each thread may be kept, and days may have been empty.
const DESCRIPTORS_MORE: u64 = THREADS as u64;
const WATCHES_MORE: u64 = 8;
/// Three times what the index's log may be before versions of threads.jsonl are given up for it.
const LOG_BYTES_MAX: u64 = 288 << 20;

#[derive(Debug)]
struct Size {
    memory_bytes: u64,
    descriptors: u64,
    watches: u64,
    log_bytes: u64,
}

impl Size {
    fn of(home: &Path, mount: &Mounted) -> Size {
        let process = PathBuf::from(format!("/proc/{}", mount.pid()));
        let descriptors = fs::read_dir(process.join("fd")).unwrap().count() as u64;
        let infos = fs::read_dir(process.join("fdinfo")).unwrap().flatten();
        let watches = infos.map(|info| {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            text.lines().filter(|line| line.starts_with("inotify ")).count() as u64
        });
        let watches = watches.sum();
        let log = home.join(".rolloutfs/index.sqlite-wal");
        let log_bytes = fs::metadata(log).map_or(0, |found| found.len());
        Size { memory_bytes: process_status(&process, "VmRSS") * 1024, descriptors, watches, log_bytes }
    }
}

/// ROLLOUTFS_SOAK_SECONDS says how long; `scripts/live.sh soak` sets it.
#[test]
fn the_daemon_stays_as_small_as_it_was() {
    if !can_mount() {
        return;
    }
    let seconds = number_from("ROLLOUTFS_SOAK_SECONDS", SECONDS);
    let home = TestHome::empty();
    let mut churn = Churn::new(&home.path(), 7);
    while churn.count() < THREADS {
        churn.create();
    }
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    let began = Instant::now();
    let steps = seconds * STEPS_PER_SECOND;
    let mut sizes = Vec::new();
    let mut reads = 0;
    for step in 0..steps {
        churn.step(true);
        while churn.count() < THREADS {
            churn.create();
        }
        if step % (2 * STEPS_PER_SECOND) == STEPS_PER_SECOND {
            run(Command::new("grep")
                .args(["-rc", "question", "sessions", "by-name"])
                .current_dir(mount.at()));
            let _ = fs::read(mount.path("threads.jsonl"));
            mount.find();
            reads += 1;
        }
        if [steps / WARM_SHARE, steps / 2, steps - 1].contains(&step) {
            sizes.push(Size::of(&home.path(), &mount));
            println!("after {:.0?}: {:?}", began.elapsed(), sizes.last());
        }
        let due = Duration::from_micros(step * 1_000_000 / STEPS_PER_SECOND);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    println!("{:?}, read {reads} times, in {:.0?}", churn.done, began.elapsed());
    let [start, _, end] = &sizes[..] else { unreachable!("three times") };
    let memory_max = start.memory_bytes + start.memory_bytes / MEMORY_SHARE + MEMORY_MORE_BYTES;
    assert!(end.memory_bytes <= memory_max, "memory grew: {start:?}, then {end:?}");
    assert!(end.descriptors <= start.descriptors + DESCRIPTORS_MORE, "descriptors: {start:?}, then {end:?}");
    assert!(end.log_bytes <= LOG_BYTES_MAX, "the index's log grew: {end:?}");
    assert!(end.watches <= start.watches + WATCHES_MORE, "watches: {start:?}, then {end:?}");
    println!("at rest after {:?}", at_rest(&mount));
    assert_same(&home, &mount);
    mount.unmount();
}
