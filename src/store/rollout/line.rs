//! Where does each line of a rollout begin and end, and what kind of record is on it?
//!
//! Bytes go in by chunks of any size, memory stays bounded, damage is counted and stepped over (spec 2.1,
//! 2.8, 2.10, 13.1). Payloads are not parsed here. Depends on serde and nothing of the store.

use std::borrow::Cow;

use memchr::memmem;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The longest line that is read whole. Of a longer one only the head is kept.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// What is kept of a line longer than [`LINE_BYTES_MAX`]: enough to see its types.
pub const LINE_HEAD_BYTES_MAX: usize = 64 << 10;

/// How often the search for whole objects on a damaged line may start in vain before the rest of the line
/// is given up. Each start may read the whole rest, so this keeps hostile lines from costing their square.
pub const RECOVERIES_PER_LINE_MAX: usize = 64;

/// A line that is not blank, without its line end, NULs and white space at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The text, not checked in any way. Only the first [`LINE_HEAD_BYTES_MAX`] bytes if `over_long`.
    pub bytes: &'a [u8],
    /// Offset of the first byte of the line (before trimming), in decoded bytes from the start of the file.
    pub start_offset: u64,
    /// Offset behind the newline, or the end of the input where there is none.
    pub end_offset: u64,
    /// The line is longer than [`LINE_BYTES_MAX`].
    pub over_long: bool,
    /// The line ends in a newline. The last line of a file may not, yet.
    pub terminated: bool,
}

/// Splits chunks of bytes into lines.
///
/// What it holds back is at most one line of [`LINE_BYTES_MAX`]. The lines do not depend on the chunking.
#[derive(Clone, Debug, Default)]
pub struct LineSplitter {
    /// The beginning of the line that is not complete, or its head if `over_long`.
    pending: Vec<u8>,
    over_long: bool,
    /// Offset of the first byte of that line.
    line_start: u64,
    /// Offset of the next byte to be fed.
    position: u64,
}

impl LineSplitter {
    /// A splitter whose first byte is the one at `offset`, which must begin a line.
    pub fn starting_at(offset: u64) -> LineSplitter {
        LineSplitter { line_start: offset, position: offset, ..LineSplitter::default() }
    }

    /// Takes the next bytes and hands out each line that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(Line<'_>)) {
        while let Some(newline) = memchr::memchr(b'\n', bytes) {
            let end_offset = self.position + newline as u64 + 1;
            let part = &bytes[..newline];
            let (raw, over_long) = if self.pending.is_empty() && !self.over_long {
                let over_long = part.len() > LINE_BYTES_MAX;
                (if over_long { &part[..LINE_HEAD_BYTES_MAX] } else { part }, over_long)
            } else {
                self.hold(part);
                (self.pending.as_slice(), self.over_long)
            };
            let text = trim(raw);
            if !text.is_empty() {
                let start_offset = self.line_start;
                on_line(Line { bytes: text, start_offset, end_offset, over_long, terminated: true });
            }
            self.pending.clear();
            self.over_long = false;
            self.line_start = end_offset;
            self.position = end_offset;
            bytes = &bytes[newline + 1..];
        }
        self.hold(bytes);
        self.position += bytes.len() as u64;
    }

    /// Offset behind the last newline: where reading can go on when the file has grown.
    pub fn complete_bytes(&self) -> u64 {
        self.line_start
    }

    /// Offset behind the last byte that was fed.
    pub fn total_bytes(&self) -> u64 {
        self.position
    }

    /// The line behind the last newline, if it is not blank.
    pub fn rest(&self) -> Option<Line<'_>> {
        let bytes = trim(&self.pending);
        (!bytes.is_empty()).then_some(Line {
            bytes,
            start_offset: self.line_start,
            end_offset: self.position,
            over_long: self.over_long,
            terminated: false,
        })
    }

    fn hold(&mut self, part: &[u8]) {
        if !self.over_long && self.pending.len() + part.len() <= LINE_BYTES_MAX {
            self.pending.extend_from_slice(part);
            return;
        }
        self.over_long = true;
        let room = LINE_HEAD_BYTES_MAX.saturating_sub(self.pending.len()).min(part.len());
        self.pending.extend_from_slice(&part[..room]);
        self.pending.truncate(LINE_HEAD_BYTES_MAX);
        self.pending.shrink_to(LINE_HEAD_BYTES_MAX);
    }
}

