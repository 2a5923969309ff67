//! Which names do the threads have, and how does a name get into or out of `session_index.jsonl`?
//!
//! The file is append-only and shared with Codex: position decides, never `updated_at`, and a line that
//! will not parse is skipped (spec 4). No lock is taken on it. Depends on `error` and
//! `failpoint`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use self::lines::{ForwardLines, ReadFrom};
use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::home::give_to_owner_of;

mod follow;
mod lines;

pub use self::follow::{FINGERPRINT_BYTES_MAX, Follow, Followed, Follower, PlacedEntry, Position};
pub use self::lines::{BLOCK_BYTES, INDEX_LINE_BYTES_MAX, ReverseLines};

/// How often [`remove`] starts again when somebody else replaces the file meanwhile.
const REWRITE_ATTEMPTS_MAX: u32 = 3;
/// The longest name that [`rename`] gives; Codex sets no bound, and its lists show the beginning.
pub const NAME_BYTES_MAX: usize = 10_000;
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
    let is_new = fs::symlink_metadata(path).is_err();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(NEW_INDEX_MODE)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(StoreError::io("open", path))?;
    if is_new {
        give_to_owner_of(path.parent().unwrap_or(path), &file);
    }
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
    Err(StoreError::io("append to", path)(io::Error::new(ErrorKind::StorageFull, reason)))
}

/// Names thread `id`: appends one entry with the time of now. The name is trimmed (spec 9.5) and otherwise taken as it is,
/// control characters too. Answers the entry.
///
/// # Errors
/// [`StoreError::Invalid`] for a blank name and one of more than [`NAME_BYTES_MAX`] bytes, else as [`append`].
pub fn rename(path: &Path, id: Uuid, name: &str) -> Result<NameEntry> {
    let name = name.trim();
    if name.is_empty() {
        return Err(StoreError::Invalid("a thread's name must not be blank".to_owned()));
    }
    if name.len() > NAME_BYTES_MAX {
        let length = name.len();
        let text = format!("a name of {length} bytes is too long: at most {NAME_BYTES_MAX} are taken");
        return Err(StoreError::Invalid(text));
    }
    let entry = NameEntry { id, thread_name: name.to_owned(), updated_at: now_text() };
    append(path, &entry)?;
    hit("names.appended");
    Ok(entry)
}

/// Now, RFC 3339 in UTC with nanoseconds, as Codex writes it.
fn now_text() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    OffsetDateTime::now_utc().format(&format).unwrap_or_else(|_| "unknown".to_owned())
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
    hit("names.temporary_unsynced");
    new.sync_all()?;
    hit("names.temporary_written");
    Ok((new, end))
}

fn replace(old: &File, new: &File, temporary: &Path, target: &Path, end: u64) -> Result<bool> {
    let current = fs::symlink_metadata(target).map_err(StoreError::io("stat", target))?;
    let ours = old.metadata().map_err(StoreError::io("stat", target))?;
    if (current.dev(), current.ino()) != (ours.dev(), ours.ino()) {
        return Ok(false);
    }
    fs::rename(temporary, target).map_err(StoreError::io("replace", target))?;
    hit("names.replaced");
    copy_range(old, new, end..u64::MAX).map_err(StoreError::io("append to", target))?;
    Ok(true)
}

/// Appends `range` of `from` to `to`, as far as `from` goes. Answers where it ended.
fn copy_range(from: &File, mut to: &File, range: Range<u64>) -> io::Result<u64> {
    let source = ReadFrom { file: from, offset: range.start };
    let copied_bytes = io::copy(&mut source.take(range.end - range.start), &mut to)?;
    Ok(range.start + copied_bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::super::failpoint::crash;
    use super::*;

    pub(super) fn id(number: u128) -> Uuid {
        Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0000 + number)
    }

    pub(super) fn entry(number: u128, name: &str) -> NameEntry {
        NameEntry { id: id(number), thread_name: name.to_owned(), updated_at: "unknown".to_owned() }
    }

    pub(super) fn line(number: u128, name: &str) -> String {
        serde_json::to_string(&entry(number, name)).unwrap() + "\n"
    }

    pub(super) struct Index {
        _folder: TempDir,
        pub(super) path: PathBuf,
    }

    impl Index {
        pub(super) fn absent() -> Index {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("session_index.jsonl");
            Index { _folder: folder, path }
        }

        pub(super) fn with(entries: &[(u128, &str)]) -> Index {
            let index = Index::absent();
            for (number, name) in entries {
                append(&index.path, &entry(*number, name)).unwrap();
            }
            index
        }

        pub(super) fn holding(bytes: impl AsRef<[u8]>) -> Index {
            let index = Index::absent();
            fs::write(&index.path, bytes).unwrap();
            index
        }

        pub(super) fn push(&self, bytes: &str) {
            let mut file = OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
            file.write_all(bytes.as_bytes()).unwrap();
        }

        pub(super) fn text(&self) -> String {
            fs::read_to_string(&self.path).unwrap()
        }

        pub(super) fn by_name(&self, name: &str, rule: Rule) -> Option<u128> {
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
    fn a_name_is_trimmed_and_has_bounds() {
        let index = Index::absent();
        let longest = "x".repeat(NAME_BYTES_MAX);
        for name in ["  two words\t", "a\u{1b}[31m\nb", "\u{4fee}", longest.as_str(), "\u{1}"] {
            let entry = rename(&index.path, id(1), name).unwrap();
            assert_eq!(entry.thread_name, name.trim());
            assert_eq!(
                entry.updated_at.len(),
                "2026-02-08T09:20:00.123456789Z".len(),
                "{}",
                entry.updated_at
            );
            assert_eq!(name_by_id(&index.path, id(1)).unwrap().as_deref(), Some(name.trim()));
        }
        let before = index.text();
        assert_eq!(before.lines().count(), 5);
        for name in ["", " \n", &format!("{longest}x")] {
            assert!(matches!(rename(&index.path, id(1), name), Err(StoreError::Invalid(_))), "{name:?}");
        }
        assert_eq!(index.text(), before);
    }

    #[test]
    fn the_child_of_the_crash_test() {
        let Some((home, what)) = crash::asked() else { return };
        let path = home.join("session_index.jsonl");
        match what.as_str() {
            "rename" => drop(rename(&path, id(1), "new").unwrap()),
            _ => assert_eq!(remove(&path, id(1)).unwrap(), 2),
        }
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_index_whole_and_the_next_try_succeeds() {
        let test = "store::session_index::tests::the_child_of_the_crash_test";
        let (torn, kept) = ("{\"id\":\"torn\n", line(2, "b"));
        let before = line(1, "a") + &kept + torn + &line(1, "c");
        let after = kept + torn;
        for (what, point, is_done) in [
            ("remove", "names.temporary_unsynced", false),
            ("remove", "names.temporary_written", false),
            ("remove", "names.replaced", true),
            ("rename", "names.appended", false),
        ] {
            let index = Index::holding(&before);
            assert!(crash::child_aborts(test, index.path.parent().unwrap(), what, point), "{point}");
            if what == "rename" {
                assert_eq!(index.by_name("new", Rule::Newest), Some(1));
            } else {
                assert_eq!(index.text(), if is_done { after.clone() } else { before.clone() }, "{point}");
            }
            remove(&index.path, id(1)).unwrap();
            assert_eq!(index.text(), after, "{point}");
            assert!(!index.path.with_extension("jsonl.tmp").exists(), "{point}");
        }
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
}
