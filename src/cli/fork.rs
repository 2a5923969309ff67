//! `rolloutfs fork`: how does a thread go two ways?

use std::path::PathBuf;

use clap::Args;

use super::archive::short_label;
use super::home_args::{HomeArgs, absolute};
use super::text::{escaped, output_error, to_stdout, write_json_line};
use crate::store::error::Result;
use crate::store::fork::{self, ForkOptions};

/// Makes a new thread that begins with all that another one says so far.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs fork planb                            then `codex resume` the id that is printed
  rolloutfs fork planb --cwd ~/src/other --json

The parent is not changed. A thread with paginated history is not copied: its fork reads the parent's file, so the
parent must not be deleted.")]
pub(super) struct ForkArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// A thread: its id, the beginning or the last 8 digits of it, its name, or a path
    #[arg(value_name = "THREAD")]
    pub thread: String,
    /// The new thread's working directory [default: the parent's; default DIR: the current one]
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    pub cwd: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// As `show` for the thread, and as [`fork::fork`].
pub(super) fn run(args: &ForkArgs) -> Result<()> {
    let source = args.home.source()?;
    let item = source.find(&args.thread)?;
    let cwd = args.cwd.as_deref().map(absolute).transpose()?;
    // Codex has the folder without links, where it can be told.
    let cwd = cwd.map(|cwd| std::fs::canonicalize(&cwd).unwrap_or(cwd).to_string_lossy().into_owned());
    let forked = fork::fork(source.home(), item.path.as_bytes(), &ForkOptions { cwd })?;
    to_stdout(|out| {
        if args.json {
            return write_json_line(out, &forked);
        }
        let how = if forked.is_reference { "reads" } else { "is a copy of" };
        writeln!(out, "forked: {} {how} {} ({})", forked.id, short_label(&item), item.id)
            .and_then(|()| writeln!(out, "  {}", escaped(&forked.path)))
            .map_err(output_error)
    })
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{ID, made};
    use super::*;

    #[test]
    fn a_fork_is_a_thread_of_its_own() {
        let (_dir, home) = made(false);
        let args = |thread: &str| ForkArgs {
            home: home.clone(),
            thread: thread.to_owned(),
            cwd: Some("/srv/other".into()),
            json: true,
        };
        run(&args("planb")).unwrap();
        let page = home.source().unwrap().page(&Default::default()).unwrap();
        assert_eq!(page.items.len(), 2);
        let fork = page.items.iter().find(|item| item.id.to_string() != ID).unwrap();
        assert_eq!((fork.forked_from.unwrap().to_string(), fork.cwd.as_str()), (ID.to_owned(), "/srv/other"));
        assert!(fork.name.is_none(), "the name is not inherited");
        assert!(run(&args("other")).is_err());
    }
}
