//! `rolloutfs unarchive`: how does a thread come back from the archive?

use clap::Args;

use super::archive::{Way, move_all};
use super::home_args::HomeArgs;
use crate::store::error::Result;

/// Moves threads out of the archive, to the date folder of their name; they are the last changed then, as in Codex.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs unarchive planb               a thread by its name
  rolloutfs list --archived               which there are")]
pub(super) struct UnarchiveArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// Threads, each as `show` takes it: an id, the beginning or the last 8 digits of it, a name, or a path
    #[arg(value_name = "THREAD", required = true)]
    pub threads: Vec<String>,
    /// Also a thread that Codex is writing
    #[arg(long)]
    pub force: bool,
    /// One JSON object a thread
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// As `archive`.
pub(super) fn run(args: &UnarchiveArgs) -> Result<()> {
    move_all(&args.home, &args.threads, args.force, args.json, Way::Unarchive)
}
