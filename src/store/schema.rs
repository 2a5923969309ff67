//! How does the index lie in SQLite, and what happens to a damaged or newer one?
//!
//! The index is a cache (invariant: everything in it follows from the home's files). So there are no
//! migrations: an index of another version, or one that SQLite finds damaged, is moved aside and made again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::{Result, StoreError};
use super::home::give_to_owner_of;

/// Raised whenever the tables or the meaning of a column change.
pub const SCHEMA_VERSION: u32 = 3;
/// How long a connection waits for another's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite's own cache of a read connection, in KiB.
const PAGE_CACHE_KIB: i64 = 4 * 1024;
/// SQLite's own cache of the writer, in KiB: a first reading touches every index of the table.
const WRITER_CACHE_KIB: i64 = 64 * 1024;
/// The same once all is read: changes come one by one.
const WRITER_CACHE_RESTING_KIB: i64 = 8 * 1024;
/// Pages of the write-ahead log after which it is written back: most pages are changed again and again by a first reading.
const CHECKPOINT_PAGES: i64 = 8000;
/// What a log keeps of its length when it begins anew, bytes: 64 MiB.
const LOG_BYTES_KEPT: i64 = 64 << 20;
/// How many moved-aside indexes are kept.
const ASIDE_MAX: u32 = 3;

const TABLES: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- One row a file. The long texts are apart, so that a page holds many rows: listings and look-ups read nothing else.
CREATE TABLE rollouts(
  row INTEGER PRIMARY KEY, number INTEGER NOT NULL UNIQUE, kind INTEGER NOT NULL, area INTEGER NOT NULL, path BLOB NOT NULL UNIQUE,
  thread_id BLOB, rollout_id BLOB, stamp INTEGER NOT NULL, archived INTEGER NOT NULL, current INTEGER NOT NULL,
  secondary INTEGER NOT NULL, duplicate INTEGER NOT NULL, name TEXT, listed_name TEXT, encoding INTEGER NOT NULL,
  size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, device INTEGER NOT NULL, inode INTEGER NOT NULL,
  decoded_bytes INTEGER, state INTEGER NOT NULL, torn INTEGER NOT NULL, bare INTEGER NOT NULL, parse_errors INTEGER NOT NULL,
  line_bytes INTEGER NOT NULL, name_key TEXT, name_position INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL, source TEXT NOT NULL, provider TEXT NOT NULL, cwd TEXT NOT NULL,
  indexed_bytes INTEGER NOT NULL, lines INTEGER NOT NULL, error TEXT);
-- What a file's lines say, for the rows of which something was read.
CREATE TABLE texts(row INTEGER PRIMARY KEY, meta TEXT NOT NULL, resume TEXT);
CREATE INDEX rollouts_thread ON rollouts(thread_id);
CREATE INDEX rollouts_name ON rollouts(name_key) WHERE name_key IS NOT NULL;
CREATE INDEX rollouts_unread ON rollouts(path) WHERE state = 0;
CREATE INDEX rollouts_created ON rollouts(kind, archived, created_at_ms, thread_id);
CREATE INDEX rollouts_updated ON rollouts(kind, archived, mtime_ns, thread_id);
CREATE INDEX rollouts_stamp ON rollouts(stamp, number) WHERE kind = 0;

-- Every directory of the tree: on disk below the home, or of a view.
CREATE TABLE dirs(
  number INTEGER PRIMARY KEY, path BLOB NOT NULL, parent INTEGER NOT NULL, name BLOB NOT NULL, cookie INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, entries INTEGER NOT NULL, subdirs INTEGER NOT NULL, kept INTEGER NOT NULL, disk_mtime_ns INTEGER,
  digest INTEGER NOT NULL);
CREATE UNIQUE INDEX dirs_name ON dirs(parent, name);
CREATE UNIQUE INDEX dirs_cookie ON dirs(parent, cookie);

-- What is in them: files, and links to files. `slot` is view * 8 + index of the place.
CREATE TABLE entries(dir INTEGER NOT NULL, cookie INTEGER NOT NULL, row INTEGER NOT NULL, slot INTEGER NOT NULL,
  PRIMARY KEY(dir, cookie)) WITHOUT ROWID;

