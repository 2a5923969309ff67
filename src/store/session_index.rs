//! Which names do the threads have, and how does a name get into or out of `session_index.jsonl`?
//!
//! The file is append-only and shared with Codex: position decides, never `updated_at`, and a line that
//! will not parse is skipped (spec 4). No lock is taken on it. Depends on `error` only.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::error::{Result, StoreError};

/// How much of the file is read at once, from the end.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// The longest line that is looked at, without its newline. Longer ones are skipped and counted.
pub const INDEX_LINE_BYTES_MAX: usize = 1024 * 1024;
/// How many bytes before a [`Position`] tell whether the file is still the same one.
pub const FINGERPRINT_BYTES_MAX: u64 = 4096;
/// How often [`remove`] starts again when somebody else replaces the file meanwhile.
const REWRITE_ATTEMPTS_MAX: u32 = 3;
/// Permissions of an index that [`append`] has to create.
const NEW_INDEX_MODE: u32 = 0o600;

/// One line of the index (spec 4.1). All three keys are required, others are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameEntry {
    /// The thread.
    pub id: Uuid,
    /// Its name as it was given; may be blank, and need not be unique.
    pub thread_name: String,
    /// RFC 3339 in UTC, or `unknown`. Never used for ordering.
    pub updated_at: String,
}

impl NameEntry {
    /// The entry in `line`, or None when the line is blank, not UTF-8, not JSON or incomplete.
    pub fn parse(line: &[u8]) -> Option<NameEntry> {
        serde_json::from_str(std::str::from_utf8(line).ok()?.trim()).ok()
    }
}

/// Which holder of a name is meant (spec 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// The newest entry with that name, even if its thread was renamed afterwards (February 2026).
    Seed,
    /// Only the most recent entry of each thread counts (later versions).
    #[default]
    Newest,
}

/// The lines of a file, last to first, in bounded memory. One `\r` at the end of a line is dropped, blank
/// lines are skipped, and a last line without a newline counts.
#[derive(Debug)]
pub struct ReverseLines<R> {
    reader: R,
    /// Where the block in `block` starts; all before it is unread.
    block_offset: u64,
    block: Vec<u8>,
    /// What is left of the block: its first `block_left` bytes.
    block_left: usize,
    block_bytes: usize,
    /// The part of the current line that lay in later blocks, back to front.
    carry_reversed: Vec<u8>,
    line_bytes_max: usize,
    overlong: bool,
    overlong_count: u64,
    finished: bool,
}

impl<R: Read + Seek> ReverseLines<R> {
    /// The lines of `reader` from the end it has now.
    pub fn new(reader: R) -> io::Result<Self> {
        Self::with_limits(reader, BLOCK_BYTES, INDEX_LINE_BYTES_MAX)
    }

    /// As [`ReverseLines::new`] with a block size and a longest line of one's own.
    pub fn with_limits(mut reader: R, block_bytes: usize, line_bytes_max: usize) -> io::Result<Self> {
        let block_offset = reader.seek(SeekFrom::End(0))?;
        Ok(ReverseLines {
            reader,
            block_offset,
            block: Vec::new(),
            block_left: 0,
            block_bytes: block_bytes.max(1),
            carry_reversed: Vec::new(),
            line_bytes_max,
            overlong: false,
            overlong_count: 0,
            finished: false,
        })
    }

    /// How many lines were too long so far.
    pub fn overlong_count(&self) -> u64 {
        self.overlong_count
    }

    /// Reads the block before the current one. False at the start of the file.
    fn read_previous_block(&mut self) -> io::Result<bool> {
        let length = self.block_offset.min(self.block_bytes as u64) as usize;
        if length == 0 {
            return Ok(false);
        }
        self.block_offset -= length as u64;
        self.block.resize(length, 0);
        self.reader.seek(SeekFrom::Start(self.block_offset))?;
        self.reader.read_exact(&mut self.block)?;
        self.block_left = length;
        Ok(true)
    }

    /// Puts `self.block[start..block_left]` in front of the current line.
    fn carry_from(&mut self, start: usize) {
        let part = &self.block[start..self.block_left];
        if self.overlong || self.carry_reversed.len() + part.len() > self.line_bytes_max {
            self.overlong = true;
            self.carry_reversed.clear();
        } else {
            self.carry_reversed.extend(part.iter().rev());
        }
        self.block_left = start;
    }

    /// Ends the current line: None when it was too long or blank.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.overlong) {
            self.overlong_count += 1;
            return None;
        }
        let mut line = std::mem::take(&mut self.carry_reversed);
        line.reverse();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        (!line.trim_ascii().is_empty()).then_some(line)
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        while !self.finished {
            match memchr::memrchr(b'\n', &self.block[..self.block_left]) {
                Some(newline) => {
                    self.carry_from(newline + 1);
                    self.block_left = newline;
                }
                None => {
                    self.carry_from(0);
                    if self.read_previous_block()? {
                        continue;
                    }
                    self.finished = true;
                }
            }
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}

impl<R: Read + Seek> Iterator for ReverseLines<R> {
    type Item = io::Result<Vec<u8>>;

    /// The line before; after an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let line = self.next_line();
        self.finished |= line.is_err();
        line.transpose()
    }
}

/// Opens the index for reading; None when there is none.
fn open_index(path: &Path) -> Result<Option<File>> {
    // Without O_NONBLOCK, a named pipe in its place would hang us.
    match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => {
            if file.metadata().map_err(StoreError::io("stat", path))?.is_file() {
                return Ok(Some(file));
            }
            let reason = io::Error::new(ErrorKind::InvalidInput, "it is not a regular file");
            Err(StoreError::io("read", path)(reason))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(StoreError::io("open", path)(error)),
    }
}

