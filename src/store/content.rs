//! Where are the bytes of a rollout, plain or compressed, and how are they read at an offset?
//!
//! A rollout is named by its plain path; on disk it may be `<plain>.zst` (spec 1.5). Compressed ones are
//! decoded once into a bounded folder. Depends on `error` only.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use xxhash_rust::xxh3::xxh3_64;
use zstd::zstd_safe;

use super::error::{Result, StoreError};

/// How often a rollout that is not found is looked for again: it may be between plain and compressed.
pub const SWAP_RETRIES_MAX: u32 = 3;
/// The pause before each of these looks.
pub const SWAP_PAUSE_MS: u64 = 50;
/// How often a compressed file that changes while it is decoded is opened again.
const CHANGED_RETRIES_MAX: u32 = 3;
/// How many blocks are walked to find the size that frames state; above it, decoding tells.
const STATED_BLOCKS_MAX: u32 = 1 << 20;
/// The longest header of a zstd frame (RFC 8878, 3.1.1.1, with the magic number).
const FRAME_HEADER_BYTES_MAX: usize = 18;
/// The shortest header of a zstd frame.
const FRAME_HEADER_BYTES_MIN: usize = 6;
const COPY_BUFFER_BYTES: usize = 128 * 1024;
/// What an entry of the cache is counted as at least, so that small ones are bounded too.
const ENTRY_BYTES_MIN: u64 = 4096;
const CACHE_FOLDER_MODE: u32 = 0o700;
const CACHE_FILE_MODE: u32 = 0o600;

/// How the bytes of a rollout lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// As zstd frames.
    Zstd,
}

/// A rollout as it was found on disk.
#[derive(Debug, Clone)]
pub struct Located {
    /// The file on disk: the plain path, or that with `.zst` behind it.
    pub path: PathBuf,
    /// How its bytes lie there.
    pub encoding: Encoding,
    /// What the system says of that file.
    pub stat: Metadata,
}

/// The path that the rollout `logical` has when it is compressed.
pub fn compressed_path(logical: &Path) -> PathBuf {
    let mut path = logical.as_os_str().to_owned();
    path.push(".zst");
    PathBuf::from(path)
}

/// Finds the rollout whose plain path is `logical`: plain wins, else `.zst`. Only regular files count,
/// links do not. What is not found is looked for again for [`SWAP_RETRIES_MAX`] pauses.
///
/// # Errors
/// [`StoreError::NotFound`], or [`StoreError::Io`] when the system refuses to look.
pub fn locate(logical: &Path) -> Result<Located> {
    Ok(find(logical, &look_at, &mut swap_pause)?.0)
}

/// As [`locate`], without waiting.
///
/// # Errors
/// As [`locate`].
pub fn locate_now(logical: &Path) -> Result<Located> {
    let found = find_once(logical, &look_at)?;
    Ok(found.ok_or_else(|| not_found(logical))?.0)
}

fn swap_pause() {
    std::thread::sleep(Duration::from_millis(SWAP_PAUSE_MS));
}

fn not_found(path: &Path) -> StoreError {
    StoreError::NotFound { what: path.display().to_string() }
}

/// Looks at one path: None when no regular file is there.
type Look<T> = dyn Fn(&Path) -> io::Result<Option<(Metadata, T)>>;

fn look_at(path: &Path) -> io::Result<Option<(Metadata, ())>> {
    let stat = fs::symlink_metadata(path)?;
    Ok(stat.is_file().then_some((stat, ())))
}

fn open_at(path: &Path) -> io::Result<Option<(Metadata, File)>> {
    // O_NONBLOCK: a named pipe must not hang us before its type is known.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let stat = file.metadata()?;
    Ok(stat.is_file().then_some((stat, file)))
}

