//! Where do the lines go? The two system calls that a recorder makes, behind traits, so that they can fail in tests.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::super::error::{Result, StoreError};
use super::super::home::{give_folder_to_owner_of, give_to_owner_of};

/// A rollout, open for appending.
pub trait Appender: Send {
    /// One `write` at the end of the file; may write less than all.
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Whether the next byte begins a line: the file is empty or ends in a newline.
    ///
    /// # Errors
    /// The system's.
    fn is_at_line_start(&mut self) -> io::Result<bool>;

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// The system's.
    fn sync(&mut self) -> io::Result<()>;
}

/// What opens rollouts.
pub trait Disk: Send {
    /// Opens a rollout for appending. With `create` it is made where it is not there, with its folders.
    ///
    /// # Errors
    /// [`StoreError::Io`] names the file or the folder.
    fn open(&self, path: &Path, create: bool) -> Result<Box<dyn Appender>>;

    /// Waits until the names of the file and of the folders above it, up to `home`, are on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] names the folder.
    fn sync_names(&self, path: &Path, home: &Path) -> Result<()>;
}

/// The disk itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Box<dyn Appender>> {
        let mut options = OpenOptions::new();
        // Read, to see the last byte. A link or a named pipe in its place is no rollout.
        options.read(true).append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        if create {
            let dir_mode = make_parent(path)?;
            let made = options.clone().create_new(true).mode(dir_mode & 0o666).open(path);
            match made {
                Ok(file) => {
                    give_to_owner_of(path.parent().unwrap_or(path), &file);
                    return Ok(Box::new(file));
                }
                // It is there, or became so meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("open", path)(error)),
            }
        }
        let file = options.open(path).map_err(StoreError::io("open", path))?;
        Ok(Box::new(file))
    }

    fn sync_names(&self, path: &Path, home: &Path) -> Result<()> {
        for dir in path.ancestors().skip(1).take_while(|dir| dir.starts_with(home)) {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", dir))?;
        }
        Ok(())
    }
}

/// Makes the folder of a file. What is made is as open to others as the nearest folder that was there, and the
/// process's mask still counts: 0700 in a private home, 0755 in one that all may read; root gives it to that folder's
/// owner. Answers that mode.
fn make_parent(path: &Path) -> Result<u32> {
    let folders: Vec<&Path> = path.ancestors().skip(1).collect();
    let there = folders.iter().position(|dir| dir.is_dir());
    let there = there.unwrap_or(folders.len());
    let found = folders.get(there).and_then(|dir| dir.metadata().ok());
    let mode = found.map_or(0o700, |stat| (stat.mode() & 0o777) | 0o700);
    // From the outermost on.
    for dir in folders[..there].iter().rev() {
        match DirBuilder::new().mode(mode).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => {
                made.map_err(StoreError::io("create", dir))?;
                give_folder_to_owner_of(dir.parent().unwrap_or(dir), dir);
            }
        }
    }
    Ok(mode)
}

impl Appender for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn is_at_line_start(&mut self) -> io::Result<bool> {
        let size_bytes = self.metadata()?.len();
        let mut last = [b'\n'];
        if size_bytes > 0 {
            // Nothing read means that the file was emptied meanwhile: its start begins a line.
            let _ = self.read_at(&mut last, size_bytes - 1)?;
        }
        Ok(last == *b"\n")
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn new_files_are_as_open_as_the_home() {
        // The mask of the test process can only take away.
        let probe = tempfile::tempdir().unwrap();
        let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::write(probe.path().join("x"), "").unwrap();
        let allowed = mode_of(&probe.path().join("x")) | 0o111;
        for (home_mode, dir_mode, file_mode) in
            [(0o700, 0o700, 0o600), (0o755, 0o755, 0o644), (0o750, 0o750, 0o640)]
        {
            let home = tempfile::tempdir().unwrap();
            fs::set_permissions(home.path(), fs::Permissions::from_mode(home_mode)).unwrap();
            let path = home.path().join("sessions/2026/02/08/x.jsonl");
            drop(SystemDisk.open(&path, true).unwrap());
            assert_eq!(mode_of(&path), file_mode & allowed);
            for dir in path.ancestors().skip(1).take(4) {
                assert_eq!(mode_of(dir), dir_mode & allowed, "{}", dir.display());
            }
            SystemDisk.sync_names(&path, home.path()).unwrap();
        }
    }
}
