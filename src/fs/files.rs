//! Which files below are open? A bounded `lru` of descriptors: there are no opens to keep them by.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::store::content::{self, Content, ContentCache, Encoding, Located};
use crate::store::error::Result;
use crate::store::node::NodeNumber;
use crate::store::row::DiskStat;

/// Descriptors kept open; below the soft limit of 1024 that a user usually has.
const OPEN_FILES_MAX: usize = 512;
/// A descriptor is trusted this long before the path is looked at again.
const TRUST: Duration = Duration::from_secs(1);

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
        let capacity = NonZeroUsize::new(OPEN_FILES_MAX).unwrap_or(NonZeroUsize::MIN);
        Files { open: Mutex::new(LruCache::new(capacity)) }
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