/// Whether `error` says that no regular file is there.
fn says_absent(error: &io::Error) -> bool {
    let socket_or_link = [Some(libc::ENXIO), Some(libc::ELOOP)].contains(&error.raw_os_error());
    socket_or_link || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn find_once<T>(logical: &Path, look: &Look<T>) -> Result<Option<(Located, T)>> {
    let candidates = [(logical.to_owned(), Encoding::Plain), (compressed_path(logical), Encoding::Zstd)];
    for (path, encoding) in candidates {
        match look(&path) {
            Ok(Some((stat, found))) => return Ok(Some((Located { path, encoding, stat }, found))),
            Ok(None) => {}
            Err(error) if says_absent(&error) => {}
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        }
    }
    Ok(None)
}

/// `pause` is what passes the time before another look.
fn find<T>(logical: &Path, look: &Look<T>, pause: &mut dyn FnMut()) -> Result<(Located, T)> {
    for _ in 0..SWAP_RETRIES_MAX {
        if let Some(found) = find_once(logical, look)? {
            return Ok(found);
        }
        pause();
    }
    find_once(logical, look)?.ok_or_else(|| not_found(logical))
}

/// Opens one file on disk; no regular file there is [`StoreError::NotFound`].
fn open_on_disk(path: &Path) -> Result<File> {
    match open_at(path) {
        Ok(Some((_, file))) => Ok(file),
        Ok(None) => Err(not_found(path)),
        Err(error) if says_absent(&error) => Err(not_found(path)),
        Err(error) => Err(StoreError::io("open", path)(error)),
    }
}

/// The decoded bytes of `located`, first to last. Nothing is kept. An error of the reader belongs through
/// [`read_error`]; a compressed file that is cut ends in an error, never in a short success.
///
/// # Errors
/// [`StoreError::NotFound`] when the file is gone by now, else [`StoreError::Io`].
pub fn open_decoded_reader(located: &Located) -> Result<Box<dyn Read + Send>> {
    let file = open_on_disk(&located.path)?;
    match located.encoding {
        Encoding::Plain => Ok(Box::new(file)),
        Encoding::Zstd => {
            let decoder = zstd::Decoder::new(file).map_err(StoreError::io("decompress", &located.path))?;
            Ok(Box::new(decoder))
        }
    }
}

/// What an error of a reader of `located` means: the decoder's are damage, the system's are I/O.
pub fn read_error(located: &Located, error: io::Error) -> StoreError {
    if located.encoding == Encoding::Plain || error.raw_os_error().is_some() {
        return StoreError::io("read", &located.path)(error);
    }
    damaged(&located.path, &error)
}

fn damaged(path: &Path, reason: &dyn ToString) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

/// The decoded size of the `.zst` file `path` in bytes, by decoding all of it. Nothing is kept.
///
/// # Errors
/// [`StoreError::Damaged`] when it does not decode to its end; [`StoreError::NotFound`], [`StoreError::Io`].
pub fn decoded_size(path: &Path) -> Result<u64> {
    let file = open_on_disk(path)?;
    decode(&file, &mut io::sink()).map_err(|failure| match failure {
        DecodeFailure::Source(error) | DecodeFailure::Sink(error) => StoreError::io("read", path)(error),
        DecodeFailure::Damaged(reason) => damaged(path, &reason),
    })
}

/// The decoded size of the `.zst` file `path` in bytes, without decoding: Some when every frame states it
/// and the blocks end where the file does. None is not yet damage: decoding tells.
///
/// # Errors
/// [`StoreError::NotFound`] or [`StoreError::Io`].
pub fn decoded_size_stated(path: &Path) -> Result<Option<u64>> {
    let file = open_on_disk(path)?;
    stated_size(&file).map_err(StoreError::io("read", path))
}

fn stated_size(file: &File) -> io::Result<Option<u64>> {
    let end = file.metadata()?.len();
    let (mut offset, mut total_bytes, mut blocks_left) = (0, 0_u64, STATED_BLOCKS_MAX);
    while offset < end {
        let Some((next, frame_bytes)) = walk_frame(file, offset, &mut blocks_left)? else { return Ok(None) };
        let Some(sum) = total_bytes.checked_add(frame_bytes) else { return Ok(None) };
        (offset, total_bytes) = (next, sum);
    }
    Ok((end > 0 && offset == end).then_some(total_bytes))
}

/// Where the frame at `offset` ends, and the size it states. None when it states none or is not whole.
fn walk_frame(file: &File, offset: u64, blocks_left: &mut u32) -> io::Result<Option<(u64, u64)>> {
    let mut header = [0; FRAME_HEADER_BYTES_MAX];
    let length = read_fully_at(file, &mut header, offset)?;
    if length < FRAME_HEADER_BYTES_MIN {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h, ..] = header;
    if u32::from_le_bytes([a, b, c, d]) & !0xf == zstd_safe::zstd_sys::ZSTD_MAGIC_SKIPPABLE_START {
        let content_bytes = u64::from(u32::from_le_bytes([e, f, g, h]));
        return Ok((length >= 8).then_some((offset + 8 + content_bytes, 0)));
    }
    let Ok(Some(frame_bytes)) = zstd_safe::get_frame_content_size(&header[..length]) else { return Ok(None) };
    let mut offset = offset + frame_header_bytes(e);
    loop {
        let mut block = [0; 3];
        if *blocks_left == 0 || read_fully_at(file, &mut block, offset)? < block.len() {
            return Ok(None);
        }
        *blocks_left -= 1;
        let block = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        let content_bytes = match block >> 1 & 3 {
            1 => 1, // one byte, repeated
            3 => return Ok(None),
            _ => block >> 3,
        };
        offset += 3 + u64::from(content_bytes);
        if block & 1 == 1 {
            break;
        }
    }
    let checksum_bytes = if e & 4 == 0 { 0 } else { 4 };
    Ok(Some((offset + checksum_bytes, frame_bytes)))
}

/// The length of a frame header, magic number included, from its descriptor byte (RFC 8878, 3.1.1.1.1).
fn frame_header_bytes(descriptor: u8) -> u64 {
    let single_segment = descriptor & 0x20 != 0;
    let window_bytes = if single_segment { 0 } else { 1 };
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = match descriptor >> 6 {
        0 => u64::from(single_segment),
        flag => 1 << flag,
    };
    5 + window_bytes + dictionary_bytes + size_bytes
}

/// Fills `buffer` from `offset` as far as the file goes.
fn read_fully_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Which side of a decode failed.
#[derive(Debug)]
enum DecodeFailure {
    Source(io::Error),
    Sink(io::Error),
    Damaged(String),
}

/// Decodes all frames of `source` from its cursor on. Answers the decoded size. Checksums are verified, and
/// the last frame must be whole.
fn decode(source: &File, sink: &mut dyn Write) -> std::result::Result<u64, DecodeFailure> {
    let mut decoder = zstd::Decoder::new(source).map_err(DecodeFailure::Source)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut decoded_bytes = 0;
    loop {
        let length = match decoder.read(&mut buffer) {
            Ok(0) => return Ok(decoded_bytes),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error().is_some() => return Err(DecodeFailure::Source(error)),
            Err(error) => return Err(DecodeFailure::Damaged(error.to_string())),
        };
        sink.write_all(&buffer[..length]).map_err(DecodeFailure::Sink)?;
        decoded_bytes += length as u64;
    }
}

/// The bytes of a rollout, open. It stays readable when the file is replaced, removed or evicted.
#[derive(Debug, Clone)]
pub struct Content {
    /// The rollout itself, or its decoded copy.
    pub file: Arc<File>,
    /// The decoded size when it is compressed on disk; None for a plain one, which may grow.
    pub size_bytes: Option<u64>,
    /// Where it was found, and as what.
    pub located: Located,
}

impl Content {
    /// Fills `buffer` from `offset`; less than all only at the end of the rollout.
    ///
    /// # Errors
    /// The system's.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_fully_at(&self.file, buffer, offset)
    }
}

