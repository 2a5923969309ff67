//! `rolloutfs list`: which threads are there? A table for people, tabs for programs, or JSON.

use std::env;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::home_args::{HomeArgs, absolute};
use super::text::{
    clean, cut, cut_start, escaped, output_error, pad, terminal_columns, to_stdout, write_json_line,
};
use crate::store::error::{Result, StoreError};
use crate::store::list::{Cursor, LIMIT_DEFAULT, ListItem, ListQuery, PROVIDER_DEFAULT, SortKey, Source};

/// Items asked for at once.
const PAGE_ITEMS_MAX: usize = 500;
/// Columns of `2026-02-08 10:15`.
const TIME_COLUMNS: usize = 16;
/// Columns of a whole id, and of its last digits where the terminal is narrow.
const ID_COLUMNS: usize = 36;
const SHORT_ID_COLUMNS: usize = 8;
/// Terminals from this width on show whole ids.
const WIDE_COLUMNS: usize = 110;
const CWD_COLUMNS_MAX: usize = 32;
const NAME_COLUMNS_MIN: usize = 10;

/// What `list` can sort by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum SortArg {
    /// Start of the thread
    Created,
    /// Last change of the file
    #[default]
    Updated,
}

/// Lists threads, newest first.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs list                                  active threads, the last written first
  rolloutfs list --all --cwd . --limit 0          every thread of this directory
  rolloutfs list --text needle --json | jq .path  paths of threads whose name, title or preview says it")]
pub(super) struct ListArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// Sort by this time
    #[arg(long, value_enum, default_value_t)]
    pub sort: SortArg,
    /// Oldest first
    #[arg(long)]
    pub asc: bool,
    /// Only active threads (the default)
    #[arg(long, conflicts_with_all = ["archived", "all"])]
    pub active: bool,
    /// Only archived threads
    #[arg(long, conflicts_with = "all")]
    pub archived: bool,
    /// Active and archived threads
    #[arg(long)]
    pub all: bool,
    /// Only threads of this source (cli, vscode, exec, mcp, subagent ...); may be given several times
    #[arg(long, value_name = "SOURCE")]
    pub source: Vec<String>,
    /// Only threads of this provider; may be given several times
    #[arg(long, value_name = "PROVIDER")]
    pub provider: Vec<String>,
    /// The provider of threads that name none
    #[arg(long, value_name = "PROVIDER", default_value = PROVIDER_DEFAULT)]
    pub default_provider: String,
    /// Only threads that began in DIR or had their last turn there [default DIR: the current one]
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    pub cwd: Option<PathBuf>,
    /// Only threads with this text in name, title or preview (case counts)
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// At most N threads; 0 for all
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT)]
    pub limit: usize,
    /// Go on where an earlier list ended; also a time, or TIME|ID
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

impl ListArgs {
    fn query(&self) -> Result<ListQuery> {
        let archived = if self.all { None } else { Some(self.archived) };
        let cursor = self.cursor.as_deref().map(str::parse::<Cursor>).transpose()?;
        Ok(ListQuery {
            sort: match self.sort {
                SortArg::Created => SortKey::Created,
                SortArg::Updated => SortKey::Updated,
            },
            descending: !self.asc,
            sources: self.source.clone(),
            providers: self.provider.clone(),
            default_provider: self.default_provider.clone(),
            cwds: self.cwd.as_deref().map(absolute).transpose()?.into_iter().collect(),
            archived,
            text: self.text.clone(),
            cursor,
            ..ListQuery::default()
        })
    }
}

/// Runs the command. Where more threads follow, the cursor to go on with goes to standard error.
///
/// # Errors
/// [`StoreError::NotAHome`], [`StoreError::Invalid`] for a malformed cursor, [`StoreError::Io`] for the output.
pub(super) fn run(args: &ListArgs) -> Result<(), StoreError> {
    let query = args.query()?;
    let source = args.home.source()?;
    let form = match (args.json, terminal_columns()) {
        (true, _) => Form::Json,
        (false, None) => Form::Tabs,
        (false, Some(columns)) => Form::Table(Table::of_width(columns)),
    };
    let mut next = None;
    to_stdout(|out| {
        next = write_list(out, &source, query, args.limit, &form)?;
        Ok(())
    })?;
    if let Some(cursor) = next {
        eprintln!("more threads follow: --cursor '{cursor}'");
    }
    Ok(())
}

