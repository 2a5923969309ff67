//! `rolloutfs record`: how does a program that is not Codex write a thread into a home?
//!
//! Items come as JSON lines on standard input and go through the store's recorder, which has all the rules.

use std::env;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::error::CliError;
use super::exit_codes::Exit;
use super::home_args::{HomeArgs, absolute};
use super::output;
use crate::store::error::{Result, StoreError};
use crate::store::recorder::{Durability, HistoryMode, Item, NewThread, Recorded, Recorder, RecorderOptions};
use crate::store::rollout::ThreadId;

/// The longest line of input. Codex has written items of a hundred megabytes.
const INPUT_LINE_BYTES_MAX: usize = 256 << 20;
/// Items that wait for the user's first message take no more memory than this; then the file is made without one.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Lines that are refused by name; the others are only counted.
const REFUSED_SHOWN_MAX: u64 = 100;

/// Record items from standard input as a thread of the home
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  my-agent | rolloutfs record --source cli --originator my-agent
  echo '{\"type\":\"event_msg\",\"payload\":{\"type\":\"user_message\",\"message\":\"Hello\"}}' | rolloutfs record
  my-agent | rolloutfs record --resume 0198c0de --json

Each line is {\"type\":...,\"payload\":{...}}, or a whole line of a rollout. What Codex would not write is dropped. \
The file is made with the user's first message, or at the end of the input; without items there is none. Lines that \
are no items are told on standard error and passed over, and the exit code is 1.")]
pub(super) struct RecordArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Go on with this thread: its id or a part of it, its name, or its path
    #[arg(long, value_name = "THREAD", conflicts_with_all = ["cwd", "source", "originator", "model_provider", "paginated"])]
    resume: Option<String>,
    /// Where the thread works; git is asked there [default: the current folder]
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// What kind of client: a word such as cli, vscode or exec, or a JSON object [default: exec]
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Name of the client program [default: rolloutfs]
    #[arg(long, value_name = "NAME")]
    originator: Option<String>,
    /// Who serves the model [default: none, which readers take for theirs]
    #[arg(long, value_name = "NAME")]
    model_provider: Option<String>,
    /// Number the lines, and keep messages as completed items
    #[arg(long)]
    paginated: bool,
    /// Keep the times of lines that have one, instead of stamping them anew
    #[arg(long)]
    keep_timestamps: bool,
    /// Wait at the end until all is on the disk
    #[arg(long)]
    durable: bool,
    /// Print counts and times, too, as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Place<'a> {
    path: Option<&'a Path>,
    id: Option<ThreadId>,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    resumed: bool,
    input_lines: u64,
    recorded_items: u64,
    dropped_items: u64,
    malformed_lines: u64,
    written_bytes: u64,
    elapsed_seconds: f64,
    items_per_second: f64,
}

#[derive(Default)]
struct Counts {
    lines: u64,
    recorded: Recorded,
    malformed: u64,
}

/// Runs the command.
pub(super) fn run(args: &RecordArgs) -> std::result::Result<Exit, CliError> {
    let started = Instant::now();
    let mut recorder = recorder(args)?;
    let mut counts = Counts::default();
    let read = copy(&mut io::stdin().lock(), &mut recorder, &mut counts);
    // What came before an error of the input is kept, too.
    recorder.flush()?;
    read?;
    let elapsed_seconds = started.elapsed().as_secs_f64();
    let is_there = recorder.is_materialised();
    let place = Place { path: is_there.then(|| recorder.path()), id: is_there.then(|| recorder.id()) };
    if args.json {
        let summary = Summary {
            place,
            resumed: args.resume.is_some(),
            input_lines: counts.lines,
            recorded_items: recorder.written_count(),
            dropped_items: counts.recorded.dropped_count,
            malformed_lines: counts.malformed,
            written_bytes: recorder.written_bytes(),
            elapsed_seconds,
            items_per_second: recorder.written_count() as f64 / elapsed_seconds.max(f64::MIN_POSITIVE),
        };
        output::print(&summary, true)?;
    } else if is_there {
        output::print(&place, false)?;
    } else {
        tell("nothing was recorded, so there is no file");
    }
    if counts.malformed == 0 {
        return Ok(Exit::Ok);
    }
    let (malformed, lines) = (counts.malformed, counts.lines);
    tell(&format!("{malformed} of {lines} lines were no items; all others are recorded"));
    Ok(Exit::Failed)
}

/// Says something on standard error. Nobody is left to be told when that is closed too.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "rolloutfs: {text}");
}

fn recorder(args: &RecordArgs) -> Result<Recorder> {
    let home = args.home.resolve()?;
    let options = RecorderOptions {
        durability: if args.durable { Durability::Flush } else { Durability::System },
        keeps_given_times: args.keep_timestamps,
        ..RecorderOptions::default()
    };
    if let Some(text) = &args.resume {
        let item = args.home.source()?.find(text)?;
        if item.archived {
            let id = item.id;
            let text =
                format!("thread {id} is archived; move its file back below sessions/ to go on with it");
            return Err(StoreError::Invalid(text));
        }
        return Recorder::resume(home.root(), &item.file, options);
    }
    let mut thread = NewThread::new(match &args.cwd {
        Some(dir) => absolute(dir)?,
        None => env::current_dir().map_err(StoreError::io("resolve", Path::new(".")))?,
    });
    if let Some(text) = &args.source {
        thread.source = source(text)?;
    }
    if let Some(name) = &args.originator {
        thread.originator.clone_from(name);
    }
    thread.model_provider.clone_from(&args.model_provider);
    thread.history_mode = if args.paginated { HistoryMode::Paginated } else { HistoryMode::Legacy };
    Ok(Recorder::create(home.root(), thread, options))
}

