//! `rolloutfs watch`: what happens to the threads of a home? One line a piece, until it is ended.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::error::CliError;
use super::exit_codes::Exit;
use super::home_args::HomeArgs;
use super::mount::parse_poll;
use super::mounts;
use super::text::{clean, output_error, write_json_line};
use crate::fs::session::MountError;
use crate::store::home::Home;
use crate::store::stream::{Happening, Stream};

/// Added to a signal's number for the exit code, as shells do.
const SIGNAL_EXIT_BASE: i32 = 128;

/// Say what happens to the threads of a home, a line a change, until it is ended
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs watch                                            threads of ~/.codex as they appear, grow, are named ...
  rolloutfs watch --json | jq -r 'select(.event == \"appeared\").path'
  rolloutfs watch ~/codex                                    of the home that is mounted there

Events: watching (the first line: what happens from here on is told), appeared, grew, changed, archived, unarchived, \
moved, compressed, decompressed, gone, named, unnamed. It works with and without a mount, reads no thread, and ends with \
SIGINT, SIGTERM, or when its output is closed.")]
pub(super) struct WatchArgs {
    /// The mount whose home is meant
    #[arg(value_name = "MOUNTPOINT", conflicts_with = "home")]
    pub mountpoint: Option<PathBuf>,
    /// The Codex home [default: $CODEX_HOME, else ~/.codex]
    #[arg(long, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Find changes by comparing everything so often, not by inotify
    #[arg(long, value_name = "SECONDS", value_parser = parse_poll)]
    pub poll: Option<Duration>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(args: &WatchArgs) -> Result<Exit, CliError> {
    let home = match &args.mountpoint {
        Some(path) => {
            let mount = mounts::at(path).ok_or_else(|| MountError::NotMounted { path: path.clone() })?;
            Home::open(&mount.home)?
        }
        None => HomeArgs { home: args.home.clone(), state_dir: None }.resolve()?,
    };
    // From before the first listing on: a signal then ends it in order too.
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| CliError::failed("catch signals", error))?;
    let mut stream = Stream::open(&home, args.poll)?;
    let (ended_by, stopper) = (Arc::new(AtomicI32::new(0)), stream.stopper());
    let noted = ended_by.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if noted.swap(signal, Ordering::SeqCst) != 0 {
                    signal_hook::low_level::exit(SIGNAL_EXIT_BASE + signal);
                }
                stopper.stop();
            }
        })
        .map_err(|error| CliError::failed("start a thread", error))?;
    let mut out = std::io::stdout().lock();
    while let Some(happening) = stream.wait()? {
        match args.json {
            true => write_json_line(&mut out, &happening)?,
            false => writeln!(out, "{}", line(&happening)).map_err(output_error)?,
        }
        out.flush().map_err(output_error)?;
    }
    Ok(match ended_by.load(Ordering::SeqCst) {
        SIGINT => Exit::Interrupted,
        SIGTERM | SIGHUP => Exit::Terminated,
        _ => Exit::Ok,
    })
}

/// Columns, separated by tabs: time, event, thread, path or name, and what else there is to say.
fn line(happening: &Happening) -> String {
    let event = serde_json::to_value(happening.event).ok();
    let event = event.as_ref().and_then(|event| event.as_str()).unwrap_or_default();
    let bytes = match (happening.bytes_before, happening.bytes) {
        (Some(before), Some(now)) => Some(format!("{before} -> {now} bytes")),
        (None, Some(now)) => Some(format!("{now} bytes")),
        _ => happening.rollouts.map(|count| format!("{count} threads")),
    };
    let columns = [
        Some(happening.at.clone()),
        Some(event.to_owned()),
        happening.id.clone(),
        happening.path.as_deref().or(happening.name.as_deref()).map(clean),
        bytes,
        happening.from.as_deref().map(|from| format!("from {}", clean(from))),
        happening.name_before.as_deref().map(|name| format!("before {}", clean(name))),
    ];
    columns.into_iter().flatten().collect::<Vec<_>>().join("\t")
}
