//! How does a shell complete our command line? `rolloutfs completions SHELL` prints a script for it.

use clap_complete::Shell;

use super::error::CliError;
use super::output;

/// Print a completion script for a shell
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rolloutfs completions bash > ~/.local/share/bash-completion/completions/rolloutfs
  rolloutfs completions zsh > \"${fpath[1]}/_rolloutfs\"
  rolloutfs completions fish > ~/.config/fish/completions/rolloutfs.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command_line(), "rolloutfs", &mut script);
    output::write(&script)
}
