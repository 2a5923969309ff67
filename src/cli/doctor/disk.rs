//! Which files would the index have, by what lies on disk now? A walk that opens no file.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::store::home::Home;
use crate::store::rollout::{RolloutName, is_temporary};
use crate::store::row::DiskStat;
use crate::store::{ROOTS, is_clutter};

/// Folders below the home that are deeper than this are not entered, as by the indexer.
const DEPTH_MAX: usize = 32;

/// A file as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OnDisk {
    /// It is compressed.
    pub(super) compressed: bool,
    /// Bytes on disk.
    pub(super) size_bytes: u64,
    /// Time of last modification, nanoseconds since 1970.
    pub(super) mtime_ns: i64,
}

/// What lies below `sessions` and `archived_sessions`.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// By logical path below the home.
    pub(super) files: HashMap<Vec<u8>, OnDisk>,
    /// Folders, the home included.
    pub(super) folders_count: u64,
    /// Folders that cannot be listed, with the reason.
    pub(super) closed_folders: Vec<(Vec<u8>, String)>,
    /// Files that this user may not read.
    pub(super) closed_files_count: u64,
    /// One of them.
    pub(super) closed_file: Option<Vec<u8>>,
}

impl Disk {
    /// Does the path lie in a folder that cannot be listed?
    pub(super) fn is_hidden(&self, path: &[u8]) -> bool {
        self.closed_folders.iter().any(|(folder, _)| {
            path.strip_prefix(folder.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
        })
    }
}

/// Walks the home.
pub(super) fn walk(home: &Home) -> Disk {
    let mut disk = Disk { folders_count: 1, ..Disk::default() };
    let mut waiting: Vec<(Vec<u8>, usize)> = Vec::new();
    for root in ROOTS {
        // A root may be a link; what is in it is not followed.
        if fs::metadata(home.root().join(root)).is_ok_and(|found| found.is_dir()) {
            waiting.push((root.as_bytes().to_vec(), 1));
        }
    }
    while let Some((path, depth)) = waiting.pop() {
        disk.folders_count += 1;
        let listed = list(home, &path, &mut disk);
        match listed {
            Ok(folders) if depth < DEPTH_MAX => {
                waiting.extend(folders.into_iter().map(|folder| (folder, depth + 1)));
            }
            Ok(_) => {}
            // Gone between two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => disk.closed_folders.push((path, error.to_string())),
        }
    }
    disk
}

/// Takes down the files of a folder and returns the folders in it.
fn list(home: &Home, path: &[u8], disk: &mut Disk) -> io::Result<Vec<Vec<u8>>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(home.join(path))? {
        let entry = entry?;
        let Ok(kind) = entry.file_type() else { continue };
        let name = entry.file_name().into_vec();
        let below = |name: &[u8]| [path, b"/", name].concat();
        if kind.is_dir() {
            folders.push(below(&name));
            continue;
        }
        if !kind.is_file() || is_temporary(&name) || is_clutter(&name) {
            continue;
        }
        // Listed but not to be looked at: a folder without the right to enter it.
        let found = match entry.metadata() {
            Ok(found) => DiskStat::of(&found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !may_read(&entry.path()) {
            disk.closed_files_count += 1;
            disk.closed_file.get_or_insert_with(|| below(&name));
        }
        let parsed = RolloutName::parse(&name).filter(RolloutName::is_compressed);
        let compressed = parsed.is_some();
        let logical = below(parsed.as_ref().map_or(name.as_slice(), |parsed| parsed.plain().as_bytes()));
        let file = OnDisk { compressed, size_bytes: found.size_bytes, mtime_ns: found.mtime_ns };
        // Plain wins beside its compressed copy.
        if compressed {
            disk.files.entry(logical).or_insert(file);
        } else {
            disk.files.insert(logical, file);
        }
    }
    Ok(folders)
}

fn may_read(path: &Path) -> bool {
    may(path, libc::R_OK)
}

/// May this process, as its effective user, do `mode` (`R_OK`, `W_OK` ...) with the file?
pub(super) fn may(path: &Path, mode: libc::c_int) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: `path` is a NUL-terminated string that lives until after the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) == 0 }
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    OsStr::from_bytes(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198c0de-0000-7000-8000-000000000001";

    #[test]
    fn sees_what_the_index_would_have() {
        let dir = tempfile::tempdir().unwrap();
        let day = dir.path().join("sessions/2026/01/02");
        fs::create_dir_all(&day).unwrap();
        let plain = format!("rollout-2026-01-02T03-04-05-{ID}.jsonl");
        for (name, text) in [
            (plain.clone(), "plain"),
            (format!("{plain}.zst"), "compressed"),
            (".DS_Store".into(), ""),
            ("notes.txt".into(), "n"),
        ] {
            fs::write(day.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("notes.txt", day.join("link")).unwrap();
        let disk = walk(&Home::open(dir.path()).unwrap());
        let mut paths: Vec<_> = disk.files.keys().map(|path| shown(path)).collect();
        paths.sort();
        assert_eq!(paths, ["sessions/2026/01/02/notes.txt".into(), format!("sessions/2026/01/02/{plain}")]);
        let rollout = disk.files[format!("sessions/2026/01/02/{plain}").as_bytes()];
        assert!(!rollout.compressed && rollout.size_bytes == 5, "plain wins: {rollout:?}");
        assert_eq!((disk.folders_count, disk.closed_folders.len(), disk.closed_files_count), (5, 0, 0));
    }

    #[test]
    fn what_lies_in_a_closed_folder_is_hidden() {
        let closed_folders = vec![(b"sessions/2026".to_vec(), "no".to_owned())];
        let disk = Disk { closed_folders, ..Disk::default() };
        assert!(disk.is_hidden(b"sessions/2026/01/x"));
        assert!(!disk.is_hidden(b"sessions/20261/x"));
    }
}
