//! How does each item change the metadata of its thread (spec 5.2 to 5.5)?
//!
//! Rules of the newest era where eras differ. The result is that of Codex's two steps, first a builder from
//! the first `session_meta` anywhere, then all items in order, although the file is read once: whatever the
//! builder would have given to an earlier item, the `session_meta` itself overwrites when it comes, but for id
//! and creation time, which no other item touches.

use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::payload::{
    BareHeader, BareMessage, Content, Git, GoalUpdated, ItemCompleted, NameUpdated, Part, SessionMeta,
    SettingsApplied, Text, ThreadSpawn, TokenCount, TurnContext, UserMessage, database_text, kind_of,
    non_empty, object, owned,
};
use super::{Header, ResumeState, ThreadMetadata};
use crate::store::rollout::{ThreadId, json_text, parse_stamp};

/// The `source` of a thread that does not say.
pub(super) const SOURCE_DEFAULT: &str = "vscode";
/// The sandbox of a thread without turns.
pub(super) const SANDBOX_POLICY_DEFAULT: &str = "read-only";
/// The approval mode of a thread without turns.
pub(super) const APPROVAL_MODE_DEFAULT: &str = "on-request";

/// Sources that are one word. Any other word reads as `unknown`.
const SOURCE_WORDS: [&str; 4] = ["cli", "vscode", "exec", "mcp"];
const SOURCE_UNKNOWN: &str = "unknown";

/// Behind this an editor client puts what the user typed; before it, the open files.
const REQUEST_MARKER: &str = "## My request for Codex:";
const IMAGE_PLACEHOLDER: &str = "[Image]";
const AUDIO_PLACEHOLDER: &str = "[Audio]";

const ENVIRONMENT_CONTEXT: &str = "<environment_context>";
/// How text begins that Codex, not the user, puts into user messages.
const INJECTED: [&str; 3] = [ENVIRONMENT_CONTEXT, "# AGENTS.md instructions", "<user_instructions>"];

impl ResumeState {
    pub(super) fn session_meta(&mut self, payload: &str) -> bool {
        let Some(meta) = object::<SessionMeta<'_>>(payload) else { return false };
        let Some(id) = meta.id.id() else { return false };
        if let Some(mode) = owned(&meta.memory_mode) {
            self.metadata.memory_mode = Some(mode);
        }
        if self.header != Header::SessionMeta {
            self.header = Header::SessionMeta;
            self.identify(id, meta.timestamp.as_ref());
        } else if self.metadata.id != Some(id) {
            // A fork copies its parent's lines, header and all.
            return true;
        }
        apply_session_meta(&mut self.metadata, &meta);
        true
    }

    /// Takes identity from a header. A time that cannot be read leaves the one of the name.
    fn identify(&mut self, id: ThreadId, timestamp: Option<&Text<'_>>) {
        self.metadata.id = Some(id);
        if let Some(created_at_ms) = timestamp.and_then(|text| timestamp_ms(&text.0)) {
            self.metadata.created_at_ms = created_at_ms;
            self.metadata.updated_at_ms = created_at_ms;
        }
        if self.name_hint_of.is_some_and(|thread| thread != id) {
            self.metadata.name_hint = None;
            self.name_hint_of = None;
        }
    }

    pub(super) fn bare_header(&mut self, object_text: &str) -> bool {
        let Some(header) = object::<BareHeader<'_>>(object_text) else { return false };
        let Some(id) = header.id.id() else { return false };
        if self.header == Header::None {
            self.header = Header::Bare;
            self.identify(id, Some(&header.timestamp));
            if let Some(git) = &header.git {
                apply_git(&mut self.metadata, git);
            }
        }
        true
    }

    /// A user's bare message: the working directory is in injected context, the rest is the user's.
    pub(super) fn bare_message(&mut self, object_text: &str) -> bool {
        let Some(message) = object::<BareMessage<'_>>(object_text) else { return false };
        if message.role.is_none_or(|role| role.0 != "user") {
            return true;
        }
        let is_injected = |text: &str| INJECTED.iter().any(|start| text.trim_start().starts_with(start));
        let mut typed = Input::default();
        for part in &message.content {
            match part.text.as_ref().map(|text| &*text.0) {
                Some(text) if is_injected(text) => {
                    if let Some(cwd) = environment_cwd(text) {
                        note_turn_cwd(&mut self.metadata, cwd);
                    }
                }
                _ => typed.add(part, "\n"),
            }
        }
        typed.apply(&mut self.metadata);
        true
    }

    pub(super) fn turn_context(&mut self, payload: &str) -> bool {
        let Some(turn) = object::<TurnContext<'_>>(payload) else { return false };
        let metadata = &mut self.metadata;
        set_text(&mut metadata.sandbox_policy, turn.sandbox_policy.or(turn.permission_profile));
        set_text(&mut metadata.approval_mode, turn.approval_policy);
        if let Some(cwd) = non_empty(&turn.cwd) {
            note_turn_cwd(metadata, cwd);
        }
        if let Some(model) = non_empty(&turn.model) {
            metadata.model = Some(model.to_owned());
        }
        // Codex leaves the key out when there is none.
        metadata.reasoning_effort = owned(&turn.effort);
        true
    }

