//! How does a change to a file become a change of the index? The one writer, a batch a transaction.
//!
//! A batch inserts, updates and removes rows; before it commits, `settle` answers what depends on other rows:
//! 1. which file of a thread is current, and which of several with one id comes first (spec 9.6, 11.3.4);
//! 2. which thread shows a name bare, and which with a suffix;
//! 3. which named thread has no rollout.
//!
//! Each answer depends on the rows alone, not on the order in which they came, so that an index made again is the
//! same index.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};
use xxhash_rust::xxh3::xxh3_64;

use super::areas::Area;
use super::change::Change;
use super::content::Encoding;
use super::error::{Result, StoreError};
use super::index::{Queries, Reader, SECONDS_PER_DAY, meta_unread};
use super::node::NodeNumber;
use super::placing::{Placing, entry_number};
use super::rollout::ThreadId;
use super::row::{DiskStat, ReadState, Row, RowKind};
use super::schema;
use super::tree::Tree;

/// The index's one writer.
pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
    placing: Arc<dyn Placing>,
}

impl Writer {
    /// Opens or makes the index at `path`.
    pub(super) fn open(path: &Path, placing: Arc<dyn Placing>) -> Result<Self> {
        let connection = schema::open_writer(path, placing.version())?;
        let mut writer = Writer { connection, path: path.to_owned(), placing };
        let roots = writer.placing.roots();
        writer.batch(|batch| roots.iter().try_for_each(|root| batch.tree.keep(root, None).map(drop)))?;
        Ok(writer)
    }

    /// The queries, over what is committed.
    pub(super) fn queries(&self) -> Queries<'_> {
        Reader::over(&self.connection)
    }

    /// The writer's connection, for statements of `backfill` that stand alone.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The database file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in one transaction and settles what follows from it. Returns the news, after the commit.
    pub(super) fn batch<T>(
        &mut self,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T>,
    ) -> Result<(T, Vec<Change>)> {
        let path = self.path.clone();
        self.try_batch(work).map_err(StoreError::index(&path))
    }

    fn try_batch<T>(
        &mut self,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<(T, Vec<Change>)> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let latest = || -> rusqlite::Result<_> {
            let latest = Reader::over(&transaction).latest()?;
            Ok(latest.map(|file| (file.number, file.path, file.disk.mtime_ns)))
        };
        let latest_before = latest()?;
        let mut batch = Batch {
            connection: &transaction,
            placing: &*self.placing,
            tree: Tree::new(&transaction),
            threads: BTreeSet::new(),
            names: BTreeSet::new(),
            days: HashMap::new(),
            nodes: BTreeSet::new(),
        };
        let answer = work(&mut batch)?;
        let mut changes = batch.settle()?;
        let latest_after = latest()?;
        if latest_before != latest_after {
            changes.push(Change::Entry { dir: NodeNumber::ROOT, name: b"latest".to_vec() });
            // `latest` may be one of their places, and be counted as such.
            let numbers = latest_before.iter().chain(&latest_after).map(|(number, ..)| *number);
            changes.extend(numbers.map(|number| Change::Node { number }));
        }
        transaction.commit()?;
        Ok((answer, changes))
    }

    /// Most is done: gives back the memory that a first reading is quicker with.
    pub(super) fn rest(&self) {
        schema::rest_writer(&self.connection);
    }

    /// Closes the index so that the next start can trust it.
    pub(super) fn close(self) {
        schema::close_writer(self.connection);
    }
}

/// One transaction of the writer.
pub(super) struct Batch<'t> {
    pub(super) connection: &'t Connection,
    placing: &'t dyn Placing,
    pub(super) tree: Tree<'t>,
    /// Threads whose files came, went or changed their order.
    threads: BTreeSet<ThreadId>,
    /// Keys of names whose holders changed.
    names: BTreeSet<String>,
    days: HashMap<i64, DayDelta>,
    nodes: BTreeSet<NodeNumber>,
}

#[derive(Default)]
struct DayDelta {
    bytes: i64,
    lines: i64,
    digest: i64,
}

/// The columns of `rollouts` but its row id, in the order of the table.
const COLUMNS: [&str; 33] = [
    "number",
    "kind",
    "area",
    "path",
    "thread_id",
    "rollout_id",
    "stamp",
    "archived",
    "current",
    "secondary",
    "duplicate",
    "name",
    "listed_name",
    "encoding",
    "size_bytes",
    "mtime_ns",
    "device",
    "inode",
    "decoded_bytes",
    "state",
    "torn",
    "bare",
    "parse_errors",
    "line_bytes",
    "name_key",
    "name_position",
    "created_at_ms",
    "source",
    "provider",
    "cwd",
    "indexed_bytes",
    "lines",
    "error",
];

