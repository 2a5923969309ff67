//! When does a pending thread get its place? At its first line that a user wrote, and at what stands for one.
//!
//! - a `user_message` event, or an `item_completed` one of a user's message (spec 3.1, 2.9);
//! - of a sub-agent, whose messages are not a user's: its first `response_item`;
//! - a `session_meta` with `history_base`: its history lies in another file, and is there at once;
//! - of the bare era (spec 2.10), which has no events: the first bare `message` with the role `user`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::rollout::{LineSplitter, Record, read_line};

/// How far the lines of a pending thread were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trigger {
    /// Bytes up to the end of the last complete line.
    complete_bytes: u64,
    sub_agent: bool,
}

/// What follows for the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It stays pending.
    Wait,
    /// It gets its place now.
    Materialise,
}

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    source: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow)]
    history_base: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    item: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct BareMessage<'a> {
    #[serde(borrow)]
    role: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

impl Trigger {
    /// Looks at the complete lines that came since.
    pub fn look(mut self, file: &Path) -> io::Result<(Flow, Trigger)> {
        let mut file = File::open(file)?;
        if file.metadata()?.len() < self.complete_bytes {
            self = Trigger::default();
        }
        file.seek(SeekFrom::Start(self.complete_bytes))?;
        let mut lines = LineSplitter::starting_at(self.complete_bytes);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut flow = Flow::Wait;
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            lines.feed(&chunk[..count], |line| {
                read_line(line.bytes, |record| {
                    if self.is_trigger(&record) {
                        flow = Flow::Materialise;
                    }
                });
            });
        }
        self.complete_bytes = lines.complete_bytes();
        Ok((flow, self))
    }

    fn is_trigger(&mut self, record: &Record<'_>) -> bool {
        let envelope = match record {
            Record::Enveloped(envelope) => envelope,
            Record::BareItem { kind, object } if kind == "message" => {
                return serde_json::from_str::<BareMessage<'_>>(object)
                    .is_ok_and(|message| message.role == "user");
            }
            _ => return false,
        };
        let payload = envelope.payload.get();
        match &*envelope.kind {
            "session_meta" => {
                let Ok(meta) = serde_json::from_str::<Meta<'_>>(payload) else { return false };
                self.sub_agent |= meta.source.is_some_and(|source| {
                    source.get().trim_start().starts_with('{') && source.get().contains("\"subagent\"")
                });
                meta.history_base.is_some_and(|base| base.get() != "null")
            }
            "response_item" => self.sub_agent,
            "event_msg" => match serde_json::from_str::<Event<'_>>(payload) {
                Ok(event) if event.kind == "user_message" => true,
                Ok(Event { kind, item: Some(item) }) if kind == "item_completed" => {
                    serde_json::from_str::<Item<'_>>(item.get()).is_ok_and(|item| {
                        item.kind.eq_ignore_ascii_case("UserMessage")
                            || item.kind.eq_ignore_ascii_case("user_message")
                    })
                }
                _ => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, payload: &str) -> String {
        format!("{{\"timestamp\":\"2026-02-08T09:15:02.417Z\",\"type\":\"{kind}\",\"payload\":{payload}}}\n")
    }

    #[test]
    fn what_materialises_and_what_does_not() {
        let meta = |extra: &str| {
            line("session_meta", &format!("{{\"id\":\"0198c0de-0000-7000-8000-000000000001\"{extra}}}"))
        };
        let item = line("response_item", r#"{"type":"message","role":"user","content":[]}"#);
        let bare = |role: &str| {
            let header =
                r#"{"id":"0198c0de-0000-7000-8000-000000000001","timestamp":"2025-08-01T10:00:00.000Z"}"#;
            format!(
                "{header}\n{{\"record_type\":\"state\"}}\n{{\"type\":\"message\",\"role\":\"{role}\",\"content\":[]}}\n"
            )
        };
        let user = line("event_msg", r#"{"type":"user_message","message":"hi"}"#);
        let table = [
            (meta("") + &item, Flow::Wait),
            (meta("") + &user, Flow::Materialise),
            ((meta("") + &user).trim_end().to_owned(), Flow::Wait),
            (
                meta("") + &line("event_msg", r#"{"type":"item_completed","item":{"type":"UserMessage"}}"#),
                Flow::Materialise,
            ),
            (
                meta("") + &line("event_msg", r#"{"type":"item_completed","item":{"type":"Plan"}}"#),
                Flow::Wait,
            ),
            (meta(r#","source":{"subagent":"review"}"#), Flow::Wait),
            (meta(r#","source":{"subagent":"review"}"#) + &item, Flow::Materialise),
            (meta(r#","history_base":{"thread_id":"x"}"#), Flow::Materialise),
            (meta(r#","history_base":null"#), Flow::Wait),
            ("not json\n".to_owned(), Flow::Wait),
            (bare("assistant"), Flow::Wait),
            (bare("assistant") + &bare("user"), Flow::Materialise),
            (bare("user").trim_end().to_owned(), Flow::Wait),
            ("{\"type\":\"reasoning\",\"role\":\"user\"}\n".to_owned(), Flow::Wait),
        ];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for (text, expected) in table {
            std::fs::write(&file, &text).unwrap();
            assert_eq!(Trigger::default().look(&file).unwrap().0, expected, "{text}");
            // In pieces, as writes bring it.
            let mut seen = Trigger::default();
            let mut flow = Flow::Wait;
            for end in 1..=text.len() {
                std::fs::write(&file, &text.as_bytes()[..end]).unwrap();
                let (next, state) = seen.look(&file).unwrap();
                seen = state;
                flow = if next == Flow::Materialise { next } else { flow };
            }
            assert_eq!(flow, expected, "{text} in pieces");
        }
    }
}
