//! What does a listing say about one rollout?

use std::path::PathBuf;

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::store::content::{self, Encoding};
use crate::store::home::Home;
use crate::store::rollout::ThreadId;
use crate::store::row::{ReadState, Row};

/// What a thread without a name, a title and a preview is called, before its short id.
pub const NO_MESSAGE: &str = "(no message)";

/// The repository that a thread began in. A field is None where the rollout does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GitInfo {
    /// Commit checked out at the start.
    pub commit: Option<String>,
    /// Branch checked out at the start.
    pub branch: Option<String>,
    /// Where the repository came from, without user and password.
    pub repository: Option<String>,
}

/// One rollout of a listing. Text is as in the file, of any length, and not fit for a terminal as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListItem {
    /// The thread.
    pub id: ThreadId,
    /// The rollout's own id, after a revert (spec 9.6).
    pub rollout_id: Option<ThreadId>,
    /// The thread's name, as it was given.
    pub name: Option<String>,
    /// First words of the user; may be empty.
    pub title: String,
    /// First words of the user, `[Image]`, `[Audio]` or the goal; may be empty.
    pub preview: String,
    /// Logical path below the home.
    pub path: String,
    /// The file on disk.
    pub file: PathBuf,
    /// Below `archived_sessions`.
    pub archived: bool,
    /// Start of the thread, RFC 3339 with milliseconds.
    pub created_at: String,
    /// Last change of the file, RFC 3339 with milliseconds.
    pub updated_at: String,
    /// Working directory at the start; may be empty.
    pub cwd: String,
    /// Working directory of the last turn.
    pub last_cwd: Option<String>,
    /// Which client made it, as the file has it: a word or JSON text.
    pub source: String,
    /// `user`, `subagent` and the like.
    pub thread_source: Option<String>,
    /// Name of the client program.
    pub originator: Option<String>,
    /// Version of the client; may be empty.
    pub cli_version: String,
    /// Empty: Codex's default.
    pub provider: String,
    /// Model of the last turn.
    pub model: Option<String>,
    /// Reasoning effort of the last turn.
    pub reasoning_effort: Option<String>,
    /// Sandbox of the last turn: a word or JSON text.
    pub sandbox_policy: String,
    /// Approval mode of the last turn: a word or JSON text.
    pub approval_mode: String,
    /// Tokens of the whole thread at the last count.
    pub tokens_used: i64,
    /// The repository it began in.
    pub git: GitInfo,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes that a reader sees; None for a compressed file whose size is not known yet.
    pub size_bytes: Option<u64>,
    /// `plain` or `zstd`.
    pub encoding: &'static str,
    /// Lines that did not parse.
    pub parse_errors: u64,
    /// The last line is cut.
    pub torn: bool,
    /// Written before September 2025, without envelopes.
    pub bare: bool,
    /// Another file has this id, or the header has another thread's id.
    pub duplicate: bool,
    /// The file that the thread's id leads to.
    pub current: bool,
    /// The file was read from end to end. Else what its middle says is not known.
    pub whole: bool,
    /// Why it could not be read.
    pub error: Option<String>,
    /// The thread that spawned this one.
    pub parent: Option<ThreadId>,
    /// The thread this one was forked from.
    pub forked_from: Option<ThreadId>,
    /// Name of a sub-agent.
    pub agent_nickname: Option<String>,
    /// Role of a sub-agent.
    pub agent_role: Option<String>,
}

impl ListItem {
    /// What the row of a rollout says. None for a row without a thread.
    pub(super) fn of(home: &Home, row: &Row) -> Option<ListItem> {
        let (file, meta) = (&row.file, &row.meta);
        let logical = home.join(&file.path);
        let git = GitInfo {
            commit: meta.git_sha.clone(),
            branch: meta.git_branch.clone(),
            repository: meta.git_origin_url.as_deref().map(without_user),
        };
        let (on_disk, encoding) = match file.encoding {
            Encoding::Plain => (logical, "plain"),
            Encoding::Zstd => (content::compressed_path(&logical), "zstd"),
        };
        Some(ListItem {
            id: file.thread_id?,
            rollout_id: file.rollout_id,
            name: file.name.clone(),
            title: meta.title.clone(),
            preview: meta.preview.clone(),
            path: String::from_utf8_lossy(&file.path).into_owned(),
            file: on_disk,
            archived: file.archived,
            created_at: rfc3339_ms(meta.created_at_ms),
            updated_at: rfc3339_ms(file.disk.mtime_ns.div_euclid(1_000_000)),
            cwd: meta.cwd.clone(),
            last_cwd: meta.last_cwd.clone(),
            source: meta.source.clone(),
            thread_source: meta.thread_source.clone(),
            originator: meta.originator.clone(),
            cli_version: meta.cli_version.clone(),
            provider: meta.model_provider.clone(),
            model: meta.model.clone(),
            reasoning_effort: meta.reasoning_effort.clone(),
            sandbox_policy: meta.sandbox_policy.clone(),
            approval_mode: meta.approval_mode.clone(),
            tokens_used: meta.tokens_used,
            git,
            disk_bytes: file.disk.size_bytes,
            size_bytes: file.content_bytes(),
            encoding,
            parse_errors: file.parse_errors,
            torn: file.torn,
            bare: file.bare,
            duplicate: file.duplicate,
            current: file.current,
            whole: file.state == ReadState::Read,
            error: row.error.clone(),
            parent: meta.parent_thread_id,
            forked_from: meta.forked_from_id,
            agent_nickname: meta.agent_nickname.clone(),
            agent_role: meta.agent_role.clone(),
        })
    }

    /// What the thread is called (spec 4.6): its name, else its title, else its preview, else [`NO_MESSAGE`] and the
    /// last 8 digits of its id.
    pub fn label(&self) -> String {
        let given = [self.name.as_deref().unwrap_or(""), &self.title, &self.preview];
        match given.into_iter().find(|text| !text.trim().is_empty()) {
            Some(text) => text.to_owned(),
            None => format!("{NO_MESSAGE} {}", self.id.last8()),
        }
    }
}

/// A time of unix milliseconds as RFC 3339 in UTC with three digits of a second.
fn rfc3339_ms(ms: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
    // Beyond year 9999: a clock set wrong.
    time.and_then(|time| time.format(&format).ok()).unwrap_or_else(|| format!("@{ms}ms"))
}

/// A repository's address without what may be a password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_milliseconds_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_770_542_102_417, "2026-02-08T09:15:02.417Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "@9223372036854775807ms"),
        ] {
            assert_eq!(rfc3339_ms(ms), text);
        }
    }

    #[test]
    fn passwords_of_repositories_are_not_shown() {
        for (url, shown) in [
            ("https://ada:secret@example.org/a.git", "https://example.org/a.git"),
            ("https://x@y@example.org", "https://example.org"),
            ("https://example.org/a@b", "https://example.org/a@b"),
            ("git@example.org:a/b.git", "git@example.org:a/b.git"),
            ("/srv/a.git", "/srv/a.git"),
        ] {
            assert_eq!(without_user(url), shown);
        }
    }
}
