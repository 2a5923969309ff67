//! Who keeps the index true to the home? One thread, `indexer`: it lists folders, has files read and stores what they say.
//!
//! What it does next, most urgent first:
//! 1. a folder that a caller waits for (`Message::Ensure`): so a cold index answers `ls` at once;
//! 2. hints of the watcher;
//! 3. folders not listed since the start, newest first;
//! 4. names;
//! 5. files not read: the backfill, in the order of spec 6.3, then whatever else changed.
//!
//! It holds the writer and the watches alone. Files are read by `backfill-N` threads, which know only paths.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::areas::{Area, Areas};
use super::backfill::{self, BATCH_FILES, Flight, Progress, Status, Tally};
use super::change::{Change, News};
use super::content::Encoding;
use super::error::{Result, StoreError};
use super::home::Home;
use super::read::{self, Reading};
use super::rollout::{RolloutName, ThreadId};
use super::row::Row;
use super::scan::{self, ROOTS};
use super::session_index::{Follow, Follower};
use super::watch::{Arrived, Hint, Watcher};
use super::watching::{Mode, Watching, Why};
use super::writer::{Batch, Writer};

/// Messages waiting for the indexer; a watcher that finds it full has everything compared instead.
const INBOX_MAX: usize = 1024;
/// Messages taken before work goes on.
const MESSAGES_AT_ONCE_MAX: usize = 256;
/// Files given to the readers and not back yet: more than a batch, so that they read while one is stored.
const IN_FLIGHT_MAX: usize = 2048;
/// Files listed in one transaction, about.
const SCAN_BATCH_FILES: usize = 8000;
/// A batch of readings is stored after this time, full or not.
const BATCH_TIME: Duration = Duration::from_millis(200);
/// How long the indexer leaves a disk alone that refused a write.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);
/// How often everything is compared where some folders cannot be watched.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
/// After a comparison there is a pause of so many times what it took: a large home is compared less often.
const COMPARE_PAUSE: u32 = 3;
/// A file that changed while it was read is read again after this.
const REREAD_PAUSE: Duration = Duration::from_millis(20);
/// A file up to this size is read at once when a call of ours changed it, and others up to this size together when the
/// system told of them; the rest soon after.
const READ_NOW_BYTES_MAX: u64 = 1024 * 1024;
/// A file that a call of ours found changed is looked at after this time, with all that come meanwhile: what is written in
/// pieces is followed once.
const LOOK_AGAIN_PAUSE: Duration = Duration::from_millis(5);
/// Where the position in `session_index.jsonl` is kept.
const NAMES_POSITION: &str = "names_position";

/// What others ask of the indexer.
pub(super) enum Message {
    /// List this folder, and those above it, before answering.
    Ensure(Vec<u8>, SyncSender<Result<()>>),
    /// Look at this file again, soon.
    LookAgain(Vec<u8>),
    /// The watcher's events.
    Events(Arrived),
    /// A file was read.
    Read(Box<Reading>),
    /// Look at these files now, and at the names where told so, and answer when the index says what they are.
    Look(Vec<Vec<u8>>, bool, SyncSender<Result<()>>),
    /// List this folder now, though it was listed before.
    List(Vec<u8>, SyncSender<Result<()>>),
    /// Answer once everything asked before is in the index.
    Flush(SyncSender<()>),
    /// End.
    Stop,
}

/// The running indexer.
pub(super) struct Indexer {
    inbox: SyncSender<Message>,
    rescan: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    watching: Arc<Watching>,
    listed: Arc<Listed>,
}

/// How changes are to be followed.
#[derive(Clone, Debug)]
pub(super) enum Following {
    /// Not at all.
    Not,
    /// By events, of at most so many folders.
    Events(usize),
    /// By comparing everything so often, for this reason.
    Clock(Duration, String),
}

/// Folders listed since the start or the last comparison. Asked by every call while the rest is listed, so that only
/// those wait that must.
#[derive(Default)]
struct Listed(RwLock<HashSet<Vec<u8>>>);

impl Listed {
    fn contains(&self, path: &[u8]) -> bool {
        self.0.read().unwrap_or_else(|poison| poison.into_inner()).contains(path)
    }

    fn insert(&self, path: Vec<u8>) {
        self.0.write().unwrap_or_else(|poison| poison.into_inner()).insert(path);
    }

    fn forget_within(&self, dir: &[u8]) {
        let mut listed = self.0.write().unwrap_or_else(|poison| poison.into_inner());
        listed.retain(|path| !is_within(path, dir));
    }

    fn clear(&self) {
        self.0.write().unwrap_or_else(|poison| poison.into_inner()).clear();
    }
}

struct Shared {
    home: Home,
    areas: Areas,
    progress: Arc<Progress>,
    news: Arc<News>,
    watching: Arc<Watching>,
    listed: Arc<Listed>,
}

