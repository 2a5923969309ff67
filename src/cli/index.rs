//! How is the index made without a mount? `rolloutfs index` reads what changed and says what the home has.
//!
//! Where another process keeps the index, it is that one's work, and we wait for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::CliError;
use super::exit_codes::Exit;
use super::home_args::HomeArgs;
use super::index_queries::{Totals, totals};
use super::interrupt::Interrupt;
use super::output;
use super::progress::{Reporter, Snapshot};
use crate::store::backfill;
use crate::store::error::StoreError;
use crate::store::home::{Home, INDEX_NAME, StateLock};
use crate::store::index::Index;
use crate::store::{Store, StoreOptions, schema};
use crate::views::Views;

/// How often the work is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often another process's work is looked at.
const LOOK_AT_OTHER_EVERY: Duration = Duration::from_millis(50);
/// How long another process's work is waited for before we see whether that process is still there.
const WAIT_FOR_OTHER: Duration = Duration::from_millis(500);
/// How long a process that has the lock may take until its index can be read.
const OTHER_STARTS_MAX: Duration = Duration::from_secs(30);
/// How long the index may refuse to grow before we give up.
const TROUBLE_MAX: Duration = Duration::from_secs(15);
/// Files that could not be read, told by name.
const FAILURES_MAX: usize = 20;

/// Make or refresh the index of a home, and say what is in it
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rolloutfs index                      read what is new or changed since the last time
  rolloutfs index --rebuild            forget the index and read everything again
  rolloutfs index --json | jq .counts

A mount makes its index by itself; this command does it before, or for `list` and `show` without a mount. Ctrl-C is \
safe: the next run goes on where this one ended. Where a mount has the home, its work is waited for.")]
pub(crate) struct IndexArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Remove the index first; refused (exit 4) while another process has the home
    #[arg(long)]
    rebuild: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Summary {
    home: PathBuf,
    index: PathBuf,
    /// Who did the work.
    indexed_by: String,
    elapsed_seconds: f64,
    #[serde(flatten)]
    totals: Totals,
    /// Failures that are not listed.
    failures_omitted: u64,
}

/// How the work ended.
enum Ended {
    /// The index is whole, by this process or the one named.
    Whole(String),
    /// By a signal.
    Stopped(Exit),
}

/// Runs the command.
pub(crate) fn run(args: &IndexArgs, quiet: bool) -> Result<Exit, CliError> {
    let started = Instant::now();
    let interrupt = Interrupt::catch()?;
    let home = Home::resolve(args.home.home.as_deref())?;
    let state_dir = home.make_state_dir(args.home.state_dir.as_deref())?;
    let path = state_dir.join(INDEX_NAME);
    if args.rebuild {
        remove(&home, &state_dir, &path)?;
    }
    match make(&home, &state_dir, &interrupt, quiet)? {
        Ended::Stopped(exit) => {
            log::warn!("stopped; what was read is kept, and the next `rolloutfs index` goes on from there");
            Ok(exit)
        }
        Ended::Whole(indexed_by) => {
            let totals = totals(&Index::new(&path), &Views::new(), FAILURES_MAX)?;
            let totals = totals.ok_or_else(|| other_version(&path))?;
            if totals.counts.unread > 0 {
                log::warn!(
                    "{} files are still to be read: run `rolloutfs index` again",
                    totals.counts.unread
                );
            }
            let failures_omitted = totals.counts.failed.saturating_sub(totals.failures.len() as u64);
            let elapsed_seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            let summary = Summary {
                home: home.root().to_owned(),
                index: path,
                indexed_by,
                elapsed_seconds,
                totals,
                failures_omitted,
            };
            output::print(&summary, args.json).map(|()| Exit::Ok)
        }
    }
}

/// Removes the index, while nobody else can use it.
fn remove(home: &Home, state_dir: &Path, path: &Path) -> Result<(), CliError> {
    let lock = StateLock::take(state_dir, home.root(), "index --rebuild").map_err(|error| match error {
        StoreError::Busy { path, holder, .. } => {
            let remedy = "the index cannot be removed meanwhile; end that first \
                          (`rolloutfs unmount MOUNTPOINT` for a mount), then run `rolloutfs index --rebuild` again";
            StoreError::Busy { path, holder, remedy: remedy.into() }
        }
        other => other,
    })?;
    schema::remove_with_companions(path)?;
    drop(lock);
    Ok(())
}

