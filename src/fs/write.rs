//! What does each call that changes something do? The table of `docs/SEMANTICS.md`, call by call.
//!
//! The disk is changed first, by one step that is whole or not at all; then the indexer looks at what was changed, and the
//! call is answered. So the tree shows a change when its call returns, and a daemon killed in between finds it on disk.
//!
//! A file is in one of three areas (`store::areas`): a rollout in the home is append-only; a pending one is ours until a
//! user message materialises it; a scratch file is a tool's temporary and may be written in any way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::attr::Attr;
use super::error::{FsError, Result};
use super::held::{self, Piece, Pieces};
use super::{CONTROL, Found, Fs, Node, SESSION_INDEX, Timed, ViewsAs, first_component, is_below};
use crate::store::archive::{self, MoveOptions};
use crate::store::areas::Area;
use crate::store::content::{self, Encoding, Located};
use crate::store::error::StoreError;
use crate::store::failpoint::hit;
use crate::store::held::Journal;
use crate::store::home::SESSION_INDEX_NAME;
use crate::store::index::DirRow;
use crate::store::is_clutter;
use crate::store::node::NodeNumber;
use crate::store::pending;
use crate::store::placement;
use crate::store::placing::{ViewCode, entry_number};
use crate::store::rollout::{RolloutName, ThreadId};
use crate::store::row::{FileRow, Row, RowKind};
use crate::store::session_index;
use crate::store::thaw::{ThawTime, thaw};
use crate::store::trash::{PutOptions, Trash, TrashItem, companions};
use crate::store::trigger::{self, Trigger};
use crate::views::{link_target, name};

/// What `rm` of a thread does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    /// Moves it to the trash.
    #[default]
    Trash,
    /// Refuses with EPERM.
    Deny,
    /// Deletes it for good.
    Delete,
}

/// What materialises a pending thread, besides `rolloutfs pending persist` and the control file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Materialise {
    /// Its first user message, and what stands for one.
    #[default]
    UserMessage,
    /// An fsync, too.
    Fsync,
    /// Its creation.
    Create,
}

/// What SETATTR asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// A length, bytes.
    pub size_bytes: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// An owner.
    pub uid: Option<u32>,
    /// A group.
    pub gid: Option<u32>,
    /// A time of last modification.
    pub mtime: Option<libc::timespec>,
}

/// The view that names are given in.
const BY_NAME: ViewCode = ViewCode(2);
/// Locks of files being written; a file has the one of its number.
const LOCKS: usize = 64;
/// How often a write finds that its file was replaced below, and goes to the new one.
const REPLACED_MAX: u32 = 3;
/// Bytes compared at once.
const COMPARED_BYTES: usize = 128 * 1024;

/// State of the write side.
pub(super) struct Writes {
    /// One writer a file: between a write and the look for its trigger nobody else writes. Taken by number; nothing else
    /// is locked under it but the store's own.
    locks: [Mutex<()>; LOCKS],
    /// Open files to append to.
    open: Mutex<lru::LruCache<NodeNumber, Arc<File>>>,
    /// Pieces of writes that wait for their rest.
    pieces: Pieces,
    /// Pending threads: how far their lines were looked at.
    seen: Mutex<std::collections::HashMap<NodeNumber, Trigger>>,
    /// Files whose folders were synced: where they lay, and which file it was. The next fsync leaves the folders alone.
    placed: Mutex<lru::LruCache<NodeNumber, (PathBuf, u64, u64)>>,
}

/// Descriptors kept open for writing.
const OPEN_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::new(128).expect("not zero");
/// Files remembered whose folders were synced.
const PLACED_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::new(1024).expect("not zero");

impl Writes {
    /// With nothing written yet.
    pub(super) fn new(journal: Journal) -> Self {
        Writes {
            locks: std::array::from_fn(|_| Mutex::new(())),
            open: Mutex::new(lru::LruCache::new(OPEN_MAX)),
            pieces: Pieces::new(journal),
            seen: Mutex::default(),
            placed: Mutex::new(lru::LruCache::new(PLACED_MAX)),
        }
    }

    fn lock(&self, number: NodeNumber) -> MutexGuard<'_, ()> {
        self.locks[number.0 as usize % LOCKS].lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The locks of two files, in the order of the locks: two calls never wait for each other.
    fn lock_both(&self, one: NodeNumber, other: Option<NodeNumber>) -> Vec<MutexGuard<'_, ()>> {
        let mut places: Vec<_> =
            std::iter::once(one).chain(other).map(|number| number.0 as usize % LOCKS).collect();
        places.sort_unstable();
        places.dedup();
        places
            .into_iter()
            .map(|place| self.locks[place].lock().unwrap_or_else(|poison| poison.into_inner()))
            .collect()
    }

    pub(super) fn forget(&self, number: NodeNumber) {
        self.open.lock().unwrap_or_else(|poison| poison.into_inner()).pop(&number);
    }

    /// The file gets another place: what is known of the one it had holds no longer.
    fn leave(&self, number: NodeNumber) {
        self.forget(number);
        self.placed().pop(&number);
    }

    fn placed(&self) -> MutexGuard<'_, lru::LruCache<NodeNumber, (PathBuf, u64, u64)>> {
        self.placed.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

fn denied(path: &[u8], reason: &str) -> FsError {
    StoreError::denied(Path::new(std::ffi::OsStr::from_bytes(path)), reason).into()
}

fn no_space(path: &[u8]) -> FsError {
    let full = io::Error::from_raw_os_error(libc::ENOSPC);
    StoreError::io("append to", Path::new(std::ffi::OsStr::from_bytes(path)))(full).into()
}

