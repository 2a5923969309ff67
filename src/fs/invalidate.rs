//! How does the kernel learn what changed? One thread, `invalidate`, turns news into notifications.
//!
//! Never from inside a call: the kernel may hold the directory of a call and wait for us. And never before the calls
//! that were begun before the change are answered: their answers would outlive the notice. Of what the kernel holds for a
//! call that is not answered yet it is told when that call is over: it would wait for the call, and the call for us.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::growth::Kernel;
use super::{Fs, SESSION_INDEX};
use crate::store::change::Change;
use crate::store::home::SESSION_INDEX_NAME;
use crate::store::node::{NodeClass, NodeNumber};

/// A call that takes longer (it decodes a large file, say) is not waited for.
const CALLS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Folders of which it is remembered whether calls hold them.
const KNOWN_MAX: usize = 10_000;

/// The offset that means attributes alone. The next read asks for them, and drops the pages of a file whose size or mtime
/// is another. A notice that drops pages itself would wait, unkillably, for the page of a write that waits for us.
const ATTRIBUTES: i64 = -1;
/// The offset from which on all goes: attributes, and a directory's listing.
const EVERYTHING: i64 = 0;

/// Starts the thread. It ends when the store's news ends.
pub fn start(fs: Arc<Fs>, notifier: Notifier) -> io::Result<JoinHandle<()>> {
    fs.store().news().subscribe();
    fs.epoch().told(fs.store().news().count(), []);
    std::thread::Builder::new().name("invalidate".into()).spawn(move || {
        std::thread::scope(|scope| {
            let named = |name: &str| std::thread::Builder::new().name(name.into());
            let started = named("invalidate-held")
                .spawn_scoped(scope, || tell_later(&fs, &notifier, false))
                .and_then(|_| {
                    named("invalidate-names").spawn_scoped(scope, || tell_later(&fs, &notifier, true))
                })
                .and_then(|_| named("answers").spawn_scoped(scope, || fs.epoch().give_answers()))
                .and_then(|_| {
                    named("growth")
                        .spawn_scoped(scope, || fs.growth.tell(&fs, &Told { fs: &fs, notifier: &notifier }))
                });
            if let Err(error) = started {
                // Calls are answered at once then, and what they hold is told of when their lifetimes end.
                log::warn!("cannot start a thread: {error}; changes may be seen late");
            }
            let mut known = HashMap::new();
            while let Some((changes, count)) = fs.store().news().take_counted() {
                if !fs.epoch().wait_for_running(CALLS_WAIT_MAX) {
                    log::debug!("a call is slow: the kernel is told of changes before it is answered");
                }
                let (later, now): (Vec<_>, Vec<_>) = changes
                    .into_iter()
                    .flat_map(in_full)
                    .partition(|change| may_be_held(&fs, change, &mut known));
                now.iter().for_each(|change| tell(&fs, &notifier, change));
                fs.epoch().told(count, later);
                fs.versions.expire(fs.store().index().log_bytes());
            }
            fs.epoch().close();
            fs.growth.close();
        });
    })
}

/// The kernel, for what is told of files that grow.
struct Told<'n> {
    fs: &'n Fs,
    notifier: &'n Notifier,
}

impl Told<'_> {
    fn note(&self, number: NodeNumber, told: io::Result<()>) {
        self.fs.counters().count_notice();
        if let Err(error) = told {
            log::debug!("{number:?}: {error}");
        }
    }
}

impl Kernel for Told<'_> {
    fn drop_from(&self, number: NodeNumber, offset: u64) {
        self.note(number, self.notifier.inval_inode(INodeNo(number.0), offset as i64, 0));
    }

    fn grow_to(&self, number: NodeNumber, size_bytes: u64, last: u8) {
        self.note(number, self.notifier.store(INodeNo(number.0), size_bytes.saturating_sub(1), &[last]));
    }
}

/// Tells of what calls may hold, each when no call does. A thread of its own, for it may still wait for one.
fn tell_later(fs: &Fs, notifier: &Notifier, names: bool) {
    while let Some(change) = fs.epoch().next_later(names, where_it_waits) {
        tell(fs, notifier, &change);
        fs.epoch().told_one(names);
    }
}

/// May the kernel hold what this change is in for a call that changes something? The folders in which such calls are
/// made, and files that are written. `known` remembers folders.
fn may_be_held(fs: &Fs, change: &Change, known: &mut HashMap<NodeNumber, bool>) -> bool {
    match change {
        Change::Entry { dir, .. } => {
            if let Some(&may) = known.get(dir) {
                return may;
            }
            // One that is gone may be there again.
            let Ok(row) = fs.dir(*dir) else { return true };
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(*dir, fs.takes_changes(&row.path));
            fs.takes_changes(&row.path)
        }
        // Of a directory nothing is held that this needs.
        Change::Node { number } => !matches!(number.class(), Some(NodeClass::Dir)),
        Change::NamesFile | Change::Everything => true,
    }
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

fn tell(fs: &Fs, notifier: &Notifier, change: &Change) {
    fs.counters().count_notice();
    if let Err(error) = try_tell(fs, notifier, change) {
        // The mount is going away, or the kernel has no memory: lifetimes end by themselves.
        log::debug!("{change:?}: {error}");
    }
}

fn try_tell(fs: &Fs, notifier: &Notifier, change: &Change) -> io::Result<()> {
    match change {
        Change::Entry { dir, name } => notifier.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)),
        Change::Node { number } => {
            fs.files.forget(*number);
            fs.writes.forget(*number);
            let is_dir = *number == NodeNumber::ROOT || matches!(number.class(), Some(NodeClass::Dir));
            if matches!(number.class(), Some(NodeClass::File)) {
                fs.growth.news_of(*number);
            }
            notifier.inval_inode(INodeNo(number.0), if is_dir { EVERYTHING } else { ATTRIBUTES }, 0)
        }
        Change::NamesFile => {
            fs.files.forget(SESSION_INDEX);
            fs.growth.news_of(SESSION_INDEX);
            notifier.inval_inode(INodeNo(SESSION_INDEX.0), ATTRIBUTES, 0)
        }
        Change::Everything => {
            fs.files.forget_all();
            // Dropping a directory's name drops all that is known below it.
            for name in fs.root_names() {
                notifier.inval_entry(INodeNo(NodeNumber::ROOT.0), OsStr::from_bytes(&name))?;
            }
            notifier.inval_inode(INodeNo(NodeNumber::ROOT.0), EVERYTHING, 0)
        }
    }
}