fn make(home: &Home, state_dir: &Path, interrupt: &Interrupt, quiet: bool) -> Result<Ended, CliError> {
    let options = StoreOptions {
        state_dir: Some(state_dir.to_owned()),
        watch: false,
        purpose: "index".into(),
        ..StoreOptions::default()
    };
    let mut other: Option<Other> = None;
    loop {
        if let Some(exit) = interrupt.exit() {
            return Ok(Ended::Stopped(exit));
        }
        match Store::open(home.clone(), &options, Arc::new(Views::new())) {
            Ok(store) => {
                // The bar of the wait ends before the next begins.
                drop(other);
                return build(store, interrupt, quiet);
            }
            Err(StoreError::Busy { holder, .. }) => {
                let other = other.get_or_insert_with(|| Other::new(&state_dir.join(INDEX_NAME), quiet));
                if other.wait(&holder)? {
                    return Ok(Ended::Whole(holder));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for our own indexer.
fn build(store: Store, interrupt: &Interrupt, quiet: bool) -> Result<Ended, CliError> {
    let mut reporter = Reporter::new("reading", quiet);
    let mut trouble = Trouble::default();
    while !store.is_settled() {
        if let Some(exit) = interrupt.exit() {
            store.close();
            return Ok(Ended::Stopped(exit));
        }
        reporter.show(Snapshot::of(store.progress()));
        if let Some(reason) = trouble.lasting(&store)? {
            store.close();
            return Err(CliError::failed(
                "write the index",
                format!(
                    "{reason}; what is indexed is kept, and the next `rolloutfs index` goes on from there"
                ),
            ));
        }
        sleep(LOOK_EVERY);
    }
    store.flush();
    store.close();
    Ok(Ended::Whole("this process".into()))
}

/// The indexer tries for ever to write the index; a command does not.
#[derive(Default)]
struct Trouble {
    /// Since when nothing moved, and where it stood.
    stands: Option<(Instant, (u64, u64))>,
}

impl Trouble {
    /// The reason, once nothing moved for [`TROUBLE_MAX`].
    fn lasting(&mut self, store: &Store) -> Result<Option<String>, CliError> {
        let Some(reason) = store.progress().trouble() else {
            self.stands = None;
            return Ok(None);
        };
        match self.stands {
            Some((since, _)) if since.elapsed() < TROUBLE_MAX => return Ok(None),
            _ => {}
        }
        let dirs = store.progress().dirs_listed.load(std::sync::atomic::Ordering::Relaxed);
        let unread = store.index().read(|reader| reader.queries().unread_totals(b""))?.0;
        let stood = self.stands.replace((Instant::now(), (dirs, unread)));
        Ok(stood.filter(|(_, mark)| *mark == (dirs, unread)).map(|_| reason))
    }
}

/// Another process that keeps the index.
struct Other {
    index: Index,
    since: Instant,
    reporter: Reporter,
    told: bool,
}

impl Other {
    fn new(path: &Path, quiet: bool) -> Other {
        let reporter = Reporter::new("waiting for another process", quiet);
        Other { index: Index::new(path), since: Instant::now(), reporter, told: false }
    }

    /// Waits a little. True: its index is whole.
    fn wait(&mut self, holder: &str) -> Result<bool, CliError> {
        if !self.told {
            log::info!("{holder} has the home; waiting until its index is whole");
            self.told = true;
        }
        let version = crate::store::placing::Placing::version(&Views::new());
        let looked = self.index.read(|reader| {
            if !schema::is_current(reader, version) {
                return Ok(None);
            }
            if backfill::wait_complete(reader, WAIT_FOR_OTHER, LOOK_AT_OTHER_EVERY)? {
                return Ok(Some((true, Snapshot::default())));
            }
            let counts = reader.queries().counts()?;
            // Nothing is read before everything is listed.
            let listed = backfill::load(reader)?.scanned > 0;
            let files_done = counts.rollouts.saturating_sub(counts.unread);
            Ok(Some((false, Snapshot { listed, files_total: counts.rollouts, files_done, bytes_done: 0 })))
        });
        match looked {
            Ok(Some((whole, snapshot))) => {
                self.reporter.show(snapshot);
                Ok(whole)
            }
            // It has only begun.
            Ok(None) | Err(StoreError::Index { .. }) if self.since.elapsed() < OTHER_STARTS_MAX => {
                sleep(WAIT_FOR_OTHER);
                Ok(false)
            }
            Ok(None) => Err(other_version(self.index.path()).into()),
            Err(error) => Err(error.into()),
        }
    }
}

fn other_version(path: &Path) -> StoreError {
    StoreError::Invalid(format!(
        "the index {} is of another version; end the process that keeps it, then run `rolloutfs index` again",
        path.display()
    ))
}
