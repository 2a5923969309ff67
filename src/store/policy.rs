//! Which items of a thread are written into its rollout, in each era of Codex? One table (spec 3.5).
//!
//! Depends on serde and on nothing of the store. Payloads stay text, so that their keys keep their order.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What is left of `aggregated_output` in [`Mode::Extended`], marker included, in bytes of text.
pub const AGGREGATED_OUTPUT_BYTES_MAX: usize = 10_000;

/// Text fields of a command's end that [`Mode::Extended`] blanks.
const BLANKED: [&str; 3] = ["stdout", "stderr", "formatted_output"];
/// The text field that it cuts.
const SHORTENED: &str = "aggregated_output";

/// Whose rules hold: an era, or within the newest one the history mode of the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// December 2025.
    Dec2025,
    /// February 2026.
    Seed,
    /// March to June 2026, the default of that time.
    Limited,
    /// March to June 2026, with what only clients want.
    Extended,
    /// The newest, for threads of `history_mode` `legacy`.
    Legacy,
    /// The newest, for threads of `history_mode` `paginated`.
    Paginated,
}

impl Mode {
    /// In the order of the table's columns.
    pub const ALL: [Mode; 6] =
        [Mode::Dec2025, Mode::Seed, Mode::Limited, Mode::Extended, Mode::Legacy, Mode::Paginated];
}

/// What becomes of an item.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Written as it is.
    Whole,
    /// Written with this payload instead.
    Cut(Box<RawValue>),
    /// Not written.
    No,
}

/// One cell of the table.
#[derive(Clone, Copy)]
enum Cell {
    /// Written.
    Yes,
    /// Not written.
    No,
    /// Written if its `item` has one of these types, in any case.
    Items(&'static [&'static str]),
    /// Written without the output of commands.
    Short,
}

use Cell::{Items, No, Short, Yes};

/// Inner types and what each mode does with them. A `*` stands for any text; a type in no row is not written.
type Row = (&'static [&'static str], [Cell; 6]);

const PLAN: &[&str] = &["Plan"];
const PLAN_SLEEP: &[&str] = &["Plan", "Sleep"];

#[rustfmt::skip]
const EVENTS: &[Row] = &[
    //                                                    Dec2025 Seed         Limited      Extended     Legacy             Paginated
    (&["user_message", "agent_message"],                  [Yes,   Yes,         Yes,         Yes,         Yes,               No]),
    (&["agent_reasoning", "agent_reasoning_raw_content"], [Yes,   Yes,         Yes,         Yes,         Yes,               No]),
    (&["token_count"],                                    [Yes,   Yes,         Yes,         Yes,         Yes,               Yes]),
    (&["context_compacted", "entered_review_mode",
       "exited_review_mode"],                             [Yes,   Yes,         Yes,         Yes,         Yes,               No]),
    (&["turn_aborted"],                                   [Yes,   Yes,         Yes,         Yes,         Yes,               Yes]),
    (&["undo_completed"],                                 [Yes,   Yes,         Yes,         Yes,         No,                No]),
    (&["thread_rolled_back"],                             [No,    Yes,         Yes,         Yes,         Yes,               Yes]),
    (&["item_completed"],                                 [No,    Items(PLAN), Items(PLAN), Items(PLAN), Items(PLAN_SLEEP), Yes]),
    (&["turn_started", "task_started",
       "turn_complete", "task_complete"],                 [No,    No,          Yes,         Yes,         Yes,               Yes]),
    (&["patch_apply_end", "mcp_tool_call_end",
       "web_search_end", "image_generation_end"],         [No,    No,          Yes,         Yes,         Yes,               No]),
    (&["thread_goal_updated"],                            [No,    No,          Yes,         Yes,         Yes,               Yes]),
    (&["thread_settings_applied"],                        [No,    No,          No,          No,          Yes,               Yes]),
    (&["sub_agent_activity"],                             [No,    No,          No,          No,          Yes,               No]),
    (&["exec_command_end"],                               [No,    No,          No,          Short,       No,                No]),
    (&["error", "guardian_assessment",
       "view_image_tool_call", "collab_*_end",
       "dynamic_tool_call_*"],                            [No,    No,          No,          Yes,         No,                No]),
];

