//! Is every file read once, in order, and only what is new read again? Spec 6 and 11.3, where our index, which is a
//! cache and nothing but, has something to answer.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{TestHome, difference, thread_id, thread_text, wait_until, walk};
use rolloutfs::fs::{Fs, FsOptions};
use rolloutfs::store::backfill::{self, State, Status};
use rolloutfs::store::error::StoreError;
use rolloutfs::store::home::{Home, INDEX_NAME};
use rolloutfs::store::row::{ReadState, Row};
use rolloutfs::store::{Store, StoreOptions, schema};
use rolloutfs::views::Views;

const DAY: &str = "2026-01-27";

fn settled(home: &TestHome) -> Store {
    let store = home.store();
    store.flush();
    store
}

fn index_path(home: &TestHome) -> PathBuf {
    home.path().join(".rolloutfs").join(INDEX_NAME)
}

fn state(store: &Store) -> State {
    store.index().read(|reader| backfill::load(reader)).unwrap()
}

fn row(store: &Store, path: &str) -> Row {
    store.index().read(|reader| reader.queries().row_by_path(path.as_bytes())).unwrap().unwrap()
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn assert_same(first: &[String], second: &[String], what: &str) {
    assert_eq!(difference(first, second), (Vec::new(), Vec::new()), "{what}");
}

/// Spec 11.3.1: with a watermark, the files behind it come first; ours looks at the others too, since a file that is
/// not read is not read, wherever it lies (spec 6.3, last point).
#[test]
fn a_run_goes_on_behind_the_watermark() {
    let home = TestHome::empty();
    let first = home.thread(&format!("{DAY}T08-00-00"), 1, "/a", "one");
    let second = home.thread(&format!("{DAY}T09-00-00"), 2, "/b", "two");
    drop(settled(&home));
    let connection = rusqlite::Connection::open(index_path(&home)).unwrap();
    connection
        .execute(
            "UPDATE backfill_state SET status = 'running', last_success_at = NULL, last_watermark = ?1",
            [first.as_bytes()],
        )
        .unwrap();
    connection.execute("UPDATE rollouts SET state = 0, lines = 0", []).unwrap();
    drop(connection);
    let store = settled(&home);
    assert_eq!(load(&store.progress().files_total), 1, "only the second is the run's");
    let state = state(&store);
    assert_eq!((state.status, state.last_watermark), (Status::Complete, Some(second.clone().into_bytes())));
    assert!(state.last_success_at.is_some());
    for path in [first, second] {
        assert_eq!(row(&store, &path).file.state, ReadState::Read, "{path}");
    }
}

/// Spec 11.3.2 has a row keep what its file does not say; our rows follow the file alone: that is what lets the index
/// be thrown away.
#[test]
fn a_row_follows_the_file_alone() {
    let home = TestHome::empty();
    let path = home.thread(&format!("{DAY}T08-00-00"), 1, "/a", "one");
    let with_git = |git: &str| {
        thread_text(&thread_id(1), "/a", "one").replacen(
            "\"source\"",
            &format!("\"git\":{git},\"source\""),
            1,
        )
    };
    home.write(&path, with_git("{\"branch\":\"main\"}"));
    let store = settled(&home);
    assert_eq!(row(&store, &path).meta.git_branch.as_deref(), Some("main"));
    drop(store);
    home.write(&path, with_git("{\"commit_hash\":\"abc\"}"));
    let meta = row(&settled(&home), &path).meta;
    assert_eq!((meta.git_branch, meta.git_sha.as_deref()), (None, Some("abc")));
}

/// Spec 11.3.3.
#[test]
fn a_cwd_that_ends_in_a_dot_is_the_folder_itself() {
    let home = TestHome::empty();
    home.thread(&format!("{DAY}T08-00-00"), 1, "/srv/home/.", "one");
    let tree = walk(&home.tree());
    assert!(tree.iter().any(|line| line.starts_with("/by-cwd/srv/home/rollout-")), "{tree:#?}");
    assert!(!tree.iter().any(|line| line.contains("%2E")), "{tree:#?}");
}

/// Spec 11.3.4.
#[test]
fn of_a_live_and_an_archived_file_of_one_id_the_live_one_is_current() {
    let home = TestHome::empty();
    let live = home.thread(&format!("{DAY}T08-00-00"), 1, "/a", "live");
    let name = live.rsplit('/').next().unwrap();
    home.write(&format!("archived_sessions/{name}"), thread_text(&thread_id(1), "/b", "archived"));
    let store = settled(&home);
    let archived = row(&store, &format!("archived_sessions/{name}")).file;
    let live = row(&store, &live).file;
    assert!(live.current && !live.secondary && live.duplicate);
    assert!(!archived.current && archived.secondary && archived.duplicate, "and it is not hidden");
}

/// Spec 11.3.5 is what Codex does; we leave its databases alone: not removed, not written, not opened.
#[test]
fn codex_databases_are_never_touched() {
    let home = TestHome::empty();
    home.thread(&format!("{DAY}T08-00-00"), 1, "/a", "one");
    let names = [
        "state.sqlite",
        "state_4.sqlite",
        "state_4.sqlite-wal",
        "state_4.sqlite-shm",
        "state_5.sqlite",
        "state_5.sqlite-wal",
        "state_5.sqlite-shm",
        "state_5.sqlite-journal",
        "state_x.sqlite",
        "state.sqlite_backup",
        "123",
        "logs_2.sqlite",
        "auth.json",
        "config.toml",
        "history.jsonl",
    ];
    let secret = "SQLite format 3\0 not ours";
    let attributes = |names: &[&str]| -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
        let of = |name: &&str| {
            let path = home.path().join(name);
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            (name.to_string(), (fs::read(&path).unwrap(), modified))
        };
        names.iter().map(of).collect()
    };
    for name in names {
        home.write(name, secret);
    }
    let before = attributes(&names);
    let mut inotify = inotify::Inotify::init().unwrap();
    inotify.watches().add(home.path(), inotify::WatchMask::ALL_EVENTS).unwrap();
    let tree = walk(&home.tree());
    drop(settled(&home));
    let mut touched = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(events) = inotify.read_events(&mut buffer) {
        touched.extend(events.filter_map(|event| event.name.map(|name| name.to_string_lossy().into_owned())));
    }
    assert!(touched.iter().any(|name| name == ".rolloutfs"), "the events are seen: {touched:?}");
    for name in names {
        assert!(!touched.iter().any(|touched| touched == name), "{name} was touched");
        assert!(!tree.iter().any(|line| line.contains(name)), "{name} is shown");
    }
    assert_eq!(attributes(&names), before);
}

