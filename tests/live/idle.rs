//! What does a mount cost that nobody uses, over a home in which nothing happens?

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::TestHome;
use crate::harness::{Mounted, can_mount};
use crate::{number_from, process_status};

/// How long it is watched, in seconds.
const SECONDS: u64 = 5;
/// How often its threads may wake up in that time.
const WAKES_MAX: u64 = 2;
/// Ticks of a processor (10 ms each) that it may use.
const TICKS_MAX: u64 = 1;

/// Of each thread how often it gave up the processor by itself: each time it wakes and sleeps again.
fn wakes(mount: &Mounted) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(PathBuf::from(format!("/proc/{}/task", mount.pid()))).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    tasks
        .map(|task| {
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            let id = task.file_name().unwrap().to_string_lossy().into_owned();
            (format!("{} {id}", name.trim()), process_status(&task, "voluntary_ctxt_switches"))
        })
        .collect()
}

/// Ticks of user and system time.
fn ticks(mount: &Mounted) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/stat", mount.pid())).unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_idle_mount_asks_for_nothing_and_does_not_wake() {
    if !can_mount() {
        return;
    }
    let home = TestHome::sample(200, 3);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    mount.find();
    let seconds = number_from("ROLLOUTFS_IDLE_SECONDS", SECONDS);
    let (idle_from, _) = mount.requests();
    let (from, before) = mount.requests();
    std::thread::sleep(Duration::from_millis(500));
    let (wakes_before, ticks_before) = (wakes(&mount), ticks(&mount));
    std::thread::sleep(Duration::from_secs(seconds));
    let (wakes_after, ticks_after) = (wakes(&mount), ticks(&mount));
    let (to, after) = mount.requests();
    let requests = (to - from).saturating_sub(from - idle_from);
    let woken: BTreeMap<_, _> = wakes_after
        .iter()
        .map(|(thread, wakes)| (thread, wakes - wakes_before.get(thread).unwrap_or(&0)))
        .filter(|(_, wakes)| *wakes > 0)
        .collect();
    let total: u64 = woken.values().sum();
    let used = ticks_after - ticks_before;
    println!(
        "an idle minute: {} requests, {} wake-ups, {} ms of processor time ({woken:?})",
        requests * 60 / seconds,
        total * 60 / seconds,
        used * 10 * 60 / seconds,
    );
    assert_eq!(requests, 0, "{before} {after}");
    assert!(total <= WAKES_MAX * seconds.div_ceil(SECONDS) && used <= TICKS_MAX, "{woken:?}, {used} ticks");
    mount.unmount();
}
