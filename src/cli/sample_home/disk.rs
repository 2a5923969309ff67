//! How do the sample's files get onto the disk? New files only, private to the user, with times that the
//! plan says. Depends on the store's error type.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::store::error::{Result, StoreError};

/// As Codex's own compressor has it (spec 1.5).
const ZSTD_LEVEL: i32 = 3;
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// One worker's view of the home: the folders it has made, the files it has written.
pub(super) struct Disk<'a> {
    root: &'a Path,
    /// Newest time of what lies directly in a folder, unix ms, by path below the root.
    newest_ms: HashMap<PathBuf, i64>,
    /// Files written.
    pub(super) files: u64,
    /// Their sizes.
    pub(super) bytes: u64,
}

fn system_time(unix_ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms.max(0) as u64)
}

impl<'a> Disk<'a> {
    pub(super) fn new(root: &'a Path) -> Disk<'a> {
        Disk { root, newest_ms: HashMap::new(), files: 0, bytes: 0 }
    }

    /// Makes a folder below the root, with those above it.
    pub(super) fn folder(&mut self, folder: &str, unix_ms: i64) -> Result<()> {
        if let Some(newest) = self.newest_ms.get_mut(Path::new(folder)) {
            *newest = unix_ms.max(*newest);
            return Ok(());
        }
        let path = self.root.join(folder);
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&path);
        made.map_err(StoreError::io("create", &path))?;
        self.newest_ms.insert(folder.into(), unix_ms);
        Ok(())
    }

    /// Writes a new file into a folder below the root; an existing one is an error.
    pub(super) fn file(&mut self, folder: &str, name: &str, bytes: &[u8], unix_ms: i64) -> Result<()> {
        self.folder(folder, unix_ms)?;
        let path = self.root.join(folder).join(name);
        let opened = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let mut file = opened.map_err(StoreError::io("create", &path))?;
        file.write_all(bytes).map_err(StoreError::io("write", &path))?;
        file.set_modified(system_time(unix_ms)).map_err(StoreError::io("set the time of", &path))?;
        self.files += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// What the worker's folders hold, for [`finish_folders`].
    pub(super) fn into_newest_ms(self) -> HashMap<PathBuf, i64> {
        self.newest_ms
    }
}

/// One zstd frame with a checksum. A streamed one does not say how long its content is.
pub(super) fn compress(bytes: &[u8], is_streamed: bool) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.include_contentsize(!is_streamed)?;
    if !is_streamed {
        encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
    }
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Gives every folder the newest time within it, the deepest first, so that the tree is the same each time.
pub(super) fn finish_folders(root: &Path, newest_ms: impl Iterator<Item = (PathBuf, i64)>) -> Result<()> {
    let mut all: BTreeMap<PathBuf, i64> = BTreeMap::new();
    for (folder, unix_ms) in newest_ms {
        for above in folder.ancestors() {
            let newest = all.entry(above.to_owned()).or_insert(unix_ms);
            *newest = unix_ms.max(*newest);
        }
    }
    for (folder, unix_ms) in all.iter().rev() {
        let path = if folder.as_os_str().is_empty() { root.to_owned() } else { root.join(folder) };
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        file.set_modified(system_time(*unix_ms)).map_err(StoreError::io("set the time of", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_their_size_unless_streamed() {
        let text = b"one line\n".repeat(5000);
        for (is_streamed, size) in [(false, Some(text.len() as u64)), (true, None)] {
            let frame = compress(&text, is_streamed).expect("memory does not fail");
            assert_eq!(zstd::zstd_safe::get_frame_content_size(&frame).ok(), Some(size));
            assert_eq!(frame[4] & 4, 4, "the checksum flag of the frame header");
            assert_eq!(zstd::stream::decode_all(&frame[..]).ok().as_deref(), Some(&text[..]));
        }
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let mut disk = Disk::new(home.path());
        assert!(disk.file("a/b", "f", b"1", 1000).is_ok());
        assert!(disk.file("a/b", "f", b"22", 1000).is_err());
        assert_eq!(std::fs::read(home.path().join("a/b/f")).ok().as_deref(), Some(&b"1"[..]));
        assert_eq!((disk.files, disk.bytes), (1, 1));
    }
}
