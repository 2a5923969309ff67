//! What lies in a folder of the home, and how does the index follow it?
//!
//! `list` reads a folder from disk; `apply` makes the index agree. The logical name counts: a `.jsonl.zst` is listed
//! under its plain name, and beside a plain file of that name it is hidden (spec 1.5, "plain wins").

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::areas::{AREAS, Area, Areas};
use super::content::{self, Encoding};
use super::error::{Result, StoreError};
use super::index::KnownFile;
use super::rollout::{self, RolloutName};
use super::row::{DiskStat, FileRow, ReadState, Row, RowKind};
use super::tree::split_path;
use super::writer::Batch;

/// The two folders of a home that hold rollouts.
pub const ROOTS: [&str; 2] = ["sessions", "archived_sessions"];
/// Folders deeper than this below the home are not entered: a home has four levels.
pub(super) const DEPTH_MAX: usize = 32;

/// A folder as it is on disk.
pub(super) struct Listing {
    /// Its path below the home.
    pub(super) path: Vec<u8>,
    /// Logical name, encoding and attributes of each regular file.
    pub(super) files: BTreeMap<Vec<u8>, Found>,
    /// Names of the folders in it.
    pub(super) dirs: Vec<Vec<u8>>,
    /// Its own mtime.
    pub(super) mtime_ns: Option<i64>,
    /// Links, sockets and other things that are passed over.
    pub(super) passed_over_count: u64,
    /// Of all that was seen, in any order: equal digests are equal listings.
    pub(super) digest: u64,
}

/// What one entry adds to the digest of a listing. With the time of its last change of attributes: a file may be
/// readable now that was not.
fn digest_of(name: u64, area: Area, metadata: &fs::Metadata) -> u64 {
    let numbers = [
        name,
        area as u64,
        metadata.size(),
        metadata.mtime() as u64,
        metadata.mtime_nsec() as u64,
        metadata.ctime() as u64,
        metadata.ctime_nsec() as u64,
        metadata.dev(),
        metadata.ino(),
    ];
    xxh3_64(numbers.map(u64::to_le_bytes).as_flattened())
}

/// The name under which a file is shown, and how it lies on disk; None for a temporary of Codex or of a desktop.
pub(super) fn logical_name(name: &[u8]) -> Option<(Vec<u8>, Encoding)> {
    if rollout::is_temporary(name) || is_clutter(name) {
        return None;
    }
    match RolloutName::parse(name) {
        Some(parsed) if parsed.is_compressed() => Some((parsed.plain().as_bytes().to_vec(), Encoding::Zstd)),
        _ => Some((name.to_vec(), Encoding::Plain)),
    }
}

/// What desktops and shares leave behind: never shown, never accepted.
pub fn is_clutter(name: &[u8]) -> bool {
    name.starts_with(b"._") || matches!(name, b".DS_Store" | b"Thumbs.db" | b"desktop.ini")
}

/// A file as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it lies.
    pub(super) area: Area,
    /// How it lies there.
    pub(super) encoding: Encoding,
    /// Its attributes.
    pub(super) disk: DiskStat,
}

/// A root may be a link to another disk; below it links are not followed.
fn dir_metadata(dir: &Path, path: &[u8]) -> io::Result<fs::Metadata> {
    let is_root = !path.contains(&b'/');
    if is_root { fs::metadata(dir) } else { fs::symlink_metadata(dir) }
}

/// The own mtime of a folder; None where there is none in the home now.
pub(super) fn dir_mtime_ns(areas: &Areas, path: &[u8]) -> Option<i64> {
    let metadata = dir_metadata(&areas.join(Area::Home, path), path).ok()?;
    metadata.is_dir().then(|| DiskStat::of(&metadata).mtime_ns)
}

/// Reads a folder, in all areas. Ok(None): there is no such folder in any.
pub(super) fn list(areas: &Areas, path: &[u8]) -> Result<Option<Listing>> {
    let mut listing = Listing {
        path: path.to_owned(),
        files: BTreeMap::new(),
        dirs: Vec::new(),
        mtime_ns: None,
        passed_over_count: 0,
        digest: 0,
    };
    let mut found = false;
    // The home last: its files win.
    for area in AREAS.into_iter().rev() {
        found |= list_area(areas, area, &mut listing)?;
    }
    // A folder of the spool may have the name of an odd file in the home: what is in the folder is work, and is shown.
    for name in &listing.dirs {
        if RolloutName::parse(name).is_none() && listing.files.remove(name).is_some() {
            listing.passed_over_count += 1;
        }
    }
    // A folder may have the name under which a compressed rollout is shown: the thread is shown.
    listing.dirs.sort();
    listing.dirs.dedup();
    let folders = listing.dirs.len();
    listing.dirs.retain(|name| !listing.files.contains_key(name));
    listing.passed_over_count += (folders - listing.dirs.len()) as u64;
    Ok(found.then_some(listing))
}

