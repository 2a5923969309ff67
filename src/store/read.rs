//! What do the lines of one rollout say? Reads a file, from where the last reading ended where that is possible.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::areas::Areas;
use super::content::{self, Encoding};
use super::error::{Result, StoreError};
use super::metadata::{Extracted, Extractor, ResumeState, Shape};
use super::row::{DiskStat, ReadState, Row};
use super::scan::Found;

/// Bytes of one read call.
const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes at either end of what was read that tell the file from another.
const END_BYTES: u64 = 4096;

/// A file below this is read whole again when it grew: cheaper than keeping where its reading ended.
const RESUME_BYTES_MIN: u64 = 128 * 1024;

/// What reading a file brought.
pub(super) struct Reading {
    /// Logical path below the home.
    pub(super) path: Vec<u8>,
    /// The attributes when it was opened, and how it lay on disk; None where it could not be opened.
    pub(super) seen: Option<Found>,
    /// What was read, and the ends of it for a plain file.
    outcome: std::result::Result<(Extracted, Option<(u64, u64)>), StoreError>,
}

/// Reads the file of `row`. Never fails: what went wrong is part of the reading.
pub(super) fn read(areas: &Areas, row: &Row, bytes_done: &AtomicU64) -> Reading {
    let path = row.file.path.clone();
    let mut seen = None;
    let outcome = read_file(areas, row, &mut seen, bytes_done);
    Reading { path, seen, outcome }
}

fn read_file(
    areas: &Areas,
    row: &Row,
    seen: &mut Option<Found>,
    bytes_done: &AtomicU64,
) -> Result<(Extracted, Option<(u64, u64)>)> {
    // It may be between two names, plain and compressed (the swap of spec 1.5): then it is looked at again.
    let (area, located) = areas.locate(&row.file.path)?;
    let encoding = located.encoding;
    *seen = Some(Found { area, encoding, disk: DiskStat::of(&located.stat) });
    let plain = match located.encoding {
        Encoding::Plain => Some(open_plain(&located.path)?),
        Encoding::Zstd => None,
    };
    let new = || Extractor::new(row.file.rollout_name().as_ref());
    let (mut source, mut extractor): (Box<dyn Read + '_>, _) = match &plain {
        Some((file, disk)) => {
            *seen = Some(Found { area, encoding, disk: *disk });
            let extractor = resume_of(row, file, *disk).map_or_else(new, |state| Extractor::resume(&state));
            (Box::new(file), extractor)
        }
        None => (content::open_decoded_reader(&located)?, new()),
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                extractor.feed(&chunk[..count]);
                bytes_done.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if located.encoding == Encoding::Zstd => {
                return Err(StoreError::Damaged { path: located.path, reason: error.to_string() });
            }
            Err(error) => return Err(StoreError::io("read", &located.path)(error)),
        }
    }
    let extracted = extractor.finish();
    drop(source);
    let ends = plain.and_then(|(file, _)| ends_of(&file, extracted.indexed_bytes).ok());
    Ok((extracted, ends))
}

/// Opens a plain rollout, with its attributes. What took its place meanwhile and is no regular file is not opened.
fn open_plain(path: &Path) -> Result<(File, DiskStat)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.kind() {
        ErrorKind::NotFound => StoreError::NotFound { what: path.display().to_string() },
        _ => StoreError::io("open", path)(error),
    })?;
    let metadata = file.metadata().map_err(StoreError::io("look at", path))?;
    if !metadata.is_file() {
        return Err(StoreError::NotFound { what: path.display().to_string() });
    }
    Ok((file, DiskStat::of(&metadata)))
}

/// The state to go on from, where the file is the one that was read and only grew. Its file then stands behind what
/// was read.
fn resume_of(row: &Row, mut file: &File, disk: DiskStat) -> Option<ResumeState> {
    let same = row.file.encoding == Encoding::Plain
        && row.file.disk.device == disk.device
        && row.file.disk.inode == disk.inode
        && disk.size_bytes >= row.indexed_bytes;
    let text = row.resume.as_deref().filter(|_| same && row.indexed_bytes > 0)?;
    let stored: Stored = serde_json::from_str(text).ok()?;
    if ends_of(file, row.indexed_bytes).ok()? != stored.ends {
        return None;
    }
    file.seek(SeekFrom::Start(row.indexed_bytes)).ok()?;
    Some(stored.state)
}

/// Hashes of the first and the last bytes of what was read. An inode number alone does not tell that a file is the one
/// that was read: a new file may get the number of one that was removed, and an editor may write over a file.
fn ends_of(file: &File, read_bytes: u64) -> std::io::Result<(u64, u64)> {
    let length = read_bytes.min(END_BYTES);
    let mut end = vec![0; length as usize];
    file.read_exact_at(&mut end, 0)?;
    let first = xxh3_64(&end);
    file.read_exact_at(&mut end, read_bytes - length)?;
    Ok((first, xxh3_64(&end)))
}

/// What a row keeps to go on from.
#[derive(Serialize, Deserialize)]
struct Stored {
    ends: (u64, u64),
    state: ResumeState,
}

fn seen_of(row: &Row) -> Found {
    Found { area: row.file.area, encoding: row.file.encoding, disk: row.file.disk }
}

impl Reading {
    /// A reading that did not come to be.
    pub(super) fn failed_because(row: &Row, reason: String) -> Reading {
        Reading {
            path: row.file.path.clone(),
            seen: Some(seen_of(row)),
            outcome: Err(StoreError::Invalid(reason)),
        }
    }

    /// Why not.
    pub(super) fn error(&self) -> Option<&StoreError> {
        self.outcome.as_ref().err()
    }

    /// There was no file when it was to be read.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.outcome, Err(StoreError::NotFound { .. }))
    }

    /// The row as it is after this reading. `before` is the row of the same path now; if the file was looked at again
    /// meanwhile and is no longer what was read, it stays to be read.
    pub(super) fn apply(self, before: &Row) -> Row {
        let mut after = before.clone();
        let unchanged = self.seen == Some(seen_of(before));
        after.file.state = if unchanged { ReadState::Read } else { ReadState::Unread };
        match self.outcome {
            Err(error) => {
                // A reading that failed tells nothing about a file that changed since.
                if unchanged || self.seen.is_none() {
                    after.file.state = ReadState::Failed;
                }
                // What was read before is not what is there now: only the name tells.
                let bare = Row::found(
                    before.file.area,
                    before.file.path.clone(),
                    before.file.encoding,
                    before.file.disk,
                );
                after.meta = bare.meta;
                (after.lines, after.file.parse_errors) = (0, 0);
                (after.file.torn, after.file.bare) = (false, false);
                after.error = Some(error.to_string());
                after.resume = None;
                after.indexed_bytes = 0;
            }
            Ok((extracted, ends)) => {
                after.error = None;
                after.meta = extracted.metadata;
                after.meta.updated_at_ms = before.file.disk.mtime_ns.div_euclid(1_000_000);
                after.indexed_bytes = extracted.indexed_bytes;
                after.lines = extracted.lines;
                after.file.parse_errors = extracted.parse_errors;
                after.file.torn = extracted.torn;
                after.file.bare = extracted.shape == Shape::Bare;
                if before.file.encoding == Encoding::Zstd && unchanged {
                    after.file.decoded_bytes = Some(extracted.total_bytes);
                }
                let ends = ends.filter(|_| extracted.indexed_bytes >= RESUME_BYTES_MIN);
                let stored = ends.map(|ends| Stored { ends, state: extracted.resume });
                after.resume = stored.and_then(|stored| serde_json::to_string(&stored).ok());
            }
        }
        after
    }
}
