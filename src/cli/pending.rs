//! `rolloutfs pending`: which threads have no place in the home yet, and what is to become of them?
//!
//! A mount that writes keeps them, so it is asked where there is one; else this command works on the spool itself, under
//! the lock of the state folder. Depends on `store` and `mounts`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::error::CliError;
use super::home_args::{HomeArgs, absolute};
use super::mounts::{self, Mount};
use super::output;
use super::text::escaped;
use crate::store::areas::{Area, Areas};
use crate::store::error::StoreError;
use crate::store::home::{Home, STATE_DIR_NAME, StateLock};
use crate::store::pending::{self, Pending};
use crate::store::rollout::ThreadId;
use crate::store::trash::{PutOptions, Trash};

/// List the threads that have no place in the home yet, give them one, or discard them
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs pending list                      threads without a user message yet
  rolloutfs pending persist                   give all of them their place in the home
  rolloutfs pending persist 0198c0de-0000-7000-8000-000000000001
  rolloutfs pending discard 0198c0de-0000-7000-8000-000000000001")]
pub(super) struct PendingArgs {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

/// Give pending threads their place in the home: `pending persist` in one word
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs persist                                        give all of them their place in the home
  rolloutfs persist 0198c0de-0000-7000-8000-000000000001   this one")]
pub(super) struct PersistArgs {
    #[command(flatten)]
    selection: Selection,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// List them
    List(Selection),
    /// Give them their place in the home
    Persist(Selection),
    /// Move them to the trash
    Discard {
        #[command(flatten)]
        selection: Selection,
        /// Delete them for good instead
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Clone, Debug)]
struct Selection {
    /// Ids of threads [default: all]
    #[arg(value_name = "ID")]
    ids: Vec<ThreadId>,
    #[command(flatten)]
    home: HomeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One file of the spool.
#[derive(Clone, Debug, serde::Serialize)]
struct Item {
    id: ThreadId,
    /// Where it will be, below the home.
    path: String,
    /// Where it is now.
    file: PathBuf,
    size_bytes: u64,
    /// Seconds since 1970.
    modified_at: i64,
    #[serde(skip)]
    logical: Vec<u8>,
}

/// A home with its spool, and the mount that keeps it.
struct Spool {
    home: Home,
    state_dir: PathBuf,
    areas: Areas,
    mount: Option<Mount>,
}

/// Runs `rolloutfs persist`.
///
/// # Errors
/// As [`run`].
pub(super) fn persist(args: &PersistArgs) -> Result<(), CliError> {
    run(&PendingArgs { action: Action::Persist(args.selection.clone()) })
}

/// Runs the command.
///
/// # Errors
/// `NotFound` for an id that has nothing pending; what the disk or the mount refuses.
pub(super) fn run(args: &PendingArgs) -> Result<(), CliError> {
    let (selection, verb) = match &args.action {
        Action::List(selection) => (selection, "pending"),
        Action::Persist(selection) => (selection, "persisted"),
        Action::Discard { selection, .. } => (selection, "discarded"),
    };
    let spool = Spool::of(&selection.home)?;
    // Without a mount nobody else works on it meanwhile.
    let _lock = match (&args.action, &spool.mount) {
        (Action::List(_), _) | (_, Some(_)) => None,
        _ if !spool.state_dir.is_dir() => None,
        _ => Some(StateLock::take(&spool.state_dir, spool.home.root(), "pending")?),
    };
    let items = chosen(spool.items()?, &selection.ids)?;
    for item in &items {
        match (&args.action, &spool.mount) {
            (Action::List(_), _) => {}
            (Action::Persist(_), Some(mount)) => command(mount, &format!("persist {}", item.id))?,
            (Action::Persist(_), None) => pending::place(&spool.home, &item.file, &item.logical, true)?,
            (Action::Discard { yes: true, .. }, Some(mount)) => {
                command(mount, &format!("discard {}", item.id))?;
            }
            (Action::Discard { yes: true, .. }, None) => {
                fs::remove_file(&item.file).map_err(StoreError::io("remove", &item.file))?;
            }
            (Action::Discard { .. }, Some(mount)) => {
                let file = mount.mount_point.join(&item.path);
                fs::remove_file(&file).map_err(StoreError::io("remove", &file))?;
            }
            (Action::Discard { .. }, None) => spool.trash(item)?,
        }
    }
    if selection.json {
        return output::print(&items, true);
    }
    let mut lines = String::new();
    for item in &items {
        lines += &format!("{verb}\t{}\t{} bytes\t{}\n", item.id, item.size_bytes, escaped(&item.path));
    }
    if items.is_empty() {
        lines += "no thread is pending\n";
    }
    output::write(lines.as_bytes())
}

/// Those that were asked for; each must be there.
fn chosen(mut items: Vec<Item>, ids: &[ThreadId]) -> Result<Vec<Item>, StoreError> {
    if let Some(unknown) = ids.iter().find(|id| items.iter().all(|item| item.id != **id)) {
        return Err(StoreError::NotFound { what: format!("a pending thread {unknown}") });
    }
    items.retain(|item| ids.is_empty() || ids.contains(&item.id));
    Ok(items)
}

/// Writes a command into the control file of a mount.
fn command(mount: &Mount, text: &str) -> Result<(), StoreError> {
    let control = mount.mount_point.join(STATE_DIR_NAME).join("control");
    let mut open = OpenOptions::new().write(true).open(&control).map_err(StoreError::io("open", &control))?;
    open.write_all(format!("{text}\n").as_bytes()).map_err(StoreError::io("write to", &control))
}

impl Spool {
    fn of(args: &HomeArgs) -> Result<Spool, StoreError> {
        let home = args.resolve()?;
        // Others may show the home read-only.
        let writes = |mount: &Mount| mount.mount_point.join(STATE_DIR_NAME).join("control").exists();
        let mount = mounts::ours().into_iter().filter(|mount| mount.home == home.root()).find(writes);
        let given = args.state_dir.as_deref().map(absolute).transpose()?;
        let told = mount.as_ref().and_then(state_dir_of);
        let own = || home.find_state_dir(None).unwrap_or_else(|| home.root().join(STATE_DIR_NAME));
        let state_dir = told.or(given).unwrap_or_else(own);
        Ok(Spool { areas: Areas::new(&home, &state_dir), home, state_dir, mount })
    }

