//! How is it going? `rolloutfs status` asks the mount, or, where there is none, the index.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::home_args::HomeArgs;
use super::index_queries::{Totals, totals};
use super::mounts::{self, Mount};
use super::output;
use crate::fs::session::MountError;
use crate::store::error::StoreError;
use crate::store::home::{Home, INDEX_NAME, STATE_DIR_NAME};
use crate::store::index::Index;
use crate::views::Views;

/// Files that could not be read, told by name.
const FAILURES_MAX: usize = 20;
/// A status file larger than this is not one.
const STATUS_BYTES_MAX: u64 = 16 << 20;

/// Say how a mount is, or what the index knows where there is no mount
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rolloutfs status                     the mount of ~/.codex, else its index
  rolloutfs status ~/codex             the mount there
  rolloutfs status --json | jq .

Sizes are in units of 1024; times are UTC. With --json the end of a key says the unit: `_bytes`, `_seconds`, `_ms`, \
and `_at` for seconds since 1970.")]
pub(crate) struct StatusArgs {
    /// Where it is mounted [default: the mount of the home, if there is one]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    home: HomeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Unmounted {
    home: PathBuf,
    mounted: bool,
    state_dir: Option<PathBuf>,
    /// Bytes of the index on disk, with its log.
    index_bytes: Option<u64>,
    /// When the index was last written, seconds since 1970.
    index_written_at: Option<i64>,
    #[serde(flatten)]
    totals: Option<Totals>,
    /// What to do, where there is something.
    advice: Option<&'static str>,
}

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> Result<(), CliError> {
    if let Some(mountpoint) = &args.mountpoint {
        let mount =
            mounts::at(mountpoint).ok_or_else(|| MountError::NotMounted { path: mountpoint.clone() })?;
        return of_mount(&mount, args.json);
    }
    let home = Home::resolve(args.home.home.as_deref())?;
    match mounts::of_home(home.root()) {
        Some(mount) => of_mount(&mount, args.json),
        None => output::print(&of_index(&home, args.home.state_dir.as_deref())?, args.json),
    }
}

fn of_mount(mount: &Mount, json: bool) -> Result<(), CliError> {
    let path = mount.mount_point.join(STATE_DIR_NAME).join("status.json");
    let text = read_status(&path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => CliError::failed(
            format!("ask the mount at {}", mount.mount_point.display()),
            format!(
                "its daemon is gone; `rolloutfs unmount {}` clears it, then mount again",
                mount.mount_point.display()
            ),
        ),
        _ => StoreError::io("read", &path)(error).into(),
    })?;
    if json { output::write(text.as_bytes()) } else { output::print_json(&text) }
}

fn read_status(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(STATUS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn of_index(home: &Home, state_dir: Option<&Path>) -> Result<Unmounted, CliError> {
    let mut status = Unmounted {
        home: home.root().to_owned(),
        mounted: false,
        state_dir: home.find_state_dir(state_dir),
        index_bytes: None,
        index_written_at: None,
        totals: None,
        advice: None,
    };
    let Some(found) = &status.state_dir else {
        status.advice = Some("there is no index yet: `rolloutfs index` or the first mount makes it");
        return Ok(status);
    };
    let path = found.join(INDEX_NAME);
    // Before it is opened: SQLite may tidy up.
    let files: Vec<_> = ["index.sqlite", "index.sqlite-wal"]
        .iter()
        .filter_map(|name| fs::metadata(found.join(name)).ok())
        .collect();
    status.index_bytes = Some(files.iter().map(fs::Metadata::len).sum());
    status.index_written_at = files.iter().map(MetadataExt::mtime).max();
    status.totals = totals(&Index::new(&path), &Views::new(), FAILURES_MAX)?;
    status.advice = match &status.totals {
        None => Some("the index is of another version of rolloutfs: `rolloutfs index` makes it again"),
        Some(totals) if totals.backfill.last_success_at.is_none() => {
            Some("the index is not whole: `rolloutfs index` or a mount goes on")
        }
        Some(totals) if totals.counts.unread > 0 => {
            Some("some files are not read yet: `rolloutfs index` or a mount goes on")
        }
        Some(_) => None,
    };
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_without_an_index_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sessions")).unwrap();
        let state = tempfile::tempdir().unwrap();
        let status = of_index(&Home::open(dir.path()).unwrap(), Some(state.path())).unwrap();
        assert!(status.state_dir.is_none() && status.advice.is_some_and(|advice| advice.contains("index")));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is made");
    }

    #[test]
    fn a_mount_that_offers_no_status_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount { mount_point: dir.path().to_owned(), home: "/h".into() };
        let error = of_mount(&mount, true).unwrap_err().to_string();
        assert!(error.contains("status.json"), "{error}");
    }
}
