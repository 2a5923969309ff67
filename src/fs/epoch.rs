//! Which calls were begun before now and are not answered yet?
//!
//! A call that read the index before a commit must not be answered after the kernel was told of the commit: the kernel
//! would keep the old answer. So the one who tells waits until those calls are over.
//!
//! And the other way round: a call that changed the tree is answered once the kernel was told of what it changed, so that
//! whoever looks next sees it. But not of what the kernel holds locked for the call itself: that is told right after.
//! Such a call has its answer, and counts as over while it waits.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::store::node::NodeNumber;

thread_local! {
    /// The call at work on this thread changed the tree.
    static CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// How often one who waits looks whether it is waited for.
const TELLING_POLL: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Calls {
    next: u64,
    /// The numbers of the calls that are not over.
    running: BTreeSet<u64>,
    /// What the kernel holds locked for calls that change something, and for how many.
    held: BTreeMap<NodeNumber, u32>,
    /// What the kernel is just told of: it waits there for who holds it.
    telling: Option<NodeNumber>,
    /// News up to this count was told.
    told: u64,
}

/// Notes that the call at work on this thread changed the tree.
pub(super) fn mark_changed() {
    CHANGED.set(true);
}

/// Did the call at work on this thread change the tree? Asked once.
pub(super) fn take_changed() -> bool {
    CHANGED.take()
}

/// The calls at work.
#[derive(Default)]
pub struct Epoch {
    calls: Mutex<Calls>,
    ended: Condvar,
}

/// A call at work; dropped once it is answered.
pub struct Running<'e> {
    epoch: &'e Epoch,
    number: u64,
}

/// Nodes that the kernel holds locked for a call; dropped once it is answered.
pub struct Holding<'e> {
    epoch: &'e Epoch,
    numbers: Vec<NodeNumber>,
}

impl Epoch {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// A call begins.
    pub fn enter(&self) -> Running<'_> {
        let mut calls = self.calls();
        let number = calls.next;
        calls.next += 1;
        calls.running.insert(number);
        Running { epoch: self, number }
    }

    /// Waits until every call that runs now is over, `at_most` this long. False: some is not.
    pub fn wait_for_running(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut calls = self.calls();
        let before = calls.next;
        while calls.running.first().is_some_and(|&first| first < before) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            calls = self.ended.wait_timeout(calls, left).unwrap_or_else(|poison| poison.into_inner()).0;
        }
        true
    }

    /// A call begins for which the kernel holds these nodes.
    pub fn hold(&self, numbers: &[NodeNumber]) -> Holding<'_> {
        let mut calls = self.calls();
        for &number in numbers {
            *calls.held.entry(number).or_default() += 1;
        }
        Holding { epoch: self, numbers: numbers.to_vec() }
    }

    /// May the kernel be told of something in this node now? Not while a call holds it. [`Epoch::told_one`] is to follow.
    pub fn may_tell(&self, number: NodeNumber) -> bool {
        let mut calls = self.calls();
        let free = !calls.held.contains_key(&number);
        if free {
            calls.telling = Some(number);
        }
        free
    }

    /// The kernel was told.
    pub fn told_one(&self) {
        self.calls().telling = None;
    }

    /// News up to `count` was told, but for what calls hold.
    pub fn told(&self, count: u64) {
        self.calls().told = count;
        self.ended.notify_all();
    }

    /// Waits until news up to `count` was told, `at_most` this long. False: it was not. There is no waiting for one who
    /// waits for us: who tells the kernel of a node that came to be held meanwhile.
    pub fn wait_told(&self, count: u64, holding: &Holding<'_>, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut calls = self.calls();
        while calls.told < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || calls.telling.is_some_and(|number| holding.numbers.contains(&number)) {
                return false;
            }
            let step = left.min(TELLING_POLL);
            calls = self.ended.wait_timeout(calls, step).unwrap_or_else(|poison| poison.into_inner()).0;
        }
        true
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        let mut calls = self.epoch.calls();
        for number in &self.numbers {
            if let Some(count) = calls.held.get_mut(number) {
                *count -= 1;
                if *count == 0 {
                    calls.held.remove(number);
                }
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.epoch.calls().running.remove(&self.number);
        self.epoch.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_older_calls_and_not_for_newer_ones() {
        let epoch = Epoch::default();
        assert!(epoch.wait_for_running(Duration::ZERO));
        let old = epoch.enter();
        assert!(!epoch.wait_for_running(Duration::from_millis(1)));
        drop(old);
        std::thread::scope(|scope| {
            let old = epoch.enter();
            let waiting = scope.spawn(|| epoch.wait_for_running(Duration::from_secs(30)));
            drop(old);
            assert!(waiting.join().unwrap());
        });
        let new = epoch.enter();
        assert!(epoch.calls().next > new.number && !epoch.wait_for_running(Duration::ZERO));
    }

    #[test]
    fn waits_for_what_is_told_but_not_for_what_waits_for_it() {
        let epoch = Epoch::default();
        let (held, free) = (NodeNumber(7), NodeNumber(8));
        let first = epoch.hold(&[held, held]);
        assert!(!epoch.may_tell(held) && epoch.may_tell(free));
        epoch.told_one();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| epoch.wait_told(3, &first, Duration::from_secs(30)));
            epoch.told(3);
            assert!(waiting.join().unwrap());
        });
        assert!(!epoch.wait_told(4, &first, Duration::from_millis(1)));
        drop(first);
        assert!(epoch.may_tell(held));
        let late = epoch.hold(&[held]);
        assert!(!epoch.wait_told(4, &late, Duration::from_secs(30)), "at once");
    }

    #[test]
    fn a_change_is_noted_once() {
        mark_changed();
        assert!(take_changed() && !take_changed());
    }
}