fn invalid(path: &[u8], reason: &str) -> FsError {
    FsError::Invalid(format!("{}: {reason}", String::from_utf8_lossy(path)))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// A file that is appended to: a rollout in the home, or the names file.
struct Appendable {
    file: Option<Box<FileRow>>,
    /// Its size after the last write, bytes.
    end: u64,
}

impl Appendable {
    fn number(&self) -> NodeNumber {
        self.file.as_ref().map_or(SESSION_INDEX, |file| file.number)
    }

    /// Below the home.
    fn path(&self) -> Vec<u8> {
        self.file.as_ref().map_or(SESSION_INDEX_NAME.as_bytes().to_vec(), |file| file.path.clone())
    }
}

/// A place where something is to be made or moved to.
struct Target {
    dir: DirRow,
    name: Vec<u8>,
    path: Vec<u8>,
}

/// What a name in a folder of files would be.
enum Form {
    /// A rollout of this name.
    Rollout(RolloutName),
    /// The compressed form of a rollout.
    Compressed(RolloutName),
    /// The names file.
    Names,
    /// A tool's temporary.
    Scratch,
}

impl Fs {
    fn check_writable(&self) -> Result<()> {
        if self.options.read_only || !self.store.is_writer() { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    fn target(&self, parent: NodeNumber, name: &[u8]) -> Result<Target> {
        let dir = self.dir(parent)?;
        let path = join(&dir.path, name);
        Ok(Target { dir, name: name.to_vec(), path })
    }

    fn on_disk(&self, path: &[u8]) -> bool {
        is_below(path, b"sessions") || is_below(path, b"archived_sessions")
    }

    /// What a new file at this place would be, if it may be there.
    fn form(&self, target: &Target) -> Result<Form> {
        if is_clutter(&target.name) {
            return Err(denied(&target.path, "files that desktops leave behind are not taken"));
        }
        if target.dir.number == NodeNumber::ROOT {
            return Ok(if target.name == SESSION_INDEX_NAME.as_bytes() {
                Form::Names
            } else {
                Form::Scratch
            });
        }
        if !self.on_disk(&target.dir.path) {
            return Err(denied(
                &target.path,
                "a view shows what is; to name a thread, mv or ln -s in by-name",
            ));
        }
        let Some(rollout) = RolloutName::parse(&target.name) else {
            if looks_like_rollout(&target.name) {
                let form = "rollout-YYYY-MM-DDThh-mm-ss-<thread id>.jsonl, with a date that there is";
                return Err(invalid(&target.path, &format!("a rollout is named {form}")));
            }
            return Ok(Form::Scratch);
        };
        let (year, month, day) = rollout.date_parts();
        let home = format!("sessions/{year}/{month}/{day}");
        if target.dir.path != home.as_bytes() && target.dir.path != b"archived_sessions" {
            return Err(invalid(&target.path, &format!("a rollout of this name belongs in {home}")));
        }
        Ok(if rollout.is_compressed() { Form::Compressed(rollout) } else { Form::Rollout(rollout) })
    }

    /// A second file with the id of an existing thread is refused; a two-id name is another rollout of it.
    fn check_id_free(
        &self,
        target: &Target,
        rollout: &RolloutName,
        except: Option<NodeNumber>,
    ) -> Result<()> {
        let rows = self.query(|queries| queries.rows_of_thread(rollout.thread_id()))?;
        let same = |file: &FileRow| {
            file.kind == RowKind::Rollout
                && file.key_id() == Some(rollout.key_id())
                && Some(file.number) != except
                && file.path != target.path
        };
        match rows.iter().find(|row| same(&row.file)) {
            Some(row) => {
                let there = String::from_utf8_lossy(&row.file.path).into_owned();
                let path = Path::new(std::ffi::OsStr::from_bytes(&target.path));
                Err(StoreError::exists(path, format!("the thread is {there}")).into())
            }
            None => Ok(()),
        }
    }

    fn found(&self, parent: NodeNumber, name: &[u8]) -> Result<Found> {
        self.lookup(parent, name)?
            .map_err(|_| FsError::NoEntry { dir: parent, name: String::from_utf8_lossy(name).into_owned() })
    }

    /// Has the index follow what this call changed, and the call wait until the kernel knows. An index that cannot be
    /// written is no error of the call, which is on disk: the indexer says what the trouble is, and follows later.
    fn look(&self, paths: &[&[u8]], names: bool) -> Result<()> {
        match self.look_or_fail(paths, names) {
            Err(FsError::Store(error @ StoreError::Index { .. })) => {
                log::debug!("{error}; the change is on disk and is followed later");
                Ok(())
            }
            looked => looked,
        }
    }

    /// The same for a call that can only be answered from the index, and undoes what it did.
    fn look_or_fail(&self, paths: &[&[u8]], names: bool) -> Result<()> {
        hit("call.changed");
        super::epoch::mark_changed();
        Ok(self.store.look_now(paths.iter().map(|path| path.to_vec()).collect(), names)?)
    }

    /// A row with the area that the disk tells: a thread may have got its place, and the index not know yet.
    fn as_it_lies(&self, file: &FileRow) -> FileRow {
        match self.store.areas().locate(&file.path) {
            Ok((area, located)) => FileRow { area, encoding: located.encoding, ..file.clone() },
            Err(_) => file.clone(),
        }
    }

    // ---- making --------------------------------------------------------------------------------

    /// Makes an empty file: a pending thread, or a tool's temporary.
    pub fn mknod(&self, parent: NodeNumber, name: &[u8], mode: u32) -> Result<Found> {
        self.check_writable()?;
        let target = self.target(parent, name)?;
        let form = self.form(&target)?;
        if self.child(parent, name)?.is_some() {
            return Err(StoreError::exists(
                Path::new(std::ffi::OsStr::from_bytes(&target.path)),
                "it is there",
            )
            .into());
        }
        match &form {
            Form::Names => {
                self.make_file(&self.store.home().session_index(), mode)?;
                self.look(&[], true)?;
                self.found(parent, name)
            }
            Form::Scratch => {
                self.make_spooled(Area::Scratch, &target.path, mode)?;
                self.found_or_unmade(parent, &target)
            }
            Form::Compressed(_) => {
                let why = "write the thread plain, or write a temporary name and rename it to this one";
                Err(denied(&target.path, why))
            }
            Form::Rollout(rollout) => {
                self.check_id_free(&target, rollout, None)?;
                self.make_spooled(Area::Pending, &target.path, mode)?;
                if rollout.rollout_id().is_some() || self.options.materialise == Materialise::Create {
                    // A segment of a reverted thread has no user message of its own.
                    if let Err(error) = self.place(&target.path) {
                        let _ = fs::remove_file(self.store.areas().join(Area::Pending, &target.path));
                        return Err(error);
                    }
                }
                self.found_or_unmade(parent, &target)
            }
        }
    }

    /// The node of a file that was made just now, or there is none: a node is what the index knows.
    fn found_or_unmade(&self, parent: NodeNumber, target: &Target) -> Result<Found> {
        let found = self.look_or_fail(&[&target.path], false).and_then(|()| self.found(parent, &target.name));
        if found.is_err()
            && let Ok((_, located)) = self.store.areas().locate(&target.path)
            && located.stat.size() == 0
        {
            let _ = fs::remove_file(&located.path);
        }
        found
    }

    fn make_spooled(&self, area: Area, path: &[u8], mode: u32) -> Result<()> {
        let file = self.store.areas().join(area, path);
        self.make_spool_folder(&file)?;
        self.make_file(&file, mode)
    }

    /// It is the home's owner's from the start: a rename that materialises it keeps that.
    fn make_file(&self, path: &Path, mode: u32) -> Result<()> {
        let made = OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).open(path);
        let made = made.map_err(StoreError::io("create", path))?;
        self.store.home().give(&made);
        // The caller's umask was applied by the kernel; ours must not be.
        let set = made.set_permissions(fs::Permissions::from_mode(mode & 0o777));
        if set.is_err() {
            let _ = fs::remove_file(path);
        }
        Ok(set.map_err(StoreError::io("create", path))?)
    }

    fn make_spool_folder(&self, file: &Path) -> Result<()> {
        Ok(self.store.home().make_private_folder(file.parent().unwrap_or(Path::new("/")))?)
    }

    /// Makes a day's folder: in the spool, until a thread in it is materialised.
    pub fn mkdir(&self, parent: NodeNumber, name: &[u8]) -> Result<Found> {
        self.check_writable()?;
        let target = self.target(parent, name)?;
        if self.child(parent, name)?.is_some() {
            return Err(StoreError::exists(
                Path::new(std::ffi::OsStr::from_bytes(&target.path)),
                "it is there",
            )
            .into());
        }
        if !is_date_folder(&target.path) || !is_date(&target.path) {
            return Err(denied(
                &target.path,
                "folders are made for years, months and days below sessions alone",
            ));
        }
        let spooled = self.store.areas().join(Area::Pending, &target.path);
        self.make_spool_folder(&spooled.join("x"))?;
        super::epoch::mark_changed();
        let listed = self.store.list_now(target.dir.path);
        let found = listed.map_err(FsError::from).and_then(|()| self.found(parent, name));
        if found.is_err() {
            let _ = fs::remove_dir(spooled);
        }
        found
    }

    /// Removes an empty folder.
    pub fn rmdir(&self, parent: NodeNumber, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let target = self.target(parent, name)?;
        match self.child(parent, name)? {
            Some((Node::Dir(dir), _)) if !is_date_folder(&dir.path) => {
                return Err(denied(&target.path, "only folders of days, months and years can be removed"));
            }
            Some((Node::Dir(dir), _)) if dir.entries + dir.subdirs > 0 => {
                return Err(FsError::NotEmpty(dir.number));
            }
            Some((Node::Dir(_), _)) => {}
            Some(_) => return Err(FsError::NotADirectory(parent)),
            None => {
                return Err(FsError::NoEntry {
                    dir: parent,
                    name: String::from_utf8_lossy(name).into_owned(),
                });
            }
        }
        for area in crate::store::areas::AREAS {
            let folder = self.store.areas().join(area, &target.path);
            match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove the folder", &folder)(error).into());
                }
                _ => {}
            }
        }
        super::epoch::mark_changed();
        match self.store.list_now(target.dir.path) {
            // It is gone, and the index follows later.
            Err(StoreError::Index { .. }) => Ok(()),
            listed => Ok(listed?),
        }
    }

    /// Names a thread: `ln -s TARGET by-name/NAME`.
    pub fn symlink(&self, parent: NodeNumber, name: &[u8], to: &Path) -> Result<Found> {
        self.check_writable()?;
        let target = self.target(parent, name)?;
        if target.dir.path != b"by-name" {
            return Err(denied(&target.path, "links are made in by-name alone, to name a thread"));
        }
        if self.child(parent, name)?.is_some() {
            return Err(StoreError::exists(
                Path::new(std::ffi::OsStr::from_bytes(&target.path)),
                "it is there",
            )
            .into());
        }
        let thread = self.thread_at(&target.dir.path, to).ok_or_else(|| {
            invalid(
                &target.path,
                "its target is no thread of this mount; link to ../sessions/... or ../by-id/...",
            )
        })?;
        self.name_thread(&target, thread)?;
        // The name is given. Without the index there is no link yet to answer with.
        self.look_or_fail(&[], true)?;
        if self.options.views_as == ViewsAs::Symlinks {
            return self.found(parent, name);
        }
        // The kernel takes nothing but a link for one that it asked for. It must not keep it: the next look finds the file.
        match self.child(parent, name)? {
            Some((Node::File(file), _)) => {
                let number = entry_number(BY_NAME, 0, &target.dir.path, &file);
                let text = link_target(&target.dir.path, &file.path);
                let link = Node::Link { number, target: text, mtime_ns: file.disk.mtime_ns };
                let (entry_ttl, attr_ttl) = Default::default();
                Ok(Found { attr: self.attr_of(&link)?.value, entry_ttl, attr_ttl })
            }
            _ => self.found(parent, name),
        }
    }

    /// The thread that a link text leads to, from a directory of this tree.
    fn thread_at(&self, from: &[u8], to: &Path) -> Option<ThreadId> {
        let absolute = self.mountpoint.lock().unwrap_or_else(|poison| poison.into_inner()).clone();
        let mut components: Vec<&[u8]> = Vec::new();
        let below = match (to.is_absolute(), &absolute) {
            (true, Some(mountpoint)) => to.strip_prefix(mountpoint).ok()?,
            (true, None) => return None,
            (false, _) => {
                components.extend(from.split(|&byte| byte == b'/'));
                to
            }
        };
        for component in below.components() {
            match component {
                std::path::Component::ParentDir => drop(components.pop()?),
                std::path::Component::Normal(part) => components.push(part.as_bytes()),
                _ => {}
            }
        }
        let mut number = NodeNumber::ROOT;
        for (position, component) in components.iter().enumerate() {
            match self.child(number, component).ok()?? {
                (Node::Dir(dir), _) => number = dir.number,
                (Node::File(file), _) if position + 1 == components.len() => return file.thread_id,
                (Node::Link { number, .. }, _) if position + 1 == components.len() => {
                    return self.thread_of_link(number).ok();
                }
                _ => return None,
            }
        }
        None
    }

    fn thread_of_link(&self, number: NodeNumber) -> Result<ThreadId> {
        let Some(crate::store::node::NodeClass::Link { file, .. }) = number.class() else {
            return Err(FsError::NotALink(number));
        };
        let file = self.query(|queries| queries.file(file))?.ok_or(FsError::Stale(number))?;
        file.thread_id.ok_or(FsError::Stale(number))
    }

    /// Appends the entry that gives a thread the name of this place in `by-name`.
    fn name_thread(&self, target: &Target, thread: ThreadId) -> Result<()> {
        let text =
            std::str::from_utf8(&target.name).map_err(|_| invalid(&target.path, "a name must be UTF-8"))?;
        let text = text.strip_suffix(name::THREAD_EXTENSION).unwrap_or(text);
        let text = match name::split_suffix(text) {
            Some((before, suffix)) if suffix == thread.last8() => before,
            _ => text,
        };
        let name = name::decode_component(text).unwrap_or_else(|| text.to_owned());
        session_index::rename(&self.store.home().session_index(), thread.uuid(), &name).map_err(|error| {
            match error {
                StoreError::Invalid(_) => {
                    invalid(&target.path, "a name is 1 to 10,000 bytes, and more than white space")
                }
                other => other.into(),
            }
        })?;
        Ok(())
    }

    // ---- removing ------------------------------------------------------------------------------

    /// Removes a file, or the name of a thread.
    pub fn unlink(&self, parent: NodeNumber, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let target = self.target(parent, name)?;
        let Some((node, _)) = self.child(parent, name)? else {
            return Err(FsError::NoEntry { dir: parent, name: String::from_utf8_lossy(name).into_owned() });
        };
        match node {
            Node::Dir(dir) => Err(FsError::IsADirectory(dir.number)),
            Node::Link { number, .. } if target.dir.path == b"by-name" => self.unname(&target, number),
            Node::File(file) if target.dir.path == file.dir_path() => self.remove_file(&file),
            _ => Err(denied(&target.path, "only threads, and names in by-name, can be removed")),
        }
    }

    fn unname(&self, target: &Target, link: NodeNumber) -> Result<()> {
        let thread = self.thread_of_link(link)?;
        let names = self.store.home().session_index();
        // `rm -r` of the whole tree drops all names: what it takes can be taken back.
        let name = session_index::name_by_id(&names, thread.uuid())?.filter(|name| !name.trim().is_empty());
        let trash = Trash::new(self.store.home(), self.store.state_dir());
        let kept = name.map(|name| trash.keep_name(thread, &name)).transpose()?;
        let dropped = session_index::remove(&names, thread.uuid());
        if !matches!(dropped, Ok(1..))
            && let Some(kept) = kept
        {
            kept.take_back();
        }
        if dropped? == 0 {
            return Err(denied(&target.path, "its name stands in its own lines; give it another with mv"));
        }
        self.look(&[], true)
    }

    fn remove_file(&self, file: &FileRow) -> Result<()> {
        let _ = self.settle(file.number);
        let _writing = self.writes.lock(file.number);
        self.writes.leave(file.number);
        let file = &self.as_it_lies(file);
        let lies = self.store.areas().join(file.area, &file.path);
        if file.area == Area::Home && is_kept_compressed(&lies)? {
            // The last step of Codex's compressor: the thread stays.
            fs::remove_file(&lies).map_err(StoreError::io("remove", &lies))?;
            return self.look(&[&file.path], false);
        }
        let is_work = file.kind == RowKind::Rollout || file.area == Area::Home;
        match self.options.removal {
            Removal::Deny if is_work => {
                return Err(denied(&file.path, "this mount removes no threads (--rm=deny)"));
            }
            Removal::Trash if is_work => {
                if let Some(fork) = self.goes_on_from(file)? {
                    log::warn!(
                        "{} goes to the trash; {fork} cannot be read without it: take it back with `rolloutfs trash restore`",
                        String::from_utf8_lossy(&file.path)
                    );
                }
                self.put_in_trash(file, "rm through the mount".into())?;
            }
            _ if file.area == Area::Home => {
                if let Some(fork) = self.goes_on_from(file)? {
                    let why =
                        format!("{fork} goes on from it, and cannot be read without it; remove that first");
                    return Err(denied(&file.path, &why));
                }
                for path in companions(self.store.home(), &file.path, false) {
                    let lies = self.store.home().join(&path);
                    fs::remove_file(&lies).map_err(StoreError::io("remove", &lies))?;
                }
            }
            _ => fs::remove_file(&lies).map_err(StoreError::io("remove", &lies))?,
        }
        self.look(&[&file.path], false)
    }

    /// Another rollout whose history lies in this one (spec 9.3), where the index knows of one: a later segment of the
    /// thread, or a fork of it, which `by-parent` has below its id.
    fn goes_on_from(&self, file: &FileRow) -> Result<Option<String>> {
        let (Some(thread), Some(own)) = (file.thread_id, file.key_id()) else { return Ok(None) };
        let found = self.query(|queries| {
            let segments = queries.rows_of_thread(thread)?;
            let is_later =
                |row: &&Row| row.meta.history_base_id == Some(own) && row.file.number != file.number;
            if let Some(row) = segments.iter().find(is_later) {
                return Ok(Some(row.file.path.clone()));
            }
            let below = |dir: Option<DirRow>, name: &[u8]| {
                dir.map_or(Ok(None), |dir| queries.child_dir(dir.number, name))
            };
            let view = queries.child_dir(NodeNumber::ROOT, b"by-parent")?;
            match below(view, thread.to_string().as_bytes())? {
                Some(forks) => queries.fork_in(forks.number, own),
                None => Ok(None),
            }
        })?;
        Ok(found.map(|path| String::from_utf8_lossy(&path).into_owned()))
    }

    // ---- renaming ------------------------------------------------------------------------------

    /// Moves or names. `no_replace`: not over what is there.
    pub fn rename(
        &self,
        parent: NodeNumber,
        name: &[u8],
        new_parent: NodeNumber,
        new_name: &[u8],
        no_replace: bool,
    ) -> Result<()> {
        self.check_writable()?;
        let (from, to) = (self.target(parent, name)?, self.target(new_parent, new_name)?);
        let Some((node, _)) = self.child(parent, name)? else {
            return Err(FsError::NoEntry { dir: parent, name: String::from_utf8_lossy(name).into_owned() });
        };
        let there = self.child(new_parent, new_name)?.map(|(node, _)| node);
        if no_replace && there.is_some() {
            return Err(
                StoreError::exists(Path::new(std::ffi::OsStr::from_bytes(&to.path)), "it is there").into()
            );
        }
        match node {
            Node::Link { number, .. } if from.dir.path == b"by-name" && to.dir.path == b"by-name" => {
                self.name_thread(&to, self.thread_of_link(number)?)?;
                self.look(&[], true)
            }
            Node::File(file) if from.dir.path == file.dir_path() => self.move_file(&file, &to, there),
            Node::Dir(_) => Err(denied(&from.path, "folders stay where they are")),
            _ => Err(denied(
                &from.path,
                "in by-name, mv gives a thread another name; elsewhere in a view nothing moves",
            )),
        }
    }

    fn move_file(&self, file: &FileRow, to: &Target, there: Option<Node>) -> Result<()> {
        if file.path == to.path {
            return Ok(());
        }
        let form = self.form(to)?;
        let old = match there {
            Some(Node::File(old)) => Some(old),
            Some(Node::Fixed(SESSION_INDEX)) | None => None,
            Some(Node::Dir(dir)) => return Err(FsError::IsADirectory(dir.number)),
            Some(_) => return Err(denied(&to.path, "what is made up cannot be replaced")),
        };
        let _ = self.settle(file.number);
        old.iter().for_each(|old| drop(self.settle(old.number)));
        let _writing = self.writes.lock_both(file.number, old.as_ref().map(|old| old.number));
        self.writes.leave(file.number);
        let file = &self.as_it_lies(file);
        match (file.area, form) {
            (Area::Home, Form::Rollout(rollout)) => self.archive_or_back(file, to, &rollout),
            (Area::Home, _) => {
                Err(denied(&file.path, "a thread moves between sessions and archived_sessions alone"))
            }
            (_, Form::Names) => self.replace_names(file),
            (_, Form::Scratch) if old.as_ref().is_some_and(|old| old.area != Area::Scratch) => {
                Err(denied(&to.path, "it is in the home, where only threads are written"))
            }
            (area, Form::Scratch) => {
                let from = self.store.areas().join(area, &file.path);
                let lies = self.store.areas().join(Area::Scratch, &to.path);
                self.make_spool_folder(&lies)?;
                fs::rename(&from, &lies).map_err(StoreError::io("rename", &from))?;
                self.look(&[&file.path, &to.path], false)
            }
            (area, Form::Compressed(rollout)) => self.place_compressed(file, area, to, &rollout),
            (_, Form::Rollout(rollout)) => self.become_thread(file, to, &rollout, old.as_deref()),
        }
    }

    /// A temporary, or a pending thread of another name, becomes the thread of this name: in the home at once, or pending.
    /// Refused, everything is as it was, what would have been replaced too.
    fn become_thread(
        &self,
        file: &FileRow,
        to: &Target,
        rollout: &RolloutName,
        old: Option<&FileRow>,
    ) -> Result<()> {
        self.check_id_free(to, rollout, Some(file.number))?;
        let from = self.store.areas().join(file.area, &file.path);
        let (flow, _) = Trigger::default().look(&from).map_err(StoreError::io("read", &from))?;
        let replaced = match old {
            Some(old) if old.area == Area::Home => Some(self.remove_file_for(old, &to.path)?),
            _ => None,
        };
        // What takes the place of a materialised thread is materialised.
        let at_once = flow == trigger::Flow::Materialise
            || rollout.rollout_id().is_some()
            || replaced.is_some()
            || self.options.materialise == Materialise::Create;
        let pending = self.store.areas().join(Area::Pending, &to.path);
        let moved = if at_once {
            self.place_from(&from, &to.path)
        } else {
            self.make_spool_folder(&pending)
                .and_then(|()| Ok(fs::rename(&from, &pending).map_err(StoreError::io("rename", &from))?))
        };
        hit("rename.spooled");
        match (&moved, replaced) {
            (Err(_), Some((trash, item))) => {
                if let Err(error) = trash.restore(&item, None) {
                    log::error!(
                        "{error}; the thread is in the trash: rolloutfs trash restore brings it back"
                    );
                }
            }
            // The pending one of this name is replaced. Should it stay, the home counts.
            (Ok(()), _) if at_once && old.is_some_and(|old| old.area == Area::Pending) => {
                if let Err(error) = fs::remove_file(&pending) {
                    log::warn!("{}: {error}; it is replaced, and left over", pending.display());
                }
            }
            _ => {}
        }
        self.look(&[&file.path, &to.path], false)?;
        moved
    }

    /// What is replaced by a rename is not lost: to the trash with it (spec: a migration renames over a rollout).
    fn remove_file_for(&self, old: &FileRow, path: &[u8]) -> Result<(Trash, TrashItem)> {
        let why = format!("replaced by a rename to {}", String::from_utf8_lossy(path));
        let put = self.put_in_trash(old, why)?;
        self.writes.leave(old.number);
        Ok(put)
    }

    /// Moves a file to the trash, with what belongs to it. Refused, it is where it was.
    fn put_in_trash(&self, file: &FileRow, why: String) -> Result<(Trash, TrashItem)> {
        let options = PutOptions {
            area: file.area,
            name: file.name.clone(),
            why,
            // Whoever removes it may be the writer itself.
            despite_writer: true,
        };
        let paths = match file.area {
            Area::Home => companions(self.store.home(), &file.path, false),
            _ => vec![file.path.clone()],
        };
        let trash = Trash::new(self.store.home(), self.store.state_dir());
        let put = trash.put(&paths, &options);
        if put.is_err() {
            // It may have been away for a moment, of which the index may have heard.
            self.look(&[&file.path], false)?;
        }
        let item = put?;
        Ok((trash, item))
    }

    fn archive_or_back(&self, file: &FileRow, to: &Target, rollout: &RolloutName) -> Result<()> {
        if file.file_name() != rollout.plain().as_bytes() {
            return Err(denied(
                &file.path,
                "a thread's file keeps its name; give the thread a name in by-name",
            ));
        }
        self.check_id_free(to, rollout, Some(file.number))?;
        let known = [file.path.clone()];
        let options = MoveOptions { known: Some(&known), despite_writer: true, touch: false, durable: false };
        match first_component(&to.path) {
            b"archived_sessions" => archive::archive(self.store.home(), &file.path, &options)?,
            _ => archive::unarchive(self.store.home(), &file.path, &options)?,
        };
        self.look(&[&file.path, &to.path], false)
    }

    fn replace_names(&self, file: &FileRow) -> Result<()> {
        let from = self.store.areas().join(file.area, &file.path);
        let to = self.store.home().session_index();
        fs::rename(&from, &to)
            .or_else(|error| self.replace_by_copy(&from, &to, error))
            .map_err(StoreError::io("rename", &from))?;
        self.look(&[&file.path], true)
    }

    fn replace_by_copy(&self, from: &Path, to: &Path, error: io::Error) -> io::Result<()> {
        if error.raw_os_error() != Some(libc::EXDEV) {
            return Err(error);
        }
        let beside = to.with_extension("jsonl.rolloutfs.tmp");
        let copied = || {
            fs::copy(from, &beside)?;
            let copy = File::open(&beside)?;
            self.store.home().give(&copy);
            copy.sync_all()?;
            hit("names.copied");
            fs::rename(&beside, to)
        };
        if let Err(error) = copied() {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        hit("names.copy_placed");
        // The names are the new ones now, whatever becomes of what they were copied from.
        fs::remove_file(from).unwrap_or_else(|error| log::warn!("{} is left over: {error}", from.display()));
        Ok(())
    }

    /// Codex's compressor: the temporary becomes the `.zst` beside the plain file, which it then removes.
    fn place_compressed(&self, file: &FileRow, area: Area, to: &Target, rollout: &RolloutName) -> Result<()> {
        let plain = Target {
            dir: to.dir.clone(),
            name: rollout.plain().as_bytes().to_vec(),
            path: join(&to.dir.path, rollout.plain().as_bytes()),
        };
        self.check_id_free(&plain, rollout, None)?;
        let from = self.store.areas().join(area, &file.path);
        placement::make_folder(self.store.home(), &to.dir.path, false)?;
        let lies = self.store.home().join(&join(&to.dir.path, rollout.on_disk().as_bytes()));
        let logical = join(&to.dir.path, rollout.plain().as_bytes());
        placement::move_no_replace(&from, &lies, false)?;
        self.look(&[&file.path, &logical], false)
    }

    // ---- materialising -------------------------------------------------------------------------

    /// Gives a pending thread its place in the home: folders, then one rename that replaces nothing.
    fn place(&self, path: &[u8]) -> Result<()> {
        self.place_from(&self.store.areas().join(Area::Pending, path), path)
    }

    fn place_from(&self, from: &Path, path: &[u8]) -> Result<()> {
        Ok(pending::place(self.store.home(), from, path, false)?)
    }

    /// Materialises a pending thread. One that is materialised already: nothing is done.
    pub fn persist(&self, number: NodeNumber) -> Result<()> {
        self.check_writable()?;
        let _writing = self.writes.lock(number);
        let file = self.query(|queries| queries.file(number))?.ok_or(FsError::Stale(number))?;
        let file = self.as_it_lies(&file);
        if file.area != Area::Pending {
            return Ok(());
        }
        self.place(&file.path)?;
        self.writes.leave(number);
        self.look(&[&file.path], false)
    }

    // ---- writing -------------------------------------------------------------------------------

    /// Writes bytes. `append`: the writer's descriptor has O_APPEND. Returns how many were taken.
    pub fn write(&self, number: NodeNumber, offset: u64, bytes: &[u8], append: bool) -> Result<usize> {
        self.check_writable()?;
        match self.node(number)? {
            Node::Fixed(SESSION_INDEX) => self.append_names(offset, bytes, append),
            Node::Fixed(CONTROL) => self.control(bytes),
            Node::File(_) => {
                let _writing = self.writes.lock(number);
                // Its area may have changed while we waited.
                let file = self.query(|queries| queries.file(number))?.ok_or(FsError::Stale(number))?;
                match file.area {
                    Area::Home if file.kind != RowKind::Rollout => {
                        Err(denied(&file.path, "it is no rollout"))
                    }
                    Area::Home => {
                        let to = Appendable { file: Some(Box::new(file)), end: 0 };
                        self.append_piece(to, offset, bytes, append)
                    }
                    area => self.write_spooled(&file, area, offset, bytes, append),
                }
            }
            _ => Err(denied(b"", "this file is made up and cannot be written")),
        }
    }

    /// Appends a piece of a write, under the file's lock.
    fn append_piece(&self, mut to: Appendable, offset: u64, bytes: &[u8], append: bool) -> Result<usize> {
        let mut held = self.pieces().take(to.number());
        self.append_behind(&mut to, &mut held.piece, offset, bytes, append)
    }

    /// Appends behind what is held of the same write, which is None afterwards if it landed.
    fn append_behind(
        &self,
        to: &mut Appendable,
        held: &mut Option<Piece>,
        offset: u64,
        bytes: &[u8],
        append: bool,
    ) -> Result<usize> {
        if let Some(next) = held.as_ref().map(|piece| piece.next).filter(|&next| next != offset) {
            // That write is at its end: this is another.
            self.land(to, held, &[])?;
            self.say_where(to, next);
        }
        let end = offset + bytes.len() as u64;
        let goes_on = held::may_go_on(offset, bytes);
        if let Some(piece) = held {
            if goes_on && piece.takes(bytes.len()) && piece.entry.extend(bytes).is_ok() {
                piece.go_on(end);
                return Ok(bytes.len());
            }
            let count = self.land(to, held, bytes)?;
            self.say_where(to, offset + count as u64);
            if count == 0 {
                return Err(no_space(&to.path()));
            }
            return Ok(count);
        }
        let (open, size) = self.reach(to)?;
        if !append && offset != size {
            return Err(denied(&to.path(), "it is append-only: what is written stays"));
        }
        if goes_on {
            match self.pieces().journal.begin(to.number().0, &to.path(), bytes) {
                Ok(entry) => {
                    *held = Some(Piece::new(entry, end));
                    return Ok(bytes.len());
                }
                // It lands as it is, then.
                Err(error) => log::warn!("{error}; a line may be cut by those of other writers"),
            }
        }
        let count = self.append_whole(to, open, bytes)?;
        self.say_where(to, offset + count as u64);
        Ok(count)
    }

    /// Appends what is held and `rest` behind it, by one write. Returns how much of `rest` was taken.
    fn land(&self, to: &mut Appendable, held: &mut Option<Piece>, rest: &[u8]) -> Result<usize> {
        let Some(piece) = held else { return Ok(0) };
        let (open, size) = self.reach(to)?;
        let mut failure = None;
        let landed = piece.entry.land(size, rest, |whole| {
            self.append_whole(to, open, whole).map_err(|error| {
                failure = Some(error);
                io::Error::other("see there")
            })
        });
        let count = landed.map_err(|error| failure.unwrap_or(error.into()))?;
        if let Some(piece) = held.take() {
            piece.entry.end();
        }
        Ok(count)
    }

    /// Has a piece land that nothing follows. One that cannot land waits on, and who asks sees the file without it.
    pub(super) fn land_late(&self, number: NodeNumber) -> Result<()> {
        let _writing = self.writes.lock(number);
        let mut held = self.pieces().take(number);
        let Some((next, path)) = held.piece.as_ref().map(|piece| (piece.next, piece.entry.path().to_vec()))
        else {
            return Ok(());
        };
        let landed = self.appendable(number).and_then(|mut to| {
            self.land(&mut to, &mut held.piece, &[])?;
            self.say_where(&to, next);
            if number == SESSION_INDEX { self.look(&[], true) } else { Ok(()) }
        });
        landed.inspect_err(|error| {
            let path = String::from_utf8_lossy(&path);
            log::warn!("{error}; the start of a write to {path} is kept and appended as soon as that works");
            held.try_later();
        })
    }

    /// Waits a little for the rest of a write to this file, or has what is there land.
    ///
    /// # Errors
    /// What the disk says: it waits longer then.
    pub fn settle(&self, number: NodeNumber) -> Result<()> {
        if self.pieces().must_land(number) { self.land_late(number) } else { Ok(()) }
    }

    pub(super) fn pieces(&self) -> &Pieces {
        &self.writes.pieces
    }

    fn appendable(&self, number: NodeNumber) -> Result<Appendable> {
        if number == SESSION_INDEX {
            return Ok(Appendable { file: None, end: 0 });
        }
        let file = self.query(|queries| queries.file(number))?.ok_or(FsError::Stale(number))?;
        Ok(Appendable { file: Some(Box::new(file)), end: 0 })
    }

    /// Tells the kernel where the end is, if it is elsewhere than where it put the bytes in its pages.
    fn say_where(&self, to: &Appendable, expected: u64) {
        if to.end != expected {
            self.store.news().push([crate::store::change::Change::Node { number: to.number() }]);
        }
    }

    /// Appends bytes by one write, to the file that was reached just now, or has the path by then. Returns how many were taken.
    fn append_whole(&self, to: &mut Appendable, mut open: Arc<File>, bytes: &[u8]) -> Result<usize> {
        for attempt in 0..REPLACED_MAX {
            if attempt > 0 {
                self.follow(to)?;
                open = self.reach(to)?.0;
            }
            let lies = self.store.home().join(&to.path());
            let count = append_once(&open, bytes).map_err(StoreError::io("append to", &lies))?;
            let after = open.metadata().map_err(StoreError::io("look at", &lies))?;
            if after.nlink() > 0 {
                to.end = after.size();
                return Ok(count);
            }
            // Replaced below between the two looks: the bytes went to a file that nobody can find.
            self.writes.forget(to.number());
        }
        Err(FsError::Stale(to.number()))
    }

    /// The open file that has the path now, made plain, and its size.
    fn reach(&self, to: &mut Appendable) -> Result<(Arc<File>, u64)> {
        for attempt in 0..REPLACED_MAX {
            if attempt > 0 {
                self.follow(to)?;
            }
            let (number, lies) = (to.number(), self.store.home().join(&to.path()));
            if let Some(file) = &to.file
                && file.encoding == Encoding::Zstd
                && thaw(&lies, ThawTime::Now)?
            {
                self.writes.forget(number);
                self.look(&[&file.path], false)?;
            }
            let open = match self.open_to_append(number, &lies) {
                Err(FsError::Store(StoreError::Io { source, .. }))
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    continue;
                }
                opened => opened?,
            };
            let stat = open.metadata().map_err(StoreError::io("look at", &lies))?;
            if stat.nlink() > 0 {
                return Ok((open, stat.size()));
            }
            self.writes.forget(number);
        }
        Err(FsError::Stale(to.number()))
    }

    /// It was replaced below: by what, the disk says.
    fn follow(&self, to: &mut Appendable) -> Result<()> {
        let Some(file) = &mut to.file else { return Ok(()) };
        self.look(&[&file.path], false)?;
        **file = self.query(|queries| queries.file(file.number))?.ok_or(FsError::Stale(file.number))?;
        Ok(())
    }

    fn open_to_append(&self, number: NodeNumber, lies: &Path) -> Result<Arc<File>> {
        let lock = || self.writes.open.lock().unwrap_or_else(|poison| poison.into_inner());
        let held = lock().get(&number).cloned();
        if let Some(open) = held {
            return Ok(open);
        }
        let opened = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(lies);
        let opened = Arc::new(opened.map_err(StoreError::io("open", lies))?);
        lock().put(number, opened.clone());
        Ok(opened)
    }

    fn write_spooled(
        &self,
        file: &FileRow,
        area: Area,
        offset: u64,
        bytes: &[u8],
        append: bool,
    ) -> Result<usize> {
        let lies = self.store.areas().join(area, &file.path);
        let opened = match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&lies) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let placed = self.as_it_lies(file);
                if placed.area == Area::Home {
                    let to = Appendable { file: Some(Box::new(placed)), end: 0 };
                    return self.append_piece(to, offset, bytes, append);
                }
                return Err(StoreError::io("open", &lies)(error).into());
            }
            opened => opened.map_err(StoreError::io("open", &lies))?,
        };
        let size = opened.metadata().map_err(StoreError::io("look at", &lies))?.size();
        let at = if append { size } else { offset };
        let over =
            if area == Area::Pending && at < size { bytes_at(&lies, at, bytes.len())? } else { Vec::new() };
        let count = opened.write_at(bytes, at).map_err(StoreError::io("write", &lies))?;
        hit("spool.written");
        if area == Area::Pending
            && let Err(error) = self.follow_pending(file, &lies, at < size)
        {
            // Refused as a whole: an errno at this write means that nothing of it was taken.
            opened.write_all_at(&over, at).and_then(|()| opened.set_len(size)).unwrap_or_else(|error| {
                log::error!("{}: {error}; bytes of a write that was refused are left", lies.display());
            });
            return Err(error);
        }
        if at != offset {
            self.store.news().push([crate::store::change::Change::Node { number: file.number }]);
        }
        self.store.look_again(&file.path);
        Ok(count)
    }

    /// Looks at the new lines of a pending thread, and materialises it where one says so.
    fn follow_pending(&self, file: &FileRow, lies: &Path, anew: bool) -> Result<()> {
        let lock = || self.writes.seen.lock().unwrap_or_else(|poison| poison.into_inner());
        let seen = if anew { None } else { lock().remove(&file.number) };
        let (flow, seen) = seen.unwrap_or_default().look(lies).map_err(StoreError::io("read", lies))?;
        match flow {
            trigger::Flow::Wait => {
                lock().insert(file.number, seen);
                Ok(())
            }
            trigger::Flow::Materialise => {
                self.place(&file.path)?;
                self.look(&[&file.path], false)
            }
        }
    }

    fn append_names(&self, offset: u64, bytes: &[u8], append: bool) -> Result<usize> {
        let _writing = self.writes.lock(SESSION_INDEX);
        let count = self.append_piece(Appendable { file: None, end: 0 }, offset, bytes, append)?;
        if !self.pieces().has(SESSION_INDEX) {
            self.look(&[], true)?;
        }
        Ok(count)
    }

    /// Commands, a line each: `persist ID` gives a pending thread its place, `discard ID` deletes it for good.
    fn control(&self, bytes: &[u8]) -> Result<usize> {
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let text = String::from_utf8_lossy(line);
            let mut words = text.split_whitespace();
            let (verb, thread, rest) = (words.next(), words.next().map(str::parse::<ThreadId>), words.next());
            match (verb, thread, rest) {
                (Some("persist"), Some(Ok(thread)), None) => {
                    self.files_of(thread)?.iter().try_for_each(|file| self.persist(file.number))?;
                }
                (Some("discard"), Some(Ok(thread)), None) => {
                    self.files_of(thread)?.iter().try_for_each(|file| self.discard(file.number))?;
                }
                _ => {
                    return Err(FsError::Invalid(format!(
                        "control: {text:?} is no command; there is: persist ID, discard ID"
                    )));
                }
            }
        }
        Ok(bytes.len())
    }

    fn files_of(&self, thread: ThreadId) -> Result<Vec<FileRow>> {
        let rows = self.query(|queries| queries.rows_of_thread(thread))?;
        let files: Vec<_> =
            rows.into_iter().map(|row| row.file).filter(|file| file.kind == RowKind::Rollout).collect();
        if files.is_empty() {
            return Err(StoreError::NotFound { what: format!("thread {thread}") }.into());
        }
        Ok(files)
    }

    /// Deletes a pending thread. One in the home is not touched.
    fn discard(&self, number: NodeNumber) -> Result<()> {
        let _writing = self.writes.lock(number);
        let file = self.query(|queries| queries.file(number))?.ok_or(FsError::Stale(number))?;
        let file = self.as_it_lies(&file);
        if file.area != Area::Pending {
            return Err(denied(&file.path, "it has its place in the home; rm moves it to the trash"));
        }
        self.writes.leave(number);
        let lies = self.store.areas().join(Area::Pending, &file.path);
        fs::remove_file(&lies).map_err(StoreError::io("remove", &lies))?;
        self.look(&[&file.path], false)
    }

    // ---- attributes and durability -------------------------------------------------------------

    /// Changes attributes.
    pub fn setattr(&self, number: NodeNumber, wanted: &Wanted) -> Result<Timed<Attr>> {
        self.check_writable()?;
        let node = self.node(number)?;
        let now = self.attr_of(&node)?.value;
        if wanted.uid.is_some_and(|uid| uid != now.uid) || wanted.gid.is_some_and(|gid| gid != now.gid) {
            let path = match &node {
                Node::File(file) => &file.path,
                Node::Dir(dir) => &dir.path,
                _ => &Vec::new(),
            };
            return Err(denied(path, "files keep their owners; --uid and --gid show others"));
        }
        match &node {
            Node::File(file) => self.set_file(file, wanted)?,
            Node::Fixed(SESSION_INDEX) => {
                if wanted.size_bytes.is_some_and(|size| size != now.size_bytes) {
                    return Err(denied(SESSION_INDEX_NAME.as_bytes(), "it is append-only"));
                }
                set_times_and_mode(&self.store.home().session_index(), wanted)?;
            }
            // Truncated by a shell's `>`: a command is written whole.
            Node::Fixed(CONTROL) => {}
            // The mtime of a folder is the newest within it, whatever a copying tool sets.
            Node::Dir(dir) if self.on_disk(&dir.path) && wanted.size_bytes.is_none() => {
                let lies = self.store.areas().join(Area::Home, &dir.path);
                if let Some(mode) = wanted.mode.filter(|_| lies.is_dir()) {
                    fs::set_permissions(&lies, fs::Permissions::from_mode(mode & 0o7777))
                        .map_err(StoreError::io("change the mode of", &lies))?;
                }
            }
            // What copies a whole tree sets the time of its root at the end.
            Node::Dir(dir) if dir.number == NodeNumber::ROOT && wanted.mode.is_none() => {}
            _ => return Err(denied(b"", "this file is made up and cannot be changed")),
        }
        self.getattr(number)
    }

    fn set_file(&self, file: &FileRow, wanted: &Wanted) -> Result<()> {
        let _ = self.settle(file.number);
        let _writing = self.writes.lock(file.number);
        let file = self.query(|queries| queries.file(file.number))?.ok_or(FsError::Stale(file.number))?;
        let file = self.as_it_lies(&file);
        let (lies, located) = self.locate(&file)?;
        if let Some(size) = wanted.size_bytes {
            if file.area == Area::Home {
                let now = located.stat.size();
                if located.encoding != Encoding::Plain || size != now {
                    return Err(denied(&file.path, "threads are append-only: what is written stays"));
                }
            } else {
                let opened =
                    OpenOptions::new().write(true).open(&lies).map_err(StoreError::io("open", &lies))?;
                opened.set_len(size).map_err(StoreError::io("set the length of", &lies))?;
                self.writes.seen.lock().unwrap_or_else(|poison| poison.into_inner()).remove(&file.number);
            }
        }
        set_times_and_mode(&located.path, wanted)?;
        self.look(&[&file.path], false)
    }

    /// Makes what was written survive a power cut. A pending thread stays pending.
    pub fn fsync(&self, number: NodeNumber, data_only: bool) -> Result<()> {
        // What was accepted and does not land is not durable.
        self.settle(number)?;
        match self.node(number)? {
            Node::File(file) => {
                let (lies, located) = self.locate(&file)?;
                let held = {
                    let open = self.writes.open.lock().unwrap_or_else(|poison| poison.into_inner());
                    open.peek(&number).cloned()
                };
                match held.filter(|open| open.metadata().is_ok_and(|found| is_same(&found, &located.stat))) {
                    // By what it was written with: it knows of each write that the disk lost since.
                    Some(open) => sync(&open, &located.path, data_only)?,
                    None => sync_file(&located.path, data_only)?,
                }
                self.sync_name(number, lies, &located)?;
                if file.area == Area::Pending && self.options.materialise == Materialise::Fsync {
                    self.persist(number)?;
                    let placed = self.store.home().join(&file.path);
                    let located = content::locate_now(&placed)?;
                    self.sync_name(number, placed, &located)?;
                }
                Ok(())
            }
            Node::Fixed(SESSION_INDEX) => {
                let located = self.session_index().ok_or(FsError::Stale(number))?;
                sync_file(&located.path, data_only)?;
                self.sync_name(number, located.path.clone(), &located)
            }
            _ => Ok(()),
        }
    }

    /// Makes the name of a file survive a power cut, in all its folders: once for each place that it gets.
    fn sync_name(&self, number: NodeNumber, lies: PathBuf, located: &Located) -> Result<()> {
        let state_dir = self.store.state_dir();
        let root = if lies.starts_with(state_dir) { state_dir } else { self.store.home().root() };
        let place = (lies, located.stat.dev(), located.stat.ino());
        if self.writes.placed().get(&number) != Some(&place) {
            sync_folders(place.0.parent(), root)?;
            self.writes.placed().put(number, place);
        }
        Ok(())
    }

    /// Makes what was made and moved in a folder survive a power cut.
    pub fn fsyncdir(&self, number: NodeNumber) -> Result<()> {
        let dir = self.dir(number)?;
        if self.on_disk(&dir.path) {
            for area in crate::store::areas::AREAS {
                let folder = self.store.areas().join(area, &dir.path);
                if folder.is_dir() {
                    placement::sync_folder(&folder)?;
                }
            }
        }
        Ok(())
    }
}

