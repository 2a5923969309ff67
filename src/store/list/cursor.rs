//! Where does a page end, in words that can be stored and given back?
//!
//! A cursor is a position in a total order: time, thread id, path. Rows that come or go elsewhere do not move it, so
//! no old row is repeated or skipped.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{SortKey, shown};
use crate::store::error::StoreError;
use crate::store::rollout::{ThreadId, parse_stamp};

/// Longest text that is read as a cursor: a path and what precedes it.
const CURSOR_BYTES_MAX: usize = 16 * 1024;
const NS_PER_MS: i128 = 1_000_000;

/// The place of an item in an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Milliseconds or nanoseconds since 1970, as [`SortKey`] says.
    pub(super) key: i64,
    /// The thread.
    pub(super) id: ThreadId,
    /// The logical path below the home.
    pub(super) path: Vec<u8>,
}

/// A position in a listing; the next page begins strictly behind it.
///
/// As text: `<RFC 3339>|<thread id>|<path>`, the path with `%XX` for what a shell
/// or a terminal would take for something else. The forms of Codex
/// are read too: `<time>|<thread id>`, and a time alone, each RFC 3339 or `YYYY-MM-DDThh-mm-ss`. A time alone skips
/// what shares that instant (spec 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    time_ns: i128,
    id: Option<ThreadId>,
    path: Option<Vec<u8>>,
}

/// A cursor in the units of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) key: i64,
    pub(super) id: Option<ThreadId>,
    pub(super) path: Option<Vec<u8>>,
}

impl Cursor {
    /// The position of an item.
    pub(super) fn at(place: &Place, sort: SortKey) -> Cursor {
        let time_ns = match sort {
            SortKey::Created => i128::from(place.key) * NS_PER_MS,
            SortKey::Updated => i128::from(place.key),
        };
        Cursor { time_ns, id: Some(place.id), path: Some(place.path.clone()) }
    }

    /// The same position in the units of `sort`. A time between two milliseconds has no item: it is rounded so that
    /// what is strictly behind it stays the same.
    pub(super) fn bound(&self, sort: SortKey, descending: bool) -> Bound {
        let clamp = |key: i128| i64::try_from(key).unwrap_or(if key < 0 { i64::MIN } else { i64::MAX });
        if sort == SortKey::Updated {
            return Bound { key: clamp(self.time_ns), id: self.id, path: self.path.clone() };
        }
        let (ms, rest) = (self.time_ns.div_euclid(NS_PER_MS), self.time_ns.rem_euclid(NS_PER_MS));
        if rest == 0 {
            return Bound { key: clamp(ms), id: self.id, path: self.path.clone() };
        }
        Bound { key: clamp(if descending { ms + 1 } else { ms }), id: None, path: None }
    }
}

