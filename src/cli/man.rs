//! Where are the man pages? `rolloutfs man` prints the main one; with a folder, one page a command goes there.

use std::fs;
use std::path::PathBuf;

use super::error::CliError;
use super::output;
use crate::store::error::StoreError;

/// Print the man page, or write one page a command into a folder
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rolloutfs man | man -l -             read it
  rolloutfs man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The folder for all pages; it is made where there is none [default: the main page to standard output]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &ManArgs) -> Result<(), CliError> {
    let command = super::command_line();
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| CliError::failed("make the man page", error))?;
        return output::write(&page);
    };
    fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
    Ok(clap_mangen::generate_to(command, dir).map_err(StoreError::io("write man pages in", dir))?)
}
