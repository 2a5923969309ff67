//! What does a rollout say about its thread? Bytes in, [`ThreadMetadata`] out, without keeping the file.
//!
//! The rules are in `apply`, the payloads they read in `payload`. Depends on `rollout` (names and
//! lines) and does no I/O: the caller feeds decoded bytes and knows the file's times.

mod apply;
mod payload;

use serde::{Deserialize, Serialize};

use super::rollout::{
    Envelope, Line, LineSplitter, LineState, Record, RolloutName, ThreadId, is_bare_kind, is_known_kind,
    peek_types, read_line,
};

/// What is known of a thread from one rollout of it (spec 5.1). Text is as in the file, of any length.
///
/// An empty string or `None` means that the rollout does not say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThreadMetadata {
    /// The id in the header; without a header the thread id of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<ThreadId>,
    /// Start of the thread in unix milliseconds: from the header, else the name's stamp as if UTC, else 0.
    pub created_at_ms: i64,
    /// Last change in unix milliseconds. Here the same as `created_at_ms`; the caller sets the file's mtime.
    pub updated_at_ms: i64,
    /// Which client made it, as Codex's database has it: a word (`cli`, `vscode`, `exec`, `mcp`, `unknown`) or
    /// JSON text (`{"subagent":…}`). `vscode` where the file is silent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Name of a sub-agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_nickname: Option<String>,
    /// Role of a sub-agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_role: Option<String>,
    /// Path of a sub-agent among its relatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_path: Option<String>,
    /// Empty: unknown, Codex would use its default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_provider: String,
    /// Model of the last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Reasoning effort of the last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Working directory at the start; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cwd: String,
    /// Working directory of the last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cwd: Option<String>,
    /// Version of the client; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cli_version: String,
    /// First words of the user, without a placeholder for images; may be empty, long, and hold newlines.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// First words of the user, `[Image]`, `[Audio]`, or the goal; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub preview: String,
    /// A word or JSON text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox_policy: String,
    /// A word or JSON text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub approval_mode: String,
    /// Tokens of the whole thread at the last count.
    pub tokens_used: i64,
    /// First message of the user, or its placeholder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_user_message: Option<String>,
    /// Commit checked out at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_sha: Option<String>,
    /// Branch checked out at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_branch: Option<String>,
    /// Where the repository came from, as git has it; may hold a user name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_origin_url: Option<String>,
    /// `legacy` or `paginated`; `None` is legacy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_mode: Option<String>,
    /// `user`, `subagent` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_source: Option<String>,
    /// Name of the client program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub originator: Option<String>,
    /// `enabled`, `disabled` or `polluted`, from the last `session_meta` of any id that has it (spec 5.5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mode: Option<String>,
    /// The thread that spawned this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_thread_id: Option<ThreadId>,
    /// The thread this one was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked_from_id: Option<ThreadId>,
    /// The rollout that holds the history before this file (a rollout id, spec 2.3 `history_base`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_base_id: Option<ThreadId>,
    /// The thread that a thread and its sub-agents are grouped by; `None` is the thread itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<ThreadId>,
    /// The name last given in the rollout itself. Names given since 2026 are in the session index instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_hint: Option<String>,
}

macro_rules! differing {
    ($one:ident, $other:ident: $($field:ident)*) => {{
        // Does not compile when a field is missing from the list.
        let ThreadMetadata { $($field: _),* } = $one;
        let fields = [$((stringify!($field), $one.$field != $other.$field)),*];
        fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }};
}

/// Bits of the first character of an index text: these are the same as the title, and not repeated.
const PREVIEW_IS_TITLE: u8 = 1;
const MESSAGE_IS_TITLE: u8 = 2;

impl ThreadMetadata {
    /// As the index keeps it: a digit, which says what is the same as the title, and JSON without what is empty.
    pub(super) fn to_index_text(&self) -> String {
        let mut kept = self.clone();
        let mut same = 0;
        if kept.preview == kept.title {
            same |= PREVIEW_IS_TITLE;
            kept.preview.clear();
        }
        if kept.first_user_message.as_ref() == Some(&kept.title) {
            same |= MESSAGE_IS_TITLE;
            kept.first_user_message = None;
        }
        // Our own plain struct: it always serialises.
        format!("{same}{}", serde_json::to_string(&kept).unwrap_or_default())
    }

