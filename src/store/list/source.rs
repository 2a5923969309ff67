//! Whom does a command ask about the threads of a home: the index or the files?

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::cursor::{Bound, Place};
use super::files::{Files, Filling};
use super::filter::Filter;
use super::item::ListItem;
use super::{ListQuery, Page, SortKey, query};
use crate::store::backfill::{self, Status};
use crate::store::content;
use crate::store::error::{Result, StoreError};
use crate::store::home::{Home, INDEX_NAME};
use crate::store::index::{Index, Reader};
use crate::store::row::Row;

/// A writer that began later than this ago may not have compared all files with its index yet.
const WRITER_SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// Rows that are taken from the index at once.
const BATCH_ROWS: usize = 256;

/// Where listings and lookups come from. One source sees the files as they were when it first looked at them.
pub struct Source {
    pub(super) home: Home,
    /// The index that a living process keeps true, where there is one.
    pub(super) index: Option<Index>,
    state_dir: Option<PathBuf>,
    files: OnceCell<Files>,
}

/// Opens what is best to ask, and makes nothing: not an index, not a state folder, and no lock stays.
///
/// The index is asked alone if its tables are those of this build, every file was read once, and a process holds the
/// state folder's lock and did so for a minute: it watches the home. Otherwise the files are asked, with what
/// an index that nobody keeps says of those that have not changed.
pub fn open_for_reading(home: &Home, state_dir: Option<&Path>) -> Source {
    open_settled_after(home, state_dir, WRITER_SETTLES_WITHIN)
}

pub(super) fn open_settled_after(home: &Home, state_dir: Option<&Path>, settled_after: Duration) -> Source {
    let state_dir = home.find_state_dir(state_dir);
    let index = state_dir.as_deref().filter(|dir| writer_age(dir).is_some_and(|age| age >= settled_after));
    let index = index.map(|dir| Index::new(&dir.join(INDEX_NAME))).filter(|index| match is_whole(index) {
        Ok(whole) => whole,
        Err(error) => {
            log::warn!("{error}; the files are asked instead");
            false
        }
    });
    Source { home: home.clone(), index, state_dir, files: OnceCell::new() }
}

fn is_whole(index: &Index) -> Result<bool> {
    index.read(|reader| {
        Ok(query::is_current(reader)
            && backfill::load(reader)?.status == Status::Complete
            && query::all_read_once(reader)?)
    })
}

/// How long ago the process began that holds the lock of a state folder; None where nobody does.
///
/// The lock is tried shared and given back at once: a writer that starts in that moment would be refused.
fn writer_age(state_dir: &Path) -> Option<Duration> {
    let lock = File::open(state_dir.join("lock")).ok()?;
    // SAFETY: flock on a descriptor that `lock` owns.
    let refused = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } != 0;
    if !refused || io::Error::last_os_error().raw_os_error() != Some(libc::EWOULDBLOCK) {
        return None;
    }
    // Its holder wrote into it when it took it.
    lock.metadata().and_then(|found| found.modified()).ok()?.elapsed().ok()
}

impl Source {
    /// True if the index answers, and not the files.
    pub fn is_index(&self) -> bool {
        self.index.is_some()
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The files, walked at the first call.
    pub(super) fn files(&self) -> Result<&Files> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let remembered = self.state_dir.as_deref().and_then(Remembered::open);
        let files = Files::walk(&self.home, remembered)?;
        Ok(self.files.get_or_init(|| files))
    }

    /// What the index says, or None where it does not answer: then the files are asked.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&Reader) -> rusqlite::Result<T>) -> Option<T> {
        match self.index.as_ref()?.read(question) {
            Ok(answer) => Some(answer),
            Err(error) => {
                log::warn!("{error}; the files are asked instead");
                None
            }
        }
    }

    /// One page.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the files must be asked and `sessions` or `archived_sessions` cannot be read.
    pub fn page(&self, query: &ListQuery) -> Result<Page> {
        match self.ask(|reader| page_of_index(&self.home, reader, query)) {
            Some(page) => Ok(page),
            None => Ok(self.files()?.page(query)),
        }
    }

    /// The active thread that was written last; with `cwd`, the last that began there or had its last turn there
    /// (spec 8.8).
    ///
    /// # Errors
    /// As [`Source::page`].
    pub fn newest(&self, cwd: Option<&Path>) -> Result<Option<ListItem>> {
        let cwds = cwd.map(Path::to_owned).into_iter().collect();
        let mut query = ListQuery { archived: Some(false), limit: 1, cwds, ..ListQuery::default() };
        loop {
            let page = self.page(&query)?;
            if let Some(item) = page.items.into_iter().next() {
                return Ok(Some(item));
            }
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(None),
            }
        }
    }
}

