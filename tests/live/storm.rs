//! More happens than can be followed: is the tree at rest that of a fresh mount?

use std::path::Path;
use std::time::{Duration, Instant};

use crate::churn::Churn;
use crate::common::TestHome;
use crate::harness::{Mounted, assert_same_lines, can_mount, wait_for};
use crate::number_from;

/// Threads of the short form.
const THREADS: u64 = 2000;
/// Things that happen to each thread, on average.
const STEPS_PER_THREAD: u64 = 8;
/// The long form takes a minute, so that the daemon is in the middle of it all the time.
const LONG: Duration = Duration::from_secs(60);
/// How long the tree may take to be at rest.
const REST_MAX: Duration = Duration::from_secs(120);
/// Lifetime of what was told while nothing was sure, and a little.
const LIFETIME: Duration = Duration::from_millis(1200);

#[test]
fn a_storm_ends_in_the_tree_of_a_fresh_mount() {
    storm(&[], true);
}

#[test]
fn a_storm_ends_in_the_tree_of_a_fresh_mount_by_the_clock() {
    storm(&["--poll", "1"], false);
}

/// `overflows`: the queue of events is to be too small for it.
fn storm(words: &[&str], overflows: bool) {
    if !can_mount() {
        return;
    }
    let threads = number_from("ROLLOUTFS_STORM_THREADS", THREADS);
    let is_long = threads > THREADS;
    let home = TestHome::empty();
    let mut churn = Churn::new(&home.path(), 42);
    for _ in 0..threads / 4 {
        churn.create();
    }
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), words);
    mount.find();
    let began = Instant::now();
    let steps = threads * STEPS_PER_THREAD;
    // While the daemon stands still, events are lost for sure: a fifth of them is more than the queue holds.
    let (stop_at, go_at) = (steps / 5, steps * 4 / 5);
    for step in 0..steps {
        if overflows && step == stop_at {
            mount.signal(libc::SIGSTOP);
        }
        if overflows && step == go_at {
            mount.signal(libc::SIGCONT);
        }
        if step % (STEPS_PER_THREAD + 2) == 0 {
            churn.create();
        }
        churn.step(true);
        if is_long && step % 64 == 0 {
            // Spread over a minute.
            let due = LONG.mul_f64(step as f64 / steps as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    println!("{:?} in {:?}; {} threads are left", churn.done, began.elapsed(), churn.count());
    let took = at_rest(&mount);
    let status = mount.status();
    println!("at rest after {took:?}: {}", status["watch"]);
    if overflows {
        assert!(status["watch"]["lost"].as_u64().unwrap() > 0, "the queue did not overflow");
    } else {
        assert_eq!(status["watch"]["mode"], "clock");
    }
    assert_same(&home, &mount);
    mount.unmount();
}

/// Waits until nothing is to be done.
pub(crate) fn at_rest(mount: &Mounted) -> Duration {
    let compared = |mount: &Mounted| mount.status()["watch"]["compared"].as_u64().unwrap();
    let by_clock = mount.status()["watch"]["mode"] == "clock";
    let before = compared(mount);
    let mut quiet = 0;
    let took = wait_for("the tree is at rest", REST_MAX, || {
        std::thread::sleep(Duration::from_millis(550));
        let status = mount.status();
        let rests = status["progress"]["settled"] == true
            && status["progress"]["listed"] == true
            && status["watch"]["lag_ms"] == 0
            && status["threads"]["unread"] == 0
            && (!by_clock || compared(mount) > before + 1);
        quiet = if rests { quiet + 1 } else { 0 };
        quiet > 1
    });
    std::thread::sleep(LIFETIME);
    took
}

/// The tree is that of a fresh mount, to `find`.
pub(crate) fn assert_same(home: &TestHome, mount: &Mounted) {
    let state = home.beside("fresh-state");
    let words = ["--state-dir", state.to_str().unwrap()];
    let fresh = Mounted::new(&home.path(), &home.beside("fresh"), &words);
    let (live, expected) = (mount.find(), fresh.find());
    println!("{} nodes", expected.len());
    assert_same_lines(&live, &expected, "the live tree, and that of a fresh mount");
    fresh.unmount();
    let _ = std::fs::remove_dir_all(Path::new(&state));
}
