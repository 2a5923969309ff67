//! What changed in the tree? News that the indexer sends after each commit, for whoever holds caches.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use super::node::NodeNumber;

/// One piece of news. It is a hint to look again, never the new state itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// An entry appeared, vanished, or leads to another node.
    Entry {
        /// The directory.
        dir: NodeNumber,
        /// The entry's name.
        name: Vec<u8>,
    },
    /// A node's attributes or content changed; a directory's listing.
    Node {
        /// The node.
        number: NodeNumber,
    },
    /// `session_index.jsonl` changed.
    NamesFile,
    /// More changed than is worth listing: look at everything again.
    Everything,
}

/// Pieces of news held for a slow reader; above, they become `Everything`.
const NEWS_MAX: usize = 100_000;

#[derive(Default)]
struct Held {
    changes: BTreeSet<Change>,
    closed: bool,
    wanted: bool,
}

/// News on its way from the indexer to the one who tells the kernel: coalesced and bounded.
#[derive(Default)]
pub struct News {
    held: Mutex<Held>,
    arrived: Condvar,
    count: AtomicU64,
}

impl News {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// From now on news is kept for a reader.
    pub fn subscribe(&self) {
        self.held().wanted = true;
    }

    /// Commits so far that changed the tree: an answer begun before one must not be kept after it.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Adds news of one commit.
    pub fn push(&self, changes: impl IntoIterator<Item = Change>) {
        let mut held = self.held();
        self.count.fetch_add(1, Ordering::SeqCst);
        if !held.wanted || held.closed {
            return;
        }
        held.changes.extend(changes);
        if held.changes.len() > NEWS_MAX {
            held.changes = BTreeSet::from([Change::Everything]);
        }
        if !held.changes.is_empty() {
            self.arrived.notify_all();
        }
    }

    /// Waits for news and takes it all; None once closed.
    pub fn take(&self) -> Option<Vec<Change>> {
        self.take_counted().map(|(changes, _)| changes)
    }

    /// As [`News::take`], with the count of commits that the news reaches up to.
    pub fn take_counted(&self) -> Option<(Vec<Change>, u64)> {
        let mut held = self.held();
        while held.changes.is_empty() && !held.closed {
            held = self.arrived.wait(held).unwrap_or_else(|poison| poison.into_inner());
        }
        let changes = std::mem::take(&mut held.changes).into_iter().collect();
        if held.closed { None } else { Some((changes, self.count())) }
    }

    /// No more news: `take` returns None.
    pub fn close(&self) {
        self.held().closed = true;
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_coalesced_bounded_and_ends() {
        let news = News::default();
        let entry = |n: u64| Change::Node { number: NodeNumber(n) };
        news.push([entry(1)]);
        news.subscribe();
        news.push([entry(2), entry(2), entry(3)]);
        assert_eq!(
            news.take(),
            Some(vec![entry(2), entry(3)]),
            "what came before the subscription is not kept"
        );
        news.push((0..=NEWS_MAX as u64).map(entry));
        assert_eq!(news.take(), Some(vec![Change::Everything]));
        news.push([entry(9)]);
        assert_eq!(news.take_counted(), Some((vec![entry(9)], 4)));
        news.close();
        assert_eq!(news.take(), None);
    }
}
