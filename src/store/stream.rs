//! What happens to the threads of a home? One piece after the other, for scripts, without an index and beside any mount.
//!
//! A stream remembers of each rollout where it lies and how long it is, and of each thread its name. It looks where the
//! watcher points, and says how what it finds differs. It reads no rollout and locks nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use super::areas::{Area, Areas};
use super::content::Encoding;
use super::error::Result;
use super::home::Home;
use super::network;
use super::rollout::{RolloutName, ThreadId};
use super::row::DiskStat;
use super::scan::{self, Found, ROOTS};
use super::session_index::{Follow, Follower};
use super::tree::split_path;
use super::watch::{Arrived, Hint, Watcher};
use super::watching::Watching;

/// Batches of events that wait; when they are so many the watcher waits, and the system says if it had to drop some.
const INBOX_MAX: usize = 64;
/// A file that is not there may be on its way to another place, or be swapped for its compressed form.
const GONE_AFTER: Duration = Duration::from_millis(250);
/// How often everything is compared where some folders cannot be watched.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The stream begins: what happens from here on is told.
    Watching,
    /// A thread's file is there that was not.
    Appeared,
    /// It is longer than it was.
    Grew,
    /// It is another file, was cut, or its time was set.
    Changed,
    /// It was moved into the archive.
    Archived,
    /// It was moved out of the archive.
    Unarchived,
    /// It was moved otherwise, or renamed.
    Moved,
    /// It is compressed now.
    Compressed,
    /// It is plain now.
    Decompressed,
    /// It is not there any more.
    Gone,
    /// The thread has a name, or another one.
    Named,
    /// The thread has no name any more.
    Unnamed,
}

/// One piece of what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happening {
    /// When it was seen: RFC 3339 in UTC.
    pub at: String,
    /// What it was.
    pub event: What,
    /// The thread; None for the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where its file is, or was: below the home, without `.zst`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where it was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its bytes on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its bytes on disk before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<u64>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its name before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_before: Option<String>,
    /// Rollouts in the home, at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<u64>,
}

impl Happening {
    fn new(event: What) -> Happening {
        let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        Happening {
            at: OffsetDateTime::now_utc().format(form).unwrap_or_default(),
            event,
            id: None,
            path: None,
            from: None,
            bytes: None,
            bytes_before: None,
            name: None,
            name_before: None,
            rollouts: None,
        }
    }

