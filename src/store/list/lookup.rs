//! Which thread does a person mean: by id, part of an id, name, or path? Spec 8.6 and 4.4.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use uuid::Uuid;

use super::files::Found;
use super::item::ListItem;
use super::query;
use super::shown;
use super::source::{Source, is_there};
use crate::store::error::{Result, StoreError};
use crate::store::rollout::{RolloutName, ThreadId};
use crate::store::row::Row;

/// Hexadecimal digits that the beginning of an id needs.
pub const PREFIX_DIGITS_MIN: usize = 4;
/// Hexadecimal digits of the end of an id, as names that are shared are told apart.
const SUFFIX_DIGITS: usize = 8;
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;
/// Threads that are named when several are meant.
const CANDIDATES_SHOWN_MAX: usize = 10;
/// Rollouts looked at for a beginning: enough to tell that it is not unique.
const CANDIDATES_MAX: usize = 256;

/// Ids that are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    /// From one to another, both included.
    Between([u8; 16], [u8; 16]),
    /// With these last bytes.
    Ending([u8; 4]),
}

impl Ids {
    /// The ids that begin with these digits; hyphens are passed over. None for other text and for too few or many.
    fn beginning(text: &str) -> Option<Ids> {
        let digits = hex_digits(text)?;
        if digits.len() < PREFIX_DIGITS_MIN || digits.len() > ID_DIGITS {
            return None;
        }
        let padded = |digit: &str| {
            let digits = format!("{digits}{}", digit.repeat(ID_DIGITS - digits.len()));
            Uuid::try_parse(&digits).ok().map(Uuid::into_bytes)
        };
        Some(Ids::Between(padded("0")?, padded("f")?))
    }

    /// The ids that end with these 8 digits.
    fn ending(text: &str) -> Option<Ids> {
        let digits = hex_digits(text).filter(|digits| digits.len() == SUFFIX_DIGITS)?;
        u32::from_str_radix(&digits, 16).ok().map(|end| Ids::Ending(end.to_be_bytes()))
    }

    fn contains(&self, id: ThreadId) -> bool {
        match self {
            Ids::Between(low, high) => (low..=high).contains(&id.as_bytes()),
            Ids::Ending(end) => id.as_bytes().ends_with(end),
        }
    }
}

fn hex_digits(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|&char| char != '-').collect();
    let only_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (only_hex && !text.starts_with('-')).then(|| digits.to_ascii_lowercase())
}

impl Source {
    /// The thread of this id, or the rollout of this rollout id: the current file where there are several. Text that
    /// is no UUID has none. `archived` looks in one folder only.
    ///
    /// A row of the index counts if its file exists and has the id in its name; otherwise the names of all files are
    /// looked at (spec 8.6). Nothing is repaired here: the index's writer does so.
    ///
    /// # Errors
    /// As [`Source::page`].
    pub fn by_id(&self, text: &str, archived: Option<bool>) -> Result<Option<ListItem>> {
        let Ok(id) = text.trim().parse::<ThreadId>() else { return Ok(None) };
        let fits = |is_archived: bool| archived.is_none_or(|wanted| wanted == is_archived);
        let known = self.ask(|reader| reader.queries().rows_of_thread(id)).unwrap_or_default();
        let mut known: Vec<_> = known
            .into_iter()
            .filter(|row| {
                let named = row.file.rollout_name().is_some_and(|name| name.thread_id() == id);
                named && fits(row.file.archived) && is_there(&self.home, row)
            })
            .collect();
        known.sort_by_key(|row| !row.file.current);
        if let Some(row) = known.first() {
            return Ok(ListItem::of(&self.home, row));
        }
        let files = self.files()?;
        let of_id =
            |found: &&Found| (found.thread == id || found.rollout == Some(id)) && fits(found.archived);
        // A thread's id before a rollout's, and the current file before others.
        let best =
            files.found().iter().filter(of_id).min_by_key(|found| (found.thread != id, !found.current));
        Ok(best.and_then(|found| files.item(found)))
    }