/// Shows `visit` the entries of the index, newest first, until it breaks.
fn visit_newest_first(path: &Path, visit: &mut dyn FnMut(NameEntry) -> ControlFlow<()>) -> Result<()> {
    let Some(file) = open_index(path)? else { return Ok(()) };
    let mut lines = ReverseLines::new(file).map_err(StoreError::io("read", path))?;
    for line in &mut lines {
        let line = line.map_err(StoreError::io("read", path))?;
        let Some(entry) = NameEntry::parse(&line) else { continue };
        if visit(entry).is_break() {
            break;
        }
    }
    if lines.overlong_count() > 0 {
        log::debug!("{}: {} overlong lines skipped", path.display(), lines.overlong_count());
    }
    Ok(())
}

/// The last name of thread `id`, as it stands there (it may be blank). None without an entry or a file.
///
/// # Errors
/// [`StoreError::Io`] when the index is there and cannot be read.
pub fn name_by_id(path: &Path, id: Uuid) -> Result<Option<String>> {
    let mut found = None;
    visit_newest_first(path, &mut |entry| {
        if entry.id != id {
            return ControlFlow::Continue(());
        }
        found = Some(entry.thread_name);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// The last name of each of `ids` that is not blank, trimmed. Threads without one are absent.
///
/// # Errors
/// [`StoreError::Io`] when the index is there and cannot be read.
pub fn names_by_ids(path: &Path, ids: &HashSet<Uuid>) -> Result<HashMap<Uuid, String>> {
    let mut names = HashMap::new();
    if ids.is_empty() {
        return Ok(names);
    }
    visit_newest_first(path, &mut |entry| {
        let name = entry.thread_name.trim();
        if ids.contains(&entry.id) && !name.is_empty() {
            names.entry(entry.id).or_insert_with(|| name.to_owned());
        }
        if names.len() == ids.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(names)
}

/// Shows `visit` the holders of `name`, newest first, as `rule` sees them. Names compare exactly; a blank
/// one has no holder.
fn visit_holders(
    path: &Path,
    name: &str,
    rule: Rule,
    visit: &mut dyn FnMut(Uuid) -> ControlFlow<()>,
) -> Result<()> {
    if name.trim().is_empty() {
        return Ok(());
    }
    let mut seen = HashSet::new();
    visit_newest_first(path, &mut |entry| {
        let counts = rule == Rule::Seed || seen.insert(entry.id);
        if counts && entry.thread_name == name { visit(entry.id) } else { ControlFlow::Continue(()) }
    })
}

/// The thread that `name` means, whether or not it has a rollout.
///
/// # Errors
/// [`StoreError::Io`] when the index is there and cannot be read.
pub fn id_by_name(path: &Path, name: &str, rule: Rule) -> Result<Option<Uuid>> {
    let mut found = None;
    visit_holders(path, name, rule, &mut |id| {
        found = Some(id);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// What `rollout` says of the thread that `name` means. `rollout` answers None for a thread without a
/// readable rollout; then [`Rule::Newest`] goes on to the next older holder and [`Rule::Seed`] gives up.
///
/// # Errors
/// [`StoreError::Io`] when the index is there and cannot be read.
pub fn path_by_name<T>(
    path: &Path,
    name: &str,
    rule: Rule,
    rollout: &mut dyn FnMut(Uuid) -> Option<T>,
) -> Result<Option<T>> {
    let mut found = None;
    visit_holders(path, name, rule, &mut |id| {
        found = rollout(id);
        let done = found.is_some() || rule == Rule::Seed;
        if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// Appends `entry` in one write, creating the file when it is absent. After a torn last line the write
/// begins with a newline, so that the two do not become one. Not synced: Codex does not either.
///
/// # Errors
/// [`StoreError::Invalid`] for a name too long for [`INDEX_LINE_BYTES_MAX`], else [`StoreError::Io`].
pub fn append(path: &Path, entry: &NameEntry) -> Result<()> {
    let json = serde_json::to_vec(entry)
        .map_err(|error| StoreError::Invalid(format!("the name of {} is no JSON: {error}", entry.id)))?;
    if json.len() > INDEX_LINE_BYTES_MAX {
        let length = entry.thread_name.len();
        return Err(StoreError::Invalid(format!("a name of {length} bytes is too long for the index")));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(NEW_INDEX_MODE)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(StoreError::io("open", path))?;
    let mut line = Vec::with_capacity(json.len() + 2);
    if !ends_with_newline(&file).map_err(StoreError::io("read", path))? {
        line.push(b'\n');
    }
    line.extend_from_slice(&json);
    line.push(b'\n');
    let written = loop {
        match file.write(&line) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => break result.map_err(StoreError::io("append to", path))?,
        }
    };
    if written == line.len() {
        return Ok(());
    }
    // A second write could land behind another program's line. The next append heals the torn one.
    let reason = format!("{written} of {} bytes written", line.len());
    Err(StoreError::io("append to", path)(io::Error::new(ErrorKind::WriteZero, reason)))
}

fn ends_with_newline(file: &File) -> io::Result<bool> {
    let size_bytes = file.metadata()?.len();
    let mut last = [b'\n'];
    if size_bytes > 0 {
        // Nothing read means that the file was emptied meanwhile: the line starts at its start.
        let _ = file.read_at(&mut last, size_bytes - 1)?;
    }
    Ok(last == *b"\n")
}

/// Drops every entry of thread `id` and says how many there were. All other lines stay byte for byte,
/// malformed ones too, and so does the mode. Nothing to drop or no file: the file is untouched.
///
/// The new file replaces the old one by rename (spec 4.5). What another program appends to the old one
/// until the rename, and just after, is carried over.
///
/// # Errors
/// [`StoreError::Io`], or [`StoreError::Busy`] when others keep replacing the file.
pub fn remove(path: &Path, id: Uuid) -> Result<u64> {
    for _ in 0..REWRITE_ATTEMPTS_MAX {
        let Some(old) = open_index(path)? else { return Ok(0) };
        let (dropped, end) = find_lines_of(&old, id).map_err(StoreError::io("read", path))?;
        if dropped.is_empty() {
            return Ok(0);
        }
        // A linked index stays a link.
        let target = fs::canonicalize(path).map_err(StoreError::io("resolve", path))?;
        if rewrite(&old, &target, &dropped, end)? {
            return Ok(dropped.len() as u64);
        }
    }
    Err(StoreError::Busy {
        path: path.to_owned(),
        holder: "another program that rewrites it".to_owned(),
        remedy: "try again".to_owned(),
    })
}

/// The byte ranges of the lines of `id`, and where the scan ended.
fn find_lines_of(file: &File, id: Uuid) -> io::Result<(Vec<Range<u64>>, u64)> {
    let mut lines = ForwardLines::new(ReadFrom { file, offset: 0 }, 0, INDEX_LINE_BYTES_MAX);
    let mut ranges = Vec::new();
    while let Some(line) = lines.next_line()? {
        if NameEntry::parse(lines.text()).is_some_and(|entry| entry.id == id) {
            ranges.push(line.start..line.end);
        }
    }
    Ok((ranges, lines.offset))
}

/// Puts a copy of `old` without the ranges `dropped` in the place of `target`. False when `target` is no
/// longer the file that `old` is, and nothing was done.
fn rewrite(old: &File, target: &Path, dropped: &[Range<u64>], end: u64) -> Result<bool> {
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &temporary)(error));
        }
        _ => {}
    }
    let replaced = write_temporary(old, &temporary, dropped, end)
        .map_err(StoreError::io("write", &temporary))
        .and_then(|(new, end)| replace(old, &new, &temporary, target, end));
    if !matches!(replaced, Ok(true)) {
        // The rename did not happen, or it did and there is nothing left to remove.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

/// Writes what is kept to a new file and syncs it. Answers it and the first byte of `old` it lacks.
fn write_temporary(
    old: &File,
    temporary: &Path,
    dropped: &[Range<u64>],
    end: u64,
) -> io::Result<(File, u64)> {
    let before = old.metadata()?;
    // Opened for append: from the rename on, others append to it as well.
    let new = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(NEW_INDEX_MODE)
        .custom_flags(libc::O_NOFOLLOW)
        .open(temporary)?;
    let mut kept_from = 0;
    for range in dropped {
        copy_range(old, &new, kept_from..range.start)?;
        kept_from = range.end;
    }
    copy_range(old, &new, kept_from..end)?;
    let end = copy_range(old, &new, end..u64::MAX)?;
    let created = new.metadata()?;
    if (created.uid(), created.gid()) != (before.uid(), before.gid()) {
        // Else a rewrite by root would take the index away from its user.
        fchown(&new, Some(before.uid()), Some(before.gid()))?;
    }
    new.set_permissions(before.permissions())?;
    new.sync_all()?;
    Ok((new, end))
}

fn replace(old: &File, new: &File, temporary: &Path, target: &Path, end: u64) -> Result<bool> {
    let current = fs::symlink_metadata(target).map_err(StoreError::io("stat", target))?;
    let ours = old.metadata().map_err(StoreError::io("stat", target))?;
    if (current.dev(), current.ino()) != (ours.dev(), ours.ino()) {
        return Ok(false);
    }
    fs::rename(temporary, target).map_err(StoreError::io("replace", target))?;
    copy_range(old, new, end..u64::MAX).map_err(StoreError::io("append to", target))?;
    Ok(true)
}

/// Appends `range` of `from` to `to`, as far as `from` goes. Answers where it ended.
fn copy_range(from: &File, mut to: &File, range: Range<u64>) -> io::Result<u64> {
    let source = ReadFrom { file: from, offset: range.start };
    let copied_bytes = io::copy(&mut source.take(range.end - range.start), &mut to)?;
    Ok(range.start + copied_bytes)
}

/// Reads a file from an offset on, without moving the cursor it shares.
struct ReadFrom<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for ReadFrom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Where a line lies, its newline included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LineSpan {
    start: u64,
    end: u64,
    /// It has its newline.
    complete: bool,
}

/// The lines of a reader, first to last, in bounded memory.
struct ForwardLines<R> {
    reader: BufReader<R>,
    /// Where the next line starts.
    offset: u64,
    line: Vec<u8>,
    overlong: bool,
    line_bytes_max: usize,
}

impl<R: Read> ForwardLines<R> {
    fn new(reader: R, offset: u64, line_bytes_max: usize) -> Self {
        let reader = BufReader::with_capacity(BLOCK_BYTES, reader);
        ForwardLines { reader, offset, line: Vec::new(), overlong: false, line_bytes_max }
    }

    /// The text of the line that [`ForwardLines::next_line`] found; empty when it was too long.
    fn text(&self) -> &[u8] {
        &self.line
    }

    fn next_line(&mut self) -> io::Result<Option<LineSpan>> {
        let start = self.offset;
        self.line.clear();
        self.overlong = false;
        loop {
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            let newline = memchr::memchr(b'\n', available);
            let part = &available[..newline.unwrap_or(available.len())];
            let used = part.len() + usize::from(newline.is_some());
            if self.overlong || self.line.len() + part.len() > self.line_bytes_max {
                self.overlong = true;
                self.line.clear();
            } else {
                self.line.extend_from_slice(part);
            }
            self.reader.consume(used);
            self.offset += used as u64;
            if newline.is_some() || used == 0 {
                let span = LineSpan { start, end: self.offset, complete: newline.is_some() };
                return Ok((span.end > span.start).then_some(span));
            }
        }
    }
}

/// How far a follower has read, and how it knows the file again. To be stored beside what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The file's device; 0 for a file that is not there.
    pub device: u64,
    /// The file's number on it; 0 for a file that is not there.
    pub inode: u64,
    /// The start of the first line that was not read, in bytes.
    pub offset_bytes: u64,
    /// XXH3 of the last [`FINGERPRINT_BYTES_MAX`] or fewer bytes before the offset.
    pub fingerprint: u64,
}

/// An entry and where its line starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The start of its line, in bytes from the start of the file. A larger one is newer.
    pub offset_bytes: u64,
    /// What the line says.
    pub entry: NameEntry,
}

/// What happened to the index since a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// These entries came; what was read before still stands.
    Appended(Vec<PlacedEntry>),
    /// It is another file, or it was cut or rewritten: these are all its entries, forget the others.
    Replaced(Vec<PlacedEntry>),
}

/// The answer of [`Follower::advance`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The complete lines.
    pub follow: Follow,
    /// The last line, when it has no newline yet and parses all the same. It counts as the newest entry,
    /// and comes again next time: the position stays before it.
    pub tail: Option<PlacedEntry>,
    /// Where the next look starts.
    pub position: Position,
}

/// Reads what was appended to an index since the last time.
#[derive(Debug, Clone)]
pub struct Follower {
    path: PathBuf,
    position: Option<Position>,
}

impl Follower {
    /// Follows the index at `path` from `position`, or from its start.
    pub fn new(path: PathBuf, position: Option<Position>) -> Self {
        Follower { path, position }
    }

    /// Where the next look starts; None before the first.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Reads what is new. The first look without a position answers [`Follow::Replaced`]. A file that is
    /// not there has no entries.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be read; the position stays as it was.
    pub fn advance(&mut self) -> Result<Followed> {
        let followed = match open_index(&self.path)? {
            Some(file) => follow(&file, self.position).map_err(StoreError::io("read", &self.path))?,
            None => {
                let still_absent = self.position == Some(Position::default());
                let none = Vec::new();
                let follow = if still_absent { Follow::Appended(none) } else { Follow::Replaced(none) };
                Followed { follow, tail: None, position: Position::default() }
            }
        };
        self.position = Some(followed.position);
        Ok(followed)
    }
}

fn follow(file: &File, position: Option<Position>) -> io::Result<Followed> {
    let stat = file.metadata()?;
    let mut start = 0;
    let mut appended = false;
    if let Some(position) = position {
        appended = (position.device, position.inode) == (stat.dev(), stat.ino())
            && position.offset_bytes <= stat.len()
            && fingerprint(file, position.offset_bytes)? == Some(position.fingerprint);
        start = if appended { position.offset_bytes } else { 0 };
    }
    let mut lines = ForwardLines::new(ReadFrom { file, offset: start }, start, INDEX_LINE_BYTES_MAX);
    let (mut entries, mut tail, mut read_to) = (Vec::new(), None, start);
    while let Some(line) = lines.next_line()? {
        let entry = NameEntry::parse(lines.text());
        let placed = entry.map(|entry| PlacedEntry { offset_bytes: line.start, entry });
        if line.complete {
            entries.extend(placed);
            read_to = line.end;
        } else {
            tail = placed;
        }
    }
    // A file cut while it was read has no fingerprint here; 0 makes the next look start again.
    let fingerprint = fingerprint(file, read_to)?.unwrap_or(0);
    let position = Position { device: stat.dev(), inode: stat.ino(), offset_bytes: read_to, fingerprint };
    let follow = if appended { Follow::Appended(entries) } else { Follow::Replaced(entries) };
    Ok(Followed { follow, tail, position })
}

/// The fingerprint of what lies before `offset`; None when the file ends before it.
fn fingerprint(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let length = offset.min(FINGERPRINT_BYTES_MAX);
    let mut bytes = vec![0; length as usize];
    match file.read_exact_at(&mut bytes, offset - length) {
        Ok(()) => Ok(Some(xxh3_64(&bytes))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0000 + number)
    }

    fn entry(number: u128, name: &str) -> NameEntry {
        NameEntry { id: id(number), thread_name: name.to_owned(), updated_at: "unknown".to_owned() }
    }

    fn line(number: u128, name: &str) -> String {
        serde_json::to_string(&entry(number, name)).unwrap() + "\n"
    }

    struct Index {
        _folder: TempDir,
        path: PathBuf,
    }

    impl Index {
        fn absent() -> Index {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("session_index.jsonl");
            Index { _folder: folder, path }
        }

        fn with(entries: &[(u128, &str)]) -> Index {
            let index = Index::absent();
            for (number, name) in entries {
                append(&index.path, &entry(*number, name)).unwrap();
            }
            index
        }

        fn holding(bytes: impl AsRef<[u8]>) -> Index {
            let index = Index::absent();
            fs::write(&index.path, bytes).unwrap();
            index
        }

        fn push(&self, bytes: &str) {
            let mut file = OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
            file.write_all(bytes.as_bytes()).unwrap();
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.path).unwrap()
        }

        fn by_name(&self, name: &str, rule: Rule) -> Option<u128> {
            id_by_name(&self.path, name, rule).unwrap().map(|found| found.as_u128() - id(0).as_u128())
        }
    }

    /// Spec 11.1, case 1.
    #[test]
    fn two_ids_with_the_same_name_the_later_wins() {
        let index = Index::with(&[(1, "same"), (2, "same")]);
        assert_eq!(index.by_name("same", Rule::Seed), Some(2));
        assert_eq!(index.by_name("same", Rule::Newest), Some(2));
    }

    /// Spec 11.1, case 2.
    #[test]
    fn one_id_with_two_names_has_the_later() {
        let index = Index::with(&[(1, "first"), (1, "second")]);
        assert_eq!(name_by_id(&index.path, id(1)).unwrap().as_deref(), Some("second"));
        index.push(&line(1, " "));
        assert_eq!(name_by_id(&index.path, id(1)).unwrap().as_deref(), Some(" "), "as is, even blank");
    }

    /// Spec 11.1, case 3.
    #[test]
    fn an_unknown_name_or_id_and_a_missing_file_have_no_result() {
        for index in [Index::with(&[(1, "known")]), Index::absent(), Index::holding("")] {
            assert_eq!(index.by_name("other", Rule::Newest), None);
            assert_eq!(index.by_name("Known", Rule::Seed), None);
            assert_eq!(name_by_id(&index.path, id(9)).unwrap(), None);
            assert!(names_by_ids(&index.path, &HashSet::from([id(9)])).unwrap().is_empty());
        }
    }

    /// Spec 11.1, case 4.
    #[test]
    fn names_by_ids_has_the_latest_of_each_and_no_others() {
        let index = Index::with(&[(1, "a"), (2, "b"), (3, "c"), (1, " a2 "), (2, "b2"), (2, "  ")]);
        let names = names_by_ids(&index.path, &HashSet::from([id(1), id(2), id(4)])).unwrap();
        let expected = [(id(1), "a2".to_owned()), (id(2), "b2".to_owned())];
        assert_eq!(names, HashMap::from(expected), "trimmed, blank ones ignored");
        assert!(names_by_ids(&index.path, &HashSet::new()).unwrap().is_empty());
    }

    /// Spec 11.1, case 5.
    #[test]
    fn append_order_wins_over_updated_at() {
        let index = Index::absent();
        for (name, updated_at) in [("old", "2026-02-09T00:00:00Z"), ("new", "2020-01-01T00:00:00.5Z")] {
            append(&index.path, &NameEntry { updated_at: updated_at.to_owned(), ..entry(1, name) }).unwrap();
        }
        append(&index.path, &entry(2, "other")).unwrap();
        assert_eq!(name_by_id(&index.path, id(1)).unwrap().as_deref(), Some("new"));
        assert_eq!(names_by_ids(&index.path, &HashSet::from([id(1)])).unwrap()[&id(1)], "new");
        assert_eq!(index.by_name("old", Rule::Newest), None);
    }

    /// Spec 11.1, case 6.
    #[test]
    fn the_newest_holder_without_rollout_is_skipped() {
        let index = Index::with(&[(1, "n"), (2, "n"), (3, "n"), (3, "n")]);
        let mut asked = Vec::new();
        let mut rollout = |asked_id| {
            asked.push(asked_id);
            (asked_id == id(1)).then_some("the path")
        };
        assert_eq!(path_by_name(&index.path, "n", Rule::Newest, &mut rollout).unwrap(), Some("the path"));
        assert_eq!(asked, [id(3), id(2), id(1)], "each once, newest first");
        let seed = path_by_name(&index.path, "n", Rule::Seed, &mut |i| (i == id(1)).then_some(()));
        assert_eq!(seed.unwrap(), None, "the seed era asks for the newest only");
    }

    /// Spec 11.1, case 7.
    #[test]
    fn the_newest_holder_with_an_unreadable_rollout_is_skipped() {
        let folder = TempDir::new().unwrap();
        let contents = [(1, "{\"type\":\"session_meta\"}\n"), (2, ""), (3, "no header\n")];
        for (number, content) in contents {
            fs::write(folder.path().join(id(number).to_string()), content).unwrap();
        }
        let index = Index::with(&[(1, "n"), (2, "n"), (3, "n"), (4, "n")]);
        let mut readable = |asked: Uuid| {
            let text = fs::read_to_string(folder.path().join(asked.to_string())).ok()?;
            text.contains("session_meta").then_some(asked)
        };
        assert_eq!(path_by_name(&index.path, "n", Rule::Newest, &mut readable).unwrap(), Some(id(1)));
    }

    /// Spec 11.1, case 8.
    #[test]
    fn a_renamed_thread_no_longer_answers_to_its_old_name() {
        let index = Index::with(&[(2, "x"), (1, "x"), (1, "y")]);
        assert_eq!(index.by_name("x", Rule::Newest), Some(2));
        assert_eq!(index.by_name("x", Rule::Seed), Some(1));
        assert_eq!(index.by_name("y", Rule::Newest), Some(1));
    }

    /// Spec 11.1, case 9.
    #[test]
    fn a_blank_name_has_no_holder() {
        let index = Index::with(&[(1, ""), (2, "  ")]);
        for name in ["", "  ", "\t\n"] {
            assert_eq!(index.by_name(name, Rule::Seed), None, "{name:?}");
            assert_eq!(index.by_name(name, Rule::Newest), None, "{name:?}");
        }
    }

    /// Spec 11.1, case 10.
    #[test]
    fn removal_keeps_all_other_lines_and_leaves_the_file_alone_without_a_match() {
        let long = format!("{{\"id\":\"{}\",{}\n", id(1), "x".repeat(INDEX_LINE_BYTES_MAX));
        let keep = ["{\"id\":\"broken\n", "\r\n", "  \n", &line(2, "two"), &long, "\u{fffd}\n"];
        for torn in ["", "{\"id\":", line(3, "three").trim_end()] {
            let (mut before, mut after) = (line(1, "one"), String::new());
            for kept in keep {
                before += &(kept.to_owned() + &line(1, "again").replace('\n', "\r\n"));
                after += kept;
            }
            let index = Index::holding(before + torn);
            index.push("");
            fs::set_permissions(&index.path, fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(remove(&index.path, id(1)).unwrap(), 7);
            assert_eq!(index.text(), after.clone() + torn);
            let stat = fs::metadata(&index.path).unwrap();
            assert_eq!(stat.mode() & 0o7777, 0o640);
            assert_eq!(remove(&index.path, id(1)).unwrap(), 0);
            let untouched = fs::metadata(&index.path).unwrap();
            assert_eq!((stat.ino(), stat.mtime_nsec()), (untouched.ino(), untouched.mtime_nsec()));
            assert!(!index.path.with_extension("jsonl.tmp").exists());
        }
        assert_eq!(remove(&Index::absent().path, id(1)).unwrap(), 0);
    }

    #[test]
    fn removal_drops_a_last_line_without_newline_and_clears_an_old_temporary() {
        let index = Index::holding(line(1, "a") + &line(2, "b") + line(1, "c").trim_end());
        fs::write(index.path.with_extension("jsonl.tmp"), "left by a crash").unwrap();
        assert_eq!(remove(&index.path, id(1)).unwrap(), 2);
        assert_eq!(index.text(), line(2, "b"));
    }

    #[test]
    fn removal_keeps_a_linked_index_a_link() {
        let index = Index::with(&[(1, "a"), (2, "b")]);
        let link = index.path.with_file_name("link.jsonl");
        symlink("session_index.jsonl", &link).unwrap();
        assert_eq!(remove(&link, id(1)).unwrap(), 1);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(index.text(), line(2, "b"));
    }

    #[test]
    fn removal_carries_over_what_others_append_meanwhile() {
        let index = Index::with(&[(1, "a"), (2, "b")]);
        let mut appender = OpenOptions::new().append(true).open(&index.path).unwrap();
        let old = open_index(&index.path).unwrap().unwrap();
        let (dropped, end) = find_lines_of(&old, id(1)).unwrap();
        appender.write_all(line(3, "before the rename").as_bytes()).unwrap();
        let temporary = index.path.with_extension("jsonl.tmp");
        let (new, end) = write_temporary(&old, &temporary, &dropped, end).unwrap();
        appender.write_all(line(4, "after the copy").as_bytes()).unwrap();
        assert!(replace(&old, &new, &temporary, &index.path, end).unwrap());
        let expected = [(2, "b"), (3, "before the rename"), (4, "after the copy")];
        assert_eq!(index.text(), expected.map(|(number, name)| line(number, name)).concat());
    }

    #[test]
    fn removal_does_not_undo_somebody_elses_rewrite() {
        let index = Index::with(&[(1, "a"), (2, "b")]);
        let old = open_index(&index.path).unwrap().unwrap();
        let (dropped, end) = find_lines_of(&old, id(1)).unwrap();
        fs::write(index.path.with_extension("other"), line(1, "a")).unwrap();
        fs::rename(index.path.with_extension("other"), &index.path).unwrap();
        assert!(!rewrite(&old, &index.path, &dropped, end).unwrap());
        assert_eq!(index.text(), line(1, "a"));
        assert!(!index.path.with_extension("jsonl.tmp").exists());
    }

    #[test]
    fn append_creates_privately_and_heals_a_torn_last_line() {
        let index = Index::with(&[(1, "quote \" and \n newline \u{4fee}")]);
        assert_eq!(fs::metadata(&index.path).unwrap().mode() & 0o077, 0);
        assert_eq!(index.text().lines().count(), 1);
        index.push("{\"id\":\"torn");
        append(&index.path, &entry(2, "b")).unwrap();
        append(&index.path, &entry(3, "c")).unwrap();
        assert!(index.text().ends_with(&format!("{{\"id\":\"torn\n{}{}", line(2, "b"), line(3, "c"))));
        let too_long = "x".repeat(INDEX_LINE_BYTES_MAX);
        assert!(matches!(append(&index.path, &entry(4, &too_long)), Err(StoreError::Invalid(_))));
    }

    #[test]
    fn threads_that_append_at_once_lose_nothing() {
        let index = Index::absent();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let path = &index.path;
                scope.spawn(move || {
                    for turn in 0..50 {
                        append(path, &entry(number, &format!("{turn}"))).unwrap();
                    }
                });
            }
        });
        let text = index.text();
        let entries = text.lines().filter(|line| !line.is_empty()).map(|l| NameEntry::parse(l.as_bytes()));
        assert_eq!(entries.flatten().count(), 200);
    }

    #[test]
    fn what_is_not_an_entry_is_skipped() {
        let good = line(1, "name");
        let id = id(1);
        let cases: &[(&str, bool)] = &[
            (&good, true),
            (&format!(" \t{}  ", good.trim_end()), true),
            (&good.replace("{\"id", "{\"new\":[1],\"id"), true),
            ("", false),
            ("null", false),
            ("{}", false),
            (&format!("{{\"id\":\"{id}\",\"thread_name\":\"a\"}}"), false),
            (&format!("{{\"id\":\"{id}\",\"updated_at\":\"a\"}}"), false),
            (&format!("{{\"id\":\"{id}\",\"thread_name\":null,\"updated_at\":\"a\"}}"), false),
            ("{\"id\":\"no uuid\",\"thread_name\":\"a\",\"updated_at\":\"a\"}", false),
            (&format!("{}{}", good.trim_end(), good.trim_end()), false),
        ];
        for (text, parses) in cases {
            assert_eq!(NameEntry::parse(text.as_bytes()).is_some(), *parses, "{text}");
        }
        assert_eq!(NameEntry::parse(b"\xff"), None);
        let index = Index::holding([good.as_bytes(), b"\xff\n{\"half\":\n", &[0; 10]].concat());
        assert_eq!(index.by_name("name", Rule::Newest), Some(1));
    }

    #[test]
    fn a_folder_or_pipe_in_the_place_of_the_index_is_an_error_and_does_not_hang() {
        let folder = TempDir::new().unwrap();
        assert!(matches!(name_by_id(folder.path(), id(1)), Err(StoreError::Io { .. })));
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(matches!(name_by_id(&pipe, id(1)), Err(StoreError::Io { .. })));
    }

    fn reversed(content: &[u8], block_bytes: usize) -> Vec<Vec<u8>> {
        let lines = ReverseLines::with_limits(Cursor::new(content), block_bytes, INDEX_LINE_BYTES_MAX);
        lines.unwrap().map(|line| line.unwrap()).collect()
    }

    /// Spec 11.7, case 1.
    #[test]
    fn three_records_come_last_to_first() {
        for block_bytes in [1, 2, 3, 7, BLOCK_BYTES] {
            assert_eq!(reversed(b"one\ntwo\nthree\n", block_bytes), [&b"three"[..], b"two", b"one"]);
        }
    }

    /// Spec 11.7, case 2.
    #[test]
    fn a_bad_record_in_the_middle_does_not_stop_the_older_ones() {
        let content = line(1, "a") + "{bad\n" + &line(2, "b");
        let parsed: Vec<_> =
            reversed(content.as_bytes(), 16).iter().map(|line| NameEntry::parse(line)).collect();
        assert_eq!(parsed, [Some(entry(2, "b")), None, Some(entry(1, "a"))]);
    }

    /// Spec 11.7, case 3.
    #[test]
    fn a_last_line_without_newline_counts() {
        let valid = line(1, "a") + line(2, "b").trim_end();
        assert_eq!(NameEntry::parse(&reversed(valid.as_bytes(), 8)[0]), Some(entry(2, "b")));
        let invalid = line(1, "a") + "{\"id";
        assert_eq!(reversed(invalid.as_bytes(), 8)[0], b"{\"id");
        assert_eq!(Index::holding(invalid).by_name("a", Rule::Newest), Some(1));
    }

    /// Spec 11.7, case 4.
    #[test]
    fn blank_lines_are_skipped_and_carriage_returns_dropped() {
        let content = b"\n\r\na\r\n \t\r\n\r\r\nb\r\r\n\n\n";
        for block_bytes in 1..12 {
            assert_eq!(reversed(content, block_bytes), [&b"b\r"[..], b"a"], "{block_bytes}");
        }
    }

    /// Spec 11.7, case 5.
    #[test]
    fn records_around_the_block_size_stay_intact() {
        for block_bytes in [4, 64, 4096] {
            for length in block_bytes - 2..=block_bytes + 2 {
                let (a, b) = ("a".repeat(length), "b".repeat(length));
                for content in [format!("{a}\n{b}\n"), format!("{a}\n{b}"), format!("\n{a}\r\n\n{b}\n")] {
                    let expected = [b.clone().into_bytes(), a.clone().into_bytes()];
                    assert_eq!(reversed(content.as_bytes(), block_bytes), expected);
                }
            }
        }
    }

    #[test]
    fn an_overlong_line_is_skipped_and_counted() {
        let content = b"ok\n12345678\n123456789\nlast";
        for block_bytes in [1, 3, 8, 9, 10, 100] {
            let mut lines = ReverseLines::with_limits(Cursor::new(content), block_bytes, 8).unwrap();
            let found: Vec<_> = (&mut lines).map(|line| line.unwrap()).collect();
            assert_eq!(found, [&b"last"[..], b"12345678", b"ok"], "{block_bytes}");
            assert_eq!(lines.overlong_count(), 1);
        }
    }

    proptest! {
        #[test]
        fn reverse_lines_are_the_forward_lines_reversed(
            content in proptest::collection::vec(
                prop_oneof![4 => "[a\n\r ]".prop_map(|text| text.as_bytes()[0]), 1 => any::<u8>()], 0..200),
            block_bytes in 1_usize..70,
            line_bytes_max in 0_usize..20,
        ) {
            let forward = content.split(|byte| *byte == b'\n');
            let overlong = forward.clone().filter(|line| line.len() > line_bytes_max).count();
            let mut expected: Vec<&[u8]> = forward
                .filter(|line| line.len() <= line_bytes_max)
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| !line.trim_ascii().is_empty())
                .collect();
            expected.reverse();
            let mut lines =
                ReverseLines::with_limits(Cursor::new(&content), block_bytes, line_bytes_max).unwrap();
            let found: Vec<_> = (&mut lines).map(|line| line.unwrap()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(lines.overlong_count(), overlong as u64);
        }

        /// However the bytes arrive, the follower ends with what a fresh look finds.
        #[test]
        fn a_follower_sees_every_entry_once(
            names in proptest::collection::vec("[a-z\u{e9}]{0,6}", 1..8),
            cuts in proptest::collection::vec(0_usize..2000, 0..6),
        ) {
            let index = Index::absent();
            let content: String =
                names.iter().enumerate().map(|(at, name)| line(at as u128, name)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % content.len()).collect();
            cuts.sort_unstable();
            cuts.push(content.len());
            let mut follower = Follower::new(index.path.clone(), None);
            let (mut seen, mut from) = (Vec::new(), 0);
            for cut in cuts {
                let mut file = OpenOptions::new().append(true).create(true).open(&index.path).unwrap();
                file.write_all(&content.as_bytes()[from..cut]).unwrap();
                from = cut;
                match follower.advance().unwrap().follow {
                    Follow::Appended(entries) => seen.extend(entries),
                    Follow::Replaced(entries) => { prop_assert!(seen.is_empty()); seen = entries; }
                }
            }
            let fresh = Follower::new(index.path.clone(), None).advance().unwrap().follow;
            prop_assert_eq!(Follow::Replaced(seen), fresh);
        }
    }

    fn names(follow: &Follow) -> (&'static str, Vec<&str>) {
        let (kind, entries) = match follow {
            Follow::Appended(entries) => ("appended", entries),
            Follow::Replaced(entries) => ("replaced", entries),
        };
        (kind, entries.iter().map(|placed| placed.entry.thread_name.as_str()).collect())
    }

    #[test]
    fn a_follower_reads_only_what_was_appended() {
        let index = Index::with(&[(1, "a")]);
        let mut follower = Follower::new(index.path.clone(), None);
        assert_eq!(names(&follower.advance().unwrap().follow), ("replaced", vec!["a"]));
        assert_eq!(names(&follower.advance().unwrap().follow), ("appended", vec![]));
        let offset_bytes = fs::metadata(&index.path).unwrap().len() + 4;
        index.push(&("bad\n".to_owned() + &line(2, "b")));
        let followed = follower.advance().unwrap();
        assert_eq!(
            followed.follow,
            Follow::Appended(vec![PlacedEntry { offset_bytes, entry: entry(2, "b") }])
        );
        let stored = serde_json::to_string(&followed.position).unwrap();
        index.push(&line(3, "c"));
        let mut restarted = Follower::new(index.path.clone(), serde_json::from_str(&stored).unwrap());
        assert_eq!(names(&restarted.advance().unwrap().follow), ("appended", vec!["c"]));
    }

    #[test]
    fn a_follower_leaves_a_last_line_without_newline_for_the_next_time() {
        let index = Index::with(&[(1, "a")]);
        let mut follower = Follower::new(index.path.clone(), None);
        follower.advance().unwrap();
        let position = follower.position();
        index.push(&line(2, "b")[..20]);
        let followed = follower.advance().unwrap();
        assert_eq!((names(&followed.follow), followed.tail), (("appended", vec![]), None));
        index.push(&line(2, "b").trim_end()[20..]);
        let followed = follower.advance().unwrap();
        assert_eq!(followed.tail.map(|placed| placed.entry), Some(entry(2, "b")));
        assert_eq!(follower.position(), position);
        index.push("\n");
        let followed = follower.advance().unwrap();
        assert_eq!((names(&followed.follow), followed.tail), (("appended", vec!["b"]), None));
    }

    #[test]
    fn a_follower_notices_a_file_that_was_cut_rewritten_or_replaced() {
        type Change = fn(&Index);
        let changes: &[(Change, &str, &[&str])] = &[
            (|index| fs::write(&index.path, line(1, "a")).unwrap(), "replaced", &["a"]),
            (|index| fs::write(&index.path, line(1, "x") + &line(2, "b")).unwrap(), "replaced", &["x", "b"]),
            (|index| assert_eq!(remove(&index.path, id(1)).unwrap(), 1), "replaced", &["b"]),
            (|index| fs::remove_file(&index.path).unwrap(), "replaced", &[]),
            (|index| fs::write(&index.path, "").unwrap(), "replaced", &[]),
            (|_| (), "appended", &[]),
        ];
        for (at, (change, kind, expected)) in changes.iter().enumerate() {
            let index = Index::with(&[(1, "a"), (2, "b")]);
            let mut follower = Follower::new(index.path.clone(), None);
            follower.advance().unwrap();
            change(&index);
            assert_eq!(names(&follower.advance().unwrap().follow), (*kind, expected.to_vec()), "case {at}");
            index.push(&line(3, "c"));
            let after = follower.advance().unwrap().follow;
            assert_eq!(names(&after).1, ["c"], "case {at}");
        }
    }

    #[test]
    fn a_follower_waits_for_a_file_that_is_not_there() {
        let index = Index::absent();
        let mut follower = Follower::new(index.path.clone(), None);
        assert_eq!(names(&follower.advance().unwrap().follow), ("replaced", vec![]));
        assert_eq!(names(&follower.advance().unwrap().follow), ("appended", vec![]));
        index.push(&line(1, "a"));
        assert_eq!(names(&follower.advance().unwrap().follow), ("replaced", vec!["a"]));
    }
}