-- The names that session_index.jsonl gives: the last entry of each id.
CREATE TABLE names(thread_id BLOB PRIMARY KEY, name TEXT NOT NULL, position INTEGER NOT NULL, updated_at TEXT NOT NULL) WITHOUT ROWID;

-- The lines of threads.jsonl, by the day of their stamp: sizes and digests are sums over the day's lines.
CREATE TABLE days(day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, lines INTEGER NOT NULL, digest INTEGER NOT NULL);

-- Spec 6.1.
CREATE TABLE backfill_state(id INTEGER PRIMARY KEY CHECK (id = 1), status TEXT NOT NULL, last_watermark BLOB,
  last_success_at INTEGER, updated_at INTEGER NOT NULL, scanned INTEGER NOT NULL DEFAULT 0,
  upserted INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, owner TEXT);
INSERT INTO backfill_state(id, status, updated_at) VALUES (1, 'pending', 0);
";

/// Opens the index for its one writer, making it where there is none. One that is damaged, or of another
/// version, is moved aside with a warning and made again.
pub fn open_writer(path: &Path, views_version: u32) -> Result<Connection> {
    match try_open_writer(path, views_version) {
        Ok(connection) => Ok(connection),
        Err(Refused::Unusable(reason)) => {
            let aside = move_aside(path)?;
            log::warn!(
                "index {} cannot be used ({reason}); moved to {} and made again from the rollouts",
                path.display(),
                aside.display()
            );
            match try_open_writer(path, views_version) {
                Ok(connection) => Ok(connection),
                Err(Refused::Failed(error)) => Err(error),
                Err(Refused::Unusable(reason)) => {
                    Err(StoreError::Invalid(format!("index {} cannot be made: {reason}", path.display())))
                }
            }
        }
        Err(Refused::Failed(error)) => Err(error),
    }
}

enum Refused {
    Unusable(String),
    Failed(StoreError),
}

fn try_open_writer(path: &Path, views_version: u32) -> std::result::Result<Connection, Refused> {
    let classify = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            Refused::Unusable(source.to_string())
        }
        _ => Refused::Failed(StoreError::Index { path: path.to_owned(), source }),
    };
    make_private(path).map_err(Refused::Failed)?;
    let connection = Connection::open(path).map_err(classify)?;
    configure(&connection).map_err(classify)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB).map_err(classify)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(classify)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(classify)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(classify)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT).map_err(classify)?;
    let version: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(classify)?;
    let wanted = SCHEMA_VERSION << 16 | views_version & 0xffff;
    if version == 0 {
        let empty: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
            .map_err(classify)?;
        if empty != 0 {
            return Err(Refused::Unusable("it is not an index of rolloutfs".into()));
        }
        let create = format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {wanted}; COMMIT;");
        connection.execute_batch(&create).map_err(classify)?;
    } else if version != wanted {
        let age = if version > wanted { "newer" } else { "older" };
        return Err(Refused::Unusable(format!(
            "it is of {age} version {}.{}",
            version >> 16,
            version & 0xffff
        )));
    } else if !closed_cleanly(&connection).map_err(classify)? {
        // After a crash, and only then, every page is looked at before anything trusts it: a damaged file often opens.
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(classify)?;
        if verdict != "ok" {
            return Err(Refused::Unusable(verdict));
        }
    }
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('closed_cleanly', 0)", []).map_err(classify)?;
    Ok(connection)
}

