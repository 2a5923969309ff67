//! What does `.rolloutfs/status.json` say? How the mount is doing, in one finite JSON object.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::store::backfill;

use super::Fs;

/// A status is made anew after this time.
const FRESH: Duration = Duration::from_millis(500);
/// Its size is a multiple of this, one page: a reader asks for size and bytes one after the other, and a status made in
/// between would be cut to the size of the one before.
const STEP_BYTES: usize = 4096;

impl Fs {
    /// The status as JSON. Asks the index alone, and never waits for it to be written.
    pub(super) fn status_text(&self) -> Vec<u8> {
        let mut held = self.status.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some((made, text)) = &*held
            && made.elapsed() < FRESH
        {
            return text.clone();
        }
        let mut text = serde_json::to_vec_pretty(&self.status()).unwrap_or_default();
        let size = (text.len() + 1).next_multiple_of(STEP_BYTES);
        text.resize(size - 1, b' ');
        text.push(b'\n');
        *held = Some((Instant::now(), text.clone()));
        text
    }

    fn status(&self) -> serde_json::Value {
        let store = self.store();
        let progress = store.progress();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (counts, state) =
            match store.index().read(|reader| Ok((reader.queries().counts()?, backfill::load(reader)?))) {
                Ok((counts, state)) => (json!(counts), json!({ "outcome": state.outcome(), "state": state })),
                Err(error) => (json!(null), json!({ "error": error.to_string() })),
            };
        let cache = store.content().usage();
        let failures = self.counters().failures();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "home": store.home().root().display().to_string(),
            "mountpoint": *self.mountpoint.lock().unwrap_or_else(|poison| poison.into_inner()),
            "state_dir": store.state_dir().display().to_string(),
            "writer": store.is_writer(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "threads": counts,
            "backfill": state,
            "progress": {
                "listed": progress.listed.load(Ordering::Acquire),
                "settled": progress.is_settled(),
                "files_total": load(&progress.files_total),
                "files_done": load(&progress.files_done),
                "bytes_total": load(&progress.bytes_total),
                "bytes_done": load(&progress.bytes_done),
                "files_failed": load(&progress.files_failed),
                "passed_over": load(&progress.passed_over),
                "trouble": progress.trouble(),
            },
            "watch": store.watch_status(),
            "cache": { "copies": cache.copies_count, "bytes": cache.held_bytes, "decodes": cache.decodes_count },
            "open_files": self.files.count(),
            "descriptors": open_descriptors(),
            "memory_bytes": resident_bytes(),
            "errors": failures,
            "requests": self.counters().snapshot(),
        })
    }
}

/// Descriptors that this process has open, of every kind.
fn open_descriptors() -> Option<u64> {
    // One is that of the listing.
    Some((std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

/// Memory of this process, without what is swapped out.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
