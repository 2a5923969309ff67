//! Does the index follow a home? Made homes, no kernel.

mod bad_input;
mod common;
mod model;

use std::fs;
use std::time::Duration;

use common::{TestHome, difference, thread_id, thread_text, try_walk, wait_until, walk};
use model::{Model, Truth};
use rolloutfs::fs::{Fs, FsOptions, ViewsAs};
use rolloutfs::store::StoreOptions;
use rolloutfs::store::watching::{Mode, Why};

/// Promise 2: the index is a cache.
#[test]
fn the_tree_is_the_same_after_the_index_was_deleted() {
    let home = TestHome::sample(300, 7);
    let first = walk(&home.tree());
    assert!(first.len() > 2000, "{}", first.len());
    let again = walk(&home.tree());
    assert_same(&first, &again, "a warm index");
    home.forget_state();
    let rebuilt = walk(&home.tree());
    assert_same(&first, &rebuilt, "a rebuilt index");
}

/// The bookkeeping of directories and days, counted again from the rows.
#[test]
fn a_sample_homes_directories_count_what_is_in_them() {
    let home = TestHome::sample(200, 11);
    let fs = home.tree();
    Truth::of(fs.store()).assert_kept("a sample home");
}

fn assert_same(first: &[String], second: &[String], what: &str) {
    assert_eq!(difference(first, second), (Vec::new(), Vec::new()), "{what}");
}

/// Bursts of random outside changes; at rest the tree is that of an index made anew.
fn follow_random_changes(seed: u64, bursts: usize, views_as: ViewsAs, following: StoreOptions) {
    println!("seed {seed}");
    let mut model = Model::new(seed, views_as, following);
    for burst in 0..bursts {
        let done = model.burst();
        model.assert_followed(&format!("seed {seed}, burst {burst}: {done:#?}"));
    }
}

/// One test a seed: they run side by side.
macro_rules! seeds {
    ($($name:ident: $seed:expr, $views_as:ident;)*) => {
        $(#[test]
        fn $name() {
            follow_random_changes($seed, BURSTS, ViewsAs::$views_as, StoreOptions::default());
        })*
    };
}

/// Bursts of one seed.
const BURSTS: usize = 25;

seeds! {
    outside_changes_are_followed_1: 1, Symlinks;
    outside_changes_are_followed_2: 2, Symlinks;
    outside_changes_are_followed_3: 3, Files;
    outside_changes_are_followed_4: 4, Symlinks;
    outside_changes_are_followed_5: 5, Files;
    outside_changes_are_followed_6: 6, Symlinks;
}

/// Without events, by the clock alone.
#[test]
fn outside_changes_are_followed_by_the_clock() {
    for seed in [7, 8] {
        let poll = Some(Duration::from_millis(200));
        let following = StoreOptions { poll, ..StoreOptions::default() };
        follow_random_changes(seed, BURSTS / 2, ViewsAs::Symlinks, following);
    }
}

/// Room for the home, its two folders, and few of the days.
#[test]
fn outside_changes_are_followed_with_few_watches() {
    for seed in [9, 10] {
        let following = StoreOptions { watches_max: 7, ..StoreOptions::default() };
        follow_random_changes(seed, BURSTS / 2, ViewsAs::Symlinks, following);
    }
}

/// Where there is no change, the clock costs a listing and no write; a change is found within the interval.
#[test]
fn the_clock_finds_what_nobody_tells_of() {
    let home = TestHome::sample(100, 5);
    let fs =
        home.tree_with(StoreOptions { poll: Some(Duration::from_millis(50)), ..StoreOptions::default() });
    let store = fs.store();
    let status = store.watch_status();
    assert_eq!((status.mode, status.folders, status.compare_every_seconds), (Mode::Clock, 0, Some(0.05)));
    assert!(status.reason.is_some() && !store.tells_all(), "{status:?}");
    let index = store.state_dir().join("index.sqlite-wal");
    let before = (fs::metadata(&index).unwrap().modified().unwrap(), store.watch_status().compared);
    wait_until("some comparisons", || match store.watch_status().compared - before.1 {
        more if more > 5 => Ok(()),
        more => Err(format!("{more}")),
    });
    assert_eq!(
        fs::metadata(&index).unwrap().modified().unwrap(),
        before.0,
        "the index was written for nothing"
    );
    home.thread("2026-02-08T10-00-00", 1, "/srv/clock", "x");
    wait_for_entry(&fs, "/by-cwd/srv/clock/");
    let status = store.watch_status();
    assert_eq!(status.last_compared_why, Some(Why::Clock));
    assert!(status.last_compared_at.is_some() && status.last_compared_ms.is_some());
}

/// More files than are listed in one batch, made, moved and removed at once while the store watches.
#[test]
fn a_flood_of_changes_is_followed() {
    let home = TestHome::empty();
    let live = home.tree();
    let follows = |what: &str| assert_follows(&home, &live, what);
    for number in 0..2200 {
        let (month, day, second) = (1 + number / 1100, 1 + number / 50 % 22, number % 50);
        match second {
            0 | 1 => {
                drop(home.thread(&format!("2026-{month:02}-{day:02}T10-00-{second:02}"), number, "/srv", "x"))
            }
            _ => drop(home.write(&format!("sessions/2026/{month:02}/{day:02}/{number}.txt"), "x")),
        }
    }
    follows("made");
    let sessions = home.path().join("sessions");
    fs::rename(sessions.join("2026"), sessions.join("2027")).unwrap();
    follows("moved");
    // Its folders are still watched, under their new names.
    home.write("sessions/2027/02/03/notes.txt", "x");
    fs::rename(sessions.join("2027/01"), sessions.join("01")).unwrap();
    fs::remove_dir_all(sessions.join("2027/02/04")).unwrap();
    follows("moved again");
}

