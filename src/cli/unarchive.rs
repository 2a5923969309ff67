//! `rolloutfs unarchive`: how does a thread come back from the archive?

use clap::Args;

use super::archive::{MovedArgs, Way, move_all};
use crate::store::error::Result;

/// Moves threads out of the archive, to the date folder of their name; they are the last changed then, as in Codex.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs unarchive planb               a thread by its name
  rolloutfs list --archived               which there are")]
pub(super) struct UnarchiveArgs {
    #[command(flatten)]
    pub which: MovedArgs,
}

/// Runs the command.
///
/// # Errors
/// As `archive`.
pub(super) fn run(args: &UnarchiveArgs) -> Result<()> {
    move_all(&args.which, Way::Unarchive)
}
