//! Which files of the home changed just now? inotify on every folder, each armed before it is listed.
//!
//! Events are hints: they name paths to look at again, and the look decides. Lost events and missing watches are
//! said, so that the indexer compares everything instead.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

use super::error::{Result, StoreError};
use super::home::{Home, SESSION_INDEX_NAME};
use super::scan::{ROOTS, join, logical_name};

/// Events that come this close together are one piece of news.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// No news is held back longer than this while events keep coming.
const DEBOUNCE_MAX: Duration = Duration::from_millis(50);
/// Bytes read from inotify at once: some hundred events.
const BUFFER_BYTES: usize = 64 * 1024;

/// Something to look at again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// The names file.
    Names,
    /// The file of this logical path.
    File(Vec<u8>),
    /// The folder at this path and what is below it.
    Dir(Vec<u8>),
    /// The own time of the folder at this path: something came or went in it.
    DirTime(Vec<u8>),
    /// Everything: events were lost.
    All,
}

struct Shared {
    paths: Mutex<HashMap<WatchDescriptor, Vec<u8>>>,
    stop: AtomicBool,
    watched: AtomicU64,
    refused: AtomicU64,
}

/// The watches, and the thread that reads their events.
pub(super) struct Watcher {
    home: Home,
    shared: Arc<Shared>,
    watches: Watches,
    home_watch: Option<WatchDescriptor>,
    thread: Option<JoinHandle<()>>,
}

fn mask(path: &[u8]) -> WatchMask {
    let events = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::MODIFY
        | WatchMask::ATTRIB
        | WatchMask::ONLYDIR;
    // A root may be a link; below it links are not followed.
    if path.contains(&b'/') { events | WatchMask::DONT_FOLLOW } else { events }
}

impl Watcher {
    /// Watches the home itself. `send` is called on the watcher's thread; false means that the receiver is gone.
    pub(super) fn start(home: &Home, send: impl Fn(Vec<Hint>) -> bool + Send + 'static) -> Result<Watcher> {
        let inotify = Inotify::init().map_err(StoreError::io("watch", home.root()))?;
        let shared = Arc::new(Shared {
            paths: Mutex::new(HashMap::new()),
            stop: AtomicBool::new(false),
            watched: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let watches = inotify.watches();
        let mut watcher =
            Watcher { home: home.clone(), shared: shared.clone(), watches, home_watch: None, thread: None };
        watcher.home_watch = watcher.add(b"");
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || follow(inotify, &shared, send))
            .map_err(StoreError::io("start a thread to watch", home.root()))?;
        watcher.thread = Some(thread);
        Ok(watcher)
    }

    /// Watches a folder. False: it cannot be watched, and its changes must be found by looking.
    pub(super) fn arm(&mut self, path: &[u8]) -> bool {
        self.add(path).is_some()
    }

    fn add(&mut self, path: &[u8]) -> Option<WatchDescriptor> {
        let dir: PathBuf = if path.is_empty() { self.home.root().to_owned() } else { self.home.join(path) };
        // The lock spans the call: an event of the new watch then finds its path.
        let mut paths = self.shared.paths.lock().unwrap_or_else(|poison| poison.into_inner());
        match self.watches.add(&dir, mask(path)) {
            Ok(watch) => {
                paths.insert(watch.clone(), path.to_owned());
                self.shared.watched.store(paths.len() as u64, Ordering::Relaxed);
                Some(watch)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                None
            }
            Err(error) => {
                if self.shared.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                    log::warn!(
                        "cannot watch {}: {error}; changes there are found by comparing every minute (more watches: sysctl fs.inotify.max_user_watches)",
                        dir.display()
                    );
                }
                None
            }
        }
    }

    /// Folders watched, and folders that could not be.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.shared.watched.load(Ordering::Relaxed), self.shared.refused.load(Ordering::Relaxed))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Taking a watch away raises an event, and the thread wakes.
        let woken = self.home_watch.take().is_some_and(|watch| self.watches.remove(watch).is_ok());
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

fn follow(mut inotify: Inotify, shared: &Shared, send: impl Fn(Vec<Hint>) -> bool) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut hints = BTreeSet::new();
        match inotify.read_events_blocking(&mut buffer) {
            Ok(events) => events.for_each(|event| collect(shared, &event, &mut hints)),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                log::error!("watching the home ended: {error}; remount to follow its changes");
                return;
            }
        }
        let first = Instant::now();
        while !shared.stop.load(Ordering::Acquire) && first.elapsed() < DEBOUNCE_MAX {
            std::thread::sleep(DEBOUNCE);
            match inotify.read_events(&mut buffer) {
                Ok(events) => events.for_each(|event| collect(shared, &event, &mut hints)),
                Err(_) => break,
            }
        }
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        if !hints.is_empty() && !send(hints.into_iter().collect()) {
            return;
        }
    }
}

fn collect(shared: &Shared, event: &inotify::Event<&std::ffi::OsStr>, hints: &mut BTreeSet<Hint>) {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        hints.insert(Hint::All);
        return;
    }
    let mut paths = shared.paths.lock().unwrap_or_else(|poison| poison.into_inner());
    if event.mask.contains(EventMask::IGNORED) {
        paths.remove(&event.wd);
        shared.watched.store(paths.len() as u64, Ordering::Relaxed);
        return;
    }
    let (Some(dir), Some(name)) = (paths.get(&event.wd), event.name) else { return };
    let name = name.as_bytes();
    if dir.is_empty() {
        if name == SESSION_INDEX_NAME.as_bytes() {
            hints.insert(Hint::Names);
        } else if ROOTS.iter().any(|root| root.as_bytes() == name) {
            hints.insert(Hint::Dir(name.to_vec()));
        }
        return;
    }
    let moves = EventMask::CREATE | EventMask::DELETE | EventMask::MOVED_FROM | EventMask::MOVED_TO;
    if event.mask.intersects(moves) {
        hints.insert(Hint::DirTime(dir.clone()));
    }
    if event.mask.contains(EventMask::ISDIR) {
        // Also for its attributes: it may be readable now.
        hints.insert(Hint::Dir(join(dir, name)));
    } else if let Some((logical, _)) = logical_name(name) {
        hints.insert(Hint::File(join(dir, &logical)));
    }
}