#[rustfmt::skip]
const RESPONSES: &[Row] = &[
    //                                                    Dec2025 Seed         Limited      Extended     Legacy             Paginated
    (&["message", "reasoning", "function_call",
       "function_call_output", "custom_tool_call",
       "custom_tool_call_output", "local_shell_call",
       "web_search_call", "image_generation_call",
       "tool_search_call", "tool_search_output",
       "compaction", "compaction_summary",
       "context_compaction"],                             [Yes,   Yes,         Yes,         Yes,         Yes,               Yes]),
    (&["ghost_snapshot"],                                 [Yes,   Yes,         Yes,         Yes,         No,                No]),
    // Some builds of the newest era drop `additional_tools`; the latest writes them, and so does this table.
    (&["agent_message", "additional_tools"],              [No,    No,          No,          No,          Yes,               Yes]),
    (&["compaction_trigger"],                             [No,    No,          No,          No,          No,                No]),
];

/// The keys of a payload that decide.
#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
}

/// The `type` in an object, where there is one.
fn inner_type(object: &str) -> Option<Typed<'_>> {
    serde_json::from_str(object).ok()
}

/// The inner type of a payload; None where it has none that is text.
pub fn payload_type(payload: &RawValue) -> Option<String> {
    Some(inner_type(payload.get())?.kind.into_owned())
}

/// Whether an item is what the user wrote: what makes a session persist its thread (spec 3.1).
pub fn is_user_message(kind: &str, payload: &RawValue) -> bool {
    if kind != "event_msg" {
        return false;
    }
    let Some(typed) = inner_type(payload.get()) else { return false };
    match &*typed.kind {
        "user_message" => true,
        "item_completed" => item_is(typed.item, &["UserMessage"]),
        _ => false,
    }
}

/// What `mode` does with an item of the outer type `kind`.
///
/// Outer types apart from `response_item` and `event_msg` are always written.
pub fn keep(mode: Mode, kind: &str, payload: &RawValue) -> Kept {
    let table = match kind {
        "event_msg" => EVENTS,
        "response_item" => RESPONSES,
        _ => return Kept::Whole,
    };
    let Some(typed) = inner_type(payload.get()) else { return Kept::No };
    match cell(table, mode, &typed.kind) {
        Cell::Yes => Kept::Whole,
        Cell::No => Kept::No,
        Cell::Items(names) if item_is(typed.item, names) => Kept::Whole,
        Cell::Items(_) => Kept::No,
        Cell::Short => shorten(payload).map_or(Kept::Whole, Kept::Cut),
    }
}

fn cell(table: &'static [Row], mode: Mode, kind: &str) -> Cell {
    let row = table.iter().find(|(patterns, _)| patterns.iter().any(|pattern| matches(pattern, kind)));
    // `Mode::ALL` is in the order of declaration, which is that of the columns.
    row.map_or(Cell::No, |(_, cells)| cells[mode as usize])
}

fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            kind.len() >= start.len() + end.len() && kind.starts_with(start) && kind.ends_with(end)
        }
        None => pattern == kind,
    }
}

/// Whether an `item` has one of these types; clients spell them in two ways (spec 2.6).
fn item_is(item: Option<&RawValue>, names: &[&str]) -> bool {
    let typed = item.and_then(|item| inner_type(item.get()));
    typed.is_some_and(|typed| names.iter().any(|name| name.eq_ignore_ascii_case(&typed.kind)))
}

/// The members of an object as text, in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((Cow::Owned(key), value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visitor).map(Members)
    }
}

