//! Which fields of a payload do the metadata rules read, and in what form?
//!
//! Everything is borrowed from the line, unknown fields are skipped, and images are looked at, not copied.
//! Depends on serde and `rollout::json_text`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::store::rollout::{ThreadId, json_text};

/// A string that is borrowed where it has no escapes and never fails for half a surrogate pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        json_text(raw.get()).map(Text).ok_or_else(|| de::Error::custom("not a string"))
    }
}

impl Text<'_> {
    /// The id that the text is, if it is one.
    pub(super) fn id(&self) -> Option<ThreadId> {
        self.0.parse().ok()
    }
}

/// The text as an owned value; `None` stays.
pub(super) fn owned(text: &Option<Text<'_>>) -> Option<String> {
    text.as_ref().map(|text| text.0.to_string())
}

/// The text if there is one and it is not empty.
pub(super) fn non_empty<'t>(text: &'t Option<Text<'_>>) -> Option<&'t str> {
    text.as_ref().map(|text| &*text.0).filter(|text| !text.is_empty())
}

/// Whether a value holds anything: an array or object with elements, a string with text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Holds(pub(super) bool);

impl<'de> Deserialize<'de> for Holds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Holds, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Holds;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Holds, A::Error> {
                let mut holds = false;
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    holds = true;
                }
                Ok(Holds(holds))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Holds, A::Error> {
                let mut holds = false;
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    holds = true;
                }
                Ok(Holds(holds))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Holds, E> {
                Ok(Holds(!text.is_empty()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Holds, E> {
                Ok(Holds(false))
            }
        }
        deserializer.deserialize_any(Anything)
    }
}

/// `session_meta` (spec 2.3).
#[derive(Deserialize)]
pub(super) struct SessionMeta<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) cwd: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) originator: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) cli_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) source: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) model_provider: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) memory_mode: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) agent_nickname: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) agent_role: Option<Text<'a>>,
    /// The older name of the role.
    #[serde(borrow)]
    pub(super) agent_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) agent_path: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thread_source: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) history_mode: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) history_base: Option<HistoryBase<'a>>,
    #[serde(borrow)]
    pub(super) parent_thread_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) forked_from_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) session_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) git: Option<Git<'a>>,
}

/// Where the history before a file lies. The field's name is Codex's: it holds a rollout id.
#[derive(Deserialize)]
pub(super) struct HistoryBase<'a> {
    #[serde(borrow)]
    pub(super) thread_id: Option<Text<'a>>,
}

/// The repository at the start.
#[derive(Deserialize)]
pub(super) struct Git<'a> {
    #[serde(borrow)]
    pub(super) commit_hash: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) branch: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) repository_url: Option<Text<'a>>,
}

/// `source` of a sub-agent; other objects leave it empty.
#[derive(Deserialize)]
struct SourceObject<'a> {
    #[serde(borrow)]
    subagent: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct SubAgent<'a> {
    #[serde(borrow)]
    thread_spawn: Option<ThreadSpawn<'a>>,
}

/// What a spawned thread's `source` says of it.
#[derive(Default, Deserialize)]
pub(super) struct ThreadSpawn<'a> {
    #[serde(borrow)]
    pub(super) parent_thread_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) agent_nickname: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) agent_role: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) agent_path: Option<Text<'a>>,
}

impl<'a> ThreadSpawn<'a> {
    /// The `thread_spawn` in a `source`; empty where there is none.
    pub(super) fn of(source: Option<&'a RawValue>) -> ThreadSpawn<'a> {
        let find = || -> Option<ThreadSpawn<'a>> {
            let source = object::<SourceObject<'a>>(source?.get())?;
            object::<SubAgent<'a>>(source.subagent?.get())?.thread_spawn
        };
        find().unwrap_or_default()
    }
}

/// The header of the bare era (spec 2.10).
#[derive(Deserialize)]
pub(super) struct BareHeader<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) timestamp: Text<'a>,
    #[serde(borrow)]
    pub(super) git: Option<Git<'a>>,
}

/// A bare `message`.
#[derive(Deserialize)]
pub(super) struct BareMessage<'a> {
    #[serde(borrow)]
    pub(super) role: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) content: Vec<Part<'a>>,
}

/// A part of a message or of a user's input.
#[derive(Deserialize)]
pub(super) struct Part<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
}

/// `turn_context` (spec 2.4).
#[derive(Deserialize)]
pub(super) struct TurnContext<'a> {
    #[serde(borrow)]
    pub(super) cwd: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) approval_policy: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) sandbox_policy: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) permission_profile: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) effort: Option<Text<'a>>,
}

/// The tag of an event or item.
#[derive(Deserialize)]
pub(super) struct Tagged<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
}