    /// The one thread whose id begins with these digits (at least [`PREFIX_DIGITS_MIN`]), or ends with these 8.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] names the threads where there are several; else as [`Source::page`].
    pub fn by_prefix(&self, text: &str) -> Result<Option<ListItem>> {
        let wanted: Vec<_> = [Ids::beginning(text), Ids::ending(text)].into_iter().flatten().collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut items = BTreeMap::new();
        let known = self.ask(|reader| {
            let mut rows = Vec::new();
            for ids in &wanted {
                rows.extend(match ids {
                    Ids::Between(low, high) => query::threads_between(reader, low, high, CANDIDATES_MAX)?,
                    Ids::Ending(end) => query::threads_ending(reader, end, CANDIDATES_MAX)?,
                });
            }
            Ok(rows)
        });
        for row in known.iter().flatten().filter(|row| is_there(&self.home, row)) {
            keep_current(&mut items, ListItem::of(&self.home, row));
        }
        if items.is_empty() {
            let files = self.files()?;
            let of_ids = |found: &&Found| wanted.iter().any(|ids| ids.contains(found.thread));
            let meant = files.found().iter().filter(of_ids).filter(|found| found.current);
            for found in meant.take(CANDIDATES_MAX) {
                keep_current(&mut items, files.item(found));
            }
        }
        only_one(text, "ids", items.into_values().collect())
    }

    /// The thread of this name: the last that was given it, as the index has names now (spec 4.4). With `any_case`,
    /// the only one whose name differs in case alone.
    ///
    /// Without an index, names are those of `session_index.jsonl`; rollouts that hold a name in their own lines are
    /// asked only where that file names nobody.
    ///
    /// # Errors
    /// With `any_case`, [`StoreError::Invalid`] names the threads where there are several; else as [`Source::page`].
    pub fn by_name(&self, name: &str, any_case: bool) -> Result<Option<ListItem>> {
        if name.trim().is_empty() {
            return Ok(None);
        }
        let folded = caseless::default_case_fold_str(name);
        let fits = |given: &str| match any_case {
            false => given == name,
            true => caseless::default_case_fold_str(given.trim()) == folded.trim(),
        };
        let mut items = Vec::new();
        match self.ask(|reader| rows_named(reader, &fits)) {
            Some(rows) => {
                let there = rows.iter().filter(|row| is_there(&self.home, row));
                items.extend(there.filter_map(|row| ListItem::of(&self.home, row)));
            }
            None => items.extend(self.files_named(&fits)?),
        }
        if any_case {
            return only_one(name, "names in other case", items);
        }
        // The name given last comes first; a thread without a file is passed over.
        Ok(items.into_iter().next())
    }

    fn files_named(&self, fits: &dyn Fn(&str) -> bool) -> Result<Vec<ListItem>> {
        let files = self.files()?;
        let current = files.found().iter().filter(|found| found.current);
        if files.names().is_empty() {
            let items = current.filter_map(|found| files.item(found));
            let mut items: Vec<_> = items.filter(|item| item.name.as_deref().is_some_and(fits)).collect();
            items.sort_by(|one, other| (&other.updated_at, other.id).cmp(&(&one.updated_at, one.id)));
            return Ok(items);
        }
        let mut named: Vec<_> = current
            .filter_map(|found| {
                files.names().get(&found.thread).map(|(name, position)| (name, position, found))
            })
            .filter(|(name, _, _)| fits(name))
            .collect();
        named.sort_by_key(|(_, position, _)| std::cmp::Reverse(**position));
        Ok(named.into_iter().filter_map(|(_, _, found)| files.item(found)).collect())
    }