    /// What [`ThreadMetadata::to_index_text`] wrote; nothing known where another build wrote it.
    pub(super) fn from_index_text(text: &str) -> Self {
        let Some((digit, json)) = text.split_at_checked(1) else { return Self::default() };
        let same: u8 = digit.parse().unwrap_or(0);
        let mut meta: Self = serde_json::from_str(json).unwrap_or_default();
        if same & PREVIEW_IS_TITLE != 0 {
            meta.preview.clone_from(&meta.title);
        }
        if same & MESSAGE_IS_TITLE != 0 {
            meta.first_user_message = Some(meta.title.clone());
        }
        meta
    }

    /// The names of the fields that differ, in the order of declaration.
    pub fn differing_fields(&self, other: &ThreadMetadata) -> Vec<&'static str> {
        differing!(self, other:
            id created_at_ms updated_at_ms source agent_nickname agent_role agent_path model_provider model
            reasoning_effort cwd last_cwd cli_version title preview sandbox_policy approval_mode tokens_used
            first_user_message git_sha git_branch git_origin_url history_mode thread_source originator
            memory_mode parent_thread_id forked_from_id history_base_id session_id name_hint)
    }
}

/// Which era's lines a rollout holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// No line that could be read.
    #[default]
    Empty,
    /// Lines of Codex since September 2025.
    Enveloped,
    /// Lines without an envelope, up to September 2025 (spec 2.10).
    Bare,
    /// Both.
    Mixed,
}

/// Where identity comes from so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Header {
    #[default]
    None,
    Bare,
    SessionMeta,
}

/// All that must be remembered of a rollout at its last complete line to go on from there when it grows.
///
/// To be stored as JSON or the like; opaque otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResumeState {
    /// Packed, when stored: title and preview are left out where the first message repeats them.
    metadata: ThreadMetadata,
    title_is_first_message: bool,
    preview_is_first_message: bool,
    indexed_bytes: u64,
    header: Header,
    enveloped: bool,
    bare: bool,
    /// Whose name `metadata.name_hint` is, where the line said it.
    name_hint_of: Option<ThreadId>,
    lines: u64,
    items: u64,
    parse_errors: u64,
    glued: u64,
    over_long_lines: u64,
}

impl ResumeState {
    /// Offset behind the last complete line, in decoded bytes: the next byte to feed.
    pub fn indexed_bytes(&self) -> u64 {
        self.indexed_bytes
    }

    /// A copy to be stored, with the user's first words, which may be long, once instead of three times.
    fn packed(&self) -> ResumeState {
        let mut packed = self.clone();
        let metadata = &mut packed.metadata;
        if let Some(first) = &metadata.first_user_message {
            packed.title_is_first_message = metadata.title == *first;
            packed.preview_is_first_message = metadata.preview == *first;
        }
        if packed.title_is_first_message {
            metadata.title = String::new();
        }
        if packed.preview_is_first_message {
            metadata.preview = String::new();
        }
        packed
    }

    /// The opposite of [`ResumeState::packed`].
    fn unpacked(&self) -> ResumeState {
        let mut state = self.clone();
        let first = state.metadata.first_user_message.clone().unwrap_or_default();
        if std::mem::take(&mut state.title_is_first_message) {
            state.metadata.title.clone_from(&first);
        }
        if std::mem::take(&mut state.preview_is_first_message) {
            state.metadata.preview = first;
        }
        state
    }
}

/// What one pass over a rollout found.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// With the last line applied, even if it has no newline yet.
    pub metadata: ThreadMetadata,
    /// The state at the last complete line.
    pub resume: ResumeState,
    /// Offset behind the last complete line, in decoded bytes.
    pub indexed_bytes: u64,
    /// Length of the file, in decoded bytes.
    pub total_bytes: u64,
    /// Lines that are damaged or no rollout line (spec 2.8). At most one a line. Lines of the bare era are
    /// read here, so unlike in Codex they do not count.
    pub parse_errors: u64,
    /// Lines that are not blank.
    pub lines: u64,
    /// Records of a known kind, `record_type` markers apart.
    pub items: u64,
    /// Which era's lines there are.
    pub shape: Shape,
    /// The last line has no newline and cannot be read whole: a write was cut, or is still going on.
    pub torn: bool,
    /// Damaged lines of which whole records could be saved. Counted in `parse_errors` too.
    pub glued: u64,
    /// There is a `session_meta` or a bare header. Without one, identity is only the name's.
    pub has_header: bool,
    /// Lines longer than [`super::rollout::LINE_BYTES_MAX`]: their kind is known, their content unused.
    pub over_long_lines: u64,
}

/// Reads a rollout from first byte to last and keeps only its metadata.
///
/// Any chunking gives the same result, and so does any series of passes that go on from a [`ResumeState`]
/// while the file grows.
#[derive(Clone, Debug)]
pub struct Extractor {
    state: ResumeState,
    splitter: LineSplitter,
}