/// Which compressed file a decoded copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    compressed_bytes: u64,
    mtime_ns: i128,
}

impl Key {
    fn of(stat: &Metadata) -> Key {
        Key {
            device: stat.dev(),
            inode: stat.ino(),
            compressed_bytes: stat.len(),
            mtime_ns: i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()),
        }
    }
}

/// The name of a decoded copy in the cache folder. It carries the boot, because a copy is not synced: after
/// a power cut its size may be right and its bytes not.
fn copy_name(boot: u64, key: &Key, decoded_bytes: u64) -> String {
    let Key { device, inode, compressed_bytes, mtime_ns } = key;
    format!("{boot:x}-{device:x}-{inode:x}-{compressed_bytes:x}-{mtime_ns:x}-{decoded_bytes:x}.jsonl")
}

/// The boot, the key and the decoded size in a name made by [`copy_name`].
fn parse_copy_name(name: &str) -> Option<(u64, Key, u64)> {
    let mut parts = name.strip_suffix(".jsonl")?.split('-');
    let mut number = || u128::from_str_radix(parts.next()?, 16).ok();
    let mut small = || u64::try_from(number()?).ok();
    let (boot, device, inode, compressed_bytes) = (small()?, small()?, small()?, small()?);
    // As `{:x}` writes it: in two's complement.
    let mtime_ns = number()? as i128;
    let decoded_bytes = u64::try_from(number()?).ok()?;
    let key = Key { device, inode, compressed_bytes, mtime_ns };
    (copy_name(boot, &key, decoded_bytes) == name).then_some((boot, key, decoded_bytes))
}

const TEMPORARY_PREFIX: &str = "decode-";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// A number for this boot of the machine; None where the system does not tell.
fn this_boot() -> Option<u64> {
    fs::read("/proc/sys/kernel/random/boot_id").ok().map(|text| xxh3_64(&text))
}

/// The copies held, least recently used first out.
#[derive(Debug)]
struct Copies {
    /// Decoded size by key.
    held: LruCache<Key, u64>,
    held_bytes: u64,
    decoding: HashMap<Key, Arc<Mutex<Option<Outcome>>>>,
}

fn charge_bytes(decoded_bytes: u64) -> u64 {
    decoded_bytes.max(ENTRY_BYTES_MIN)
}

impl Copies {
    fn remove(&mut self, key: &Key) {
        if let Some(decoded_bytes) = self.held.pop(key) {
            self.held_bytes -= charge_bytes(decoded_bytes);
        }
    }

    /// Puts a copy in as the newest and takes the oldest out until the rest fits. The newest stays, whatever
    /// its size. Answers what was taken out.
    fn insert(&mut self, key: Key, decoded_bytes: u64, bytes_max: u64) -> Vec<(Key, u64)> {
        self.remove(&key);
        self.held.put(key, decoded_bytes);
        self.held_bytes += charge_bytes(decoded_bytes);
        let mut evicted = Vec::new();
        while self.held_bytes > bytes_max && self.held.len() > 1 {
            let Some((old, old_bytes)) = self.held.pop_lru() else { break };
            self.held_bytes -= charge_bytes(old_bytes);
            evicted.push((old, old_bytes));
        }
        evicted
    }
}

/// How a decode ended, for those who waited for it.
#[derive(Debug, Clone)]
enum Outcome {
    Decoded(Arc<File>, u64),
    Damaged(String),
}

/// What a [`ContentCache`] holds and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUsage {
    /// Decoded copies on disk.
    pub copies_count: u64,
    /// What they count as against the limit; small ones are rounded up.
    pub held_bytes: u64,
    /// Decodes begun since the start.
    pub decodes_count: u64,
}

/// Opens rollouts at any offset; keeps the decoded copies of compressed ones in a folder, bounded by bytes.
///
/// Locks: the one of a decode, which is held while it runs, then `copies`, never while a file is read or
/// written.
#[derive(Debug)]
pub struct ContentCache {
    folder: PathBuf,
    bytes_max: u64,
    boot: Option<u64>,
    copies: Mutex<Copies>,
    decodes_count: AtomicU64,
    temporaries_count: AtomicU64,
}