/// The writer needs its large cache no longer.
pub fn rest_writer(connection: &Connection) {
    let shrunk = connection
        .pragma_update(None, "cache_size", -WRITER_CACHE_RESTING_KIB)
        .and_then(|()| connection.execute_batch("PRAGMA shrink_memory"));
    if let Err(error) = shrunk {
        log::debug!("the cache of the index stays large: {error}");
    }
    // SAFETY: it only gives free memory of the allocator back to the system.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

fn closed_cleanly(connection: &Connection) -> rusqlite::Result<bool> {
    use rusqlite::OptionalExtension;
    let mark: Option<i64> = connection
        .query_row("SELECT value FROM meta WHERE key = 'closed_cleanly'", [], |row| row.get(0))
        .optional()?;
    Ok(mark == Some(1))
}

/// Closes the writer's connection so that the next start need not check every page.
pub fn close_writer(connection: Connection) {
    let marked =
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('closed_cleanly', 1)", []).and_then(|_| {
            // Readers that are still there keep the log as it is: not waited for.
            connection.busy_timeout(Duration::ZERO)?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
    if let Err(error) = marked {
        log::debug!("index not closed cleanly: {error}");
    }
}

/// Opens the index for reading. The writer made it before.
pub fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(StoreError::index(path))?;
    configure(&connection).map_err(StoreError::index(path))?;
    connection.pragma_update(None, "query_only", true).map_err(StoreError::index(path))?;
    Ok(connection)
}

/// True if the file at `path` is an index that a reader of this version understands.
pub fn is_current(connection: &Connection, views_version: u32) -> bool {
    let wanted = SCHEMA_VERSION << 16 | views_version & 0xffff;
    connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
        .is_ok_and(|found| found == wanted)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Without it a statement that compares with a parameter is planned anew for each value: half the indexer's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// The index holds titles and paths: 0600 before SQLite writes the first byte.
fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(|file| give_to_owner_of(path.parent().unwrap_or(path), &file))
        .map_err(StoreError::io("create", path))
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Moves an unusable index out of the way, with its WAL; the oldest of `ASIDE_MAX` earlier ones is replaced.
pub fn move_aside(path: &Path) -> Result<PathBuf> {
    let candidates: Vec<_> = (1..=ASIDE_MAX).map(|n| sibling(path, &format!(".damaged-{n}"))).collect();
    let modified = |candidate: &PathBuf| std::fs::metadata(candidate).and_then(|found| found.modified()).ok();
    let aside =
        candidates.iter().min_by_key(|candidate| modified(candidate)).unwrap_or(&candidates[0]).clone();
    remove_with_companions(&aside)?;
    for suffix in ["-wal", "-shm"] {
        let from = sibling(path, suffix);
        if from.exists() {
            std::fs::rename(&from, sibling(&aside, suffix)).map_err(StoreError::io("move aside", &from))?;
        }
    }
    std::fs::rename(path, &aside).map_err(StoreError::io("move aside", path))?;
    Ok(aside)
}

/// Removes an index with its WAL. No file is no error.
pub fn remove_with_companions(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let file = sibling(path, suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &file)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM backfill_state", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn makes_opens_and_reopens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        for _ in 0..2 {
            assert_eq!(count(&open_writer(&path, 1).unwrap()), 1);
        }
        let reader = open_reader(&path).unwrap();
        assert!(is_current(&reader, 1) && !is_current(&reader, 2));
        assert!(reader.execute("DELETE FROM meta", []).is_err());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn damaged_foreign_and_newer_indexes_are_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        std::fs::write(
            &path,
            "this is no database, but long enough to have a header of one hundred bytes. ".repeat(40),
        )
        .unwrap();
        assert_eq!(count(&open_writer(&path, 1).unwrap()), 1);
        assert!(dir.path().join("index.sqlite.damaged-1").exists());
        assert_eq!(count(&open_writer(&path, 2).unwrap()), 1);
        assert!(dir.path().join("index.sqlite.damaged-2").exists());
        for _ in 0..5 {
            let connection = open_writer(&path, 2).unwrap();
            connection.pragma_update(None, "user_version", 99u32 << 16).unwrap();
        }
        let kept = std::fs::read_dir(dir.path()).unwrap().flatten();
        assert_eq!(
            kept.filter(|file| file.file_name().to_string_lossy().ends_with(&['1', '2', '3'][..])).count(),
            3
        );
    }

    #[test]
    fn a_torn_page_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        {
            let connection = open_writer(&path, 1).unwrap();
            connection.execute_batch("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000)
                INSERT INTO names SELECT randomblob(16), hex(randomblob(40)), i, '' FROM n; PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8192].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(count(&open_writer(&path, 1).unwrap()), 1);
        assert!(dir.path().join("index.sqlite.damaged-1").exists());
    }
}
