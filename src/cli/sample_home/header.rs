//! What does a sample rollout's first line say? The bare header, or `session_meta` as each era wrote it.
//! Pure.

use super::Size;
use super::clock;
use super::json::Object;
use super::lines::Lines;
use super::plan::{Era, Kind, Layout, Plan, Role};
use super::prng::{Prng, Purpose};
use super::text;

/// A place in another rollout where a thread's own history begins.
#[derive(Clone, Debug, Default)]
pub(super) struct HistoryBase {
    /// The rollout, by its id.
    pub(super) rollout_id: String,
    /// Lines before it, by ordinal.
    pub(super) end_ordinal_exclusive: u64,
    /// Bytes before it, decoded.
    pub(super) end_byte_offset: u64,
}

/// The model of a thread's turns.
pub(super) fn model(plan: &Plan, prng: &mut Prng) -> &'static str {
    match plan.era {
        Era::Bare => "o4-mini",
        Era::Enveloped => prng.pick(&["gpt-5-codex", "gpt-5", "gpt-5.1-codex-max"]),
        Era::Current => {
            prng.pick(&["gpt-5.3-codex", "gpt-5.4", "gpt-5.5", "qwen3:32b", "acme/large-1 (beta)"])
        }
    }
}

fn cli_version(plan: &Plan) -> String {
    let day = plan.day();
    if day % 61 == 0 {
        return "0.0.0".to_owned();
    }
    let minor = match plan.era {
        Era::Bare => 1 + (day - clock::FIRST_DAY) / 11,
        Era::Enveloped => 30 + (day - clock::ENVELOPE_DAY) * 65 / 153,
        Era::Current => 96 + (day - clock::CURRENT_DAY) / 4,
    };
    format!("0.{minor}.{}", day % 3)
}

