//! How many requests of each kind came, and which failed? Exact counts, for `status` and for tests of what an operation costs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::errno;

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

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// When, seconds since 1970.
    pub at: u64,
    /// The kind of request.
    pub request: &'static str,
    /// What the caller got.
    pub errno: &'static str,
    /// What the log says.
    pub text: String,
}

/// Requests that were refused, or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// By what the caller got. Names and numbers that lead nowhere are no failures.
    pub by_errno: BTreeMap<&'static str, u64>,
    /// The last one that is worth a warning.
    pub last: Option<Failure>,
}

/// The counts since the mount.
#[derive(Debug, Default)]
pub struct Counters {
    counts: [AtomicU64; KINDS.len()],
    errors: AtomicU64,
    notices: AtomicU64,
    failures: Mutex<Failures>,
}

impl Counters {
    /// A request came.
    pub fn count(&self, request: Request) {
        self.counts[request as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request was refused, or failed: then with the text of the log.
    pub fn count_error(&self, request: Request, number: i32, failed: Option<String>) {
        let errno = errno::name(number);
        let mut failures = self.failures.lock().unwrap_or_else(|poison| poison.into_inner());
        *failures.by_errno.entry(errno).or_default() += 1;
        let Some(text) = failed else { return };
        self.errors.fetch_add(1, Ordering::Relaxed);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        failures.last = Some(Failure { at, request: KINDS[request as usize].1, errno, text });
    }

    /// Requests that were refused, or failed.
    pub fn failures(&self) -> Failures {
        self.failures.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_errno_and_the_last_is_kept() {
        let counters = Counters::default();
        counters.count_error(Request::Read, libc::EIO, Some("cannot decode x".into()));
        counters.count_error(Request::Unlink, libc::EPERM, None);
        counters.count_error(Request::Unlink, libc::EPERM, None);
        counters.count_error(Request::Other, 12_345, None);
        let failures = counters.failures();
        assert_eq!(failures.by_errno, BTreeMap::from([("EIO", 1), ("EPERM", 2), ("other", 1)]));
        let last = failures.last.unwrap();
        assert_eq!((last.request, last.errno, last.text.as_str()), ("read", "EIO", "cannot decode x"));
        assert!(last.at > 0 && counters.snapshot()["errors"] == 1, "a refusal is no error");
    }

    #[test]
    fn each_kind_has_its_place() {
        assert!(KINDS.iter().enumerate().all(|(place, (kind, _))| *kind as usize == place));
    }
}