fn list_area(areas: &Areas, area: Area, listing: &mut Listing) -> Result<bool> {
    let dir = areas.join(area, &listing.path);
    let absent =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let metadata = match dir_metadata(&dir, &listing.path) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Ok(false),
        Err(error) if absent(&error) => return Ok(false),
        Err(error) => return Err(StoreError::io("look at", &dir)(error)),
    };
    let reading = match fs::read_dir(&dir) {
        Ok(reading) => reading,
        Err(error) if absent(&error) => return Ok(false),
        Err(error) => return Err(StoreError::io("list", &dir)(error)),
    };
    if area == Area::Home {
        listing.mtime_ns = Some(DiskStat::of(&metadata).mtime_ns);
    }
    let own = [metadata.mtime() as u64, metadata.mtime_nsec() as u64, metadata.ino(), area as u64];
    listing.digest = listing.digest.wrapping_add(xxh3_64(own.map(u64::to_le_bytes).as_flattened()));
    for entry in reading {
        let entry = entry.map_err(StoreError::io("list", &dir))?;
        let Ok(kind) = entry.file_type() else { continue };
        let name = entry.file_name().into_vec();
        if kind.is_dir() {
            listing.digest = listing.digest.wrapping_add(xxh3_64(&name).rotate_left(1));
            listing.dirs.push(name);
        } else if kind.is_file() {
            let name_digest = xxh3_64(&name);
            // A temporary of a tool is shown while it is ours, and not what Codex leaves in its home.
            let logical =
                if area == Area::Scratch { Some((name, Encoding::Plain)) } else { logical_name(&name) };
            let Some((logical, encoding)) = logical else { continue };
            // Gone between the listing and the look: it will be news of its own.
            let Ok(metadata) = entry.metadata() else { continue };
            listing.digest = listing.digest.wrapping_add(digest_of(name_digest, area, &metadata));
            let found = Found { area, encoding, disk: DiskStat::of(&metadata) };
            let slot = listing.files.entry(logical).or_insert(found);
            if encoding == Encoding::Plain || slot.area != area {
                *slot = found;
            }
        } else {
            listing.passed_over_count += 1;
        }
    }
    Ok(true)
}

/// Is there a folder of a rollout's name? Then it takes a listing of the folder around it to say what is shown.
pub(super) fn is_dir_named_as_rollout(areas: &Areas, path: &[u8]) -> bool {
    RolloutName::parse(split_path(path).1).is_some()
        && fs::symlink_metadata(areas.join(Area::Home, path)).is_ok_and(|found| found.is_dir())
}

