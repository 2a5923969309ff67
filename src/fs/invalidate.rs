//! How does the kernel learn what changed? One thread, `invalidate`, turns news into notifications.
//!
//! Never from inside a call: the kernel may hold the directory of a call and wait for us. And never before the calls
//! that were begun before the change are answered: their answers would outlive the notice.

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
use crate::store::node::{NodeClass, NodeNumber};

/// A call that takes longer (it decodes a large file, say) is not waited for.
const CALLS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The offset that means attributes alone. The next read asks for them, and drops the pages of a file whose size or mtime
/// is another. A notice that drops pages itself would wait, unkillably, for the page of a write that waits for us.
const ATTRIBUTES: i64 = -1;
/// The offset from which on all goes: attributes, and a directory's listing.
const EVERYTHING: i64 = 0;

/// Starts the thread. It ends when the store's news ends.
pub fn start(fs: Arc<Fs>, notifier: Notifier) -> io::Result<JoinHandle<()>> {
    fs.store().news().subscribe();
    std::thread::Builder::new().name("invalidate".into()).spawn(move || {
        while let Some(changes) = fs.store().news().take() {
            if !fs.epoch().wait_for_running(CALLS_WAIT_MAX) {
                log::debug!("a call is slow: the kernel is told of changes before it is answered");
            }
            for change in changes {
                if let Err(error) = tell(&fs, &notifier, &change) {
                    // The mount is going away, or the kernel has no memory: lifetimes end by themselves.
                    log::debug!("{change:?}: {error}");
                }
            }
            fs.versions.expire();
        }
    })
}

fn tell(fs: &Fs, notifier: &Notifier, change: &Change) -> io::Result<()> {
    fs.counters().count_notice();
    match change {
        Change::Entry { dir, name } => notifier.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)),
        Change::Node { number } => {
            fs.files.forget(*number);
            fs.writes.forget(*number);
            let is_dir = *number == NodeNumber::ROOT || matches!(number.class(), Some(NodeClass::Dir));
            notifier.inval_inode(INodeNo(number.0), if is_dir { EVERYTHING } else { ATTRIBUTES }, 0)
        }
        Change::NamesFile => {
            fs.files.forget(SESSION_INDEX);
            let name = OsStr::new(SESSION_INDEX_NAME);
            notifier.inval_entry(INodeNo(NodeNumber::ROOT.0), name)?;
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
