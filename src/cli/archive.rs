//! `rolloutfs archive`: how is a thread put away?

use clap::Args;
use serde::Serialize;

use super::home_args::HomeArgs;
use super::text::{clean, cut, escaped, output_error, to_stdout, write_json_line};
use crate::store::archive::{self, MoveOptions, Moved, files_of};
use crate::store::error::Result;
use crate::store::home::Home;
use crate::store::list::ListItem;

/// Columns of a thread's label in messages.
const LABEL_COLUMNS_MAX: usize = 80;

/// Moves threads into the archive; `unarchive` brings them back.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs archive planb                 a thread by its name
  rolloutfs archive 0198c0de 5f3a9b21     several, by the first or last digits of their ids

A running mount shows the change at once. Nothing is replaced; names, times and content stay.")]
pub(super) struct ArchiveArgs {
    #[command(flatten)]
    pub which: MovedArgs,
}

/// Which threads are moved, and how.
#[derive(Args, Clone, Debug)]
pub(super) struct MovedArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// Threads, each as `show` takes it: an id, the beginning or the last 8 digits of it, a name, or a path
    #[arg(value_name = "THREAD", required = true)]
    pub threads: Vec<String>,
    /// Also a thread that Codex is writing
    #[arg(long)]
    pub force: bool,
    /// One JSON object a thread
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// [`crate::store::error::StoreError::NotFound`] before anything is moved; as [`archive::archive`] for the first
/// thread that could not be moved.
pub(super) fn run(args: &ArchiveArgs) -> Result<()> {
    move_all(&args.which, Way::Archive)
}

/// What a thread is called, in one line that is not too long.
pub(super) fn short_label(item: &ListItem) -> String {
    cut(&clean(&item.label()), LABEL_COLUMNS_MAX)
}

/// Which way threads are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Into the archive.
    Archive,
    /// Out of it.
    Unarchive,
}

/// What became of one thread.
#[derive(Debug, Serialize)]
struct Outcome {
    id: String,
    name: Option<String>,
    /// Logical path of its current file now.
    path: String,
    file: std::path::PathBuf,
    archived: bool,
    /// False if it was there before.
    moved: bool,
}

/// Moves all files of each thread. All threads are looked up before the first is moved.
pub(super) fn move_all(args: &MovedArgs, way: Way) -> Result<()> {
    let source = args.home.source()?;
    let mut items: Vec<ListItem> = Vec::new();
    for thread in &args.threads {
        let item = source.find(thread)?;
        if !items.iter().any(|other| other.id == item.id) {
            items.push(item);
        }
    }
    for item in &items {
        let outcome = move_thread(source.home(), item, args.force, way)?;
        to_stdout(|out| {
            if args.json {
                return write_json_line(out, &outcome);
            }
            let label = short_label(item);
            let verb = match (outcome.moved, way) {
                (true, Way::Archive) => "archived",
                (true, Way::Unarchive) => "unarchived",
                (false, Way::Archive) => "archived before",
                (false, Way::Unarchive) => "active before",
            };
            writeln!(out, "{verb}: {label} ({})\n  {}", outcome.id, escaped(&outcome.path))
                .map_err(output_error)
        })?;
    }
    Ok(())
}

/// A thread may have several files (spec 9.6). The current one is the last to leave `sessions` and the first to come
/// back: Codex looks there first, and would go on with an outdated one.
fn move_thread(home: &Home, item: &ListItem, force: bool, way: Way) -> Result<Outcome> {
    let known = files_of(home, item.id)?;
    let is_archived = |path: &[u8]| path.starts_with(b"archived_sessions/");
    let mut paths: Vec<_> =
        known.iter().filter(|path| is_archived(path) == (way == Way::Unarchive)).collect();
    if way == Way::Unarchive {
        paths.reverse();
    }
    let options = MoveOptions {
        known: Some(&known),
        despite_writer: force,
        touch: way == Way::Unarchive,
        durable: true,
    };
    let mut moved: Vec<Moved> = Vec::new();
    for path in paths {
        moved.push(match way {
            Way::Archive => archive::archive(home, path, &options)?,
            Way::Unarchive => archive::unarchive(home, path, &options)?,
        });
    }
    let current = match way {
        Way::Archive => moved.last(),
        Way::Unarchive => moved.first(),
    };
    let (path, file) = match current {
        Some(current) => (String::from_utf8_lossy(&current.path).into_owned(), current.file.clone()),
        None => (item.path.clone(), item.file.clone()),
    };
    let archived = way == Way::Archive;
    Ok(Outcome {
        id: item.id.to_string(),
        name: item.name.clone(),
        path,
        file,
        archived,
        moved: current.is_some(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::store::error::StoreError;

    pub(in crate::cli) const ID: &str = "0198c0de-0000-7000-8000-000000000001";

    /// A home with one thread that has a name, of two files if asked.
    pub(in crate::cli) fn made(with_segment: bool) -> (tempfile::TempDir, HomeArgs) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("sessions/2026/02/08");
        fs::create_dir_all(&folder).unwrap();
        let content = format!(
            "{{\"timestamp\":\"t\",\"type\":\"session_meta\",\"payload\":{{\"id\":\"{ID}\",\"timestamp\":\"2026-02-08T09:15:01.002Z\",\"cwd\":\"/srv/demo\",\"source\":\"cli\"}}}}\n"
        );
        fs::write(folder.join(format!("rollout-2026-02-08T09-15-01-{ID}.jsonl")), &content).unwrap();
        if with_segment {
            let name = format!("rollout-2026-02-08T11-00-00-{ID}_0198c0de-0000-7000-8000-0000000000bb.jsonl");
            fs::write(folder.join(name), content).unwrap();
        }
        let entry = format!("{{\"id\":\"{ID}\",\"thread_name\":\"planb\",\"updated_at\":\"unknown\"}}\n");
        fs::write(dir.path().join("session_index.jsonl"), entry).unwrap();
        let home = HomeArgs { home: Some(dir.path().to_owned()), state_dir: None };
        (dir, home)
    }

    #[test]
    fn a_thread_goes_with_all_its_files_and_comes_back() {
        for with_segment in [false, true] {
            let (dir, home) = made(with_segment);
            let item = || home.source().unwrap().find("planb").unwrap();
            let (way, back) = (Way::Archive, Way::Unarchive);
            let store = home.resolve().unwrap();
            let there = move_thread(&store, &item(), false, way).unwrap();
            assert!(there.moved && there.archived && item().archived);
            let count = fs::read_dir(dir.path().join("archived_sessions")).unwrap().count();
            assert_eq!(count, 1 + usize::from(with_segment));
            assert_eq!(there.path.contains("0000000000bb"), with_segment, "the current file is named");
            assert!(!move_thread(&store, &item(), false, way).unwrap().moved, "again is no error");
            let here = move_thread(&store, &item(), false, back).unwrap();
            assert!(here.moved && !here.archived && !item().archived);
            assert_eq!(here.path, item().path);
            assert!(!move_thread(&store, &item(), false, back).unwrap().moved);
        }
    }

    #[test]
    fn nothing_is_moved_unless_all_threads_are_known() {
        let (dir, home) = made(false);
        let threads = vec!["planb".into(), "other".into()];
        let refused = move_all(&MovedArgs { home, threads, force: false, json: true }, Way::Archive);
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
        assert!(!dir.path().join("archived_sessions").exists());
    }
}
