//! How is a thread written? A [`Recorder`] makes or resumes one rollout and appends items to it, as the newest Codex
//! does (spec 3): nothing on disk until there is something to keep, whole lines in order, nothing twice and nothing
//! lost when a write fails.
//!
//! Databases and names are never written here. Depends on the store's formats (`rollout`, `policy`), `content` and
//! `thaw` for compressed rollouts, and `git` for the header.

mod clock;
mod disk;
mod header;
mod item;
mod lock;
mod setup;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use uuid::{NoContext, Timestamp, Uuid};

pub use self::clock::{Clock, SystemClock};
pub use self::disk::{Appender, Disk, SystemDisk};
pub use self::item::{Item, ItemError};
pub use self::lock::LOCKS_DIR_NAME;
pub use self::setup::{Durability, HistoryMode, NewThread, RecorderOptions};

use self::lock::WriterLock;
use super::content;
use super::error::{Result, StoreError};
use super::policy::Mode;
use super::rollout::{RolloutName, ThreadId};
use super::scan::ROOTS;
use super::thaw::{ThawTime, thaw};

/// What became of a batch of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Accepted: written, or to be written.
    pub kept_count: u64,
    /// Dropped by the policy.
    pub dropped_count: u64,
}

/// A recorder whose last items could not be written. Nothing is lost while it lives.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unfinished {
    /// To try again.
    pub recorder: Recorder,
    /// Why not.
    #[source]
    pub error: StoreError,
}

/// Where a new thread's header is.
enum Head {
    /// Nothing of the file was made yet.
    Deferred(Box<NewThread>),
    /// It is being made; the header is not written, git was asked.
    Unwritten(Box<Item>),
    /// The header is in the file.
    Written,
}

/// Writes one thread. Dropped without [`Recorder::shutdown`], it loses what is pending.
pub struct Recorder {
    home: PathBuf,
    path: PathBuf,
    id: ThreadId,
    created_at_ms: i64,
    policy: Mode,
    options: RecorderOptions,
    head: Head,
    /// Somebody asked for the file: from now on each command tries to write.
    wanted: bool,
    pending: VecDeque<Item>,
    pending_bytes: usize,
    /// Of the next line, in a thread with numbers. Given when written: a line that failed keeps its number.
    next_ordinal: Option<u64>,
    file: Option<OpenFile>,
    unsynced: bool,
    /// The file's name and those of its folders are on the disk.
    names_synced: bool,
    /// The line that failed last went out but for its newline.
    only_newline_missing: bool,
    written_count: u64,
    written_bytes: u64,
    /// The error that was logged last: each distinct one once.
    logged: Option<String>,
    line: Vec<u8>,
    lock: Option<WriterLock>,
}

/// What the two constructors know of a thread.
struct Known {
    path: PathBuf,
    id: ThreadId,
    history_mode: HistoryMode,
    next_ordinal: Option<u64>,
    created_at_ms: i64,
    head: Head,
}

struct OpenFile {
    appender: Box<dyn Appender>,
    /// Nothing was written through it: what is there may end in half a line.
    unchecked: bool,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Recorder");
        shown.field("id", &self.id).field("path", &self.path).field("pending", &self.pending.len());
        shown.finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder for a new thread. Its path is known at once; neither the file nor its folder is made
    /// (spec 3.1).
    pub fn create(home: &Path, thread: NewThread, options: RecorderOptions) -> Recorder {
        let created_at_ms = options.clock.now_ms();
        let id = thread.id.unwrap_or_else(|| new_id(created_at_ms));
        let name = RolloutName::new(clock::wall_time(&*options.clock, created_at_ms), id, None);
        let (year, month, day) = name.date_parts();
        // Folders have the plain number of the year, names four digits.
        let year = year.trim_start_matches('0');
        let dir = home.join(ROOTS[0]).join(if year.is_empty() { "0" } else { year }).join(month).join(day);
        let known = Known {
            path: dir.join(name.plain()),
            id,
            history_mode: thread.history_mode,
            next_ordinal: (thread.history_mode == HistoryMode::Paginated).then_some(0),
            created_at_ms,
            head: Head::Deferred(Box::new(thread)),
        };
        Recorder::with(home, known, options)
    }