impl serde::Serialize for Members<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// A command's end without its output. None where it is no object that can be read: then it is left alone.
fn shorten(payload: &RawValue) -> Option<Box<RawValue>> {
    let mut members: Members<'_> = serde_json::from_str(payload.get()).ok()?;
    let blank = serde_json::value::to_raw_value("").ok()?;
    let short = members
        .0
        .iter()
        .find(|(key, _)| key == SHORTENED)
        .and_then(|(_, value)| serde_json::from_str::<String>(value.get()).ok())
        .filter(|text| text.len() > AGGREGATED_OUTPUT_BYTES_MAX)
        .map(|text| serde_json::value::to_raw_value(&cut_in_the_middle(&text, AGGREGATED_OUTPUT_BYTES_MAX)));
    let short = short.transpose().ok()?;
    for (key, value) in &mut members.0 {
        if BLANKED.contains(&&**key) {
            *value = &blank;
        } else if key == SHORTENED
            && let Some(short) = &short
        {
            *value = short;
        }
    }
    serde_json::value::to_raw_value(&members).ok()
}

/// The beginning and the end of a text that is longer than `bytes_max`, whole characters, with a marker
/// between them that says how many characters are missing. No longer than `bytes_max`.
fn cut_in_the_middle(text: &str, bytes_max: usize) -> String {
    let marker = |missing: usize| format!("\u{2026}{missing} chars truncated\u{2026}");
    // The marker of all characters is the longest there can be.
    let room = bytes_max.saturating_sub(marker(text.chars().count()).len());
    let mut head = room / 2;
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = text.len() - (room - room / 2);
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    let missing = text[head..tail].chars().count();
    format!("{}{}{}", &text[..head], marker(missing), &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn marks(kind: &str, payload: &Value) -> String {
        let payload = raw(payload);
        let mark = |mode| match keep(mode, kind, &payload) {
            Kept::Whole => '+',
            Kept::Cut(_) => 'c',
            Kept::No => '-',
        };
        Mode::ALL.into_iter().map(mark).collect()
    }

    #[test]
    fn columns_are_in_the_order_of_the_modes() {
        for (number, mode) in Mode::ALL.into_iter().enumerate() {
            assert_eq!(mode as usize, number);
        }
    }

    /// Spec 3.5, row by row: + kept, - not, c cut; December 2025, seed, limited, extended, legacy, paginated.
    #[test]
    fn events_are_kept_as_the_specification_says() {
        let rows: [(&str, &[&str]); 17] = [
            ("+++++-", &["user_message", "agent_message"]),
            ("+++++-", &["agent_reasoning", "agent_reasoning_raw_content"]),
            ("++++++", &["token_count", "turn_aborted"]),
            ("+++++-", &["context_compacted", "entered_review_mode", "exited_review_mode"]),
            ("++++--", &["undo_completed"]),
            ("-+++++", &["thread_rolled_back"]),
            ("--++++", &["turn_started", "turn_complete", "task_started", "task_complete"]),
            ("--+++-", &["patch_apply_end", "mcp_tool_call_end", "web_search_end", "image_generation_end"]),
            ("--++++", &["thread_goal_updated"]),
            ("----++", &["thread_settings_applied"]),
            ("----+-", &["sub_agent_activity"]),
            ("---+--", &["error", "guardian_assessment", "view_image_tool_call"]),
            ("---c--", &["exec_command_end"]),
            ("---+--", &["collab_agent_spawn_end", "collab_close_end"]),
            ("---+--", &["dynamic_tool_call_request", "dynamic_tool_call_response"]),
            ("------", &["agent_message_delta", "warning", "exec_approval_request", "background_event"]),
            (
                "------",
                &["collab_agent_spawn_begin", "collab__en", "thread_name_updated", "exec_command_begin", ""],
            ),
        ];
        for (expected, kinds) in rows {
            for kind in kinds {
                assert_eq!(marks("event_msg", &json!({"type": kind})), expected, "{kind}");
            }
        }
        for (expected, item) in [
            ("-+++++", "Plan"),
            ("-+++++", "plan"),
            ("----++", "Sleep"),
            ("-----+", "UserMessage"),
            ("-----+", ""),
        ] {
            let payload = json!({"type": "item_completed", "item": {"type": item}});
            assert_eq!(marks("event_msg", &payload), expected, "{item}");
        }
        assert_eq!(marks("event_msg", &json!({"type": "item_completed"})), "-----+");
    }

    #[test]
    fn responses_are_kept_as_the_specification_says() {
        let rows: [(&str, &[&str]); 4] = [
            ("++++++", &["message", "reasoning", "function_call_output", "compaction", "tool_search_output"]),
            ("++++--", &["ghost_snapshot"]),
            ("----++", &["agent_message", "additional_tools"]),
            ("------", &["compaction_trigger", "other", "brand_new"]),
        ];
        for (expected, kinds) in rows {
            for kind in kinds {
                assert_eq!(marks("response_item", &json!({"type": kind})), expected, "{kind}");
            }
        }
    }

    #[test]
    fn other_outer_types_are_always_kept_and_untyped_payloads_never() {
        for kind in ["session_meta", "turn_context", "compacted", "world_state", "token_usage_record"] {
            assert_eq!(marks(kind, &json!({})), "++++++", "{kind}");
        }
        for payload in [json!({}), json!({"type": 7}), json!([]), json!("x")] {
            assert_eq!(marks("event_msg", &payload), "------", "{payload}");
            assert_eq!(marks("response_item", &payload), "------", "{payload}");
        }
    }

    #[test]
    fn what_the_user_wrote_is_known() {
        let is = |kind: &str, payload: Value| is_user_message(kind, &raw(&payload));
        assert!(is("event_msg", json!({"type": "user_message", "message": "x"})));
        assert!(is("event_msg", json!({"type": "item_completed", "item": {"type": "userMessage"}})));
        assert!(!is("event_msg", json!({"type": "item_completed", "item": {"type": "AgentMessage"}})));
        assert!(!is("response_item", json!({"type": "user_message"})));
        assert!(!is("event_msg", json!({"message": "x"})));
    }

    #[test]
    fn outputs_of_commands_are_blanked_and_cut() {
        let text = r#"{"type":"exec_command_end","stdout":"so","z":1,"stderr":"se","aggregated_output":"AGG","formatted_output":"f","a":[2]}"#;
        for (output, shortened) in [
            ("x".repeat(AGGREGATED_OUTPUT_BYTES_MAX), false),
            ("x".repeat(AGGREGATED_OUTPUT_BYTES_MAX + 1), true),
            ("\u{4fee}".repeat(100_000), true),
            (String::new(), false),
        ] {
            let payload = RawValue::from_string(text.replace("AGG", &output)).unwrap();
            let Kept::Cut(cut) = keep(Mode::Extended, "event_msg", &payload) else { panic!("not cut") };
            let value: Value = serde_json::from_str(cut.get()).unwrap();
            let left = value["aggregated_output"].as_str().unwrap();
            assert!(left.len() <= AGGREGATED_OUTPUT_BYTES_MAX, "{}", left.len());
            assert_eq!(left.contains("chars truncated"), shortened);
            assert_eq!(left == output, !shortened);
            let expected = format!(
                r#"{{"type":"exec_command_end","stdout":"","z":1,"stderr":"","aggregated_output":{},"formatted_output":"","a":[2]}}"#,
                value["aggregated_output"]
            );
            assert_eq!(cut.get(), expected, "keys keep their order");
        }
        let cut = cut_in_the_middle(&("a".repeat(60) + &"b".repeat(60)), 60);
        assert_eq!(cut, format!("{}\u{2026}85 chars truncated\u{2026}{}", "a".repeat(17), "b".repeat(18)));
    }
}