enum Form {
    Json,
    Tabs,
    Table(Table),
}

/// Writes up to `limit` items (0: all). Returns where the next would begin.
fn write_list(
    out: &mut dyn Write,
    source: &Source,
    mut query: ListQuery,
    limit: usize,
    form: &Form,
) -> Result<Option<Cursor>> {
    let mut left = if limit == 0 { usize::MAX } else { limit };
    if let Form::Table(table) = form {
        writeln!(out, "{}", table.line("UPDATED", "NAME", "CWD", "ID")).map_err(output_error)?;
    }
    loop {
        query.limit = left.min(PAGE_ITEMS_MAX);
        let page = source.page(&query)?;
        for item in &page.items {
            match form {
                Form::Json => write_json_line(out, item)?,
                Form::Tabs => writeln!(out, "{}", tabs(item)).map_err(output_error)?,
                Form::Table(table) => writeln!(out, "{}", table.row(item)).map_err(output_error)?,
            }
        }
        left -= page.items.len();
        query.cursor = page.next_cursor;
        if query.cursor.is_none() || left == 0 {
            return Ok(query.cursor);
        }
    }
}

fn shown_cwd(item: &ListItem) -> &str {
    item.last_cwd.as_deref().unwrap_or(&item.cwd)
}

/// Updated, name, working directory, id.
fn tabs(item: &ListItem) -> String {
    [item.updated_at.clone(), clean(&item.label()), escaped(shown_cwd(item)), item.id.to_string()].join("\t")
}

/// Widths of the table's columns.
struct Table {
    name: usize,
    cwd: usize,
    id: usize,
    home: Option<String>,
}

impl Table {
    fn of_width(columns: usize) -> Table {
        let id = if columns >= WIDE_COLUMNS { ID_COLUMNS } else { SHORT_ID_COLUMNS };
        let left = columns.saturating_sub(TIME_COLUMNS + id + 6);
        let cwd = (left / 3).min(CWD_COLUMNS_MAX);
        let name = left.saturating_sub(cwd).max(NAME_COLUMNS_MIN);
        let home = env::var("HOME").ok().filter(|home| home.len() > 1);
        Table { name, cwd, id, home }
    }

    fn line(&self, updated: &str, name: &str, cwd: &str, id: &str) -> String {
        let updated = pad(updated, TIME_COLUMNS);
        format!("{updated}  {}  {}  {id}", pad(&cut(name, self.name), self.name), pad(cwd, self.cwd))
    }

    fn row(&self, item: &ListItem) -> String {
        let id = if self.id == ID_COLUMNS { item.id.to_string() } else { item.id.last8() };
        let cwd = cut_start(&self.short_cwd(shown_cwd(item)), self.cwd);
        self.line(&local_minute(&item.updated_at), &clean(&item.label()), &cwd, &id)
    }

    fn short_cwd(&self, cwd: &str) -> String {
        let below = self.home.as_deref().and_then(|home| cwd.strip_prefix(home));
        match below.filter(|below| below.is_empty() || below.starts_with('/')) {
            Some(below) => escaped(&format!("~{below}")),
            None => escaped(cwd),
        }
    }
}

