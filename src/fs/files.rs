//! Which files below are open? A bounded `lru` of descriptors: there are no opens to keep them by.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::store::areas::Area;
use crate::store::content::{self, Content, ContentCache, Encoding, Located};
use crate::store::error::Result;
use crate::store::node::NodeNumber;
use crate::store::row::{DiskStat, FileRow, RowKind};

/// Descriptors kept open; below the soft limit of 1024 that a user usually has.
const OPEN_FILES_MAX: usize = 512;
/// A descriptor is trusted this long before the path is looked at again.
const TRUST: Duration = Duration::from_secs(1);

/// Files whose place is remembered between being listed and being read: a folder of many, listed whole before the first is read.
const PLACES_MAX: usize = 16_384;

struct Open {
    content: Arc<Content>,
    checked: Instant,
}

/// The open files.
pub(super) struct Files {
    open: Mutex<LruCache<NodeNumber, Open>>,
}

impl Default for Files {
    fn default() -> Self {
        Files { open: Mutex::new(LruCache::new(capacity(OPEN_FILES_MAX))) }
    }
}

fn capacity(max: usize) -> NonZeroUsize {
    NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN)
}

/// Where a plain rollout lies: area and logical path.
pub(super) type FilePlace = (Area, Arc<[u8]>);

/// Where files lie that were listed or looked up just now. A read needs nothing else of their rows, and a query for each of
/// thousands of small files costs more than reading them. Nothing in here outlives a piece of news.
pub(super) struct Places {
    held: Mutex<(u64, LruCache<NodeNumber, FilePlace>)>,
}

impl Default for Places {
    fn default() -> Self {
        Places { held: Mutex::new((0, LruCache::new(capacity(PLACES_MAX)))) }
    }
}

impl Places {
    /// What was put since the count of news became `news`.
    fn at(&self, news: u64) -> MutexGuard<'_, (u64, LruCache<NodeNumber, FilePlace>)> {
        let mut held = self.held.lock().unwrap_or_else(|poison| poison.into_inner());
        if held.0 < news {
            held.0 = news;
            held.1.clear();
        }
        held
    }

    /// Remembers a row that was read when the count of news was `news`.
    pub(super) fn put(&self, news: u64, file: &FileRow) {
        if file.kind != RowKind::Rollout || file.encoding != Encoding::Plain {
            return;
        }
        let mut held = self.at(news);
        // Of a row that is older than what is held nothing is known by now.
        if held.0 == news {
            held.1.put(file.number, (file.area, file.path.as_slice().into()));
        }
    }

    /// Where a file lies, if that was seen since the last piece of news, whose count is `news`.
    pub(super) fn get(&self, news: u64, number: NodeNumber) -> Option<FilePlace> {
        self.at(news).1.get(&number).cloned()
    }
}

impl Files {
    fn open(&self) -> MutexGuard<'_, LruCache<NodeNumber, Open>> {
        self.open.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The file's content, opened where it is not. No lock is held while the disk is asked.
    pub(super) fn get(
        &self,
        number: NodeNumber,
        logical: &Path,
        cache: &ContentCache,
    ) -> Result<Arc<Content>> {
        let held = self.open().get(&number).map(|open| (open.content.clone(), open.checked));
        if let Some((content, checked)) = held
            && (checked.elapsed() < TRUST || self.still_there(number, logical, &content))
        {
            return Ok(content);
        }
        let content = Arc::new(cache.open(logical)?);
        self.open().put(number, Open { content: content.clone(), checked: Instant::now() });
        Ok(content)
    }

    /// As [`Files::get`], for a file that lies plain at this path: with fewer looks at the disk. None: it does not lie there.
    pub(super) fn get_plain(&self, number: NodeNumber, path: &Path) -> Result<Option<Arc<Content>>> {
        let held = self.open().get(&number).map(|open| (open.content.clone(), open.checked));
        if let Some((content, checked)) = held
            && (checked.elapsed() < TRUST || self.still_there(number, path, &content))
        {
            return Ok(Some(content));
        }
        let Some(content) = content::open_plain(path)?.map(Arc::new) else { return Ok(None) };
        self.open().put(number, Open { content: content.clone(), checked: Instant::now() });
        Ok(Some(content))
    }

    /// True if the path still leads to what is open; a plain file may have grown.
    fn still_there(&self, number: NodeNumber, logical: &Path, content: &Content) -> bool {
        let Ok(now) = content::locate_now(logical) else { return false };
        let same = is_same(&content.located, &now);
        if same && let Some(open) = self.open().get_mut(&number) {
            open.checked = Instant::now();
        }
        same
    }

    /// Gives up the open file if it is not what was just seen at its path: what is read must be what attributes promised.
    pub(super) fn keep_if(&self, number: NodeNumber, seen: &Located) {
        let mut open = self.open();
        if open.peek(&number).is_some_and(|held| !is_same(&held.content.located, seen)) {
            open.pop(&number);
        }
    }

    /// The file changed: open it anew when it is read next.
    pub(super) fn forget(&self, number: NodeNumber) {
        self.open().pop(&number);
    }

    /// Everything may have changed.
    pub(super) fn forget_all(&self) {
        self.open().clear();
    }

    /// Files open now.
    pub(super) fn count(&self) -> usize {
        self.open().len()
    }
}

/// Is it the same file, and for a compressed one the same bytes? A plain one may have grown.
fn is_same(was: &Located, is: &Located) -> bool {
    let (before, now) = (DiskStat::of(&was.stat), DiskStat::of(&is.stat));
    let same_file = (before.device, before.inode, was.encoding) == (now.device, now.inode, is.encoding);
    same_file && (is.encoding == Encoding::Plain || before == now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::row::Row;

    #[test]
    fn a_place_is_forgotten_with_the_next_piece_of_news() {
        let places = Places::default();
        let name =
            "sessions/2026/02/08/rollout-2026-02-08T09-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
        let mut file = Row::found(Area::Home, name.into(), Encoding::Plain, DiskStat::default()).file;
        file.number = NodeNumber(7);
        places.put(3, &file);
        assert_eq!(places.get(3, file.number).map(|place| place.1.to_vec()), Some(name.into()));
        assert!(places.get(3, NodeNumber(8)).is_none());
        assert!(places.get(4, file.number).is_none());
        // Read before the news, and put after it.
        places.put(3, &file);
        assert!(places.get(4, file.number).is_none());
        // Whoever asks with an older count gets what is newer: places of now.
        places.put(4, &file);
        assert!(places.get(3, file.number).is_some());
        let zst = FileRow { encoding: Encoding::Zstd, number: NodeNumber(9), ..file };
        places.put(4, &zst);
        assert!(places.get(4, zst.number).is_none());
    }
}
