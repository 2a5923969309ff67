//! What does `info.json` say of an item of the trash, and what is known without it?

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::store::archive;
use crate::store::error::{Result, StoreError};
use crate::store::failpoint::hit;
use crate::store::home::Home;
use crate::store::placement::{is_ours, sync_folder};
use crate::store::rollout::{RolloutName, ThreadId};
use crate::store::row::DiskStat;
use crate::store::scan::ROOTS;

/// The file of an item that says what it is.
pub const INFO_NAME: &str = "info.json";
/// It holds a thread's name.
const INFO_MODE: u32 = 0o600;
/// Bytes of an `info.json` that are read.
const INFO_BYTES_MAX: u64 = 1 << 20;
/// Why an item is there whose `info.json` cannot be read.
pub(super) const WHY_UNKNOWN: &str = "not known: its info.json is missing or damaged";

/// One file of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashedFile {
    /// Its name in the item's folder.
    pub stored: String,
    /// Where it was: path on disk below the home, `%` and bytes that are not UTF-8 as `%XX`.
    pub path: String,
    /// Its size on disk.
    pub size_bytes: u64,
    /// Its mtime, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// What `info.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashInfo {
    /// The thread, of files that are rollouts.
    pub thread_id: Option<ThreadId>,
    /// Its name when it was removed.
    pub name: Option<String>,
    /// When it was removed, RFC 3339 in UTC.
    pub removed_at: String,
    /// Who removed it or why, in words.
    pub why: String,
    /// Its files, the one that counts last.
    pub files: Vec<TrashedFile>,
}

/// Writes `info.json` and syncs it.
pub(super) fn write_info(home: &Home, folder: &Path, info: &TrashInfo) -> Result<()> {
    let path = folder.join(INFO_NAME);
    let write = || {
        let mut text = serde_json::to_vec_pretty(info)?;
        text.push(b'\n');
        let mut file = OpenOptions::new().write(true).create_new(true).mode(INFO_MODE).open(&path)?;
        home.give(&file);
        file.write_all(&text)?;
        hit("trash.info_unsynced");
        file.sync_all()
    };
    write().map_err(StoreError::io("write", &path))?;
    sync_folder(folder)
}

/// None where it is missing, torn, or names a place outside of the item.
pub(super) fn read_info(folder: &Path) -> Option<TrashInfo> {
    let mut text = String::new();
    File::open(folder.join(INFO_NAME)).ok()?.take(INFO_BYTES_MAX).read_to_string(&mut text).ok()?;
    let info: TrashInfo = serde_json::from_str(&text).ok()?;
    let is_name = |stored: &str| {
        !stored.is_empty() && !stored.contains('/') && !matches!(stored, "." | ".." | INFO_NAME)
    };
    info.files.iter().all(|file| is_name(&file.stored)).then_some(info)
}

/// What the names and attributes of its files tell of an item without `info.json`.
pub(super) fn info_of_names(folder: &Path) -> Result<TrashInfo> {
    let mut info = TrashInfo {
        thread_id: None,
        name: None,
        removed_at: String::new(),
        why: WHY_UNKNOWN.to_owned(),
        files: Vec::new(),
    };
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))?.flatten() {
        let (Ok(stored), Ok(found)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
        if stored == INFO_NAME || is_ours(stored.as_bytes()) || !found.is_file() {
            continue;
        }
        let disk = DiskStat::of(&found);
        let name = RolloutName::parse(stored.as_bytes());
        let path = match &name {
            Some(name) => {
                let plain = String::from_utf8_lossy(&archive::active_path(name)).into_owned();
                if name.is_compressed() { plain + ".zst" } else { plain }
            }
            None => format!("{}/{stored}", ROOTS[0]),
        };
        info.thread_id = info.thread_id.or(name.map(|name| name.thread_id()));
        let (size_bytes, mtime_ns) = (disk.size_bytes, disk.mtime_ns);
        info.files.push(TrashedFile { stored, path, size_bytes, mtime_ns });
    }
    // The plain file after its `.zst`.
    info.files.sort_by(|one, other| other.stored.cmp(&one.stored));
    Ok(info)
}

/// Files of an item that are there.
pub(super) fn count_present(folder: &Path, info: &TrashInfo) -> usize {
    info.files.iter().filter(|file| fs::symlink_metadata(folder.join(&file.stored)).is_ok()).count()
}

/// How long ago an item was removed; None where it does not say.
pub(super) fn removed_before(info: &TrashInfo) -> Option<Duration> {
    let then =
        OffsetDateTime::parse(&info.removed_at, &time::format_description::well_known::Rfc3339).ok()?;
    // In the future: a clock that was set back. It is young then.
    Some(Duration::try_from(OffsetDateTime::now_utc() - then).unwrap_or_default())
}

/// A path as text: `%` and bytes that are not UTF-8 become `%XX`.
pub(super) fn encode_path(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// The path that was encoded; a `%` without two digits behind it stands for itself.
pub(super) fn decode_path(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                path.push(byte);
                at += 3;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    path
}