/// `sessions/YYYY`, `sessions/YYYY/MM`, `sessions/YYYY/MM/DD`.
fn is_date_folder(path: &[u8]) -> bool {
    let mut components = path.split(|&byte| byte == b'/');
    let number = |component: &[u8], digits: usize| {
        component.len() == digits && component.iter().all(u8::is_ascii_digit)
    };
    let ok = components.next() == Some(b"sessions")
        && components.next().is_some_and(|year| number(year, 4))
        && components.next().is_none_or(|month| number(month, 2))
        && components.next().is_none_or(|day| number(day, 2));
    ok && components.next().is_none()
}

/// Of a path of the form that [`is_date_folder`] knows: is there such a month, such a day?
fn is_date(path: &[u8]) -> bool {
    let text = String::from_utf8_lossy(path);
    let parts: Vec<u16> = text.split('/').skip(1).filter_map(|part| part.parse().ok()).collect();
    let month = |number: u16| time::Month::try_from(u8::try_from(number).unwrap_or(0));
    match parts[..] {
        [_, number] => month(number).is_ok(),
        [year, number, day] => month(number).is_ok_and(|month| {
            let day = u8::try_from(day).unwrap_or(0);
            time::Date::from_calendar_date(i32::from(year), month, day).is_ok()
        }),
        _ => true,
    }
}