/// A word, or an object as JSON.
fn source(text: &str) -> Result<Value> {
    if !text.starts_with('{') {
        return Ok(Value::from(text));
    }
    let invalid = |error| StoreError::Invalid(format!("the source {text:?} is no JSON object: {error}"));
    serde_json::from_str(text).map_err(invalid)
}

/// Records all lines of the input as they come.
fn copy(input: &mut dyn BufRead, recorder: &mut Recorder, counts: &mut Counts) -> Result<()> {
    let mut line = Vec::new();
    loop {
        let fits =
            read_line(input, &mut line).map_err(StoreError::io("read", Path::new("standard input")))?;
        let Some(fits) = fits else { return Ok(()) };
        counts.lines += 1;
        if fits && line.trim_ascii().is_empty() {
            continue;
        }
        let item = if fits {
            Item::parse(&line).map_err(|error| error.to_string())
        } else {
            Err(format!("longer than {INPUT_LINE_BYTES_MAX} bytes"))
        };
        match item {
            Ok(item) => {
                let recorded = recorder.record_items(vec![item]);
                counts.recorded.kept_count += recorded.kept_count;
                counts.recorded.dropped_count += recorded.dropped_count;
            }
            Err(reason) => refuse(&reason, counts),
        }
        let stuck = recorder.is_materialised() && recorder.pending_count() > 0;
        if stuck || recorder.pending_bytes() > WAITING_BYTES_MAX {
            recorder.flush()?;
        }
    }
}

fn refuse(reason: &str, counts: &mut Counts) {
    counts.malformed += 1;
    if counts.malformed <= REFUSED_SHOWN_MAX {
        tell(&format!("line {}: {}", counts.lines, output::clean(reason)));
    }
}

/// Reads a line, without its end. None at the end of the input; false where the line is too long, and passed over.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let (mut began, mut fits) = (false, true);
    loop {
        let buffer = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            return Ok(began.then_some(fits));
        }
        began = true;
        let newline = memchr::memchr(b'\n', buffer);
        let part = &buffer[..newline.unwrap_or(buffer.len())];
        fits = fits && line.len() + part.len() <= INPUT_LINE_BYTES_MAX;
        if fits {
            line.extend_from_slice(part);
        } else {
            *line = Vec::new();
        }
        let used = part.len() + usize::from(newline.is_some());
        input.consume(used);
        if newline.is_some() {
            return Ok(Some(fits));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn record(recorder: &mut Recorder, input: &str) -> Counts {
        let mut counts = Counts::default();
        // A small buffer: lines come in parts.
        copy(&mut io::BufReader::with_capacity(7, input.as_bytes()), recorder, &mut counts).unwrap();
        recorder.flush().unwrap();
        counts
    }

    #[test]
    fn good_lines_are_recorded_and_bad_ones_counted() {
        let home = tempfile::tempdir().unwrap();
        let thread = NewThread::new("/nowhere".into());
        let mut recorder = Recorder::create(home.path(), thread, RecorderOptions::default());
        let input = "\
{\"type\":\"response_item\",\"payload\":{\"type\":\"message\"}}
\n  \nnot json
{\"type\":\"event_msg\",\"payload\":{\"type\":\"agent_message_delta\"}}
{\"timestamp\":\"2025-01-01T00:00:00Z\",\"type\":\"event_msg\",\"payload\":{\"type\":\"user_message\",\"message\":\"x\"}}
{\"type\":\"event_msg\",\"payload\":{}}
{\"type\":\"compacted\",\"payload\":{}}";
        let counts = record(&mut recorder, input);
        assert_eq!((counts.lines, counts.malformed), (8, 2));
        assert_eq!((counts.recorded.kept_count, counts.recorded.dropped_count), (3, 1));
        let text = fs::read_to_string(recorder.path()).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert!(!text.contains("2025-01-01"), "stamped anew");
    }

    #[test]
    fn nothing_recorded_is_no_file() {
        let home = tempfile::tempdir().unwrap();
        let thread = NewThread::new("/nowhere".into());
        let mut recorder = Recorder::create(home.path(), thread, RecorderOptions::default());
        let counts =
            record(&mut recorder, "garbage\n{\"type\":\"event_msg\",\"payload\":{\"type\":\"warning\"}}\n");
        assert_eq!((counts.malformed, counts.recorded.dropped_count), (1, 1));
        assert!(!recorder.is_materialised());
        assert!(fs::read_dir(home.path()).unwrap().next().is_none());
    }

    #[test]
    fn sources_are_words_or_objects() {
        assert_eq!(source("cli").unwrap(), "cli");
        assert_eq!(source("{\"subagent\":\"review\"}").unwrap()["subagent"], "review");
        assert!(source("{oops").unwrap_err().to_string().contains("oops"));
    }

    #[test]
    fn the_end_of_input_ends_a_line() {
        let lines = |text: &str| {
            let mut input = io::BufReader::with_capacity(3, text.as_bytes());
            let (mut lines, mut line) = (Vec::new(), Vec::new());
            while let Some(fits) = read_line(&mut input, &mut line).unwrap() {
                assert!(fits);
                lines.push(String::from_utf8(line.clone()).unwrap());
            }
            lines
        };
        assert_eq!(lines(""), [""; 0]);
        assert_eq!(lines("a"), ["a"]);
        assert_eq!(lines("abcdef\n\nb\n"), ["abcdef", "", "b"]);
    }
}
