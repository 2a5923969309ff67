//! Which files of the home changed just now? inotify on every folder, each armed before it is listed.
//!
//! Events are hints: they name paths to look at again, and the look decides. Lost events and missing watches are
//! said, so that the indexer compares everything instead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

use super::error::{Result, StoreError};
use super::home::{Home, SESSION_INDEX_NAME};
use super::scan::{ROOTS, join, logical_name};
use super::watching::Watching;

/// Events that come this close together are one piece of news.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// No news is held back longer than this while events keep coming.
const DEBOUNCE_MAX: Duration = Duration::from_millis(50);
/// Bytes read from inotify at once: some hundred events.
const BUFFER_BYTES: usize = 64 * 1024;
/// Slashes in the path of a day's folder.
const DAY_SLASHES: usize = 3;

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

/// What comes at once: hints, and the number of their batch.
pub(super) struct Arrived {
    /// What to look at.
    pub(super) hints: Vec<Hint>,
    /// For [`Watching::indexed`].
    pub(super) number: u64,
}

#[derive(Default)]
struct Paths {
    by_watch: HashMap<WatchDescriptor, Vec<u8>>,
    by_path: BTreeMap<Vec<u8>, WatchDescriptor>,
}

impl Paths {
    fn insert(&mut self, watch: WatchDescriptor, path: &[u8]) {
        // A folder that was renamed keeps its watch.
        if let Some(before) = self.by_watch.insert(watch.clone(), path.to_owned())
            && before != path
            && self.by_path.get(&before) == Some(&watch)
        {
            self.by_path.remove(&before);
        }
        self.by_path.insert(path.to_owned(), watch);
    }

    fn remove(&mut self, watch: &WatchDescriptor) {
        if let Some(path) = self.by_watch.remove(watch)
            && self.by_path.get(&path) == Some(watch)
        {
            self.by_path.remove(&path);
        }
    }

    /// The oldest day's folder that is watched and may go for `path`: an older one for a day, any for what is above days.
    fn oldest_for(&self, path: &[u8]) -> Option<(Vec<u8>, WatchDescriptor)> {
        let mut days = self.by_path.iter().filter(|(day, _)| is_day(day));
        let (day, watch) = days.next()?;
        (!is_day(path) || day.as_slice() < path).then(|| (day.clone(), watch.clone()))
    }
}

/// The error of a limit that is reached.
fn no_room() -> std::io::Error {
    std::io::Error::new(ErrorKind::StorageFull, "no watch is left")
}

/// Is it a folder of a day, or deeper?
fn is_day(path: &[u8]) -> bool {
    path.iter().filter(|&&byte| byte == b'/').count() >= DAY_SLASHES
}

struct Shared {
    paths: Mutex<Paths>,
    stop: AtomicBool,
    watching: Arc<Watching>,
}

/// The watches, and the thread that reads their events.
pub(super) struct Watcher {
    home: Home,
    shared: Arc<Shared>,
    watches: Watches,
    home_watch: Option<WatchDescriptor>,
    thread: Option<JoinHandle<()>>,
    folders_max: usize,
    /// Folders of which the system does not tell.
    unwatched: BTreeSet<Vec<u8>>,
    warned: bool,
}

