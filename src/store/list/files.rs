//! What do the files themselves say, when no index is kept? The walk of spec 8.1, and pages over it.
//!
//! The walk takes names and attributes of every rollout. What the lines say is read when an item needs it, or taken
//! from an index that nobody writes, for files that are still what it read.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use super::cursor::{Cursor, Place};
use super::filter::Filter;
use super::head;
use super::item::ListItem;
use super::source::Remembered;
use super::{ListQuery, Page, SortKey};
use crate::store::areas::Area;
use crate::store::content::Encoding;
use crate::store::error::Result;
use crate::store::home::Home;
use crate::store::rollout::{RolloutName, ThreadId};
use crate::store::row::{DiskStat, FileRow, ReadState, Row};
use crate::store::scan::{self, ROOTS};
use crate::store::session_index::{Follow, Follower};

/// A rollout as the walk found it.
pub(super) struct Found {
    pub(super) path: Vec<u8>,
    pub(super) thread: ThreadId,
    pub(super) rollout: Option<ThreadId>,
    pub(super) archived: bool,
    pub(super) current: bool,
    encoding: Encoding,
    pub(super) disk: DiskStat,
    stamp_seconds: i64,
    secondary: bool,
    duplicate: bool,
    /// From the header, once it was asked for.
    created_ms: Cell<Option<i64>>,
}

/// All rollouts of a home, as they were at one moment.
pub(super) struct Files {
    home: Home,
    found: Vec<Found>,
    /// By thread: the last name of `session_index.jsonl` that is not blank, and its position.
    names: HashMap<ThreadId, (String, i64)>,
    remembered: RefCell<Option<Remembered>>,
}

impl Files {
    /// Walks the home. Folders that cannot be read are told in the log and passed over, and so are names.
    ///
    /// # Errors
    /// [`crate::store::error::StoreError::Io`] where one of the two roots is there and cannot be read.
    pub(super) fn walk(home: &Home, remembered: Option<Remembered>) -> Result<Files> {
        let areas = home.areas();
        let mut found = Vec::new();
        let mut dirs: Vec<_> = ROOTS.iter().map(|root| root.as_bytes().to_vec()).collect();
        while let Some(dir) = dirs.pop() {
            let listing = match scan::list(&areas, &dir) {
                Ok(Some(listing)) => listing,
                Ok(None) => continue,
                // Not an empty home: one that cannot be looked at.
                Err(error) if !dir.contains(&b'/') => return Err(error),
                Err(error) => {
                    log::warn!("{error}; what is in it is not listed");
                    continue;
                }
            };
            if scan::depth(&dir) < scan::DEPTH_MAX {
                dirs.extend(listing.dirs.iter().map(|name| scan::join(&dir, name)));
            }
            // What is pending is the mount's to show.
            for (name, file) in listing.files.into_iter().filter(|(_, file)| file.area == Area::Home) {
                found.extend(Found::new(scan::join(&dir, &name), &name, file.encoding, file.disk));
            }
        }
        group(&mut found);
        let names = names_of(home).unwrap_or_else(|error| {
            log::warn!("{error}; threads are listed without their names");
            HashMap::new()
        });
        Ok(Files { home: home.clone(), found, names, remembered: RefCell::new(remembered) })
    }

    /// The rollouts, in no order.
    pub(super) fn found(&self) -> &[Found] {
        &self.found
    }

    /// The names of `session_index.jsonl`.
    pub(super) fn names(&self) -> &HashMap<ThreadId, (String, i64)> {
        &self.names
    }

    /// Answers a query; an index that was written meanwhile is not asked again.
    pub(super) fn page(&self, query: &ListQuery) -> Page {
        self.steadily(|| self.page_once(query))
    }

    /// The answer of `work`, with the same remembered index from its start to its end.
    pub(super) fn steadily<T>(&self, work: impl Fn() -> T) -> T {
        let answer = work();
        let changed = self.remembered.borrow().as_ref().is_some_and(Remembered::has_changed);
        if !changed {
            return answer;
        }
        *self.remembered.borrow_mut() = None;
        self.found.iter().for_each(|found| found.created_ms.set(None));
        work()
    }

    fn page_once(&self, query: &ListQuery) -> Page {
        let filter = Filter::new(query);
        let bound = query.cursor.as_ref().map(|cursor| cursor.bound(query.sort, query.descending));
        let wanted = |found: &&Found| query.archived.is_none_or(|archived| archived == found.archived);
        let mut places: Vec<_> =
            self.found.iter().filter(wanted).map(|found| (self.place(found, query.sort), found)).collect();
        places
            .retain(|(place, _)| bound.as_ref().is_none_or(|bound| bound.is_before(place, query.descending)));
        places.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if query.descending {
            places.reverse();
        }
        let mut filling = Filling::new(query);
        for (place, found) in &places {
            let row = self.row(found);
            let item = filter.accepts(&row).then(|| ListItem::of(&self.home, &row)).flatten();
            if filling.add(place, item).is_break() {
                break;
            }
        }
        filling.page
    }

    fn place(&self, found: &Found, sort: SortKey) -> Place {
        let key = match sort {
            SortKey::Updated => found.disk.mtime_ns,
            SortKey::Created => found.created_ms.get().unwrap_or_else(|| {
                let created_ms = match self.remembered_row(found) {
                    Some(row) => row.meta.created_at_ms,
                    None => head::read_created_ms(&self.home, &found.bare_row()),
                };
                found.created_ms.set(Some(created_ms));
                created_ms
            }),
        };
        Place { key, id: found.thread, path: found.path.clone() }
    }

