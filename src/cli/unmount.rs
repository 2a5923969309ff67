//! How is a mount ended? `rolloutfs unmount MOUNTPOINT`; also one whose daemon is gone.

use std::path::PathBuf;

use super::error::CliError;
use crate::fs::session;

/// End a mount: the name is free at once, files still open are served until they are closed
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rolloutfs unmount ~/codex            also `fusermount3 -u ~/codex`, or `umount ~/codex` as root

Works on a dead mount (\"Transport endpoint is not connected\") too. Refuses what is no mount of rolloutfs.")]
pub(crate) struct UnmountArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &UnmountArgs) -> Result<(), CliError> {
    Ok(session::unmount(&args.mountpoint)?)
}
