//! What must be known of a rollout before lines are appended to it: whose it is, and which number comes next?

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;

use super::super::content::{self, Located};
use super::super::error::{Result, StoreError};
use super::super::rollout::{
    LINE_BYTES_MAX, LINE_HEAD_BYTES_MAX, LineSplitter, LineState, Record, ThreadId, is_known_kind,
    peek_types, read_line,
};
use super::HistoryMode;

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 64 << 10;
/// Where an ordinal can be on a line: behind the time and before all else.
const ORDINAL_HEAD_BYTES: usize = 128;

/// Identity, from the first `session_meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: ThreadId,
    pub(super) history_mode: HistoryMode,
}

#[derive(Deserialize)]
struct Identity {
    id: ThreadId,
    history_mode: Option<String>,
}

/// Reads the header of a rollout, compressed or not. Texts of errors as Codex has them (spec 2.8).
pub(super) fn header(located: &Located) -> Result<Header> {
    let mut reader = content::open_decoded_reader(located)?;
    let mut splitter = LineSplitter::default();
    let mut buffer = vec![0; BLOCK_BYTES];
    let (mut found, mut lines_count) = (None, 0_u64);
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(content::read_error(located, error)),
        };
        splitter.feed(&buffer[..length], |line| {
            lines_count += 1;
            if found.is_none() && !line.over_long {
                found = session_meta(line.bytes);
            }
        });
        if found.is_some() {
            break;
        }
    }
    if let Some(line) = splitter.rest()
        && found.is_none()
    {
        lines_count += 1;
        found = session_meta(line.bytes);
    }
    let invalid = |text: &str| StoreError::Invalid(format!("{text}: {}", located.path.display()));
    let Some(identity) = found else {
        let empty = lines_count == 0;
        return Err(invalid(if empty {
            "empty session file"
        } else {
            "failed to parse thread ID from rollout file"
        }));
    };
    let history_mode = match identity.history_mode.as_deref() {
        None | Some("legacy") => HistoryMode::Legacy,
        Some("paginated") => HistoryMode::Paginated,
        Some(other) => return Err(invalid(&format!("invalid session metadata history_mode: {other}"))),
    };
    Ok(Header { id: identity.id, history_mode })
}

fn session_meta(line: &[u8]) -> Option<Identity> {
    let mut found = None;
    let state = read_line(line, |record| {
        if let Record::Enveloped(envelope) = record
            && envelope.kind == "session_meta"
        {
            found = serde_json::from_str(envelope.payload.get()).ok();
        }
    });
    found.filter(|_| state == LineState::Whole)
}

/// The number of the next line of a plain rollout. None in a thread without numbers.
///
/// # Errors
/// [`StoreError::Invalid`] where the thread has numbers and its last record has none (spec 2.9).
pub(super) fn next_ordinal(path: &Path, history_mode: HistoryMode) -> Result<Option<u64>> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let last = last_ordinal(&file).map_err(StoreError::io("read", path))?;
    let missing = || {
        let path = path.display();
        StoreError::Invalid(format!("final paginated rollout record at {path} is missing an ordinal"))
    };
    match (history_mode, last) {
        (HistoryMode::Legacy, _) => Ok(None),
        (HistoryMode::Paginated, Some(ordinal)) => ordinal.checked_add(1).map(Some).ok_or_else(missing),
        (HistoryMode::Paginated, None) => Err(missing()),
    }
}

/// The ordinal of the last line that is a whole record; read from the end, whatever the size of the file.
fn last_ordinal(file: &File) -> io::Result<Option<u64>> {
    let mut start = file.metadata()?.len();
    // The line that ends where the last block began; of one that is too long, its head.
    let mut line: Vec<u8> = Vec::new();
    let mut over_long = false;
    while start > 0 {
        // As much again as there is, so that a long line is moved a few times only.
        let length = (line.len().max(BLOCK_BYTES) as u64).min(start);
        start -= length;
        let mut block = vec![0; length as usize];
        file.read_exact_at(&mut block, start)?;
        while let Some(newline) = memchr::memrchr(b'\n', &block) {
            line.splice(0..0, block.drain(newline + 1..));
            block.truncate(newline);
            if let Some(ordinal) = record_ordinal(&line, over_long || line.len() > LINE_BYTES_MAX) {
                return Ok(ordinal);
            }
            line.clear();
            over_long = false;
        }
        line.splice(0..0, block);
        if line.len() > LINE_BYTES_MAX {
            over_long = true;
            line.truncate(LINE_HEAD_BYTES_MAX);
        }
    }
    Ok(record_ordinal(&line, over_long).flatten())
}

