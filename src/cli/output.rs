//! How is a report printed? As JSON for programs, or as aligned `key: value` lines with units for people.
//!
//! Both come from the same report: the unit of a number is the end of its key (`_bytes`, `_seconds`, `_at` ...).

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanBytes, HumanCount};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use time::OffsetDateTime;
use time::macros::format_description;

use super::error::CliError;

/// Spaces before the keys of a part.
const INDENT: usize = 2;

/// Writes to standard output.
pub(crate) fn write(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Prints a report: as one JSON document with `json`, else for people.
pub(crate) fn print<T: serde::Serialize>(report: &T, json: bool) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(report).map_err(|error| CliError::failed("print", error))?;
    if json { write(format!("{text}\n").as_bytes()) } else { print_json(&text) }
}

/// Prints a JSON document for people.
pub(crate) fn print_json(text: &str) -> Result<(), CliError> {
    let tree: Tree = serde_json::from_str(text).map_err(|error| CliError::failed("print", error))?;
    write(render(&tree, now_seconds()).as_bytes())
}

/// Seconds since 1970, now.
pub(crate) fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// A JSON document with its keys in the order of the text.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}

/// The lines of a document. `now` in seconds since 1970.
fn render(tree: &Tree, now: i64) -> String {
    let mut lines = Vec::new();
    collect(tree, 0, now, &mut lines);
    let key_width = |(indent, key, _): &(usize, String, String)| indent + key.chars().count();
    let width = lines.iter().filter(|line| !line.2.is_empty()).map(key_width).max().unwrap_or(0);
    let mut text = String::new();
    for line in &lines {
        let (indent, key, value) = line;
        let pad = if key.is_empty() || value.is_empty() { 0 } else { width - key_width(line).min(width) + 1 };
        let colon = if key.is_empty() { "" } else { ":" };
        text.push_str(&format!("{:indent$}{key}{colon}{:pad$}{value}\n", "", ""));
    }
    text
}

fn collect(tree: &Tree, indent: usize, now: i64, lines: &mut Vec<(usize, String, String)>) {
    let Tree::Map(map) = tree else {
        lines.push((indent, String::new(), scalar("", tree, now)));
        return;
    };
    for (key, value) in map {
        let (name, _) = split_unit(key);
        let name = clean(name).replace('_', " ");
        match value {
            Tree::Map(parts) if !parts.is_empty() => {
                lines.push((indent, name, String::new()));
                collect(value, indent + INDENT, now, lines);
            }
            Tree::List(items) if items.iter().any(|item| matches!(item, Tree::Map(_))) => {
                lines.push((indent, name, String::new()));
                for item in items {
                    lines.push((indent + INDENT, String::new(), one_line(item, now)));
                }
            }
            _ => lines.push((indent, name, scalar(key, value, now))),
        }
    }
}

/// A part of a list: its values, joined.
fn one_line(tree: &Tree, now: i64) -> String {
    match tree {
        Tree::Map(map) => {
            map.iter().map(|(key, value)| scalar(key, value, now)).collect::<Vec<_>>().join(": ")
        }
        _ => scalar("", tree, now),
    }
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    None,
    /// A number that counts nothing.
    Identifier,
    Bytes,
    /// Time span, in this many a second.
    Span(i64),
    /// Seconds since 1970, in this many a second.
    Moment(i64),
}

/// The name without its unit, and the unit.
fn split_unit(key: &str) -> (&str, Unit) {
    if key == "pid" {
        return (key, Unit::Identifier);
    }
    let units = [
        ("_bytes", Unit::Bytes),
        ("_at_ms", Unit::Moment(1000)),
        ("_at_ns", Unit::Moment(1_000_000_000)),
        ("_seconds", Unit::Span(1)),
        ("_ms", Unit::Span(1000)),
        ("_ns", Unit::Span(1_000_000_000)),
    ];
    let found = units.into_iter().find_map(|(end, unit)| Some((key.strip_suffix(end)?, unit)));
    // `updated_at` stays a phrase.
    let moment = || key.ends_with("_at").then_some((key, Unit::Moment(1)));
    found.filter(|(name, _)| !name.is_empty()).or_else(moment).unwrap_or((key, Unit::None))
}

