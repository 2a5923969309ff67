//! Is every acknowledged byte there after a crash? The daemon is killed at random moments; `points` ends it at every step.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::common::{files_below, thread_id};
use super::harness::{
    Place, Random, Task, await_writer, number_of, parse_line, read_notes, reason_to_skip, start_writer,
};

/// Kills in the short version.
const RUNS: u64 = 60;
/// Kills of one home; then a new one, or its files get long.
const RUNS_OF_HOME: u64 = 20;
/// Files that are written at once.
const FILES: u64 = 3;
/// Lines of a file in one run.
const LINES_MAX: u64 = 60;
/// The daemon is killed so long after the first file is open, at most, microseconds.
const LIFE_US_MAX: u64 = 40_000;

/// A file over all runs of a home.
#[derive(Clone, Debug)]
struct Thread {
    number: u64,
    path: String,
    user_at: u64,
    next: u64,
    /// Bytes at its end that a crash cut off, over all runs.
    torn: u64,
}

impl Thread {
    fn new(number: u64, random: &mut Random) -> Thread {
        let user_at = match random.below(4) {
            0 => 0,
            1 => 2,
            _ => 2 + random.below(LINES_MAX),
        };
        let path = format!("sessions/2026/02/08/rollout-2026-02-08T10-15-01-{}.jsonl", thread_id(number));
        Thread { number, path, user_at, next: 1, torn: 0 }
    }
}

#[derive(Default, Debug)]
struct Counts {
    runs: u64,
    acknowledged: u64,
    /// Whole lines that were there though nobody was told.
    unacknowledged: u64,
    torn: u64,
    errnos: BTreeMap<i32, u64>,
    still_pending: u64,
    materialised: u64,
}

#[test]
fn what_was_acknowledged_outlives_kills_at_random_moments() {
    if reason_to_skip().is_some() {
        return;
    }
    let runs = number_of("ROLLOUTFS_CRASH_RUNS", RUNS);
    let seed = number_of("ROLLOUTFS_SEED", 0x5EED);
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    let started = Instant::now();
    while counts.runs < runs {
        run_home(&mut random, (runs - counts.runs).min(RUNS_OF_HOME), &mut counts);
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{counts:?}, {:.1} runs a second", counts.runs as f64 / seconds);
    assert!(counts.acknowledged > 0 && counts.materialised > 0);
}

fn run_home(random: &mut Random, runs: u64, counts: &mut Counts) {
    let place = Place::new();
    let mut threads: Vec<Thread> = Vec::new();
    let mut daemon = place.mount();
    for run in 0..runs {
        let mut chosen: Vec<Thread> = Vec::new();
        for _ in 0..FILES {
            let known = random.below(threads.len() as u64 + 2) as usize;
            if threads.get(known).is_some_and(|thread| chosen.iter().all(|one| one.number != thread.number)) {
                chosen.push(threads[known].clone());
            } else {
                let thread = Thread::new(1000 * run + chosen.len() as u64 + 1, random);
                threads.push(thread.clone());
                chosen.push(thread);
            }
        }
        let tasks: Vec<Task> = chosen.iter().map(|thread| task(&place, run, thread, random)).collect();
        let writer = start_writer(&tasks);
        let end = Instant::now() + Duration::from_secs(20);
        while !tasks.iter().any(|task| task.notes.exists()) && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(random.below(LIFE_US_MAX)));
        daemon.kill();
        await_writer(writer);
        daemon = place.mount();
        counts.runs += 1;
        for task in &tasks {
            let thread = threads.iter_mut().find(|thread| thread.number == task.writer).unwrap();
            check(&place, thread, task, counts);
        }
    }
    // Whole at the end too, and every file once.
    for thread in threads.iter().filter(|thread| thread.next > 1) {
        let (last, _) = lines_of(&place, thread);
        assert_eq!(last + 1, thread.next, "{thread:?}");
    }
}

fn task(place: &Place, run: u64, thread: &Thread, random: &mut Random) -> Task {
    Task {
        file: place.mnt().join(&thread.path),
        thread: thread_id(thread.number),
        writer: thread.number,
        first: thread.next,
        lines: 1 + random.below(LINES_MAX),
        user_at: thread.user_at,
        bytes: (260, if random.below(3) == 0 { 6000 } else { 600 }),
        notes: place.notes().join(format!("{run}-{}", thread.number)),
        sync_each: 0,
        heals: true,
    }
}

/// Compares what is there now with what was noted.
fn check(place: &Place, thread: &mut Thread, task: &Task, counts: &mut Counts) {
    let noted = read_notes(&task.notes);
    if let Some(errno) = noted.errno {
        let fine = [libc::ENOTCONN, libc::ECONNABORTED, libc::ENODEV];
        assert!(fine.contains(&errno), "{thread:?}: the writer got {errno}; {noted:?}");
        *counts.errnos.entry(errno).or_default() += 1;
    }
    let acknowledged = noted.acknowledged.max(thread.next - 1);
    if let Err(error) = fs::metadata(place.mnt().join(&thread.path)) {
        let disk = files_below(&place.home());
        assert!(!noted.is_opened && thread.next == 1, "{thread:?}: {error}; {noted:?}; on disk {disk:?}");
        return;
    }
    let (last, torn) = lines_of(place, thread);
    assert!(last >= acknowledged, "{thread:?}: {last} lines, {acknowledged} were acknowledged; {noted:?}");
    assert!(last <= acknowledged + 1, "{thread:?}: {last} lines of {acknowledged}; {noted:?}");
    assert!(torn - thread.torn <= 1, "{thread:?}: {torn} torn lines; {noted:?}");
    counts.acknowledged += acknowledged + 1 - thread.next;
    counts.unacknowledged += last - acknowledged;
    counts.torn += torn - thread.torn;
    let in_home = place.home().join(&thread.path).exists();
    let in_spool = place.home().join(".rolloutfs/pending").join(&thread.path).exists();
    assert!(in_home != in_spool, "{thread:?}: in the home {in_home}, in the spool {in_spool}");
    // A line that was there though nobody was told of it may be the one: the next that is answered materialises.
    if thread.user_at != 0 && noted.acknowledged >= thread.user_at {
        assert!(in_home, "{thread:?} is not materialised, {acknowledged} lines were acknowledged");
    }
    *(if in_home { &mut counts.materialised } else { &mut counts.still_pending }) += 1;
    thread.next = last + 1;
    thread.torn = torn;
}

/// The number of the last line, and how many are torn. All others are there once and in order.
fn lines_of(place: &Place, thread: &Thread) -> (u64, u64) {
    let text = fs::read(place.mnt().join(&thread.path)).unwrap();
    let (mut last, mut torn) = (0, 0);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n").and_then(parse_line) {
            Some((writer, number)) => {
                assert_eq!((writer, number), (thread.number, last + 1), "{thread:?}");
                last = number;
            }
            None => torn += 1,
        }
    }
    (last, torn)
}