    /// An `event_msg`. Events that no rule needs are not parsed.
    pub(super) fn event(&mut self, payload: &str) -> bool {
        let Some(kind) = kind_of(payload) else { return false };
        match &*kind {
            "user_message" => self.user_message(payload),
            "item_completed" => self.item_completed(payload),
            "token_count" => self.token_count(payload),
            "thread_goal_updated" => self.goal_updated(payload),
            "thread_settings_applied" => self.settings_applied(payload),
            "thread_name_updated" => self.name_updated(payload),
            _ => true,
        }
    }

    fn user_message(&mut self, payload: &str) -> bool {
        let Some(message) = object::<UserMessage<'_>>(payload) else { return false };
        let images = message.images.0 || message.local_images.0;
        let audio = message.audio.0 || message.local_audio.0;
        apply_input(&mut self.metadata, &message.message.0, images, audio);
        true
    }

    fn item_completed(&mut self, payload: &str) -> bool {
        let Some(completed) = object::<ItemCompleted<'_>>(payload) else { return false };
        let item = completed.item.get();
        let Some(kind) = kind_of(item) else { return false };
        if !kind.eq_ignore_ascii_case("UserMessage") {
            return true;
        }
        let Some(content) = object::<Content<'_>>(item) else { return false };
        let mut input = Input::default();
        content.content.iter().for_each(|part| input.add(part, ""));
        input.apply(&mut self.metadata);
        true
    }

    fn token_count(&mut self, payload: &str) -> bool {
        let Some(count) = object::<TokenCount>(payload) else { return false };
        if let Some(info) = count.info {
            self.metadata.tokens_used = info.total_token_usage.total_tokens.max(0);
        }
        true
    }

    fn goal_updated(&mut self, payload: &str) -> bool {
        let Some(updated) = object::<GoalUpdated<'_>>(payload) else { return false };
        let objective = updated.goal.and_then(|goal| goal.objective);
        if let Some(objective) = objective.as_ref().map(|text| text.0.trim())
            && self.metadata.preview.is_empty()
        {
            self.metadata.preview = objective.to_owned();
        }
        true
    }

    fn settings_applied(&mut self, payload: &str) -> bool {
        let Some(applied) = object::<SettingsApplied<'_>>(payload) else { return false };
        let settings = applied.thread_settings;
        let metadata = &mut self.metadata;
        if let Some(model) = non_empty(&settings.model) {
            metadata.model = Some(model.to_owned());
        }
        if let Some(provider) = non_empty(&settings.model_provider_id) {
            metadata.model_provider = provider.to_owned();
        }
        metadata.reasoning_effort = owned(&settings.reasoning_effort);
        if let Some(cwd) = non_empty(&settings.cwd) {
            metadata.cwd = cwd.to_owned();
            metadata.last_cwd = Some(cwd.to_owned());
        }
        set_text(&mut metadata.sandbox_policy, settings.permission_profile.or(settings.sandbox_policy));
        set_text(&mut metadata.approval_mode, settings.approval_policy);
        true
    }

    /// Only names of this thread: a fork copies those of its parent.
    fn name_updated(&mut self, payload: &str) -> bool {
        let Some(updated) = object::<NameUpdated<'_>>(payload) else { return false };
        let thread = updated.thread_id.as_ref().and_then(Text::id);
        let foreign = match (thread, self.metadata.id) {
            (Some(thread), Some(id)) => thread != id,
            _ => false,
        };
        if !foreign {
            self.metadata.name_hint = owned(&updated.thread_name);
            self.name_hint_of = thread;
        }
        true
    }
}