impl Bound {
    /// True if `place` is strictly behind this position.
    pub(super) fn is_before(&self, place: &Place, descending: bool) -> bool {
        let ordering = place.key.cmp(&self.key);
        let ordering = match self.id {
            None => ordering,
            Some(id) => ordering.then_with(|| place.id.cmp(&id)),
        };
        let ordering = match &self.path {
            None => ordering,
            Some(path) => ordering.then_with(|| place.path.cmp(path)),
        };
        if descending { ordering.is_lt() } else { ordering.is_gt() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp_nanos(self.time_ns)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok());
        match time {
            Some(time) => formatter.write_str(&time)?,
            // Before year 0 or after 9999: a clock set wrong, which must not end the listing.
            None => write!(formatter, "@{}", self.time_ns)?,
        }
        let Some(id) = self.id else { return Ok(()) };
        write!(formatter, "|{id}")?;
        let Some(path) = &self.path else { return Ok(()) };
        formatter.write_str("|")?;
        for &byte in path {
            if byte.is_ascii_alphanumeric() || b"/-_.,:=+@".contains(&byte) {
                write!(formatter, "{}", char::from(byte))?;
            } else {
                write!(formatter, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Cursor, StoreError> {
        parse(text).ok_or_else(|| {
            let shown = shown(text, 100);
            StoreError::Invalid(format!(
                "\"{shown}\" is not a cursor: give the one that the page before printed, or a time such as \
                 2026-02-08T09:15:02Z or 2026-02-08T09-15-02, alone or with a thread id behind it (TIME|ID)"
            ))
        })
    }
}

fn parse(text: &str) -> Option<Cursor> {
    if text.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let mut parts = text.splitn(3, '|');
    let time_ns = parse_time_ns(parts.next()?)?;
    let id =
        parts.next().map(|id| id.parse().ok()).map_or(Some(None), |id: Option<ThreadId>| id.map(Some))?;
    let path = parts.next().map(decode_path).map_or(Some(None), |path| path.map(Some))?;
    Some(Cursor { time_ns, id, path })
}

fn parse_time_ns(text: &str) -> Option<i128> {
    if let Some(number) = text.strip_prefix('@') {
        return number.parse().ok();
    }
    if let Some(stamp) = parse_stamp(text) {
        return Some(stamp.assume_utc().unix_timestamp_nanos());
    }
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp_nanos)
}

fn decode_path(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut path = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            path.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        // Two hexadecimal digits fit a byte.
        path.push((high * 16 + low) as u8);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0198c0de-0000-7000-8000-0000000000aa";

    fn place(key: i64, id: u128, path: &[u8]) -> Place {
        Place { key, id: ThreadId::new(uuid::Uuid::from_u128(id)), path: path.to_vec() }
    }

    #[test]
    fn reads_its_own_form_and_those_of_codex() {
        let time_ns = 1_770_542_102_000_000_000;
        let id = Some(ID.parse().unwrap());
        let path = Some(b"sessions/a b%\xff|c".to_vec());
        for (text, wanted) in [
            ("2026-02-08T09:15:02Z".to_owned(), Cursor { time_ns, id: None, path: None }),
            ("2026-02-08T10:15:02+01:00".to_owned(), Cursor { time_ns, id: None, path: None }),
            ("2026-02-08T09-15-02".to_owned(), Cursor { time_ns, id: None, path: None }),
            (format!("2026-02-08T09:15:02Z|{ID}"), Cursor { time_ns, id, path: None }),
            (format!("2026-02-08T09-15-02|{ID}"), Cursor { time_ns, id, path: None }),
            (
                format!("2026-02-08T09:15:02.000000001Z|{ID}|sessions/a%20b%25%FF|c"),
                Cursor { time_ns: time_ns + 1, id, path },
            ),
        ] {
            assert_eq!(text.parse::<Cursor>().unwrap(), wanted, "{text}");
            assert_eq!(wanted.to_string().parse::<Cursor>().unwrap(), wanted, "{text}");
        }
    }

    /// Spec 11.5, case 11: garbage is an invalid request. A `|` is ours and the seed's.
    #[test]
    fn garbage_is_invalid_and_says_what_is_accepted() {
        for bad in [
            "",
            "|",
            "x",
            "2026-02-08",
            "2026-02-30T00-00-00",
            &format!("|{ID}"),
            "2026-02-08T09:15:02Z|",
            "2026-02-08T09:15:02Z|x",
            &format!("2026-02-08T09:15:02Z|{ID}|%4"),
            &format!("2026-02-08T09:15:02Z|{ID}|%zz"),
            &"9".repeat(100_000),
            "\u{1b}[31m",
        ] {
            let error = bad.parse::<Cursor>().unwrap_err();
            assert!(matches!(error, StoreError::Invalid(_)));
            let text = error.to_string();
            assert!(text.contains("is not a cursor") && text.contains("TIME|ID"), "{text}");
            assert!(!text.contains('\u{1b}') && text.len() < 2000);
        }
    }

    #[test]
    fn a_time_alone_skips_its_instant_and_an_id_does_not() {
        let bound =
            |text: &str, descending| text.parse::<Cursor>().unwrap().bound(SortKey::Created, descending);
        let at = place(1_770_542_102_000, 5, b"p");
        for descending in [true, false] {
            assert!(!bound("2026-02-08T09:15:02Z", descending).is_before(&at, descending));
            // Between two milliseconds: the items of the earlier one are behind it, downwards.
            let between = bound("2026-02-08T09:15:02.0005Z", descending);
            assert_eq!(between.is_before(&at, descending), descending);
        }
        let with_id =
            |id: u128| Bound { id: Some(place(0, id, b"").id), ..bound("2026-02-08T09:15:02Z", true) };
        assert!(with_id(6).is_before(&at, true) && !with_id(5).is_before(&at, true));
        assert!(with_id(4).is_before(&at, false) && !with_id(5).is_before(&at, false));
    }

    proptest! {
        #[test]
        fn every_place_survives_its_text(key: i64, id: u128, path: Vec<u8>, created: bool, other: i64, down: bool) {
            let sort = if created { SortKey::Created } else { SortKey::Updated };
            let here = place(key, id, &path);
            let cursor = Cursor::at(&here, sort);
            let read: Cursor = cursor.to_string().parse().unwrap();
            prop_assert_eq!(&read, &cursor);
            let bound = read.bound(sort, down);
            prop_assert!(!bound.is_before(&here, down));
            let there = place(other, id, &path);
            prop_assert_eq!(bound.is_before(&there, down), if down { there < here } else { there > here });
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Cursor>();
        }
    }
}
