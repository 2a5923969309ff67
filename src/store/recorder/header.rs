//! What does the first line of a new rollout say? Spec 2.3, keys in the order of Codex.

use serde::Serialize;
use serde_json::Value;

use super::super::git::{self, GitInfo};
use super::super::rollout::ThreadId;
use super::clock::stamp;
use super::item::{Item, ItemError};
use super::{HistoryMode, NewThread};

#[derive(Serialize)]
struct Instructions<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct SessionMeta<'a> {
    id: ThreadId,
    #[serde(skip_serializing_if = "Option::is_none")]
    forked_from_id: Option<ThreadId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_thread_id: Option<ThreadId>,
    timestamp: &'a str,
    cwd: &'a str,
    originator: &'a str,
    cli_version: &'a str,
    source: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_instructions: Option<Instructions<'a>>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    dynamic_tools: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    git: Option<GitInfo>,
}

/// The header of a thread that began at `created_at_ms`. Git is asked now.
pub(super) fn session_meta(thread: &NewThread, id: ThreadId, created_at_ms: i64) -> Result<Item, ItemError> {
    let created = stamp(created_at_ms);
    let meta = SessionMeta {
        id,
        forked_from_id: thread.forked_from,
        parent_thread_id: thread.parent,
        timestamp: &String::from_utf8_lossy(&created),
        cwd: &thread.cwd.to_string_lossy(),
        originator: &thread.originator,
        cli_version: &thread.cli_version,
        source: &thread.source,
        model_provider: thread.model_provider.as_deref(),
        base_instructions: thread.base_instructions.as_deref().map(|text| Instructions { text }),
        dynamic_tools: &thread.dynamic_tools,
        memory_mode: thread.memory_mode.as_deref(),
        history_mode: (thread.history_mode == HistoryMode::Paginated).then_some("paginated"),
        git: git::info_of(&thread.cwd),
    };
    Item::new("session_meta", &meta)
}
