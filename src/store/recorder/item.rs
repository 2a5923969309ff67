//! What is one item of a thread, before it is a line? Checked once here, so that a recorder writes valid lines only.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::super::metadata::parse_timestamp_ms;
use super::super::policy;
use super::super::rollout::is_known_kind;

/// Why something is no item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// No JSON object with `type` and `payload`.
    #[error("not an item: {0}")]
    Malformed(String),
    /// No Codex reads lines of this type.
    #[error("unknown type {0:?}")]
    UnknownType(String),
    /// The payload is no object.
    #[error("the payload of {0} must be an object")]
    Payload(String),
    /// The payload has no type of its own.
    #[error("the payload of {0} must have a \"type\"")]
    Untyped(String),
    /// The line's time cannot be read.
    #[error("the timestamp {0:?} is no time such as 2026-02-08T09:15:02.417Z")]
    Timestamp(String),
}

/// An item: what a line says, without when and where it is written.
#[derive(Clone, Debug)]
pub struct Item {
    kind: Box<str>,
    payload: Box<RawValue>,
    metadata: Option<Box<RawValue>>,
    given_at_ms: Option<i64>,
}

#[derive(Deserialize)]
struct Given<'a> {
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

impl Item {
    /// An item of the outer type `kind` (spec 2.2).
    ///
    /// # Errors
    /// [`ItemError`], also when the payload cannot be JSON.
    pub fn new(kind: &str, payload: &impl Serialize) -> Result<Item, ItemError> {
        let payload = to_raw_value(payload).map_err(|error| ItemError::Malformed(error.to_string()))?;
        Item::checked(kind, &payload)
    }

    /// Reads an item: `{"type":…,"payload":…}`, or a whole rollout line. The line's number is dropped, its time
    /// is [`Item::given_at_ms`], and `metadata` beside the payload stays.
    ///
    /// # Errors
    /// [`ItemError`].
    pub fn parse(line: &[u8]) -> Result<Item, ItemError> {
        let malformed = |error: &dyn ToString| ItemError::Malformed(error.to_string());
        let text = std::str::from_utf8(line).map_err(|error| malformed(&error))?;
        // It is one line, so its number among those of the text says nothing.
        let misread = |error: serde_json::Error| error.to_string().replace(" at line 1 column", " at column");
        let given: Given<'_> = serde_json::from_str(text).map_err(|error| malformed(&misread(error)))?;
        let mut item = Item::checked(&given.kind, given.payload)?;
        item.metadata = given.metadata.map(on_one_line);
        item.given_at_ms = match given.timestamp {
            None => None,
            Some(text) => {
                Some(parse_timestamp_ms(&text).ok_or_else(|| ItemError::Timestamp(text.into_owned()))?)
            }
        };
        Ok(item)
    }

    fn checked(kind: &str, payload: &RawValue) -> Result<Item, ItemError> {
        if !is_known_kind(kind) {
            return Err(ItemError::UnknownType(kind.to_owned()));
        }
        if !payload.get().starts_with('{') {
            return Err(ItemError::Payload(kind.to_owned()));
        }
        let typed = !matches!(kind, "event_msg" | "response_item") || policy::payload_type(payload).is_some();
        if !typed {
            return Err(ItemError::Untyped(kind.to_owned()));
        }
        Ok(Item { kind: kind.into(), payload: on_one_line(payload), metadata: None, given_at_ms: None })
    }

    /// The outer type.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The payload.
    pub fn payload(&self) -> &RawValue {
        &self.payload
    }

    /// The time that the item was read with, in milliseconds since 1970.
    pub fn given_at_ms(&self) -> Option<i64> {
        self.given_at_ms
    }

    /// Bytes of its text, about what its line will take.
    pub fn size_bytes(&self) -> usize {
        self.payload.get().len() + self.metadata.as_ref().map_or(0, |metadata| metadata.get().len())
    }

    /// What is left of it by the rules of `mode`.
    pub(super) fn kept(mut self, mode: policy::Mode) -> Option<Item> {
        match policy::keep(mode, &self.kind, &self.payload) {
            policy::Kept::Whole => {}
            policy::Kept::Cut(payload) => self.payload = payload,
            policy::Kept::No => return None,
        }
        Some(self)
    }

