//! `rolloutfs unname`: how does a thread lose its name?

use clap::Args;
use serde::Serialize;

use super::home_args::HomeArgs;
use super::text::{clean, output_error, to_stdout, write_json_line};
use crate::store::error::{Result, StoreError};
use crate::store::session_index;

/// Drops a thread's name: its lines leave session_index.jsonl, all others stay as they are.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs unname planb                  the thread itself stays")]
pub(super) struct UnnameArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// A thread: its id, the beginning or the last 8 digits of it, its name, or a path
    #[arg(value_name = "THREAD")]
    pub thread: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    id: String,
    /// The name it had.
    before: Option<String>,
    /// Lines that were dropped.
    dropped: u64,
}

/// Runs the command.
///
/// # Errors
/// [`StoreError::NotFound`] for a thread without a name in the index; as `show` for the thread; [`StoreError::Io`],
/// [`StoreError::Busy`].
pub(super) fn run(args: &UnnameArgs) -> Result<()> {
    let outcome = unname(args)?;
    to_stdout(|out| {
        if args.json {
            return write_json_line(out, &outcome);
        }
        let before = clean(outcome.before.as_deref().unwrap_or("(blank)"));
        writeln!(out, "no longer named: {before} ({})", outcome.id).map_err(output_error)
    })
}

fn unname(args: &UnnameArgs) -> Result<Outcome> {
    let source = args.home.source()?;
    let item = source.find(&args.thread)?;
    let dropped = session_index::remove(&source.home().session_index(), item.id.uuid())?;
    if dropped > 0 {
        return Ok(Outcome { id: item.id.to_string(), before: item.name, dropped });
    }
    // Older versions of Codex wrote names into the rollout as well, and that is never edited.
    let reason =
        if item.name.is_some() { " (its name is in the rollout itself; give it another)" } else { "" };
    let what = format!("a name of thread {} in {}{reason}", item.id, source.home().session_index().display());
    Err(StoreError::NotFound { what })
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::made;
    use super::*;

    #[test]
    fn the_name_goes_and_the_thread_stays() {
        let (dir, home) = made(false);
        let other = "not json\n{\"id\":\"0198c0de-0000-7000-8000-000000000002\",\"thread_name\":\"b\",\"updated_at\":\"\"}\n";
        let path = dir.path().join("session_index.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{other}{text}")).unwrap();
        let args = |thread: &str| UnnameArgs { home: home.clone(), thread: thread.to_owned(), json: false };
        let outcome = unname(&args("planb")).unwrap();
        assert_eq!((outcome.before.as_deref(), outcome.dropped), (Some("planb"), 2));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        let refused = unname(&args(&outcome.id)).unwrap_err();
        assert!(matches!(refused, StoreError::NotFound { .. }), "{refused}");
    }
}