    fn of(event: What, path: &[u8], found: Seen) -> Happening {
        let id = ids_of(path).map(|(thread, _)| thread.to_string());
        let bytes = Some(found.disk.size_bytes);
        Happening { id, path: Some(text(path)), bytes, ..Happening::new(event) }
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The thread and the rollout of a path; None if it is no rollout's.
fn ids_of(path: &[u8]) -> Option<(ThreadId, ThreadId)> {
    RolloutName::parse(split_path(path).1).map(|name| (name.thread_id(), name.key_id()))
}

/// Where a rollout would be if it were moved into the archive, or out of it.
fn counterpart(path: &[u8]) -> Vec<u8> {
    let name = split_path(path).1;
    let Some(parsed) = RolloutName::parse(name).filter(|_| path.starts_with(b"archived_sessions/")) else {
        return scan::join(b"archived_sessions", name);
    };
    let (year, month, day) = parsed.date_parts();
    scan::join(format!("sessions/{year}/{month}/{day}").as_bytes(), name)
}

/// A file as it was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    encoding: Encoding,
    disk: DiskStat,
}

enum Message {
    Events(Arrived),
    Stop,
}

/// Ends a stream from another thread.
#[derive(Clone)]
pub struct Stopper(SyncSender<Message>);

impl Stopper {
    /// The stream's `wait` answers None from now on.
    pub fn stop(&self) {
        let _ = self.0.send(Message::Stop);
    }
}

/// What happens in a home.
pub struct Stream {
    home: Home,
    areas: Areas,
    // Dropped before the watcher, whose thread may wait to send.
    inbox: Receiver<Message>,
    stopper: Stopper,
    watcher: Option<Watcher>,
    every: Option<Duration>,
    compare_at: Option<Instant>,
    files: BTreeMap<Vec<u8>, Seen>,
    /// Files that are not there, by thread and rollout: where they were, and since when.
    gone: BTreeMap<(ThreadId, ThreadId), (Vec<u8>, Seen, Instant)>,
    names: HashMap<ThreadId, String>,
    follower: Follower,
    ready: VecDeque<Happening>,
    stopped: bool,
}

impl Stream {
    /// Begins to follow a home: by events, or by comparing everything so often.
    pub fn open(home: &Home, poll: Option<Duration>) -> Result<Stream> {
        let (sender, inbox) = sync_channel(INBOX_MAX);
        let mut every = poll.or_else(|| network::silent_filesystem(home).map(|_| super::POLL_DEFAULT));
        let mut watcher = None;
        if every.is_none() {
            let sender = sender.clone();
            let send = move |events| sender.send(Message::Events(events)).is_ok();
            match Watcher::start(home, usize::MAX, &Arc::<Watching>::default(), send) {
                Ok(started) => watcher = Some(started),
                Err(error) => {
                    log::warn!("{error}; everything is compared every minute instead");
                    every = Some(COMPARE_EVERY);
                }
            }
        }
        let mut stream = Stream {
            home: home.clone(),
            areas: home.areas(),
            inbox,
            stopper: Stopper(sender),
            watcher,
            every,
            compare_at: None,
            files: BTreeMap::new(),
            gone: BTreeMap::new(),
            names: HashMap::new(),
            follower: Follower::new(home.session_index(), None),
            ready: VecDeque::new(),
            stopped: false,
        };
        stream.compare()?;
        stream.follow_names()?;
        stream.ready.clear();
        let rollouts = Some(stream.files.len() as u64);
        stream.ready.push_back(Happening { rollouts, ..Happening::new(What::Watching) });
        Ok(stream)
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for what happens next; None once it was stopped.
    ///
    /// # Errors
    /// Where the home cannot be read any more.
    pub fn wait(&mut self) -> Result<Option<Happening>> {
        loop {
            if let Some(happening) = self.ready.pop_front() {
                return Ok(Some(happening));
            }
            if self.stopped {
                return Ok(None);
            }
            let gone_at = self.gone.values().map(|(_, _, since)| *since + GONE_AFTER).min();
            let message = match [gone_at, self.compare_at].into_iter().flatten().min() {
                Some(until) => match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now()))
                {
                    Err(RecvTimeoutError::Timeout) => None,
                    received => received.ok().or(Some(Message::Stop)),
                },
                None => Some(self.inbox.recv().unwrap_or(Message::Stop)),
            };
            match message {
                Some(Message::Stop) => self.stopped = true,
                Some(Message::Events(events)) => self.look(events.hints)?,
                None => {}
            }
            if self.compare_at.is_some_and(|at| at <= Instant::now()) {
                self.compare()?;
                self.follow_names()?;
            }
            self.give_up(Instant::now());
        }
    }

    fn look(&mut self, hints: Vec<Hint>) -> Result<()> {
        let mut paths = BTreeSet::new();
        for hint in hints {
            match hint {
                Hint::All => {
                    self.compare()?;
                    self.follow_names()?;
                }
                Hint::Names => self.follow_names()?,
                Hint::Dir(path) => self.compare_within(vec![path])?,
                Hint::File(path) => drop(paths.insert(path)),
                Hint::DirTime(_) => {}
            }
        }
        let mut found = BTreeMap::new();
        for path in paths {
            if ids_of(&path).is_some() {
                match scan::look(&self.areas, &path) {
                    Ok(look) => drop(found.insert(path, look.and_then(in_home))),
                    Err(error) => log::warn!("{error}; what was known of it is kept"),
                }
            }
        }
        self.take(found);
        Ok(())
    }

    /// Compares everything.
    fn compare(&mut self) -> Result<()> {
        let began = Instant::now();
        self.compare_within(ROOTS.map(|root| root.as_bytes().to_vec()).into())?;
        let misses_some = self.watcher.as_ref().is_some_and(Watcher::misses_some);
        let every = self.every.or(misses_some.then_some(COMPARE_EVERY));
        self.compare_at = every.map(|every| Instant::now() + every.max(began.elapsed()));
        Ok(())
    }

