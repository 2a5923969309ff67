//! `rolloutfs show`: what is known of one thread?

use clap::Args;

use super::home_args::HomeArgs;
use super::text::{clean, columns, cut, escaped, output_error, pad, to_stdout};
use crate::store::error::{Result, StoreError};
use crate::store::list::ListItem;

/// Columns of the user's words that are shown; `--json` has all of them.
const WORDS_COLUMNS_MAX: usize = 400;

/// Prints what is known of a thread.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs show planb              a thread by its name
  rolloutfs show 0198c0de --json    by the first digits of its id
  rolloutfs show ~/codex/latest     by a path, in a mount or on disk")]
pub(super) struct ShowArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// A thread: its id, the beginning (4 digits or more) or the last 8 digits of it, its name, or a path on disk or
    /// in a mount
    #[arg(value_name = "THREAD")]
    pub thread: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// [`StoreError::NotFound`] says what was tried, [`StoreError::Invalid`] which threads could be meant;
/// [`StoreError::NotAHome`], [`StoreError::Io`].
pub(super) fn run(args: &ShowArgs) -> Result<(), StoreError> {
    let item = args.home.source()?.find(&args.thread)?;
    to_stdout(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &item).map_err(|error| output_error(error.into()))?;
            return out.write_all(b"\n").map_err(output_error);
        }
        out.write_all(block(&item).as_bytes()).map_err(output_error)
    })
}

/// Aligned `key: value` lines; what is not known has no line.
fn block(item: &ListItem) -> String {
    let lines: Vec<_> = pairs(item).into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = lines.iter().map(|(key, _)| columns(key) + 1).max().unwrap_or(0);
    lines.iter().map(|(key, value)| format!("{} {value}\n", pad(&format!("{key}:"), width))).collect()
}

fn pairs(item: &ListItem) -> Vec<(&'static str, String)> {
    let optional = |text: &Option<String>| clean(text.as_deref().unwrap_or(""));
    let id =
        |id: &Option<_>| id.map(|id: crate::store::rollout::ThreadId| id.to_string()).unwrap_or_default();
    let words = |text: &str| cut(&clean(text), WORDS_COLUMNS_MAX);
    let preview = if item.preview == item.title { String::new() } else { words(&item.preview) };
    let last_cwd = item.last_cwd.as_deref().filter(|last| *last != item.cwd).unwrap_or("");
    let label = if item.name.is_none() && item.title.is_empty() { item.label() } else { item.title.clone() };
    vec![
        ("name", optional(&item.name)),
        ("title", words(&label)),
        ("preview", preview),
        ("id", item.id.to_string()),
        ("rollout id", id(&item.rollout_id)),
        ("file", escaped(&item.file.to_string_lossy())),
        ("archived", if item.archived { "yes" } else { "no" }.to_owned()),
        ("created", item.created_at.clone()),
        ("updated", item.updated_at.clone()),
        ("cwd", escaped(&item.cwd)),
        ("last cwd", escaped(last_cwd)),
        ("branch", optional(&item.git.branch)),
        ("commit", optional(&item.git.commit)),
        ("repository", optional(&item.git.repository)),
        ("source", clean(&item.source)),
        ("client", clean(&format!("{} {}", item.originator.as_deref().unwrap_or(""), item.cli_version))),
        ("provider", clean(&item.provider)),
        (
            "model",
            clean(&[&item.model, &item.reasoning_effort].map(|part| part.as_deref().unwrap_or("")).join(" ")),
        ),
        ("sandbox", clean(&item.sandbox_policy)),
        ("approval", clean(&item.approval_mode)),
        ("tokens", if item.tokens_used > 0 { item.tokens_used.to_string() } else { String::new() }),
        ("size", size(item)),
        (
            "agent",
            clean(
                &[&item.agent_nickname, &item.agent_role].map(|part| part.as_deref().unwrap_or("")).join(" "),
            ),
        ),
        ("parent", id(&item.parent)),
        ("forked from", id(&item.forked_from)),
        ("health", health(item)),
    ]
}

fn size(item: &ListItem) -> String {
    match (item.encoding, item.size_bytes) {
        ("zstd", Some(bytes)) => format!("{bytes} bytes ({} on disk, compressed)", item.disk_bytes),
        ("zstd", None) => format!("{} bytes on disk, compressed", item.disk_bytes),
        _ => format!("{} bytes", item.disk_bytes),
    }
}

/// What is odd about the file, or `good`.
fn health(item: &ListItem) -> String {
    let mut odd = Vec::new();
    if let Some(error) = &item.error {
        odd.push(format!("cannot be read: {}", clean(error)));
    }
    if item.parse_errors > 0 {
        odd.push(format!("{} lines do not parse", item.parse_errors));
    }
    for (is, what) in [
        (item.torn, "the last line is cut"),
        (item.bare, "from before September 2025, without envelopes"),
        (item.duplicate, "its id is that of another file too, or differs from its header's"),
        (!item.current, "another file of this thread is the current one"),
        (!item.whole && item.error.is_none(), "large: only its ends were looked at"),
    ] {
        if is {
            odd.push(what.to_owned());
        }
    }
    if odd.is_empty() { "good".to_owned() } else { odd.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: &str) -> ListItem {
        let dir = tempfile::tempdir().unwrap();
        let id = "0198c0de-0000-7000-8000-000000000001";
        let folder = dir.path().join("sessions/2026/02/08");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("rollout-2026-02-08T09-15-01-{id}.jsonl")), content).unwrap();
        let home = HomeArgs { home: Some(dir.path().to_owned()), state_dir: None };
        home.source().unwrap().find(id).unwrap()
    }

    #[test]
    fn the_block_is_aligned_and_says_what_is_odd() {
        let item = found(
            "{\"timestamp\":\"t\",\"type\":\"session_meta\",\"payload\":{\"id\":\"0198c0de-0000-7000-8000-000000000001\",\"timestamp\":\"2026-02-08T09:15:01.002Z\",\"cwd\":\"/srv/\\u001bx\",\"source\":\"cli\",\"git\":{\"branch\":\"main\"}}}\n\
             {\"timestamp\":\"t\",\"type\":\"event_msg\",\"payload\":{\"type\":\"user_message\",\"message\":\"two\\nlines\"}}\nbroken\n",
        );
        let text = block(&item);
        for line in [
            "title:    two lines\n",
            "id:       0198c0de-0000-7000-8000-000000000001\n",
            "created:  2026-02-08T09:15:01.002Z\n",
            "cwd:      /srv/\\u{1b}x\n",
            "branch:   main\n",
            "health:   1 lines do not parse\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("name:") && !text.contains("parent:") && !text.contains('\u{1b}'));
    }

    #[test]
    fn an_empty_thread_has_a_label() {
        let text = block(&found(""));
        assert!(text.contains("(no message) 00000001") && text.contains("health:   good"), "{text}");
    }
}
