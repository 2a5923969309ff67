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

use lru::LruCache;

use super::Fs;
use crate::store::node::NodeNumber;

/// Files that are remembered: those that were written lately. Of others it is not known what the kernel has.
const FILES_MAX: usize = 8192;
/// Pages of the kernel.
const PAGE_BYTES: u64 = 4096;

/// Answers a question that waited.
type Answer = Box<dyn FnOnce(&Fs) + Send>;

/// What the kernel has of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// The size that it was told; None: an unknown one.
    size_bytes: Option<u64>,
    /// From here on its pages may lack something, if the file is longer than that size.
    whole_bytes: u64,
}

struct Held {
    shown: LruCache<NodeNumber, Shown>,
    /// Files whose pages are to be dropped, and who waits for that.
    due: BTreeMap<NodeNumber, Vec<Answer>>,
    /// The file whose pages are just being dropped.
    dropping: Option<NodeNumber>,
    /// There is a kernel, and a thread that tells it.
    telling: bool,
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
        let held =
            Held { shown: LruCache::new(capacity), due: BTreeMap::new(), dropping: None, telling: false };
        Growth { held: Mutex::new(held), changed: Condvar::new() }
    }
}

impl Growth {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The size to answer with for a file that has `size_bytes` now and had `before_bytes` when it was looked at last;
    /// `live`: it may grow soon. If it is not the size now, the answer is not to be kept.
    pub(super) fn shown_size(
        &self,
        number: NodeNumber,
        before_bytes: u64,
        size_bytes: u64,
        live: bool,
    ) -> u64 {
        let mut held = self.held();
        if !held.telling {
            return size_bytes;
        }
        let whole = Shown { size_bytes: Some(size_bytes), whole_bytes: size_bytes };
        let Some(shown) = held.shown.get_mut(&number) else {
            if size_bytes > before_bytes {
                // What the kernel has is from then, or from before.
                held.shown.put(number, Shown { size_bytes: Some(before_bytes), whole_bytes: 0 });
                self.make_due(held, number);
                return before_bytes;
            }
            if live {
                held.shown.put(number, whole);
            }
            return size_bytes;
        };
        match shown.size_bytes {
            Some(told) if size_bytes > told => {
                self.make_due(held, number);
                told
            }
            // Of a file that is shorter now the kernel drops the rest by itself.
            Some(_) => {
                *shown = whole;
                size_bytes
            }
            None => size_bytes,
        }
    }

    /// News came of a file of which it is not remembered what the kernel has: that may be less than there is now.
    pub(super) fn news_of(&self, number: NodeNumber) {
        let mut held = self.held();
        if held.telling && !held.shown.contains(&number) {
            held.shown.put(number, Shown { size_bytes: None, whole_bytes: 0 });
            self.make_due(held, number);
        }
    }

    /// The kernel wrote to a file, from an offset that it chose, and has it so long now.
    pub(super) fn written(&self, number: NodeNumber, offset: u64, end: u64) {
        if let Some(shown) = self.held().shown.get_mut(&number) {
            shown.size_bytes = shown.size_bytes.map(|told| told.max(end));
            // It may have guessed another place than the bytes got.
            shown.whole_bytes = shown.whole_bytes.min(offset);
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

    /// Must an answer about this file wait?
    pub(super) fn is_due(&self, number: NodeNumber) -> bool {
        let held = self.held();
        held.due.contains_key(&number) || held.dropping == Some(number)
    }

    /// Tells the kernel as it is due, until closed.
    pub(super) fn tell(&self, fs: &Fs, kernel: &dyn Kernel) {
        self.held().telling = true;
        loop {
            let mut held = self.held();
            while held.due.is_empty() && held.telling {
                held = self.changed.wait(held).unwrap_or_else(|poison| poison.into_inner());
            }
            let Some((number, waiting)) = held.due.pop_first() else { return };
            if !held.telling {
                drop(held);
                waiting.into_iter().for_each(|answer| answer(fs));
                continue;
            }
            held.dropping = Some(number);
            let from = held.shown.peek(&number).map_or(0, |shown| shown.whole_bytes);
            drop(held);
            // In this order: what is read after the pages are gone reaches at least so far.
            let end = fs.end_on_disk(number);
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
                    if shown.whole_bytes >= from {
                        shown.whole_bytes = size_bytes;
                    }
                }
                _ => drop(held.shown.pop(&number)),
            }
            drop(held);
            waiting.into_iter().for_each(|answer| answer(fs));
        }
    }

    /// There is no kernel any more: whoever waits is answered.
    pub(super) fn close(&self) {
        self.held().telling = false;
        self.changed.notify_all();
    }
}