    pub(super) fn is_user_message(&self) -> bool {
        policy::is_user_message(&self.kind, &self.payload)
    }

    /// Its line, written into `line`, with the newline. Keys in the order of spec 2.1.
    pub(super) fn write_line(&self, stamp: &[u8], ordinal: Option<u64>, line: &mut Vec<u8>) {
        line.clear();
        line.extend_from_slice(b"{\"timestamp\":\"");
        line.extend_from_slice(stamp);
        line.push(b'"');
        if let Some(ordinal) = ordinal {
            line.extend_from_slice(format!(",\"ordinal\":{ordinal}").as_bytes());
        }
        // A known type has nothing to escape.
        line.extend_from_slice(b",\"type\":\"");
        line.extend_from_slice(self.kind.as_bytes());
        line.extend_from_slice(b"\",\"payload\":");
        line.extend_from_slice(self.payload.get().as_bytes());
        if let Some(metadata) = &self.metadata {
            line.extend_from_slice(b",\"metadata\":");
            line.extend_from_slice(metadata.get().as_bytes());
        }
        line.extend_from_slice(b"}\n");
    }
}

/// JSON without line ends. Within strings they are always escaped, so the others are only white space.
fn on_one_line(json: &RawValue) -> Box<RawValue> {
    let text = json.get();
    if !text.contains(['\n', '\r']) {
        return json.to_owned();
    }
    // Still JSON; a copy of the text is the answer to what cannot happen.
    RawValue::from_string(text.replace(['\n', '\r'], " ")).unwrap_or_else(|_| json.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(item: &Item, ordinal: Option<u64>) -> String {
        let mut line = Vec::new();
        item.write_line(b"T", ordinal, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn items_are_read_and_become_lines() {
        let cases = [
            (
                r#"{"type":"event_msg","payload":{"type":"user_message","z":1,"a":"x\ny"}}"#,
                r#"{"timestamp":"T","type":"event_msg","payload":{"type":"user_message","z":1,"a":"x\ny"}}"#,
            ),
            (
                "{\"metadata\":{\"b\":\r1},\"payload\":{\"type\":\"message\"},\"ordinal\":9,\"type\":\"response_item\"}",
                r#"{"timestamp":"T","type":"response_item","payload":{"type":"message"},"metadata":{"b": 1}}"#,
            ),
            (
                r#"{"timestamp":"2026-02-08T09:15:02.417Z","type":"turn\u005fcontext","payload":{},"new":1}"#,
                r#"{"timestamp":"T","type":"turn_context","payload":{}}"#,
            ),
        ];
        for (given, expected) in cases {
            let item = Item::parse(given.as_bytes()).unwrap();
            assert_eq!(line(&item, None), format!("{expected}\n"));
        }
        let item = Item::parse(cases[2].0.as_bytes()).unwrap();
        assert_eq!(item.given_at_ms(), Some(1_770_542_102_417));
        assert!(line(&item, Some(7)).starts_with(r#"{"timestamp":"T","ordinal":7,"type":"turn_context""#));
        let pretty = RawValue::from_string("{\n  \"type\": \"x\"\n}".to_owned()).unwrap();
        assert_eq!(line(&Item::new("event_msg", &pretty).unwrap(), None).matches('\n').count(), 1);
    }

    #[test]
    fn what_is_no_item_is_refused_with_a_reason() {
        for (given, reason) in [
            ("", "EOF"),
            ("not json", "expected"),
            ("[1]", "not an item"),
            (r#"{"payload":{}}"#, "missing field `type`"),
            (r#"{"type":"event_msg"}"#, "missing field `payload`"),
            (r#"{"type":"of_the_future","payload":{}}"#, "unknown type \"of_the_future\""),
            (r#"{"type":"event_msg","payload":null}"#, "must be an object"),
            (r#"{"type":"event_msg","payload":{"message":"x"}}"#, "must have a \"type\""),
            (r#"{"timestamp":"soon","type":"compacted","payload":{}}"#, "\"soon\" is no time"),
            (r#"{"type":"compacted","payload":{}}{"type":"compacted","payload":{}}"#, "trailing"),
        ] {
            let error = Item::parse(given.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{given}: {error}");
        }
        assert!(Item::parse(b"{\"type\":\"compacted\",\"payload\":{\"a\":\"\xff\"}}").is_err());
    }
}
