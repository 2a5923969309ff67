//! How is `threads.jsonl` read while threads change? By versions, each on its own snapshot of the index.
//!
//! There are no opens, so a reader cannot be told from another. Therefore each state of the file is a node of its own:
//! a lookup finds the newest, and who began to read an older one goes on with that. A version is rendered piece by piece
//! from its snapshot; its size is known beforehand, from the sums that the index keeps by day.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::store::Store;
use crate::store::error::{Result, StoreError};
use crate::store::index::{Day, Reader};
use crate::store::node::NodeNumber;
use crate::store::placing::Placing;

/// Versions that can be read at a time.
const VERSIONS_MAX: usize = 8;
/// A version that nobody read for so long is given up: its snapshot keeps the index's log from shrinking.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Days whose lines are remembered: the kernel reads ahead at several places at a time.
const DAYS_MAX: usize = 4;
/// While files are read for the first time, a version is the newest for so long.
const FRESH_UNSETTLED: Duration = Duration::from_secs(1);

/// The versions that can be read.
#[derive(Default)]
pub(super) struct Versions {
    versions: Mutex<VecDeque<Arc<Version>>>,
}

/// One state of the file.
pub(super) struct Version {
    /// Its node number: made of its content.
    pub number: NodeNumber,
    /// Its size.
    pub size_bytes: u64,
    days: Vec<Day>,
    made: Instant,
    reading: Mutex<Reading>,
}

struct Reading {
    snapshot: Reader,
    used: Instant,
    /// The lines of the days that were read last, the last one first: day, then row and bytes of each line.
    lines: VecDeque<(i64, Vec<(i64, u64)>)>,
}

impl Versions {
    fn versions(&self) -> MutexGuard<'_, VecDeque<Arc<Version>>> {
        self.versions.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The newest version; made where the index changed since the last.
    pub(super) fn newest(&self, store: &Store) -> Result<Arc<Version>> {
        if let Some(last) =
            self.versions().back().filter(|last| !store.is_settled() && last.made.elapsed() < FRESH_UNSETTLED)
        {
            return Ok(last.clone());
        }
        let days = store.index().read(|reader| reader.queries().days())?;
        let number = number_of(&days);
        if let Some(known) = self.by_number(number) {
            return Ok(known);
        }
        let snapshot = store.index().snapshot()?;
        let days = snapshot.queries().days().map_err(StoreError::index(store.index().path()))?;
        let size_bytes = days.iter().map(|day| day.bytes).sum();
        let reading = Mutex::new(Reading { snapshot, used: Instant::now(), lines: VecDeque::new() });
        let version =
            Arc::new(Version { number: number_of(&days), size_bytes, days, made: Instant::now(), reading });
        let mut versions = self.versions();
        versions.retain(|other| other.number != version.number);
        versions.push_back(version.clone());
        while versions.len() > VERSIONS_MAX {
            versions.pop_front();
        }
        Ok(version)
    }

    /// A version that was found before.
    pub(super) fn by_number(&self, number: NodeNumber) -> Option<Arc<Version>> {
        self.versions().iter().find(|version| version.number == number).cloned()
    }

    /// Gives up what nobody reads.
    pub(super) fn expire(&self) {
        // A version at work is in use, whatever its clock says.
        self.versions().retain(|version| match version.reading.try_lock() {
            Ok(reading) => reading.used.elapsed() < IDLE_MAX,
            Err(_) => true,
        });
    }
}

fn number_of(days: &[Day]) -> NodeNumber {
    let mut digest = Vec::with_capacity(days.len() * 24);
    for day in days {
        digest.extend_from_slice(&day.day.to_le_bytes());
        digest.extend_from_slice(&day.bytes.to_le_bytes());
        digest.extend_from_slice(&day.digest.to_le_bytes());
    }
    NodeNumber::version(xxh3_64(&digest))
}

impl Version {
    /// Up to `size` bytes from `offset`; fewer only at the end.
    pub(super) fn read(
        &self,
        store: &Store,
        placing: &dyn Placing,
        offset: u64,
        size: usize,
    ) -> Result<Vec<u8>> {
        let end = self.size_bytes.min(offset.saturating_add(size as u64));
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut reading = self.reading.lock().unwrap_or_else(|poison| poison.into_inner());
        reading.used = Instant::now();
        let mut day_start = 0;
        for day in &self.days {
            let day_end = day_start + day.bytes;
            if day_end > offset && day_start < end {
                reading
                    .copy_day(placing, day, day_start, (offset, end), &mut bytes)
                    .map_err(StoreError::index(store.index().path()))?;
            }
            day_start = day_end;
        }
        Ok(bytes)
    }
}

impl Reading {
    fn copy_day(
        &mut self,
        placing: &dyn Placing,
        day: &Day,
        day_start: u64,
        range: (u64, u64),
        bytes: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        let held = self.lines.iter().position(|(number, _)| *number == day.day);
        let lines = match held.and_then(|at| self.lines.remove(at)) {
            Some(lines) => lines,
            None => (day.day, self.snapshot.queries().day_lines(day.day)?),
        };
        self.lines.push_front(lines);
        self.lines.truncate(DAYS_MAX);
        let Some((_, lines)) = self.lines.front() else { return Ok(()) };
        let mut start = day_start;
        for &(row, line_bytes) in lines {
            let end = start + line_bytes;
            if end > range.0 && start < range.1 {
                let row = self.snapshot.queries().row_by_id(row)?;
                let mut line = row.and_then(|row| placing.line(&row)).unwrap_or_default();
                // One snapshot and one function give one length; should they ever not, offsets still hold.
                debug_assert_eq!(line.len() as u64, line_bytes);
                line.resize(line_bytes as usize, b'\n');
                let from = range.0.saturating_sub(start) as usize;
                let to = (range.1.min(end) - start) as usize;
                bytes.extend_from_slice(&line[from..to]);
            }
            start = end;
        }
        Ok(())
    }
}
