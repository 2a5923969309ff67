//! `rolloutfs trash`: what was removed, how does it come back, and when does it go for good?

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::home_args::HomeArgs;
use super::text::{clean, escaped, output_error, to_stdout, write_json_line};
use crate::store::error::{Result, StoreError};
use crate::store::trash::{Destroyed, Trash, TrashItem};

/// Units of `--older-than`, in seconds.
const UNITS: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 7 * 86_400)];

/// Lists, restores or destroys what was removed.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs trash list                        the oldest first
  rolloutfs trash restore planb               back where it was
  rolloutfs trash restore --since 10m         what was removed in the last ten minutes
  rolloutfs trash empty --older-than 30d      these for good

What is removed in a mount goes to the trash and stays there until it is emptied.")]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Lists what is in the trash, the oldest first
    List(ListArgs),
    /// Puts removed threads back where they were
    Restore(RestoreArgs),
    /// Destroys what was removed long ago, with its names
    Empty(EmptyArgs),
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct RestoreArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Items, each by its id in the trash, or by the id, the last 8 digits of the id, or the name of its thread
    #[arg(value_name = "ITEM", required_unless_present_any = ["all", "since"])]
    items: Vec<String>,
    /// Everything in the trash
    #[arg(long, conflicts_with_all = ["items", "since"])]
    all: bool,
    /// What was removed within this time: a number and s, m, h, d or w, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "items")]
    since: Option<Duration>,
    /// Into this folder of the home (such as archived_sessions) instead of where it was
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// One JSON object an item
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct EmptyArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// What was removed longer ago than this: a number and s, m, h, d or w, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, required_unless_present = "all")]
    older_than: Option<Duration>,
    /// Everything
    #[arg(long, conflicts_with = "older_than")]
    all: bool,
    /// Also what the history of another thread lies in: that one cannot be read then
    #[arg(long)]
    force: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// As [`Trash`]'s operations.
pub(super) fn run(args: &TrashArgs) -> Result<()> {
    match &args.action {
        Action::List(args) => {
            let items = trash_of(&args.home)?.list()?;
            to_stdout(|out| items.iter().try_for_each(|item| write_item(out, item, args.json)))
        }
        Action::Restore(args) => restore(args),
        Action::Empty(args) => {
            let older_than = args.older_than.filter(|_| !args.all).unwrap_or(Duration::ZERO);
            let Destroyed { gone, needed } = trash_of(&args.home)?.destroy(older_than, args.force)?;
            to_stdout(|out| {
                gone.iter().try_for_each(|item| write_item(out, item, args.json))?;
                if args.json {
                    return Ok(());
                }
                writeln!(out, "{} destroyed", gone.len()).map_err(output_error)
            })?;
            let lines = needed
                .iter()
                .map(|(item, by)| format!("\n  {}, from which {} goes on", label(item), escaped(by)));
            match lines.collect::<String>() {
                lines if lines.is_empty() => Ok(()),
                lines => Err(StoreError::Invalid(format!(
                    "kept, as other threads cannot be read without them (--force destroys them):{lines}"
                ))),
            }
        }
    }
}

fn trash_of(home: &HomeArgs) -> Result<Trash> {
    Ok(Trash::of_home(&home.resolve()?, home.state_dir.as_deref()))
}

fn restore(args: &RestoreArgs) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let trash = trash_of(&args.home)?;
    let mut items: Vec<TrashItem> = Vec::new();
    if args.all || args.since.is_some() {
        let since = args.since.unwrap_or(Duration::MAX);
        let is_meant = |item: &TrashItem| args.all || item.removed_before().is_some_and(|age| age <= since);
        items = trash.list()?.into_iter().filter(is_meant).collect();
    }
    for text in &args.items {
        let item = trash.find(text)?;
        if !items.iter().any(|other| other.id == item.id) {
            items.push(item);
        }
    }
    let to = args.to.as_ref().map(|to| to.as_os_str().as_bytes());
    let to = to.map(|to| to.strip_suffix(b"/").unwrap_or(to));
    let mut first_error = None;
    let single = items.len() == 1;
    trash.restore_all(&items, to, &mut |item, restored| match restored {
        Ok(files) => write_restored(item, &files, args.json),
        // The others are tried all the same.
        Err(error) => {
            if !single {
                eprintln!("not restored: {}: {error}", label(item));
            }
            first_error = first_error.take().or(Some(error));
            Ok(())
        }
    })?;
    first_error.map_or(Ok(()), Err)
}