static INSERT_ROW: LazyLock<String> = LazyLock::new(|| {
    let marks: Vec<_> = (1..=COLUMNS.len()).map(|n| format!("?{n}")).collect();
    format!("INSERT INTO rollouts({}) VALUES ({})", COLUMNS.join(", "), marks.join(", "))
});

/// How often `settle` may find that settling one thing unsettled another.
const SETTLE_ROUNDS_MAX: usize = 8;

impl<'t> Batch<'t> {
    /// The queries, over what this batch wrote too.
    pub(super) fn queries(&self) -> Queries<'t> {
        Reader::over(self.connection)
    }

    /// A file that was not known.
    pub(super) fn insert(&mut self, mut row: Row) -> rusqlite::Result<()> {
        if row.file.kind == RowKind::Rollout
            && let Some(thread) = row.file.thread_id
        {
            let others = self.queries().rows_of_thread(thread)?;
            if others.is_empty() {
                row.file.current = true;
                self.take_name(&mut row)?;
            } else {
                row.file.secondary = true;
                self.threads.insert(thread);
            }
        }
        row.file.number = self.free_number(&row)?;
        self.put(None, row)
    }

    /// A file that is known and changed.
    pub(super) fn update(&mut self, before: &Row, after: Row) -> rusqlite::Result<()> {
        let foreign = after.meta.id.is_some() && after.meta.id != after.file.thread_id;
        if before.meta.name_hint != after.meta.name_hint || foreign || before.file.duplicate {
            self.threads.extend(after.file.thread_id);
        }
        self.put(Some(before), after)
    }

    /// A file that is gone.
    pub(super) fn remove(&mut self, row: &Row) -> rusqlite::Result<()> {
        self.threads.extend(row.file.thread_id);
        self.names.extend(self.key_of(row));
        let mut places = Vec::new();
        self.placing.places(row, &mut places);
        for place in &places {
            let number = entry_number(place.view, place.index, &place.dir, &row.file);
            self.tree.remove(place, row.file.row, number, row.file.disk.mtime_ns)?;
        }
        self.count_line(row, self.placing.line(row).as_deref(), -1);
        self.nodes.insert(row.file.number);
        for sql in ["DELETE FROM rollouts WHERE row = ?1", "DELETE FROM texts WHERE row = ?1"] {
            self.connection.prepare_cached(sql)?.execute([row.file.row])?;
        }
        Ok(())
    }

    /// The last entry of `session_index.jsonl` for a thread; a blank name takes the name away.
    pub(super) fn set_name(
        &mut self,
        thread: ThreadId,
        name: &str,
        position: i64,
        updated_at: &str,
    ) -> rusqlite::Result<()> {
        let id = &thread.as_bytes()[..];
        if name.trim().is_empty() {
            self.connection.prepare_cached("DELETE FROM names WHERE thread_id = ?1")?.execute([id])?;
        } else {
            let sql =
                "INSERT OR REPLACE INTO names(thread_id, name, position, updated_at) VALUES (?1, ?2, ?3, ?4)";
            self.connection.prepare_cached(sql)?.execute(params![id, name, position, updated_at])?;
        }
        self.threads.insert(thread);
        Ok(())
    }

    /// Forgets a name that `session_index.jsonl` no longer gives.
    pub(super) fn drop_name(&mut self, thread: ThreadId) -> rusqlite::Result<()> {
        self.set_name(thread, "", 0, "")
    }

    /// Stores a value of the `meta` table.
    pub(super) fn set_meta(&self, key: &str, value: &str) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?
            .execute([key, value])?;
        Ok(())
    }

    /// Gives a current row the name of its thread, and has the holders of that name looked at.
    fn take_name(&mut self, row: &mut Row) -> rusqlite::Result<()> {
        let Some(thread) = row.file.thread_id else { return Ok(()) };
        let (name, position) = match self.queries().name_of(thread)? {
            Some((name, position, _)) => (Some(name), position),
            None => (row.meta.name_hint.clone().filter(|name| !name.trim().is_empty()), -1),
        };
        let name = if row.file.current { name } else { None };
        if name != row.file.name {
            self.names.extend(self.key_of(row));
            row.file.listed_name = None;
        }
        row.file.name = name;
        row.name_position = position;
        self.names.extend(self.key_of(row));
        Ok(())
    }

    fn key_of(&self, row: &Row) -> Option<String> {
        let thread = row.file.thread_id?;
        let name = row.file.name.as_deref()?;
        Some(self.placing.name_key(&self.placing.first_name(name, &thread.last8())))
    }

    /// The number of a row's file: from its key, salted where another file has it.
    fn free_number(&self, row: &Row) -> rusqlite::Result<NodeNumber> {
        let mut key = match (row.file.kind, row.file.thread_id, row.file.rollout_id) {
            // Both ids: copied or edited files of two threads may have one rollout id, and neither comes first.
            (RowKind::Rollout, Some(thread), Some(rollout)) => format!("{thread}_{rollout}").into_bytes(),
            (RowKind::Rollout, Some(thread), None) => thread.to_string().into_bytes(),
            _ => Vec::new(),
        };
        if key.is_empty() || row.file.secondary {
            key.push(0);
            key.extend_from_slice(&row.file.path);
        }
        let mut taken =
            self.connection.prepare_cached("SELECT 1 FROM rollouts WHERE number = ?1 AND row != ?2")?;
        let mut salt = 0;
        loop {
            let number = NodeNumber::file(&key, salt);
            if !taken.exists(params![number.to_sql(), row.file.row])? {
                return Ok(number);
            }
            salt += 1;
        }
    }

    /// Stores a row and moves it in the tree.
    fn put(&mut self, before: Option<&Row>, mut after: Row) -> rusqlite::Result<()> {
        let line_before = before.and_then(|before| self.placing.line(before));
        let line_after = self.placing.line(&after);
        let line_bytes = |line: &Option<Vec<u8>>| line.as_ref().map_or(0, Vec::len);
        self.store(before, &mut after, (line_bytes(&line_before), line_bytes(&line_after)))?;
        let (mut old_places, mut new_places) = (Vec::new(), Vec::new());
        if let Some(before) = before {
            self.placing.places(before, &mut old_places);
            self.count_line(before, line_before.as_deref(), -1);
            // A missing thread's file is made of its name.
            let text = |row: &Row| row.file.name.clone().filter(|_| row.file.kind == RowKind::Missing);
            let looks = |row: &Row| (row.file.disk, row.file.decoded_bytes, row.file.encoding, text(row));
            if looks(before) != looks(&after) || before.file.number != after.file.number {
                self.nodes.insert(before.file.number);
            }
        }
        self.placing.places(&after, &mut new_places);
        self.count_line(&after, line_after.as_deref(), 1);
        if old_places != new_places {
            // How many places there are may be told as the number of its links.
            self.nodes.insert(after.file.number);
        }
        if let Some(before) = before {
            for place in old_places.iter().filter(|place| !new_places.contains(place)) {
                let number = entry_number(place.view, place.index, &place.dir, &before.file);
                self.tree.remove(place, after.file.row, number, before.file.disk.mtime_ns)?;
            }
        }
        for place in &new_places {
            let number = entry_number(place.view, place.index, &place.dir, &after.file);
            match before.filter(|_| old_places.contains(place)) {
                Some(before) => {
                    let numbers = (entry_number(place.view, place.index, &place.dir, &before.file), number);
                    let mtimes_ns = (before.file.disk.mtime_ns, after.file.disk.mtime_ns);
                    if numbers.0 != numbers.1 || mtimes_ns.0 != mtimes_ns.1 {
                        self.tree.touch(place, numbers, mtimes_ns)?;
                    }
                }
                None => self.tree.add(place, after.file.row, number, after.file.disk.mtime_ns)?,
            }
        }
        Ok(())
    }

    /// Adds a row's line to the sums of its day, or takes it off.
    fn count_line(&mut self, row: &Row, line: Option<&[u8]>, sign: i64) {
        let Some(line) = line else { return };
        let delta = self.days.entry(row.file.stamp_seconds.div_euclid(SECONDS_PER_DAY)).or_default();
        delta.bytes += sign * line.len() as i64;
        delta.lines += sign;
        delta.digest = delta.digest.wrapping_add(sign.wrapping_mul(xxh3_64(line) as i64));
    }

    /// Writes a row: all of it when it is new, else the columns that changed, so that no index is touched in vain.
    /// `line_bytes` are the lengths of its lines in `threads.jsonl`, before and after.
    fn store(&self, before: Option<&Row>, row: &mut Row, line_bytes: (usize, usize)) -> rusqlite::Result<()> {
        let after = self.columns(row, line_bytes.1);
        let Some(before) = before else {
            self.connection.prepare_cached(&INSERT_ROW)?.execute(rusqlite::params_from_iter(after))?;
            row.file.row = self.connection.last_insert_rowid();
            return self.store_texts(row);
        };
        let same_time = before.file.disk.mtime_ns == row.file.disk.mtime_ns;
        if !same_time || (&before.meta, &before.resume) != (&row.meta, &row.resume) {
            self.store_texts(row)?;
        }
        let changed = self
            .columns(before, line_bytes.0)
            .into_iter()
            .zip(after)
            .zip(COLUMNS)
            .filter(|((old, new), _)| old != new);
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for ((_, value), name) in changed {
            names.push(format!("{name} = ?{}", names.len() + 1));
            values.push(value);
        }
        if names.is_empty() {
            return Ok(());
        }
        let sql = format!("UPDATE rollouts SET {} WHERE row = ?{}", names.join(", "), names.len() + 1);
        values.push(Value::Integer(row.file.row));
        self.connection.prepare_cached(&sql)?.execute(rusqlite::params_from_iter(values))?;
        Ok(())
    }

    /// Writes what a row's file says; nothing where that follows from the row, as of one that was not read.
    fn store_texts(&self, row: &Row) -> rusqlite::Result<()> {
        if row.resume.is_none() && row.meta == meta_unread(&row.file, row.meta.created_at_ms) {
            self.connection.prepare_cached("DELETE FROM texts WHERE row = ?1")?.execute([row.file.row])?;
            return Ok(());
        }
        let meta = row.meta.to_index_text();
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO texts(row, meta, resume) VALUES (?1, ?2, ?3)")?
            .execute(params![row.file.row, meta, row.resume])?;
        Ok(())
    }

    /// The values of [`COLUMNS`].
    fn columns(&self, row: &Row, line_bytes: usize) -> [Value; COLUMNS.len()] {
        let (file, meta) = (&row.file, &row.meta);
        let id = |id: Option<ThreadId>| id.map_or(Value::Null, |id| Value::Blob(id.as_bytes().to_vec()));
        let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::Text);
        let kind = match file.kind {
            RowKind::Rollout => 0,
            RowKind::Stray => 1,
            RowKind::Missing => 2,
        };
        let area = match file.area {
            Area::Home => 0,
            Area::Pending => 1,
            Area::Scratch => 2,
        };
        let state = match file.state {
            ReadState::Unread => 0,
            ReadState::Read => 1,
            ReadState::Failed => 2,
        };
        [
            file.number.to_sql().into(),
            kind.into(),
            area.into(),
            Value::Blob(file.path.clone()),
            id(file.thread_id),
            id(file.rollout_id),
            file.stamp_seconds.into(),
            file.archived.into(),
            file.current.into(),
            file.secondary.into(),
            file.duplicate.into(),
            text(&file.name),
            text(&file.listed_name),
            i64::from(file.encoding == Encoding::Zstd).into(),
            (file.disk.size_bytes as i64).into(),
            file.disk.mtime_ns.into(),
            (file.disk.device as i64).into(),
            (file.disk.inode as i64).into(),
            file.decoded_bytes.map(|bytes| bytes as i64).into(),
            state.into(),
            file.torn.into(),
            file.bare.into(),
            (file.parse_errors as i64).into(),
            (line_bytes as i64).into(),
            text(&self.key_of(row)),
            row.name_position.into(),
            meta.created_at_ms.into(),
            Value::Text(meta.source.clone()),
            Value::Text(meta.model_provider.clone()),
            Value::Text(meta.cwd.clone()),
            (row.indexed_bytes as i64).into(),
            (row.lines as i64).into(),
            text(&row.error),
        ]
    }

    /// Answers what depends on other rows, and writes the touched directories and days.
    fn settle(mut self) -> rusqlite::Result<Vec<Change>> {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let threads = std::mem::take(&mut self.threads);
            for thread in threads {
                self.regroup(thread)?;
            }
            let names = std::mem::take(&mut self.names);
            for key in names {
                self.relist(&key)?;
            }
            if self.threads.is_empty() && self.names.is_empty() {
                break;
            }
        }
        let mut changes: Vec<_> = self.nodes.iter().map(|&number| Change::Node { number }).collect();
        if !self.days.is_empty() {
            self.store_days()?;
            changes.push(Change::Entry { dir: NodeNumber::ROOT, name: b"threads.jsonl".to_vec() });
        }
        changes.extend(self.tree.settle()?);
        Ok(changes)
    }

    fn store_days(&self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO days(day, bytes, lines, digest) VALUES (?1, ?2, ?3, ?4) ON CONFLICT(day) DO UPDATE SET \
             bytes = bytes + ?2, lines = lines + ?3, digest = ?5",
        )?;
        let mut stored = self.connection.prepare_cached("SELECT digest FROM days WHERE day = ?1")?;
        for (day, delta) in &self.days {
            // SQLite's own addition turns into a floating number when it overflows; ours wraps.
            let digest: Option<i64> = stored.query_row([day], |row| row.get(0)).optional()?;
            let digest = digest.unwrap_or(0).wrapping_add(delta.digest);
            statement.execute(params![day, delta.bytes, delta.lines, delta.digest, digest])?;
        }
        Ok(())
    }

    /// Which file of the thread is current, which come first among those with one id, and is it missing?
    fn regroup(&mut self, thread: ThreadId) -> rusqlite::Result<()> {
        let rows = self.queries().rows_of_thread(thread)?;
        let (mut files, missing): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.file.kind == RowKind::Rollout);
        self.settle_missing(thread, files.is_empty(), &missing)?;
        files.sort_by(|a, b| {
            let rank = |row: &Row| {
                (row.file.archived, std::cmp::Reverse((row.file.stamp_seconds, row.file.rollout_id)))
            };
            rank(a).cmp(&rank(b)).then_with(|| a.file.path.cmp(&b.file.path))
        });
        let mut planned = Vec::new();
        let mut keys_seen = BTreeSet::new();
        for (position, before) in files.iter().enumerate() {
            let mut after = before.clone();
            let shared = files.iter().filter(|other| other.file.key_id() == before.file.key_id()).count() > 1;
            after.file.current = position == 0;
            after.file.secondary = !keys_seen.insert(before.file.key_id());
            after.file.duplicate = shared || before.meta.id.is_some_and(|id| id != thread);
            planned.push((before.clone(), after));
        }
        // The ones that give up a number before the one that takes it.
        planned.sort_by_key(|(_, after)| !after.file.secondary);
        for (before, mut after) in planned {
            self.take_name(&mut after)?;
            after.file.number = self.free_number(&after)?;
            if before != after {
                self.put(Some(&before), after)?;
            }
        }
        Ok(())
    }

    fn settle_missing(&mut self, thread: ThreadId, no_file: bool, stored: &[Row]) -> rusqlite::Result<()> {
        let named = if no_file { self.queries().name_of(thread)? } else { None };
        let Some((name, _, updated_at)) = named else {
            return stored.iter().try_for_each(|row| self.remove_missing(row));
        };
        let mtime_ns =
            super::metadata::parse_timestamp_ms(&updated_at).unwrap_or(0).saturating_mul(1_000_000);
        let path = format!("health/missing/{thread}.json").into_bytes();
        let mut row =
            Row::found(Area::Home, path, Encoding::Plain, DiskStat { mtime_ns, ..DiskStat::default() });
        row.file.kind = RowKind::Missing;
        row.file.thread_id = Some(thread);
        row.file.name = Some(name);
        match stored.first() {
            Some(before) => {
                row.file.row = before.file.row;
                row.file.number = before.file.number;
                if *before == row { Ok(()) } else { self.put(Some(before), row) }
            }
            None => {
                row.file.number = self.free_number(&row)?;
                self.put(None, row)
            }
        }
    }

    fn remove_missing(&mut self, row: &Row) -> rusqlite::Result<()> {
        let threads = std::mem::take(&mut self.threads);
        let removed = self.remove(row);
        self.threads = threads;
        removed
    }

    /// Who shows this name bare, and who with a suffix? The thread that was named last has it bare.
    fn relist(&mut self, key: &str) -> rusqlite::Result<()> {
        let mut rows = self.queries().rows_of_name(key)?;
        rows.sort_by_key(|row| (std::cmp::Reverse(row.name_position), row.file.thread_id));
        let mut planned = Vec::new();
        let mut taken = BTreeSet::new();
        for (position, row) in rows.iter().enumerate() {
            let (Some(name), Some(thread)) = (&row.file.name, row.file.thread_id) else { continue };
            let mut listed = match position {
                0 => self.placing.first_name(name, &thread.last8()),
                _ => self.placing.second_name(name, &thread.last8()),
            };
            if !taken.insert(self.placing.name_key(&listed)) {
                listed = self.placing.second_name(name, &thread.to_string().replace('-', ""));
            }
            if row.file.listed_name.as_ref() != Some(&listed) {
                planned.push((row, listed));
            }
        }
        // All leave before the first arrives: cookies then do not depend on the order.
        let mut left = Vec::new();
        for (row, listed) in planned {
            let mut bare = row.clone();
            bare.file.listed_name = None;
            if row.file.listed_name.is_some() {
                self.put(Some(row), bare.clone())?;
            }
            left.push((bare, listed));
        }
        for (bare, listed) in left {
            let mut after = bare.clone();
            after.file.listed_name = Some(listed);
            self.put(Some(&bare), after)?;
        }
        Ok(())
    }
}