/// Cuts NULs (left by power loss), carriage returns and white space from both ends.
fn trim(mut bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, 0 | b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c);
    while let [first, rest @ ..] = bytes
        && blank(first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && blank(last)
    {
        bytes = rest;
    }
    bytes
}

/// A line of the newer eras: `{"timestamp":…,"ordinal":…,"type":…,"payload":…}`.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// When the line was written, RFC 3339 in UTC. As in the file, not checked.
    pub timestamp: Option<Cow<'a, str>>,
    /// The number of the line in its thread, in paginated threads.
    pub ordinal: Option<u64>,
    /// `session_meta`, `event_msg` … Not necessarily one that [`is_known_kind`].
    pub kind: Cow<'a, str>,
    /// The payload, valid JSON of any type but null.
    pub payload: &'a RawValue,
}

/// One JSON object of a line, by its shape.
#[derive(Clone, Debug)]
pub enum Record<'a> {
    /// `type` and `payload`.
    Enveloped(Envelope<'a>),
    /// The first line of the bare era: `id` and `timestamp`, no `type`. The text of the object.
    BareHeader(&'a str),
    /// A response item of the bare era, not enveloped.
    BareItem {
        /// `message`, `reasoning` …: one that [`is_bare_kind`].
        kind: Cow<'a, str>,
        /// The text of the object.
        object: &'a str,
    },
    /// `{"record_type":…}`, a state marker of the bare era. Nothing to read in it.
    Marker,
    /// Valid JSON that is no rollout line.
    Unknown,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineState {
    /// Exactly one JSON value, valid UTF-8.
    Whole,
    /// Several objects on one line, or a torn one with others behind it. So many records were found whole.
    Glued {
        /// How many records were handed out: at least 1.
        records: usize,
    },
    /// Nothing on it can be used.
    Unreadable,
}

/// All `type`s of an enveloped line that any Codex is known to write (spec 2.2).
pub fn is_known_kind(kind: &str) -> bool {
    matches!(
        kind,
        "session_meta"
            | "response_item"
            | "event_msg"
            | "compacted"
            | "turn_context"
            | "world_state"
            | "inter_agent_communication"
            | "inter_agent_communication_metadata"
            | "token_usage_record"
            | "security_risk_score"
            | "retained_context"
            | "realtime_item"
            | "rollout_reference"
            | "fork_reference"
            | "transaction"
    )
}

/// The `type`s of response items that were written without an envelope (spec 2.5, 2.10).
pub fn is_bare_kind(kind: &str) -> bool {
    matches!(
        kind,
        "message"
            | "reasoning"
            | "function_call"
            | "function_call_output"
            | "custom_tool_call"
            | "custom_tool_call_output"
            | "local_shell_call"
            | "local_shell_call_output"
            | "web_search_call"
            | "ghost_snapshot"
    )
}

/// The keys that tell a line's kind; each value stays text.
#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    ordinal: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    record_type: Option<&'a RawValue>,
}

impl<'a> RawLine<'a> {
    fn classify(self, object: &'a str) -> Record<'a> {
        let text = |raw: Option<&'a RawValue>| raw.and_then(|raw| json_text(raw.get()));
        match (text(self.kind), self.payload) {
            (Some(kind), Some(payload)) => Record::Enveloped(Envelope {
                timestamp: text(self.timestamp),
                ordinal: self.ordinal.and_then(|raw| raw.get().parse().ok()),
                kind,
                payload,
            }),
            (Some(kind), None) if is_bare_kind(&kind) => Record::BareItem { kind, object },
            (None, None) if self.kind.is_some() => Record::Unknown,
            (None, None) if text(self.id).is_some() && text(self.timestamp).is_some() => {
                Record::BareHeader(object)
            }
            (None, None) if self.record_type.is_some() => Record::Marker,
            _ => Record::Unknown,
        }
    }
}

/// Reads a trimmed line ([`Line::bytes`]) and hands out its records in order.
///
/// A whole line gives one record, which may be [`Record::Unknown`]. On a damaged line every complete object
/// that is a rollout line is found, and nothing else is handed out.
pub fn read_line<'a>(line: &'a [u8], mut on_record: impl FnMut(Record<'a>)) -> LineState {
    if let Ok(text) = std::str::from_utf8(line) {
        if text.starts_with('{') {
            if let Ok(raw) = serde_json::from_str::<RawLine<'_>>(text) {
                on_record(raw.classify(text));
                return LineState::Whole;
            }
        } else if serde_json::from_str::<de::IgnoredAny>(text).is_ok() {
            on_record(Record::Unknown);
            return LineState::Whole;
        }
    }
    recover(line, on_record)
}

/// Finds the whole records of a line that is not one JSON value.
///
/// Objects that follow one another are taken as they come. Behind damage only a place that looks like the
/// beginning of a line is tried: inside a JSON string its quotes would be escaped, and of an object nested
/// in the torn one the classification makes [`Record::Unknown`].
fn recover<'a>(line: &'a [u8], mut on_record: impl FnMut(Record<'a>)) -> LineState {
    const ENVELOPED: &[u8] = b"{\"timestamp\":";
    const BARE: [&[u8]; 3] = [b"{\"type\":", b"{\"record_type\":", b"{\"id\":"];
    // Bare beginnings are looked for on bare lines only: in a torn envelope they begin payloads.
    let bare = BARE.iter().any(|start| line.starts_with(start));
    let next_start = |from: usize| -> Option<usize> {
        let find = |start: &[u8]| memmem::find(&line[from..], start).map(|at| from + at);
        let mut nearest = find(ENVELOPED);
        if bare {
            nearest = BARE.iter().filter_map(|start| find(start)).chain(nearest).min();
        }
        nearest
    };
    let mut records = 0;
    let mut failures = 0;
    let mut at = 0;
    while at < line.len() && failures < RECOVERIES_PER_LINE_MAX {
        match first_object(&line[at..]) {
            Some((record, length)) => {
                if !matches!(record, Record::Unknown) {
                    records += 1;
                    on_record(record);
                }
                at += length;
                at += line[at..].len() - trim(&line[at..]).len();
            }
            None => {
                failures += 1;
                let Some(start) = next_start(at + 1) else { break };
                at = start;
            }
        }
    }
    if records == 0 { LineState::Unreadable } else { LineState::Glued { records } }
}

/// The object that `bytes` begin with, and its length. `None` if it is cut, malformed or no object.
fn first_object(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    if bytes.first() != Some(&b'{') {
        return None;
    }
    // The object may be whole although there is damage behind it.
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?,
    };
    let mut objects = serde_json::Deserializer::from_str(text).into_iter::<RawLine<'_>>();
    let raw = objects.next()?.ok()?;
    let length = objects.byte_offset();
    Some((raw.classify(&text[..length]), length))
}