/// The rows of one root in order, taken from the index in batches.
struct Stream {
    archived: bool,
    rows: VecDeque<Row>,
    behind: Option<Bound>,
    asked: bool,
    ended: bool,
}

impl Stream {
    fn fill(
        &mut self,
        connection: &Connection,
        query: &ListQuery,
        filter: &Filter<'_>,
    ) -> rusqlite::Result<()> {
        if !self.rows.is_empty() || self.ended {
            return Ok(());
        }
        // A small page that no filter thins out needs no more than the first batch.
        let limit =
            if self.asked { BATCH_ROWS } else { BATCH_ROWS.min(query.limit.max(1).saturating_add(1)) };
        self.asked = true;
        self.rows =
            query::page(connection, query, filter, self.archived, self.behind.as_ref(), limit)?.into();
        self.ended = self.rows.len() < limit;
        Ok(())
    }

    fn head(&self, sort: SortKey) -> Option<Place> {
        self.rows.front().and_then(|row| place_of(row, sort))
    }
}

fn place_of(row: &Row, sort: SortKey) -> Option<Place> {
    let key = match sort {
        SortKey::Created => row.meta.created_at_ms,
        SortKey::Updated => row.file.disk.mtime_ns,
    };
    Some(Place { key, id: row.file.thread_id?, path: row.file.path.clone() })
}

pub(super) fn page_of_index(
    home: &Home,
    connection: &Connection,
    query: &ListQuery,
) -> rusqlite::Result<Page> {
    let filter = Filter::new(query);
    let behind = query.cursor.as_ref().map(|cursor| cursor.bound(query.sort, query.descending));
    let roots = [false, true].into_iter().filter(|root| query.archived.is_none_or(|wanted| wanted == *root));
    let mut streams: Vec<_> = roots
        .map(|archived| Stream {
            archived,
            rows: VecDeque::new(),
            behind: behind.clone(),
            asked: false,
            ended: false,
        })
        .collect();
    let mut filling = Filling::new(query);
    loop {
        streams.iter_mut().try_for_each(|stream| stream.fill(connection, query, &filter))?;
        let heads =
            streams.iter_mut().filter_map(|stream| stream.head(query.sort).map(|place| (place, stream)));
        let next = match query.descending {
            true => heads.max_by(|(one, _), (other, _)| one.cmp(other)),
            false => heads.min_by(|(one, _), (other, _)| one.cmp(other)),
        };
        let Some((place, stream)) = next else { return Ok(filling.page) };
        // It has a head: there is a row.
        let Some(row) = stream.rows.pop_front() else { return Ok(filling.page) };
        let bound = Bound { key: place.key, id: Some(place.id), path: Some(place.path.clone()) };
        stream.behind = Some(bound);
        let wanted = filter.accepts(&row) && is_there(home, &row);
        let item = wanted.then(|| ListItem::of(home, &row)).flatten();
        if filling.add(&place, item).is_break() {
            return Ok(filling.page);
        }
    }
}

/// False if the row's file is gone and the index does not know yet (spec 11.4, case 13).
pub(super) fn is_there(home: &Home, row: &Row) -> bool {
    !matches!(content::locate_now(&home.join(&row.file.path)), Err(StoreError::NotFound { .. }))
}

/// An index that no living process keeps: what it read from a file holds while the file is the same.
///
/// It is opened as a file that does not change, so that SQLite makes no companions beside it. Should a writer come
/// meanwhile, [`Remembered::has_changed`] tells, and what was read of it does not count.
pub(super) struct Remembered {
    connection: Connection,
    path: PathBuf,
    stamp: Stamp,
}

/// Size, mtime in nanoseconds and inode of a database, and the size of what is not yet in it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, i128, u64, u64);

fn stamp_of(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log_bytes = match fs::metadata(PathBuf::from(log)) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let mtime_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    Ok(Stamp(found.len(), mtime_ns, found.ino(), log_bytes))
}

impl Remembered {
    /// None where there is no index that ended in order.
    fn open(state_dir: &Path) -> Option<Remembered> {
        let path = state_dir.join(INDEX_NAME);
        let stamp = stamp_of(&path).ok().filter(|stamp| stamp.3 == 0)?;
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(immutable_uri(&path), flags).ok()?;
        let usable = query::is_current(&connection) && query::closed_cleanly(&connection).unwrap_or(false);
        usable.then_some(Remembered { connection, path, stamp })
    }

    /// True if somebody wrote it since it was opened.
    pub(super) fn has_changed(&self) -> bool {
        stamp_of(&self.path).ok().as_ref() != Some(&self.stamp)
    }

    /// What it says about a path. Damage is no answer.
    pub(super) fn row(&self, path: &[u8]) -> Option<Row> {
        Reader::over(&self.connection).row_by_path(path).ok().flatten()
    }
}

fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}
