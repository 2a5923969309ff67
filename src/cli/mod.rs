//! Which commands does the program have? Options are parsed here, one match runs one command, and one place prints
//! what failed and chooses the exit code.
//!
//! Every command is a file of its own. May depend on everything below: `fs`, `views`, `store`.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod archive;
mod completions;
mod daemon;
mod doctor;
mod error;
mod exit_codes;
mod fork;
mod home_args;
mod index;
mod index_queries;
mod interrupt;
mod latest;
mod list;
mod logging;
mod man;
mod mount;
mod mounts;
mod name;
mod output;
mod pending;
mod progress;
mod record;
pub mod sample_home;
mod show;
mod status;
mod text;
mod trash;
mod unarchive;
mod unmount;
mod unname;
mod watch;

use error::CliError;
use exit_codes::Exit;

const EXAMPLES: &str = "\
Examples:
  rolloutfs mount ~/codex              mount ~/.codex at ~/codex, then `ls ~/codex/by-name`
  rolloutfs list                       the threads, the last written first
  rolloutfs doctor                     what is missing here, and what to do
  rolloutfs sample-home /tmp/home      a made home to try things on";

/// Mount a Codex home as a filesystem: browse, grep and name threads with ordinary tools
#[derive(Debug, Parser)]
#[command(name = "rolloutfs", version, arg_required_else_help = true, after_help = after_help())]
struct Cli {
    #[command(flatten)]
    verbosity: logging::Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArgs),
    Unmount(unmount::UnmountArgs),
    Index(index::IndexArgs),
    List(list::ListArgs),
    Latest(latest::LatestArgs),
    Show(show::ShowArgs),
    Record(record::RecordArgs),
    Archive(archive::ArchiveArgs),
    Unarchive(unarchive::UnarchiveArgs),
    Name(name::NameArgs),
    Unname(unname::UnnameArgs),
    Fork(fork::ForkArgs),
    Trash(trash::TrashArgs),
    Status(status::StatusArgs),
    Watch(watch::WatchArgs),
    Pending(pending::PendingArgs),
    Persist(pending::PersistArgs),
    Doctor(doctor::DoctorArgs),
    SampleHome(sample_home::SampleHomeArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Command {
    /// The log file, of the commands that have one.
    fn log_file(&self) -> Option<&Path> {
        match self {
            Command::Mount(args) => args.log_file.as_deref(),
            _ => None,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse_from(as_mount_helper(std::env::args_os().collect())) {
        Ok(cli) => run(&cli),
        Err(refused) => return parsed_no_command(&refused),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if error.is_closed_pipe() => Exit::Ok.into(),
        Err(error) => {
            progress::without_bar(|| {
                // Nobody is left to be told when standard error is closed too.
                let _ = writeln!(std::io::stderr(), "rolloutfs: {}", error::chain(&error));
            });
            exit_codes::of(&error).into()
        }
    }
}

/// `mount -t fuse.rolloutfs`, and fstab with it, run the program as `rolloutfs HOME MOUNTPOINT -o OPTIONS`: the command is
/// left out. No command is spelled like a path.
fn as_mount_helper(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_path = |word: &OsString| word.as_encoded_bytes().contains(&b'/');
    if words.len() >= 3 && is_path(&words[1]) && is_path(&words[2]) {
        words.insert(1, "mount".into());
    }
    words
}

/// Help and version go to standard output and are success; the rest is wrong usage.
fn parsed_no_command(refused: &clap::Error) -> ExitCode {
    let _ = refused.print();
    if refused.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}

fn run(cli: &Cli) -> Result<Exit, CliError> {
    logging::start(cli.verbosity, cli.command.log_file())?;
    let done = |()| Exit::Ok;
    match &cli.command {
        Command::Mount(args) => Ok(mount::run(args, cli.verbosity).map(done)?),
        Command::Unmount(args) => unmount::run(args).map(done),
        Command::Index(args) => index::run(args, cli.verbosity.is_quiet()),
        Command::List(args) => Ok(list::run(args).map(done)?),
        Command::Latest(args) => Ok(latest::run(args).map(done)?),
        Command::Show(args) => Ok(show::run(args).map(done)?),
        Command::Record(args) => record::run(args),
        Command::Archive(args) => Ok(archive::run(args).map(done)?),
        Command::Unarchive(args) => Ok(unarchive::run(args).map(done)?),
        Command::Name(args) => Ok(name::run(args).map(done)?),
        Command::Unname(args) => Ok(unname::run(args).map(done)?),
        Command::Fork(args) => Ok(fork::run(args).map(done)?),
        Command::Trash(args) => Ok(trash::run(args).map(done)?),
        Command::Status(args) => status::run(args).map(done),
        Command::Watch(args) => watch::run(args),
        Command::Pending(args) => pending::run(args).map(done),
        Command::Persist(args) => pending::persist(args).map(done),
        Command::Doctor(args) => doctor::run(args),
        Command::SampleHome(args) => Ok(sample_home::run(args).map(done)?),
        Command::Completions(args) => completions::run(args).map(done),
        Command::Man(args) => man::run(args).map(done),
    }
}

/// The command line as clap knows it, for completions and man pages.
fn command_line() -> clap::Command {
    Cli::command()
}

fn after_help() -> String {
    format!("{EXAMPLES}\n\n{}", exit_codes::help())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_leaves_the_command_out() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let asked = as_mount_helper(words("rolloutfs /home/me/.codex /mnt -o ro,uid=1"));
        assert_eq!(asked, words("rolloutfs mount /home/me/.codex /mnt -o ro,uid=1"));
        assert_eq!(as_mount_helper(words("rolloutfs show /a/b")), words("rolloutfs show /a/b"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        for command in command_line().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no first line");
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let undocumented = command.get_arguments().find(|argument| argument.get_help().is_none());
            assert!(undocumented.is_none(), "{name}: {undocumented:?} has no help");
            assert!(examples.contains(&format!("rolloutfs {name}")), "{name} has no example");
        }
    }
}
