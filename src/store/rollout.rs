//! What does the name of a rollout file say, and what is on each of its lines?
//!
//! Names are here; lines are in `line`, which is re-exported. Depends on no other part of the store.

mod line;

pub use line::{
    Envelope, LINE_BYTES_MAX, LINE_HEAD_BYTES_MAX, Line, LineSplitter, LineState, RECOVERIES_PER_LINE_MAX,
    Record, is_bare_kind, is_known_kind, json_text, peek_types, read_line,
};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{Date, Month, PrimitiveDateTime, Time};
use uuid::Uuid;

const PREFIX: &str = "rollout-";
const PLAIN_SUFFIX: &str = ".jsonl";
const COMPRESSED_SUFFIX: &str = ".zst";
/// `YYYY-MM-DDThh-mm-ss`
const STAMP_BYTES: usize = 19;
/// A hyphenated UUID.
const ID_BYTES: usize = 36;
/// The highest year that a stamp of 19 characters can hold.
const YEAR_MAX: i32 = 9999;

/// The id of a thread, or of a rollout (a segment) where a thread has several: a UUID of any version.
///
/// Shown hyphenated and in lower case; read hyphenated, in any case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId(Uuid);

impl ThreadId {
    /// Wraps a UUID.
    pub const fn new(uuid: Uuid) -> ThreadId {
        ThreadId(uuid)
    }

    /// The UUID.
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// The 16 bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The last 8 hexadecimal digits, in lower case. For a UUIDv7 these are random, unlike the first 8.
    pub fn last8(self) -> String {
        let bytes = self.as_bytes();
        format!("{:02x}{:02x}{:02x}{:02x}", bytes[12], bytes[13], bytes[14], bytes[15])
    }

    fn parse(text: &[u8]) -> Option<ThreadId> {
        // At 36 bytes the hyphenated form is the only one that the crate accepts.
        if text.len() == ID_BYTES { Uuid::try_parse_ascii(text).ok().map(ThreadId) } else { None }
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(formatter)
    }
}

impl fmt::Debug for ThreadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ThreadId({self})")
    }
}

/// The text is no hyphenated UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a thread id: 36 characters such as 0198c0de-0000-7000-8000-000000000001 are needed")]
pub struct ThreadIdError(String);

impl FromStr for ThreadId {
    type Err = ThreadIdError;

    fn from_str(text: &str) -> Result<ThreadId, ThreadIdError> {
        ThreadId::parse(text.as_bytes()).ok_or_else(|| ThreadIdError(text.to_owned()))
    }
}

impl Serialize for ThreadId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ThreadId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ThreadId, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The name of a rollout file, as the newest Codex accepts it (spec 1.1, 1.5).
///
/// `rollout-<stamp>-<thread id>[_<rollout id>].jsonl[.zst]`, all of it ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RolloutName {
    plain: String,
    compressed: bool,
    thread: ThreadId,
    rollout: Option<ThreadId>,
    stamp_seconds: i64,
}

impl RolloutName {
    /// Reads the name of a file, without folders. `None` when Codex would not take it for a rollout.
    pub fn parse(name: &[u8]) -> Option<RolloutName> {
        let name = std::str::from_utf8(name).ok()?;
        let (plain, compressed) = match name.strip_suffix(COMPRESSED_SUFFIX) {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        let stem = plain.strip_prefix(PREFIX)?.strip_suffix(PLAIN_SUFFIX)?;
        let (stamp, rest) = stem.split_at_checked(STAMP_BYTES)?;
        let stamp = parse_stamp(stamp)?;
        let ids = rest.strip_prefix('-')?;
        let (thread, rollout) = match ids.split_once('_') {
            Some((thread, rollout)) => (thread, Some(ThreadId::parse(rollout.as_bytes())?)),
            None => (ids, None),
        };
        let thread = ThreadId::parse(thread.as_bytes())?;
        let rollout = rollout.filter(|rollout| *rollout != thread);
        let stamp_seconds = stamp.assume_utc().unix_timestamp();
        Some(RolloutName { plain: plain.to_owned(), compressed, thread, rollout, stamp_seconds })
    }

    /// The plain name that Codex gives to a rollout. A `rollout` equal to `thread` is left out, fractions
    /// of a second are dropped, and the year is held within 0 to 9999, as the stamp has four digits for it.
    pub fn new(stamp: PrimitiveDateTime, thread: ThreadId, rollout: Option<ThreadId>) -> RolloutName {
        let year = stamp.year().clamp(0, YEAR_MAX);
        // A leap day may be missing from the year it was clamped to; the date is then left alone.
        let stamp = stamp.replace_year(year).unwrap_or(stamp);
        let rollout = rollout.filter(|rollout| *rollout != thread);
        let mut plain = format!("{PREFIX}{}-{thread}", stamp_text(stamp));
        if let Some(rollout) = rollout {
            plain.push('_');
            plain.push_str(&rollout.to_string());
        }
        plain.push_str(PLAIN_SUFFIX);
        let stamp_seconds = stamp.assume_utc().unix_timestamp();
        RolloutName { plain, compressed: false, thread, rollout, stamp_seconds }
    }

    /// The logical name: without `.zst`, otherwise as on disk.
    pub fn plain(&self) -> &str {
        &self.plain
    }

    /// The name of the file itself.
    pub fn on_disk(&self) -> String {
        if self.compressed { format!("{}{COMPRESSED_SUFFIX}", self.plain) } else { self.plain.clone() }
    }

    /// Whether the file is a zstd frame (`.jsonl.zst`).
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// The thread that the file belongs to.
    pub fn thread_id(&self) -> ThreadId {
        self.thread
    }

    /// The id of this file where it is not the first of its thread, after a revert. Never the thread id.
    pub fn rollout_id(&self) -> Option<ThreadId> {
        self.rollout
    }

    /// The id that no other rollout has: the rollout id if the name has one, else the thread id.
    pub fn key_id(&self) -> ThreadId {
        self.rollout.unwrap_or(self.thread)
    }

    /// The stamp in unix seconds, read as if it were UTC, as Codex does. It is local time in truth, so it is
    /// good for order and not for comparison with a clock.
    pub fn stamp_seconds(&self) -> i64 {
        self.stamp_seconds
    }

    /// Year, month and day as the name spells them: the date folders that the file belongs in.
    pub fn date_parts(&self) -> (&str, &str, &str) {
        let date = &self.plain[PREFIX.len()..PREFIX.len() + STAMP_BYTES];
        (&date[0..4], &date[5..7], &date[8..10])
    }
}

impl fmt::Display for RolloutName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.plain)
    }
}

