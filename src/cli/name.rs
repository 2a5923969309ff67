//! `rolloutfs name`: how does a thread get a name?

use clap::Args;
use serde::Serialize;

use super::home_args::HomeArgs;
use super::text::{clean, cut, output_error, to_stdout, write_json_line};
use crate::store::error::Result;
use crate::store::session_index::{self, NameEntry};

/// Columns of a name that are shown.
const NAME_COLUMNS_MAX: usize = 100;

/// Names a thread, as Codex's /rename does: one line is appended to session_index.jsonl.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs name 0198c0de planb           by the first digits of its id
  rolloutfs name planb 'plan b, again'    by the name it has

Names need not be unique: the thread that was named last has the plain name in by-name/.")]
pub(super) struct NameArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// A thread: its id, the beginning or the last 8 digits of it, its name, or a path
    #[arg(value_name = "THREAD")]
    pub thread: String,
    /// Its new name, in any characters; blanks at its ends are cut
    #[arg(value_name = "NAME")]
    pub name: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    entry: NameEntry,
    /// The name it had.
    before: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// As `show` for the thread, and as [`session_index::rename`].
pub(super) fn run(args: &NameArgs) -> Result<()> {
    let outcome = rename(args)?;
    to_stdout(|out| {
        if args.json {
            return write_json_line(out, &outcome);
        }
        let name = cut(&clean(&outcome.entry.thread_name), NAME_COLUMNS_MAX);
        writeln!(out, "named: {name} ({})", outcome.entry.id).map_err(output_error)
    })
}

fn rename(args: &NameArgs) -> Result<Outcome> {
    let source = args.home.source()?;
    let item = source.find(&args.thread)?;
    let entry = session_index::rename(&source.home().session_index(), item.id.uuid(), &args.name)?;
    Ok(Outcome { entry, before: item.name })
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{ID, made};
    use super::super::archive::{MovedArgs, Way, move_all};
    use super::*;
    use crate::store::error::StoreError;

    /// Spec 11.8, row 6: the index entry, and an archived thread stays archived.
    #[test]
    fn a_thread_is_found_by_its_new_name_wherever_it_is() {
        let (_dir, home) = made(false);
        let archived =
            MovedArgs { home: home.clone(), threads: vec!["planb".into()], force: false, json: true };
        move_all(&archived, Way::Archive).unwrap();
        let args = |thread: &str, name: &str| NameArgs {
            home: home.clone(),
            thread: thread.to_owned(),
            name: name.to_owned(),
            json: false,
        };
        let outcome = rename(&args("planb", " plan c ")).unwrap();
        assert_eq!(
            (outcome.entry.thread_name.as_str(), outcome.before.as_deref()),
            ("plan c", Some("planb"))
        );
        let item = home.source().unwrap().find("plan c").unwrap();
        assert!(item.archived && item.id.to_string() == ID);
        assert!(matches!(rename(&args("planb", "x")), Err(StoreError::NotFound { .. })));
        assert!(matches!(rename(&args(ID, " ")), Err(StoreError::Invalid(_))));
    }
}
