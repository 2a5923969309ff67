//! How does the kernel talk to `Fs`? The fuser adapter: decode, call, reply. No logic of the tree is here.
//!
//! Mode `stateless` (the only one yet): OPEN, OPENDIR and FLUSH are answered ENOSYS once, so that no open, release or flush
//! ever reaches us again and the kernel keeps data, names, attributes and listings by the lifetimes we give.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request as FuseRequest, TimeOrNow,
};

use super::attr::{Attr, NodeKind};
use super::counters::Request;
use super::error::FsError;
use super::growth::Growth;
use super::write::Wanted;
use super::{Fs, errno};
use crate::store::node::NodeNumber;

/// Requests that the kernel may send ahead of being asked for them.
const BACKGROUND_MAX: u16 = 64;
/// Block size for `stat`.
const BLOCK_BYTES: u32 = 4096;
/// Numbers are never used for another node: one generation is enough.
const GENERATION: Generation = Generation(0);
/// Longest name in a directory.
const NAME_BYTES_MAX: u32 = 255;

/// What is asked of the kernel; each only where it has it.
const WANTED: [InitFlags; 5] = [
    // A read looks at the attributes first and drops pages of another size or mtime: no wrong bytes of a growing file.
    InitFlags::FUSE_AUTO_INVAL_DATA,
    // LOOKUP of `.` and `..` by number: a file server's handles outlive the kernel's memory, and us.
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_PARALLEL_DIROPS,
    // A link whose target changes has another number.
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Always, not as the kernel guesses: `find`, `grep -r` and `ls -l` list a whole folder before they look at its entries, and
    // by then it has guessed that nobody will.
    InitFlags::FUSE_DO_READDIRPLUS,
];

/// A buffer for reads of up to this length is kept for the next read: clearing a new one costs as much as the read.
const READ_BYTES_KEPT: usize = 1 << 20;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How long a call that changed something waits until the kernel is told.
const TOLD_WAIT_MAX: Duration = Duration::from_millis(250);

/// `Fs` as fuser wants it.
#[derive(Clone)]
pub struct Adapter {
    fs: Arc<Fs>,
}

impl Adapter {
    /// Over a filesystem.
    pub fn new(fs: Arc<Fs>) -> Self {
        Adapter { fs }
    }

    /// Runs a call. A panic in it is answered EIO, and the mount lives.
    fn call<T>(&self, request: Request, work: impl FnOnce(&Fs) -> Result<T, FsError>) -> Result<T, Errno> {
        self.fs.counters().count(request);
        self.guarded(request, work)
    }

