//! What does each filesystem call answer? `Fs`: the calls in our own types, without a kernel.
//!
//! A call goes `fuse` (decode, reply) → here → one query of the index, and for a file's attributes one look at the disk:
//! the index says where a file is, the disk how long it is. Nothing is remembered between calls but open descriptors and
//! the versions of `threads.jsonl`; a number is understood without a lookup before it.

use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub mod attr;
pub mod counters;
pub mod epoch;
pub mod errno;
pub mod error;
mod files;
pub mod fuse;
mod growth;
pub mod held;
pub mod invalidate;
pub mod session;
mod status;
mod threads;
pub mod write;

use attr::{Attr, NodeKind, Ownership};
use counters::Counters;
use epoch::Epoch;
use error::{FsError, Result};
use files::{Files, Places};
use growth::{End, Growth};
use threads::Versions;
use write::{Materialise, Removal, Writes};

use crate::store::Store;
use crate::store::archive;
use crate::store::areas::Area;
use crate::store::content::{self, Encoding, Located};
use crate::store::error::StoreError;
use crate::store::held::Journal;
use crate::store::home::SESSION_INDEX_NAME;
use crate::store::index::{DirRow, Entry, EntryNode, Queries};
use crate::store::node::{COOKIE_FIRST, NodeClass, NodeNumber, cookie_of};
use crate::store::placing::{FILES, Placing, ViewCode, entry_number};
use crate::store::rollout::RolloutName;
use crate::store::row::{DiskStat, FileRow, Row, RowKind};
use crate::views::{LATEST, Views, link_target, name, readme, threads as thread_lines};

/// How the entries of views are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewsAs {
    /// Symbolic links, relative.
    #[default]
    Symlinks,
    /// The files themselves: one inode at several places.
    Files,
}

/// How a tree is shown.
#[derive(Clone, Debug, Default)]
pub struct FsOptions {
    /// The views to show, by their folders' names; None: all.
    pub views: Option<Vec<String>>,
    /// How their entries are shown.
    pub views_as: ViewsAs,
    /// Overrides of owners and modes.
    pub uid: Option<u32>,
    /// Overrides of owners and modes.
    pub gid: Option<u32>,
    /// Overrides of owners and modes.
    pub umask: Option<u32>,
    /// Refuse every change.
    pub read_only: bool,
    /// What `rm` of a thread does.
    pub removal: Removal,
    /// What materialises a pending thread.
    pub materialise: Materialise,
}

/// Lifetime of what we will tell the kernel about when it changes.
const TTL_TOLD: Duration = Duration::from_secs(3600);
/// Lifetime of what may change without our knowing at once.
const TTL_SHORT: Duration = Duration::from_secs(1);
/// A file written within this time is live: its size has a short lifetime.
const LIVE: Duration = Duration::from_secs(600);
/// Entries of one query of a directory. An answer to the kernel holds some 140 entries with attributes, 300 without: what is
/// asked for and does not fit is asked for again.
const PAGE_ENTRIES: usize = 64;

/// The fixed files, and their node numbers.
const README: NodeNumber = NodeNumber(2);
const SESSION_INDEX: NodeNumber = NodeNumber(3);
const CONTROL_DIR: NodeNumber = NodeNumber(4);
const STATUS: NodeNumber = NodeNumber(5);
const IGNORE: NodeNumber = NodeNumber(6);
const CONTROL: NodeNumber = NodeNumber(7);

const README_NAME: &[u8] = b"README.md";
const THREADS_NAME: &[u8] = b"threads.jsonl";
const LATEST_NAME: &[u8] = b"latest";
const CONTROL_DIR_NAME: &[u8] = b".rolloutfs";
const STATUS_NAME: &[u8] = b"status.json";
const CONTROL_NAME: &[u8] = b"control";
const IGNORE_NAME: &[u8] = b".ignore";

/// An answer with its lifetime.
#[derive(Clone, Copy, Debug)]
pub struct Timed<T> {
    /// The answer.
    pub value: T,
    /// How long the kernel may keep it.
    pub ttl: Duration,
}

/// The answer to a lookup.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The node's attributes.
    pub attr: Attr,
    /// How long the kernel may keep the name.
    pub entry_ttl: Duration,
    /// How long the kernel may keep the attributes.
    pub attr_ttl: Duration,
}

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Where to go on after it.
    pub cookie: i64,
    /// Its name.
    pub name: Vec<u8>,
    /// Its node.
    pub number: NodeNumber,
    /// Its kind.
    pub kind: NodeKind,
    /// Its attributes and their lifetime, where they were asked for; not for `.` and `..`.
    pub found: Option<Found>,
}

/// Numbers of the disk below, for `df`.
#[derive(Clone, Copy, Debug)]
pub struct DiskSpace(pub libc::statvfs);

/// The filesystem over one store.
pub struct Fs {
    store: Store,
    views: Views,
    options: FsOptions,
    ownership: Ownership,
    readme: String,
    ignore: String,
    files: Files,
    places: Places,
    growth: Growth,
    versions: Versions,
    counters: Counters,
    epoch: Arc<Epoch>,
    started: Instant,
    writes: Writes,
    status: Mutex<Option<(Instant, Vec<u8>)>>,
    mountpoint: Mutex<Option<String>>,
}