    /// The rollout that a path means: of the home, on disk or below; or of a mount of it, also through links. A file
    /// elsewhere that has a rollout's name, or a thread's id as its name, means the thread of that id.
    ///
    /// # Errors
    /// As [`Source::page`].
    pub fn by_path(&self, text: &str) -> Result<Option<ListItem>> {
        let given = Path::new(text);
        let mut seen = vec![self.home.root().join(given)];
        seen.extend(std::fs::canonicalize(given).ok());
        seen.push(given.to_owned());
        for path in &seen {
            let Some(name) = path.file_name() else { continue };
            if let Some(name) = RolloutName::parse(name.as_bytes()) {
                let item = self.by_rollout_name(path, &name)?;
                if item.is_some() {
                    return Ok(item);
                }
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let item = self.by_id(stem, None)?;
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    fn by_rollout_name(&self, path: &Path, name: &RolloutName) -> Result<Option<ListItem>> {
        let below = path.strip_prefix(self.home.root()).ok();
        let logical = below.map(|below| below.with_file_name(name.plain()).into_os_string());
        let rows = self.ask(|reader| reader.queries().rows_of_thread(name.thread_id()));
        let place = |path: &[u8], row_name: Option<RolloutName>| {
            let same_path = logical.as_ref().is_some_and(|logical| logical.as_bytes() == path);
            let same_name = row_name.is_some_and(|other| other.plain() == name.plain());
            (!same_path, !same_name)
        };
        let rows = rows.unwrap_or_default().into_iter().filter(|row| is_there(&self.home, row));
        let best = rows
            .map(|row| (place(&row.file.path, row.file.rollout_name()), row))
            .filter(|(place, _)| !place.1)
            .min_by_key(|(place, _)| *place);
        if let Some((_, row)) = best {
            return Ok(ListItem::of(&self.home, &row));
        }
        let files = self.files()?;
        let best = files
            .found()
            .iter()
            .filter(|found| found.thread == name.thread_id())
            .map(|found| (place(&found.path, file_name(&found.path).and_then(RolloutName::parse)), found))
            .min_by_key(|(place, found)| (*place, !found.current));
        Ok(best.and_then(|(_, found)| files.item(found)))
    }

    /// The thread that a person means by `text`. Tried in this order: an id; a path; a name; the beginning or the last
    /// 8 digits of an id; a name in another case. An id comes before names (spec 4.4).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] says what was tried, [`StoreError::Invalid`] which threads could be meant; else as
    /// [`Source::page`].
    pub fn find(&self, text: &str) -> Result<ListItem> {
        let trimmed = text.trim();
        let is_id = trimmed.parse::<ThreadId>().is_ok();
        let is_path = text.contains('/') || text.ends_with(".jsonl") || text.ends_with(".zst");
        let mut tried = Vec::new();
        if is_id {
            tried.push("an id");
            if let Some(item) = self.by_id(trimmed, None)? {
                return Ok(item);
            }
        }
        if is_path {
            tried.push("a path");
            if let Some(item) = self.by_path(text)? {
                return Ok(item);
            }
        }
        tried.push("a name");
        if let Some(item) = self.by_name(text, false)? {
            return Ok(item);
        }
        if Ids::beginning(trimmed).is_some() && !is_id {
            tried.push("the beginning or the last 8 digits of an id");
            if let Some(item) = self.by_prefix(trimmed)? {
                return Ok(item);
            }
        }
        tried.push("a name in another case");
        if let Some(item) = self.by_name(text, true)? {
            return Ok(item);
        }
        let what = format!(
            "thread {} (tried as {}, in {})",
            quoted(text),
            tried.join(", "),
            self.home.root().display()
        );
        Err(StoreError::NotFound { what })
    }
}

fn rows_named(
    reader: &crate::store::index::Reader,
    fits: &dyn Fn(&str) -> bool,
) -> rusqlite::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (row, name) in query::named(reader)? {
        if fits(&name) {
            rows.extend(reader.queries().row_by_id(row)?);
        }
    }
    Ok(rows)
}

fn file_name(path: &[u8]) -> Option<&[u8]> {
    path.rsplit(|&byte| byte == b'/').next()
}

/// One item a thread: the current one.
fn keep_current(items: &mut BTreeMap<ThreadId, ListItem>, item: Option<ListItem>) {
    let Some(item) = item else { return };
    if item.current || !items.contains_key(&item.id) {
        items.insert(item.id, item);
    }
}

fn only_one(text: &str, of_what: &str, mut items: Vec<ListItem>) -> Result<Option<ListItem>> {
    if items.len() <= 1 {
        return Ok(items.pop());
    }
    items.sort_by(|one, other| (&other.updated_at, other.id).cmp(&(&one.updated_at, one.id)));
    let mut message =
        format!("{} means several threads by their {of_what}; give one of these ids:", quoted(text));
    for item in items.iter().take(CANDIDATES_SHOWN_MAX) {
        let label: String = item.label().split_whitespace().collect::<Vec<_>>().join(" ");
        let label = shown(&label, 60);
        message.push_str(&format!("\n  {}  {}  {label}", item.id, item.updated_at));
    }
    if items.len() > CANDIDATES_SHOWN_MAX {
        message.push_str(&format!("\n  and {} more", items.len() - CANDIDATES_SHOWN_MAX));
    }
    Err(StoreError::Invalid(message))
}

/// What a person typed, fit for a terminal.
fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text, 200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_ids() {
        let id: ThreadId = "0198c0de-0000-7000-8000-0000deadbeef".parse().unwrap();
        for (text, beginning, ending) in [
            ("0198", Some(true), None),
            ("0198C0DE-0", Some(true), None),
            ("0198c0de", Some(true), Some(false)),
            ("deadbeef", Some(false), Some(true)),
            ("0199", Some(false), None),
            ("019", None, None),
            ("0198c0de-0000-7000-8000-0000deadbeef", Some(true), None),
            ("0198c0de-0000-7000-8000-0000deadbeef0", None, None),
            ("-0198", None, None),
            ("0198g", None, None),
            ("", None, None),
        ] {
            assert_eq!(Ids::beginning(text).map(|ids| ids.contains(id)), beginning, "{text}");
            assert_eq!(Ids::ending(text).map(|ids| ids.contains(id)), ending, "{text}");
        }
    }
}