/// `YYYY-MM-DDThh-mm-ss` of a time.
fn stamp_text(stamp: PrimitiveDateTime) -> String {
    let (year, month, day) = stamp.to_calendar_date();
    let (hour, minute, second) = stamp.as_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}-{minute:02}-{second:02}", u8::from(month))
}

/// Reads `YYYY-MM-DDThh-mm-ss`. `None` unless it has that shape and is a real date and time.
pub fn parse_stamp(text: &str) -> Option<PrimitiveDateTime> {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd-dd-dd";
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
    if bytes.len() != STAMP_BYTES || !bytes.iter().zip(shape).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| -> u16 {
        bytes[from..to].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
    };
    // At most two digits fit a u8.
    let short = |from: usize| number(from, from + 2) as u8;
    let month = Month::try_from(short(5)).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0, 4)), month, short(8)).ok()?;
    let time = Time::from_hms(short(11), short(14), short(17)).ok()?;
    Some(PrimitiveDateTime::new(date, time))
}

/// Whether Codex makes files of this name for a moment beside rollouts, to compress, decompress or rewrite
/// one (spec 1.5). They are never rollouts, and they vanish by themselves.
pub fn is_temporary(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    if name.starts_with(".rollout-materialize-") {
        return true;
    }
    let Some(stem) = name.strip_suffix(".tmp") else { return false };
    if stem.starts_with("rollout-compress-") {
        return true;
    }
    if let Some(hidden) = stem.strip_prefix(".rollout-") {
        return hidden.ends_with(".jsonl.paginated");
    }
    stem.starts_with(PREFIX)
        && [".jsonl.zst.compress.", ".jsonl.decompress."].iter().any(|middle| {
            stem.split_once(middle).is_some_and(|(_, numbers)| {
                // <pid>.<n>
                numbers.split('.').count() == 2 && numbers.bytes().all(|b| b == b'.' || b.is_ascii_digit())
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const A: &str = "0198c0de-0000-7000-8000-0000000000aa";
    const B: &str = "0198c0de-0000-7000-8000-0000000000bb";

    fn id(text: &str) -> ThreadId {
        text.parse().unwrap()
    }

    #[test]
    fn thread_id_reads_and_shows() {
        let upper = A.to_uppercase();
        assert_eq!(id(&upper), id(A));
        assert_eq!(id(&upper).to_string(), A);
        assert_eq!(id(A).last8(), "000000aa");
        assert_eq!(id(A).as_bytes()[15], 0xaa);
        assert!(id(A) < id(B));
        assert_eq!(serde_json::to_string(&id(A)).unwrap(), format!("\"{A}\""));
        assert_eq!(serde_json::from_str::<ThreadId>(&format!("\"{upper}\"")).unwrap(), id(A));
        for bad in
            ["", "0198c0de00007000800000000000000aa", &A.replace('-', ""), &format!("{{{A}}}"), "urn:uuid:x"]
        {
            assert!(bad.parse::<ThreadId>().is_err(), "{bad}");
        }
        let bad = serde_json::from_str::<ThreadId>("\"planb\"").unwrap_err().to_string();
        assert!(bad.contains("planb"), "{bad}");
    }

    #[test]
    fn legal_names() {
        struct Case {
            name: String,
            compressed: bool,
            thread: &'static str,
            rollout: Option<&'static str>,
        }
        let case = |name: String, compressed, thread, rollout| Case { name, compressed, thread, rollout };
        let stamp = "2026-02-08T10-15-01";
        let cases = [
            case(format!("rollout-{stamp}-{A}.jsonl"), false, A, None),
            case(format!("rollout-{stamp}-{A}.jsonl.zst"), true, A, None),
            case(format!("rollout-{stamp}-{A}_{B}.jsonl"), false, A, Some(B)),
            case(format!("rollout-{stamp}-{A}_{B}.jsonl.zst"), true, A, Some(B)),
            case(format!("rollout-{stamp}-{A}_{A}.jsonl"), false, A, None),
            case(format!("rollout-{stamp}-{}.jsonl", A.to_uppercase()), false, A, None),
        ];
        for case in cases {
            let name = RolloutName::parse(case.name.as_bytes()).expect(&case.name);
            assert_eq!(name.on_disk(), case.name);
            assert_eq!(name.plain(), case.name.trim_end_matches(".zst"));
            assert_eq!(name.is_compressed(), case.compressed, "{}", case.name);
            assert_eq!(name.thread_id(), id(case.thread), "{}", case.name);
            assert_eq!(name.rollout_id(), case.rollout.map(id), "{}", case.name);
            assert_eq!(name.key_id(), id(case.rollout.unwrap_or(case.thread)), "{}", case.name);
            assert_eq!(name.stamp_seconds(), datetime!(2026-02-08 10:15:01 UTC).unix_timestamp());
            assert_eq!(name.date_parts(), ("2026", "02", "08"));
        }
    }

    #[test]
    fn names_that_are_no_rollouts() {
        for name in [
            String::new(),
            "rollout-.jsonl".into(),
            "session_index.jsonl".into(),
            format!("rollout-2026-02-08T10-15-01-{A}.json"),
            format!("rollout-2026-02-08T10-15-01-{A}.jsonl.gz"),
            format!("rollout-2026-02-08T10-15-01-{A} (1).jsonl"),
            format!("rollout-2026-02-08T10-15-01-{A}_.jsonl"),
            format!("rollout-2026-02-08T10-15-01-{A}_{B}_{B}.jsonl"),
            format!("rollout-2026-02-08T10-15-01-{A}-{B}.jsonl"),
            format!("rollout-2026-02-08T10-15-01-{}.jsonl", A.replace('-', "")),
            format!("rollout-2026-02-08T10-15-01{A}.jsonl"),
            format!("rollout-2026-02-30T10-15-01-{A}.jsonl"),
            format!("rollout-2025-02-29T10-15-01-{A}.jsonl"),
            format!("rollout-2026-13-08T10-15-01-{A}.jsonl"),
            format!("rollout-2026-02-08T24-15-01-{A}.jsonl"),
            format!("rollout-2026-02-08T10-15-60-{A}.jsonl"),
            format!("rollout-2026-02-08T10:15:01-{A}.jsonl"),
            format!("rollout-+026-02-08T10-15-01-{A}.jsonl"),
            format!("Rollout-2026-02-08T10-15-01-{A}.jsonl"),
            format!(".rollout-2026-02-08T10-15-01-{A}.jsonl"),
            format!("rollout-2026-02-08T10-15-0\u{e9}-{A}.jsonl"),
        ] {
            assert_eq!(RolloutName::parse(name.as_bytes()), None, "{name}");
        }
        assert_eq!(RolloutName::parse(b"rollout-\xff.jsonl"), None);
    }

    #[test]
    fn made_names_read_back() {
        let cases = [
            (datetime!(2026-02-08 10:15:01.9), None, format!("rollout-2026-02-08T10-15-01-{A}.jsonl")),
            (datetime!(0999-12-31 23:59:59), Some(B), format!("rollout-0999-12-31T23-59-59-{A}_{B}.jsonl")),
            (datetime!(2026-02-08 0:00), Some(A), format!("rollout-2026-02-08T00-00-00-{A}.jsonl")),
            (datetime!(-0044-03-15 12:00), None, format!("rollout-0000-03-15T12-00-00-{A}.jsonl")),
        ];
        for (stamp, rollout, expected) in cases {
            let name = RolloutName::new(stamp, id(A), rollout.map(id));
            assert_eq!(name.plain(), expected);
            assert_eq!(RolloutName::parse(expected.as_bytes()), Some(name));
        }
    }

    #[test]
    fn temporary_names() {
        let name = format!("rollout-2026-02-08T10-15-01-{A}.jsonl");
        for yes in [
            "rollout-compress-aB3x9Z.tmp".to_owned(),
            format!("{name}.zst.compress.4711.0.tmp"),
            format!("{name}.decompress.4711.12.tmp"),
            ".rollout-materialize-k3Jd02".to_owned(),
            format!(".{name}.paginated.tmp"),
        ] {
            assert!(is_temporary(yes.as_bytes()), "{yes}");
            assert_eq!(RolloutName::parse(yes.as_bytes()), None);
        }
        for no in [
            name.clone(),
            format!("{name}.zst"),
            format!("{name}.tmp"),
            format!("{name}.decompress.x.12.tmp"),
            "notes.tmp".to_owned(),
            format!(".{name}"),
            format!(".{name}.swp"),
        ] {
            assert!(!is_temporary(no.as_bytes()), "{no}");
        }
        assert!(!is_temporary(b"rollout-compress-\xff.tmp"));
    }
}
