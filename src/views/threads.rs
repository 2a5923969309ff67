//! What does `threads.jsonl` say of a thread? One JSON object a rollout file, a pure function of its row.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::store::content::Encoding;
use crate::store::row::{ReadState, Row, RowKind};

use super::health;

/// Characters of a title or preview that a line holds at most.
const TEXT_CHARS_MAX: usize = 500;

#[derive(Serialize)]
struct Line<'a> {
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout_id: Option<String>,
    name: Option<&'a str>,
    title: String,
    preview: String,
    path: String,
    archived: bool,
    current: bool,
    created_at: Option<String>,
    updated_at: Option<String>,
    cwd: &'a str,
    last_cwd: Option<&'a str>,
    source: &'a str,
    provider: &'a str,
    model: Option<&'a str>,
    effort: Option<&'a str>,
    cli_version: &'a str,
    originator: Option<&'a str>,
    git_branch: Option<&'a str>,
    git_commit: Option<&'a str>,
    git_repo: Option<String>,
    tokens: i64,
    bytes: Option<u64>,
    compressed: bool,
    lines: u64,
    parse_errors: u64,
    parent: Option<String>,
    forked_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_base: Option<String>,
    read: bool,
    health: Vec<&'static str>,
}

/// The line of a rollout, with its newline. Keys keep their order.
pub(super) fn line(row: &Row) -> Option<Vec<u8>> {
    let (file, meta) = (&row.file, &row.meta);
    if file.kind != RowKind::Rollout {
        return None;
    }
    let line = Line {
        id: file.thread_id.map(|id| id.to_string()),
        rollout_id: file.rollout_id.map(|id| id.to_string()),
        name: file.name.as_deref(),
        title: cut(&meta.title),
        preview: cut(&meta.preview),
        path: String::from_utf8_lossy(&file.path).into_owned(),
        archived: file.archived,
        current: file.current,
        created_at: rfc3339_ms(meta.created_at_ms),
        updated_at: rfc3339_ms(file.disk.mtime_ns.div_euclid(1_000_000)),
        cwd: &meta.cwd,
        last_cwd: meta.last_cwd.as_deref(),
        source: &meta.source,
        provider: &meta.model_provider,
        model: meta.model.as_deref(),
        effort: meta.reasoning_effort.as_deref(),
        cli_version: &meta.cli_version,
        originator: meta.originator.as_deref(),
        git_branch: meta.git_branch.as_deref(),
        git_commit: meta.git_sha.as_deref(),
        // Host and path alone: an address may hold a password.
        git_repo: meta
            .git_origin_url
            .as_deref()
            .and_then(super::place::repo_components)
            .map(|parts| parts.join("/")),
        tokens: meta.tokens_used,
        bytes: file.content_bytes(),
        compressed: file.encoding == Encoding::Zstd,
        lines: row.lines,
        parse_errors: file.parse_errors,
        parent: meta.parent_thread_id.map(|id| id.to_string()),
        forked_from: meta.forked_from_id.map(|id| id.to_string()),
        history_base: meta.history_base_id.map(|id| id.to_string()),
        read: file.state == ReadState::Read,
        health: health::kinds(row),
    };
    // Our own plain struct of texts and numbers: it always serialises.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    Some(text)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

/// RFC 3339 in UTC with milliseconds; None for a time that no calendar has.
pub fn rfc3339_ms(milliseconds: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()?;
    time.format(&Rfc3339).ok()
}

/// The JSON of a named thread without a rollout, for `health/missing`.
pub fn missing(row: &Row) -> Vec<u8> {
    let text = serde_json::json!({
        "id": row.file.thread_id.map(|id| id.to_string()),
        "name": row.file.name,
        "problem": "session_index.jsonl names this thread, but there is no rollout of it in sessions or archived_sessions",
    });
    format!("{text}\n").into_bytes()
}
