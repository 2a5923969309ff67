//! How does a compressed rollout become a plain one again, so that lines can be appended to it?
//!
//! Spec 1.5: decode beside it, sync, publish without overwriting, then remove the compressed file. A crash
//! leaves both files, of which the plain one counts, or a temporary; never none. Depends on `content`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::content::{self, Encoding, Located};
use super::error::{Result, StoreError};

/// Bytes that are decoded at once.
const BUFFER_BYTES: usize = 128 * 1024;
/// How many names for the temporary are tried.
const NAMES_TRIED_MAX: u32 = 16;

/// The mtime that a thawed rollout gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThawTime {
    /// That of the compressed file.
    Keep,
    /// Now: nothing will take the rollout for a cold one and compress it again at once.
    Now,
}

/// Makes the rollout whose plain path is `logical` a plain file. True if it was compressed.
///
/// The caller sees to it that nobody else writes the thread. Mode and, where allowed, owner are kept.
///
/// # Errors
/// [`StoreError::NotFound`] with neither file there, [`StoreError::Damaged`] when it does not decode to its
/// end, [`StoreError::Io`]. Then nothing has changed.
pub fn thaw(logical: &Path, time: ThawTime) -> Result<bool> {
    let located = content::locate(logical)?;
    if located.encoding == Encoding::Plain {
        return Ok(false);
    }
    let (temporary, file) = create_beside(logical)?;
    let published = fill(&located, &temporary, &file, time).and_then(|()| publish(&temporary, logical));
    // Gone already where it was published by rename.
    let removed = fs::remove_file(&temporary);
    published?;
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        log::warn!("{} is left over: {error}", temporary.display());
    }
    sync_parent(logical)?;
    match fs::remove_file(&located.path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            // The plain file counts from now on, so this is untidy and not wrong.
            log::warn!("{} is left over: {error}", located.path.display());
        }
        _ => {}
    }
    Ok(true)
}

/// A file of a name that is never taken for a rollout, open for writing.
fn create_beside(logical: &Path) -> Result<(PathBuf, File)> {
    let mut last = None;
    for _ in 0..NAMES_TRIED_MAX {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let path = logical.with_file_name(format!(".rollout-materialize-{}", &random[..12]));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => last = Some((path, error)),
            Err(error) => return Err(StoreError::io("create", &path)(error)),
        }
    }
    // At least one name was tried, and each that was taken is noted.
    let (path, error) = last.unwrap_or_else(|| (logical.to_owned(), ErrorKind::AlreadyExists.into()));
    Err(StoreError::io("create", &path)(error))
}

fn fill(located: &Located, temporary: &Path, mut file: &File, time: ThawTime) -> Result<()> {
    let mut reader = content::open_decoded_reader(located)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(content::read_error(located, error)),
        };
        file.write_all(&buffer[..length]).map_err(StoreError::io("write", temporary))?;
    }
    if let Err(error) = fchown(file, Some(located.stat.uid()), Some(located.stat.gid())) {
        log::debug!("{}: the owner is not kept: {error}", temporary.display());
    }
    let finished = file.set_permissions(located.stat.permissions()).and_then(|()| match time {
        ThawTime::Keep => file.set_modified(located.stat.modified()?),
        ThawTime::Now => Ok(()),
    });
    finished.and_then(|()| file.sync_all()).map_err(StoreError::io("write", temporary))
}

/// Gives the temporary its name. A plain rollout that came meanwhile counts, and stays.
fn publish(temporary: &Path, logical: &Path) -> Result<()> {
    match fs::hard_link(temporary, logical) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // A disk without hard links.
        Err(_) => match rename_without_overwriting(temporary, logical) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(StoreError::io("create", logical)),
        },
    }
}

fn rename_without_overwriting(from: &Path, to: &Path) -> io::Result<()> {
    let text = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (from, to) = (text(from)?, text(to)?);
    // SAFETY: both are strings that end in NUL and live until the call returns.
    let done = unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_NOREPLACE)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    const NAME: &str = "rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-0000000000aa.jsonl";

    struct Frozen {
        dir: tempfile::TempDir,
        logical: PathBuf,
        zst: PathBuf,
    }

    /// A compressed rollout of mode 0640, a year old.
    fn frozen(content: &[u8]) -> Frozen {
        let dir = tempfile::tempdir().unwrap();
        let logical = dir.path().join(NAME);
        let zst = content::compressed_path(&logical);
        fs::write(&zst, content).unwrap();
        fs::set_permissions(&zst, fs::Permissions::from_mode(0o640)).unwrap();
        let old = SystemTime::now() - Duration::from_secs(365 * 86_400);
        File::options().append(true).open(&zst).unwrap().set_modified(old).unwrap();
        Frozen { dir, logical, zst }
    }

    fn compressed(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        fs::read_dir(dir).unwrap().map(name).collect()
    }

    /// Spec 11.6, cases 3 and 4.
    #[test]
    fn the_plain_file_takes_the_place_of_the_compressed_one() {
        let text = b"one\ntwo\n".repeat(100_000);
        for time in [ThawTime::Keep, ThawTime::Now] {
            let frozen = frozen(&compressed(&text));
            let old = fs::metadata(&frozen.zst).unwrap().modified().unwrap();
            assert!(thaw(&frozen.logical, time).unwrap());
            assert!(fs::read(&frozen.logical).unwrap() == text);
            assert_eq!(names(frozen.dir.path()), [NAME]);
            let stat = fs::metadata(&frozen.logical).unwrap();
            assert_eq!(stat.permissions().mode() & 0o777, 0o640);
            assert_eq!(stat.modified().unwrap() == old, time == ThawTime::Keep);
            assert!(!thaw(&frozen.logical, time).unwrap(), "the second time there is nothing to do");
        }
    }

    #[test]
    fn a_plain_file_counts_and_nothing_is_touched() {
        let frozen = frozen(&compressed(b"old\n"));
        fs::write(&frozen.logical, "new\n").unwrap();
        assert!(!thaw(&frozen.logical, ThawTime::Now).unwrap());
        assert_eq!(fs::read(&frozen.logical).unwrap(), b"new\n");
        assert!(frozen.zst.exists());
    }

    /// Spec 11.6, case 11.
    #[test]
    fn nothing_is_overwritten_when_published() {
        let frozen = frozen(b"");
        for name in ["by-link", "by-rename"] {
            let from = frozen.dir.path().join(name);
            fs::write(&from, name).unwrap();
            if name == "by-link" {
                publish(&from, &frozen.logical).unwrap();
            } else {
                let refused = rename_without_overwriting(&from, &frozen.logical).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
            }
        }
        assert_eq!(fs::read(&frozen.logical).unwrap(), b"by-link");
        let free = frozen.dir.path().join("free");
        rename_without_overwriting(&frozen.logical, &free).unwrap();
        assert_eq!(fs::read(free).unwrap(), b"by-link");
    }

    #[test]
    fn damage_changes_nothing() {
        let whole = compressed(&b"line\n".repeat(50_000));
        for content in [&whole[..whole.len() / 2], b"no zstd at all"] {
            let frozen = frozen(content);
            let refused = thaw(&frozen.logical, ThawTime::Now).unwrap_err();
            assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
            assert_eq!(names(frozen.dir.path()), [format!("{NAME}.zst")]);
            assert_eq!(fs::read(&frozen.zst).unwrap(), content);
        }
        let nothing = tempfile::tempdir().unwrap();
        let refused = thaw(&nothing.path().join(NAME), ThawTime::Now).unwrap_err();
        assert!(matches!(refused, StoreError::NotFound { .. }), "{refused}");
    }
}
