//! What is in a Codex home? The store reads rollouts, keeps the index of them, and answers from it.
//!
//! It knows files, threads and places in a tree; it does not know how they are served.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub mod archive;
pub mod areas;
pub mod backfill;
pub mod change;
pub mod content;
pub mod error;
pub mod failpoint;
pub mod fork;
pub mod git;
pub mod held;
pub mod home;
pub mod index;
mod indexer;
pub mod list;
pub mod metadata;
mod network;
pub mod node;
pub mod pending;
pub mod placement;
pub mod placing;
pub mod policy;
mod read;
pub mod recorder;
pub mod rollout;
pub mod row;
mod scan;
pub mod schema;
pub mod session_index;
pub mod stream;
pub mod thaw;
pub mod trash;
mod tree;
pub mod trigger;
mod watch;
pub mod watching;
mod writer;

use areas::Areas;
use backfill::Progress;
use change::News;
use content::ContentCache;
use error::Result;
use held::{Journal, Replayed};
use home::{Home, INDEX_NAME, StateLock};
use index::Index;
use indexer::{Following, Indexer};
use pending::Recover;
use placing::Placing;
pub use scan::{ROOTS, is_clutter};
use watching::WatchStatus;
use writer::Writer;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The state folder, where it is not the home's own.
    pub state_dir: Option<PathBuf>,
    /// Bytes that decoded copies of compressed rollouts may take on disk.
    pub cache_bytes_max: u64,
    /// Threads that read files for the index.
    pub readers: usize,
    /// Follow changes of the home.
    pub watch: bool,
    /// Follow them by comparing everything so often. None: by events, where the home's filesystem tells of all changes.
    pub poll: Option<Duration>,
    /// Folders to follow by events, at most. The system may allow fewer.
    pub watches_max: usize,
    /// Finish at the start what a killed daemon left of pending threads ([`pending::recover`]).
    pub recover: Recover,
    /// Only read an index that another process keeps.
    pub beside: bool,
    /// What the store is opened for, in words, for others who find it locked.
    pub purpose: String,
}

/// Default of [`StoreOptions::cache_bytes_max`]: 2 GiB.
pub const CACHE_BYTES_MAX_DEFAULT: u64 = 2 << 30;

/// How often a wait for the index looks.
const SETTLE_POLL: Duration = Duration::from_millis(5);
/// How often everything is compared, unless told, where the home's filesystem does not tell of all changes.
const POLL_DEFAULT: Duration = Duration::from_secs(10);

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            state_dir: None,
            cache_bytes_max: CACHE_BYTES_MAX_DEFAULT,
            readers: std::thread::available_parallelism().map_or(2, usize::from),
            watch: true,
            poll: None,
            watches_max: usize::MAX,
            recover: Recover::Nothing,
            beside: false,
            purpose: "rolloutfs".into(),
        }
    }
}

fn following(home: &Home, options: &StoreOptions) -> Following {
    match (options.poll, network::silent_filesystem(home)) {
        _ if !options.watch => Following::Not,
        (Some(every), _) => Following::Clock(every, "as told".into()),
        (None, Some(filesystem)) => {
            let reason = format!("its filesystem ({filesystem}) does not tell of all changes");
            log::info!("{}: {reason}; everything is compared every {POLL_DEFAULT:?}", home.root().display());
            Following::Clock(POLL_DEFAULT, reason)
        }
        (None, None) => Following::Events(options.watches_max),
    }
}

/// A home with its index.
pub struct Store {
    home: Home,
    areas: Areas,
    state_dir: PathBuf,
    index: Index,
    content: ContentCache,
    progress: Arc<Progress>,
    news: Arc<News>,
    // Dropped before the lock: no other process writes before this one ended.
    indexer: Option<Indexer>,
    lock: Option<std::sync::Mutex<StateLock>>,
}