/// `event_msg/user_message`.
#[derive(Deserialize)]
pub(super) struct UserMessage<'a> {
    #[serde(borrow)]
    pub(super) message: Text<'a>,
    #[serde(default)]
    pub(super) images: Holds,
    #[serde(default)]
    pub(super) local_images: Holds,
    #[serde(default)]
    pub(super) audio: Holds,
    #[serde(default)]
    pub(super) local_audio: Holds,
}

/// `event_msg/token_count`.
#[derive(Deserialize)]
pub(super) struct TokenCount {
    pub(super) info: Option<TokenInfo>,
}

/// The counts, absent in updates of rate limits only.
#[derive(Deserialize)]
pub(super) struct TokenInfo {
    pub(super) total_token_usage: TokenUsage,
}

/// Tokens of the thread so far.
#[derive(Deserialize)]
pub(super) struct TokenUsage {
    pub(super) total_tokens: i64,
}

/// `event_msg/thread_goal_updated`.
#[derive(Deserialize)]
pub(super) struct GoalUpdated<'a> {
    #[serde(borrow)]
    pub(super) goal: Option<Goal<'a>>,
}

/// What the thread is to reach.
#[derive(Deserialize)]
pub(super) struct Goal<'a> {
    #[serde(borrow)]
    pub(super) objective: Option<Text<'a>>,
}

/// `event_msg/thread_settings_applied`.
#[derive(Deserialize)]
pub(super) struct SettingsApplied<'a> {
    #[serde(borrow)]
    pub(super) thread_settings: Settings<'a>,
}

/// The settings from now on.
#[derive(Deserialize)]
pub(super) struct Settings<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) model_provider_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) reasoning_effort: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) cwd: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) permission_profile: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) sandbox_policy: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) approval_policy: Option<&'a RawValue>,
}

/// `event_msg/thread_name_updated`. A missing name takes the name away.
#[derive(Deserialize)]
pub(super) struct NameUpdated<'a> {
    #[serde(borrow)]
    pub(super) thread_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thread_name: Option<Text<'a>>,
}

/// `event_msg/item_completed`.
#[derive(Deserialize)]
pub(super) struct ItemCompleted<'a> {
    #[serde(borrow)]
    pub(super) item: &'a RawValue,
}

/// The content of a completed user message.
#[derive(Deserialize)]
pub(super) struct Content<'a> {
    #[serde(borrow, default)]
    pub(super) content: Vec<Part<'a>>,
}

/// Reads `json` if it is an object of this form.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    // A derived struct would read an array as its fields in order.
    if json.starts_with('{') { serde_json::from_str(json).ok() } else { None }
}

/// The `type` of a payload. Cheap where it comes first, as Codex writes it.
pub(super) fn kind_of(json: &str) -> Option<Cow<'_, str>> {
    if let Some(rest) = json.strip_prefix("{\"type\":\"")
        && let Some(end) = memchr::memchr2(b'"', b'\\', rest.as_bytes())
        && rest.as_bytes()[end] == b'"'
    {
        return Some(Cow::Borrowed(&rest[..end]));
    }
    object::<Tagged<'_>>(json).map(|tagged| tagged.kind.0)
}

/// A value in the form of Codex's database: a string is itself, anything else its JSON text without spaces.
pub(super) fn database_text(raw: &RawValue) -> String {
    let json = raw.get();
    if let Some(text) = json_text(json) {
        return text.into_owned();
    }
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|char| {
            let keep = in_string || !char.is_ascii_whitespace();
            if !escaped && *char == '"' {
                in_string = !in_string;
            }
            escaped = !escaped && in_string && *char == '\\';
            keep
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_hold_or_do_not() {
        for (json, holds) in [
            ("[]", false),
            ("[1]", true),
            ("null", false),
            ("\"\"", false),
            ("\"x\"", true),
            ("{}", false),
            ("{\"a\":1}", true),
        ] {
            assert_eq!(serde_json::from_str::<Holds>(json).unwrap().0, holds, "{json}");
        }
        assert!(serde_json::from_str::<Holds>("7").is_err());
    }

    #[test]
    fn kinds_come_first_or_later() {
        for (json, kind) in [
            (r#"{"type":"a","x":1}"#, Some("a")),
            (r#"{"x":{"type":"b"}, "type" : "a"}"#, Some("a")),
            (r#"{"type":"\u0061"}"#, Some("a")),
            (r#"{"x":1}"#, None),
            (r#"{"type":1}"#, None),
            (r#"["a"]"#, None),
        ] {
            assert_eq!(kind_of(json).as_deref(), kind, "{json}");
        }
    }

    #[test]
    fn database_form_of_values() {
        for (json, expected) in [
            (r#""on-request""#, "on-request"),
            (r#"{"type":"read-only"}"#, r#"{"type":"read-only"}"#),
            (
                r#"{ "a b" : [ 1, "x \" y" ], "c": "\\" , "d":" "}"#,
                r#"{"a b":[1,"x \" y"],"c":"\\","d":" "}"#,
            ),
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(database_text(raw), expected);
        }
    }
}