    /// The same for a call that is counted already.
    fn guarded<T>(&self, request: Request, work: impl FnOnce(&Fs) -> Result<T, FsError>) -> Result<T, Errno> {
        match catch_unwind(AssertUnwindSafe(|| work(&self.fs))) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let (number, level) = errno::errno(&error);
                log::log!(level, "{request:?}: {error}");
                if level <= log::Level::Info {
                    let text = (level <= log::Level::Warn).then(|| error.to_string());
                    self.fs.counters().count_error(request, number, text);
                }
                Err(Errno::from_i32(number))
            }
            Err(_) => {
                log::error!("{request:?}: a defect in rolloutfs, please report it; the caller got EIO");
                self.fs.counters().count_error(request, libc::EIO, Some("a defect in rolloutfs".into()));
                Err(Errno::EIO)
            }
        }
    }

    /// Runs a call that may change the tree and for which the kernel holds `holds`, and has it answered once the kernel is
    /// told of what it changed. What it answers with is not to be kept: it may be old when it is sent.
    fn change<T: Send + 'static>(
        &self,
        request: Request,
        holds: &[INodeNo],
        work: impl FnOnce(&Fs) -> Result<T, FsError>,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let epoch = self.fs.epoch();
        let holding = epoch.hold(&holds.iter().map(|node| NodeNumber(node.0)).collect::<Vec<_>>());
        let running = epoch.enter();
        super::epoch::take_changed();
        let done = self.call(request, work);
        drop(running);
        if super::epoch::take_changed() {
            let count = self.fs.store().news().count();
            epoch.answer_when_told(count, holding, TOLD_WAIT_MAX, Box::new(move || answer(done)));
        } else {
            answer(done);
        }
    }

    /// Answers now, or once no piece of a write to this file waits for its rest.
    fn settled(&self, number: NodeNumber, answer: impl FnOnce(&Adapter) + Send + 'static) {
        if !self.fs.pieces().has(number) {
            let _running = self.fs.epoch().enter();
            return answer(self);
        }
        let adapter = self.clone();
        let answer = move || {
            let _running = adapter.fs.epoch().enter();
            answer(&adapter);
        };
        if let Some(answer) = self.fs.pieces().ask(number, Box::new(answer)) {
            answer();
        }
    }

    /// Answers for a file that may have grown, once the kernel can be told how long it is.
    fn attr_when_whole(&self, number: NodeNumber, reply: ReplyAttr) {
        let adapter = self.clone();
        let answer = move || {
            adapter.settled(number, move |adapter| {
                match adapter.guarded(Request::Getattr, |fs| fs.getattr(number)) {
                    // Asked before the pages were dropped: the kernel does not keep it.
                    Ok(timed) => reply.attr(&Duration::ZERO, &file_attr(&timed.value)),
                    Err(errno) => reply.error(errno),
                }
            });
        };
        if let Some(answer) = self.fs.growth.when_whole(number, Box::new(answer)) {
            answer();
        }
    }

    fn unsupported(&self, request: Request) -> Errno {
        self.fs.counters().count(request);
        Errno::ENOSYS
    }
}

fn time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH.checked_sub(distance).unwrap_or(UNIX_EPOCH) }
}

fn timespec(time: TimeOrNow) -> libc::timespec {
    match time {
        TimeOrNow::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        TimeOrNow::SpecificTime(time) => match time.duration_since(UNIX_EPOCH) {
            Ok(since) => {
                libc::timespec { tv_sec: since.as_secs() as i64, tv_nsec: i64::from(since.subsec_nanos()) }
            }
            // Before 1970 fuser gives no exact fraction: whole seconds.
            Err(before) => libc::timespec { tv_sec: -(before.duration().as_secs() as i64), tv_nsec: 0 },
        },
    }
}

