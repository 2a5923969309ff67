//! How far is the first reading of all files, and who does it? The state row of spec 6, and its numbers for people.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

/// Files between two checkpoints, if they are read before `BATCH_TIME` is over. Codex takes 200 (spec 13.4); each batch writes
/// pages all over the index, so larger ones write them less often.
pub const BATCH_FILES: usize = 1000;
/// How long a claim holds without a checkpoint, seconds (spec 6.2).
pub const LEASE_SECONDS: i64 = 900;

/// Where a backfill stands (spec 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody began.
    Pending,
    /// Someone is at it, or was killed at it.
    Running,
    /// Done.
    Complete,
}

/// The state row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// Where it stands.
    pub status: Status,
    /// The last path up to which every file is indexed, below the home.
    #[serde(serialize_with = "as_text")]
    pub last_watermark: Option<Vec<u8>>,
    /// When it was last completed, unix seconds.
    pub last_success_at: Option<i64>,
    /// The last sign of life, unix seconds.
    pub updated_at: i64,
    /// Files looked at, over all runs.
    pub scanned: u64,
    /// Of them, indexed.
    pub upserted: u64,
    /// Of them, not readable: passed over.
    pub failed: u64,
}

fn as_text<S: serde::Serializer>(path: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned()).serialize(serializer)
}

impl State {
    /// `success`, `partial_failure` or `failed`, once complete (spec 6.4).
    pub fn outcome(&self) -> Option<&'static str> {
        match (self.status, self.upserted, self.failed) {
            (Status::Complete, _, 0) => Some("success"),
            (Status::Complete, 0, _) => Some("failed"),
            (Status::Complete, _, _) => Some("partial_failure"),
            _ => None,
        }
    }
}

/// Reads the state row.
pub fn load(connection: &Connection) -> rusqlite::Result<State> {
    connection.query_row(
        "SELECT status, last_watermark, last_success_at, updated_at, scanned, upserted, failed FROM backfill_state WHERE id = 1",
        [],
        |row| {
            Ok(State {
                status: match row.get::<_, String>(0)?.as_str() {
                    "complete" => Status::Complete,
                    "running" => Status::Running,
                    _ => Status::Pending,
                },
                last_watermark: row.get(1)?,
                last_success_at: row.get(2)?,
                updated_at: row.get(3)?,
                scanned: row.get::<_, i64>(4)? as u64,
                upserted: row.get::<_, i64>(5)? as u64,
                failed: row.get::<_, i64>(6)? as u64,
            })
        },
    )
}

/// Claims the backfill for `owner` at `now` (unix seconds): granted unless it is complete, or another claim is younger
/// than `lease_seconds` (spec 6.2).
pub fn claim(connection: &Connection, owner: &str, now: i64, lease_seconds: i64) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE backfill_state SET status = 'running', owner = ?1, updated_at = ?2 \
         WHERE id = 1 AND status != 'complete' AND (status != 'running' OR updated_at <= ?2 - ?3)",
        params![owner, now, lease_seconds],
    )?;
    Ok(changed == 1)
}

/// Counts of one run since its last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Files looked at.
    pub scanned: u64,
    /// Of them, indexed.
    pub upserted: u64,
    /// Of them, passed over.
    pub failed: u64,
}

/// Stores how far a run came and renews its claim. False: the claim is another's by now.
pub fn checkpoint(
    connection: &Connection,
    owner: &str,
    now: i64,
    watermark: Option<&[u8]>,
    tally: Tally,
) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE backfill_state SET last_watermark = coalesce(?3, last_watermark), updated_at = ?2, scanned = scanned + ?4, \
         upserted = upserted + ?5, failed = failed + ?6 WHERE id = 1 AND status = 'running' AND owner = ?1",
        params![owner, now, watermark, tally.scanned as i64, tally.upserted as i64, tally.failed as i64],
    )?;
    Ok(changed == 1)
}

/// Ends a run: complete, also with failures (they are in `health/unreadable` and are tried again at the next start).
pub fn complete(connection: &Connection, owner: &str, now: i64) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE backfill_state SET status = 'complete', last_success_at = ?2, updated_at = ?2 \
         WHERE id = 1 AND status = 'running' AND owner = ?1",
        params![owner, now],
    )?;
    Ok(changed == 1)
}