/// Spec 11.3.6 and 11.3.7: a process that was killed leaves its watermark and its claim; the state folder's lock went
/// with it, so its claim is not waited for.
#[test]
fn a_killed_run_is_gone_on_with_at_the_watermark() {
    let home = large_home();
    let whole = home.beside("whole");
    kill_in_the_middle(&home);
    let connection = schema::open_reader(&index_path(&home)).unwrap();
    let left = backfill::load(&connection).unwrap();
    let watermark = left.last_watermark.clone().expect("it was waited for");
    assert_eq!(left.status, Status::Running, "it was not caught in the middle");
    let count = |sql: &str| -> u64 {
        connection.query_row(sql, [&watermark], |row| row.get::<_, i64>(0)).unwrap() as u64
    };
    assert_eq!(count("SELECT count(*) FROM rollouts WHERE state = 0 AND path <= ?1"), 0, "read in order");
    let behind = count("SELECT count(*) FROM rollouts WHERE state = 0 AND path > ?1");
    let all = count("SELECT count(*) FROM rollouts WHERE kind = 0 AND ?1 IS NOT NULL");
    assert!(0 < behind && behind < all, "{behind} of {all}");
    // Tried again at each start.
    let failed = count("SELECT count(*) FROM rollouts WHERE state = 2 AND ?1 IS NOT NULL");
    drop(connection);
    let fs = home.tree();
    let progress = fs.store().progress();
    assert_eq!((load(&progress.files_total), load(&progress.files_done)), (behind, behind + failed));
    let state = state(fs.store());
    assert_eq!((state.status, state.scanned), (Status::Complete, all));
    let gone_on_with = walk(&fs);
    drop(fs);
    let options = StoreOptions { state_dir: Some(whole), ..StoreOptions::default() };
    let fs = Fs::new(home.store_with(options), FsOptions::default()).unwrap();
    fs.store().flush();
    assert_same(&walk(&fs), &gone_on_with, "as if it had not been killed");
}