fn write_restored(item: &TrashItem, files: &[PathBuf], json: bool) -> Result<()> {
    to_stdout(|out| {
        if json {
            return write_json_line(
                out,
                &serde_json::json!({"id": item.id, "thread_id": item.info.thread_id,
                "name": item.info.name, "files": files}),
            );
        }
        writeln!(out, "restored: {}", label(item)).map_err(output_error)?;
        let mut lines = files.iter().map(|file| escaped(&file.to_string_lossy()));
        lines.try_for_each(|line| writeln!(out, "  {line}").map_err(output_error))
    })
}

fn label(item: &TrashItem) -> String {
    match (&item.info.name, item.info.thread_id) {
        (Some(name), Some(id)) => format!("{} ({id})", clean(name)),
        (None, Some(id)) => id.to_string(),
        _ => item.info.files.first().map_or_else(String::new, |file| escaped(&file.path)),
    }
}

/// Item, when, bytes, thread, why: tabs between.
fn write_item(out: &mut dyn Write, item: &TrashItem, json: bool) -> Result<()> {
    if json {
        return write_json_line(out, item);
    }
    let bytes: u64 = item.info.files.iter().map(|file| file.size_bytes).sum();
    let (when, why) = (clean(&item.info.removed_at), clean(&item.info.why));
    writeln!(out, "{}\t{when}\t{bytes}\t{}\t{why}", escaped(&item.id), label(item)).map_err(output_error)
}

/// `30d`, `12h`, `0s`; a number without a unit could be meant as anything.
fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || "a number and one of s, m, h, d, w is needed, such as 30d".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{ID, made};
    use super::*;
    use crate::store::trash::{PutOptions, companions};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: TrashArgs,
    }

    fn trash(home: &HomeArgs, arguments: &[&str]) -> Result<()> {
        let path = home.home.as_ref().unwrap().to_str().unwrap();
        let home = ["--home", path];
        let all = ["trash"].iter().chain(arguments).chain(&home);
        run(&Cli::try_parse_from(all).unwrap().args)
    }

    #[test]
    fn what_was_removed_comes_back_or_goes() {
        let (dir, home) = made(false);
        let store = home.resolve().unwrap();
        let item = home.source().unwrap().find("planb").unwrap();
        let put = || {
            let options =
                PutOptions { name: Some("a\u{1b}b".to_owned()), why: "rm".to_owned(), ..Default::default() };
            trash_of(&home).unwrap().put(&companions(&store, item.path.as_bytes(), true), &options).unwrap()
        };
        trash(&home, &["list"]).unwrap();
        let removed = put();
        assert!(!item.file.exists());
        let mut line = Vec::new();
        write_item(&mut line, &removed, false).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(&format!("\ta\\u{{1b}}b ({ID})\trm\n")), "{line}");
        trash(&home, &["empty", "--older-than", "1h"]).unwrap();
        trash(&home, &["restore", &removed.id, "--json"]).unwrap();
        assert!(item.file.exists());
        assert!(matches!(trash(&home, &["restore", ID]), Err(StoreError::NotFound { .. })));
        put();
        trash(&home, &["restore", ID, "--to", "archived_sessions/"]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("archived_sessions")).unwrap().count(), 1);
        put();
        trash(&home, &["empty", "--all"]).unwrap();
        assert!(home.source().unwrap().find(ID).is_err());
        assert_eq!(std::fs::read_to_string(store.session_index()).unwrap(), "");
    }

    #[test]
    fn to_empty_the_trash_one_says_how_much() {
        for wrong in [&["trash", "empty"][..], &["trash", "empty", "--all", "--older-than", "1d"]] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
        for (text, seconds) in [
            ("30d", Some(30 * 86_400)),
            ("0s", Some(0)),
            ("2w", Some(14 * 86_400)),
            ("90m", Some(5400)),
            ("12h", Some(43_200)),
            ("5", None),
            ("d", None),
            ("-1d", None),
            ("1.5d", None),
            ("1 d", None),
            ("", None),
            ("99999999999999999999d", None),
            ("18446744073709551615w", None),
        ] {
            assert_eq!(parse_duration(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
