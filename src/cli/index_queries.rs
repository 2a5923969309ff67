//! What do `index`, `status` and `doctor` ask of the index beyond the store's own queries?
//!
//! Two statements over all rows, and a way to open the index that leaves no trace.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::store::backfill;
use crate::store::error::{Result, StoreError};
use crate::store::index::{Counts, Index};
use crate::store::placing::Placing;
use crate::store::schema;

/// A file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Failure {
    /// Its path below the home.
    pub(crate) path: String,
    /// Why not.
    pub(crate) error: String,
}

/// What the index says of all files together.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Totals {
    /// Files by kind.
    pub(crate) counts: Counts,
    /// The first reading of all files.
    pub(crate) backfill: backfill::State,
    /// The first of the files that could not be read, by path.
    pub(crate) failures: Vec<Failure>,
}

/// Reads the totals with `failures_max` failures. None: the index is of another version of the program.
pub(crate) fn totals(index: &Index, placing: &dyn Placing, failures_max: usize) -> Result<Option<Totals>> {
    index.read(|reader| {
        if !schema::is_current(reader, placing.version()) {
            return Ok(None);
        }
        Ok(Some(Totals {
            counts: reader.queries().counts()?,
            backfill: backfill::load(reader)?,
            failures: failures(reader, failures_max)?,
        }))
    })
}

fn failures(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Failure>> {
    let sql = "SELECT path, error FROM rollouts WHERE state = 2 ORDER BY path LIMIT ?1";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([limit as i64], |row| {
        Ok(Failure {
            path: String::from_utf8_lossy(&row.get::<_, Vec<u8>>(0)?).into_owned(),
            error: row.get::<_, Option<String>>(1)?.unwrap_or_else(|| "unknown reason".into()),
        })
    })?;
    rows.collect()
}

/// What the index knows of one file on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexedFile {
    /// Logical path below the home.
    pub(crate) path: Vec<u8>,
    /// It is compressed on disk.
    pub(crate) compressed: bool,
    /// Bytes on disk.
    pub(crate) size_bytes: u64,
    /// Time of last modification, nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    /// It is still to be read.
    pub(crate) unread: bool,
    /// It could not be read.
    pub(crate) failed: bool,
}

/// Calls `f` with each file on disk that the index knows.
pub(crate) fn each_file(connection: &Connection, mut f: impl FnMut(IndexedFile)) -> rusqlite::Result<()> {
    // Kind 2 has no file.
    let sql = "SELECT path, encoding, size_bytes, mtime_ns, state FROM rollouts WHERE kind != 2";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state: i64 = row.get(4)?;
        f(IndexedFile {
            path: row.get(0)?,
            compressed: row.get::<_, i64>(1)? != 0,
            size_bytes: row.get::<_, i64>(2)? as u64,
            mtime_ns: row.get(3)?,
            unread: state == 0,
            failed: state == 2,
        });
    }
    Ok(())
}

/// Opens the index so that nothing is written: no file beside it is made or removed, no checkpoint is done.
/// Only where a writer was killed SQLite may add its `-shm` file beside the `-wal` that was left.
pub(crate) fn open_untouched(path: &Path) -> Result<Connection> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    // With a log beside it the file alone is not all: then it is read as readers do, with locks.
    let has_log = std::fs::metadata(&wal).is_ok_and(|found| found.len() > 0);
    let query = if has_log { "mode=ro" } else { "immutable=1" };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{}?{query}", escape(path)), flags)
        .map_err(StoreError::index(path))
}

/// A path as part of an SQLite URI.
fn escape(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut text, &byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => text.push(byte.into()),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn looking_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a b?c#d%");
        std::fs::create_dir(&odd).unwrap();
        let path = odd.join("index.sqlite");
        schema::close_writer(schema::open_writer(&path, 1).unwrap());
        let before = (names(&odd), std::fs::read(&path).unwrap());
        let connection = open_untouched(&path).unwrap();
        each_file(&connection, |file| panic!("{file:?}")).unwrap();
        assert!(connection.execute("DELETE FROM meta", []).is_err());
        drop(connection);
        assert_eq!((names(&odd), std::fs::read(&path).unwrap()), before);
        // Beside a writer.
        let writer = schema::open_writer(&path, 1).unwrap();
        writer.execute("INSERT INTO meta VALUES ('seen', 1)", []).unwrap();
        let seen: i64 = open_untouched(&path)
            .unwrap()
            .query_row("SELECT value FROM meta WHERE key = 'seen'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(seen, 1);
    }
}