fn originator(plan: &Plan) -> &'static str {
    match plan.source {
        Some(r#""exec""#) => "codex_exec",
        Some(r#""vscode""#) | None => "codex_vscode",
        Some(r#""mcp""#) => "codex_mcp_server",
        Some(r#""cli""#) if plan.day() >= clock::TASK_EVENTS_DAY => "codex-tui",
        Some(r#""cli""#) => "codex_cli_rs",
        _ => "sample client/1.0",
    }
}

fn provider(plan: &Plan) -> Option<&'static str> {
    match (plan.era, plan.number % 20) {
        (Era::Enveloped, other) if other != 3 => None,
        (_, 0) => None,
        (_, 1..=15) => Some("openai"),
        (_, 16 | 17) => Some("azure/eastus"),
        (_, 18) => Some("ollama"),
        _ => Some("in house"),
    }
}

fn spawn_source(parent_id: &str, depth: u64, plan: &Plan) -> String {
    let mut out = String::new();
    Object::write(&mut out, |o| {
        o.object("subagent", |o| {
            o.object("thread_spawn", |o| {
                o.text("parent_thread_id", parent_id).number("depth", depth).raw("agent_path", "null");
                o.text("agent_nickname", nickname(plan)).text("agent_role", "explorer");
            });
        });
    });
    out
}

fn nickname(plan: &Plan) -> &'static str {
    ["Ada", "Blaise", "Chien-Shiung", "Do\u{11f}a", "Emmy"][(plan.number % 5) as usize]
}

fn git(plan: &Plan, seed: u64, o: &mut Object<'_>) {
    let Some(url) = plan.project(seed).repository_url else { return };
    let mut prng = Prng::new(seed, plan.number, Purpose::Project);
    let (high, low, tail) = (prng.next(), prng.next(), prng.next() as u32);
    let branch = text::branch(&mut prng);
    let has_branch = !prng.per_mille(60);
    let has_url = !prng.per_mille(40) || plan.role == Some(Role::UrlSecret);
    o.object("git", |o| {
        o.text("commit_hash", &format!("{high:016x}{low:016x}{tail:08x}"));
        o.text_if("branch", has_branch.then_some(branch));
        o.text_if("repository_url", has_url.then_some(&url));
    });
}

fn push_bare(lines: &mut Lines, plan: &Plan, seed: u64) {
    let timestamp =
        if plan.number % 4 == 1 { clock::stamp(plan.start_ms) } else { clock::rfc3339(plan.start_ms) };
    lines.bare_header(|o| {
        o.text("id", &plan.id).text("timestamp", &timestamp).raw("instructions", "null");
        git(plan, seed, o);
    });
}

/// Appends the thread's header. `parent` is the thread it came from, `base` the place of its history.
pub(super) fn push(
    lines: &mut Lines,
    layout: &Layout,
    plan: &Plan,
    parent: Option<&Plan>,
    base: Option<&HistoryBase>,
) {
    if plan.era == Era::Bare {
        return push_bare(lines, plan, layout.seed);
    }
    let parent_id = parent.map(|parent| parent.id.as_str());
    let is_fork = matches!(plan.kind, Kind::CopyFork | Kind::ReferenceFork);
    let is_late = plan.day() >= clock::PAGINATED_DAY;
    let folder = plan.project(layout.seed).folder;
    let source = match (plan.kind, parent_id) {
        (Kind::Spawn { depth }, Some(parent_id)) => Some(spawn_source(parent_id, depth, plan)),
        _ => plan.source.map(str::to_owned),
    };
    lines.line("session_meta", |o| {
        if is_late {
            o.text("session_id", parent_id.filter(|_| !is_fork).unwrap_or(&plan.id));
        }
        o.text("id", &plan.id).text_if("forked_from_id", parent_id.filter(|_| is_fork));
        if is_late && !is_fork {
            o.text_if("parent_thread_id", parent_id);
        }
        o.text("timestamp", &clock::rfc3339(plan.start_ms)).text("cwd", &folder);
        o.text("originator", originator(plan)).text("cli_version", &cli_version(plan));
        if plan.era == Era::Enveloped {
            o.raw("instructions", "null");
        }
        if let Some(source) = &source {
            o.raw("source", source);
        }
        if is_late {
            o.text(
                "thread_source",
                if source.as_deref().is_some_and(|s| s.contains("subagent")) { "subagent" } else { "user" },
            );
        }
        if matches!(plan.kind, Kind::Spawn { .. }) {
            o.text("agent_nickname", nickname(plan)).text("agent_role", "explorer");
        }
        o.text_if("model_provider", provider(plan));
        if plan.era == Era::Current {
            let month = (plan.day() / 30) as u64;
            let instructions = text::base_instructions(month, layout.size == Size::Realistic);
            o.object("base_instructions", |o| {
                o.text("text", &instructions);
            });
        }
        if is_late {
            o.text("history_mode", if plan.is_paginated { "paginated" } else { "legacy" });
        }
        if let Some(base) = base {
            push_base(o, base);
        }
        git(plan, layout.seed, o);
    });
}

fn push_base(o: &mut Object<'_>, base: &HistoryBase) {
    o.object("history_base", |o| {
        o.text("thread_id", &base.rollout_id);
        o.number("end_ordinal_exclusive", base.end_ordinal_exclusive);
        o.number("end_byte_offset", base.end_byte_offset);
    });
}

/// Appends a later header of the same thread with another memory mode, and no `git`.
pub(super) fn push_change(lines: &mut Lines, plan: &Plan, folder: &str, memory_mode: &str) {
    lines.line("session_meta", |o| {
        o.text("id", &plan.id).text("timestamp", &clock::rfc3339(plan.start_ms)).text("cwd", folder);
        o.text("originator", originator(plan)).text("cli_version", &cli_version(plan));
        if let Some(source) = plan.source {
            o.raw("source", source);
        }
        o.text_if("model_provider", provider(plan)).text("memory_mode", memory_mode);
        if plan.is_paginated {
            o.text("history_mode", "paginated");
        }
    });
}
