//! Where do log lines go, and how many? To standard error beside a progress bar, or into a file with times.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use env_logger::{Builder, Target};
use log::LevelFilter;

use super::error::CliError;
use super::progress;

/// The place of the flags of all commands: below those of the command.
const LAST: usize = 900;

/// How much is told.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Verbosity {
    /// Tell more: -v what is done, -vv how, -vvv everything [default: warnings; RUST_LOG is heeded]
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = LAST)]
    verbose: u8,
    /// Tell less: -q errors only and no progress, -qq nothing
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = LAST, conflicts_with = "verbose")]
    quiet: u8,
}

impl Verbosity {
    /// No progress is to be shown.
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet > 0
    }

    /// The flags, for a program that is started to do the work.
    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        let flags = [("-v", self.verbose), ("-q", self.quiet)];
        flags.into_iter().flat_map(|(flag, times)| std::iter::repeat_n(flag, times.into()))
    }

    /// The level that the flags ask for; None without flags.
    fn level(self) -> Option<LevelFilter> {
        match (self.verbose, self.quiet) {
            (0, 0) => None,
            (0, 1) => Some(LevelFilter::Error),
            (0, _) => Some(LevelFilter::Off),
            (1, _) => Some(LevelFilter::Info),
            (2, _) => Some(LevelFilter::Debug),
            (_, _) => Some(LevelFilter::Trace),
        }
    }
}

/// Standard error, with a progress bar out of the way.
struct BesideBar;

impl Write for BesideBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        progress::without_bar(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Starts logging: to `log_file` (created with mode 0600, appended to) where one is given.
pub(crate) fn start(verbosity: Verbosity, log_file: Option<&Path>) -> Result<(), CliError> {
    let mut builder = Builder::new();
    builder.filter_level(LevelFilter::Warn).parse_default_env();
    if let Some(level) = verbosity.level() {
        builder = Builder::new();
        builder.filter_level(level);
    }
    match log_file {
        Some(path) => {
            // It names threads and folders: for this user's eyes.
            let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
            let file = opened
                .map_err(|error| CliError::failed(format!("open the log file {}", path.display()), error))?;
            builder.format_timestamp_millis().target(Target::Pipe(Box::new(file)));
        }
        None => {
            builder.format(plain_line).target(Target::Pipe(Box::new(BesideBar)));
        }
    }
    // Only a second logger in one process is refused, and then the first one serves.
    let _ = builder.try_init();
    Ok(())
}

fn plain_line(line: &mut env_logger::fmt::Formatter, record: &log::Record<'_>) -> io::Result<()> {
    let text = record.args();
    match record.level() {
        log::Level::Error => writeln!(line, "rolloutfs: error: {text}"),
        log::Level::Warn => writeln!(line, "rolloutfs: warning: {text}"),
        log::Level::Info => writeln!(line, "rolloutfs: {text}"),
        log::Level::Debug | log::Level::Trace => writeln!(line, "{}: {text}", record.target()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_choose_the_level() {
        for (verbose, quiet, expected) in [
            (0, 0, None),
            (1, 0, Some(LevelFilter::Info)),
            (2, 0, Some(LevelFilter::Debug)),
            (9, 0, Some(LevelFilter::Trace)),
            (0, 1, Some(LevelFilter::Error)),
            (0, 2, Some(LevelFilter::Off)),
        ] {
            let verbosity = Verbosity { verbose, quiet };
            assert_eq!(verbosity.level(), expected, "-v {verbose} -q {quiet}");
            let words: Vec<_> = verbosity.words().collect();
            assert_eq!(words, [vec!["-v"; verbose.into()], vec!["-q"; quiet.into()]].concat());
        }
    }
}
