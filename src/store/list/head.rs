//! What do the ends of a rollout say, when reading all of it would take too long?
//!
//! A file of a moderate size, and any compressed one, is read whole, as the index does. Of a larger one the first
//! lines are read, as far as the user's first words (spec 8.2), and the last ones, for what the last turn says.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use crate::store::content::{self, Encoding, Located};
use crate::store::error::{Result, StoreError};
use crate::store::home::Home;
use crate::store::metadata::{Extracted, Extractor, Shape};
use crate::store::read;
use crate::store::rollout::RolloutName;
use crate::store::row::{ReadState, Row};

/// Plain files up to this size are read whole.
pub(super) const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// Lines that are read in any case, and lines more that are read until the user's first words (spec 8.2).
const HEAD_LINES: usize = 10;
const HEAD_EXTRA_LINES_MAX: usize = 200;
/// Bytes that the first lines may take.
const HEAD_BYTES_MAX: u64 = 8 << 20;
/// Bytes read from the end; the second where the first hold no turn.
const TAIL_BYTES: [u64; 2] = [1 << 20, 16 << 20];
/// What a line holds that begins a turn.
const TURN_MARK: &[u8] = b"\"turn_context\"";
const CHUNK_BYTES: usize = 64 * 1024;

/// The row with what its file says. Never fails: what went wrong is the row's `error`.
pub(super) fn read_row(home: &Home, row: &Row) -> Row {
    if row.file.encoding == Encoding::Plain && row.file.disk.size_bytes > WHOLE_BYTES_MAX {
        match read_ends(home, row) {
            Ok(Some(extracted)) => return with_ends(row, extracted),
            // Compressed meanwhile.
            Ok(None) => {}
            Err(error) => {
                let mut failed = row.clone();
                failed.file.state = ReadState::Failed;
                failed.error = Some(error.to_string());
                return failed;
            }
        }
    }
    read::read(&home.areas(), row, &AtomicU64::new(0)).apply(row)
}

fn with_ends(row: &Row, extracted: Extracted) -> Row {
    let mut after = row.clone();
    after.meta = extracted.metadata;
    after.meta.updated_at_ms = row.file.disk.mtime_ns.div_euclid(1_000_000);
    after.file.parse_errors = extracted.parse_errors;
    after.file.torn = extracted.torn;
    after.file.bare = extracted.shape == Shape::Bare;
    after.lines = extracted.lines;
    after
}

/// When the thread began, unix milliseconds, as its header has it; else what the row says already.
pub(super) fn read_created_ms(home: &Home, row: &Row) -> i64 {
    let header = read_header(&home.join(&row.file.path), row.file.rollout_name().as_ref());
    header.map_or(row.meta.created_at_ms, |header| header.metadata.created_at_ms)
}

/// What the beginning of a rollout says, as far as its header. None where it cannot be read.
pub(in crate::store) fn read_header(logical: &Path, name: Option<&RolloutName>) -> Option<Extracted> {
    let located = content::locate(logical).ok()?;
    let mut source = content::open_decoded_reader(&located).ok()?;
    let mut extractor = Extractor::new(name);
    feed_head(&mut source, &mut extractor, |extracted| extracted.has_header).ok()?;
    Some(extractor.finish())
}