    /// Compares what is below these folders.
    fn compare_within(&mut self, mut folders: Vec<Vec<u8>>) -> Result<()> {
        let mut found = BTreeMap::new();
        for dir in &folders {
            let below = [dir, &b"/"[..]].concat();
            let known = self.files.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
            found.extend(known.map(|(path, _)| (path.clone(), None)));
        }
        while let Some(folder) = folders.pop() {
            if let Some(watcher) = &mut self.watcher {
                watcher.arm(&folder);
            }
            let listing = match scan::list(&self.areas, &folder) {
                Ok(Some(listing)) => listing,
                Ok(None) => continue,
                Err(error) => {
                    log::warn!("{error}; what was known of it is kept");
                    let below = [&folder[..], b"/"].concat();
                    found.retain(|path, _| !path.starts_with(&below));
                    continue;
                }
            };
            for (name, file) in listing.files {
                let path = scan::join(&folder, &name);
                if ids_of(&path).is_some() {
                    found.insert(path, in_home(file));
                }
            }
            if scan::depth(&folder) < scan::DEPTH_MAX {
                folders.extend(listing.dirs.iter().map(|name| scan::join(&folder, name)));
            }
        }
        self.take(found);
        Ok(())
    }

    /// Takes in what was found at paths: what is gone first, as it may be what is found elsewhere.
    fn take(&mut self, found: BTreeMap<Vec<u8>, Option<Seen>>) {
        let (there, gone): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, found)| found.is_some());
        gone.into_iter().for_each(|(path, _)| self.went(path));
        for (path, found) in there {
            let (Some(now), Some(ids)) = (found, ids_of(&path)) else { continue };
            if !self.files.contains_key(&path) {
                self.notice_gone(&counterpart(&path));
            }
            match self.files.insert(path.clone(), now) {
                Some(before) => self.differs(&path, before, now),
                None => match self.gone.remove(&ids) {
                    Some((from, before, _)) => {
                        if from != path {
                            self.moved(&from, &path, now);
                        }
                        self.differs(&path, before, now);
                    }
                    None => self.ready.push_back(Happening::of(What::Appeared, &path, now)),
                },
            }
        }
    }

    /// A file is not there: maybe it is found elsewhere.
    fn went(&mut self, path: Vec<u8>) {
        let (Some(seen), Some(ids)) = (self.files.remove(&path), ids_of(&path)) else { return };
        if let Some((path, seen, _)) = self.gone.insert(ids, (path, seen, Instant::now())) {
            self.ready.push_back(Happening::of(What::Gone, &path, seen));
        }
    }

    /// A listing may have met a file before it was moved, and met it again at its new place.
    fn notice_gone(&mut self, path: &[u8]) {
        if self.files.contains_key(path) && matches!(scan::look(&self.areas, path), Ok(None)) {
            self.went(path.to_owned());
        }
    }

    fn moved(&mut self, from: &[u8], path: &[u8], now: Seen) {
        let is_archived = |path: &[u8]| !path.starts_with(b"sessions/");
        let event = match (is_archived(from), is_archived(path)) {
            (false, true) => What::Archived,
            (true, false) => What::Unarchived,
            _ => What::Moved,
        };
        self.ready.push_back(Happening { from: Some(text(from)), ..Happening::of(event, path, now) });
    }

    fn differs(&mut self, path: &[u8], before: Seen, now: Seen) {
        let same_file = (before.disk.device, before.disk.inode) == (now.disk.device, now.disk.inode);
        let event = match (before.encoding, now.encoding) {
            _ if before == now => return,
            (Encoding::Plain, Encoding::Zstd) => What::Compressed,
            (Encoding::Zstd, Encoding::Plain) => What::Decompressed,
            _ if same_file && now.disk.size_bytes > before.disk.size_bytes => What::Grew,
            _ => What::Changed,
        };
        let bytes_before = Some(before.disk.size_bytes);
        self.ready.push_back(Happening { bytes_before, ..Happening::of(event, path, now) });
    }

    /// What was not found elsewhere for a while is gone.
    fn give_up(&mut self, now: Instant) {
        let is_over = |since: &Instant| *since + GONE_AFTER <= now;
        let over: Vec<_> =
            self.gone.iter().filter(|(_, (_, _, since))| is_over(since)).map(|(ids, _)| *ids).collect();
        for ids in over {
            if let Some((path, seen, _)) = self.gone.remove(&ids) {
                self.ready.push_back(Happening::of(What::Gone, &path, seen));
            }
        }
    }

    fn follow_names(&mut self) -> Result<()> {
        let followed = match self.follower.advance() {
            Ok(followed) => followed,
            Err(error) => {
                log::warn!("{error}; names stay as they were");
                return Ok(());
            }
        };
        if followed.tail.is_some() {
            // What comes behind an entry without a newline may make it no entry: then everything is read again.
            self.follower = Follower::new(self.home.session_index(), None);
        }
        let (entries, replaced) = match followed.follow {
            Follow::Appended(entries) => (entries, false),
            Follow::Replaced(entries) => (entries, true),
        };
        let entries = entries.into_iter().chain(followed.tail);
        let mut names: Vec<_> =
            entries.map(|placed| (ThreadId::new(placed.entry.id), placed.entry.thread_name)).collect();
        if replaced {
            // Of a file that is read anew only the end result is news.
            let last: HashMap<_, _> = names.drain(..).collect();
            let mut lost: Vec<_> =
                self.names.keys().filter(|thread| !last.contains_key(thread)).copied().collect();
            lost.sort();
            lost.into_iter().for_each(|thread| self.name(thread, String::new()));
            names = last.into_iter().collect();
            names.sort();
        }
        names.into_iter().for_each(|(thread, name)| self.name(thread, name));
        Ok(())
    }

    /// A thread has this name now; a blank one is none.
    fn name(&mut self, thread: ThreadId, name: String) {
        let name = Some(name).filter(|name| !name.trim().is_empty());
        let before = match &name {
            Some(name) => self.names.insert(thread, name.clone()),
            None => self.names.remove(&thread),
        };
        if before == name {
            return;
        }
        let event = if name.is_some() { What::Named } else { What::Unnamed };
        self.ready.push_back(Happening {
            id: Some(thread.to_string()),
            name,
            name_before: before,
            ..Happening::new(event)
        });
    }
}