    fn items(&self) -> Result<Vec<Item>, StoreError> {
        let item = |thread: Pending| Item {
            id: thread.name.thread_id(),
            path: String::from_utf8_lossy(&thread.path).into_owned(),
            file: thread.file,
            size_bytes: thread.metadata.len(),
            modified_at: thread.metadata.mtime(),
            logical: thread.path,
        };
        Ok(pending::list(&self.areas)?.into_iter().map(item).collect())
    }

    fn trash(&self, item: &Item) -> Result<(), StoreError> {
        let options = PutOptions {
            area: Area::Pending,
            why: "rolloutfs pending discard".into(),
            despite_writer: true,
            ..PutOptions::default()
        };
        let paths = [item.logical.clone()];
        Trash::new(&self.home, &self.state_dir).put(&paths, &options).map(drop)
    }
}

/// Where a mount says that its state lies.
fn state_dir_of(mount: &Mount) -> Option<PathBuf> {
    let text = fs::read(mount.mount_point.join(STATE_DIR_NAME).join("status.json")).ok()?;
    let status: serde_json::Value = serde_json::from_slice(&text).ok()?;
    status["state_dir"].as_str().map(Path::new).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_not_pending_is_named() {
        let id: ThreadId = "0198c0de-0000-7000-8000-000000000001".parse().unwrap();
        let item = |id| Item {
            id,
            path: String::new(),
            file: PathBuf::new(),
            size_bytes: 0,
            modified_at: 0,
            logical: Vec::new(),
        };
        assert_eq!(chosen(vec![item(id)], &[]).unwrap().len(), 1);
        assert_eq!(chosen(vec![item(id)], &[id]).unwrap().len(), 1);
        assert!(matches!(chosen(vec![], &[id]), Err(StoreError::NotFound { .. })));
        assert!(chosen(vec![], &[]).unwrap().is_empty());
    }
}
