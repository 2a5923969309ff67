//! What can a shell not measure? Small programs for `scripts/bench.sh` and `scripts/scale.sh`, for development only:
//! reads and writes of one kind in one process, look-ups timed one by one, and a filesystem that answers from memory.
//!
//! ```text
//! bench_tool seq FILE                    reads it from first to last byte, 1 MiB a call
//! bench_tool random FILE COUNT           reads 4 KiB at COUNT places
//! bench_tool mmap FILE                   maps it and adds up its bytes
//! bench_tool append FILE LINES [fsync]   appends lines, a write (and an fsync) each
//! bench_tool fill DIR COUNT              makes COUNT threads in the day DIR, four writes each
//! bench_tool stat DIR COUNT              looks up COUNT entries of DIR, each in a cold directory; microseconds each
//! bench_tool stub SOURCE MOUNTPOINT      mounts a copy of SOURCE's names and bytes, answered from memory
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyXattr, Request,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of a large read.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of a small one.
const PAGE_BYTES: usize = 4096;
/// Lifetime of what the stub says: it never changes.
const TTL: Duration = Duration::from_secs(3600);

fn main() -> Outcome<()> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let texts: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    match texts[..] {
        ["seq", file] => seq(file),
        ["random", file, count] => random(file, count.parse()?),
        ["mmap", file] => mmap(file),
        ["append", file, lines] => append(file, lines.parse()?, false),
        ["append", file, lines, "fsync"] => append(file, lines.parse()?, true),
        ["fill", dir, count] => fill(Path::new(dir), count.parse()?),
        ["stat", dir, count] => stat(Path::new(dir), count.parse()?),
        ["stub", source, mountpoint] => stub(Path::new(source), Path::new(mountpoint)),
        _ => Err("which of seq, random, mmap, append, fill, stat, stub? See the head of the source".into()),
    }
}

// ---- reading -----------------------------------------------------------------------------------

fn seq(file: &str) -> Outcome<()> {
    let mut file = File::open(file)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

/// A small generator of numbers that is the same in every run.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 17
}

fn random(file: &str, count: u64) -> Outcome<()> {
    let file = File::open(file)?;
    let pages = (file.metadata()?.len() / PAGE_BYTES as u64).max(1);
    let mut page = vec![0; PAGE_BYTES];
    let mut state = 7;
    for _ in 0..count {
        file.read_at(&mut page, next(&mut state) % pages * PAGE_BYTES as u64)?;
    }
    Ok(())
}

fn mmap(file: &str) -> Outcome<()> {
    let map = Map::of(&File::open(file)?)?;
    let sum: u64 = map.bytes().chunks(PAGE_BYTES).map(|page| u64::from(page[0])).sum();
    println!("{sum}");
    Ok(())
}

/// A file's bytes, mapped.
struct Map {
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping is read-only and lives as long as the value, which alone owns it.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn of(file: &File) -> Outcome<Map> {
        use std::os::fd::AsRawFd;
        let length = file.metadata()?.len() as usize;
        if length == 0 {
            return Ok(Map { start: std::ptr::null_mut(), length });
        }
        // SAFETY: a new read-only mapping of an open file, at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            Err(std::io::Error::last_os_error().into())
        } else {
            Ok(Map { start, length })
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: the mapping has this length and lives as long as `self`; nobody shortens the files of a benchmark.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the mapping is ours and nothing refers to it any more.
            unsafe { libc::munmap(self.start, self.length) };
        }
    }
}

// ---- writing -----------------------------------------------------------------------------------

fn line(number: u64) -> String {
    format!(
        "{{\"timestamp\":\"2026-11-28T10:00:00.000Z\",\"type\":\"response_item\",\"payload\":{{\"type\":\"message\",\"role\":\"assistant\",\
         \"content\":[{{\"type\":\"output_text\",\"text\":\"line {number} of a benchmark\"}}]}}}}\n"
    )
}

fn append(file: &str, lines: u64, sync: bool) -> Outcome<()> {
    let mut file = OpenOptions::new().append(true).open(file)?;
    for number in 0..lines {
        file.write_all(line(number).as_bytes())?;
        if sync {
            file.sync_all()?;
        }
    }
    Ok(())
}

fn fill(dir: &Path, count: u64) -> Outcome<()> {
    std::fs::create_dir_all(dir)?;
    let day: Vec<_> = dir.iter().rev().take(3).map(|part| part.to_string_lossy().into_owned()).collect();
    let day = format!("{}-{}-{}", day[2], day[1], day[0]);
    let base = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
    for number in 0..count {
        let id = format!("{:08x}-{:04x}-7000-8000-{:012x}", base >> 16 & 0xffff_ffff, base & 0xffff, number);
        let (hour, minute, second) = (number / 3600 % 24, number / 60 % 60, number % 60);
        let name = format!("rollout-{day}T{hour:02}-{minute:02}-{second:02}-{id}.jsonl");
        let mut file = OpenOptions::new().create_new(true).append(true).open(dir.join(name))?;
        let stamp = format!("{day}T{hour:02}:{minute:02}:{second:02}.000Z");
        let header = format!(
            "{{\"timestamp\":\"{stamp}\",\"type\":\"session_meta\",\"payload\":{{\"id\":\"{id}\",\"timestamp\":\"{stamp}\",\"cwd\":\"/srv/bench\",\
             \"originator\":\"bench\",\"cli_version\":\"0.1.0\",\"source\":\"cli\"}}}}\n"
        );
        let said = format!(
            "{{\"timestamp\":\"{stamp}\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"user_message\",\"message\":\"thread {number}\"}}}}\n"
        );
        for text in [header, said, line(1), line(2)] {
            file.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

// ---- look-ups ----------------------------------------------------------------------------------

/// Prints the median, the 99th in a hundred and the longest of `count` look-ups in `dir`, in microseconds, of names on standard
/// input. The caller gives a folder that was just mounted, of which the kernel knows nothing, and names from elsewhere; a few of
/// those may be none of the folder's, which is not counted.
fn stat(dir: &Path, count: usize) -> Outcome<()> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    let names: Vec<PathBuf> = text
        .split(|&byte| byte == b'\n')
        .filter(|name| !name.is_empty())
        .take(count)
        .map(|name| dir.join(OsStr::from_bytes(name)))
        .collect();
    let mut times = Vec::with_capacity(names.len());
    for name in &names {
        let start = Instant::now();
        let found = std::fs::symlink_metadata(name);
        let took = start.elapsed();
        if found.is_ok() {
            times.push(took);
        }
    }
    if times.len() * 2 < names.len() || times.is_empty() {
        return Err(format!("{} of {} names are in {}", times.len(), names.len(), dir.display()).into());
    }
    times.sort();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len() - 1)).copied();
    let micros = |time: Option<Duration>| time.unwrap_or_default().as_nanos() as f64 / 1000.0;
    println!("{:.0}, {:.0}, {:.0}", micros(at(50)), micros(at(99)), micros(at(100)));
    Ok(())
}