impl ContentCache {
    /// A cache in `folder`, which is made when it is first needed. Copies that an earlier run left there are
    /// taken over, the newest first, as far as they fit into `bytes_max`; those it cannot trust are removed.
    pub fn new(folder: PathBuf, bytes_max: u64) -> Self {
        let held = LruCache::unbounded();
        let cache = ContentCache {
            folder,
            bytes_max,
            boot: this_boot(),
            copies: Mutex::new(Copies { held, held_bytes: 0, decoding: HashMap::new() }),
            decodes_count: AtomicU64::new(0),
            temporaries_count: AtomicU64::new(0),
        };
        match cache.adopt() {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("cannot read the cache {}: {error}", cache.folder.display());
            }
            _ => {}
        }
        cache
    }

    /// What the cache holds and did.
    pub fn usage(&self) -> CacheUsage {
        let copies = self.copies();
        CacheUsage {
            copies_count: copies.held.len() as u64,
            held_bytes: copies.held_bytes,
            decodes_count: self.decodes_count.load(Ordering::Relaxed),
        }
    }

    /// Opens the rollout whose plain path is `logical`, decoding it first when it is compressed and no copy
    /// is there. Threads that ask for one file at once wait for one decode.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Damaged`] when it does not decode to its end;
    /// [`StoreError::Io`], naming the cache folder when that is what failed (a full disk).
    pub fn open(&self, logical: &Path) -> Result<Content> {
        for _ in 0..CHANGED_RETRIES_MAX {
            let (located, file) = find(logical, &open_at, &mut swap_pause)?;
            if located.encoding == Encoding::Plain {
                return Ok(Content { file: Arc::new(file), size_bytes: None, located });
            }
            if let Some((file, decoded_bytes)) = self.decoded(&file, &located)? {
                return Ok(Content { file, size_bytes: Some(decoded_bytes), located });
            }
        }
        let reason = io::Error::new(ErrorKind::ResourceBusy, "it changes while it is decompressed");
        Err(StoreError::io("decompress", &compressed_path(logical))(reason))
    }

    fn copies(&self) -> MutexGuard<'_, Copies> {
        // No step under this lock leaves it half done, so a panic elsewhere does not matter.
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier run left.
    fn adopt(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX) {
                remove_abandoned(&entry.path());
                continue;
            }
            // Files that are not ours are left alone.
            let Some((boot, key, decoded_bytes)) = parse_copy_name(&name) else { continue };
            let stat = entry.metadata()?;
            if Some(boot) == self.boot && stat.is_file() && stat.len() == decoded_bytes {
                found.push(((stat.mtime(), stat.mtime_nsec()), key, decoded_bytes));
            } else {
                remove_quietly(&entry.path());
            }
        }
        found.sort_by_key(|(mtime, ..)| *mtime);
        for (_, key, decoded_bytes) in found {
            self.keep(key, decoded_bytes);
        }
        Ok(())
    }

    fn copy_path(&self, key: &Key, decoded_bytes: u64) -> PathBuf {
        self.folder.join(copy_name(self.boot.unwrap_or(0), key, decoded_bytes))
    }

    fn keep(&self, key: Key, decoded_bytes: u64) {
        let evicted = self.copies().insert(key, decoded_bytes, self.bytes_max);
        // Should one of them be decoded again just now, its new copy goes too, and is made once more.
        for (old, old_bytes) in evicted {
            remove_quietly(&self.copy_path(&old, old_bytes));
        }
    }

    /// The copy of `key` if there is one.
    fn cached(&self, key: &Key) -> Option<(Arc<File>, u64)> {
        let decoded_bytes = *self.copies().held.get(key)?;
        if let Ok(Some((stat, file))) = open_at(&self.copy_path(key, decoded_bytes))
            && stat.len() == decoded_bytes
        {
            return Some((Arc::new(file), decoded_bytes));
        }
        // Somebody emptied the folder.
        self.copies().remove(key);
        None
    }

    /// The decoded copy of `source`. None when `source` changed while it was decoded.
    fn decoded(&self, source: &File, located: &Located) -> Result<Option<(Arc<File>, u64)>> {
        let key = Key::of(&located.stat);
        if let Some(hit) = self.cached(&key) {
            return Ok(Some(hit));
        }
        let decoding = Arc::clone(self.copies().decoding.entry(key).or_default());
        let mut outcome = decoding.lock().unwrap_or_else(PoisonError::into_inner);
        match &*outcome {
            Some(Outcome::Decoded(file, decoded_bytes)) => {
                return Ok(Some((Arc::clone(file), *decoded_bytes)));
            }
            Some(Outcome::Damaged(reason)) => return Err(damaged(&located.path, reason)),
            None => {}
        }
        // A decode that ended between the two looks has left its copy.
        let result = match self.cached(&key) {
            Some(hit) => Ok(Some(hit)),
            None => self.decode_copy(source, located, key),
        };
        *outcome = match &result {
            Ok(Some((file, decoded_bytes))) => Some(Outcome::Decoded(Arc::clone(file), *decoded_bytes)),
            Err(StoreError::Damaged { reason, .. }) => Some(Outcome::Damaged(reason.clone())),
            _ => None,
        };
        let mut copies = self.copies();
        if copies.decoding.get(&key).is_some_and(|current| Arc::ptr_eq(current, &decoding)) {
            copies.decoding.remove(&key);
        }
        result
    }

    fn decode_copy(&self, source: &File, located: &Located, key: Key) -> Result<Option<(Arc<File>, u64)>> {
        self.decodes_count.fetch_add(1, Ordering::Relaxed);
        let cache_error = |error| StoreError::io("write decoded rollouts to", &self.folder)(error);
        let temporary = self.create_temporary().map_err(cache_error)?;
        let decoded_bytes = decode(source, &mut &temporary.file).map_err(|failure| match failure {
            DecodeFailure::Source(error) => StoreError::io("read", &located.path)(error),
            DecodeFailure::Sink(error) => cache_error(error),
            DecodeFailure::Damaged(reason) => damaged(&located.path, &reason),
        });
        // Asked before the result counts: a file that changes meanwhile may look damaged.
        let stat = source.metadata().map_err(StoreError::io("stat", &located.path))?;
        if Key::of(&stat) != key {
            return Ok(None);
        }
        let decoded_bytes = decoded_bytes?;
        let published = temporary.publish(&self.copy_path(&key, decoded_bytes)).map_err(cache_error)?;
        let file = match published {
            Some(file) => {
                self.keep(key, decoded_bytes);
                file
            }
            // Somebody emptied the folder. What is open can be read all the same.
            None => temporary.file.try_clone().map_err(cache_error)?,
        };
        Ok(Some((Arc::new(file), decoded_bytes)))
    }

    fn create_temporary(&self) -> io::Result<Temporary> {
        DirBuilder::new().recursive(true).mode(CACHE_FOLDER_MODE).create(&self.folder)?;
        loop {
            let number = self.temporaries_count.fetch_add(1, Ordering::Relaxed);
            let mut name = OsString::from(TEMPORARY_PREFIX);
            name.push(format!("{}-{number}{TEMPORARY_SUFFIX}", std::process::id()));
            let path = self.folder.join(name);
            match OpenOptions::new().read(true).write(true).create_new(true).mode(CACHE_FILE_MODE).open(&path)
            {
                Ok(file) => {
                    let temporary = Temporary { path, file };
                    // The lock tells other runs that it is in use. Where there are no locks, they may remove
                    // it, and then its content is served and not kept.
                    let _ = temporary.file.try_lock();
                    return Ok(temporary);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
        }
    }
}

/// A file that is being decoded into. Dropping it removes it, unless it was published.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Gives the file its final name and opens it for reading. None when it is gone.
    fn publish(&self, path: &Path) -> io::Result<Option<File>> {
        let opened = fs::rename(&self.path, path).and_then(|()| File::open(path));
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After publishing there is nothing of this name.
        remove_quietly(&self.path);
    }
}

