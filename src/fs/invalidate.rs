//! How does the kernel learn what changed? One thread, `invalidate`, turns news into notifications.
//!
//! Never from inside a call: the kernel may hold the directory of a call and wait for us. And never before the calls
//! that were begun before the change are answered: their answers would outlive the notice. Of what the kernel holds for a
//! call that is not answered yet it is told when that call is over: it would wait for the call, and the call for us.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::{Fs, SESSION_INDEX};
use crate::store::change::Change;
use crate::store::home::SESSION_INDEX_NAME;
use crate::store::node::NodeNumber;

/// A call that takes longer (it decodes a large file, say) is not waited for.
const CALLS_WAIT_MAX: Duration = Duration::from_secs(2);
/// How soon what was held for a call is tried again, if nobody says that the call is over.
const LATER: Duration = Duration::from_millis(2);

/// Starts the thread. It ends when the store's news ends.
pub fn start(fs: Arc<Fs>, notifier: Notifier) -> io::Result<JoinHandle<()>> {
    fs.store().news().subscribe();
    fs.epoch().told(fs.store().news().count());
    std::thread::Builder::new().name("invalidate".into()).spawn(move || {
        let mut later = Vec::new();
        let wait = |later: &Vec<Change>| if later.is_empty() { None } else { Some(LATER) };
        while let Some((changes, count)) = fs.store().news().take_within(wait(&later)) {
            if !changes.is_empty() && !fs.epoch().wait_for_running(CALLS_WAIT_MAX) {
                log::debug!("a call is slow: the kernel is told of changes before it is answered");
            }
            let due: Vec<_> = later.drain(..).chain(changes.into_iter().flat_map(in_full)).collect();
            for change in due {
                if !fs.epoch().may_tell(where_it_waits(&change)) {
                    later.push(change);
                    continue;
                }
                if let Err(error) = tell(&fs, &notifier, &change) {
                    // The mount is going away, or the kernel has no memory: lifetimes end by themselves.
                    log::debug!("{change:?}: {error}");
                }
                fs.epoch().told_one();
            }
            fs.epoch().told(count);
            fs.versions.expire();
        }
    })
}

/// The names file may have come or gone.
fn in_full(change: Change) -> impl Iterator<Item = Change> {
    let name = SESSION_INDEX_NAME.as_bytes().to_vec();
    let entry = (change == Change::NamesFile).then_some(Change::Entry { dir: NodeNumber::ROOT, name });
    let listing = entry.is_some().then_some(Change::Node { number: NodeNumber::ROOT });
    entry.into_iter().chain(listing).chain([change])
}

/// The node that the kernel must not hold for a call when it is told of a change.
fn where_it_waits(change: &Change) -> NodeNumber {
    match change {
        Change::Entry { dir, .. } => *dir,
        Change::Node { number } => *number,
        Change::NamesFile => SESSION_INDEX,
        Change::Everything => NodeNumber::ROOT,
    }
}

fn tell(fs: &Fs, notifier: &Notifier, change: &Change) -> io::Result<()> {
    fs.counters().count_notice();
    match change {
        Change::Entry { dir, name } => notifier.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)),
        Change::Node { number } => {
            fs.files.forget(*number);
            fs.writes.forget(*number);
            // From offset 0 to the end: attributes, pages, and a directory's listing.
            notifier.inval_inode(INodeNo(number.0), 0, 0)
        }
        Change::NamesFile => {
            fs.files.forget(SESSION_INDEX);
            notifier.inval_inode(INodeNo(SESSION_INDEX.0), 0, 0)
        }
        Change::Everything => {
            fs.files.forget_all();
            // Dropping a directory's name drops all that is known below it.
            for name in fs.root_names() {
                notifier.inval_entry(INodeNo(NodeNumber::ROOT.0), OsStr::from_bytes(&name))?;
            }
            notifier.inval_inode(INodeNo(NodeNumber::ROOT.0), 0, 0)
        }
    }
}