/// Meant for a rollout, and not for a temporary of one?
fn looks_like_rollout(name: &[u8]) -> bool {
    name.starts_with(b"rollout-") && (name.ends_with(b".jsonl") || name.ends_with(b".jsonl.zst"))
}

/// One write call: what it takes lands as one piece, at the end whatever others do.
fn append_once(file: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the descriptor is open and `bytes` is valid for its length.
        let count = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What a file has at an offset, at most so many bytes.
fn bytes_at(path: &Path, offset: u64, count: usize) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut bytes = Vec::new();
    let read =
        file.seek(io::SeekFrom::Start(offset)).and_then(|_| file.take(count as u64).read_to_end(&mut bytes));
    read.map_err(StoreError::io("read", path))?;
    Ok(bytes)
}

/// Is a rollout there plain and compressed, with the same bytes? Then the plain file can go.
fn is_kept_compressed(plain: &Path) -> Result<bool> {
    let compressed = content::compressed_path(plain);
    let (Ok(stat), Ok(_)) = (fs::symlink_metadata(&compressed), fs::symlink_metadata(plain)) else {
        return Ok(false);
    };
    let located = Located { path: compressed, encoding: Encoding::Zstd, stat };
    let mut decoded = content::open_decoded_reader(&located)?;
    let mut file = File::open(plain).map_err(StoreError::io("open", plain))?;
    let (mut expected, mut found) = (vec![0; COMPARED_BYTES], Vec::with_capacity(COMPARED_BYTES));
    loop {
        let count = file.read(&mut expected).map_err(StoreError::io("read", plain))?;
        found.clear();
        // One byte more at the end: it must have none. What does not decode is not the same.
        let wanted = if count == 0 { 1 } else { count as u64 };
        let same =
            decoded.by_ref().take(wanted).read_to_end(&mut found).is_ok() && found == expected[..count];
        if !same || count == 0 {
            return Ok(same);
        }
    }
}