/// The child of the test above: indexes until it is killed. Does nothing when it is not called by it.
#[test]
fn child_that_indexes() {
    let Some(home) = std::env::var_os(CHILD_HOME) else { return };
    let home = Home::open(Path::new(&home)).unwrap();
    let options = StoreOptions { readers: 1, ..StoreOptions::default() };
    let store = Store::open(home, &options, Arc::new(Views::new())).unwrap();
    store.flush();
}

const CHILD_HOME: &str = "ROLLOUTFS_TEST_CHILD_HOME";

/// Many small files, and behind them some that take long to read.
fn large_home() -> TestHome {
    let home = TestHome::sample(600, 3);
    let text = thread_text(&thread_id(900), "/big", "big").into_bytes();
    let big = text.repeat(40_000);
    for number in 0..3 {
        let id = thread_id(900 + number);
        let packed = zstd::bulk::compress(&big, 1).unwrap();
        home.write(
            &format!("sessions/2099/01/0{}/rollout-2099-01-01T00-00-00-{id}.jsonl.zst", number + 1),
            packed,
        );
    }
    home
}

fn kill_in_the_middle(home: &TestHome) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_indexes"])
        .env(CHILD_HOME, home.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("a watermark", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the child ended by itself: {status}");
        }
        let connection = schema::open_reader(&index_path(home)).map_err(|error| error.to_string())?;
        let state = backfill::load(&connection).map_err(|error| error.to_string())?;
        state.last_watermark.map(drop).ok_or_else(|| "none yet".to_owned())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The same in one process, several times over: a store is dropped as soon as it read something.
#[test]
fn a_run_that_is_cut_again_and_again_ends_as_one_that_was_not() {
    let home = large_home();
    let mut cuts = 0;
    loop {
        let store = home.store_with(StoreOptions { readers: 1, ..StoreOptions::default() });
        let progress = store.progress().clone();
        wait_until("something is read", || {
            let some = load(&progress.files_done) > 0 || progress.is_settled();
            if some { Ok(()) } else { Err(format!("{progress:?}")) }
        });
        if progress.is_settled() || cuts == 6 {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 0, "it was never cut");
    let cut = walk(&home.tree());
    home.forget_state();
    assert_same(&walk(&home.tree()), &cut, "after cuts");
}

/// Spec 11.3.7 between processes that live: the second is told who holds the home.
#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let home = TestHome::empty();
    let store = settled(&home);
    let open = |options: &StoreOptions| {
        Store::open(Home::open(&home.path()).unwrap(), options, Arc::new(Views::new()))
    };
    assert!(matches!(open(&StoreOptions::default()), Err(StoreError::Busy { .. })));
    drop(store);
    assert!(open(&StoreOptions::default()).is_ok());
}

/// Spec 11.3.8: a reader beside the writer may wait for it, and not longer than it likes.
#[test]
fn a_reader_beside_waits_for_the_backfill() {
    let home = large_home();
    let writer = home.store_with(StoreOptions { readers: 1, ..StoreOptions::default() });
    let beside = home.store_with(StoreOptions { beside: true, ..StoreOptions::default() });
    assert!(!beside.is_writer());
    let wait = |timeout_ms| {
        let (timeout, poll) = (Duration::from_millis(timeout_ms), Duration::from_millis(2));
        beside.index().read(|reader| backfill::wait_complete(reader, timeout, poll)).unwrap()
    };
    assert!(!wait(0), "it was complete before anyone could look");
    assert!(wait(60_000));
    assert!(writer.is_writer());
    assert_eq!(state(&beside).outcome(), Some("partial_failure"), "a sample home has damaged files");
}

/// Spec 11.3.9.
#[test]
fn a_bad_file_in_the_middle_is_counted_and_passed_over() {
    let home = TestHome::empty();
    let first = home.thread(&format!("{DAY}T08-00-00"), 1, "/a", "one");
    let bad = format!("sessions/2026/01/27/rollout-{DAY}T09-00-00-{}.jsonl", thread_id(2));
    home.write(&format!("{bad}.zst"), "this is no zstd frame");
    let last = home.thread(&format!("{DAY}T10-00-00"), 3, "/c", "three");
    let fs = home.tree();
    let state = state(fs.store());
    assert_eq!((state.status, state.outcome()), (Status::Complete, Some("partial_failure")));
    assert_eq!((state.scanned, state.upserted, state.failed), (3, 2, 1));
    assert_eq!(state.last_watermark, Some(last.clone().into_bytes()));
    assert_eq!(load(&fs.store().progress().files_failed), 1);
    for (path, expected) in [(&first, ReadState::Read), (&bad, ReadState::Failed), (&last, ReadState::Read)] {
        assert_eq!(row(fs.store(), path).file.state, expected, "{path}");
    }
    assert!(walk(&fs).iter().any(|line| line.starts_with("/health/unreadable/rollout-")));
}

/// Spec 11.3.10: what is indexed and did not change is not read again, and its row stays as it is.
#[test]
fn an_unchanged_file_is_not_read_again() {
    let home = TestHome::sample(60, 5);
    let rows = |store: &Store| {
        let all = |reader: &rolloutfs::store::index::Reader| {
            let mut rows = Vec::new();
            for id in 1..10_000 {
                rows.extend(reader.queries().row_by_id(id)?);
            }
            Ok(rows)
        };
        store.index().read(all).unwrap()
    };
    let store = settled(&home);
    let before = rows(&store);
    let failed = store.index().read(|reader| reader.queries().counts()).unwrap().failed;
    drop(store);
    let store = settled(&home);
    // What could not be read is tried again at each start.
    assert_eq!(load(&store.progress().files_total), failed);
    assert_eq!(rows(&store), before);
}

/// Spec 6.3: only what changed is read, and of a file that grew only what came.
#[test]
fn the_next_start_reads_only_what_is_new() {
    let home = TestHome::empty();
    let stamp = |minute: u32| format!("{DAY}T08-{minute:02}-00");
    // Small files are read whole again: these are not.
    let hello = "hello ".repeat(40_000);
    let paths: Vec<_> =
        (0..12).map(|number| home.thread(&stamp(number), number.into(), "/a", &hello)).collect();
    drop(settled(&home));
    let line = "{\"timestamp\":\"2026-02-08T09:16:00.000Z\",\"type\":\"event_msg\",\"payload\":{\"type\":\"agent_message\",\"message\":\"x\"}}\n";
    let mut grown = OpenOptions::new().append(true).open(home.path().join(&paths[7])).unwrap();
    grown.write_all(line.repeat(3).as_bytes()).unwrap();
    // A cut line is read again with what came behind it.
    let mut torn = OpenOptions::new().append(true).open(home.path().join(&paths[8])).unwrap();
    torn.write_all(&line.as_bytes()[..20]).unwrap();
    let touched = fs::File::open(home.path().join(&paths[9])).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_000_000)).unwrap();
    fs::remove_file(home.path().join(&paths[10])).unwrap();
    let moved = paths[11].rsplit('/').next().unwrap();
    fs::create_dir_all(home.path().join("archived_sessions")).unwrap();
    fs::rename(home.path().join(&paths[11]), home.path().join("archived_sessions").join(moved)).unwrap();
    let new = home.thread(&stamp(50), 50, "/new", "new");
    let new_bytes = fs::metadata(home.path().join(new)).unwrap().len();
    let store = settled(&home);
    let progress = store.progress();
    assert_eq!(load(&progress.files_total), 4, "grown, torn, touched, new; not the moved one");
    let bytes = line.len() as u64 * 3 + 20 + new_bytes;
    assert_eq!((load(&progress.bytes_done), load(&progress.bytes_total)), (bytes, bytes));
    assert_eq!((row(&store, &paths[7]).lines, row(&store, &paths[8]).file.torn), (5, true));
    drop(store);
    torn.write_all(&line.as_bytes()[20..]).unwrap();
    let store = settled(&home);
    assert_eq!(load(&store.progress().bytes_done), line.len() as u64);
    assert!(!row(&store, &paths[8]).file.torn);
    drop(store);
    let incremental = walk(&home.tree());
    home.forget_state();
    assert_same(&walk(&home.tree()), &incremental, "read at once");
}
