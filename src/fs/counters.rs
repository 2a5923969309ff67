//! How many requests of each kind came? Exact counts, for `status` and for tests of what an operation costs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A name in a directory.
    Lookup,
    /// Attributes.
    Getattr,
    /// A link's text.
    Readlink,
    /// An open, answered once for all.
    Open,
    /// A directory's open, answered once for all.
    Opendir,
    /// Bytes.
    Read,
    /// Entries.
    Readdir,
    /// Entries with attributes.
    ReaddirPlus,
    /// Numbers of the disk.
    Statfs,
    /// Extended attributes, answered once for all.
    Xattr,
    /// Changed attributes.
    Setattr,
    /// A new file.
    Mknod,
    /// A new folder.
    Mkdir,
    /// A new link.
    Symlink,
    /// A removed file or folder.
    Unlink,
    /// A move.
    Rename,
    /// Written bytes.
    Write,
    /// A wait for the disk.
    Fsync,
    /// Anything else.
    Other,
}

const KINDS: [(Request, &str); 19] = [
    (Request::Lookup, "lookup"),
    (Request::Getattr, "getattr"),
    (Request::Readlink, "readlink"),
    (Request::Open, "open"),
    (Request::Opendir, "opendir"),
    (Request::Read, "read"),
    (Request::Readdir, "readdir"),
    (Request::ReaddirPlus, "readdirplus"),
    (Request::Statfs, "statfs"),
    (Request::Xattr, "xattr"),
    (Request::Setattr, "setattr"),
    (Request::Mknod, "mknod"),
    (Request::Mkdir, "mkdir"),
    (Request::Symlink, "symlink"),
    (Request::Unlink, "unlink"),
    (Request::Rename, "rename"),
    (Request::Write, "write"),
    (Request::Fsync, "fsync"),
    (Request::Other, "other"),
];

/// The counts since the mount.
#[derive(Debug, Default)]
pub struct Counters {
    counts: [AtomicU64; KINDS.len()],
    errors: AtomicU64,
    notices: AtomicU64,
}

impl Counters {
    /// A request came.
    pub fn count(&self, request: Request) {
        self.counts[request as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered with an error that is worth a log line.
    pub fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// The kernel was told of a change.
    pub fn count_notice(&self) {
        self.notices.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests of all kinds.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The counts by name, with `errors` and `notices`.
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        let kinds =
            KINDS.iter().map(|(kind, name)| (*name, self.counts[*kind as usize].load(Ordering::Relaxed)));
        let rest = [("errors", &self.errors), ("notices", &self.notices)];
        kinds.chain(rest.map(|(name, count)| (name, count.load(Ordering::Relaxed)))).collect()
    }
}