/// The live tree becomes that of an index made anew.
fn assert_follows(home: &TestHome, live: &Fs, what: &str) {
    let state_dir = Some(home.beside(&format!("fresh {what}")));
    let fresh = home.store_with(StoreOptions { state_dir, watch: false, ..StoreOptions::default() });
    let fresh = Fs::new(fresh, FsOptions::default()).unwrap();
    fresh.store().flush();
    let expected = walk(&fresh);
    wait_until(what, || {
        live.store().flush();
        let (extra, missing) = difference(&try_walk(live)?, &expected);
        let same = extra.is_empty() && missing.is_empty();
        if same { Ok(()) } else { Err(format!("extra {extra:#?}, missing {missing:#?}")) }
    });
    Truth::of(live.store()).assert_kept(what);
}

fn wait_for_entry(live: &Fs, start: &str) {
    wait_until(start, || {
        let tree = try_walk(live)?;
        if tree.iter().any(|line| line.starts_with(start)) { Ok(()) } else { Err("not yet".into()) }
    });
}

/// What once depended on the order of changes, each by its name.
#[test]
fn what_once_depended_on_the_order_of_changes() {
    type Change = fn(&TestHome, &Fs, &str);
    let changes: &[(&str, Change)] = &[
        ("an emptied folder shows its own time", |home, _, path| {
            fs::remove_file(home.path().join(path)).unwrap()
        }),
        ("a temporary came and went in an empty folder", |home, _, _| {
            fs::create_dir_all(home.path().join("sessions/2026/03/01")).unwrap();
            let name = home.write("sessions/2026/03/01/rollout-compress-aB.tmp", "x");
            fs::remove_file(name).unwrap();
        }),
        ("two threads with files of one rollout id", |home, _, path| {
            for number in [9, 8] {
                let name = path.replace(&thread_id(1), &format!("{}_{}", thread_id(number), thread_id(100)));
                home.write(&name, thread_text(&thread_id(number), "/two", "x"));
            }
        }),
        ("a compressed file was damaged", |home, live, path| {
            let file = home.path().join(path);
            let packed = home.path().join(format!("{path}.zst"));
            fs::write(&packed, zstd::encode_all(&fs::read(&file).unwrap()[..], 3).unwrap()).unwrap();
            fs::remove_file(file).unwrap();
            let compressed =
                || live.store().index().read(|reader| reader.queries().counts()).unwrap().compressed;
            wait_until("it is seen", || if compressed() == 1 { Ok(()) } else { Err("not yet".into()) });
            live.store().flush();
            fs::write(packed, "damaged").unwrap();
        }),
        ("a file was written over in place, and is longer", |home, _, path| {
            home.write(path, thread_text(&thread_id(1), "/other", &"long ".repeat(60_000)));
        }),
        ("a file without a header got another stamp", |home, _, path| {
            let bare = home.write(path, "{}\n");
            fs::rename(bare, home.path().join(path.replace("T10-00-00", "T11-22-33"))).unwrap();
        }),
        ("a name's line without an end was continued into nothing", |home, live, _| {
            let line = format!(
                "{{\"id\":\"{}\",\"thread_name\":\"tail\",\"updated_at\":\"2026-02-08T09:20:00Z\"}}",
                thread_id(1)
            );
            home.write("session_index.jsonl", &line);
            wait_for_entry(live, "/by-name/tail.jsonl ");
            home.write("session_index.jsonl", line.clone() + &line + "\n");
        }),
        ("a stray file went, and left its .zst", |home, live, _| {
            home.write("sessions/notes.txt.zst", "x");
            let notes = home.write("sessions/notes.txt", "x");
            wait_for_entry(live, "/sessions/notes.txt ");
            fs::remove_file(notes).unwrap();
        }),
        ("a folder has the name of a compressed rollout", |home, _, path| {
            let file = home.path().join(path);
            fs::rename(&file, home.path().join(format!("{path}.zst"))).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("files from before 1970", |home, _, path| {
            let file = fs::File::options().append(true).open(home.path().join(path)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH - Duration::from_secs(86_400)).unwrap();
        }),
        ("the newest of a thread's files is not its current one", |home, _, path| {
            let name = path.rsplit('/').next().unwrap();
            home.write(&format!("archived_sessions/{name}"), thread_text(&thread_id(1), "/late", "x"));
            home.write("archived_sessions/stray.txt", "x");
        }),
    ];
    for (what, change) in changes {
        let home = TestHome::empty();
        let text = &"hello ".repeat(40_000);
        let path = home.thread("2026-02-08T10-00-00", 1, "/srv", text);
        let live = home.tree();
        change(&home, &live, &path);
        assert_follows(&home, &live, what);
    }
}

/// `ROLLOUTFS_TEST_SEEDS=100-150` tries more seeds.
#[test]
fn outside_changes_are_followed_for_the_seeds_asked_for() {
    let Ok(range) = std::env::var("ROLLOUTFS_TEST_SEEDS") else { return };
    let (first, last) = range.split_once('-').expect("FIRST-LAST");
    for seed in first.parse::<u64>().unwrap()..=last.parse().unwrap() {
        let views_as = if seed % 3 == 0 { ViewsAs::Files } else { ViewsAs::Symlinks };
        let following = match seed % 4 {
            0 => StoreOptions { poll: Some(Duration::from_millis(100)), ..StoreOptions::default() },
            1 => StoreOptions { watches_max: 7, ..StoreOptions::default() },
            _ => StoreOptions::default(),
        };
        follow_random_changes(seed, BURSTS, views_as, following);
    }
}
