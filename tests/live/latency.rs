//! How long does it take until a change on the disk is seen through the mount, over a large home?

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rolloutfs::cli::sample_home::{SampleOptions, Size, generate};

use crate::common::{thread_id, thread_text};
use crate::harness::{Mounted, can_mount, exists, names_in, skipped};
use crate::number_from;

/// The goal, for 99 of 100.
const P99_MAX: Duration = Duration::from_millis(100);
/// Nothing takes longer that is seen at all.
const SEEN_MAX: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(20);
/// By this the times of new threads are in the future of every sample's: they are the latest.
const FIRST_NUMBER: u64 = 1_000_000;

struct Times {
    what: &'static str,
    times: Vec<Duration>,
}

impl Times {
    fn new(what: &'static str) -> Times {
        Times { what, times: Vec::new() }
    }

    /// Says median and p99, and gives p99.
    fn report(mut self) -> Duration {
        self.times.sort();
        let at = |share: f64| self.times[((self.times.len() - 1) as f64 * share).round() as usize];
        let max = self.times.last().unwrap();
        println!(
            "{:<32} median {:>8.2?}  p99 {:>8.2?}  max {max:>8.2?}  of {}",
            self.what,
            at(0.5),
            at(0.99),
            self.times.len()
        );
        at(0.99)
    }
}

/// Run by `scripts/live.sh latency`, in release: ROLLOUTFS_LATENCY_THREADS, ROLLOUTFS_LATENCY_ROUNDS, ROLLOUTFS_LATENCY_DIR.
#[test]
#[ignore = "it measures: scripts/live.sh latency runs it"]
fn changes_are_seen_within_a_tenth_of_a_second() {
    if !can_mount() {
        return;
    }
    let threads = number_from("ROLLOUTFS_LATENCY_THREADS", 100_000);
    let rounds = number_from("ROLLOUTFS_LATENCY_ROUNDS", 1000);
    let dir = match std::env::var_os("ROLLOUTFS_LATENCY_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let home = dir.path().join("home");
    generate(
        &home,
        &SampleOptions { threads, seed: 1, size: Size::Tiny, all_plain: false, jobs: 2 },
        &|_| {},
    )
    .unwrap();
    let began = Instant::now();
    let mount = Mounted::unsettled(&home, &dir.path().join("mnt"), &[]);
    while mount.status()["progress"]["settled"] != true {
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("{threads} threads, settled after {:.1?}", began.elapsed());

    let grown = home
        .join("sessions/2026/11/29/rollout-2026-11-29T00-00-00-0198c0de-0000-7000-8000-0000000f0000.jsonl");
    fs::create_dir_all(grown.parent().unwrap()).unwrap();
    fs::write(&grown, thread_text("0198c0de-0000-7000-8000-0000000f0000", "/srv/grown", "x")).unwrap();
    let mut sizes = Times::new("an append: its size");
    let shown = mount.path(grown.strip_prefix(&home).unwrap());
    until(|| exists(&shown));
    for round in 0..rounds {
        let size = fs::metadata(&shown).unwrap().size();
        let line = format!(
            "{{\"timestamp\":\"2026-11-29T00:00:00Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"agent_message\",\"message\":\"{round}\"}}}}\n"
        );
        let began = Instant::now();
        append(&grown, &line);
        until(|| fs::metadata(&shown).unwrap().size() == size + line.len() as u64);
        sizes.times.push(began.elapsed());
        std::thread::sleep(PAUSE);
    }

    let mut kinds = [
        Times::new("a new thread: in its day"),
        Times::new("a new thread: in by-id"),
        Times::new("a new thread: in by-cwd"),
        Times::new("a new thread: latest"),
        Times::new("a new name: in by-name"),
        Times::new("a new thread: listed in its day"),
    ];
    for round in 0..rounds {
        let number = FIRST_NUMBER + round;
        let id = thread_id(number);
        let name = format!(
            "rollout-2026-11-29T{:02}-{:02}-{:02}-{id}.jsonl",
            round / 3600,
            round / 60 % 60,
            round % 60
        );
        let path = format!("sessions/2026/11/29/{name}");
        let links: [PathBuf; 5] = [
            mount.path(&path),
            mount.path(format!("by-id/{id}.jsonl")),
            mount.path(format!("by-cwd/srv/new/{round}/{name}")),
            mount.path("latest"),
            mount.path(format!("by-name/round {round}.jsonl")),
        ];
        // Asked for before, so that the kernel has a wrong answer to forget.
        let _ = links.iter().filter(|link| exists(link)).count();
        let before = names_in(&mount.path("sessions/2026/11/29")).len();
        let text = thread_text(&id, &format!("/srv/new/{round}"), "a question");
        let entry = format!(
            "{{\"id\":\"{id}\",\"thread_name\":\"round {round}\",\"updated_at\":\"2026-11-29T00:00:00Z\"}}\n"
        );
        let began = Instant::now();
        fs::write(home.join(&path), text).unwrap();
        append(&home.join("session_index.jsonl"), &entry);
        let mut seen = [None; 6];
        until(|| {
            for (position, slot) in seen.iter_mut().enumerate() {
                let is_there = || match position {
                    3 => fs::read_link(&links[3]).is_ok_and(|to| to == Path::new(&path)),
                    5 => names_in(&mount.path("sessions/2026/11/29")).len() > before,
                    _ => exists(&links[position]),
                };
                if slot.is_none() && is_there() {
                    *slot = Some(began.elapsed());
                }
            }
            seen.iter().all(Option::is_some)
        });
        for (kind, seen) in kinds.iter_mut().zip(seen) {
            kind.times.extend(seen);
        }
        std::thread::sleep(PAUSE);
    }
    let mut worst = sizes.report();
    for kind in kinds {
        worst = worst.max(kind.report());
    }
    println!("{}", mount.status()["watch"]);
    mount.unmount();
    if cfg!(debug_assertions) {
        return skipped("a build without optimisation is not held to the goal");
    }
    assert!(worst < P99_MAX, "p99 of the slowest is {worst:?}");
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn until(mut is_true: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_true() {
        assert!(began.elapsed() < SEEN_MAX, "not seen within {SEEN_MAX:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}