fn in_home(found: Found) -> Option<Seen> {
    (found.area == Area::Home).then_some(Seen { encoding: found.encoding, disk: found.disk })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};

    use super::*;

    const DAY: &str = "sessions/2026/02/08";

    fn id(number: u64) -> String {
        format!("0198c0de-0000-7000-8000-{number:012x}")
    }

    fn file_name(number: u64) -> String {
        format!("rollout-2026-02-08T09-00-00-{}.jsonl", id(number))
    }

    fn made() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let day = dir.path().join(DAY);
        fs::create_dir_all(&day).unwrap();
        fs::create_dir_all(dir.path().join("archived_sessions")).unwrap();
        fs::write(day.join(file_name(1)), "one\n").unwrap();
        (dir, day)
    }

    fn append(path: &Path, text: &str) {
        fs::File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// The next piece, in short: what, the last digit of the thread, and what else it says.
    fn next(stream: &mut Stream) -> String {
        // A piece that never comes fails the test, rather than to hang it.
        let stopper = stream.stopper();
        let (done, over) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if over.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
                stopper.stop();
            }
        });
        let it = stream.wait().unwrap().expect("nothing happened");
        drop(done);
        let number = it.id.as_ref().map_or_else(String::new, |id| id[id.len() - 1..].to_owned());
        let rest = [
            it.bytes_before.map(|bytes| bytes.to_string()),
            it.bytes.map(|bytes| bytes.to_string()),
            it.name_before,
            it.name,
            it.from.map(|from| format!("from {}", from.split('/').next().unwrap())),
            it.path.map(|path| format!("at {}", path.split('/').next().unwrap())),
        ];
        let rest: Vec<_> = rest.into_iter().flatten().collect();
        format!("{:?} {number} {}", it.event, rest.join(" "))
    }

    /// By events, and by the clock.
    fn both(test: impl Fn(Option<Duration>)) {
        test(None);
        test(Some(Duration::from_millis(20)));
    }

    #[test]
    fn a_thread_appears_grows_moves_and_goes() {
        both(|poll| {
            let (dir, day) = made();
            let mut stream = Stream::open(&Home::open(dir.path()).unwrap(), poll).unwrap();
            assert!(next(&mut stream).starts_with("Watching"));
            append(&day.join(file_name(1)), "two\n");
            assert_eq!(next(&mut stream), "Grew 1 4 8 at sessions");
            fs::write(day.join("notes.txt"), "no thread").unwrap();
            let hidden = dir.path().join("rollout");
            fs::write(&hidden, "two\n").unwrap();
            fs::rename(&hidden, day.join(file_name(2))).unwrap();
            assert_eq!(next(&mut stream), "Appeared 2 4 at sessions");
            let archived = dir.path().join("archived_sessions");
            fs::rename(day.join(file_name(2)), archived.join(file_name(2))).unwrap();
            assert_eq!(next(&mut stream), "Archived 2 4 from sessions at archived_sessions");
            fs::rename(archived.join(file_name(2)), day.join(file_name(2))).unwrap();
            assert_eq!(next(&mut stream), "Unarchived 2 4 from archived_sessions at sessions");
            fs::rename(day.join(file_name(2)), day.join(file_name(2).replace("T09", "T10"))).unwrap();
            assert_eq!(next(&mut stream), "Moved 2 4 from sessions at sessions");
            fs::write(day.join(file_name(1)), "x").unwrap();
            let cut = next(&mut stream);
            assert!(cut.starts_with("Changed 1 8 "), "{cut}");
            if cut == "Changed 1 8 0 at sessions" {
                assert_eq!(next(&mut stream), "Grew 1 0 1 at sessions");
            }
            fs::remove_dir_all(dir.path().join("sessions/2026")).unwrap();
            let mut gone = [next(&mut stream), next(&mut stream)];
            gone.sort();
            assert_eq!(gone, ["Gone 1 1 at sessions", "Gone 2 4 at sessions"]);
            // A day that was not there.
            fs::create_dir_all(dir.path().join("sessions/2027/03/04")).unwrap();
            fs::rename(
                fs_file(dir.path(), "three\n"),
                dir.path().join("sessions/2027/03/04").join(file_name(3)),
            )
            .unwrap();
            assert_eq!(next(&mut stream), "Appeared 3 6 at sessions");
            stream.stopper().stop();
            assert_eq!(stream.wait().unwrap(), None);
        });
    }

    fn fs_file(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("whole");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_thread_is_compressed_and_made_plain() {
        both(|poll| {
            let (dir, day) = made();
            let plain = day.join(file_name(1));
            let packed = day.join(file_name(1) + ".zst");
            let mut stream = Stream::open(&Home::open(dir.path()).unwrap(), poll).unwrap();
            next(&mut stream);
            // As Codex does, and with a moment in which neither is there.
            let temporary = day.join("rollout-compress-aB3x9Z.tmp");
            fs::write(&temporary, zstd::encode_all(&b"one\n"[..], 3).unwrap()).unwrap();
            fs::remove_file(&plain).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            fs::rename(&temporary, &packed).unwrap();
            let packed_bytes = fs::metadata(&packed).unwrap().len();
            assert_eq!(next(&mut stream), format!("Compressed 1 4 {packed_bytes} at sessions"));
            fs::rename(fs_file(dir.path(), "one\n"), &plain).unwrap();
            assert_eq!(next(&mut stream), format!("Decompressed 1 {packed_bytes} 4 at sessions"));
            fs::remove_file(&packed).unwrap();
            append(&plain, "two\n");
            assert_eq!(next(&mut stream), "Grew 1 4 8 at sessions");
        });
    }

    #[test]
    fn names_come_change_and_go() {
        both(|poll| {
            let (dir, _) = made();
            let home = Home::open(dir.path()).unwrap();
            let line = |number, name: &str| {
                format!(
                    "{{\"id\":\"{}\",\"thread_name\":\"{name}\",\"updated_at\":\"unknown\"}}\n",
                    id(number)
                )
            };
            append(&home.session_index(), &line(1, "old"));
            let mut stream = Stream::open(&home, poll).unwrap();
            next(&mut stream);
            append(&home.session_index(), &(line(1, "new") + "no entry\n" + &line(2, "two")));
            assert_eq!(next(&mut stream), "Named 1 old new");
            assert_eq!(next(&mut stream), "Named 2 two");
            // The same once more is nothing; a last line without its newline counts.
            append(&home.session_index(), (line(2, "two") + &line(1, "newer")).trim_end());
            assert_eq!(next(&mut stream), "Named 1 new newer");
            fs::rename(fs_file(dir.path(), &line(1, "newer")), home.session_index()).unwrap();
            assert_eq!(next(&mut stream), "Unnamed 2 two");
        });
    }
}