impl Store {
    /// Opens a home: takes its lock, opens or makes its index, and starts to make the index true. Returns at once;
    /// [`Store::progress`] tells how far it is.
    pub fn open(home: Home, options: &StoreOptions, placing: Arc<dyn Placing>) -> Result<Store> {
        let state_dir = home.make_state_dir(options.state_dir.as_deref())?;
        let progress = Arc::new(Progress::default());
        let news = Arc::new(News::default());
        let path = state_dir.join(INDEX_NAME);
        let areas = Areas::new(&home, &state_dir);
        let (lock, indexer) = if options.beside {
            let reader = schema::open_reader(&path)?;
            if !schema::is_current(&reader, placing.version()) {
                return Err(error::StoreError::Invalid(format!(
                    "the index {} is of another version; mount without --read-only once",
                    path.display()
                )));
            }
            (None, None)
        } else {
            let lock = StateLock::take(&state_dir, home.root(), &options.purpose)?;
            // Before anything is listed, and where what is pending was promised to last.
            if !home::is_passing(&state_dir) {
                let recovered = pending::recover(&home, &areas, options.recover);
                if recovered != pending::Recovered::default() {
                    log::info!("pending threads of an earlier mount: {recovered:?}");
                }
            }
            let writer = Writer::open(&path, placing)?;
            // A mount that writes finishes what one that wrote began; others change nothing.
            let replayed = match options.recover {
                Recover::Nothing => Replayed::default(),
                Recover::Asked | Recover::All => Journal::new(&state_dir).replay(&areas),
            };
            if replayed != Replayed::default() {
                log::warn!(
                    "{} writes were cut when the last daemon ended: {} of them are written now, {} were there, {} are kept",
                    replayed.appended + replayed.present + replayed.kept,
                    replayed.appended,
                    replayed.present,
                    replayed.kept
                );
            }
            let indexer = Indexer::start(
                &home,
                &areas,
                writer,
                options.readers,
                following(&home, options),
                progress.clone(),
                news.clone(),
            )?;
            (Some(std::sync::Mutex::new(lock)), Some(indexer))
        };
        let content = ContentCache::new(state_dir.join("cache"), options.cache_bytes_max);
        Ok(Store { home, areas, index: Index::new(&path), state_dir, content, progress, news, indexer, lock })
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Where files lie: in the home, or in the spool.
    pub fn areas(&self) -> &Areas {
        &self.areas
    }

    /// Waits until the index says what these files are now, and the names where told so.
    pub fn look_now(&self, paths: Vec<Vec<u8>>, names: bool) -> Result<()> {
        match &self.indexer {
            Some(indexer) => indexer.look(paths, names),
            None => Ok(()),
        }
    }

    /// Lists a folder anew, and waits until the index says what is in it.
    pub fn list_now(&self, path: Vec<u8>) -> Result<()> {
        match &self.indexer {
            Some(indexer) => indexer.list(path),
            None => Ok(()),
        }
    }

    /// Where the state lies.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The index's read side.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Rollouts' bytes.
    pub fn content(&self) -> &ContentCache {
        &self.content
    }

    /// How far the index is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The news, for one reader.
    pub fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// True if the state folder outlives a restart of the machine: what is accepted may be kept there.
    pub fn state_lasts(&self) -> bool {
        !home::is_passing(&self.state_dir)
    }

    /// True if this process keeps the index.
    pub fn is_writer(&self) -> bool {
        self.indexer.is_some()
    }

    /// True if the views are whole and every change will be told.
    pub fn is_settled(&self) -> bool {
        self.progress.is_settled()
    }

    /// How changes are found, and how far behind the index is.
    pub fn watch_status(&self) -> WatchStatus {
        self.indexer.as_ref().map(|indexer| indexer.watching().status()).unwrap_or_default()
    }

    /// True if the views are whole, and each change will be told when it happens.
    pub fn tells_all(&self) -> bool {
        self.is_settled() && self.indexer.as_ref().is_some_and(|indexer| indexer.watching().sees_all())
    }

    /// Waits until the folder of the home at `path` is listed, if it has not been since the start.
    pub fn ensure_listed(&self, path: &[u8]) -> Result<()> {
        match &self.indexer {
            Some(indexer) if !self.progress.listed.load(std::sync::atomic::Ordering::Acquire) => {
                indexer.ensure(path)
            }
            _ => Ok(()),
        }
    }

    /// Says that the file of this logical path is not what the index says: it is looked at soon. Never waits.
    pub fn look_again(&self, path: &[u8]) {
        if let Some(indexer) = &self.indexer {
            indexer.look_again(path);
        }
    }

    /// Waits until the index is whole, and what happened before the call is in it.
    pub fn flush(&self) {
        if let Some(indexer) = &self.indexer {
            indexer.flush();
        }
    }

    /// Waits until the views are whole, `at_most` this long. False: they are not yet.
    pub fn wait_settled(&self, at_most: std::time::Duration) -> bool {
        let end = std::time::Instant::now() + at_most;
        while self.is_writer() && !self.is_settled() {
            if std::time::Instant::now() >= end {
                return false;
            }
            std::thread::sleep(SETTLE_POLL);
        }
        true
    }

    /// Tells others who hold the home what it is held for.
    pub fn describe(&self, purpose: &str) {
        if let Some(lock) = &self.lock {
            lock.lock().unwrap_or_else(|poison| poison.into_inner()).describe(purpose);
        }
    }

    /// Ends the indexer, which closes the index, and the news. What is indexed can still be read.
    pub fn close(&self) {
        if let Some(indexer) = &self.indexer {
            indexer.stop();
        }
        self.news.close();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}