/// Looks at one file by its logical path, as `list` would find it. Ok(None): there is none.
pub(super) fn look(areas: &Areas, path: &[u8]) -> Result<Option<Found>> {
    let (area, located) = match areas.locate(path) {
        Ok(located) => located,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Beside a stray file, `.zst` is another stray file.
    let is_rollout = RolloutName::parse(split_path(path).1).is_some();
    if !is_rollout && areas.join(Area::Pending, path).is_dir() {
        return Ok(None);
    }
    let counts = located.encoding == Encoding::Plain || is_rollout;
    let disk = DiskStat::of(&located.stat);
    Ok(counts.then_some(Found { area, encoding: located.encoding, disk }))
}

/// What the listings of a batch no longer have; of two listings of one folder the later says.
#[derive(Default)]
pub(super) struct Gone {
    /// Logical paths, and their rows.
    files: BTreeMap<Vec<u8>, i64>,
    dirs: BTreeSet<Vec<u8>>,
}

impl Gone {
    /// A folder that is no longer there.
    pub(super) fn dir(&mut self, path: Vec<u8>) {
        self.dirs.insert(path);
    }

    /// A file that is no longer there. Of a missing thread none ever was.
    fn file(&mut self, known: KnownFile) {
        if known.kind != RowKind::Missing {
            self.files.insert(known.path, known.row);
        }
    }

    /// Takes it out of the index. To be done last in a batch: what was found elsewhere may be what is gone here.
    pub(super) fn remove(self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        for &row in self.files.values() {
            remove_row(batch, row)?;
        }
        self.dirs.iter().try_for_each(|dir| forget_dir(batch, dir))
    }
}

/// Makes the index agree with what a listing has.
pub(super) fn apply(
    batch: &mut Batch<'_>,
    areas: &Areas,
    listing: &Listing,
    gone: &mut Gone,
) -> rusqlite::Result<()> {
    gone.dirs.remove(&listing.path);
    let number = batch.tree.keep(&listing.path, listing.mtime_ns)?;
    // Both are in the order of names.
    let mut known = batch.queries().known_files(number)?.into_iter().peekable();
    for (name, &found) in &listing.files {
        while let Some(before) = known.next_if(|before| before.name() < name.as_slice()) {
            gone.file(before);
        }
        match known.next_if(|before| before.name() == name.as_slice()) {
            Some(before) => {
                gone.files.remove(&before.path);
                if is_changed(before.state, (before.area, before.encoding, before.disk), found)
                    && let Some(before) = batch.queries().row_by_id(before.row)?
                {
                    apply_known(batch, areas, &before, found)?;
                }
            }
            None => apply_new(batch, areas, &join(&listing.path, name), found)?,
        }
    }
    known.for_each(|before| gone.file(before));
    for dir in batch.queries().child_dirs(number)? {
        if listing.dirs.binary_search(&dir.name).is_err() {
            gone.dir(dir.path);
        }
    }
    for name in &listing.dirs {
        batch.tree.keep_new(&join(&listing.path, name))?;
    }
    Ok(())
}

/// Makes the index agree with one file. `found` is None where the logical path leads to nothing.
pub(super) fn apply_file(
    batch: &mut Batch<'_>,
    areas: &Areas,
    path: &[u8],
    found: Option<Found>,
) -> rusqlite::Result<()> {
    match (batch.queries().row_by_path(path)?, found) {
        (Some(before), Some(found)) => apply_known(batch, areas, &before, found),
        (None, Some(found)) => apply_new(batch, areas, path, found),
        (Some(before), None) => batch.remove(&before),
        (None, None) => Ok(()),
    }
}

fn apply_new(batch: &mut Batch<'_>, areas: &Areas, path: &[u8], found: Found) -> rusqlite::Result<()> {
    let Found { area, encoding, disk } = found;
    let mut row = Row::found(area, path.to_owned(), encoding, disk);
    row.file.decoded_bytes = stated_bytes(areas, path, found);
    if let Some(thread) = row.file.thread_id {
        // A file that was moved: what was read of it holds, so that no view loses it meanwhile. Under another name
        // it may mean something else: a file without a header is of the time in its name.
        let known = batch.queries().rows_of_thread(thread)?;
        let is_it = |other: &Row| {
            other.file.disk == disk
                && other.file.encoding == encoding
                && other.file.file_name() == row.file.file_name()
        };
        if let Some(moved) = known.into_iter().find(is_it) {
            let state = moved.file.state;
            row = Row { file: FileRow { state, ..row.file }, ..moved.clone() };
            row.file.torn = moved.file.torn;
            row.file.bare = moved.file.bare;
            row.file.parse_errors = moved.file.parse_errors;
            row.file.decoded_bytes = moved.file.decoded_bytes;
        }
    }
    batch.insert(row)
}

/// Is what was found another file than what is known, or one that could not be read?
fn is_changed(state: ReadState, known: (Area, Encoding, DiskStat), found: Found) -> bool {
    known != (found.area, found.encoding, found.disk) || state == ReadState::Failed
}

fn remove_row(batch: &mut Batch<'_>, row: i64) -> rusqlite::Result<()> {
    match batch.queries().row_by_id(row)? {
        Some(row) => batch.remove(&row),
        None => Ok(()),
    }
}

fn apply_known(batch: &mut Batch<'_>, areas: &Areas, before: &Row, found: Found) -> rusqlite::Result<()> {
    let Found { area, encoding, disk } = found;
    if !is_changed(before.file.state, (before.file.area, before.file.encoding, before.file.disk), found) {
        return Ok(());
    }
    let mut after = before.clone();
    after.file.disk = disk;
    after.file.encoding = encoding;
    after.file.area = area;
    if before.file.disk == disk && before.file.encoding == encoding && before.file.state != ReadState::Failed
    {
        // Only its place changed: it was materialised.
        return batch.update(before, after);
    }
    after.meta.updated_at_ms = disk.mtime_ns.div_euclid(1_000_000);
    if after.file.kind == RowKind::Rollout {
        after.file.state = ReadState::Unread;
        let same_file = before.file.disk.device == disk.device && before.file.disk.inode == disk.inode;
        let grew = encoding == Encoding::Plain
            && before.file.encoding == encoding
            && disk.size_bytes >= before.indexed_bytes;
        if !(same_file && grew) {
            after.resume = None;
            after.indexed_bytes = 0;
        }
        after.file.decoded_bytes = stated_bytes(areas, &after.file.path, found);
    }
    batch.update(before, after)
}

/// The decoded size of a compressed rollout where its frame states it. Damage shows when it is read.
fn stated_bytes(areas: &Areas, path: &[u8], found: Found) -> Option<u64> {
    match found.encoding {
        Encoding::Plain => None,
        Encoding::Zstd => {
            let mut on_disk = path.to_owned();
            on_disk.extend_from_slice(b".zst");
            content::decoded_size_stated(&areas.join(found.area, &on_disk)).ok().flatten()
        }
    }
}

/// Takes a folder that is gone out of the index, with all that was below it.
fn forget_dir(batch: &mut Batch<'_>, path: &[u8]) -> rusqlite::Result<()> {
    let number = batch.tree.number(path)?;
    for dir in batch.queries().child_dirs(number)? {
        forget_dir(batch, &dir.path)?;
    }
    for known in batch.queries().known_files(number)? {
        remove_row(batch, known.row)?;
    }
    // The two roots are always shown.
    if ROOTS.iter().any(|root| root.as_bytes() == path) {
        return batch.tree.keep(path, None).map(drop);
    }
    batch.tree.unkeep(path)
}

/// A path below another.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Depth of a path below the home.
pub(super) fn depth(path: &[u8]) -> usize {
    1 + split_path(path).0.iter().filter(|&&byte| byte == b'/').count()
}