/// The outer and the inner `type` of an enveloped line of which only the beginning is there.
///
/// The text is not checked to be JSON. Outer `type`: of the object itself; inner: of its `payload`.
pub fn peek_types(head: &[u8]) -> (Option<&str>, Option<&str>) {
    let (mut outer, mut inner) = (None, None);
    let mut key: &[u8] = b"";
    let (mut depth, mut in_payload) = (0_usize, false);
    let mut at = 0;
    while at < head.len() && (outer.is_none() || inner.is_none()) {
        match head[at] {
            open @ (b'{' | b'[') => {
                if depth == 1 {
                    in_payload = open == b'{' && key == b"payload";
                }
                depth += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let Some(end) = string_end(head, at) else { break };
                let text = &head[at + 1..end];
                at = end;
                let level = depth == 1 || (depth == 2 && in_payload);
                let behind = head[at + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
                if level && behind == Some(&b':') {
                    key = text;
                } else if level && key == b"type" {
                    let slot = if depth == 1 { &mut outer } else { &mut inner };
                    *slot = slot.or(std::str::from_utf8(text).ok());
                    key = b"";
                }
            }
            _ => {}
        }
        at += 1;
    }
    (outer, inner)
}

/// The index of the quote that closes the string opened at `open`.
fn string_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..])?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// The text of a JSON string, borrowed where it has no escapes. `None` if `json` is no string.
///
/// Half surrogate pairs, which JSON can spell and UTF-8 cannot, become U+FFFD.
pub fn json_text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<LossyText>(json).ok().map(|text| Cow::Owned(text.0))
}

