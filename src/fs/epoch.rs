//! Which calls were begun before now and are not answered yet?
//!
//! A call that read the index before a commit must not be answered after the kernel was told of the commit: the kernel
//! would keep the old answer. So the one who tells waits until those calls are over.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Calls {
    next: u64,
    /// The numbers of the calls that are not over.
    running: BTreeSet<u64>,
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
}