fn set_times_and_mode(path: &Path, wanted: &Wanted) -> Result<()> {
    if let Some(mode) = wanted.mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
            .map_err(StoreError::io("change the mode of", path))?;
    }
    if let Some(mtime) = wanted.mtime {
        let times = [libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT }, mtime];
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|error| {
            FsError::from(StoreError::io("set the time of", path)(io::Error::other(error)))
        })?;
        // SAFETY: `name` ends in NUL and `times` has the two times that are asked for.
        let set = unsafe {
            libc::utimensat(libc::AT_FDCWD, name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
        };
        if set != 0 {
            return Err(StoreError::io("set the time of", path)(io::Error::last_os_error()).into());
        }
    }
    Ok(())
}

fn sync_file(path: &Path, data_only: bool) -> Result<()> {
    sync(&File::open(path).map_err(StoreError::io("open", path))?, path, data_only)
}

fn sync(file: &File, path: &Path, data_only: bool) -> Result<()> {
    let synced = if data_only { file.sync_data() } else { file.sync_all() };
    Ok(synced.map_err(StoreError::io("sync", path))?)
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The folders from here up to `root`: names in them survive a power cut.
fn sync_folders(from: Option<&Path>, root: &Path) -> Result<()> {
    let mut folder: Option<PathBuf> = from.map(Path::to_owned);
    while let Some(path) = folder.filter(|path| path.starts_with(root)) {
        placement::sync_folder(&path)?;
        folder = path.parent().map(Path::to_owned);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_for_dates_that_there_are() {
        let table: [(&str, bool); 12] = [
            ("sessions/2026", true),
            ("sessions/2026/12", true),
            ("sessions/2024/02/29", true),
            ("sessions/2026/02/29", false),
            ("sessions/2026/00", false),
            ("sessions/2026/13", false),
            ("sessions/2026/1", false),
            ("sessions/2026/02/08/09", false),
            ("sessions/26", false),
            ("sessions", false),
            ("archived_sessions/2026", false),
            ("sessions/2026/02/+8", false),
        ];
        for (path, may) in table {
            let path = path.as_bytes();
            assert_eq!(is_date_folder(path) && is_date(path), may, "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn a_plain_file_is_kept_by_its_compressed_form_only_if_that_has_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("r.jsonl");
        let bytes = vec![b'x'; COMPARED_BYTES + 7];
        fs::write(&plain, &bytes).unwrap();
        assert!(!is_kept_compressed(&plain).unwrap(), "there is none");
        let whole = zstd::encode_all(&bytes[..], 1).unwrap();
        let table: [(Vec<u8>, bool); 5] = [
            (whole.clone(), true),
            (whole[..whole.len() - 1].to_vec(), false),
            (zstd::encode_all(&bytes[1..], 1).unwrap(), false),
            (zstd::encode_all(&[&bytes[..], b"y"].concat()[..], 1).unwrap(), false),
            (b"no zstd".to_vec(), false),
        ];
        for (compressed, kept) in table {
            fs::write(content::compressed_path(&plain), compressed).unwrap();
            assert_eq!(is_kept_compressed(&plain).unwrap(), kept);
        }
    }
}
