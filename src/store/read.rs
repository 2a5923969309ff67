//! What do the lines of one rollout say? Reads a file, from where the last reading ended where that is possible.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::content::{self, Encoding};
use super::error::{Result, StoreError};
use super::metadata::{Extracted, Extractor, ResumeState, Shape};
use super::row::{DiskStat, ReadState, Row};

/// Bytes of one read call.
const CHUNK_BYTES: usize = 256 * 1024;

/// A file below this is read whole again when it grew: cheaper than keeping where its reading ended.
const RESUME_BYTES_MIN: u64 = 128 * 1024;

/// What reading a file brought.
pub(super) struct Reading {
    /// Logical path below the home.
    pub(super) path: Vec<u8>,
    /// The attributes when it was opened, and how it lay on disk; None where it could not be opened.
    pub(super) seen: Option<(Encoding, DiskStat)>,
    outcome: std::result::Result<Extracted, StoreError>,
}

/// Reads the file of `row`. Never fails: what went wrong is part of the reading.
pub(super) fn read(home: &Path, row: &Row, bytes_done: &AtomicU64) -> Reading {
    let path = row.file.path.clone();
    let logical = home.join(OsStr::from_bytes(&path));
    let mut seen = None;
    let outcome = read_file(&logical, row, &mut seen, bytes_done);
    Reading { path, seen, outcome }
}

fn read_file(
    logical: &Path,
    row: &Row,
    seen: &mut Option<(Encoding, DiskStat)>,
    bytes_done: &AtomicU64,
) -> Result<Extracted> {
    let located = content::locate(logical)?;
    let disk = DiskStat::of(&located.stat);
    *seen = Some((located.encoding, disk));
    let resume = resume_of(row, located.encoding, disk);
    let (mut source, mut extractor): (Box<dyn Read>, _) = match resume {
        Some(state) => {
            let mut file = File::open(&located.path).map_err(StoreError::io("open", &located.path))?;
            file.seek(SeekFrom::Start(row.indexed_bytes)).map_err(StoreError::io("read", &located.path))?;
            (Box::new(file), Extractor::resume(&state))
        }
        None => (content::open_decoded_reader(&located)?, Extractor::new(row.file.rollout_name().as_ref())),
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                extractor.feed(&chunk[..count]);
                bytes_done.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if located.encoding == Encoding::Zstd => {
                return Err(StoreError::Damaged { path: located.path, reason: error.to_string() });
            }
            Err(error) => return Err(StoreError::io("read", &located.path)(error)),
        }
    }
    Ok(extractor.finish())
}

/// The state to go on from, where the file is the one that was read and only grew.
fn resume_of(row: &Row, encoding: Encoding, disk: DiskStat) -> Option<ResumeState> {
    let same = encoding == Encoding::Plain
        && row.file.encoding == encoding
        && row.file.disk.device == disk.device
        && row.file.disk.inode == disk.inode
        && disk.size_bytes >= row.indexed_bytes;
    let text = row.resume.as_deref().filter(|_| same && row.indexed_bytes > 0)?;
    serde_json::from_str(text).ok()
}

impl Reading {
    /// A reading that did not come to be.
    pub(super) fn failed_because(row: &Row, reason: String) -> Reading {
        Reading {
            path: row.file.path.clone(),
            seen: Some((row.file.encoding, row.file.disk)),
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
        let unchanged = self.seen == Some((before.file.encoding, before.file.disk));
        after.file.state = if unchanged { ReadState::Read } else { ReadState::Unread };
        match self.outcome {
            Err(error) => {
                // A reading that failed tells nothing about a file that changed since.
                if unchanged || self.seen.is_none() {
                    after.file.state = ReadState::Failed;
                }
                // What was read before is not what is there now: only the name tells.
                let bare = Row::found(before.file.path.clone(), before.file.encoding, before.file.disk);
                after.meta = bare.meta;
                (after.lines, after.file.parse_errors) = (0, 0);
                (after.file.torn, after.file.bare) = (false, false);
                after.error = Some(error.to_string());
                after.resume = None;
                after.indexed_bytes = 0;
            }
            Ok(extracted) => {
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
                let resumable =
                    before.file.encoding == Encoding::Plain && extracted.indexed_bytes >= RESUME_BYTES_MIN;
                after.resume = if resumable { serde_json::to_string(&extracted.resume).ok() } else { None };
            }
        }
        after
    }
}
