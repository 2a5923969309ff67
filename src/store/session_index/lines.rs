//! What are the lines of a file, first to last or last to first, in bounded memory?
//!
//! Depends on nothing of the store.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// How much of the file is read at once, from the end.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// The longest line that is looked at, without its newline. Longer ones are skipped and counted.
pub const INDEX_LINE_BYTES_MAX: usize = 1024 * 1024;

/// The lines of a file, last to first, in bounded memory. One `\r` at the end of a line is dropped, blank
/// lines are skipped, and a last line without a newline counts.
#[derive(Debug)]
pub struct ReverseLines<R> {
    reader: R,
    /// Where the block in `block` starts; all before it is unread.
    block_offset: u64,
    block: Vec<u8>,
    /// What is left of the block: its first `block_left` bytes.
    block_left: usize,
    block_bytes: usize,
    /// The part of the current line that lay in later blocks, back to front.
    carry_reversed: Vec<u8>,
    line_bytes_max: usize,
    overlong: bool,
    overlong_count: u64,
    finished: bool,
}

impl<R: Read + Seek> ReverseLines<R> {
    /// The lines of `reader` from the end it has now.
    pub fn new(reader: R) -> io::Result<Self> {
        Self::with_limits(reader, BLOCK_BYTES, INDEX_LINE_BYTES_MAX)
    }

    /// As [`ReverseLines::new`] with a block size and a longest line of one's own.
    pub fn with_limits(mut reader: R, block_bytes: usize, line_bytes_max: usize) -> io::Result<Self> {
        let block_offset = reader.seek(SeekFrom::End(0))?;
        Ok(ReverseLines {
            reader,
            block_offset,
            block: Vec::new(),
            block_left: 0,
            block_bytes: block_bytes.max(1),
            carry_reversed: Vec::new(),
            line_bytes_max,
            overlong: false,
            overlong_count: 0,
            finished: false,
        })
    }

    /// How many lines were too long so far.
    pub fn overlong_count(&self) -> u64 {
        self.overlong_count
    }

    /// Reads the block before the current one. False at the start of the file.
    fn read_previous_block(&mut self) -> io::Result<bool> {
        let length = self.block_offset.min(self.block_bytes as u64) as usize;
        if length == 0 {
            return Ok(false);
        }
        self.block_offset -= length as u64;
        self.block.resize(length, 0);
        self.reader.seek(SeekFrom::Start(self.block_offset))?;
        self.reader.read_exact(&mut self.block)?;
        self.block_left = length;
        Ok(true)
    }

    /// Puts `self.block[start..block_left]` in front of the current line.
    fn carry_from(&mut self, start: usize) {
        let part = &self.block[start..self.block_left];
        if self.overlong || self.carry_reversed.len() + part.len() > self.line_bytes_max {
            self.overlong = true;
            self.carry_reversed.clear();
        } else {
            self.carry_reversed.extend(part.iter().rev());
        }
        self.block_left = start;
    }

    /// Ends the current line: None when it was too long or blank.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.overlong) {
            self.overlong_count += 1;
            return None;
        }
        let mut line = std::mem::take(&mut self.carry_reversed);
        line.reverse();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        (!line.trim_ascii().is_empty()).then_some(line)
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        while !self.finished {
            match memchr::memrchr(b'\n', &self.block[..self.block_left]) {
                Some(newline) => {
                    self.carry_from(newline + 1);
                    self.block_left = newline;
                }
                None => {
                    self.carry_from(0);
                    if self.read_previous_block()? {
                        continue;
                    }
                    self.finished = true;
                }
            }
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}

impl<R: Read + Seek> Iterator for ReverseLines<R> {
    type Item = io::Result<Vec<u8>>;

    /// The line before; after an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let line = self.next_line();
        self.finished |= line.is_err();
        line.transpose()
    }
}

/// Reads a file from an offset on, without moving the cursor it shares.
pub(super) struct ReadFrom<'a> {
    pub(super) file: &'a File,
    pub(super) offset: u64,
}

impl Read for ReadFrom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Where a line lies, its newline included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LineSpan {
    pub(super) start: u64,
    pub(super) end: u64,
    /// It has its newline.
    pub(super) complete: bool,
}

/// The lines of a reader, first to last, in bounded memory.
pub(super) struct ForwardLines<R> {
    reader: BufReader<R>,
    /// Where the next line starts.
    pub(super) offset: u64,
    line: Vec<u8>,
    overlong: bool,
    line_bytes_max: usize,
}

impl<R: Read> ForwardLines<R> {
    pub(super) fn new(reader: R, offset: u64, line_bytes_max: usize) -> Self {
        let reader = BufReader::with_capacity(BLOCK_BYTES, reader);
        ForwardLines { reader, offset, line: Vec::new(), overlong: false, line_bytes_max }
    }

    /// The text of the line that [`ForwardLines::next_line`] found; empty when it was too long.
    pub(super) fn text(&self) -> &[u8] {
        &self.line
    }

