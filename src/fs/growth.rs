//! How long may the kernel be told that a growing file is? Only as long as all that it keeps of the file is whole.
//!
//! The kernel fills the last page of a file with NULs. When it learns that the file is longer it first sets the size, and
//! then drops its pages: whoever reads in between gets the NULs, and a page that was on its way brings them later. So it is
//! told in another order. The pages are dropped first, while the old size holds. What is read after that reaches as far as
//! the file does on disk, and then the size that the file had before the pages were dropped is told.
//!
//! One thread, `growth`, does this; it may wait for a page that somebody reads or writes, and nothing that they need waits
//! for it. `stat` is answered by it, with the new size. Other answers that have a size (of a name that is looked up, say)
//! have the old one meanwhile, and no lifetime.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::{Fs, SESSION_INDEX};
use crate::store::node::{NodeClass, NodeNumber};

/// Files that are remembered: those that were written lately. Of others it is not known what the kernel has.
const FILES_MAX: usize = 8192;
/// Pages of the kernel.
const PAGE_BYTES: u64 = 4096;

/// Answers a question that waited.
type Answer = Box<dyn FnOnce() + Send>;

/// What the kernel has of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// The size that it was told, or wrote itself; None: an unknown one.
    size_bytes: Option<u64>,
    /// The size that it surely has. While it writes, and until the writer runs again, it takes none from an answer.
    sure_bytes: u64,
    /// From here on its pages may lack something, if the file is longer than that size.
    whole_bytes: u64,
    /// When the kernel wrote last.
    written: Option<Instant>,
}

/// Nothing is known.
const NOTHING: Shown = Shown { size_bytes: None, sure_bytes: 0, whole_bytes: 0, written: None };
/// So long after its last write the kernel may still be at it.
const WRITING: Duration = Duration::from_secs(1);

struct Held {
    shown: LruCache<NodeNumber, Shown>,
    /// Files whose pages are to be dropped, and who waits for that.
    due: BTreeMap<NodeNumber, Vec<Answer>>,
    /// The file whose pages are just being dropped.
    dropping: Option<NodeNumber>,
    /// There is a kernel, and a thread that tells it.
    telling: bool,
    /// There will be none again.
    closed: bool,
}

/// The end of a file on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// How long it is.
    pub(super) size_bytes: u64,
    /// Its last byte.
    pub(super) last: Option<u8>,
}

/// What the kernel can be told.
pub(super) trait Kernel {
    /// Drops the pages of a file from an offset on.
    fn drop_from(&self, number: NodeNumber, offset: u64);
    /// Makes a file so long, if it is shorter. It takes a byte to do so. (An answer with attributes would not do: it is
    /// passed over, as its question came before the pages were dropped.)
    fn grow_to(&self, number: NodeNumber, size_bytes: u64, last: u8);
}

/// What the kernel has of files that grow.
pub(super) struct Growth {
    held: Mutex<Held>,
    changed: Condvar,
}

impl Default for Growth {
    fn default() -> Self {
        let capacity = NonZeroUsize::new(FILES_MAX).unwrap_or(NonZeroUsize::MIN);
        let held = Held {
            shown: LruCache::new(capacity),
            due: BTreeMap::new(),
            dropping: None,
            telling: false,
            closed: false,
        };
        Growth { held: Mutex::new(held), changed: Condvar::new() }
    }
}

impl Growth {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The size to answer with for a file that has `size_bytes` now and had `before_bytes` when it was looked at last, and
    /// whether the answer may be kept. `live`: it may grow soon.
    pub(super) fn shown_size(
        &self,
        number: NodeNumber,
        before_bytes: u64,
        size_bytes: u64,
        live: bool,
    ) -> (u64, bool) {
        let mut held = self.held();
        if !held.telling {
            return (size_bytes, true);
        }
        let whole = Shown {
            size_bytes: Some(size_bytes),
            sure_bytes: size_bytes,
            whole_bytes: size_bytes,
            written: None,
        };
        let Some(shown) = held.shown.get_mut(&number) else {
            if size_bytes > before_bytes {
                // What the kernel has is from then, or from before.
                let shown = Shown { size_bytes: Some(before_bytes), ..NOTHING };
                held.shown.put(number, shown);
                self.make_due(held, number);
                return (before_bytes, false);
            }
            if live {
                held.shown.put(number, whole);
            }
            return (size_bytes, true);
        };
        if shown.size_bytes.is_some_and(|told| told > size_bytes) {
            // Of a file that is shorter now the kernel drops the rest by itself.
            *shown = whole;
        }
        let told = shown.size_bytes.unwrap_or(size_bytes);
        let kept = size_bytes == told && size_bytes <= shown.sure_bytes;
        if !kept {
            self.make_due(held, number);
        }
        (told, kept)
    }

    /// News came of a file of which it is not remembered what the kernel has: that may be less than there is now.
    pub(super) fn news_of(&self, number: NodeNumber) {
        let mut held = self.held();
        if held.telling && !held.shown.contains(&number) {
            held.shown.put(number, NOTHING);
            self.make_due(held, number);
        }
    }

    /// The kernel wrote to a file, from an offset that it chose, and has it so long now.
    pub(super) fn written(&self, number: NodeNumber, offset: u64, end: u64) {
        if let Some(shown) = self.held().shown.get_mut(&number) {
            shown.size_bytes = shown.size_bytes.map(|told| told.max(end));
            // It may have guessed another place than the bytes got.
            shown.whole_bytes = shown.whole_bytes.min(offset);
            shown.written = Some(Instant::now());
        }
    }

    fn make_due(&self, mut held: MutexGuard<'_, Held>, number: NodeNumber) {
        held.due.entry(number).or_default();
        drop(held);
        self.changed.notify_all();
    }