// ---- the stub ----------------------------------------------------------------------------------

struct StubNode {
    attr: FileAttr,
    parent: usize,
    /// Of a folder: names and nodes, in the order in which they are listed.
    listed: Vec<(OsString, usize)>,
    names: HashMap<OsString, usize>,
    bytes: Option<Map>,
}

/// A filesystem that is asked as rolloutfs is and has every answer ready: what the kernel's part costs.
struct Stub {
    nodes: Vec<StubNode>,
}

impl Stub {
    fn add(&mut self, path: &Path, parent: usize) -> Outcome<usize> {
        let disk = path.symlink_metadata()?;
        let number = self.nodes.len();
        let kind = if disk.is_dir() { FileType::Directory } else { FileType::RegularFile };
        let mtime = disk.modified()?;
        let attr = FileAttr {
            ino: INodeNo(number as u64 + 1),
            size: disk.len(),
            blocks: disk.blocks(),
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind,
            perm: disk.mode() as u16 & 0o7777,
            nlink: disk.nlink() as u32,
            uid: disk.uid(),
            gid: disk.gid(),
            rdev: 0,
            blksize: PAGE_BYTES as u32,
            flags: 0,
        };
        let bytes = if disk.is_file() { Some(Map::of(&File::open(path)?)?) } else { None };
        self.nodes.push(StubNode { attr, parent, listed: Vec::new(), names: HashMap::new(), bytes });
        if disk.is_dir() {
            let mut names: Vec<_> = std::fs::read_dir(path)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<Result<_, _>>()?;
            names.sort();
            for name in names {
                let metadata = path.join(&name).symlink_metadata()?;
                // As in the tree below a home: only `sessions` and `archived_sessions`, files and folders.
                let hidden =
                    parent == number && !matches!(name.as_bytes(), b"sessions" | b"archived_sessions");
                if hidden || !(metadata.is_dir() || metadata.is_file()) {
                    continue;
                }
                let child = self.add(&path.join(&name), number)?;
                self.nodes[number].listed.push((name.clone(), child));
                self.nodes[number].names.insert(name, child);
            }
        }
        Ok(number)
    }

    fn node(&self, number: INodeNo) -> Option<&StubNode> {
        self.nodes.get(usize::try_from(number.0).ok()?.checked_sub(1)?)
    }

    /// What is listed from a position on, `.` and `..` first.
    fn listing<'a>(
        &'a self,
        node: &'a StubNode,
        from: u64,
    ) -> impl Iterator<Item = (u64, &'a OsStr, &'a FileAttr)> {
        let dots = [(OsStr::new("."), &node.attr), (OsStr::new(".."), &self.nodes[node.parent].attr)];
        let rest = node.listed.iter().map(|(name, child)| (name.as_os_str(), &self.nodes[*child].attr));
        let all = dots.into_iter().chain(rest).enumerate();
        all.skip(from as usize).map(|(at, (name, attr))| (at as u64 + 1, name, attr))
    }
}

impl Filesystem for Stub {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in [
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DO_READDIRPLUS,
        ] {
            // What the kernel does not have is not asked for.
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.node(parent).and_then(|node| node.names.get(name));
        match found {
            Some(&child) => reply.entry(&TTL, &self.nodes[child].attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Some(node) => reply.attr(&TTL, &node.attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(map) = self.node(ino).and_then(|node| node.bytes.as_ref()) else {
            return reply.error(Errno::EISDIR);
        };
        let start = (offset as usize).min(map.length);
        let end = start.saturating_add(size as usize).min(map.length);
        reply.data(&map.bytes()[start..end]);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(node) = self.node(ino) else { return reply.error(Errno::ENOENT) };
        for (next, name, attr) in self.listing(node, offset) {
            if reply.add(attr.ino, next, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(node) = self.node(ino) else { return reply.error(Errno::ENOENT) };
        for (next, name, attr) in self.listing(node, offset) {
            if reply.add(attr.ino, next, name, &TTL, attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}

fn stub(source: &Path, mountpoint: &Path) -> Outcome<()> {
    let mut stub = Stub { nodes: Vec::new() };
    stub.add(source, 0)?;
    let mut config = fuser::Config::default();
    config.mount_options =
        vec![MountOption::FSName("stub".into()), MountOption::DefaultPermissions, MountOption::RO];
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    config.n_threads = Some(threads.clamp(2, 8));
    config.clone_fd = true;
    fuser::mount(stub, mountpoint, &config)?;
    Ok(())
}
