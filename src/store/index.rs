//! What does the index answer? Every read query, one prepared statement each, over pooled read connections.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::{Connection, OptionalExtension, Params, params};

use super::areas::Area;
use super::content::Encoding;
use super::error::{Result, StoreError};
use super::metadata::ThreadMetadata;
use super::node::{COOKIE_RUN_MAX, NodeNumber};
use super::placing::ViewCode;
use super::rollout::ThreadId;
use super::row::{DiskStat, FileRow, ReadState, Row, RowKind};
use super::schema;

/// Idle read connections kept.
const POOL_MAX: usize = 16;

/// The listed part of a row, in the order that `file_row` reads it.
pub(super) const FILE_COLUMNS: &str = "r.row, r.number, r.kind, r.path, r.thread_id, r.rollout_id, r.stamp, r.archived, r.current, r.secondary, \
     r.duplicate, r.name, r.listed_name, r.encoding, r.size_bytes, r.mtime_ns, r.device, r.inode, r.decoded_bytes, \
     r.state, r.torn, r.bare, r.parse_errors, r.area";
/// What `full_row` reads after the listed part.
pub(super) const REST_COLUMNS: &str = "(SELECT meta FROM texts t WHERE t.row = r.row), (SELECT resume FROM texts t WHERE t.row = r.row), \
     r.indexed_bytes, r.lines, r.error, r.name_position, r.created_at_ms";

/// A directory of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirRow {
    /// Its node number.
    pub number: NodeNumber,
    /// Its path below the mount.
    pub path: Vec<u8>,
    /// The directory that holds it; the root holds itself.
    pub parent: NodeNumber,
    /// Its name there.
    pub name: Vec<u8>,
    /// Its readdir cookie there.
    pub cookie: i64,
    /// The newest change within it, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Files and links directly in it.
    pub entries: u64,
    /// Directories directly in it.
    pub subdirs: u64,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its readdir cookie.
    pub cookie: i64,
    /// What it is.
    pub node: EntryNode,
}

/// What an entry of a directory is.
#[derive(Clone, Debug, PartialEq)]
pub enum EntryNode {
    /// A directory.
    Dir(DirRow),
    /// A file, or a link of `view` to it at its place `index`.
    File {
        /// The view of the place.
        view: ViewCode,
        /// Which of the file's places in that view.
        index: u8,
        /// The file.
        file: Box<FileRow>,
    },
}

/// What tells whether a file changed.
pub(super) struct KnownFile {
    /// SQLite's row id.
    pub(super) row: i64,
    /// What it is.
    pub(super) kind: RowKind,
    /// Logical path below the home.
    pub(super) path: Vec<u8>,
    /// Where it lies.
    pub(super) area: Area,
    /// How it lies there.
    pub(super) encoding: Encoding,
    /// When it was last looked at.
    pub(super) disk: DiskStat,
    /// How far it was read.
    pub(super) state: ReadState,
}

impl KnownFile {
    /// The last component of the path.
    pub(super) fn name(&self) -> &[u8] {
        super::tree::split_path(&self.path).1
    }
}

/// Totals over all rollouts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Rollout files.
    pub rollouts: u64,
    /// Of them, below `archived_sessions`.
    pub archived: u64,
    /// Of them, without a place in the home yet.
    pub pending: u64,
    /// Of them, compressed.
    pub compressed: u64,
    /// Of them, not read yet.
    pub unread: u64,
    /// Of them, not readable.
    pub failed: u64,
    /// Of them, with a cut last line.
    pub torn: u64,
    /// Of them, from before the envelope.
    pub bare: u64,
    /// Of them, with lines that do not parse.
    pub with_parse_errors: u64,
    /// Of them, sharing their id with another.
    pub duplicates: u64,
    /// Threads with a name.
    pub named: u64,
    /// Other files below the two folders.
    pub stray: u64,
    /// Named threads without a rollout.
    pub missing: u64,
    /// Bytes of the rollouts on disk.
    pub disk_bytes: u64,
}

/// The lines of `threads.jsonl` of one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970, of the rollouts' stamps.
    pub day: i64,
    /// Bytes of its lines.
    pub bytes: u64,
    /// Sum of the lines' hashes.
    pub digest: u64,
}

/// The read side of the index.
pub struct Index {
    path: PathBuf,
    pool: Mutex<Vec<Connection>>,
}