impl Indexer {
    /// Starts the indexer and `readers` reading threads over an open writer.
    pub(super) fn start(
        home: &Home,
        areas: &Areas,
        writer: Writer,
        readers: usize,
        following: Following,
        progress: Arc<Progress>,
        news: Arc<News>,
    ) -> Result<Indexer> {
        let (inbox, messages) = sync_channel(INBOX_MAX);
        let rescan = Arc::new(AtomicBool::new(false));
        let watching = Arc::<Watching>::default();
        let (watcher, clock) = start_following(home, following, &inbox, &rescan, &watching);
        let shared = Shared {
            home: home.clone(),
            areas: areas.clone(),
            progress,
            news,
            watching: watching.clone(),
            listed: Arc::default(),
        };
        let listed = shared.listed.clone();
        let (jobs, job_queue) = sync_channel::<Row>(IN_FLIGHT_MAX);
        let job_queue = Arc::new(Mutex::new(job_queue));
        let stop_reading = Arc::new(AtomicBool::new(false));
        for number in 0..readers.max(1) {
            spawn_reader(number, areas, &job_queue, &inbox, &stop_reading, &shared.progress)?;
        }
        let seen_rescan = rescan.clone();
        let thread = std::thread::Builder::new()
            .name("indexer".into())
            .spawn(move || {
                let mut work = Loop::new(shared, writer, watcher, messages, jobs, seen_rescan, stop_reading);
                work.clock = clock;
                work.run()
            })
            .map_err(StoreError::io("start a thread for", home.root()))?;
        Ok(Indexer { inbox, rescan, thread: Mutex::new(Some(thread)), watching, listed })
    }

    /// How changes are found.
    pub(super) fn watching(&self) -> &Watching {
        &self.watching
    }