impl Extractor {
    /// For a file from its beginning. Without a header the thread's identity is taken from `name`; without
    /// either it stays unknown.
    pub fn new(name: Option<&RolloutName>) -> Extractor {
        let created_at_ms = name.map_or(0, |name| name.stamp_seconds() * 1000);
        let metadata = ThreadMetadata {
            id: name.map(RolloutName::thread_id),
            created_at_ms,
            updated_at_ms: created_at_ms,
            source: apply::SOURCE_DEFAULT.to_owned(),
            sandbox_policy: apply::SANDBOX_POLICY_DEFAULT.to_owned(),
            approval_mode: apply::APPROVAL_MODE_DEFAULT.to_owned(),
            ..ThreadMetadata::default()
        };
        let state = ResumeState { metadata, ..ResumeState::default() };
        Extractor { state, splitter: LineSplitter::default() }
    }

    /// Goes on where an earlier pass ended: feed the bytes from [`ResumeState::indexed_bytes`] on.
    pub fn resume(state: &ResumeState) -> Extractor {
        Extractor { state: state.unpacked(), splitter: LineSplitter::starting_at(state.indexed_bytes) }
    }

    /// Takes the next bytes of the file, decoded if it is compressed.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Extractor { state, splitter } = self;
        splitter.feed(bytes, |line| {
            state.line(&line);
        });
        state.indexed_bytes = splitter.complete_bytes();
    }

    /// Applies what is left behind the last newline and hands out the result.
    pub fn finish(self) -> Extracted {
        let Extractor { mut state, splitter } = self;
        let resume = state.packed();
        let torn = splitter.rest().is_some_and(|line| !state.line(&line) || line.over_long);
        Extracted {
            indexed_bytes: resume.indexed_bytes,
            total_bytes: splitter.total_bytes(),
            parse_errors: state.parse_errors,
            lines: state.lines,
            items: state.items,
            shape: match (state.enveloped, state.bare) {
                (false, false) => Shape::Empty,
                (true, false) => Shape::Enveloped,
                (false, true) => Shape::Bare,
                (true, true) => Shape::Mixed,
            },
            torn,
            glued: state.glued,
            has_header: state.header != Header::None,
            over_long_lines: state.over_long_lines,
            metadata: state.metadata,
            resume,
        }
    }
}

impl ResumeState {
    /// Counts and applies a line. False if it is not whole.
    fn line(&mut self, line: &Line<'_>) -> bool {
        self.lines += 1;
        if line.over_long {
            self.over_long_line(line.bytes);
            return true;
        }
        let mut refused = false;
        let line_state = read_line(line.bytes, |record| {
            if !self.record(&record) {
                refused = true;
            }
        });
        let whole = line_state == LineState::Whole;
        if let LineState::Glued { .. } = line_state {
            self.glued += 1;
        }
        if refused || !whole {
            self.parse_errors += 1;
        }
        whole
    }

    /// Only the kind of an over-long line is known: it counts, and changes nothing.
    fn over_long_line(&mut self, head: &[u8]) {
        self.over_long_lines += 1;
        let (outer, inner) = peek_types(head);
        match outer {
            Some(kind) if is_known_kind(kind) => self.enveloped = true,
            Some(kind) if is_bare_kind(kind) && inner.is_none() => self.bare = true,
            _ => {
                self.parse_errors += 1;
                return;
            }
        }
        self.items += 1;
    }

    /// Applies a record. False if it is none that Codex writes.
    fn record(&mut self, record: &Record<'_>) -> bool {
        let good = match record {
            Record::Enveloped(envelope) => {
                self.enveloped = true;
                self.envelope(envelope)
            }
            Record::BareHeader(object) => {
                self.bare = true;
                self.bare_header(object)
            }
            Record::BareItem { kind, object } => {
                self.bare = true;
                kind != "message" || self.enveloped || self.bare_message(object)
            }
            Record::Marker => {
                self.bare = true;
                return true;
            }
            Record::Unknown => false,
        };
        self.items += u64::from(good);
        good
    }

    fn envelope(&mut self, envelope: &Envelope<'_>) -> bool {
        let payload = envelope.payload.get();
        match &*envelope.kind {
            "session_meta" => self.session_meta(payload),
            "turn_context" => self.turn_context(payload),
            "event_msg" => self.event(payload),
            other => is_known_kind(other),
        }
    }
}

/// Milliseconds since 1970 of a time as Codex writes it: RFC 3339, or a file name's stamp read as UTC (spec 5.2).
pub fn parse_timestamp_ms(text: &str) -> Option<i64> {
    apply::timestamp_ms(text)
}

#[cfg(test)]
mod tests;