    fn remembered_row(&self, found: &Found) -> Option<Row> {
        let row = self.remembered.borrow().as_ref()?.row(&found.path)?;
        let same = row.file.disk == found.disk && row.file.encoding == found.encoding;
        (same && row.file.state == ReadState::Read).then_some(row)
    }

    /// The whole row of a rollout, with its name and its place among those of its thread.
    pub(super) fn row(&self, found: &Found) -> Row {
        let bare = found.bare_row();
        let mut row = match self.remembered_row(found) {
            Some(known) => Row {
                file: FileRow {
                    decoded_bytes: known.file.decoded_bytes,
                    state: known.file.state,
                    torn: known.file.torn,
                    bare: known.file.bare,
                    parse_errors: known.file.parse_errors,
                    ..bare.file
                },
                ..known
            },
            None => head::read_row(&self.home, &bare),
        };
        row.file.current = found.current;
        row.file.secondary = found.secondary;
        row.file.duplicate = found.duplicate || row.meta.id.is_some_and(|id| id != found.thread);
        (row.file.name, row.name_position) = match self.names.get(&found.thread).filter(|_| found.current) {
            Some((name, position)) => (Some(name.clone()), *position),
            None => {
                let hint = row.meta.name_hint.clone().filter(|name| found.current && !name.trim().is_empty());
                (hint, -1)
            }
        };
        row
    }

    /// The item of a rollout.
    pub(super) fn item(&self, found: &Found) -> Option<ListItem> {
        self.steadily(|| ListItem::of(&self.home, &self.row(found)))
    }
}

impl Found {
    fn new(path: Vec<u8>, name: &[u8], encoding: Encoding, disk: DiskStat) -> Option<Found> {
        let name = RolloutName::parse(name)?;
        Some(Found {
            archived: path.starts_with(b"archived_sessions/"),
            path,
            thread: name.thread_id(),
            rollout: name.rollout_id(),
            current: false,
            encoding,
            disk,
            stamp_seconds: name.stamp_seconds(),
            secondary: false,
            duplicate: false,
            created_ms: Cell::new(None),
        })
    }

    fn key_id(&self) -> ThreadId {
        self.rollout.unwrap_or(self.thread)
    }

    fn bare_row(&self) -> Row {
        Row::found(Area::Home, self.path.clone(), self.encoding, self.disk)
    }
}

/// Which file of each thread is current, and which share an id? The order is that of the index (spec 9.6, 11.3.4).
fn group(found: &mut [Found]) {
    found.sort_unstable_by(|one, other| {
        let rank = |file: &Found| (file.thread, file.archived, Reverse((file.stamp_seconds, file.rollout)));
        rank(one).cmp(&rank(other)).then_with(|| one.path.cmp(&other.path))
    });
    for files in found.chunk_by_mut(|one, other| one.thread == other.thread) {
        let mut seen: BTreeMap<ThreadId, usize> = BTreeMap::new();
        for file in files.iter_mut() {
            let count = seen.entry(file.key_id()).or_default();
            file.secondary = *count > 0;
            *count += 1;
        }
        for file in files.iter_mut() {
            file.duplicate = seen[&file.key_id()] > 1;
        }
        files[0].current = true;
    }
}

/// The name of each thread by its last entry; a blank one takes the name away.
fn names_of(home: &Home) -> Result<HashMap<ThreadId, (String, i64)>> {
    let followed = Follower::new(home.session_index(), None).advance()?;
    let (Follow::Appended(entries) | Follow::Replaced(entries)) = followed.follow;
    let mut names = HashMap::new();
    for placed in entries.into_iter().chain(followed.tail) {
        let (thread, name) = (ThreadId::new(placed.entry.id), placed.entry.thread_name);
        if name.trim().is_empty() {
            names.remove(&thread);
        } else {
            names.insert(thread, (name, placed.offset_bytes as i64));
        }
    }
    Ok(names)
}

/// A page that is being filled: the rule for its end and its cursor, the same for files and index.
pub(super) struct Filling<'q> {
    query: &'q ListQuery,
    pub(super) page: Page,
    last_item: Option<Place>,
    last_scanned: Option<Place>,
}

impl<'q> Filling<'q> {
    pub(super) fn new(query: &'q ListQuery) -> Self {
        Filling { query, page: Page::default(), last_item: None, last_scanned: None }
    }

    /// Takes the next rollout in order; `item` is None where the filters refuse it. One item more than wanted tells
    /// that there is a next page, which begins behind the last one taken (spec 8.4). After `scan_max` rollouts it
    /// begins behind the last one looked at, so that a filter that refuses all of them still gets on.
    pub(super) fn add(&mut self, place: &Place, item: Option<ListItem>) -> ControlFlow<()> {
        let page = &mut self.page;
        let end = |last: &Option<Place>| last.as_ref().map(|last| Cursor::at(last, self.query.sort));
        if page.scanned >= self.query.scan_max.max(1) {
            page.reached_scan_cap = true;
            page.next_cursor = end(&self.last_scanned);
            return ControlFlow::Break(());
        }
        page.scanned += 1;
        if let Some(item) = item {
            if page.items.len() >= self.query.limit.max(1) {
                page.next_cursor = end(&self.last_item);
                return ControlFlow::Break(());
            }
            page.items.push(item);
            self.last_item = Some(place.clone());
        }
        self.last_scanned = Some(place.clone());
        ControlFlow::Continue(())
    }
}