    /// Waits until the folder at `path` is listed.
    pub(super) fn ensure(&self, path: &[u8]) -> Result<()> {
        if self.listed.contains(path) {
            return Ok(());
        }
        let (answer, answered) = sync_channel(1);
        let gone = || StoreError::Invalid("the index ended; see the log, then mount again".into());
        self.inbox.send(Message::Ensure(path.to_owned(), answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    /// Waits until the index says what these files are now, and the names where told so.
    pub(super) fn look(&self, paths: Vec<Vec<u8>>, names: bool) -> Result<()> {
        let (answer, answered) = sync_channel(1);
        let gone = || StoreError::Invalid("the index ended; see the log, then mount again".into());
        self.inbox.send(Message::Look(paths, names, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    /// Waits until a folder is listed anew.
    pub(super) fn list(&self, path: Vec<u8>) -> Result<()> {
        let (answer, answered) = sync_channel(1);
        let gone = || StoreError::Invalid("the index ended; see the log, then mount again".into());
        self.inbox.send(Message::List(path, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    /// Has a file looked at again soon; never waits.
    pub(super) fn look_again(&self, path: &[u8]) {
        if let Err(TrySendError::Full(_)) = self.inbox.try_send(Message::LookAgain(path.to_owned())) {
            self.rescan.store(true, Ordering::Release);
        }
    }

    /// Waits until what was asked before is in the index.
    pub(super) fn flush(&self) {
        let (answer, answered) = sync_channel(1);
        if self.inbox.send(Message::Flush(answer)).is_ok() {
            let _ = answered.recv();
        }
    }

    /// Ends the indexer after the batch at hand.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(|poison| poison.into_inner()).take();
        if let Some(thread) = thread {
            let _ = self.inbox.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The watcher, or how often to compare everything. Where the system has no watcher left, it goes by the clock.
fn start_following(
    home: &Home,
    following: Following,
    inbox: &SyncSender<Message>,
    rescan: &Arc<AtomicBool>,
    watching: &Arc<Watching>,
) -> (Option<Watcher>, Option<Duration>) {
    let (every, reason) = match following {
        Following::Not => return (None, None),
        Following::Clock(every, reason) => (every, reason),
        Following::Events(folders_max) => {
            let (inbox, rescan) = (inbox.clone(), rescan.clone());
            let send = move |events| match inbox.try_send(Message::Events(events)) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    rescan.store(true, Ordering::Release);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            };
            match Watcher::start(home, folders_max, watching, send) {
                Ok(watcher) => {
                    watching.set(|status| status.mode = Mode::Events);
                    return (Some(watcher), None);
                }
                Err(error) => {
                    log::warn!(
                        "{error}; everything is compared every minute instead (more watchers: sysctl fs.inotify.max_user_instances)"
                    );
                    (COMPARE_EVERY, error.to_string())
                }
            }
        }
    };
    watching.set(|status| {
        status.mode = Mode::Clock;
        status.reason = Some(reason);
        status.compare_every_seconds = Some(every.as_secs_f64());
    });
    (None, Some(every))
}

fn spawn_reader(
    number: usize,
    areas: &Areas,
    jobs: &Arc<Mutex<Receiver<Row>>>,
    inbox: &SyncSender<Message>,
    stop: &Arc<AtomicBool>,
    progress: &Arc<Progress>,
) -> Result<()> {
    let (areas, jobs, inbox) = (areas.clone(), jobs.clone(), inbox.clone());
    let home = areas.root(Area::Home).to_owned();
    let (stop, progress) = (stop.clone(), progress.clone());
    let work = move || {
        loop {
            // The lock is held while waiting for a job: the others wait for it instead.
            let job = jobs.lock().unwrap_or_else(|poison| poison.into_inner()).recv();
            let Ok(row) = job else { return };
            if stop.load(Ordering::Acquire) {
                return;
            }
            let reading = read_or_say(&areas, &row, &progress.bytes_done);
            if inbox.send(Message::Read(Box::new(reading))).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name(format!("backfill-{number}"))
        .spawn(work)
        .map(drop)
        .map_err(StoreError::io("start a thread for", &home))
}

/// Reads a file; a panic is a file that cannot be read.
fn read_or_say(areas: &Areas, row: &Row, bytes_done: &AtomicU64) -> Reading {
    std::panic::catch_unwind(|| read::read(areas, row, bytes_done)).unwrap_or_else(|_| Reading::panicked(row))
}

struct Loop {
    shared: Shared,
    writer: Writer,
    watcher: Option<Watcher>,
    messages: Receiver<Message>,
    jobs: SyncSender<Row>,
    rescan: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    /// Folders to list; the last is next.
    scan: Vec<Vec<u8>>,
    names: Follower,
    names_due: bool,
    /// Files whose logical path is to be looked at.
    files_due: BTreeSet<Vec<u8>>,
    /// The same, at `soon_at`.
    files_soon: BTreeSet<Vec<u8>>,
    soon_at: Option<Instant>,
    /// Folders in which something came or went: their own time is to be looked at.
    times_due: BTreeSet<Vec<u8>>,
    flight: Flight,
    in_flight: HashSet<Vec<u8>>,
    /// The last path given to the readers in this round.
    fed: Vec<u8>,
    /// There may be unread files after `fed`.
    feed_due: bool,
    readings: Vec<Reading>,
    readings_since: Option<Instant>,
    waiting: Vec<SyncSender<()>>,
    owner: String,
    backfilling: bool,
    watermark: Option<Vec<u8>>,
    trouble_until: Option<Instant>,
    /// Everything is compared so often, where no watcher tells.
    clock: Option<Duration>,
    compare_at: Option<Instant>,
    /// Why everything is being compared, and since when.
    comparing: Option<(Why, Instant)>,
    /// Everything is to be compared before a flush is answered.
    compare_for_flush: bool,
    /// Of each folder what was in it when the index agreed with it last.
    digests: HashMap<Vec<u8>, u64>,
    /// The last batch of events that was taken.
    events_taken: u64,
    stopping: bool,
}

fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

impl Loop {
    fn new(
        shared: Shared,
        writer: Writer,
        watcher: Option<Watcher>,
        messages: Receiver<Message>,
        jobs: SyncSender<Row>,
        rescan: Arc<AtomicBool>,
        stop_reading: Arc<AtomicBool>,
    ) -> Self {
        let position = writer.queries().meta_text(NAMES_POSITION).ok().flatten();
        let position = position.and_then(|text| serde_json::from_str(&text).ok());
        let names = Follower::new(shared.home.session_index(), position);
        Loop {
            shared,
            writer,
            watcher,
            messages,
            jobs,
            rescan,
            stop_reading,
            scan: Vec::new(),
            names,
            names_due: true,
            files_due: BTreeSet::new(),
            files_soon: BTreeSet::new(),
            soon_at: None,
            times_due: BTreeSet::new(),
            flight: Flight::default(),
            in_flight: HashSet::new(),
            fed: Vec::new(),
            feed_due: false,
            readings: Vec::new(),
            readings_since: None,
            waiting: Vec::new(),
            owner: format!("{}-{}", std::process::id(), now_seconds()),
            backfilling: false,
            watermark: None,
            trouble_until: None,
            clock: None,
            compare_at: None,
            comparing: None,
            compare_for_flush: false,
            digests: HashMap::new(),
            events_taken: 0,
            stopping: false,
        }
    }

    fn run(mut self) {
        self.compare(Why::Start);
        while !self.stopping {
            self.take_messages();
            if self.stopping {
                break;
            }
            if self.trouble_until.is_some_and(|until| Instant::now() < until) {
                continue;
            }
            if let Err(error) = self.work() {
                self.report_trouble(&error);
            }
        }
        self.stop_reading.store(true, Ordering::Release);
        let _ = self.store_readings();
        self.watcher = None;
        self.shared.news.close();
        self.writer.close();
    }

    fn report_trouble(&mut self, error: &StoreError) {
        self.trouble_until = Some(Instant::now() + TROUBLE_PAUSE);
        let mut trouble = self.shared.progress.trouble.lock().unwrap_or_else(|poison| poison.into_inner());
        if trouble.is_none() {
            log::warn!(
                "{error}; what is indexed is still served, and the rest is tried again until it can be written"
            );
        }
        *trouble = Some(error.to_string());
    }

    /// Has everything compared. By the clock, what was listed counts as listed meanwhile.
    fn compare(&mut self, why: Why) {
        self.compare_at = None;
        self.comparing = Some((why, Instant::now()));
        self.scan = ROOTS.iter().rev().map(|root| root.as_bytes().to_vec()).collect();
        self.names_due = true;
        if let Some(watcher) = &mut self.watcher {
            // Before the many folders of days, which may take all the room there is.
            for root in ROOTS {
                watcher.arm(root.as_bytes());
            }
        }
        if why != Why::Clock {
            self.shared.listed.clear();
            self.shared.progress.listed.store(false, Ordering::Release);
            self.files_due.extend(self.root_files());
        }
    }

    /// Are there folders of which the watcher does not tell?
    fn misses_some(&self) -> bool {
        self.watcher.as_ref().is_some_and(Watcher::misses_some)
    }

    /// Everything was compared, if it was: when is it to be the next time?
    fn end_comparison(&mut self) {
        let mut pause = Duration::ZERO;
        if let Some((why, since)) = self.comparing.take() {
            pause = since.elapsed() * COMPARE_PAUSE;
            self.shared.watching.compared(why, since.elapsed());
            log::debug!("everything was compared in {:?} ({why:?})", since.elapsed());
        }
        if self.compare_at.is_none() {
            let every = self.clock.or(self.misses_some().then_some(COMPARE_EVERY));
            self.compare_at = every.map(|every| Instant::now() + every.max(pause));
            if self.clock.is_none() {
                let seconds = every.map(|every| every.as_secs_f64());
                self.shared.watching.set(|status| status.compare_every_seconds = seconds);
            }
        }
    }

    /// Files of the root, those that are there and those that were.
    fn root_files(&self) -> Vec<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        let folder = std::fs::read_dir(self.shared.areas.root(Area::Scratch));
        let there = folder.into_iter().flatten().flatten();
        let there = there.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        let known = self.writer.queries().files_of_dir(super::node::NodeNumber::ROOT).unwrap_or_default();
        there
            .map(|entry| entry.file_name().into_vec())
            .chain(known.into_iter().map(|row| row.file.path))
            .collect()
    }

    /// Is there work that does not wait for a message?
    fn is_busy(&self) -> bool {
        !self.scan.is_empty()
            || !self.files_due.is_empty()
            || !self.times_due.is_empty()
            || self.names_due
            || self.compare_for_flush
            || (self.feed_due && self.in_flight.len() < IN_FLIGHT_MAX)
            || self.readings.len() >= BATCH_FILES
            || self.is_all_read()
            || self.rescan.load(Ordering::Acquire)
    }

    /// Are there readings to store, and none to wait for?
    fn is_all_read(&self) -> bool {
        !self.readings.is_empty() && self.in_flight.len() == self.readings.len() && !self.feed_due
    }

    fn take_messages(&mut self) {
        let busy = self.is_busy();
        let pause = self.trouble_until.map(|until| until.saturating_duration_since(Instant::now()));
        let first = match pause.filter(|pause| !pause.is_zero()) {
            Some(pause) => self.receive_within(pause),
            None if busy => self.messages.try_recv().map_err(|error| error == TryRecvError::Disconnected),
            None => match self.next_deadline() {
                Some(wait) => self.receive_within(wait),
                None => self.messages.recv().map_err(|_| true),
            },
        };
        match first {
            Ok(message) => self.take(message),
            Err(disconnected) => {
                self.stopping |= disconnected;
                return;
            }
        }
        for _ in 1..MESSAGES_AT_ONCE_MAX {
            match self.messages.try_recv() {
                Ok(message) => self.take(message),
                Err(_) => return,
            }
        }
    }

    fn receive_within(&self, wait: Duration) -> std::result::Result<Message, bool> {
        self.messages.recv_timeout(wait).map_err(|error| error == RecvTimeoutError::Disconnected)
    }

    /// How long the loop may sleep though nothing is asked; None: for ever.
    fn next_deadline(&self) -> Option<Duration> {
        let store_at = self.readings_since.map(|since| since + BATCH_TIME);
        let earliest = [store_at, self.compare_at, self.soon_at].into_iter().flatten().min()?;
        Some(earliest.saturating_duration_since(Instant::now()))
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ensure(path, answer) => {
                let done = self.ensure(&path);
                self.answer(done, &answer);
            }
            Message::Look(paths, names, answer) => {
                let done = self.look_now(paths, names);
                self.answer(done, &answer);
            }
            Message::List(path, answer) => {
                let done = self.scan_dirs(vec![path], false);
                self.answer(done, &answer);
            }
            Message::LookAgain(path) => {
                self.files_soon.insert(path);
                self.soon_at.get_or_insert_with(|| Instant::now() + LOOK_AGAIN_PAUSE);
            }
            Message::Events(events) => {
                self.events_taken = events.number;
                events.hints.into_iter().for_each(|hint| self.take_hint(hint));
            }
            Message::Read(reading) => {
                self.readings_since.get_or_insert_with(Instant::now);
                self.readings.push(*reading);
            }
            Message::Flush(answer) => {
                self.compare_for_flush |= self.clock.is_some() || self.misses_some();
                self.waiting.push(answer);
            }
            Message::Stop => self.stopping = true,
        }
    }

    /// Answers a caller. What could not be stored is due, and is tried again after a pause.
    fn answer(&mut self, done: Result<()>, answer: &SyncSender<Result<()>>) {
        match &done {
            Err(error) => self.report_trouble(error),
            // The disk takes writes again.
            Ok(()) => self.trouble_until = None,
        }
        let _ = answer.send(done);
    }

    fn take_hint(&mut self, hint: Hint) {
        match hint {
            Hint::Names => self.names_due = true,
            Hint::File(path) => {
                self.files_due.insert(path);
            }
            Hint::Dir(path) => {
                // What lies in it may be another folder of the same name.
                self.shared.listed.forget_within(&path);
                self.digests.retain(|dir, _| !is_within(dir, &path));
                let (holder, name) = super::tree::split_path(&path);
                // A folder of a rollout's name may be hidden by a file: the listing around it tells.
                let named_as_rollout = RolloutName::parse(name).is_some();
                self.scan.push(if named_as_rollout { holder.to_owned() } else { path });
            }
            Hint::DirTime(path) => {
                self.times_due.insert(path);
            }
            Hint::All => self.compare(Why::Lost),
        }
    }

    /// One piece of work.
    fn work(&mut self) -> Result<()> {
        if self.rescan.swap(false, Ordering::AcqRel) {
            log::info!("more changes than could be followed: everything is compared");
            self.events_taken = self.shared.watching.last_arrived();
            self.compare(Why::Lost);
        }
        if self.compare_at.is_some_and(|at| Instant::now() >= at) {
            self.compare(Why::Clock);
        }
        // Who waits for the index waits for these too.
        if self.soon_at.is_some_and(|at| Instant::now() >= at || !self.waiting.is_empty()) {
            self.soon_at = None;
            self.files_due.append(&mut self.files_soon);
        }
        let due = self.readings_since.is_some_and(|since| since.elapsed() >= BATCH_TIME);
        if self.readings.len() >= BATCH_FILES || due || self.is_all_read() {
            self.store_readings()?;
        }
        if !self.files_due.is_empty() || !self.times_due.is_empty() {
            self.look_at_files(&[])?;
        } else if !self.scan.is_empty() {
            self.scan_some()?;
        } else if self.names_due {
            self.follow_names()?;
        } else if self.feed_due {
            self.feed()?;
        }
        self.settle()
    }

    /// After work: is everything listed and read?
    fn settle(&mut self) -> Result<()> {
        let progress = self.shared.progress.clone();
        let looking = !self.files_due.is_empty() || !self.times_due.is_empty();
        if looking || !self.scan.is_empty() || self.names_due {
            return Ok(());
        }
        if !progress.listed.load(Ordering::Acquire) {
            self.begin_reading()?;
            progress.listed.store(true, Ordering::Release);
        }
        self.end_comparison();
        if std::mem::take(&mut self.compare_for_flush) {
            // What happened before the question is to be in the answer, and nobody tells of it.
            self.compare(Why::Clock);
            return Ok(());
        }
        self.shared.watching.indexed(self.events_taken);
        if self.feed_due || !self.in_flight.is_empty() || !self.readings.is_empty() {
            return Ok(());
        }
        if self.backfilling {
            self.backfilling = false;
            backfill::complete(self.writer.connection(), &self.owner, now_seconds())
                .map_err(StoreError::index(self.writer.path()))?;
            self.restart_feed();
            return Ok(());
        }
        *progress.trouble.lock().unwrap_or_else(|poison| poison.into_inner()) = None;
        self.trouble_until = None;
        if !progress.settled.swap(true, Ordering::AcqRel) {
            self.writer.rest();
            // What was answered until now was not told of: from here on all is.
            self.shared.news.push([Change::Everything]);
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(());
        }
        Ok(())
    }

    fn restart_feed(&mut self) {
        self.fed.clear();
        self.feed_due = true;
    }

    /// Everything is listed: what is to be read, and from where?
    fn begin_reading(&mut self) -> Result<()> {
        let path = self.writer.path().to_owned();
        let state = backfill::load(self.writer.connection()).map_err(StoreError::index(&path))?;
        let mut start = Vec::new();
        if state.status != Status::Complete && !self.backfilling {
            // The state folder's lock is ours: whoever ran before is gone, and its lease with it.
            self.backfilling = backfill::claim(self.writer.connection(), &self.owner, now_seconds(), 0)
                .map_err(StoreError::index(&path))?;
            if self.backfilling {
                start = state.last_watermark.unwrap_or_default();
            }
        }
        let totals = self.writer.queries().unread_totals(&start).map_err(StoreError::index(&path))?;
        self.shared.progress.files_total.store(totals.0, Ordering::Relaxed);
        self.shared.progress.files_done.store(0, Ordering::Relaxed);
        self.shared.progress.bytes_total.store(totals.1, Ordering::Relaxed);
        self.shared.progress.bytes_done.store(0, Ordering::Relaxed);
        if self.backfilling && !start.is_empty() {
            log::info!("backfill goes on after {}", String::from_utf8_lossy(&start));
        }
        self.fed = start;
        self.feed_due = true;
        Ok(())
    }

    fn ensure(&mut self, path: &[u8]) -> Result<()> {
        let mut path = path;
        let mut chain = vec![];
        while !path.is_empty() {
            if !self.shared.listed.contains(path) {
                chain.push(path.to_owned());
            }
            path = super::tree::split_path(path).0;
        }
        for dir in chain.into_iter().rev() {
            self.scan_dirs(vec![dir], false)?;
        }
        Ok(())
    }

    fn scan_some(&mut self) -> Result<()> {
        self.scan_dirs(Vec::new(), true)
    }

    /// Lists folders into one transaction: those given, then some of those waiting.
    fn scan_dirs(&mut self, mut dirs: Vec<Vec<u8>>, go_on: bool) -> Result<()> {
        let mut listings = Vec::new();
        let mut files = 0;
        while let Some(path) = dirs.pop().or_else(|| if go_on { self.scan.pop() } else { None }) {
            // Armed before it is listed: nothing falls between.
            if let Some(watcher) = &mut self.watcher {
                watcher.arm(&path);
            }
            let listing = match scan::list(&self.shared.areas, &path) {
                Ok(listing) => listing,
                Err(error) => {
                    log::warn!("{error}; what was known of it is kept");
                    self.shared.listed.insert(path);
                    continue;
                }
            };
            files += listing.as_ref().map_or(1, |listing| listing.files.len() + 1);
            if go_on && let Some(found) = listing.as_ref().filter(|found| self.is_as_it_was(&path, found)) {
                self.scan.extend(new_dirs(&path, found));
                self.shared.listed.insert(path);
                if files >= SCAN_BATCH_FILES {
                    break;
                }
                continue;
            }
            listings.push((path, listing));
            if files >= SCAN_BATCH_FILES || !go_on {
                break;
            }
            if let Some((path, Some(listing))) = listings.last() {
                self.scan.extend(new_dirs(path, listing));
            }
        }
        self.store_listings(listings)
    }

    /// Does the index agree with a folder already?
    fn is_as_it_was(&self, path: &[u8], listing: &scan::Listing) -> bool {
        self.digests.get(path) == Some(&listing.digest)
    }

    fn store_listings(&mut self, listings: Vec<(Vec<u8>, Option<scan::Listing>)>) -> Result<()> {
        if listings.is_empty() {
            return Ok(());
        }
        let areas = self.shared.areas.clone();
        let stored = self.writer.batch(|batch| {
            let mut gone = scan::Gone::default();
            for (path, listing) in &listings {
                match listing {
                    Some(listing) => scan::apply(batch, &areas, listing, &mut gone)?,
                    None => gone.dir(path.clone()),
                }
            }
            gone.remove(batch)
        });
        let changes = match stored {
            Ok(((), changes)) => changes,
            Err(error) => {
                self.scan.extend(listings.into_iter().map(|(path, _)| path));
                return Err(error);
            }
        };
        self.tell(changes);
        let progress = &self.shared.progress;
        let last = listings.len().saturating_sub(1);
        for (position, (path, listing)) in listings.into_iter().enumerate() {
            progress.dirs_listed.fetch_add(1, Ordering::Relaxed);
            match &listing {
                Some(listing) => {
                    self.digests.insert(path.clone(), listing.digest);
                }
                None => {
                    self.digests.retain(|dir, _| !is_within(dir, &path));
                    if let Some(watcher) = &mut self.watcher {
                        watcher.forget_within(&path);
                    }
                }
            }
            if let Some(listing) = listing {
                progress.files_found.fetch_add(listing.files.len() as u64, Ordering::Relaxed);
                progress.passed_over.fetch_add(listing.passed_over_count, Ordering::Relaxed);
                // The last one broke the loop before its folders were put down to be listed.
                if position == last {
                    let by_clock = matches!(self.comparing, Some((Why::Clock, _)));
                    let again = |dir: &Vec<u8>| by_clock || !self.shared.listed.contains(dir);
                    self.scan.extend(new_dirs(&path, &listing).filter(again));
                }
            }
            self.shared.listed.insert(path);
        }
        self.wake_feed();
        Ok(())
    }

    /// Something may be unread.
    fn wake_feed(&mut self) {
        if self.shared.progress.listed.load(Ordering::Acquire) {
            self.restart_feed();
        }
    }

    /// What a call of ours changed is in the index when the call returns, and what the changed files say too.
    fn look_now(&mut self, paths: Vec<Vec<u8>>, names: bool) -> Result<()> {
        // Due until they were followed, also if something before that fails.
        self.names_due |= names;
        self.files_due.extend(paths.iter().cloned());
        for path in &paths {
            let dir = super::tree::split_path(path).0;
            self.ensure(dir)?;
            self.files_soon.remove(path);
            // With it the folder's own time, of which the watcher tells soon: then there is nothing to change.
            if !dir.is_empty() {
                self.times_due.insert(dir.to_owned());
            }
        }
        if !paths.is_empty() {
            self.look_at_files(&paths)?;
        }
        if names {
            self.follow_names()?;
        }
        Ok(())
    }

    /// Looks at the files that are due, and reads in the same transaction those that `asked` names and, of the others, what is
    /// small: so that each view changes once, and the kernel is told once.
    fn look_at_files(&mut self, asked: &[Vec<u8>]) -> Result<()> {
        let paths: Vec<_> = std::mem::take(&mut self.files_due).into_iter().collect();
        let areas = self.shared.areas.clone();
        let mut found = BTreeMap::new();
        for path in &paths {
            let dir = super::tree::split_path(path).0;
            self.digests.remove(dir);
            // The root is never listed: it has temporaries of tools alone, and each is looked at.
            if !dir.is_empty() && !self.shared.listed.contains(dir) {
                // Its folder is listed later, and with it the file.
                self.scan.push(dir.to_owned());
                continue;
            }
            match scan::look(&areas, path) {
                Ok(disk) => {
                    if disk.is_none_or(|found| found.encoding == Encoding::Zstd)
                        && scan::is_dir_named_as_rollout(&areas, path)
                    {
                        self.scan.push(dir.to_owned());
                    }
                    found.insert(path.clone(), disk);
                }
                Err(error) => log::warn!("{error}; what was known of it is kept"),
            }
        }
        let dirs = std::mem::take(&mut self.times_due);
        let times: Vec<_> =
            dirs.iter().filter_map(|dir| Some((dir, scan::dir_mtime_ns(&areas, dir)?))).collect();
        let read_others = self.shared.progress.is_settled() && !self.backfilling;
        let in_flight = &self.in_flight;
        let stored = self.writer.batch(|batch| {
            // What is found first: it may be what is gone elsewhere.
            let (there, gone): (Vec<_>, Vec<_>) = found.iter().partition(|(_, found)| found.is_some());
            for (path, found) in there.iter().chain(&gone) {
                scan::apply_file(batch, &areas, path, **found)?;
            }
            let mut bytes_left = READ_NOW_BYTES_MAX;
            for (path, _) in there {
                if asked.contains(path) {
                    read_now(batch, &areas, path, READ_NOW_BYTES_MAX, true)?;
                } else if read_others && !in_flight.contains(path) {
                    bytes_left -= read_now(batch, &areas, path, bytes_left, false)?;
                }
            }
            times.iter().try_for_each(|(dir, mtime_ns)| batch.tree.set_disk_mtime(dir, *mtime_ns))
        });
        match stored {
            Ok(((), changes)) => self.tell(changes),
            Err(error) => {
                self.files_due.extend(paths);
                self.times_due.extend(dirs);
                return Err(error);
            }
        }
        self.wake_feed();
        Ok(())
    }

    fn feed(&mut self) -> Result<()> {
        let room = IN_FLIGHT_MAX - self.in_flight.len().min(IN_FLIGHT_MAX);
        if room == 0 {
            return Ok(());
        }
        let page =
            self.writer.queries().unread(&self.fed, room).map_err(StoreError::index(self.writer.path()))?;
        if page.is_empty() {
            self.feed_due = false;
            return Ok(());
        }
        for row in page {
            let path = row.file.path.clone();
            self.fed = path.clone();
            if self.in_flight.contains(&path) {
                continue;
            }
            match self.jobs.try_send(row) {
                Ok(()) => {
                    self.in_flight.insert(path.clone());
                    self.flight.sent(path);
                }
                // As many jobs fit as may be in flight, so this is the end of the readers.
                Err(_) => return Err(StoreError::Invalid("the reading threads ended; mount again".into())),
            }
        }
        Ok(())
    }

    /// Stores what was read, with the backfill's checkpoint, in one transaction.
    fn store_readings(&mut self) -> Result<()> {
        if self.readings.is_empty() {
            return Ok(());
        }
        let readings = std::mem::take(&mut self.readings);
        self.readings_since = None;
        let mut tally = Tally::default();
        let mut paths = Vec::new();
        // Not found, though it may be there again since: the swap of spec 1.5 takes its time.
        self.files_due.extend(readings.iter().filter(|reading| reading.is_gone()).map(|it| it.path.clone()));
        for reading in &readings {
            tally.scanned += 1;
            if reading.is_gone() {
                log::debug!("{} went before it was read", String::from_utf8_lossy(&reading.path));
            } else if let Some(error) = reading.error() {
                tally.failed += 1;
                log::warn!(
                    "{}: {error}; passed over (see health/unreadable)",
                    String::from_utf8_lossy(&reading.path)
                );
            } else {
                tally.upserted += 1;
            }
            paths.push(reading.path.clone());
        }
        for path in &paths {
            if let Some(watermark) = self.flight.done(path) {
                self.watermark = Some(watermark);
            }
            self.in_flight.remove(path);
        }
        let (owner, watermark, backfilling) = (self.owner.clone(), self.watermark.clone(), self.backfilling);
        let stored = self.writer.batch(|batch| {
            let mut again = false;
            for reading in readings {
                again |= apply_reading(batch, reading)?;
            }
            if backfilling {
                backfill::checkpoint(batch.connection, &owner, now_seconds(), watermark.as_deref(), tally)?;
            }
            Ok(again)
        });
        let progress = &self.shared.progress;
        progress.files_done.fetch_add(tally.scanned, Ordering::Relaxed);
        progress.files_failed.fetch_add(tally.failed, Ordering::Relaxed);
        match stored {
            Ok((again, changes)) => {
                self.tell(changes);
                if again {
                    std::thread::sleep(REREAD_PAUSE);
                    self.wake_feed();
                }
                Ok(())
            }
            Err(error) => {
                // They stay unread in the index: the next round reads them again.
                self.restart_feed();
                Err(error)
            }
        }
    }

    fn follow_names(&mut self) -> Result<()> {
        let before = self.names.clone();
        let followed = match self.names.advance() {
            Ok(followed) => followed,
            Err(error) => {
                log::warn!("{error}; names stay as they were");
                self.names_due = false;
                return Ok(());
            }
        };
        // What comes behind an entry without a newline may make it no entry: then everything is read again.
        let again = followed.tail.is_some();
        let nothing_new = matches!(&followed.follow, Follow::Appended(entries) if entries.is_empty());
        if nothing_new && !again && before.position() == Some(followed.position) {
            self.names_due = false;
            return Ok(());
        }
        let stored = self.writer.batch(|batch| {
            let (entries, replaced) = match followed.follow {
                Follow::Appended(entries) => (entries, false),
                Follow::Replaced(entries) => (entries, true),
            };
            let mut last = BTreeMap::new();
            for placed in entries.into_iter().chain(followed.tail) {
                last.insert(ThreadId::new(placed.entry.id), placed);
            }
            if replaced {
                for thread in batch.queries().named_threads()? {
                    if !last.contains_key(&thread) {
                        batch.drop_name(thread)?;
                    }
                }
            }
            for (thread, placed) in last {
                let wanted = (placed.entry.thread_name, placed.offset_bytes as i64, placed.entry.updated_at);
                if batch.queries().name_of(thread)?.as_ref() != Some(&wanted) {
                    batch.set_name(thread, &wanted.0, wanted.1, &wanted.2)?;
                }
            }
            let position = Some(followed.position).filter(|_| !again);
            batch.set_meta(NAMES_POSITION, &serde_json::to_string(&position).unwrap_or_default())
        });
        match stored {
            Ok(((), mut changes)) => {
                self.names_due = false;
                if again {
                    self.names = Follower::new(self.shared.home.session_index(), None);
                }
                changes.push(Change::NamesFile);
                self.tell(changes);
                Ok(())
            }
            Err(error) => {
                self.names = before;
                self.names_due = true;
                Err(error)
            }
        }
    }

    /// Until everything was read once, nothing is kept for long by anyone: no news is needed.
    fn tell(&self, changes: Vec<Change>) {
        if self.shared.progress.is_settled() && !changes.is_empty() {
            self.shared.news.push(changes);
        }
    }
}

fn new_dirs<'a>(path: &'a [u8], listing: &'a scan::Listing) -> impl Iterator<Item = Vec<u8>> + 'a {
    // Ascending: the newest year, month and day are taken first.
    let deep = scan::depth(path) >= scan::DEPTH_MAX;
    listing.dirs.iter().filter(move |_| !deep).map(move |name| scan::join(path, name))
}

/// Is `path` that of `dir`, or below it?
fn is_within(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Reads a file that was looked at in this batch, if it is not read and has no more than `bytes_max`. Returns how many bytes
/// it has. What does not go well is stored where it was `asked` for, and else left to the readers, who say why.
fn read_now(
    batch: &mut Batch<'_>,
    areas: &Areas,
    path: &[u8],
    bytes_max: u64,
    asked: bool,
) -> rusqlite::Result<u64> {
    let due = |row: &Row| {
        row.file.state == super::row::ReadState::Unread
            && row.file.disk.size_bytes <= bytes_max
            && (asked || row.file.encoding == Encoding::Plain)
    };
    let Some(row) = batch.queries().row_by_path(path)?.filter(due) else { return Ok(0) };
    let reading = read_or_say(areas, &row, &AtomicU64::new(0));
    if asked || reading.error().is_none() {
        apply_reading(batch, reading)?;
    }
    Ok(row.file.disk.size_bytes)
}

/// True if the file changed while it was read, and must be read again.
fn apply_reading(batch: &mut Batch<'_>, reading: Reading) -> rusqlite::Result<bool> {
    // Gone meanwhile: a later listing said so.
    let Some(before) = batch.queries().row_by_path(&reading.path)? else { return Ok(false) };
    let after = reading.apply(&before);
    let again = after.file.state == super::row::ReadState::Unread;
    if after != before {
        batch.update(&before, after)?;
    }
    Ok(again)
}

/// What a panic in a reader becomes: a file that cannot be read.
impl Reading {
    fn panicked(row: &Row) -> Reading {
        log::error!("reading {} panicked: please report this", String::from_utf8_lossy(&row.file.path));
        Reading::failed_because(row, "rolloutfs failed on it (a defect: please report it)".into())
    }
}