/// Feeds lines from the beginning until `enough`, or the bounds above. Returns the bytes read, and whether they are all.
fn feed_head(
    source: &mut dyn Read,
    extractor: &mut Extractor,
    enough: impl Fn(&Extracted) -> bool,
) -> io::Result<(u64, bool)> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut lines, mut bytes) = (0, 0);
    while lines < HEAD_LINES + HEAD_EXTRA_LINES_MAX && bytes < HEAD_BYTES_MAX {
        let count = match source.read(&mut chunk) {
            Ok(0) => return Ok((bytes, true)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        extractor.feed(&chunk[..count]);
        bytes += count as u64;
        let new_lines = memchr::memchr_iter(b'\n', &chunk[..count]).count();
        lines += new_lines;
        // A chunk is at least ten lines, or these are long ones.
        if new_lines > 0 && enough(&extractor.clone().finish()) {
            break;
        }
    }
    Ok((bytes, false))
}

/// None: it is not a plain file any more.
fn read_ends(home: &Home, row: &Row) -> Result<Option<Extracted>> {
    let located = content::locate(&home.join(&row.file.path))?;
    if located.encoding != Encoding::Plain {
        return Ok(None);
    }
    ends_of(&located, row).map(Some).map_err(StoreError::io("read", &located.path))
}

fn ends_of(located: &Located, row: &Row) -> io::Result<Extracted> {
    let mut file = File::open(&located.path)?;
    let mut head = Extractor::new(row.file.rollout_name().as_ref());
    let all = feed_head(&mut file, &mut head, |extracted| {
        extracted.lines >= HEAD_LINES as u64 && !extracted.metadata.preview.is_empty()
    })?
    .1;
    let head = head.finish();
    if all {
        return Ok(head);
    }
    let size_bytes = file.metadata()?.len();
    let mut tail = Vec::new();
    for tail_bytes in TAIL_BYTES {
        let start = size_bytes.saturating_sub(tail_bytes);
        let joined = start <= head.indexed_bytes;
        tail = read_from(&mut file, start.max(head.indexed_bytes), tail_bytes)?;
        if joined {
            break;
        }
        // It begins within a line: that one is left out.
        let first = memchr::memchr(b'\n', &tail).map_or(tail.len(), |newline| newline + 1);
        tail.drain(..first);
        if memchr::memmem::find(&tail, TURN_MARK).is_some() {
            break;
        }
    }
    let mut extractor = Extractor::resume(&head.resume);
    extractor.feed(&tail);
    Ok(extractor.finish())
}

fn read_from(file: &mut File, start: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::list::tests::Made;
    use crate::store::row::DiskStat;

    fn row_of(made: &Made, path: &str) -> Row {
        let stat = std::fs::metadata(made.home.join(path.as_bytes())).unwrap();
        Row::found(
            crate::store::areas::Area::Home,
            path.as_bytes().to_vec(),
            Encoding::Plain,
            DiskStat::of(&stat),
        )
    }

    #[test]
    fn of_a_large_file_the_first_words_and_the_last_turn_are_known() {
        let made = Made::new();
        let turn = |cwd: &str| {
            format!(
                "{{\"timestamp\":\"2026-02-08T09:15:02.500Z\",\"type\":\"turn_context\",\"payload\":{{\"cwd\":\"{cwd}\",\"model\":\"m-{}\"}}}}\n",
                cwd.len()
            )
        };
        let noise = format!(
            "{{\"timestamp\":\"t\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"agent_message\",\"message\":\"{}\"}}}}\n",
            "x".repeat(100_000)
        );
        // The last turn lies near the end, or far from it.
        for (number, behind) in [(1, 2), (2, 30)] {
            let body = [turn("/a"), noise.repeat(40), turn("/elsewhere"), noise.repeat(behind)].concat();
            let path = made.active(number, "2026-02-08T09:15:01Z", "/a", "first words", &body);
            let row = read_row(&made.home, &row_of(&made, &path));
            assert_eq!(row.meta.title, "first words");
            assert_eq!((row.meta.cwd.as_str(), row.meta.last_cwd.as_deref()), ("/a", Some("/elsewhere")));
            assert_eq!(row.meta.model.as_deref(), Some("m-10"));
            assert_eq!(row.file.state, ReadState::Unread, "its middle was not read");
            assert_eq!(row.file.parse_errors, 0);
            assert!(row.error.is_none() && !row.file.torn);
        }
    }

    #[test]
    fn a_file_read_whole_says_what_the_index_says() {
        let made = Made::new();
        let path = made.active(1, "2026-02-08T09:15:01Z", "/a", "words", "not a line\n");
        let row = read_row(&made.home, &row_of(&made, &path));
        assert_eq!((row.file.state, row.file.parse_errors), (ReadState::Read, 1));
        assert_eq!(read_created_ms(&made.home, &row_of(&made, &path)), row.meta.created_at_ms);
        let gone = Row::found(
            crate::store::areas::Area::Home,
            path.replace("2026/", "1999/").into_bytes(),
            Encoding::Plain,
            DiskStat::default(),
        );
        assert_eq!(read_row(&made.home, &gone).file.state, ReadState::Failed);
        let created_ms = gone.meta.created_at_ms;
        assert_eq!(read_created_ms(&made.home, &gone), created_ms);
    }
}