/// None: no record. Some(None): a record without an ordinal.
fn record_ordinal(line: &[u8], over_long: bool) -> Option<Option<u64>> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    if over_long {
        let known = peek_types(text).0.is_some_and(is_known_kind);
        return known.then(|| ordinal_in_head(text));
    }
    let mut found = None;
    let blank = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let from = text.iter().position(|byte| !blank(byte))?;
    let to = text.iter().rposition(|byte| !blank(byte))?;
    let state = read_line(&text[from..=to], |record| {
        if let Record::Enveloped(envelope) = record
            && is_known_kind(&envelope.kind)
        {
            found = Some(envelope.ordinal);
        }
    });
    found.filter(|_| state == LineState::Whole)
}

fn ordinal_in_head(line: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"ordinal\":";
    let head = &line[..line.len().min(ORDINAL_HEAD_BYTES)];
    let head = &head[..memchr::memmem::find(head, b"\"payload\"").unwrap_or(head.len())];
    let digits = &head[memchr::memmem::find(head, KEY)? + KEY.len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198c0de-0000-7000-8000-0000000000aa";

    fn numbered(ordinal: u64, payload: &str) -> String {
        format!(r#"{{"timestamp":"t","ordinal":{ordinal},"type":"compacted","payload":{payload}}}"#)
    }

    fn next(text: &str) -> Result<Option<u64>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        next_ordinal(file.path(), HistoryMode::Paginated)
    }

    #[test]
    fn numbers_go_on_from_the_last_whole_record() {
        let (a, b) = (numbered(6, "{}"), numbered(7, "{}"));
        let long = numbered(8, &format!("{{\"m\":\"{}\"}}", "x".repeat(3 * BLOCK_BYTES)));
        let too_long = numbered(9, &format!("{{\"m\":\"{}\"}}", "x".repeat(LINE_BYTES_MAX)));
        for (text, expected) in [
            (format!("{a}\n{b}\n"), 8),
            (format!("{a}\n{b}"), 8),
            (b.clone(), 8),
            (format!("{a}\n{}", &b[..30]), 7),
            (format!("{a}\n{}\n\n\0\0\0", &b[..30]), 7),
            (format!("{a}\n{b}{b}\nnot json\n{{}}\n"), 7),
            (format!("{a}\n{long}\n"), 9),
            (format!("{a}\n{long}\n{}", &long[..BLOCK_BYTES * 2]), 9),
            (format!("{a}\n{too_long}\n"), 10),
            (format!("{too_long}\n"), 10),
            (format!("\n\n{a}\r\n"), 7),
        ] {
            assert_eq!(next(&text).unwrap(), Some(expected), "{}", &text[..text.len().min(200)]);
        }
    }

    #[test]
    fn numbers_that_are_missing_are_an_error() {
        let plain = r#"{"timestamp":"t","type":"compacted","payload":{"ordinal":4}}"#;
        for text in [format!("{}\n{plain}\n", numbered(3, "{}")), numbered(u64::MAX, "{}"), String::new()] {
            let error = next(&text).unwrap_err().to_string();
            assert!(error.contains("final paginated rollout record at /"), "{error}");
            assert!(error.ends_with("is missing an ordinal"), "{error}");
        }
    }

    #[test]
    fn identity_is_that_of_the_first_header() {
        let meta = |extra: &str| {
            format!(r#"{{"timestamp":"t","type":"session_meta","payload":{{"id":"{ID}"{extra}}}}}"#)
        };
        let other = meta("").replace("00aa", "00bb");
        for (text, expected) in [
            (meta("") + "\n", Ok(HistoryMode::Legacy)),
            (meta(",\"history_mode\":\"legacy\""), Ok(HistoryMode::Legacy)),
            (
                format!("garbage\n{}\n{other}\n", meta(",\"history_mode\":\"paginated\"")),
                Ok(HistoryMode::Paginated),
            ),
            (meta(",\"history_mode\":\"x\"") + "\n", Err("invalid session metadata history_mode: x")),
            (" \n\0\n".to_owned(), Err("empty session file")),
            (String::new(), Err("empty session file")),
            (numbered(1, "{}") + "\n", Err("failed to parse thread ID from rollout file")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.jsonl");
            std::fs::write(&path, &text).unwrap();
            let found = header(&content::locate_now(&path).unwrap());
            match expected {
                Ok(history_mode) => {
                    assert_eq!(found.unwrap(), Header { id: ID.parse().unwrap(), history_mode })
                }
                Err(expected) => {
                    let error = found.unwrap_err().to_string();
                    assert!(error.starts_with(expected), "{error}");
                }
            }
        }
    }
}
