//! Where is the decoded copy of a compressed rollout, and which copies are kept?
//!
//! Depends on `error`, and on finding and decoding of `content`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use xxhash_rust::xxh3::xxh3_64;

use super::frame::{DecodeFailure, decode};
use super::{Content, Encoding, Located, compressed_path, damaged, find, open_at, swap_pause};
use crate::store::error::{Result, StoreError};
use crate::store::home::{give_folder_to_owner_of, give_to_owner_of};

/// How often a compressed file that changes while it is decoded is opened again.
const CHANGED_RETRIES_MAX: u32 = 3;
/// What an entry of the cache is counted as at least, so that small ones are bounded too.
const ENTRY_BYTES_MIN: u64 = 4096;
const CACHE_FOLDER_MODE: u32 = 0o700;
const CACHE_FILE_MODE: u32 = 0o600;
const TEMPORARY_PREFIX: &str = "decode-";
const TEMPORARY_SUFFIX: &str = ".tmp";

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
        if !self.folder.is_dir() {
            DirBuilder::new().recursive(true).mode(CACHE_FOLDER_MODE).create(&self.folder)?;
            give_folder_to_owner_of(self.folder.parent().unwrap_or(&self.folder), &self.folder);
        }
        loop {
            let number = self.temporaries_count.fetch_add(1, Ordering::Relaxed);
            let mut name = OsString::from(TEMPORARY_PREFIX);
            name.push(format!("{}-{number}{TEMPORARY_SUFFIX}", std::process::id()));
            let path = self.folder.join(name);
            match OpenOptions::new().read(true).write(true).create_new(true).mode(CACHE_FILE_MODE).open(&path)
            {
                Ok(file) => {
                    give_to_owner_of(&self.folder, &file);
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
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;
    use std::time::Duration;

    use super::super::sample::*;
    use super::super::{locate, open_decoded_reader, read_error};
    use super::*;

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