/// Removes what a decode left that nobody works on.
fn remove_abandoned(path: &Path) {
    let Ok(Some((_, file))) = open_at(path) else { return };
    if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        remove_quietly(path);
    }
}

/// Removes a file of the cache. One that stays costs space and nothing else.
fn remove_quietly(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Barrier;

    use tempfile::TempDir;

    use super::*;

    const NAME: &str = "rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";

    /// Text that compresses to several blocks.
    fn text(lines_count: usize) -> Vec<u8> {
        (0..lines_count)
            .flat_map(|at| format!("{{\"line\":{at},\"hash\":{}}}\n", at * 7919).into_bytes())
            .collect()
    }

    /// As Codex compresses: a stream whose frame does not state its size.
    fn unsized_frame(content: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn sized_frame(content: &[u8], checksum: bool) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(checksum).unwrap();
        encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    struct Home {
        folder: TempDir,
    }

    impl Home {
        fn new() -> Home {
            Home { folder: TempDir::new().unwrap() }
        }

        fn plain(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write_plain(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.plain(name);
            fs::write(&path, content).unwrap();
            path
        }

        /// Puts the frames in place by rename, as Codex does. Answers the logical path.
        fn write_zst(&self, name: &str, frames: &[u8]) -> PathBuf {
            let path = self.plain(name);
            let temporary = self.folder.path().join(format!("rollout-compress-{name}.tmp"));
            fs::write(&temporary, frames).unwrap();
            fs::rename(temporary, compressed_path(&path)).unwrap();
            path
        }

        fn cache_folder(&self) -> PathBuf {
            self.folder.path().join("state/cache")
        }

        fn cache(&self, bytes_max: u64) -> ContentCache {
            ContentCache::new(self.cache_folder(), bytes_max)
        }

        fn cache_files(&self) -> Vec<String> {
            let Ok(entries) = fs::read_dir(self.cache_folder()) else { return Vec::new() };
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    fn all_of(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 20];
        let length = content.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(length);
        bytes
    }

    fn read_all(cache: &ContentCache, logical: &Path) -> Vec<u8> {
        all_of(&cache.open(logical).unwrap())
    }

    /// Spec 11.6, case 1.
    #[test]
    fn a_compressed_rollout_reads_as_the_plain_one() {
        let (home, content) = (Home::new(), text(20_000));
        let logical = home.write_zst(NAME, &unsized_frame(&content));
        let located = locate(&logical).unwrap();
        assert_eq!((located.encoding, &located.path), (Encoding::Zstd, &compressed_path(&logical)));
        let cache = home.cache(u64::MAX);
        let opened = cache.open(&logical).unwrap();
        assert_eq!(opened.size_bytes, Some(content.len() as u64));
        assert!(all_of(&opened) == content);
        for (offset, length) in [(0, 1), (100_000, 4096), (content.len() - 3, 10), (content.len(), 10)] {
            let mut buffer = vec![0; length];
            let filled = opened.read_at(&mut buffer, offset as u64).unwrap();
            assert_eq!(buffer[..filled], content[offset..(offset + length).min(content.len())]);
        }
        assert!(read_all(&cache, &logical) == content);
        assert_eq!(cache.usage().decodes_count, 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&home.cache_folder()), 0o700);
        assert_eq!(mode(&home.cache_folder().join(&home.cache_files()[0])), 0o600);
        let mut streamed = Vec::new();
        open_decoded_reader(&located).unwrap().read_to_end(&mut streamed).unwrap();
        assert!(streamed == content);
    }

    /// Spec 11.6, case 2.
    #[test]
    fn of_two_the_plain_one_is_read() {
        let home = Home::new();
        home.write_zst(NAME, &unsized_frame(b"old\n"));
        let logical = home.write_plain(NAME, b"new\n");
        assert_eq!(locate_now(&logical).unwrap().encoding, Encoding::Plain);
        let cache = home.cache(0);
        let opened = cache.open(&logical).unwrap();
        assert_eq!((all_of(&opened), opened.size_bytes), (b"new\n".to_vec(), None));
        assert_eq!(
            (cache.usage().decodes_count, home.cache_files().len()),
            (0, 0),
            "the folder is made lazily"
        );
        let mut streamed = Vec::new();
        open_decoded_reader(&opened.located).unwrap().read_to_end(&mut streamed).unwrap();
        assert_eq!(streamed, b"new\n");
    }

    /// Spec 11.6, cases 5 and 6: only the two names of a rollout are looked at.
    #[test]
    fn temporaries_and_other_names_are_not_found() {
        let home = Home::new();
        let others = [
            "rollout-compress-a1B2c3.tmp".to_owned(),
            format!("{NAME}.zst.compress.77.0.tmp"),
            format!("{NAME}.decompress.77.0.tmp"),
            format!("{NAME}.zst.zst"),
            format!("{NAME}.ZST"),
        ];
        for name in others {
            home.write_plain(&name, b"x");
        }
        let logical = home.plain(NAME);
        assert!(matches!(locate_now(&logical), Err(StoreError::NotFound { .. })));
        assert!(matches!(home.cache(0).open(&logical), Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn only_regular_files_count() {
        let home = Home::new();
        let target = home.write_plain("target", b"secret\n");
        let (link, folder, pipe) = (home.plain("link"), home.plain("folder"), home.plain("pipe"));
        symlink(&target, &link).unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let cache = home.cache(u64::MAX);
        for path in [&link, &folder, &pipe, &target.join("below a file")] {
            assert!(matches!(locate_now(path), Err(StoreError::NotFound { .. })), "{path:?}");
            assert!(matches!(cache.open(path), Err(StoreError::NotFound { .. })), "{path:?}");
        }
        for name in ["link", "folder", "pipe"] {
            let logical = home.write_zst(name, &unsized_frame(b"x\n"));
            assert_eq!(read_all(&cache, &logical), b"x\n", "{name}");
            assert_eq!(locate_now(&logical).unwrap().encoding, Encoding::Zstd, "{name}");
        }
    }

    #[test]
    fn a_swap_is_waited_for_three_times() {
        let home = Home::new();
        for (appears_at, found) in [(1, true), (3, true), (4, false)] {
            let logical = home.plain(&format!("{appears_at}.jsonl"));
            let mut pauses_count = 0;
            let result = find(&logical, &look_at, &mut || {
                pauses_count += 1;
                if pauses_count == appears_at {
                    fs::write(&logical, "x").unwrap();
                }
            });
            assert_eq!(result.is_ok(), found, "{appears_at}");
            assert_eq!(pauses_count, appears_at.min(SWAP_RETRIES_MAX));
        }
    }

    #[test]
    fn opening_succeeds_while_plain_and_compressed_are_swapped() {
        let (home, content) = (Home::new(), text(500));
        let frames = unsized_frame(&content);
        let logical = home.write_plain(NAME, &content);
        let cache = home.cache(u64::MAX);
        std::thread::scope(|scope| {
            let swapping = scope.spawn(|| {
                for _ in 0..200 {
                    home.write_zst(NAME, &frames);
                    fs::remove_file(&logical).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                    let temporary = home.write_plain("rollout.decompress.1.1.tmp", &content);
                    fs::rename(temporary, &logical).unwrap();
                    fs::remove_file(compressed_path(&logical)).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
            let mut seen = [0, 0];
            while !swapping.is_finished() {
                let opened = cache.open(&logical).unwrap();
                seen[usize::from(opened.located.encoding == Encoding::Zstd)] += 1;
                assert!(all_of_small(&opened) == content);
            }
            assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        });
    }

    fn all_of_small(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let length = content.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn a_replaced_file_is_decoded_anew_and_open_handles_keep_the_old_one() {
        let home = Home::new();
        let cache = home.cache(u64::MAX);
        let logical = home.write_zst(NAME, &unsized_frame(b"old\n"));
        let old = cache.open(&logical).unwrap();
        home.write_zst(NAME, &unsized_frame(b"new\n"));
        assert_eq!(read_all(&cache, &logical), b"new\n");
        assert_eq!(all_of(&old), b"old\n");
        let plain = home.write_plain("plain.jsonl", b"one\n");
        let opened = cache.open(&plain).unwrap();
        fs::remove_file(&plain).unwrap();
        assert_eq!(all_of(&opened), b"one\n");
    }

    #[test]
    fn sizes_are_stated_only_when_every_frame_states_its_own() {
        let content = text(30_000);
        let (sized, plain_sized) = (sized_frame(&content, true), sized_frame(&content, false));
        let unsized_one = unsized_frame(&content);
        let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"notes"].concat();
        let one = Some(content.len() as u64);
        let two = Some(2 * content.len() as u64);
        let zeros = vec![0; 1 << 20];
        let cut = |frames: &[u8], by: usize| frames[..frames.len() - by].to_vec();
        let cases: Vec<(&str, Vec<u8>, Option<u64>, Option<u64>)> = vec![
            ("checksum", sized.clone(), one, one),
            ("no checksum", plain_sized.clone(), one, one),
            ("no size", unsized_one.clone(), None, one),
            ("two frames", [sized.clone(), plain_sized.clone()].concat(), two, two),
            ("one without", [sized.clone(), unsized_one.clone()].concat(), None, two),
            ("skippable", [skippable.clone(), sized.clone(), skippable.clone()].concat(), one, one),
            ("runs", sized_frame(&zeros, true), Some(1 << 20), Some(1 << 20)),
            ("empty frame", sized_frame(b"", true), Some(0), Some(0)),
            ("one byte", sized_frame(b"x", false), Some(1), Some(1)),
            ("300 bytes", sized_frame(&zeros[..300], false), Some(300), Some(300)),
            ("cut checksum", cut(&sized, 1), None, None),
            ("cut block", cut(&sized, 5000), None, None),
            ("cut header", sized[..5].to_vec(), None, None),
            ("garbage behind", [&sized[..], b"garbage behind"].concat(), None, None),
            ("nothing", Vec::new(), None, None),
            ("no zstd", b"{\"type\":\"session_meta\"}\n".to_vec(), None, None),
        ];
        let home = Home::new();
        for (case, frames, stated, decoded) in cases {
            let path = compressed_path(&home.write_zst(NAME, &frames));
            assert_eq!(decoded_size_stated(&path).unwrap(), stated, "{case}");
            match decoded {
                Some(_) => assert_eq!(decoded_size(&path).unwrap(), decoded.unwrap(), "{case}"),
                None => {
                    assert!(matches!(decoded_size(&path), Err(StoreError::Damaged { .. })), "{case}");
                }
            }
        }
        assert!(matches!(decoded_size(&home.plain("none")), Err(StoreError::NotFound { .. })));
        assert!(matches!(decoded_size_stated(&home.plain("none")), Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn what_does_not_decode_is_damaged_and_leaves_nothing() {
        let content = text(30_000);
        let whole = unsized_frame(&content);
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let mut bad_checksum = whole.clone();
        *bad_checksum.last_mut().unwrap() ^= 1;
        let cases = [
            ("empty", Vec::new()),
            ("cut", whole[..whole.len() / 2].to_vec()),
            ("last byte missing", whole[..whole.len() - 1].to_vec()),
            ("flipped", flipped),
            ("checksum", bad_checksum),
            ("second frame cut", [&whole[..], &whole[..100]].concat()),
            ("text", b"not compressed at all\n".to_vec()),
        ];
        let home = Home::new();
        let cache = home.cache(u64::MAX);
        for (case, frames) in cases {
            let logical = home.write_zst(NAME, &frames);
            let error = cache.open(&logical).unwrap_err();
            let StoreError::Damaged { path, reason } = &error else { panic!("{case}: {error}") };
            assert_eq!(path, &compressed_path(&logical), "{case}");
            assert!(!reason.is_empty());
            assert!(home.cache_files().is_empty(), "{case}");
            let located = locate(&logical).unwrap();
            let read = open_decoded_reader(&located).unwrap().read_to_end(&mut Vec::new());
            assert!(matches!(read_error(&located, read.unwrap_err()), StoreError::Damaged { .. }), "{case}");
        }
        let logical = home.write_zst(NAME, &whole);
        assert!(read_all(&cache, &logical) == content, "repaired");
    }

    #[test]
    fn several_frames_are_one_rollout() {
        let home = Home::new();
        let frames =
            [unsized_frame(b"one\n"), sized_frame(b"two\n", true), unsized_frame(b"three\n")].concat();
        let logical = home.write_zst(NAME, &frames);
        assert_eq!(read_all(&home.cache(0), &logical), b"one\ntwo\nthree\n");
    }

    #[test]
    fn the_least_recently_used_copy_goes_first_and_open_handles_go_on() {
        let home = Home::new();
        let content = text(1000);
        let size_bytes = content.len() as u64;
        let paths = ["a", "b", "c"].map(|name| home.write_zst(name, &unsized_frame(&content)));
        let cache = home.cache(2 * size_bytes);
        let b = cache.open(&paths[1]).unwrap();
        cache.open(&paths[0]).unwrap();
        cache.open(&paths[2]).unwrap();
        assert_eq!(home.cache_files().len(), 2);
        assert!(all_of_small(&b) == content, "evicted and still open");
        cache.open(&paths[0]).unwrap();
        assert_eq!(cache.usage().decodes_count, 3, "a was kept");
        cache.open(&paths[1]).unwrap();
        let usage = CacheUsage { copies_count: 2, held_bytes: 2 * size_bytes, decodes_count: 4 };
        assert_eq!(cache.usage(), usage, "b was not");
        assert_eq!(home.cache_files().len(), 2);
    }

    #[test]
    fn a_copy_above_the_limit_is_served_until_another_comes() {
        let home = Home::new();
        let cache = home.cache(0);
        let large = home.write_zst("large", &unsized_frame(&text(1000)));
        for _ in 0..2 {
            assert!(read_all(&cache, &large) == text(1000));
        }
        assert_eq!(cache.usage().decodes_count, 1);
        let small = home.write_zst("small", &unsized_frame(b"x\n"));
        assert_eq!(read_all(&cache, &small), b"x\n");
        let usage = CacheUsage { copies_count: 1, held_bytes: ENTRY_BYTES_MIN, decodes_count: 2 };
        assert_eq!((cache.usage(), home.cache_files().len()), (usage, 1));
    }

    #[test]
    fn threads_that_open_one_rollout_decode_it_once() {
        for damaged in [false, true] {
            let (home, content) = (Home::new(), text(100_000));
            let mut frames = unsized_frame(&content);
            frames.truncate(frames.len() - usize::from(damaged));
            let logical = home.write_zst(NAME, &frames);
            let (cache, barrier) = (home.cache(0), Barrier::new(8));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        barrier.wait();
                        match cache.open(&logical) {
                            Ok(opened) => assert!(!damaged && all_of_small(&opened) == content[..1 << 20]),
                            Err(error) => assert!(damaged && matches!(error, StoreError::Damaged { .. })),
                        }
                    });
                }
            });
            if !damaged {
                assert_eq!(cache.usage().decodes_count, 1);
            }
            assert!(cache.copies().decoding.is_empty());
        }
    }

    #[test]
    fn different_rollouts_do_not_wait_for_each_other() {
        let home = Home::new();
        let busy = home.write_zst("busy", &unsized_frame(b"busy\n"));
        let free = home.write_zst("free", &unsized_frame(b"free\n"));
        let cache = home.cache(u64::MAX);
        let key = Key::of(&locate(&busy).unwrap().stat);
        let decoding = Arc::clone(cache.copies().decoding.entry(key).or_default());
        let held = decoding.lock().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| read_all(&cache, &busy));
            assert_eq!(read_all(&cache, &free), b"free\n");
            drop(held);
            assert_eq!(waiting.join().unwrap(), b"busy\n");
        });
    }

    #[test]
    fn the_next_run_takes_over_what_it_can_trust() {
        let home = Home::new();
        let paths = ["a", "b", "c"].map(|name| home.write_zst(name, &unsized_frame(&text(1000))));
        let cache = home.cache(u64::MAX);
        for (path, age_s) in paths.iter().zip([20, 30, 10]) {
            cache.open(path).unwrap();
            let key = Key::of(&locate(path).unwrap().stat);
            let copy = File::open(cache.copy_path(&key, text(1000).len() as u64)).unwrap();
            copy.set_modified(std::time::SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        }
        drop(cache);
        let key = Key { device: 1, inode: 2, compressed_bytes: 3, mtime_ns: -4 };
        let boot = this_boot().unwrap();
        let put = |name: &str, content: &[u8]| fs::write(home.cache_folder().join(name), content).unwrap();
        put(&copy_name(boot, &key, 5), b"four");
        put(&copy_name(boot ^ 1, &key, 4), b"four");
        put("decode-1-0.tmp", b"half");
        put("decode-2-0.tmp", b"in use");
        put("foreign.txt", b"mine");
        let in_use = File::open(home.cache_folder().join("decode-2-0.tmp")).unwrap();
        in_use.lock().unwrap();

        let cache = home.cache(2 * text(1000).len() as u64);
        let mut left = home.cache_files();
        left.retain(|name| !name.contains(&format!("{boot:x}-")));
        left.sort();
        assert_eq!(left, ["decode-2-0.tmp", "foreign.txt"]);
        for (path, decodes_count) in [(&paths[0], 0), (&paths[2], 0), (&paths[1], 1)] {
            assert!(read_all(&cache, path) == text(1000));
            assert_eq!(cache.usage().decodes_count, decodes_count, "the oldest did not fit");
        }
        assert_eq!(cache.usage().copies_count, 2);
    }

    #[test]
    fn names_of_copies_are_read_back() {
        for (mtime_ns, decoded_bytes) in [(0, 0), (1_770_540_901_123_456_789, 42), (-1, u64::MAX)] {
            let key = Key { device: 0x803, inode: u64::MAX, compressed_bytes: 7, mtime_ns };
            let name = copy_name(9, &key, decoded_bytes);
            assert_eq!(parse_copy_name(&name), Some((9, key, decoded_bytes)), "{name}");
        }
        for name in [
            "",
            ".jsonl",
            "1-2-3-4-5.jsonl",
            "1-2-3-4-5-6-7.jsonl",
            "01-2-3-4-5-6.jsonl",
            "1-2-3-4-5-+6.jsonl",
        ] {
            assert_eq!(parse_copy_name(name), None, "{name}");
        }
    }

    #[test]
    fn an_emptied_or_spoilt_cache_folder_heals() {
        let home = Home::new();
        let logical = home.write_zst(NAME, &unsized_frame(b"content\n"));
        let cache = home.cache(u64::MAX);
        cache.open(&logical).unwrap();
        fs::remove_dir_all(home.cache_folder()).unwrap();
        assert_eq!(read_all(&cache, &logical), b"content\n");
        fs::write(home.cache_folder().join(&home.cache_files()[0]), "short").unwrap();
        assert_eq!(read_all(&cache, &logical), b"content\n");
        assert_eq!(cache.usage().decodes_count, 3);
    }

    #[test]
    fn an_unusable_cache_folder_is_named_in_the_error() {
        let home = Home::new();
        let logical = home.write_zst(NAME, &unsized_frame(b"content\n"));
        let plain = home.write_plain("plain", b"plain\n");
        fs::write(home.plain("state"), "a file").unwrap();
        let cache = home.cache(u64::MAX);
        match cache.open(&logical).unwrap_err() {
            StoreError::Io { path, .. } => assert_eq!(path, home.cache_folder()),
            other => panic!("{other}"),
        }
        assert_eq!(read_all(&cache, &plain), b"plain\n");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read_all(&cache, &plain), b"plain\n");
    }

    /// A disk that is full after so many bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            let length = bytes.len().min(self.0);
            self.0 -= length;
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_the_fault_of_the_sink_and_a_dropped_temporary_goes() {
        let home = Home::new();
        let content = text(1000);
        let logical = home.write_zst(NAME, &unsized_frame(&content));
        let source = File::open(compressed_path(&logical)).unwrap();
        let failure = decode(&source, &mut Disk(content.len() - 1)).unwrap_err();
        assert!(matches!(failure, DecodeFailure::Sink(error) if error.kind() == ErrorKind::StorageFull));
        let cache = home.cache(0);
        let temporary = cache.create_temporary().unwrap();
        assert_eq!(home.cache_files().len(), 1);
        drop(temporary);
        assert!(home.cache_files().is_empty());
    }
}
