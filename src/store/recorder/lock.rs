//! Who writes a thread? One process, and in it one recorder: Codex and we lock the same file (spec 3.4).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::error::{Result, StoreError};
use super::super::home::{give_folder_to_owner_of, give_to_owner_of};
use super::super::rollout::ThreadId;

/// The folder of the locks in a home.
pub const LOCKS_DIR_NAME: &str = "thread-writer-locks";
/// Held while a lock is made or removed.
const COORDINATION_NAME: &str = ".coordination.lock";
/// How often the coordination lock is tried, and the pause between: two seconds in all.
const COORDINATION_TRIES_MAX: u32 = 200;
const COORDINATION_PAUSE: Duration = Duration::from_millis(10);
/// How often a lock file may vanish while it is locked.
const VANISHED_MAX: u32 = 16;

/// The lock of a thread. Dropped, it is free and its file is gone.
#[derive(Debug)]
pub(super) struct WriterLock {
    dir: PathBuf,
    path: PathBuf,
    file: File,
}

impl WriterLock {
    /// Takes the lock of a thread, without waiting for a writer.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where the thread has a writer; [`StoreError::Io`], also on disks that cannot lock.
    pub(super) fn take(home: &Path, thread: ThreadId) -> Result<WriterLock> {
        let dir = home.join(LOCKS_DIR_NAME);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made.map_err(StoreError::io("create", &dir))?;
                // Codex runs as its owner, and needs it.
                give_folder_to_owner_of(home, &dir);
            }
        }
        let _coordination = coordinate(&dir)?;
        let path = dir.join(format!("{thread}.lock"));
        for _ in 0..VANISHED_MAX {
            let file = open(&path)?;
            if !try_lock(&file, &path)? {
                return Err(busy(&path, thread));
            }
            // A holder that does not coordinate may have removed it between opening and locking.
            if is_at(&file, &path) {
                return Ok(WriterLock { dir, path, file });
            }
        }
        Err(busy(&path, thread))
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Without coordination the file stays: others sweep it, and it is no obstacle.
        let coordination = coordinate(&self.dir);
        if coordination.is_ok() && is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn busy(path: &Path, thread: ThreadId) -> StoreError {
    StoreError::Busy {
        path: path.to_owned(),
        holder: "another process".to_owned(),
        remedy: format!("thread {thread} already has an active writer; close it there first"),
    }
}

fn coordinate(dir: &Path) -> Result<File> {
    let path = dir.join(COORDINATION_NAME);
    let file = open(&path)?;
    for _ in 0..COORDINATION_TRIES_MAX {
        if try_lock(&file, &path)? {
            return Ok(file);
        }
        std::thread::sleep(COORDINATION_PAUSE);
    }
    Err(StoreError::Busy {
        path,
        holder: "another process".to_owned(),
        remedy: "it is held only for moments, so end the process that hangs".to_owned(),
    })
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let is_new = fs::symlink_metadata(path).is_err();
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.map_err(StoreError::io("open", path))?;
    if is_new {
        give_to_owner_of(path.parent().unwrap_or(path), &file);
    }
    Ok(file)
}

/// Locks the file. False where it is locked.
fn try_lock(file: &File, path: &Path) -> Result<bool> {
    // SAFETY: flock on a descriptor that `file` owns.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(false),
        _ => Err(StoreError::io("lock", path)(error)),
    }
}

/// Whether the path still leads to the file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(one), Ok(other)) => one.dev() == other.dev() && one.ino() == other.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198c0de-0000-7000-8000-0000000000aa";

    #[test]
    fn one_at_a_time_and_nothing_stays() {
        let home = tempfile::tempdir().unwrap();
        let thread: ThreadId = ID.parse().unwrap();
        let path = home.path().join(LOCKS_DIR_NAME).join(format!("{ID}.lock"));
        let held = WriterLock::take(home.path(), thread).unwrap();
        assert!(path.exists());
        let refused = WriterLock::take(home.path(), thread).unwrap_err().to_string();
        assert!(refused.contains(&format!("thread {ID} already has an active writer")), "{refused}");
        let other = WriterLock::take(home.path(), "0198c0de-0000-7000-8000-0000000000bb".parse().unwrap());
        assert!(other.is_ok());
        drop(held);
        assert!(!path.exists());
        // What a process that was killed left behind is no obstacle.
        fs::write(&path, "").unwrap();
        assert!(WriterLock::take(home.path(), thread).is_ok());
    }

    #[test]
    fn never_two_holders() {
        let home = tempfile::tempdir().unwrap();
        let thread: ThreadId = ID.parse().unwrap();
        let holders = std::sync::atomic::AtomicU32::new(0);
        let taken = std::sync::atomic::AtomicU32::new(0);
        use std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        if let Ok(lock) = WriterLock::take(home.path(), thread) {
                            assert_eq!(holders.fetch_add(1, SeqCst), 0);
                            taken.fetch_add(1, SeqCst);
                            std::thread::yield_now();
                            holders.fetch_sub(1, SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.load(SeqCst) > 0);
    }
}