    /// Has `answer` called once the kernel can be told of a file's size. Gives it back if there is nothing to wait for.
    pub(super) fn when_whole(&self, number: NodeNumber, answer: Answer) -> Option<Answer> {
        let mut held = self.held();
        if let Some(waiting) = held.due.get_mut(&number) {
            waiting.push(answer);
            return None;
        }
        if held.dropping == Some(number) {
            // The size that it will tell may be an older one: once more.
            held.due.insert(number, vec![answer]);
            return None;
        }
        Some(answer)
    }

    /// Is it a file that may grow?
    pub(super) fn is_about(number: NodeNumber) -> bool {
        number == SESSION_INDEX || matches!(number.class(), Some(NodeClass::File))
    }

    /// There is a kernel from now on. True: there was, for the mount ended before its thread began.
    fn begin(&self) -> bool {
        let mut held = self.held();
        held.telling = !held.closed;
        held.closed
    }

    /// Tells the kernel as it is due, until closed.
    pub(super) fn tell(&self, fs: &Fs, kernel: &dyn Kernel) {
        if self.begin() {
            return;
        }
        loop {
            let mut held = self.held();
            while held.due.is_empty() && held.telling {
                held = self.changed.wait(held).unwrap_or_else(|poison| poison.into_inner());
            }
            let Some((number, waiting)) = held.due.pop_first() else { return };
            if !held.telling {
                drop(held);
                waiting.into_iter().for_each(|answer| answer());
                continue;
            }
            held.dropping = Some(number);
            let shown = held.shown.peek(&number).copied().unwrap_or(NOTHING);
            let from = shown.whole_bytes;
            let is_written = shown.written.is_some_and(|at| at.elapsed() < WRITING);
            drop(held);
            // In this order: what is read after the pages are gone reaches at least so far.
            let mut end = fs.end_on_disk(number, 0);
            // The first byte of a page that is its last one makes the page whole for the kernel, with zeros behind it; also
            // where it is just filling that page itself. The byte is told of when nobody writes any more, or more follows.
            if is_written && end.is_some_and(|end| end.size_bytes % PAGE_BYTES == 1) {
                end = fs.end_on_disk(number, 1);
            }
            kernel.drop_from(number, from - from % PAGE_BYTES);
            if let Some(End { size_bytes, last: Some(last) }) = end {
                kernel.grow_to(number, size_bytes, last);
            }
            let mut held = self.held();
            held.dropping = None;
            match (end, held.shown.peek_mut(&number)) {
                (Some(End { size_bytes, .. }), Some(shown)) => {
                    // The kernel may have written meanwhile.
                    shown.size_bytes = shown.size_bytes.max(Some(size_bytes));
                    shown.sure_bytes = size_bytes;
                    if shown.whole_bytes >= from {
                        shown.whole_bytes = size_bytes;
                    }
                }
                _ => drop(held.shown.pop(&number)),
            }
            drop(held);
            waiting.into_iter().for_each(|answer| answer());
        }
    }

    /// There is no kernel any more: whoever waits is answered.
    pub(super) fn close(&self) {
        {
            let mut held = self.held();
            (held.telling, held.closed) = (false, true);
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: NodeNumber = NodeNumber(7);

    fn telling() -> Growth {
        let growth = Growth::default();
        growth.held().telling = true;
        growth
    }

    #[test]
    fn what_was_closed_before_it_began_tells_nobody() {
        let growth = Growth::default();
        growth.close();
        assert!(growth.begin(), "the thread ends at once");
    }

    fn is_due(growth: &Growth) -> bool {
        growth.held().due.contains_key(&FILE)
    }

    #[test]
    fn a_file_that_grew_is_shown_as_it_was_until_its_pages_are_dropped() {
        let growth = telling();
        assert_eq!(growth.shown_size(FILE, 100, 100, true), (100, true));
        assert_eq!(growth.shown_size(FILE, 100, 150, true), (100, false));
        assert!(is_due(&growth));
        assert!(growth.when_whole(FILE, Box::new(|| {})).is_none(), "it waits");
        // Shorter: at once, the kernel drops the rest by itself.
        assert_eq!(growth.shown_size(FILE, 100, 50, true), (50, true));
        assert_eq!(growth.shown_size(FILE, 100, 51, true), (50, false));
    }

    #[test]
    fn of_a_file_that_nobody_remembers_the_index_tells_what_the_kernel_may_have() {
        let growth = telling();
        assert_eq!(growth.shown_size(FILE, 100, 100, false), (100, true));
        assert!(growth.held().shown.is_empty(), "what is old is not remembered");
        assert_eq!(growth.shown_size(FILE, 100, 120, false), (100, false));
        let growth = telling();
        growth.news_of(FILE);
        assert!(is_due(&growth));
        assert_eq!(growth.shown_size(FILE, 120, 120, true), (120, false), "not before its pages are dropped");
    }

    #[test]
    fn what_the_kernel_wrote_is_sure_only_when_it_was_told() {
        let growth = telling();
        growth.shown_size(FILE, 100, 100, true);
        growth.written(FILE, 90, 130);
        assert_eq!(growth.shown_size(FILE, 100, 130, true), (130, false));
        assert_eq!(growth.held().shown.peek(&FILE).unwrap().whole_bytes, 90, "it guessed the place");
    }

    #[test]
    fn without_a_kernel_all_is_told_at_once() {
        let growth = Growth::default();
        assert_eq!(growth.shown_size(FILE, 100, 150, true), (150, true));
        growth.news_of(FILE);
        assert!(!is_due(&growth) && growth.when_whole(FILE, Box::new(|| {})).is_some());
    }
}
