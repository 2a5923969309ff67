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
/// The same once the log is long: while any snapshot is held, it only grows.
const IDLE_UNDER_PRESSURE_MAX: Duration = Duration::from_secs(1);
/// A log is long from here on, bytes: 96 MiB. It is written back, and begun anew if nobody needs it, each 32 MiB.
const LOG_BYTES_LONG: u64 = 96 << 20;
/// From here on no version is kept: whoever reads one is told ESTALE. 1 GiB; a full disk would be worse.
const LOG_BYTES_MAX: u64 = 1 << 30;
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

    /// Gives up what nobody reads; the sooner, the longer the index's log is, in bytes.
    pub(super) fn expire(&self, log_bytes: u64) {
        let idle_max = match log_bytes {
            LOG_BYTES_MAX.. => Duration::ZERO,
            LOG_BYTES_LONG.. => IDLE_UNDER_PRESSURE_MAX,
            _ => IDLE_MAX,
        };
        // A version at work is in use, whatever its clock says.
        self.versions().retain(|version| match version.reading.try_lock() {
            Ok(reading) => reading.used.elapsed() < idle_max,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;
    use crate::store::home::Home;
    use crate::views::Views;

    #[test]
    fn the_longer_the_log_the_sooner_a_version_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sessions")).unwrap();
        let home = Home::open(dir.path()).unwrap();
        let options = StoreOptions { watch: false, ..StoreOptions::default() };
        let store = Store::open(home, &options, Arc::new(Views::new())).unwrap();
        store.flush();
        let versions = Versions::default();
        for (log_bytes, waits, kept) in [
            (LOG_BYTES_LONG, false, true),
            (0, true, true),
            (LOG_BYTES_LONG, false, false),
            (LOG_BYTES_MAX, false, false),
        ] {
            let number = versions.newest(&store).unwrap().number;
            if waits {
                std::thread::sleep(IDLE_UNDER_PRESSURE_MAX);
            }
            versions.expire(log_bytes);
            assert_eq!(versions.by_number(number).is_some(), kept, "{log_bytes} {waits}");
        }
    }
}