fn scalar(key: &str, value: &Tree, now: i64) -> String {
    let unit = split_unit(key).1;
    match value {
        Tree::Null => "-".into(),
        Tree::Bool(true) => "yes".into(),
        Tree::Bool(false) => "no".into(),
        Tree::Integer(number) => integer(*number, unit, now),
        Tree::Float(number) => match unit {
            Unit::Span(a_second) => span(number / a_second as f64),
            _ => format!("{number:.2}"),
        },
        Tree::Text(text) if text.is_empty() => "-".into(),
        Tree::Text(text) => clean(text),
        Tree::List(items) if items.is_empty() => "none".into(),
        Tree::Map(parts) if parts.is_empty() => "none".into(),
        Tree::List(items) => items.iter().map(|item| scalar(key, item, now)).collect::<Vec<_>>().join(", "),
        Tree::Map(_) => one_line(value, now),
    }
}

fn integer(number: i128, unit: Unit, now: i64) -> String {
    match (unit, u64::try_from(number)) {
        (Unit::Bytes, Ok(bytes)) => HumanBytes(bytes).to_string(),
        (Unit::Span(a_second), _) => span(number as f64 / a_second as f64),
        (Unit::Moment(a_second), _) => {
            moment(i64::try_from(number / i128::from(a_second)).unwrap_or(i64::MAX), now)
        }
        (Unit::Identifier, _) => number.to_string(),
        (Unit::None, Ok(count)) => HumanCount(count).to_string(),
        (_, Err(_)) => number.to_string(),
    }
}

/// A time span for people, from seconds.
pub(crate) fn span(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(span) if span < Duration::from_secs(1) => format!("{} ms", span.as_millis()),
        Ok(span) if span < Duration::from_secs(60) => format!("{:.1} s", span.as_secs_f64()),
        Ok(span) => {
            let minutes = span.as_secs() / 60;
            match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
                (0, 0, minutes) => format!("{minutes} min {} s", span.as_secs() % 60),
                (0, hours, minutes) => format!("{hours} h {minutes} min"),
                (days, hours, _) => format!("{days} d {hours} h"),
            }
        }
        Err(_) => format!("{seconds} s"),
    }
}

fn moment(seconds: i64, now: i64) -> String {
    if seconds == 0 {
        return "never".into();
    }
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|date| date.format(format).ok());
    let date = date.unwrap_or_else(|| seconds.to_string());
    match now.saturating_sub(seconds) {
        age if age < 0 => date,
        0 => format!("{date} (now)"),
        age => format!("{date} ({} ago)", span(age as f64)),
    }
}

/// Text as it may stand on a terminal: file names can hold escape sequences.
pub(crate) fn clean(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut cleaned, character| {
        if character.is_control() {
            cleaned.extend(character.escape_default());
        } else {
            cleaned.push(character);
        }
        cleaned
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        render(&serde_json::from_str(json).unwrap(), 1_700_000_100)
    }

    #[test]
    fn keys_keep_their_order_and_values_are_aligned() {
        let json = r#"{"home":"/h","counts":{"rollouts":1200,"disk_bytes":2048},"roots":["a","b"],"failures":[{"path":"p","error":"e"}],"none":[]}"#;
        let expected = "home:       /h\ncounts:\n  rollouts: 1,200\n  disk:     2.00 KiB\nroots:      a, b\nfailures:\n  p: e\nnone:       none\n";
        assert_eq!(shown(json), expected);
    }

    #[test]
    fn numbers_have_the_unit_of_their_key() {
        for (json, expected) in [
            (r#"{"a_ms":1500}"#, "a: 1.5 s"),
            (r#"{"a_ms":12}"#, "a: 12 ms"),
            (r#"{"a_seconds":3.25}"#, "a: 3.2 s"),
            (r#"{"a_seconds":3725}"#, "a: 1 h 2 min"),
            (r#"{"a_seconds":-1}"#, "a: -1 s"),
            (r#"{"a_seconds":200000}"#, "a: 2 d 7 h"),
            (r#"{"a_bytes":-5}"#, "a: -5"),
            (r#"{"bytes":5}"#, "bytes: 5"),
            (r#"{"seen_at":0}"#, "seen at: never"),
            (r#"{"seen_at":1700000000}"#, "seen at: 2023-11-14 22:13:20 UTC (1 min 40 s ago)"),
            (r#"{"seen_at_ms":1700000200000}"#, "seen: 2023-11-14 22:16:40 UTC"),
            (r#"{"a":true,"b":null}"#, "a: yes\nb: -"),
            (r#"{"a":"x\u001b[31m\ny"}"#, "a: x\\u{1b}[31m\\ny"),
            (r#"{"a":1.5}"#, "a: 1.50"),
            ("3", "3"),
        ] {
            assert_eq!(shown(json).trim(), expected, "{json}");
        }
    }
}