/// A time on the clock of this machine, to the minute.
fn local_minute(time: &str) -> String {
    let Ok(parsed) = OffsetDateTime::parse(time, &Rfc3339) else { return time.to_owned() };
    let offset = UtcOffset::local_offset_at(parsed).unwrap_or(UtcOffset::UTC);
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]");
    parsed.to_offset(offset).format(&format).unwrap_or_else(|_| time.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::columns;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ListArgs,
    }

    fn home() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for day in 1..=3 {
            let id = format!("0198c0de-0000-7000-8000-00000000000{day}");
            let folder = dir.path().join(format!("sessions/2026/02/0{day}"));
            std::fs::create_dir_all(&folder).unwrap();
            let content = format!(
                "{{\"timestamp\":\"t\",\"type\":\"session_meta\",\"payload\":{{\"id\":\"{id}\",\"timestamp\":\"2026-02-0{day}T09:15:01.002Z\",\"cwd\":\"/srv/a\\tb\",\"source\":\"cli\"}}}}\n\
                 {{\"timestamp\":\"t\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"user_message\",\"message\":\"\\u001b[2J words\\n{day} \\u4fee\\u590d\"}}}}\n"
            );
            std::fs::write(folder.join(format!("rollout-2026-02-0{day}T09-15-01-{id}.jsonl")), content)
                .unwrap();
        }
        dir
    }

    fn written(arguments: &[&str], form: &Form) -> (String, Option<Cursor>) {
        let dir = home();
        let path = dir.path().to_str().unwrap();
        let all = ["list", "--home", path, "--sort", "created"].into_iter().chain(arguments.iter().copied());
        let args = Cli::try_parse_from(all).unwrap().args;
        let mut out = Vec::new();
        let source = args.home.source().unwrap();
        let next = write_list(&mut out, &source, args.query().unwrap(), args.limit, form).unwrap();
        (String::from_utf8(out).unwrap(), next)
    }

    #[test]
    fn tabs_are_four_columns_and_one_line_an_item() {
        let (text, next) = written(&["--limit", "2"], &Form::Tabs);
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            assert_eq!(fields.len(), 4, "{line}");
            assert_eq!(fields[2], "/srv/a\\tb");
            assert!(fields[1].starts_with("\\u{1b}[2J words"), "{line}");
        }
        assert!(text.lines().next().unwrap().ends_with("0003"));
        let (rest, end) = written(&["--limit", "0", "--cursor", &next.unwrap().to_string()], &Form::Tabs);
        assert!(rest.trim_end().ends_with("0001") && end.is_none());
    }

    #[test]
    fn json_has_one_object_a_line() {
        let (text, _) = written(&["--limit", "0", "--asc"], &Form::Json);
        let ids: Vec<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap()[35..]
                    .to_owned()
            })
            .collect();
        assert_eq!(ids, ["1", "2", "3"]);
    }

    #[test]
    fn the_table_fits_the_terminal() {
        for width in [60, 80, 120, 200] {
            let (text, _) = written(&[], &Form::Table(Table::of_width(width)));
            assert_eq!(text.lines().count(), 4);
            for line in text.lines() {
                assert!(columns(line) <= width, "{width}: {line}");
                assert!(!line.contains('\u{1b}'));
            }
        }
        assert!(!written(&[], &Form::Table(Table::of_width(5))).0.is_empty());
    }

    #[test]
    fn options_become_a_query() {
        let query = |arguments: &[&str]| Cli::try_parse_from(arguments).map(|cli| cli.args.query());
        let plain = query(&["list"]).unwrap().unwrap();
        assert_eq!((plain.archived, plain.descending, plain.sort), (Some(false), true, SortKey::Updated));
        assert_eq!(query(&["list", "--all"]).unwrap().unwrap().archived, None);
        assert_eq!(query(&["list", "--archived", "--asc"]).unwrap().unwrap().archived, Some(true));
        assert!(query(&["list", "--archived", "--all"]).is_err());
        let here = query(&["list", "--cwd", "--source", "cli", "--source", "exec"]).unwrap().unwrap();
        assert_eq!((here.cwds, here.sources.len()), (vec![std::env::current_dir().unwrap()], 2));
        assert!(matches!(query(&["list", "--cursor", "x"]).unwrap(), Err(StoreError::Invalid(_))));
    }

    #[test]
    fn a_closed_pipe_is_a_success_and_a_full_disk_is_not() {
        let fail = |kind: std::io::ErrorKind| to_stdout(|_| Err(output_error(kind.into())));
        assert!(fail(std::io::ErrorKind::BrokenPipe).is_ok());
        assert!(fail(std::io::ErrorKind::StorageFull).is_err());
    }
}