    pub(super) fn next_line(&mut self) -> io::Result<Option<LineSpan>> {
        let start = self.offset;
        self.line.clear();
        self.overlong = false;
        loop {
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            let newline = memchr::memchr(b'\n', available);
            let part = &available[..newline.unwrap_or(available.len())];
            let used = part.len() + usize::from(newline.is_some());
            if self.overlong || self.line.len() + part.len() > self.line_bytes_max {
                self.overlong = true;
                self.line.clear();
            } else {
                self.line.extend_from_slice(part);
            }
            self.reader.consume(used);
            self.offset += used as u64;
            if newline.is_some() || used == 0 {
                let span = LineSpan { start, end: self.offset, complete: newline.is_some() };
                return Ok((span.end > span.start).then_some(span));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::super::tests::{Index, entry, line};
    use super::super::{NameEntry, Rule};
    use super::*;

    fn reversed(content: &[u8], block_bytes: usize) -> Vec<Vec<u8>> {
        let lines = ReverseLines::with_limits(Cursor::new(content), block_bytes, INDEX_LINE_BYTES_MAX);
        lines.unwrap().map(|line| line.unwrap()).collect()
    }

    /// Spec 11.7, case 1.
    #[test]
    fn three_records_come_last_to_first() {
        for block_bytes in [1, 2, 3, 7, BLOCK_BYTES] {
            assert_eq!(reversed(b"one\ntwo\nthree\n", block_bytes), [&b"three"[..], b"two", b"one"]);
        }
    }

    /// Spec 11.7, case 4.
    #[test]
    fn blank_lines_are_skipped_and_carriage_returns_dropped() {
        let content = b"\n\r\na\r\n \t\r\n\r\r\nb\r\r\n\n\n";
        for block_bytes in 1..12 {
            assert_eq!(reversed(content, block_bytes), [&b"b\r"[..], b"a"], "{block_bytes}");
        }
    }

    /// Spec 11.7, case 5.
    #[test]
    fn records_around_the_block_size_stay_intact() {
        for block_bytes in [4, 64, 4096] {
            for length in block_bytes - 2..=block_bytes + 2 {
                let (a, b) = ("a".repeat(length), "b".repeat(length));
                for content in [format!("{a}\n{b}\n"), format!("{a}\n{b}"), format!("\n{a}\r\n\n{b}\n")] {
                    let expected = [b.clone().into_bytes(), a.clone().into_bytes()];
                    assert_eq!(reversed(content.as_bytes(), block_bytes), expected);
                }
            }
        }
    }

    #[test]
    fn an_overlong_line_is_skipped_and_counted() {
        let content = b"ok\n12345678\n123456789\nlast";
        for block_bytes in [1, 3, 8, 9, 10, 100] {
            let mut lines = ReverseLines::with_limits(Cursor::new(content), block_bytes, 8).unwrap();
            let found: Vec<_> = (&mut lines).map(|line| line.unwrap()).collect();
            assert_eq!(found, [&b"last"[..], b"12345678", b"ok"], "{block_bytes}");
            assert_eq!(lines.overlong_count(), 1);
        }
    }

    /// Spec 11.7, case 2.
    #[test]
    fn a_bad_record_in_the_middle_does_not_stop_the_older_ones() {
        let content = line(1, "a") + "{bad\n" + &line(2, "b");
        let parsed: Vec<_> =
            reversed(content.as_bytes(), 16).iter().map(|line| NameEntry::parse(line)).collect();
        assert_eq!(parsed, [Some(entry(2, "b")), None, Some(entry(1, "a"))]);
    }

    /// Spec 11.7, case 3.
    #[test]
    fn a_last_line_without_newline_counts() {
        let valid = line(1, "a") + line(2, "b").trim_end();
        assert_eq!(NameEntry::parse(&reversed(valid.as_bytes(), 8)[0]), Some(entry(2, "b")));
        let invalid = line(1, "a") + "{\"id";
        assert_eq!(reversed(invalid.as_bytes(), 8)[0], b"{\"id");
        assert_eq!(Index::holding(invalid).by_name("a", Rule::Newest), Some(1));
    }

    proptest! {
        #[test]
        fn reverse_lines_are_the_forward_lines_reversed(
            content in proptest::collection::vec(
                prop_oneof![4 => "[a\n\r ]".prop_map(|text| text.as_bytes()[0]), 1 => any::<u8>()], 0..200),
            block_bytes in 1_usize..70,
            line_bytes_max in 0_usize..20,
        ) {
            let forward = content.split(|byte| *byte == b'\n');
            let overlong = forward.clone().filter(|line| line.len() > line_bytes_max).count();
            let mut expected: Vec<&[u8]> = forward
                .filter(|line| line.len() <= line_bytes_max)
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| !line.trim_ascii().is_empty())
                .collect();
            expected.reverse();
            let mut lines =
                ReverseLines::with_limits(Cursor::new(&content), block_bytes, line_bytes_max).unwrap();
            let found: Vec<_> = (&mut lines).map(|line| line.unwrap()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(lines.overlong_count(), overlong as u64);
        }
    }
}
