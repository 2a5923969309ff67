//! How does the store learn of changes, and how far behind is it? Numbers for `status`, kept by the watcher and the indexer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Batches of events of which it is remembered when they came: as many as may wait for the indexer.
const BATCHES_MAX: usize = 1024;

/// How changes are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Not at all: the index is made once.
    #[default]
    Off,
    /// The system tells.
    Events,
    /// Everything is compared again and again.
    Clock,
}

/// Why everything was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was the start.
    Start,
    /// It was time.
    Clock,
    /// Events were lost.
    Lost,
}

/// How the watching is going.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WatchStatus {
    /// How changes are found.
    pub mode: Mode,
    /// Why by the clock, where it is so.
    pub reason: Option<String>,
    /// Everything is compared so often; None: only where events were lost.
    pub compare_every_seconds: Option<f64>,
    /// Folders that the system tells of.
    pub folders: u64,
    /// Folders that it does not tell of.
    pub not_watched: u64,
    /// Age of the oldest event that is not in the index yet; 0: there is none.
    pub lag_ms: u64,
    /// How long the last event took from its arrival to the index.
    pub last_lag_ms: Option<u64>,
    /// How often events were lost.
    pub lost: u64,
    /// How often everything was compared.
    pub compared: u64,
    /// When the last comparison ended, seconds since 1970.
    pub last_compared_at: Option<u64>,
    /// How long it took.
    pub last_compared_ms: Option<u64>,
    /// Why it was made.
    pub last_compared_why: Option<Why>,
}

#[derive(Default)]
struct Inner {
    status: WatchStatus,
    /// Batches of events read so far.
    sent: u64,
    /// Of those that are not in the index yet: their numbers, and when their first event was read.
    batches: VecDeque<(u64, Instant)>,
}

/// The numbers, shared by who keeps them.
#[derive(Default)]
pub(super) struct Watching(Mutex<Inner>);

impl Watching {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Changes something of the status.
    pub(super) fn set(&self, change: impl FnOnce(&mut WatchStatus)) {
        change(&mut self.inner().status);
    }

    /// A batch of events came, the first of them at `since`. Returns its number.
    pub(super) fn arrived(&self, since: Instant) -> u64 {
        let mut inner = self.inner();
        inner.sent += 1;
        let number = inner.sent;
        if inner.batches.len() < BATCHES_MAX {
            inner.batches.push_back((number, since));
        }
        number
    }

    /// The number of the last batch.
    pub(super) fn last_arrived(&self) -> u64 {
        self.inner().sent
    }

    /// Batches up to `number` are in the index.
    pub(super) fn indexed(&self, number: u64) {
        let mut inner = self.inner();
        while inner.batches.front().is_some_and(|&(first, _)| first <= number) {
            let since = inner.batches.pop_front().map(|(_, since)| since);
            inner.status.last_lag_ms = since.map(|since| since.elapsed().as_millis() as u64);
        }
    }

    /// Everything was compared.
    pub(super) fn compared(&self, why: Why, took: Duration) {
        self.set(|status| {
            status.compared += 1;
            status.last_compared_at =
                SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
            status.last_compared_ms = Some(took.as_millis() as u64);
            status.last_compared_why = Some(why);
        });
    }

    /// True if each change will be told by the system.
    pub(super) fn sees_all(&self) -> bool {
        let inner = self.inner();
        inner.status.mode == Mode::Events && inner.status.not_watched == 0
    }

    /// The numbers now.
    pub(super) fn status(&self) -> WatchStatus {
        let inner = self.inner();
        let mut status = inner.status.clone();
        status.lag_ms = inner.batches.front().map_or(0, |(_, since)| since.elapsed().as_millis() as u64);
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_that_of_the_oldest_batch_not_indexed() {
        let watching = Watching::default();
        assert_eq!(watching.status().lag_ms, 0);
        let old = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let first = watching.arrived(old);
        let second = watching.arrived(Instant::now());
        assert!((2000..3000).contains(&watching.status().lag_ms));
        watching.indexed(first);
        assert!(watching.status().lag_ms < 1000);
        assert!(watching.status().last_lag_ms.is_some_and(|lag| lag >= 2000));
        watching.indexed(second);
        assert_eq!((watching.status().lag_ms, watching.last_arrived()), (0, 2));
        for _ in 0..2 * BATCHES_MAX {
            watching.arrived(Instant::now());
        }
        assert_eq!(watching.inner().batches.len(), BATCHES_MAX, "bounded");
    }
}