fn reply_found(found: Result<Result<super::Found, Duration>, Errno>, reply: ReplyEntry) {
    match found {
        Ok(Ok(found)) => {
            reply.entry_with_ttls(&found.attr_ttl, &found.entry_ttl, &file_attr(&found.attr), GENERATION)
        }
        Ok(Err(ttl)) if ttl.is_zero() => reply.error(Errno::ENOENT),
        // Number 0 with a lifetime: the kernel keeps the miss.
        Ok(Err(ttl)) => reply.entry(&ttl, &no_attr(NodeKind::File), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn reply_made(made: Result<super::Found, Errno>, reply: ReplyEntry) {
    match made {
        Ok(found) => {
            reply.entry_with_ttls(&Duration::ZERO, &Duration::ZERO, &file_attr(&found.attr), GENERATION)
        }
        Err(errno) => reply.error(errno),
    }
}

fn reply_done(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Dir => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Link => FileType::Symlink,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let mtime = time(attr.mtime_ns);
    FileAttr {
        ino: INodeNo(attr.number.0),
        size: attr.size_bytes,
        blocks: attr.blocks,
        atime: mtime,
        mtime,
        ctime: time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// No attributes: node 0 says that there is no such node, and of `.` and `..` the kernel takes the number alone.
fn no_attr(kind: NodeKind) -> FileAttr {
    let none = Attr {
        number: NodeNumber(0),
        kind,
        size_bytes: 0,
        blocks: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        mode: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
    };
    file_attr(&none)
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &FuseRequest, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in WANTED {
            if config.add_capabilities(wanted).is_err() {
                log::info!("the kernel has no {wanted:?}");
            }
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _running = self.fs.epoch().enter();
        let parent = NodeNumber(parent.0);
        match self.call(Request::Lookup, |fs| fs.lookup(parent, name.as_bytes())) {
            Ok(Ok(found)) if self.fs.pieces().has(found.attr.number) => {
                let name = name.to_owned();
                self.settled(found.attr.number, move |adapter| {
                    reply_found(
                        adapter.call(Request::Lookup, |fs| fs.lookup(parent, name.as_bytes())),
                        reply,
                    );
                });
            }
            found => reply_found(found, reply),
        }
    }

    fn getattr(&self, _req: &FuseRequest, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let number = NodeNumber(ino.0);
        self.settled(number, move |adapter| match adapter.call(Request::Getattr, |fs| fs.getattr(number)) {
            Ok(timed) if timed.ttl.is_zero() && Growth::is_about(number) => {
                adapter.attr_when_whole(number, reply);
            }
            Ok(timed) => reply.attr(&timed.ttl, &file_attr(&timed.value)),
            Err(errno) => reply.error(errno),
        });
    }

    fn readlink(&self, _req: &FuseRequest, ino: INodeNo, reply: ReplyData) {
        let _running = self.fs.epoch().enter();
        match self.call(Request::Readlink, |fs| fs.readlink(NodeNumber(ino.0))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &FuseRequest, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(self.unsupported(Request::Open));
    }

    fn opendir(&self, _req: &FuseRequest, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(self.unsupported(Request::Opendir));
    }

    fn flush(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(self.unsupported(Request::Other));
    }

    fn read(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.settled(NodeNumber(ino.0), move |adapter| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let read = |fs: &Fs| fs.read_into(NodeNumber(ino.0), offset, size as usize, buffer);
                match adapter.call(Request::Read, read) {
                    Ok(count) => reply.data(&buffer[..count]),
                    Err(errno) => reply.error(errno),
                }
                if buffer.len() > READ_BYTES_KEPT {
                    *buffer = Vec::new();
                }
            });
        });
    }

    fn readdir(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _running = self.fs.epoch().enter();
        let listed = self.call(Request::Readdir, |fs| {
            fs.readdir(NodeNumber(ino.0), offset as i64, false, &mut |entry| {
                let kind = file_type(entry.kind);
                !reply.add(INodeNo(entry.number.0), entry.cookie as u64, kind, OsStr::from_bytes(&entry.name))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _running = self.fs.epoch().enter();
        let listed = self.call(Request::ReaddirPlus, |fs| {
            fs.readdir(NodeNumber(ino.0), offset as i64, true, &mut |entry| {
                // One lifetime serves name and attributes here.
                let (ttl, attr) = match entry.found {
                    Some(found) => (found.entry_ttl.min(found.attr_ttl), file_attr(&found.attr)),
                    None => {
                        (Duration::ZERO, FileAttr { ino: INodeNo(entry.number.0), ..no_attr(entry.kind) })
                    }
                };
                let (number, name) = (INodeNo(entry.number.0), OsStr::from_bytes(&entry.name));
                !reply.add(number, entry.cookie as u64, name, &ttl, &attr, GENERATION)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mtime = mtime.map(timespec);
        let wanted = Wanted { size_bytes: size, mode, uid, gid, mtime };
        let work = |fs: &Fs| fs.setattr(NodeNumber(ino.0), &wanted);
        self.change(Request::Setattr, &[ino], work, move |done| match done {
            Ok(timed) => reply.attr(&Duration::ZERO, &file_attr(&timed.value)),
            Err(errno) => reply.error(errno),
        });
    }

    fn mknod(
        &self,
        _req: &FuseRequest,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            log::info!("{name:?} is not made: there are only regular files, folders of days and names");
            return reply.error(Errno::EPERM);
        }
        let work = |fs: &Fs| fs.mknod(NodeNumber(parent.0), name.as_bytes(), mode);
        self.change(Request::Mknod, &[parent], work, move |made| reply_made(made, reply));
    }

    fn mkdir(
        &self,
        _req: &FuseRequest,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let work = |fs: &Fs| fs.mkdir(NodeNumber(parent.0), name.as_bytes());
        self.change(Request::Mkdir, &[parent], work, move |made| reply_made(made, reply));
    }

    fn symlink(&self, _req: &FuseRequest, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let work = |fs: &Fs| fs.symlink(NodeNumber(parent.0), name.as_bytes(), target);
        self.change(Request::Symlink, &[parent], work, move |made| reply_made(made, reply));
    }

    fn unlink(&self, _req: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let work = |fs: &Fs| fs.unlink(NodeNumber(parent.0), name.as_bytes());
        self.change(Request::Unlink, &[parent], work, move |done| reply_done(done, reply));
    }

    fn rmdir(&self, _req: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let work = |fs: &Fs| fs.rmdir(NodeNumber(parent.0), name.as_bytes());
        self.change(Request::Unlink, &[parent], work, move |done| reply_done(done, reply));
    }

    fn rename(
        &self,
        _req: &FuseRequest,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.intersects(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_WHITEOUT) {
            log::info!("{name:?} is not exchanged: only plain renames, replacing or not, are done");
            return reply.error(Errno::EINVAL);
        }
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (from, to) = (NodeNumber(parent.0), NodeNumber(newparent.0));
        let work = |fs: &Fs| fs.rename(from, name.as_bytes(), to, newname.as_bytes(), no_replace);
        self.change(Request::Rename, &[parent, newparent], work, move |done| reply_done(done, reply));
    }

    fn write(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: fuser::WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let append = flags.0 & libc::O_APPEND != 0;
        let work = |fs: &Fs| fs.write(NodeNumber(ino.0), offset, data, append);
        let fs = self.fs.clone();
        self.change(Request::Write, &[ino], work, move |done| match done {
            Ok(count) => {
                fs.growth.written(NodeNumber(ino.0), offset, offset + count as u64);
                reply.written(count as u32);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn fsync(&self, _req: &FuseRequest, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        if self.fs.is_read_only() {
            return reply.error(self.unsupported(Request::Other));
        }
        let work = |fs: &Fs| fs.fsync(NodeNumber(ino.0), datasync);
        self.change(Request::Fsync, &[ino], work, move |done| reply_done(done, reply));
    }

    fn fsyncdir(&self, _req: &FuseRequest, ino: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        if self.fs.is_read_only() {
            return reply.error(self.unsupported(Request::Other));
        }
        let _running = self.fs.epoch().enter();
        reply_done(self.call(Request::Fsync, |fs| fs.fsyncdir(NodeNumber(ino.0))), reply);
    }

    fn create(
        &self,
        _req: &FuseRequest,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        // The kernel makes the node and opens it by itself from then on.
        reply.error(self.unsupported(Request::Other));
    }

    fn statfs(&self, _req: &FuseRequest, _ino: INodeNo, reply: ReplyStatfs) {
        match self.call(Request::Statfs, Fs::statfs) {
            Ok(space) => {
                let disk = space.0;
                reply.statfs(
                    disk.f_blocks,
                    disk.f_bfree,
                    disk.f_bavail,
                    disk.f_files,
                    disk.f_ffree,
                    disk.f_bsize as u32,
                    NAME_BYTES_MAX,
                    disk.f_frsize as u32,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _req: &FuseRequest, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(self.unsupported(Request::Xattr));
    }

    fn listxattr(&self, _req: &FuseRequest, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(self.unsupported(Request::Xattr));
    }

    fn link(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.fs.counters().count(Request::Other);
        log::info!("no hard link {newname:?} is made: a thread is one file; ln -s in by-name names it");
        reply.error(Errno::EPERM);
    }

    fn setxattr(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.unsupported(Request::Xattr));
    }

    fn removexattr(&self, _req: &FuseRequest, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.unsupported(Request::Xattr));
    }

    fn access(&self, _req: &FuseRequest, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // With default_permissions the kernel decides by the modes and does not ask.
        reply.error(self.unsupported(Request::Other));
    }

    // What follows the kernel does by itself once it was told ENOSYS; fuser's own answer is the same with a warning.

    fn lseek(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(self.unsupported(Request::Other));
    }

    fn ioctl(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(self.unsupported(Request::Other));
    }

    fn poll(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(self.unsupported(Request::Other));
    }
}