impl Index {
    /// Reads the index at `path`, which its writer made before.
    pub fn new(path: &Path) -> Self {
        Index { path: path.to_owned(), pool: Mutex::new(Vec::new()) }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` on a read connection of the pool.
    pub fn read<T>(&self, f: impl FnOnce(&Reader) -> rusqlite::Result<T>) -> Result<T> {
        let pooled = self.pool.lock().unwrap_or_else(|poison| poison.into_inner()).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => schema::open_reader(&self.path)?,
        };
        let reader = Reader { connection };
        let answer = f(&reader).map_err(StoreError::index(&self.path));
        let mut pool = self.pool.lock().unwrap_or_else(|poison| poison.into_inner());
        if pool.len() < POOL_MAX {
            pool.push(reader.connection);
        }
        answer
    }

    /// How long the index's log is, bytes. It cannot begin anew while a snapshot is held.
    pub fn log_bytes(&self) -> u64 {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        std::fs::metadata(log).map_or(0, |found| found.len())
    }

    /// A connection of its own that stays on one snapshot of the index until it is dropped.
    pub fn snapshot(&self) -> Result<Reader> {
        let reader = Reader { connection: schema::open_reader(&self.path)? };
        let begin = reader.connection.execute_batch("BEGIN; SELECT count(*) FROM meta;");
        begin.map_err(StoreError::index(&self.path))?;
        Ok(reader)
    }
}

/// One read connection and its queries.
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// Over the writer's own connection: what is not committed yet is seen.
    pub(super) fn over(connection: &Connection) -> Queries<'_> {
        Queries(connection)
    }

    /// The queries.
    pub fn queries(&self) -> Queries<'_> {
        Queries(&self.connection)
    }
}

impl std::ops::Deref for Reader {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// The queries, over any connection.
#[derive(Clone, Copy)]
pub struct Queries<'c>(&'c Connection);

impl Queries<'_> {
    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.0.prepare_cached(sql)?.query_row(params, map).optional()
    }

    fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.0.prepare_cached(sql)?.query_map(params, map)?.collect()
    }

    /// The directory of this number.
    pub fn dir(&self, number: NodeNumber) -> rusqlite::Result<Option<DirRow>> {
        self.one(
            "SELECT number, path, parent, name, cookie, mtime_ns, entries, subdirs, digest FROM dirs WHERE number = ?1",
            [number.to_sql()],
            dir_row,
        )
    }

    /// The directory of this name in another.
    pub fn child_dir(&self, parent: NodeNumber, name: &[u8]) -> rusqlite::Result<Option<DirRow>> {
        self.one(
            "SELECT number, path, parent, name, cookie, mtime_ns, entries, subdirs, digest FROM dirs WHERE parent = ?1 AND name = ?2",
            params![parent.to_sql(), name],
            dir_row,
        )
    }

    /// The files and links of a directory whose cookie could be that of an entry with the computed `cookie`.
    pub fn entries_near(&self, dir: NodeNumber, cookie: i64) -> rusqlite::Result<Vec<Entry>> {
        let sql = format!(
            "SELECT {FILE_COLUMNS}, e.cookie, e.slot FROM entries e JOIN rollouts r ON r.row = e.row \
             WHERE e.dir = ?1 AND e.cookie >= ?2 AND e.cookie < ?3 ORDER BY e.cookie"
        );
        self.all(&sql, params![dir.to_sql(), cookie, cookie + COOKIE_RUN_MAX], file_entry)
    }

    /// The entries of a directory after a cookie, in cookie order, `limit` at most. What `dir` says it has none of is not
    /// asked for.
    pub fn page(&self, dir: &DirRow, after: i64, limit: usize) -> rusqlite::Result<Vec<Entry>> {
        let (number, limit_sql) = (dir.number.to_sql(), limit as i64);
        let mut entries = Vec::new();
        if dir.entries > 0 {
            let sql = format!(
                "SELECT {FILE_COLUMNS}, e.cookie, e.slot FROM entries e JOIN rollouts r ON r.row = e.row \
                 WHERE e.dir = ?1 AND e.cookie > ?2 ORDER BY e.cookie LIMIT ?3"
            );
            entries = self.all(&sql, params![number, after, limit_sql], file_entry)?;
        }
        if dir.subdirs > 0 {
            let dirs = self.all(
                "SELECT number, path, parent, name, cookie, mtime_ns, entries, subdirs, digest FROM dirs \
                 WHERE parent = ?1 AND cookie > ?2 AND number != ?1 ORDER BY cookie LIMIT ?3",
                params![number, after, limit_sql],
                |row| dir_row(row).map(|dir| Entry { cookie: dir.cookie, node: EntryNode::Dir(dir) }),
            )?;
            entries.extend(dirs);
            entries.sort_by_key(|entry| entry.cookie);
            entries.truncate(limit);
        }
        Ok(entries)
    }

    /// The files that lie directly in a directory of the home, whole rows.
    pub fn files_of_dir(&self, dir: NodeNumber) -> rusqlite::Result<Vec<Row>> {
        let sql = format!(
            "SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM entries e JOIN rollouts r ON r.row = e.row \
             WHERE e.dir = ?1 AND e.slot < 8"
        );
        self.all(&sql, [dir.to_sql()], full_row)
    }

    /// What is known of the files that lie directly in a directory of the home, in the order of their names: as little as tells
    /// whether they changed, for there may be very many.
    pub(super) fn known_files(&self, dir: NodeNumber) -> rusqlite::Result<Vec<KnownFile>> {
        let sql = "SELECT r.row, r.kind, r.path, r.area, r.encoding, r.size_bytes, r.mtime_ns, r.device, r.inode, r.state \
             FROM entries e JOIN rollouts r ON r.row = e.row WHERE e.dir = ?1 AND e.slot < 8";
        let mut known = self.all(sql, [dir.to_sql()], |row| {
            Ok(KnownFile {
                row: row.get(0)?,
                kind: kind_of(row.get(1)?),
                path: row.get(2)?,
                area: area_of(row.get(3)?),
                encoding: encoding_of(row.get(4)?),
                disk: DiskStat {
                    size_bytes: unsigned(row, 5)?,
                    mtime_ns: row.get(6)?,
                    device: unsigned(row, 7)?,
                    inode: unsigned(row, 8)?,
                },
                state: state_of(row.get(9)?),
            })
        })?;
        known.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        Ok(known)
    }

    /// The path of a rollout with an entry in this directory whose history lies in the rollout `base` (`history_base`).
    pub fn fork_in(&self, dir: NodeNumber, base: ThreadId) -> rusqlite::Result<Option<Vec<u8>>> {
        // Behind the digit of `ThreadMetadata::to_index_text`.
        let sql = "SELECT r.path FROM entries e JOIN rollouts r ON r.row = e.row JOIN texts t ON t.row = r.row \
                   WHERE e.dir = ?1 AND json_extract(substr(t.meta, 2), '$.history_base_id') = ?2 LIMIT 1";
        self.one(sql, params![dir.to_sql(), base.to_string()], |row| row.get(0))
    }

    /// The directories directly below another.
    pub fn child_dirs(&self, parent: NodeNumber) -> rusqlite::Result<Vec<DirRow>> {
        self.all(
            "SELECT number, path, parent, name, cookie, mtime_ns, entries, subdirs, digest FROM dirs WHERE parent = ?1 AND number != ?1",
            [parent.to_sql()],
            dir_row,
        )
    }

    /// The file of this node number.
    pub fn file(&self, number: NodeNumber) -> rusqlite::Result<Option<FileRow>> {
        let sql = format!("SELECT {FILE_COLUMNS} FROM rollouts r WHERE r.number = ?1");
        self.one(&sql, [number.to_sql()], file_row)
    }

    /// The whole row of this node number.
    pub fn row(&self, number: NodeNumber) -> rusqlite::Result<Option<Row>> {
        let sql = format!("SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.number = ?1");
        self.one(&sql, [number.to_sql()], full_row)
    }

    /// The whole row with this row id.
    pub fn row_by_id(&self, row: i64) -> rusqlite::Result<Option<Row>> {
        let sql = format!("SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.row = ?1");
        self.one(&sql, [row], full_row)
    }

    /// The whole row of this logical path below the home.
    pub fn row_by_path(&self, path: &[u8]) -> rusqlite::Result<Option<Row>> {
        let sql = format!("SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.path = ?1");
        self.one(&sql, [path], full_row)
    }

    /// All rows of a thread: its rollouts, and the row of a missing thread.
    pub fn rows_of_thread(&self, thread: ThreadId) -> rusqlite::Result<Vec<Row>> {
        let sql = format!(
            "SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.thread_id = ?1 ORDER BY r.path"
        );
        self.all(&sql, [&thread.as_bytes()[..]], full_row)
    }

    /// The current rollouts of all threads whose name has this key.
    pub fn rows_of_name(&self, key: &str) -> rusqlite::Result<Vec<Row>> {
        let sql = format!(
            "SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.name_key = ?1 AND r.current = 1 ORDER BY r.path"
        );
        self.all(&sql, [key], full_row)
    }

    /// The active rollout that was written last.
    pub fn latest(&self) -> rusqlite::Result<Option<FileRow>> {
        let sql = format!(
            "SELECT {FILE_COLUMNS} FROM rollouts r WHERE r.kind = 0 AND r.archived = 0 ORDER BY r.mtime_ns DESC, r.thread_id DESC, r.path DESC LIMIT 1"
        );
        self.one(&sql, [], file_row)
    }

    /// Rollouts that are to be read, in the order of their paths, after `path`.
    pub fn unread(&self, after: &[u8], limit: usize) -> rusqlite::Result<Vec<Row>> {
        let sql = format!(
            "SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.state = 0 AND r.path > ?1 ORDER BY r.path LIMIT ?2"
        );
        self.all(&sql, params![after, limit as i64], full_row)
    }

    /// How many files, and bytes on disk, are to be read after `path`.
    pub fn unread_totals(&self, after: &[u8]) -> rusqlite::Result<(u64, u64)> {
        self.0.query_row(
            "SELECT count(*), coalesce(sum(max(size_bytes - CASE WHEN (SELECT resume FROM texts t WHERE t.row = r.row) IS NULL THEN 0 ELSE indexed_bytes END, 0)), 0) \
             FROM rollouts r WHERE state = 0 AND path > ?1",
            [after],
            |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)),
        )
    }

    /// Totals.
    pub fn counts(&self) -> rusqlite::Result<Counts> {
        self.0.query_row(
            "SELECT count(*) FILTER (WHERE kind = 0), count(*) FILTER (WHERE kind = 0 AND archived), \
             count(*) FILTER (WHERE kind = 0 AND encoding = 1), count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state = 2), \
             count(*) FILTER (WHERE torn), count(*) FILTER (WHERE bare), count(*) FILTER (WHERE parse_errors > 0), \
             count(*) FILTER (WHERE duplicate), count(*) FILTER (WHERE listed_name IS NOT NULL), \
             count(*) FILTER (WHERE kind = 1), count(*) FILTER (WHERE kind = 2), coalesce(sum(size_bytes) FILTER (WHERE kind = 0), 0), \
             count(*) FILTER (WHERE kind = 0 AND area = 1) \
             FROM rollouts",
            [],
            |row| {
                Ok(Counts {
                    rollouts: unsigned(row, 0)?,
                    archived: unsigned(row, 1)?,
                    compressed: unsigned(row, 2)?,
                    unread: unsigned(row, 3)?,
                    failed: unsigned(row, 4)?,
                    torn: unsigned(row, 5)?,
                    bare: unsigned(row, 6)?,
                    with_parse_errors: unsigned(row, 7)?,
                    duplicates: unsigned(row, 8)?,
                    named: unsigned(row, 9)?,
                    stray: unsigned(row, 10)?,
                    missing: unsigned(row, 11)?,
                    disk_bytes: unsigned(row, 12)?,
                    pending: unsigned(row, 13)?,
                })
            },
        )
    }

    /// The days of `threads.jsonl`, in order.
    pub fn days(&self) -> rusqlite::Result<Vec<Day>> {
        self.all("SELECT day, bytes, digest FROM days WHERE lines > 0 ORDER BY day", [], |row| {
            Ok(Day { day: row.get(0)?, bytes: unsigned(row, 1)?, digest: row.get::<_, i64>(2)? as u64 })
        })
    }

    /// The sizes of the lines of one day, in the order of `threads.jsonl`: row id and bytes.
    pub fn day_lines(&self, day: i64) -> rusqlite::Result<Vec<(i64, u64)>> {
        self.all(
            "SELECT row, line_bytes FROM rollouts WHERE kind = 0 AND stamp >= ?1 AND stamp < ?2 ORDER BY stamp, number",
            [day * SECONDS_PER_DAY, (day + 1) * SECONDS_PER_DAY],
            |row| Ok((row.get(0)?, unsigned(row, 1)?)),
        )
    }

    /// A value of the `meta` table.
    pub fn meta_text(&self, key: &str) -> rusqlite::Result<Option<String>> {
        self.one("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
    }

    /// The name of a thread by the last entry of `session_index.jsonl`, and the entry's position.
    pub fn name_of(&self, thread: ThreadId) -> rusqlite::Result<Option<(String, i64, String)>> {
        self.one(
            "SELECT name, position, updated_at FROM names WHERE thread_id = ?1",
            [&thread.as_bytes()[..]],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
    }

    /// All threads that `session_index.jsonl` names.
    pub fn named_threads(&self) -> rusqlite::Result<Vec<ThreadId>> {
        self.all("SELECT thread_id FROM names", [], |row| {
            Ok(thread_id(row, 0)?.unwrap_or(ThreadId::new(uuid::Uuid::nil())))
        })
    }
}

/// Seconds of a day of `threads.jsonl`.
pub const SECONDS_PER_DAY: i64 = 86_400;

fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| value as u64)
}

fn thread_id(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<ThreadId>> {
    let bytes: Option<Vec<u8>> = row.get(column)?;
    Ok(bytes.and_then(|bytes| uuid::Uuid::from_slice(&bytes).ok().map(ThreadId::new)))
}

/// The digest of a directory's entries shows in the last three digits of its mtime: an mtime that moves at each
/// change tells the kernel that a listing it keeps is old, and is still the same after the index was made again.
fn shown_mtime_ns(newest_ns: i64, digest: i64) -> i64 {
    newest_ns - newest_ns.rem_euclid(1000) + (digest as u64 % 1000) as i64
}

fn dir_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<DirRow> {
    Ok(DirRow {
        number: NodeNumber::from_sql(row.get(0)?),
        path: row.get(1)?,
        parent: NodeNumber::from_sql(row.get(2)?),
        name: row.get(3)?,
        cookie: row.get(4)?,
        mtime_ns: shown_mtime_ns(row.get(5)?, row.get(8)?),
        entries: unsigned(row, 6)?,
        subdirs: unsigned(row, 7)?,
    })
}

fn kind_of(value: i64) -> RowKind {
    match value {
        0 => RowKind::Rollout,
        1 => RowKind::Stray,
        _ => RowKind::Missing,
    }
}

fn encoding_of(value: i64) -> Encoding {
    if value == 0 { Encoding::Plain } else { Encoding::Zstd }
}

fn state_of(value: i64) -> ReadState {
    match value {
        0 => ReadState::Unread,
        1 => ReadState::Read,
        _ => ReadState::Failed,
    }
}

fn area_of(value: i64) -> Area {
    match value {
        0 => Area::Home,
        1 => Area::Pending,
        _ => Area::Scratch,
    }
}

/// Reads [`FILE_COLUMNS`].
pub(super) fn file_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<FileRow> {
    Ok(FileRow {
        row: row.get(0)?,
        number: NodeNumber::from_sql(row.get(1)?),
        kind: kind_of(row.get(2)?),
        path: row.get(3)?,
        thread_id: thread_id(row, 4)?,
        rollout_id: thread_id(row, 5)?,
        stamp_seconds: row.get(6)?,
        archived: row.get(7)?,
        current: row.get(8)?,
        secondary: row.get(9)?,
        duplicate: row.get(10)?,
        name: row.get(11)?,
        listed_name: row.get(12)?,
        encoding: encoding_of(row.get(13)?),
        disk: DiskStat {
            size_bytes: unsigned(row, 14)?,
            mtime_ns: row.get(15)?,
            device: unsigned(row, 16)?,
            inode: unsigned(row, 17)?,
        },
        decoded_bytes: row.get::<_, Option<i64>>(18)?.map(|bytes| bytes as u64),
        state: state_of(row.get(19)?),
        torn: row.get(20)?,
        bare: row.get(21)?,
        parse_errors: unsigned(row, 22)?,
        area: area_of(row.get(23)?),
    })
}

/// Reads [`FILE_COLUMNS`] and then [`REST_COLUMNS`].
pub(super) fn full_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let file = file_row(row)?;
    let meta = match row.get_ref(24)?.as_str_or_null()? {
        Some(text) => ThreadMetadata::from_index_text(text),
        None => meta_unread(&file, row.get(30)?),
    };
    Ok(Row {
        file,
        meta,
        resume: row.get(25)?,
        indexed_bytes: unsigned(row, 26)?,
        lines: unsigned(row, 27)?,
        error: row.get(28)?,
        name_position: row.get(29)?,
    })
}

/// What is known of a row without a text.
pub(super) fn meta_unread(file: &FileRow, created_at_ms: i64) -> ThreadMetadata {
    let updated_at_ms = file.disk.mtime_ns.div_euclid(1_000_000);
    ThreadMetadata { created_at_ms, updated_at_ms, ..ThreadMetadata::default() }
}

fn file_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    let slot: i64 = row.get(25)?;
    let view = ViewCode((slot / 8) as u8);
    Ok(Entry {
        cookie: row.get(24)?,
        node: EntryNode::File { view, index: (slot % 8) as u8, file: Box::new(file_row(row)?) },
    })
}
