//! Where are the bytes of a rollout, plain or compressed, and how are they read at an offset?
//!
//! A rollout is named by its plain path; on disk it may be `<plain>.zst` (spec 1.5). Compressed ones are
//! decoded once into a bounded folder. Depends on `error` only.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::frame::{DecodeFailure, decode, stated_size};
use super::error::{Result, StoreError};

mod cache;
mod frame;
#[cfg(test)]
mod sample;

pub use self::cache::{CacheUsage, ContentCache};

/// How often a rollout that is not found is looked for again: it may be between plain and compressed.
pub const SWAP_RETRIES_MAX: u32 = 3;
/// The pause before each of these looks.
pub const SWAP_PAUSE_MS: u64 = 50;

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

/// Opens the rollout at `path` if it lies there plain. None: it does not, and may be compressed or elsewhere.
///
/// # Errors
/// [`StoreError::Io`] when the system refuses.
pub fn open_plain(path: &Path) -> Result<Option<Content>> {
    match open_at(path) {
        Ok(found) => Ok(found.map(|(stat, file)| Content {
            file: Arc::new(file),
            size_bytes: None,
            located: Located { path: path.to_owned(), encoding: Encoding::Plain, stat },
        })),
        Err(error) if says_absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io("open", path)(error)),
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::sample::*;
    use super::*;

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

    #[test]
    fn several_frames_are_one_rollout() {
        let home = Home::new();
        let frames =
            [unsized_frame(b"one\n"), sized_frame(b"two\n", true), unsized_frame(b"three\n")].concat();
        let logical = home.write_zst(NAME, &frames);
        assert_eq!(read_all(&home.cache(0), &logical), b"one\ntwo\nthree\n");
    }
}