/// Waits until another process completed the backfill, asking every `poll`. False: not within `timeout` (spec 6.5).
pub fn wait_complete(connection: &Connection, timeout: Duration, poll: Duration) -> rusqlite::Result<bool> {
    let end = Instant::now() + timeout;
    loop {
        let status: Option<String> = connection
            .query_row("SELECT status FROM backfill_state WHERE id = 1", [], |row| row.get(0))
            .optional()?;
        if status.as_deref() == Some("complete") {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(poll.min(end.saturating_duration_since(Instant::now())));
    }
}

/// The order of the files in flight, and the watermark that follows from what is done.
#[derive(Default)]
pub(super) struct Flight {
    paths: VecDeque<(Vec<u8>, bool)>,
}

impl Flight {
    /// A file was given to a reader, in the order of paths.
    pub(super) fn sent(&mut self, path: Vec<u8>) {
        self.paths.push_back((path, false));
    }

    /// A file is read and stored. Returns the new watermark, if it moved.
    pub(super) fn done(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        if let Some(slot) = self.paths.iter_mut().find(|(sent, done)| sent == path && !done) {
            slot.1 = true;
        }
        let mut watermark = None;
        while self.paths.front().is_some_and(|(_, done)| *done) {
            watermark = self.paths.pop_front().map(|(path, _)| path);
        }
        watermark
    }
}

/// Numbers that move while files are read, for progress bars and `status`.
#[derive(Debug, Default)]
pub struct Progress {
    /// Folders listed since the start.
    pub dirs_listed: AtomicU64,
    /// Files found by listing.
    pub files_found: AtomicU64,
    /// Files to read in this round.
    pub files_total: AtomicU64,
    /// Of them, read.
    pub files_done: AtomicU64,
    /// Bytes on disk to read in this round.
    pub bytes_total: AtomicU64,
    /// Decoded bytes read.
    pub bytes_done: AtomicU64,
    /// Files that could not be read.
    pub files_failed: AtomicU64,
    /// Things that are neither files nor folders, passed over.
    pub passed_over: AtomicU64,
    /// All folders are listed.
    pub listed: AtomicBool,
    /// All files are read: the views are whole.
    pub settled: AtomicBool,
    /// Why the index cannot be written now.
    pub trouble: Mutex<Option<String>>,
}

impl Progress {
    /// True once every folder is listed and every file is read.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Why the index cannot be written now, if it cannot.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn index() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::open_writer(&dir.path().join("index.sqlite"), 1).unwrap();
        (dir, connection)
    }

    /// Spec 11.3.6.
    #[test]
    fn checkpoint_then_reopen_keeps_watermark_and_status() {
        let (dir, connection) = index();
        assert!(claim(&connection, "a", 1000, LEASE_SECONDS).unwrap());
        let tally = Tally { scanned: 3, upserted: 2, failed: 1 };
        assert!(
            checkpoint(&connection, "a", 1001, Some(b"sessions/2026/01/27/rollout-a.jsonl"), tally).unwrap()
        );
        drop(connection);
        let connection = schema::open_writer(&dir.path().join("index.sqlite"), 1).unwrap();
        let state = load(&connection).unwrap();
        assert_eq!(state.status, Status::Running);
        assert_eq!(state.last_watermark.as_deref(), Some(&b"sessions/2026/01/27/rollout-a.jsonl"[..]));
        assert_eq!((state.scanned, state.upserted, state.failed), (3, 2, 1));
    }

    /// Spec 11.3.7.
    #[test]
    fn a_claim_is_refused_while_fresh_granted_after_the_lease_and_refused_when_complete() {
        let (_dir, connection) = index();
        assert!(claim(&connection, "a", 1000, 900).unwrap());
        assert!(!claim(&connection, "b", 1899, 900).unwrap());
        assert!(checkpoint(&connection, "a", 1500, None, Tally::default()).unwrap());
        assert!(!claim(&connection, "b", 2399, 900).unwrap(), "a checkpoint renews the claim");
        assert!(claim(&connection, "b", 2400, 900).unwrap());
        assert!(
            !checkpoint(&connection, "a", 2401, Some(b"x"), Tally::default()).unwrap(),
            "the claim is b's"
        );
        assert!(!complete(&connection, "a", 2401).unwrap());
        assert!(complete(&connection, "b", 2402).unwrap());
        assert!(!claim(&connection, "c", 99_999, 900).unwrap());
        let state = load(&connection).unwrap();
        assert_eq!((state.status, state.last_success_at), (Status::Complete, Some(2402)));
    }

    /// Spec 11.3.8.
    #[test]
    fn waiting_ends_when_another_completes_or_with_the_time() {
        let (dir, connection) = index();
        assert!(claim(&connection, "a", 1000, 900).unwrap());
        let short = Duration::from_millis(5);
        assert!(!wait_complete(&connection, Duration::from_millis(30), short).unwrap());
        let other = schema::open_reader(&dir.path().join("index.sqlite")).unwrap();
        let waiting =
            std::thread::spawn(move || wait_complete(&other, Duration::from_secs(30), short).unwrap());
        assert!(complete(&connection, "a", 1001).unwrap());
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn the_watermark_never_passes_a_file_in_flight() {
        let mut flight = Flight::default();
        for path in ["a", "b", "c"] {
            flight.sent(path.into());
        }
        assert_eq!(flight.done(b"b"), None);
        assert_eq!(flight.done(b"a"), Some(b"b".to_vec()));
        assert_eq!(flight.done(b"c"), Some(b"c".to_vec()));
        assert_eq!(flight.done(b"c"), None);
    }
}