enum Added {
    Yes,
    /// There is no such folder.
    Gone,
    /// The system has no room for another watch.
    Full(std::io::Error),
    Refused(std::io::Error),
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
    /// Watches the home itself, and at most `folders_max` folders. `send` is called on the watcher's thread; false means
    /// that the receiver is gone.
    pub(super) fn start(
        home: &Home,
        folders_max: usize,
        watching: &Arc<Watching>,
        send: impl Fn(Arrived) -> bool + Send + 'static,
    ) -> Result<Watcher> {
        let inotify = Inotify::init().map_err(StoreError::io("watch", home.root()))?;
        let shared = Arc::new(Shared {
            paths: Mutex::default(),
            stop: AtomicBool::new(false),
            watching: watching.clone(),
        });
        let watches = inotify.watches();
        let mut watcher = Watcher {
            home: home.clone(),
            shared: shared.clone(),
            watches,
            home_watch: None,
            thread: None,
            folders_max,
            unwatched: BTreeSet::new(),
            warned: false,
        };
        watcher.arm(b"");
        let home_watch = watcher.paths().by_path.get(b"".as_slice()).cloned();
        watcher.home_watch = home_watch;
        if watcher.home_watch.is_none() {
            return Err(StoreError::io("watch", home.root())(no_room()));
        }
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || follow(inotify, &shared, send))
            .map_err(StoreError::io("start a thread to watch", home.root()))?;
        watcher.thread = Some(thread);
        Ok(watcher)
    }

    /// Watches a folder. Where the system has no room for another watch, that of the oldest day goes for it: what is
    /// written now is in the newest. False: it is not watched, and its changes must be found by looking.
    pub(super) fn arm(&mut self, path: &[u8]) -> bool {
        let mut added = self.add(path);
        if matches!(added, Added::Full(_)) && self.drop_oldest_for(path) {
            added = self.add(path);
        }
        let armed = match added {
            Added::Yes => {
                self.unwatched.remove(path);
                true
            }
            Added::Gone => {
                self.forget_within(path);
                false
            }
            Added::Full(error) | Added::Refused(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    log::warn!(
                        "cannot watch {}: {error}; the newest folders are watched, and changes elsewhere are found by comparing every minute (more watches: sysctl fs.inotify.max_user_watches)",
                        self.home.join(path).display()
                    );
                }
                self.unwatched.insert(path.to_owned());
                false
            }
        };
        self.count();
        armed
    }

    /// A folder is gone, with what was below it: nothing there needs a watch.
    pub(super) fn forget_within(&mut self, path: &[u8]) {
        self.unwatched.retain(|folder| {
            folder.strip_prefix(path).is_none_or(|rest| !rest.is_empty() && rest[0] != b'/')
        });
        self.count();
    }

    /// Is there a folder of which the system does not tell?
    pub(super) fn misses_some(&self) -> bool {
        !self.unwatched.is_empty()
    }

    fn paths(&self) -> std::sync::MutexGuard<'_, Paths> {
        self.shared.paths.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn count(&self) {
        let folders = self.paths().by_path.len() as u64;
        let not_watched = self.unwatched.len() as u64;
        self.shared.watching.set(|status| {
            status.folders = folders;
            status.not_watched = not_watched;
        });
    }

    fn add(&mut self, path: &[u8]) -> Added {
        let dir: PathBuf = if path.is_empty() { self.home.root().to_owned() } else { self.home.join(path) };
        // The lock spans the call: an event of the new watch then finds its path.
        let mut paths = self.shared.paths.lock().unwrap_or_else(|poison| poison.into_inner());
        if paths.by_path.len() >= self.folders_max && !paths.by_path.contains_key(path) {
            return Added::Full(no_room());
        }
        match self.watches.add(&dir, mask(path)) {
            Ok(watch) => {
                paths.insert(watch, path);
                Added::Yes
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Added::Gone
            }
            Err(error) if error.kind() == ErrorKind::StorageFull => Added::Full(error),
            Err(error) => Added::Refused(error),
        }
    }

    /// Gives up the watch of an older folder.
    fn drop_oldest_for(&mut self, path: &[u8]) -> bool {
        let Some((day, watch)) = self.paths().oldest_for(path) else { return false };
        self.paths().remove(&watch);
        self.unwatched.insert(day);
        // Of a folder that was just removed it is gone already.
        let _ = self.watches.remove(watch);
        true
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

fn follow(mut inotify: Inotify, shared: &Shared, send: impl Fn(Arrived) -> bool) {
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
        if hints.is_empty() {
            continue;
        }
        let number = shared.watching.arrived(first);
        if !send(Arrived { hints: hints.into_iter().collect(), number }) {
            return;
        }
    }
}

fn collect(shared: &Shared, event: &inotify::Event<&std::ffi::OsStr>, hints: &mut BTreeSet<Hint>) {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        shared.watching.set(|status| status.lost += 1);
        hints.insert(Hint::All);
        return;
    }
    let mut paths = shared.paths.lock().unwrap_or_else(|poison| poison.into_inner());
    if event.mask.contains(EventMask::IGNORED) {
        paths.remove(&event.wd);
        let folders = paths.by_path.len() as u64;
        shared.watching.set(|status| status.folders = folders);
        return;
    }
    let (Some(dir), Some(name)) = (paths.by_watch.get(&event.wd), event.name) else { return };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(watcher: &Watcher) -> Vec<String> {
        let paths = watcher.paths();
        paths.by_path.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    #[test]
    fn where_there_is_no_room_the_newest_days_are_watched() {
        let dir = tempfile::tempdir().unwrap();
        for day in ["2026/01/01", "2026/01/02", "2026/01/03", "2026/02/01"] {
            std::fs::create_dir_all(dir.path().join("sessions").join(day)).unwrap();
        }
        let watching = Arc::<Watching>::default();
        let home = Home::open(dir.path()).unwrap();
        let mut watcher = Watcher::start(&home, 6, &watching, |_| true).unwrap();
        for folder in ["sessions", "sessions/2026", "sessions/2026/01"] {
            assert!(watcher.arm(folder.as_bytes()));
        }
        assert!(watcher.arm(b"sessions/2026/01/03") && watcher.arm(b"sessions/2026/01/02"));
        assert!(!watcher.arm(b"sessions/2026/01/01"), "older than all");
        assert!(watcher.misses_some() && !watching.sees_all());
        // A new month and its day: both are watched, the oldest days go.
        assert!(watcher.arm(b"sessions/2026/02") && watcher.arm(b"sessions/2026/02/01"));
        let above = ["", "sessions", "sessions/2026", "sessions/2026/01", "sessions/2026/02"];
        assert_eq!(watched(&watcher), [above.as_slice(), &["sessions/2026/02/01"]].concat());
        assert!(watcher.arm(b"sessions/2026/02/01"), "once more is no other watch");
        let status = watching.status();
        assert_eq!((status.folders, status.not_watched), (6, 3));
        // What is gone needs no watch.
        watcher.forget_within(b"sessions/2026/01");
        assert!(!watcher.misses_some());
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let watching = Arc::<Watching>::default();
        let home = Home::open(dir.path()).unwrap();
        let mut watcher = Watcher::start(&home, usize::MAX, &watching, |_| true).unwrap();
        assert!(!watcher.arm(b"sessions/2026") && !watcher.misses_some());
    }
}
