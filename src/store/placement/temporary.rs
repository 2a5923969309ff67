//! How is a file written under a temporary name, and who clears it away when its process dies?

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::open_to_read;
use crate::store::error::{Result, StoreError};

/// How temporary files of ours begin: hidden, and one of the names that never count as rollouts.
const TEMPORARY_PREFIX: &str = ".rollout-materialize-rolloutfs-";
/// How often a name for a temporary file is tried.
const TEMPORARY_ATTEMPTS_MAX: u32 = 100;

/// A file under a temporary name, which it loses when it is dropped or placed. While it is in use its process holds
/// its lock, so that what a dead process left is known.
pub struct Temporary {
    file: File,
    path: PathBuf,
    is_placed: bool,
}

impl Temporary {
    /// A new empty file in `folder`, mode 0600. What earlier processes left there is removed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(folder: &Path) -> Result<Temporary> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        sweep(folder);
        for _ in 0..TEMPORARY_ATTEMPTS_MAX {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id()));
            let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = match created {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                created => created.map_err(StoreError::io("create", &path))?,
            };
            // Another process may have swept it away before it was locked.
            let still_there = || {
                let found = fs::symlink_metadata(&path).ok().map(|found| (found.dev(), found.ino()));
                found == file.metadata().ok().map(|found| (found.dev(), found.ino()))
            };
            if try_lock(&file) && still_there() {
                return Ok(Temporary { file, path, is_placed: false });
            }
        }
        let taken = io::Error::from(ErrorKind::AlreadyExists);
        Err(StoreError::io("create a temporary file in", folder)(taken))
    }

    /// The file, to be written.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Its path while it is temporary.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it the mode, the times and, where that is allowed, the owner of `other`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn take_after(&self, other: &Metadata) -> Result<()> {
        self.take_owner_and_mode(other, other.mode() & 0o7777)?;
        let set = || {
            let times = fs::FileTimes::new().set_accessed(other.accessed()?).set_modified(other.modified()?);
            self.file.set_times(times)
        };
        set().map_err(StoreError::io("set the times of", &self.path))
    }

    /// Gives it a mode and, where that is allowed, the owner of `other`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn take_owner_and_mode(&self, other: &Metadata, mode: u32) -> Result<()> {
        let ours = self.file.metadata().map_err(StoreError::io("look at", &self.path))?;
        if (ours.uid(), ours.gid()) != (other.uid(), other.gid()) {
            // Only root may; for others the owner is theirs already, and the group does not matter.
            let _ = fchown(&self.file, Some(other.uid()), Some(other.gid()));
        }
        self.file
            .set_permissions(fs::Permissions::from_mode(mode))
            .map_err(StoreError::io("set the mode of", &self.path))
    }

    /// Makes its bytes survive a power cut.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))
    }

    /// Gives it its name, which no file may have.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Io`].
    pub fn place(mut self, to: &Path) -> Result<()> {
        super::move_no_replace(&self.path, to, false)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// True if nobody has the file's lock; then this process has it.
fn try_lock(file: &File) -> bool {
    // SAFETY: flock on a descriptor that `file` owns.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// True for the names of [`Temporary`].
pub(in crate::store) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(TEMPORARY_PREFIX.as_bytes())
}

/// Removes temporary files of ours that no living process has.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| is_ours(entry.file_name().as_bytes())) {
        let left = open_to_read(&entry.path()).is_ok_and(|file| try_lock(&file));
        if left {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_is_in_use_is_not() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join(format!("{TEMPORARY_PREFIX}1-0")), "left").unwrap();
        let mut used = Temporary::create(dir.path()).unwrap();
        used.file().write_all(b"x").unwrap();
        let other = Temporary::create(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(crate::store::rollout::is_temporary(used.path().file_name().unwrap().as_bytes()));
        drop(other);
        used.place(&dir.path().join("placed")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