/// A `session_meta` of the thread itself, the first or a later one.
fn apply_session_meta(metadata: &mut ThreadMetadata, meta: &SessionMeta<'_>) {
    let spawn = ThreadSpawn::of(meta.source);
    let first = |texts: [&Option<Text<'_>>; 3]| texts.into_iter().find_map(owned);
    metadata.source = source_text(meta.source);
    metadata.agent_nickname = first([&meta.agent_nickname, &spawn.agent_nickname, &None]);
    metadata.agent_role = first([&meta.agent_role, &meta.agent_type, &spawn.agent_role]);
    metadata.agent_path = first([&meta.agent_path, &spawn.agent_path, &None]);
    metadata.thread_source = meta.thread_source.map(database_text);
    if metadata.originator.is_none() {
        metadata.originator = non_empty(&meta.originator).map(str::to_owned);
    }
    let texts = [
        (&mut metadata.model_provider, &meta.model_provider),
        (&mut metadata.cli_version, &meta.cli_version),
        (&mut metadata.cwd, &meta.cwd),
    ];
    for (field, text) in texts {
        if let Some(text) = non_empty(text) {
            *field = text.to_owned();
        }
    }
    if let Some(git) = &meta.git {
        apply_git(metadata, git);
    }
    if meta.history_mode.is_some() {
        metadata.history_mode = owned(&meta.history_mode);
    }
    let base = meta.history_base.as_ref().and_then(|base| base.thread_id.as_ref());
    let parent = meta.parent_thread_id.as_ref().or(spawn.parent_thread_id.as_ref());
    let ids = [
        (&mut metadata.history_base_id, base),
        (&mut metadata.parent_thread_id, parent),
        (&mut metadata.forked_from_id, meta.forked_from_id.as_ref()),
        (&mut metadata.session_id, meta.session_id.as_ref()),
    ];
    for (field, text) in ids {
        if let Some(id) = text.and_then(Text::id) {
            *field = Some(id);
        }
    }
}

/// All three at once: what the newer state leaves out is no longer known.
fn apply_git(metadata: &mut ThreadMetadata, git: &Git<'_>) {
    metadata.git_sha = owned(&git.commit_hash);
    metadata.git_branch = owned(&git.branch);
    metadata.git_origin_url = owned(&git.repository_url);
}

/// A directory that a turn ran in: the thread's own if it had none, and the last one in any case.
fn note_turn_cwd(metadata: &mut ThreadMetadata, cwd: &str) {
    if metadata.cwd.is_empty() {
        metadata.cwd = cwd.to_owned();
    }
    metadata.last_cwd = Some(cwd.to_owned());
}

fn set_text(field: &mut String, value: Option<&RawValue>) {
    if let Some(value) = value {
        *field = database_text(value);
    }
}

/// The database form of a `source`.
fn source_text(source: Option<&RawValue>) -> String {
    let Some(source) = source else { return SOURCE_DEFAULT.to_owned() };
    let word = match json_text(source.get()) {
        Some(word) => word,
        None if source.get().starts_with('{') => return database_text(source),
        None => return SOURCE_UNKNOWN.to_owned(),
    };
    SOURCE_WORDS.into_iter().find(|known| *known == word).unwrap_or(SOURCE_UNKNOWN).to_owned()
}

/// A user's input that comes in parts.
#[derive(Default)]
struct Input {
    text: String,
    images: bool,
    audio: bool,
}

impl Input {
    fn add(&mut self, part: &Part<'_>, between: &str) {
        let kind = part.kind.as_ref().map_or("", |kind| &*kind.0);
        // `local_image` and `localImage` are the same, `input_image` is that of a response item.
        let kind: String = kind.chars().filter(|char| *char != '_').collect();
        match kind.to_ascii_lowercase().as_str() {
            "text" | "inputtext" => {
                if !self.text.is_empty() {
                    self.text.push_str(between);
                }
                self.text.push_str(part.text.as_ref().map_or("", |text| &text.0));
            }
            "image" | "localimage" | "inputimage" => self.images = true,
            "audio" | "localaudio" | "inputaudio" => self.audio = true,
            _ => {}
        }
    }

    fn apply(&self, metadata: &mut ThreadMetadata) {
        apply_input(metadata, &self.text, self.images, self.audio);
    }
}

/// What the user typed or attached (spec 5.3, 5.4). Only the first time counts.
fn apply_input(metadata: &mut ThreadMetadata, text: &str, images: bool, audio: bool) {
    let typed = match text.find(REQUEST_MARKER) {
        Some(at) => text[at + REQUEST_MARKER.len()..].trim(),
        None => text.trim(),
    };
    let preview = match (typed, images, audio) {
        ("", true, _) => IMAGE_PLACEHOLDER,
        ("", false, true) => AUDIO_PLACEHOLDER,
        ("", false, false) => return,
        (typed, ..) => typed,
    };
    if metadata.first_user_message.is_none() {
        metadata.first_user_message = Some(preview.to_owned());
    }
    if metadata.preview.is_empty() {
        metadata.preview = preview.to_owned();
    }
    if metadata.title.is_empty() {
        metadata.title = typed.to_owned();
    }
}

/// The text between `<cwd>` and `</cwd>` of an injected `<environment_context>`.
fn environment_cwd(text: &str) -> Option<&str> {
    let (_, context) = text.split_once(ENVIRONMENT_CONTEXT)?;
    let (_, cwd) = context.split_once("<cwd>")?;
    let (cwd, _) = cwd.split_once("</cwd>")?;
    Some(cwd.trim()).filter(|cwd| !cwd.is_empty())
}

/// Unix milliseconds of a header's time: RFC 3339, or the file name's style read as UTC.
pub(super) fn timestamp_ms(text: &str) -> Option<i64> {
    const NS_PER_MS: i128 = 1_000_000;
    let time = match parse_stamp(text) {
        Some(stamp) => stamp.assume_utc(),
        None => OffsetDateTime::parse(text, &Rfc3339).ok()?,
    };
    i64::try_from(time.unix_timestamp_nanos().div_euclid(NS_PER_MS)).ok()
}