/// A JSON string asked for as bytes: then serde_json spells half surrogates in three bytes, as WTF-8.
struct LossyText(String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LossyText, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = LossyText;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<LossyText, E> {
                Ok(LossyText(text.to_owned()))
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<LossyText, E> {
                Ok(LossyText(wtf8_text(bytes)))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// UTF-8 with each half surrogate (three bytes, the first 0xED) replaced by one U+FFFD.
fn wtf8_text(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    loop {
        match std::str::from_utf8(bytes) {
            Ok(valid) => {
                text.push_str(valid);
                return text;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                text.push('\u{fffd}');
                let surrogate = matches!(rest, [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..]);
                bytes = &rest[if surrogate { 3 } else { error.error_len().unwrap_or(rest.len()) }..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> (Vec<String>, LineSplitter) {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        let mut note = |line: Line<'_>| {
            let text = String::from_utf8_lossy(line.bytes);
            lines.push(format!("{}..{} {text}", line.start_offset, line.end_offset));
        };
        for chunk in chunks {
            splitter.feed(chunk, &mut note);
        }
        if let Some(line) = splitter.rest() {
            assert!(!line.terminated);
            note(line);
        }
        (lines, splitter)
    }

    #[test]
    fn lines_are_split_and_trimmed() {
        let cases: [(&[u8], &[&str], u64); 8] = [
            (b"", &[], 0),
            (b"a\nb\n", &["0..2 a", "2..4 b"], 4),
            (b"a\r\n\r\n b\t\r\n", &["0..3 a", "5..10 b"], 10),
            (b"a\nb", &["0..2 a", "2..3 b"], 2),
            (b"a\n\0\0\0", &["0..2 a"], 2),
            (b"\0\0a\0\n", &["0..5 a"], 5),
            (b"\n\n\n", &[], 3),
            (b"a\0b\n", &["0..4 a\0b"], 4),
        ];
        for (bytes, expected, complete) in cases {
            let (lines, splitter) = split(&[bytes]);
            assert_eq!(lines, expected);
            assert_eq!(splitter.complete_bytes(), complete);
            assert_eq!(splitter.total_bytes(), bytes.len() as u64);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(split(&single).0, expected);
        }
    }

    #[test]
    fn starting_offset_is_added() {
        let mut splitter = LineSplitter::starting_at(100);
        let mut offsets = Vec::new();
        splitter.feed(b"a\nb", |line| offsets.push((line.start_offset, line.end_offset)));
        assert_eq!(offsets, [(100, 102)]);
        assert_eq!((splitter.complete_bytes(), splitter.total_bytes()), (102, 103));
    }

    #[test]
    fn a_line_at_the_bound_is_whole_and_one_byte_more_is_over_long() {
        for (length, over_long) in [(LINE_BYTES_MAX, false), (LINE_BYTES_MAX + 1, true)] {
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            for chunk_bytes in [line.len(), 1 << 20, (1 << 20) + 7] {
                let mut splitter = LineSplitter::default();
                let mut seen = Vec::new();
                for chunk in line.chunks(chunk_bytes) {
                    splitter.feed(chunk, |line| seen.push((line.bytes.len(), line.over_long)));
                }
                let kept = if over_long { LINE_HEAD_BYTES_MAX } else { length };
                assert_eq!(seen, [(kept, over_long)], "{chunk_bytes}");
            }
        }
    }

    #[test]
    fn fifty_megabytes_without_a_newline_stay_bounded() {
        let mut splitter = LineSplitter::default();
        let chunk = vec![b'y'; 1 << 20];
        splitter.feed(b"{\"type\":\"event_msg\",", |_| ());
        let mut capacity_max = 0;
        for _ in 0..50 {
            splitter.feed(&chunk, |_| panic!("no newline yet"));
            capacity_max = capacity_max.max(splitter.pending.capacity());
        }
        assert!(capacity_max <= 2 * LINE_BYTES_MAX, "{capacity_max}");
        assert!(splitter.pending.capacity() <= LINE_HEAD_BYTES_MAX);
        let mut seen = Vec::new();
        splitter.feed(b"\nnext\n", |line| seen.push((line.over_long, line.bytes.len())));
        assert_eq!(seen, [(true, LINE_HEAD_BYTES_MAX), (false, 4)]);
    }

    fn shapes(line: &[u8]) -> (Vec<String>, LineState) {
        let mut shapes = Vec::new();
        let state = read_line(line, |record| {
            shapes.push(match record {
                Record::Enveloped(e) => format!("{} {}", e.kind, e.payload.get()),
                Record::BareHeader(_) => "header".into(),
                Record::BareItem { kind, .. } => format!("bare {kind}"),
                Record::Marker => "marker".into(),
                Record::Unknown => "unknown".into(),
            });
        });
        (shapes, state)
    }

    #[test]
    fn whole_lines_by_shape() {
        let cases = [
            (r#"{"timestamp":"t","type":"event_msg","payload":{"a":1}}"#, "event_msg {\"a\":1}"),
            (r#"{"payload":{"a":1},"type":"event_msg"}"#, "event_msg {\"a\":1}"),
            (r#"{"type":"event\u005fmsg","payload":{}}"#, "event_msg {}"),
            (r#"{"type":"response_item","payload":{},"metadata":{"x":[1]}}"#, "response_item {}"),
            (r#"{"type":"brand_new","payload":{}}"#, "brand_new {}"),
            (r#"{"id":"x","timestamp":"t","instructions":null}"#, "header"),
            (r#"{"type":"message","role":"user","content":[]}"#, "bare message"),
            (r#"{"type":"function_call_output","id":"x","timestamp":"t"}"#, "bare function_call_output"),
            (r#"{"record_type":"state"}"#, "marker"),
            (r#"{"record_type":"state","id":"x"}"#, "marker"),
            (r#"{"type":"session_meta"}"#, "unknown"),
            (r#"{"type":"session_meta","payload":null}"#, "unknown"),
            (r#"{"type":7,"payload":{}}"#, "unknown"),
            (r#"{"type":7,"id":"x","timestamp":"t"}"#, "unknown"),
            (r#"{"id":"x"}"#, "unknown"),
            (r#"{"payload":{}}"#, "unknown"),
            ("{}", "unknown"),
            ("[1,2,3,4,5,6]", "unknown"),
            ("42", "unknown"),
            ("null", "unknown"),
        ];
        for (line, expected) in cases {
            assert_eq!(shapes(line.as_bytes()), (vec![expected.to_owned()], LineState::Whole), "{line}");
        }
    }

    #[test]
    fn envelope_fields() {
        let line = br#"{"timestamp":"2026-08-20T12:00:00.000Z","ordinal":7,"type":"compacted","payload":{}}"#;
        read_line(line, |record| {
            let Record::Enveloped(envelope) = record else { panic!("{record:?}") };
            assert_eq!(envelope.timestamp.as_deref(), Some("2026-08-20T12:00:00.000Z"));
            assert_eq!(envelope.ordinal, Some(7));
            assert!(matches!(envelope.kind, Cow::Borrowed("compacted")));
        });
    }

    #[test]
    fn damaged_lines_give_their_whole_records() {
        let a = r#"{"timestamp":"t","type":"event_msg","payload":{"n":1}}"#;
        let b = r#"{"timestamp":"t","type":"compacted","payload":{"n":2}}"#;
        let bare = r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}"#;
        let nested = r#"{"timestamp":"t","type":"compacted","payload":{"replacement_history":[{"type":"message","x":1},{"timestamp":"u"}"#;
        let escaped = r#"{"timestamp":"t","type":"event_msg","payload":{"m":"{\"timestamp\":\"t\",\"type\":\"event_msg\""#;
        let (one, two) = ("event_msg {\"n\":1}", "compacted {\"n\":2}");
        let cases: Vec<(String, Vec<&str>)> = vec![
            (format!("{a}{b}"), vec![one, two]),
            (format!("{a} \0 {b}"), vec![one, two]),
            (format!("{a}{b}{a}"), vec![one, two, one]),
            (format!("{}{b}", &a[..30]), vec![two]),
            (format!("{}{b}{a}", &a[..1]), vec![two, one]),
            (format!("{}\0\0\0{b}", &a[..40]), vec![two]),
            (format!("{a}{}", &b[..20]), vec![one]),
            (format!("{a}}}]garbage"), vec![one]),
            (format!("garbage{a}"), vec![one]),
            (format!("\u{feff}{a}"), vec![one]),
            (format!("{nested}{b}"), vec![two]),
            (format!("{escaped}{b}"), vec![two]),
            (format!("{bare}{bare}"), vec!["bare message", "bare message"]),
            (format!("{}{bare}", &bare[..50]), vec!["bare message"]),
            (format!("{{\"id\":\"x\",\"timest{bare}"), vec!["bare message"]),
            (format!("{{\"a\":1}}{b}"), vec![two]),
        ];
        for (line, expected) in cases {
            let state = LineState::Glued { records: expected.len() };
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(shapes(line.as_bytes()), (expected, state), "{line}");
        }
        for line in [
            "",
            "{",
            "not json",
            &a[..30],
            nested,
            escaped,
            "{\"a\":1}{\"b\":2}",
            "{\"type\":\"x\",\"type\":\"y\"}",
        ] {
            assert_eq!(shapes(line.as_bytes()), (vec![], LineState::Unreadable), "{line}");
        }
    }

    #[test]
    fn invalid_utf8_spoils_the_object_it_is_in_and_no_other() {
        let b = r#"{"timestamp":"t","type":"compacted","payload":{"n":2}}"#;
        let two = vec!["compacted {\"n\":2}".to_owned()];
        let mut torn = b"{\"timestamp\":\"t\",\"type\":\"event_msg\",\"payload\":{\"m\":\"\xe4\xbf".to_vec();
        assert_eq!(shapes(&torn), (vec![], LineState::Unreadable));
        torn.extend_from_slice(b.as_bytes());
        assert_eq!(shapes(&torn), (two.clone(), LineState::Glued { records: 1 }));
        let mut behind = b.as_bytes().to_vec();
        behind.extend_from_slice(b"\xff");
        assert_eq!(shapes(&behind), (two, LineState::Glued { records: 1 }));
    }

    #[test]
    fn recovery_gives_up_on_hostile_lines() {
        let hostile = "{\"timestamp\":[".repeat(50_000);
        assert_eq!(shapes(hostile.as_bytes()), (vec![], LineState::Unreadable));
        let deep =
            format!("{{\"timestamp\":\"t\",\"type\":\"compacted\",\"payload\":{}", "[".repeat(1 << 18));
        assert_eq!(shapes(deep.as_bytes()), (vec![], LineState::Unreadable));
    }

    #[test]
    fn types_are_seen_in_a_cut_line() {
        let cases = [
            (
                r#"{"timestamp":"t","type":"event_msg","payload":{"type":"x","m":"aaa"#,
                (Some("event_msg"), Some("x")),
            ),
            (r#"{"timestamp":"t","type":"compacted","payload":{"message":"type"#, (Some("compacted"), None)),
            (
                r#"{"type" : "a", "payload" : { "b":{"type":"no"},"c":["type","no"],"type" : "d"#,
                (Some("a"), None),
            ),
            (
                r#"{"type" : "a", "payload" : { "b":{"type":"no"},"c":["type","no"],"type" : "d","#,
                (Some("a"), Some("d")),
            ),
            (r#"{"m":"\"type\":\"no\"","x":{"type":"no"},"type":"yes","#, (Some("yes"), None)),
            (
                r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"a"#,
                (Some("message"), None),
            ),
            (r#"{"payload":[{"type":"no"}],"type":"yes"}"#, (Some("yes"), None)),
            (r#"{"a":"\"#, (None, None)),
            ("garbage", (None, None)),
            ("", (None, None)),
        ];
        for (head, expected) in cases {
            assert_eq!(peek_types(head.as_bytes()), expected, "{head}");
        }
    }

    #[test]
    fn json_strings_with_half_surrogates() {
        let cases = [
            (r#""plain""#, Some("plain")),
            (r#""a\nb\u00e9\ud83d\ude00""#, Some("a\nb\u{e9}\u{1f600}")),
            (r#""a\ud83dz""#, Some("a\u{fffd}z")),
            (r#""\ude00\ud83d""#, Some("\u{fffd}\u{fffd}")),
            (r#""\u4fee\ud800\u590d""#, Some("\u{4fee}\u{fffd}\u{590d}")),
            ("7", None),
            ("null", None),
            ("\"", None),
        ];
        for (json, expected) in cases {
            assert_eq!(json_text(json).as_deref(), expected, "{json}");
        }
    }
}