/// A node with the row that stands behind it.
enum Node {
    Fixed(NodeNumber),
    Dir(DirRow),
    File(Box<FileRow>),
    Missing(Box<Row>),
    Link { number: NodeNumber, target: Vec<u8>, mtime_ns: i64 },
    Threads(std::sync::Arc<threads::Version>),
}

impl Fs {
    /// Over an open store.
    pub fn new(store: Store, options: FsOptions) -> Result<Fs> {
        let home =
            std::fs::metadata(store.home().root()).map_err(StoreError::io("look at", store.home().root()))?;
        let ownership = Ownership {
            uid: options.uid,
            gid: options.gid,
            umask: options.umask,
            ..Ownership::of_home(&home)
        };
        let views = Views::new();
        if let Some(unknown) = options.views.iter().flatten().find(|wanted| !is_view(&views, wanted)) {
            let known: Vec<_> =
                views.iter().map(|view| view.root()).filter(|root| *root != "sessions").collect();
            return Err(StoreError::Invalid(format!(
                "there is no view {unknown:?}; known: {}",
                known.join(", ")
            ))
            .into());
        }
        let writes = Writes::new(Journal::new(store.state_dir()));
        let mut fs = Fs {
            store,
            views,
            options,
            ownership,
            readme: String::new(),
            ignore: String::new(),
            files: Files::default(),
            places: Places::default(),
            growth: Growth::default(),
            versions: Versions::default(),
            counters: Counters::default(),
            epoch: Arc::default(),
            started: Instant::now(),
            writes,
            status: Mutex::new(None),
            mountpoint: Mutex::new(None),
        };
        fs.readme = readme::text(&fs.views, |root| fs.is_shown(root.as_bytes()));
        if fs.options.views_as == ViewsAs::Files {
            let roots = fs.views.iter().map(|view| view.root());
            let views = roots.filter(|root| *root != "sessions" && fs.is_shown(root.as_bytes()));
            fs.ignore = views.map(|root| format!("/{root}/\n")).collect::<String>() + "/latest\n";
        }
        Ok(fs)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// True if every change is refused.
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// Counts of requests.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The calls at work.
    pub fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// Says where the tree is mounted, for `status`.
    pub fn set_mountpoint(&self, mountpoint: &std::path::Path) {
        let text = mountpoint.display().to_string();
        self.store.describe(&format!("mounted at {text}"));
        *self.mountpoint.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(text);
    }

    /// Is this directory of the root shown?
    fn is_shown(&self, root: &[u8]) -> bool {
        match &self.options.views {
            None => true,
            Some(wanted) => {
                matches!(root, b"sessions" | b"archived_sessions")
                    || wanted.iter().any(|view| view.as_bytes() == root)
            }
        }
    }

    fn query<T>(&self, ask: impl FnOnce(Queries<'_>) -> rusqlite::Result<T>) -> Result<T> {
        Ok(self.store.index().read(|reader| ask(reader.queries()))?)
    }

    /// Lifetime of what changes only with the index.
    fn ttl(&self) -> Duration {
        if self.store.tells_all() { TTL_TOLD } else { TTL_SHORT }
    }

    // ---- what a number means -------------------------------------------------------------------

    fn dir(&self, number: NodeNumber) -> Result<DirRow> {
        if let Some(dir) = self.query(|queries| queries.dir(number))? {
            return Ok(dir);
        }
        match number.class() {
            Some(NodeClass::Dir) => Err(FsError::Stale(number)),
            Some(_) => Err(FsError::NotADirectory(number)),
            None => Err(FsError::Stale(number)),
        }
    }

    fn node(&self, number: NodeNumber) -> Result<Node> {
        match number.class().ok_or(FsError::Stale(number))? {
            NodeClass::Fixed(_) if number == NodeNumber::ROOT => self.dir(number).map(Node::Dir),
            NodeClass::Fixed(_) => Ok(Node::Fixed(number)),
            NodeClass::Dir => self.dir(number).map(Node::Dir),
            NodeClass::File => {
                let file = self.query(|queries| queries.file(number))?.ok_or(FsError::Stale(number))?;
                self.file_node(file)
            }
            NodeClass::Version => self
                .versions
                .by_number(number)
                .map_or_else(|| self.newest_if(number), |found| Ok(Node::Threads(found))),
            NodeClass::Link { view, index, file } => self.link_node(number, ViewCode(view), index, file),
        }
    }

    /// A version of an earlier mount session is found again while nothing changed.
    fn newest_if(&self, number: NodeNumber) -> Result<Node> {
        let newest = self.versions.newest(&self.store)?;
        if newest.number == number { Ok(Node::Threads(newest)) } else { Err(FsError::Stale(number)) }
    }

    fn file_node(&self, file: FileRow) -> Result<Node> {
        match file.kind {
            RowKind::Rollout | RowKind::Stray => Ok(Node::File(Box::new(file))),
            RowKind::Missing => {
                let row =
                    self.query(|queries| queries.row(file.number))?.ok_or(FsError::Stale(file.number))?;
                Ok(Node::Missing(Box::new(row)))
            }
        }
    }

    fn link_node(&self, number: NodeNumber, view: ViewCode, index: u8, file: NodeNumber) -> Result<Node> {
        let stale = || FsError::Stale(number);
        let row = self.query(|queries| queries.row(file))?.ok_or_else(stale)?;
        let dir = if view == LATEST {
            Vec::new()
        } else {
            self.views.place(view, index, &row).ok_or_else(stale)?.dir
        };
        if entry_number(view, index, &dir, &row.file) != number {
            return Err(stale());
        }
        let target = link_target(&dir, &row.file.path);
        Ok(Node::Link { number, target, mtime_ns: row.file.disk.mtime_ns })
    }

    // ---- attributes ----------------------------------------------------------------------------

    fn attr_of(&self, node: &Node) -> Result<Timed<Attr>> {
        let ttl = self.ttl();
        match node {
            Node::Fixed(number) => self.fixed_attr(*number),
            Node::Dir(dir) => Ok(Timed { value: self.dir_attr(dir)?, ttl }),
            Node::File(file) => self.file_attr(file),
            Node::Missing(row) => {
                let bytes = thread_lines::missing(row).len() as u64;
                let attr =
                    self.ownership.made_up(row.file.number, NodeKind::File, bytes, row.file.disk.mtime_ns, 1);
                Ok(Timed { value: attr, ttl })
            }
            Node::Link { number, target, mtime_ns } => {
                let attr = self.ownership.made_up(*number, NodeKind::Link, target.len() as u64, *mtime_ns, 1);
                Ok(Timed { value: attr, ttl })
            }
            Node::Threads(version) => {
                let mtime_ns = self.dir(NodeNumber::ROOT)?.mtime_ns;
                let attr =
                    self.ownership.made_up(version.number, NodeKind::File, version.size_bytes, mtime_ns, 1);
                Ok(Timed { value: attr, ttl })
            }
        }
    }

    fn fixed_attr(&self, number: NodeNumber) -> Result<Timed<Attr>> {
        let made_up = |kind, bytes: usize, ttl| {
            let mtime_ns = self.dir(NodeNumber::ROOT)?.mtime_ns;
            let nlink = if kind == NodeKind::Dir { 2 } else { 1 };
            Ok(Timed { value: self.ownership.made_up(number, kind, bytes as u64, mtime_ns, nlink), ttl })
        };
        match number {
            README => made_up(NodeKind::File, self.readme.len(), self.ttl()),
            IGNORE if !self.ignore.is_empty() => made_up(NodeKind::File, self.ignore.len(), self.ttl()),
            CONTROL_DIR => made_up(NodeKind::Dir, 0, TTL_TOLD),
            CONTROL => {
                let mut timed = made_up(NodeKind::File, 0, TTL_TOLD)?;
                timed.value.mode = self.ownership.home_mode & 0o222;
                Ok(timed)
            }
            STATUS => {
                let mut timed = made_up(NodeKind::File, self.status_text().len(), Duration::ZERO)?;
                let now =
                    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
                timed.value.mtime_ns = now;
                Ok(timed)
            }
            SESSION_INDEX => {
                let located = self.session_index().ok_or(FsError::Stale(number))?;
                let mut attr = self.ownership.disk_file(number, &located, None, 1);
                let (size, kept) = self.growth.shown_size(number, attr.size_bytes, attr.size_bytes, true);
                attr.size_bytes = size;
                let ttl = if kept { self.live_ttl(attr.mtime_ns) } else { Duration::ZERO };
                Ok(Timed { value: attr, ttl })
            }
            _ => Err(FsError::Stale(number)),
        }
    }

    fn session_index(&self) -> Option<Located> {
        content::locate_now(&self.store.home().session_index())
            .ok()
            .filter(|found| found.encoding == Encoding::Plain)
    }

    /// May something be made, moved or removed in this directory?
    fn takes_changes(&self, dir: &[u8]) -> bool {
        let on_disk = is_below(dir, b"sessions") || is_below(dir, b"archived_sessions");
        on_disk || dir.is_empty() || dir == b"by-name"
    }

    fn dir_attr(&self, dir: &DirRow) -> Result<Attr> {
        let nlink = u32::try_from(dir.subdirs.saturating_add(2)).unwrap_or(u32::MAX);
        let on_disk = is_below(&dir.path, b"sessions") || is_below(&dir.path, b"archived_sessions");
        if on_disk && let Ok(disk) = std::fs::metadata(self.store.home().join(&dir.path)) {
            return Ok(self.ownership.disk_dir(dir.number, &disk, dir.mtime_ns, nlink));
        }
        let mut attr = self.ownership.made_up(dir.number, NodeKind::Dir, 0, dir.mtime_ns, nlink);
        // As on a disk: a read-only mount refuses, whatever the modes say.
        if self.takes_changes(&dir.path) {
            attr.mode |= self.ownership.home_mode & 0o222 & !self.ownership.umask.unwrap_or(0);
        }
        Ok(attr)
    }

    /// Lifetime of a name. The kernel moves the names of temporaries by itself, and with them what it knows.
    fn entry_ttl(&self, node: &Node) -> Duration {
        match node {
            Node::File(file) if file.area != Area::Home => Duration::ZERO,
            _ => self.ttl(),
        }
    }

    fn is_live(&self, mtime_ns: i64) -> bool {
        let mtime = UNIX_EPOCH + Duration::from_nanos(mtime_ns.max(0) as u64);
        // A time in the future is live too.
        SystemTime::now().duration_since(mtime).map_or(true, |age| age < LIVE)
    }

    fn live_ttl(&self, mtime_ns: i64) -> Duration {
        if self.is_live(mtime_ns) { TTL_SHORT } else { self.ttl() }
    }

    /// The end of a file of the home on disk without its last `but` bytes; None for one that is not there, or not plain.
    fn end_on_disk(&self, number: NodeNumber, but: u64) -> Option<End> {
        let located = match number {
            SESSION_INDEX => self.session_index()?,
            _ => match self.node(number).ok()? {
                Node::File(file) => self.locate(&file).ok()?.1,
                _ => return None,
            },
        };
        if located.encoding != Encoding::Plain {
            return None;
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = std::fs::File::options().read(true).custom_flags(flags).open(&located.path).ok()?;
        let size_bytes = file.metadata().ok()?.size().saturating_sub(but);
        let mut last = [0];
        let read = size_bytes.checked_sub(1).map(|offset| file.read_exact_at(&mut last, offset));
        Some(End { size_bytes, last: matches!(read, Some(Ok(()))).then_some(last[0]) })
    }

    /// The file of a row, where it lies now: by its logical path, and as it is on disk.
    fn locate(&self, file: &FileRow) -> Result<(std::path::PathBuf, Located)> {
        let own = |found: Located| only_own(file, found);
        let logical = self.store.areas().join(file.area, &file.path);
        match content::locate_now(&logical).and_then(own) {
            Ok(located) => return Ok((logical, located)),
            Err(StoreError::NotFound { .. }) => self.store.look_again(&file.path),
            Err(error) => return Err(error.into()),
        }
        // It may have been placed just now, or be between two names: the swap of spec 1.5.
        if let Ok((area, located)) = self.store.areas().locate(&file.path) {
            return Ok((self.store.areas().join(area, &file.path), only_own(file, located)?));
        }
        // Or it was archived or taken back, and the index does not know yet.
        if let Some(found) = self.locate_moved(file) {
            return Ok(found);
        }
        match content::locate(&logical).and_then(own) {
            Ok(located) => Ok((logical, located)),
            Err(StoreError::NotFound { .. }) => Err(FsError::Stale(file.number)),
            Err(error) => Err(error.into()),
        }
    }

    /// The same file in the archive, or back from there.
    fn locate_moved(&self, file: &FileRow) -> Option<(std::path::PathBuf, Located)> {
        let name = RolloutName::parse(file.file_name())?;
        let other = self.store.home().join(&archive::other_path(&name, &file.path));
        let located = content::locate_now(&other).ok()?;
        let found = DiskStat::of(&located.stat);
        let same = (found.device, found.inode) == (file.disk.device, file.disk.inode);
        same.then_some((other, located))
    }

    /// A file's attributes, from the disk. A compressed file whose size nobody knows is decoded for it.
    fn file_attr(&self, file: &FileRow) -> Result<Timed<Attr>> {
        let (_, located) = self.locate(file)?;
        self.files.keep_if(file.number, &located);
        let now = DiskStat::of(&located.stat);
        let known = now == file.disk && located.encoding == file.encoding;
        if !known {
            self.store.look_again(&file.path);
        }
        let decoded = match located.encoding {
            Encoding::Plain => None,
            Encoding::Zstd => self.decoded_bytes(file, &located, known)?,
        };
        let nlink = self.nlink(file)?;
        let mut attr = self.ownership.disk_file(file.number, &located, decoded, nlink);
        // Pending and scratch files are written through the kernel alone.
        if file.area == Area::Home && located.encoding == Encoding::Plain {
            let (before, live) = (file.disk.size_bytes, self.is_live(attr.mtime_ns));
            let (size, kept) = self.growth.shown_size(file.number, before, attr.size_bytes, live);
            attr.size_bytes = size;
            if !kept {
                return Ok(Timed { value: attr, ttl: Duration::ZERO });
            }
        }
        // What differs from the index will be news, which may be on its way already: not to be kept.
        // Nor of what is to get its place: the kernel moves names of temporaries by itself, and with them what it knows.
        let kept = known && file.area == Area::Home;
        let ttl = if kept { self.live_ttl(attr.mtime_ns) } else { Duration::ZERO };
        Ok(Timed { value: attr, ttl })
    }

    /// The size of a compressed file, decoded for it where nobody knows it.
    fn decoded_bytes(&self, file: &FileRow, located: &Located, known: bool) -> Result<Option<u64>> {
        if known && file.decoded_bytes.is_some() {
            return Ok(file.decoded_bytes);
        }
        let logical = self.store.areas().join(file.area, &file.path);
        let decode = || Ok(self.files.get(file.number, &logical, self.store.content())?.size_bytes);
        let stated = content::decoded_size_stated(&located.path);
        match stated.and_then(|stated| stated.map_or_else(decode, |bytes| Ok(Some(bytes)))) {
            Ok(bytes) => Ok(bytes),
            // It is in health/unreadable, and a read says why. Not 0: a read of an empty file is never asked of us, and
            // would end well.
            Err(StoreError::Damaged { .. } | StoreError::Io { .. }) => Ok(Some(located.stat.size())),
            Err(error) => Err(error.into()),
        }
    }

    fn nlink(&self, file: &FileRow) -> Result<u32> {
        if self.options.views_as == ViewsAs::Symlinks {
            return Ok(1);
        }
        let row = self.query(|queries| queries.row(file.number))?.ok_or(FsError::Stale(file.number))?;
        let mut places = Vec::new();
        self.views.places(&row, &mut places);
        let shown =
            places.iter().filter(|place| place.view == FILES || self.is_shown(first_component(&place.dir)));
        Ok(shown.count() as u32 + u32::from(self.is_latest(file)?))
    }

    fn is_latest(&self, file: &FileRow) -> Result<bool> {
        Ok(self.query(|queries| queries.latest())?.is_some_and(|latest| latest.number == file.number))
    }

    // ---- the calls -----------------------------------------------------------------------------

    /// The node of a name in a directory. `.` and `..` are answered too: that is how a file server asks for a number.
    /// None: there is none, and the kernel may keep that for the time given.
    pub fn lookup(&self, parent: NodeNumber, name: &[u8]) -> Result<std::result::Result<Found, Duration>> {
        let seen = self.store.news().count();
        let ttl = self.ttl();
        let found = match name {
            b"." => Some((self.node(parent)?, ttl)),
            b".." => Some((Node::Dir(self.dir(self.parent_of(parent)?)?), ttl)),
            _ => self.child(parent, name)?,
        };
        let Some((node, entry_ttl)) = found else {
            let missed = if self.may_appear_by_itself(parent)? { Duration::ZERO } else { ttl };
            return Ok(Err(self.if_still(seen, if missed == TTL_TOLD { missed } else { Duration::ZERO })));
        };
        let attr = match self.attr_of(&node) {
            Ok(attr) => attr,
            // The name's file went away just now.
            Err(FsError::Stale(_)) if name != b"." => return Ok(Err(Duration::ZERO)),
            Err(error) => return Err(error),
        };
        let entry_ttl = self.if_still(seen, entry_ttl);
        if let Node::File(file) = &node {
            self.places.put(seen, file);
        }
        Ok(Ok(Found { attr: attr.value, entry_ttl, attr_ttl: self.if_still(seen, attr.ttl) }))
    }

    /// Naming a thread in `by-name` may show another under a name that the kernel does not hear of in time.
    fn may_appear_by_itself(&self, dir: NodeNumber) -> Result<bool> {
        if self.options.read_only || dir == CONTROL_DIR || dir == NodeNumber::ROOT {
            return Ok(!self.options.read_only);
        }
        Ok(self.dir(dir)?.path == b"by-name")
    }

    /// The attributes of a node.
    pub fn getattr(&self, number: NodeNumber) -> Result<Timed<Attr>> {
        let seen = self.store.news().count();
        let attr = self.attr_of(&self.node(number)?)?;
        Ok(Timed { value: attr.value, ttl: self.if_still(seen, attr.ttl) })
    }

    /// An answer that was begun before a commit and is given after it must not be kept.
    fn if_still(&self, seen: u64, ttl: Duration) -> Duration {
        if self.store.news().count() == seen { ttl } else { Duration::ZERO }
    }

    fn parent_of(&self, number: NodeNumber) -> Result<NodeNumber> {
        match number {
            CONTROL_DIR => Ok(NodeNumber::ROOT),
            _ => Ok(self.dir(number)?.parent),
        }
    }

    fn child(&self, parent: NodeNumber, name: &[u8]) -> Result<Option<(Node, Duration)>> {
        if parent == CONTROL_DIR {
            let fixed = match name {
                STATUS_NAME => Some(STATUS),
                CONTROL_NAME if !self.options.read_only => Some(CONTROL),
                _ => None,
            };
            return Ok(fixed.map(|number| (Node::Fixed(number), TTL_TOLD)));
        }
        if parent == NodeNumber::ROOT {
            return self.root_child(name);
        }
        let dir = self.dir_listed(parent)?;
        if let Some(node) = self.exact_child(&dir, name)? {
            let ttl = self.entry_ttl(&node);
            return Ok(Some((node, ttl)));
        }
        // Other spellings are not told of when they change: their names live shortly.
        let ttl = if self.options.read_only { TTL_SHORT } else { Duration::ZERO };
        Ok(self.liberal_child(&dir, name)?.map(|node| (node, ttl)))
    }

    fn root_child(&self, name: &[u8]) -> Result<Option<(Node, Duration)>> {
        let ttl = self.ttl();
        let fixed = match name {
            README_NAME => Some(README),
            CONTROL_DIR_NAME => Some(CONTROL_DIR),
            IGNORE_NAME if !self.ignore.is_empty() => Some(IGNORE),
            _ if name == SESSION_INDEX_NAME.as_bytes() => self.session_index().map(|_| SESSION_INDEX),
            _ => None,
        };
        // A rename in the root may change these, and the kernel holds the root meanwhile.
        let changing = if self.options.read_only { ttl } else { Duration::ZERO };
        if let Some(number) = fixed {
            return Ok(Some((Node::Fixed(number), if number == SESSION_INDEX { changing } else { ttl })));
        }
        match name {
            THREADS_NAME => Ok(Some((Node::Threads(self.versions.newest(&self.store)?), changing))),
            LATEST_NAME => Ok(self.latest_node()?.map(|node| (node, changing))),
            _ => match self.exact_child(&self.dir(NodeNumber::ROOT)?, name)? {
                Some(Node::Dir(_)) if !self.is_shown(name) => Ok(None),
                found => Ok(found.map(|node| {
                    let ttl = self.entry_ttl(&node);
                    (node, ttl)
                })),
            },
        }
    }

    fn latest_node(&self) -> Result<Option<Node>> {
        let Some(file) = self.query(|queries| queries.latest())? else { return Ok(None) };
        Ok(Some(self.place_node(LATEST, 0, b"", file)))
    }

    /// The node at a place of a file, as this mount shows views.
    fn place_node(&self, view: ViewCode, index: u8, dir: &[u8], file: FileRow) -> Node {
        if self.is_file_place(view) {
            return Node::File(Box::new(file));
        }
        let number = entry_number(view, index, dir, &file);
        Node::Link { number, target: link_target(dir, &file.path), mtime_ns: file.disk.mtime_ns }
    }

    fn is_file_place(&self, view: ViewCode) -> bool {
        view == FILES || self.options.views_as == ViewsAs::Files
    }

    /// The directory of this number, listed: a folder of the home that was not listed since the start is listed now.
    fn dir_listed(&self, number: NodeNumber) -> Result<DirRow> {
        // Asked before its row is read: what is listed after that may not be in the row.
        let all_listed = self.store.progress().listed.load(std::sync::atomic::Ordering::Acquire);
        let dir = self.dir(number)?;
        let on_disk = is_below(&dir.path, b"sessions") || is_below(&dir.path, b"archived_sessions");
        if all_listed || !on_disk {
            return Ok(dir);
        }
        if let Err(error) = self.store.ensure_listed(&dir.path) {
            // What was known of it is shown; the indexer has said what the trouble is.
            log::debug!("{error}");
        }
        self.dir(number)
    }

    fn exact_child(&self, dir: &DirRow, name: &[u8]) -> Result<Option<Node>> {
        let near = self.query(|queries| {
            let subdir = if dir.subdirs > 0 { queries.child_dir(dir.number, name)? } else { None };
            match subdir {
                Some(subdir) => Ok(Err(subdir)),
                None if dir.entries == 0 => Ok(Ok(Vec::new())),
                None => queries.entries_near(dir.number, cookie_of(name)).map(Ok),
            }
        })?;
        let entries = match near {
            Err(subdir) => return Ok(Some(Node::Dir(subdir))),
            Ok(entries) => entries,
        };
        for entry in entries {
            if let EntryNode::File { view, index, file } = entry.node
                && self.views.entry_name(view, &file) == name
            {
                return match file.kind {
                    RowKind::Missing => self.file_node(*file).map(Some),
                    _ => Ok(Some(self.place_node(view, index, &dir.path, *file))),
                };
            }
        }
        Ok(None)
    }

    /// Other spellings of a name in a view: not in NFC, not encoded, without `.jsonl`, with a thread's suffix.
    fn liberal_child(&self, dir: &DirRow, spelling: &[u8]) -> Result<Option<Node>> {
        let root = first_component(&dir.path);
        if matches!(root, b"sessions" | b"archived_sessions") || spelling.len() > name::LOOKUP_BYTES_MAX {
            return Ok(None);
        }
        let is_by_name = dir.path == b"by-name";
        let mut tries: Vec<String> = name::component_forms(spelling);
        let forms = name::lookup_forms(spelling);
        if is_by_name || dir.path == b"by-id" {
            tries.extend(
                forms.components.iter().map(|component| format!("{component}{}", name::THREAD_EXTENSION)),
            );
        }
        for form in tries.iter().filter(|form| form.as_bytes() != spelling) {
            if let Some(node) = self.exact_child(dir, form.as_bytes())? {
                return Ok(Some(node));
            }
        }
        if !is_by_name {
            return Ok(None);
        }
        for (component, suffix) in &forms.suffixed {
            let key = name::fold_key(component);
            let rows = self.query(|queries| queries.rows_of_name(&key))?;
            let ends = |row: &&Row| {
                row.file
                    .thread_id
                    .is_some_and(|id| id.to_string().replace('-', "").ends_with(suffix.as_str()))
            };
            if let Some(row) = rows.iter().find(ends) {
                return Ok(Some(self.place_node(ViewCode(2), 0, &dir.path, row.file.clone())));
            }
        }
        Ok(None)
    }

    /// The text of a link.
    pub fn readlink(&self, number: NodeNumber) -> Result<Vec<u8>> {
        match self.node(number)? {
            Node::Link { target, .. } => Ok(target),
            _ => Err(FsError::NotALink(number)),
        }
    }

    /// Entries of a directory after a cookie, until `take` answers false. `plus`: with attributes.
    pub fn readdir(
        &self,
        number: NodeNumber,
        after: i64,
        plus: bool,
        take: &mut dyn FnMut(Listed) -> bool,
    ) -> Result<()> {
        let seen = self.store.news().count();
        let mut after = after;
        if after < COOKIE_FIRST - 1 {
            let dots = [(1, ".", number), (2, "..", self.parent_of(number)?)];
            for (cookie, name, number) in dots.into_iter().filter(|(cookie, _, _)| *cookie > after) {
                let listed = Listed { cookie, name: name.into(), number, kind: NodeKind::Dir, found: None };
                if !take(listed) {
                    return Ok(());
                }
            }
            after = COOKIE_FIRST - 1;
        }
        if number == CONTROL_DIR {
            let cookie = cookie_of(STATUS_NAME);
            if after < cookie {
                take(Listed {
                    cookie,
                    name: STATUS_NAME.into(),
                    number: STATUS,
                    kind: NodeKind::File,
                    found: None,
                });
            }
            return Ok(());
        }
        if number == NodeNumber::ROOT {
            return self.list_root(after, plus, seen, take);
        }
        let dir = self.dir_listed(number)?;
        loop {
            let page = self.query(|queries| queries.page(&dir, after, PAGE_ENTRIES))?;
            let full = page.len() == PAGE_ENTRIES;
            for entry in page {
                after = entry.cookie;
                if let Some(listed) = self.listed(&dir, entry, plus, seen)
                    && !take(listed)
                {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    fn list_root(
        &self,
        after: i64,
        plus: bool,
        seen: u64,
        take: &mut dyn FnMut(Listed) -> bool,
    ) -> Result<()> {
        // An index that cannot be read is an error, not an empty tree.
        self.dir(NodeNumber::ROOT)?;
        let mut names = self.root_names();
        names.sort_by_key(|name| cookie_of(name));
        for name in names.into_iter().filter(|name| cookie_of(name) > after) {
            let Some((node, ttl)) = self.root_child(&name)? else { continue };
            let cookie = cookie_of(&name);
            if let Some(listed) = self.listed_node(cookie, name, &node, plus, (seen, ttl))
                && !take(listed)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Every name that the root may have.
    fn root_names(&self) -> Vec<Vec<u8>> {
        let dirs = self.query(|queries| queries.child_dirs(NodeNumber::ROOT)).unwrap_or_default();
        let mut names: Vec<_> =
            dirs.into_iter().map(|dir| dir.name).filter(|name| self.is_shown(name)).collect();
        // Temporaries of tools that replace session_index.jsonl.
        let scratch = self.query(|queries| queries.files_of_dir(NodeNumber::ROOT)).unwrap_or_default();
        names.extend(scratch.iter().map(|row| row.file.file_name().to_vec()));
        names.extend([README_NAME, THREADS_NAME, LATEST_NAME, IGNORE_NAME].map(<[u8]>::to_vec));
        names.push(SESSION_INDEX_NAME.into());
        names
    }

    fn listed(&self, dir: &DirRow, entry: Entry, plus: bool, seen: u64) -> Option<Listed> {
        let (name, node) = match entry.node {
            EntryNode::Dir(dir) => (dir.name.clone(), Node::Dir(dir)),
            EntryNode::File { view, index, file } => {
                let name = self.views.entry_name(view, &file);
                let node = match file.kind {
                    RowKind::Missing => self.file_node(*file).ok()?,
                    _ => self.place_node(view, index, &dir.path, *file),
                };
                (name, node)
            }
        };
        let ttl = self.entry_ttl(&node);
        self.listed_node(entry.cookie, name, &node, plus, (seen, ttl))
    }

    /// An entry for a listing. None: its file is gone, and the listing is about to change.
    fn listed_node(
        &self,
        cookie: i64,
        name: Vec<u8>,
        node: &Node,
        plus: bool,
        timing: (u64, Duration),
    ) -> Option<Listed> {
        let (number, kind) = match node {
            Node::Fixed(number @ CONTROL_DIR) => (*number, NodeKind::Dir),
            Node::Fixed(number) => (*number, NodeKind::File),
            Node::Dir(dir) => (dir.number, NodeKind::Dir),
            Node::File(file) => (file.number, NodeKind::File),
            Node::Missing(row) => (row.file.number, NodeKind::File),
            Node::Link { number, .. } => (*number, NodeKind::Link),
            Node::Threads(version) => (version.number, NodeKind::File),
        };
        let mut found = None;
        if plus {
            // What cannot be looked at is listed with what is known of it, and asked for again at once.
            let unknown =
                || Timed { value: self.ownership.made_up(number, kind, 0, 0, 1), ttl: Duration::ZERO };
            let attr = match self.attr_of(node) {
                Ok(attr) => attr,
                Err(FsError::Stale(_)) => return None,
                Err(_) => unknown(),
            };
            if let Node::File(file) = node {
                self.places.put(timing.0, file);
            }
            found = Some(Found {
                attr: attr.value,
                entry_ttl: self.if_still(timing.0, timing.1),
                attr_ttl: self.if_still(timing.0, attr.ttl),
            });
        }
        Some(Listed { cookie, name, number, kind, found })
    }

    /// Bytes of a file: `size` of them from `offset`, fewer only at its end.
    pub fn read(&self, number: NodeNumber, offset: u64, size: usize) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        let count = self.read_into(number, offset, size, &mut buffer)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    /// As [`Fs::read`], into a buffer that may be used again: the bytes are its first ones, as many as are answered. What is
    /// behind them means nothing; a buffer that is long enough is not cleared.
    pub fn read_into(
        &self,
        number: NodeNumber,
        offset: u64,
        size: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<usize> {
        let news = self.store.news().count();
        // Where another process writes the index, no news comes.
        if self.store.is_writer()
            && let Some((area, path)) = self.places.get(news, number)
        {
            let path = self.store.areas().join(area, &path);
            if let Ok(Some(content)) = self.files.get_plain(number, &path) {
                return read_content(&content, &path, offset, size, buffer);
            }
        }
        let mut slice = |bytes: &[u8]| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let wanted = &bytes[start..bytes.len().min(start.saturating_add(size))];
            buffer.clear();
            buffer.extend_from_slice(wanted);
            Ok(wanted.len())
        };
        match self.node(number)? {
            Node::Fixed(README) => slice(self.readme.as_bytes()),
            Node::Fixed(IGNORE) => slice(self.ignore.as_bytes()),
            Node::Fixed(STATUS) => slice(&self.status_text()),
            Node::Fixed(SESSION_INDEX) => {
                let path = self.store.home().session_index();
                self.read_file(number, &path, offset, size, buffer)
            }
            Node::Fixed(_) => Err(FsError::IsADirectory(number)),
            Node::Dir(_) => Err(FsError::IsADirectory(number)),
            Node::File(file) => {
                self.places.put(news, &file);
                self.read_row(&file, offset, size, buffer)
            }
            Node::Missing(row) => slice(&thread_lines::missing(&row)),
            Node::Link { .. } => Err(FsError::Stale(number)),
            Node::Threads(version) => slice_of(version.read(&self.store, &self.views, offset, size)?, buffer),
        }
    }

    /// Bytes of a row's file: where its row says it is, else where it is found. One look at the disk less for each file.
    fn read_row(&self, file: &FileRow, offset: u64, size: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        if file.kind == RowKind::Rollout && file.encoding == Encoding::Plain {
            let path = self.store.areas().join(file.area, &file.path);
            match self.files.get_plain(file.number, &path) {
                Ok(Some(content)) => return read_content(&content, &path, offset, size, buffer),
                Ok(None) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let path = self.locate(file)?.0;
        self.read_file(file.number, &path, offset, size, buffer)
    }

    fn read_file(
        &self,
        number: NodeNumber,
        path: &std::path::Path,
        offset: u64,
        size: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<usize> {
        let content = self.files.get(number, path, self.store.content()).map_err(|error| match error {
            StoreError::NotFound { .. } => FsError::Stale(number),
            other => other.into(),
        })?;
        read_content(&content, path, offset, size, buffer)
    }

    /// Numbers of the disk that holds the home.
    pub fn statfs(&self) -> Result<DiskSpace> {
        let root = self.store.home().root();
        let failed = |error| FsError::Store(StoreError::io("ask for the free space of", root)(error));
        let path = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(root.as_os_str()))
            .map_err(|error| failed(std::io::Error::other(error)))?;
        // SAFETY: `path` ends in NUL and `space` is a valid place for the answer, all zero being a valid statvfs.
        let (result, space) = unsafe {
            let mut space: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(path.as_ptr(), &mut space), space)
        };
        if result == 0 { Ok(DiskSpace(space)) } else { Err(failed(std::io::Error::last_os_error())) }
    }
}

fn read_content(
    content: &content::Content,
    path: &std::path::Path,
    offset: u64,
    size: usize,
    buffer: &mut Vec<u8>,
) -> Result<usize> {
    if buffer.len() < size {
        buffer.resize(size, 0);
    }
    Ok(content.read_at(&mut buffer[..size], offset).map_err(StoreError::io("read", path))?)
}

fn slice_of(bytes: Vec<u8>, buffer: &mut Vec<u8>) -> Result<usize> {
    *buffer = bytes;
    Ok(buffer.len())
}

/// Only a rollout has a compressed form: beside a stray, a file named `<stray>.zst` is another stray.
fn only_own(file: &FileRow, located: Located) -> std::result::Result<Located, StoreError> {
    if file.kind == RowKind::Rollout || located.encoding == Encoding::Plain {
        return Ok(located);
    }
    Err(StoreError::NotFound { what: String::from_utf8_lossy(&file.path).into_owned() })
}

fn is_view(views: &Views, name: &str) -> bool {
    views.iter().any(|view| view.root() == name)
}

fn first_component(path: &[u8]) -> &[u8] {
    path.split(|&byte| byte == b'/').next().unwrap_or_default()
}

fn is_below(path: &[u8], root: &[u8]) -> bool {
    first_component(path) == root
}