    /// A recorder that goes on with the rollout at `path`, plain or compressed, below `home`. The thread is locked;
    /// a compressed rollout is made plain first. Nothing is appended before there is something to append
    /// (spec 3.3).
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Busy`] where the thread has a writer; [`StoreError::Invalid`] where
    /// the file has no header, or the numbers of its lines cannot be gone on with; [`StoreError::Damaged`] and
    /// [`StoreError::Io`].
    pub fn resume(home: &Path, path: &Path, options: RecorderOptions) -> Result<Recorder> {
        let is_compressed = path.extension().is_some_and(|extension| extension == "zst");
        let path = if is_compressed { path.with_extension("") } else { path.to_owned() };
        let header = tail::header(&content::locate(&path)?)?;
        let lock = WriterLock::take(home, header.id)?;
        thaw(&path, ThawTime::Now)?;
        let next_ordinal = tail::next_ordinal(&path, header.history_mode)?;
        let known = Known {
            path,
            id: header.id,
            history_mode: header.history_mode,
            next_ordinal,
            created_at_ms: options.clock.now_ms(),
            head: Head::Written,
        };
        let mut recorder = Recorder::with(home, known, options);
        recorder.lock = Some(lock);
        recorder.open()?;
        Ok(recorder)
    }

    fn with(home: &Path, known: Known, options: RecorderOptions) -> Recorder {
        Recorder {
            home: home.to_owned(),
            path: known.path,
            id: known.id,
            created_at_ms: known.created_at_ms,
            policy: options.policy.unwrap_or(known.history_mode.policy()),
            options,
            names_synced: matches!(known.head, Head::Written),
            head: known.head,
            wanted: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            next_ordinal: known.next_ordinal,
            file: None,
            unsynced: false,
            only_newline_missing: false,
            written_count: 0,
            written_bytes: 0,
            logged: None,
            line: Vec::new(),
            lock: None,
        }
    }

    /// The thread.
    pub fn id(&self) -> ThreadId {
        self.id
    }

    /// Its rollout, which need not be there yet.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the rollout is there, header and all.
    pub fn is_materialised(&self) -> bool {
        matches!(self.head, Head::Written)
    }

    /// Items that are accepted and not written.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// About what they will take in the file.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Items that this recorder has written, without the header.
    pub fn written_count(&self) -> u64 {
        self.written_count
    }

    /// Bytes that it has written, with all that failed half way.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Accepts items, in order, by the rules of the thread. They are written at once when the rollout is there, or
    /// was asked for; else they wait. What cannot be written stays pending, so an item is never to be given
    /// twice: [`Recorder::flush`] tells whether all is written.
    pub fn record_items(&mut self, items: Vec<Item>) -> Recorded {
        let mut recorded = Recorded::default();
        for item in items {
            match item.kept(self.policy) {
                Some(item) => {
                    recorded.kept_count += 1;
                    if !self.wanted && self.options.persists_on_user_message && !self.is_materialised() {
                        self.wanted = item.is_user_message();
                    }
                    self.pending_bytes += item.size_bytes();
                    self.pending.push_back(item);
                }
                None => recorded.dropped_count += 1,
            }
        }
        if (self.wanted || self.is_materialised()) && !self.pending.is_empty() {
            // Logged there, tried again by the next command, and returned by the next that can return it.
            let _ = self.write_all();
        }
        recorded
    }

    /// Makes the rollout, with all that is pending. Done again, it writes only what is still pending.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Busy`]. What was not written stays pending.
    pub fn persist(&mut self) -> Result<()> {
        self.wanted = true;
        self.write_all()?;
        self.sync()
    }

    /// Writes all that is pending, and makes the rollout for it where it must. A thread without items gets none.
    ///
    /// # Errors
    /// As [`Recorder::persist`].
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() && !self.wanted && !self.is_materialised() {
            return Ok(());
        }
        self.persist()
    }

    /// Writes all that is pending and ends. The thread is free for other writers.
    ///
    /// # Errors
    /// [`Unfinished`] holds the recorder, which goes on.
    pub fn shutdown(mut self) -> Result<(), Box<Unfinished>> {
        match self.flush() {
            Ok(()) => Ok(()),
            Err(error) => Err(Box::new(Unfinished { recorder: self, error })),
        }
    }

    /// Writes the header where it is missing, and all that is pending. After an error the file is opened again,
    /// and all is tried once more (spec 3.4).
    fn write_all(&mut self) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(WriterLock::take(&self.home, self.id).inspect_err(|error| self.log(error))?);
        }
        let Err(first) = self.try_write_all() else { return Ok(()) };
        self.log(&first);
        self.file = None;
        let second = self.try_write_all();
        if let Err(error) = &second {
            self.log(error);
            self.file = None;
        }
        second
    }

    fn log(&mut self, error: &StoreError) {
        let text = error.to_string();
        if self.logged.as_ref() != Some(&text) {
            log::warn!("thread {}: {text}; its items are kept and tried again", self.id);
            self.logged = Some(text);
        }
    }

    fn try_write_all(&mut self) -> Result<()> {
        if let Head::Deferred(thread) = &self.head {
            let header = header::session_meta(thread, self.id, self.created_at_ms);
            let header = header.map_err(|error| StoreError::Invalid(error.to_string()))?;
            self.head = Head::Unwritten(Box::new(header));
        }
        self.open()?;
        if let Head::Unwritten(header) = &self.head {
            let header = header.clone();
            self.write_line(&header)?;
            self.head = Head::Written;
        }
        while let Some(item) = self.pending.pop_front() {
            if let Err(error) = self.write_line(&item) {
                self.pending.push_front(item);
                return Err(error);
            }
            self.pending_bytes -= item.size_bytes();
            self.written_count += 1;
        }
        self.logged = None;
        Ok(())
    }

    /// Opens the file where it is not. It is made only while it has no header: a rollout that somebody removed must
    /// not come back without its beginning.
    fn open(&mut self) -> Result<()> {
        if self.file.is_none() {
            let appender = self.options.disk.open(&self.path, !self.is_materialised())?;
            self.file = Some(OpenFile { appender, unchecked: true });
        }
        Ok(())
    }

    fn write_line(&mut self, item: &Item) -> Result<()> {
        let given = item.given_at_ms().filter(|_| self.options.keeps_given_times);
        let at_ms = given.unwrap_or_else(|| self.options.clock.now_ms());
        let mut line = std::mem::take(&mut self.line);
        item.write_line(&clock::stamp(at_ms), self.next_ordinal, &mut line);
        let done = self.append(&line);
        self.line = line;
        done.map_err(StoreError::io("append to", &self.path))?;
        if let Some(ordinal) = &mut self.next_ordinal {
            *ordinal += 1;
        }
        Ok(())
    }

    /// Appends a line in one write, where the system takes it so. Half a line that is there is ended first.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(ErrorKind::NotConnected.into()) };
        self.unsynced = true;
        if file.unchecked {
            if !file.appender.is_at_line_start()? {
                let (done, bytes) = write_whole(&mut *file.appender, b"\n");
                self.written_bytes += bytes;
                done?;
            }
            file.unchecked = false;
            if std::mem::take(&mut self.only_newline_missing) {
                return Ok(());
            }
        }
        let (done, bytes) = write_whole(&mut *file.appender, line);
        self.written_bytes += bytes;
        // Written again, it would be there twice.
        self.only_newline_missing = done.is_err() && bytes + 1 == line.len() as u64;
        done
    }

    fn sync(&mut self) -> Result<()> {
        if self.options.durability == Durability::System || !self.unsynced {
            return Ok(());
        }
        self.open()?;
        let Some(file) = &mut self.file else { return Ok(()) };
        // Not tried again by itself: the system may forget what failed, and then would say that all is well.
        file.appender.sync().map_err(StoreError::io("sync", &self.path))?;
        if !self.names_synced {
            self.options.disk.sync_names(&self.path, &self.home)?;
            self.names_synced = true;
        }
        self.unsynced = false;
        Ok(())
    }
}

/// Writes all bytes, and says how many went out where it cannot.
fn write_whole(appender: &mut dyn Appender, bytes: &[u8]) -> (io::Result<()>, u64) {
    let mut written = 0;
    while written < bytes.len() {
        match appender.write(&bytes[written..]) {
            Ok(0) => return (Err(ErrorKind::WriteZero.into()), written as u64),
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (Err(error), written as u64),
        }
    }
    (Ok(()), written as u64)
}

/// A UUID of version 7 of that moment.
fn new_id(at_ms: i64) -> ThreadId {
    let ms = at_ms.max(0).unsigned_abs();
    // Below a thousand milliseconds there are less than 2^32 nanoseconds.
    let nanos = (ms % 1000) as u32 * 1_000_000;
    ThreadId::new(Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1000, nanos)))
}
