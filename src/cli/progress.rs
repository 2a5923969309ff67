//! How far is a long command? A bar on a terminal; one line a minute elsewhere; both on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use super::output::span;
use crate::store::backfill::Progress;

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// How often the bar moves though nothing is reported.
const TICK: Duration = Duration::from_millis(200);

/// The bar that is shown now, for whoever writes beside it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Runs `f`, which writes to the terminal, with the bar out of the way.
pub(crate) fn without_bar<T>(f: impl FnOnce() -> T) -> T {
    let bar = SHOWN.lock().unwrap_or_else(|poison| poison.into_inner()).clone();
    match bar {
        Some(bar) => bar.suspend(f),
        None => f(),
    }
}

/// How far it is, in files and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// All files are known: before, only `files_total` counts, and grows.
    pub(crate) listed: bool,
    /// Files to read.
    pub(crate) files_total: u64,
    /// Files read.
    pub(crate) files_done: u64,
    /// Bytes read, decoded.
    pub(crate) bytes_done: u64,
}

impl Snapshot {
    /// Of a running indexer.
    pub(crate) fn of(progress: &Progress) -> Snapshot {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let listed = progress.listed.load(Ordering::Acquire);
        let total = if listed { &progress.files_total } else { &progress.files_found };
        Snapshot {
            listed,
            files_total: number(total),
            files_done: number(&progress.files_done),
            bytes_done: number(&progress.bytes_done),
        }
    }

    /// Words about it: `elapsed` is the time since reading began.
    fn describe(&self, what: &str, elapsed: Duration) -> String {
        if !self.listed {
            return format!("listing: {} files found", HumanCount(self.files_total));
        }
        let total = self.files_total.max(self.files_done);
        let percent = (self.files_done * 100).checked_div(total).unwrap_or(100);
        let (done, total) = (HumanCount(self.files_done), HumanCount(total));
        format!("{what}: {done} of {total} files ({percent}%){}", self.rates(elapsed))
    }

    /// Bytes, bytes a second and the time that is left, where they are known.
    fn rates(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let mut text = String::new();
        if self.bytes_done > 0 && seconds > 0.0 {
            let rate = HumanBytes((self.bytes_done as f64 / seconds) as u64);
            text = format!(", {}, {rate}/s", HumanBytes(self.bytes_done));
        }
        if self.files_done > 0 && self.files_done < self.files_total {
            let left = (self.files_total - self.files_done) as f64 * seconds / self.files_done as f64;
            text.push_str(&format!(", about {} left", span(left.ceil())));
        }
        text
    }
}

/// Tells how far a command is, until it is dropped.
pub(crate) struct Reporter {
    what: &'static str,
    bar: Option<ProgressBar>,
    quiet: bool,
    next_line: Instant,
    reading_since: Option<Instant>,
}

impl Reporter {
    /// Begins to tell of `what`, a word such as "reading". `quiet`: tells nothing.
    pub(crate) fn new(what: &'static str, quiet: bool) -> Reporter {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            bar.set_style(bar_style());
            bar.enable_steady_tick(TICK);
            bar
        });
        *SHOWN.lock().unwrap_or_else(|poison| poison.into_inner()) = bar.clone();
        Reporter { what, bar, quiet, next_line: Instant::now() + LINE_EVERY, reading_since: None }
    }

    /// Tells it, where it is time to.
    pub(crate) fn show(&mut self, snapshot: Snapshot) {
        let since = match self.reading_since {
            Some(since) => since,
            None if snapshot.listed => *self.reading_since.insert(Instant::now()),
            None => Instant::now(),
        };
        if let Some(bar) = &self.bar {
            bar.set_length(if snapshot.listed { snapshot.files_total } else { 0 });
            bar.set_position(snapshot.files_done);
            bar.set_message(snapshot.describe(self.what, since.elapsed()));
        } else if !self.quiet && Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            // A closed standard error is no reason to stop.
            let _ = writeln!(io::stderr(), "rolloutfs: {}", snapshot.describe(self.what, since.elapsed()));
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        *SHOWN.lock().unwrap_or_else(|poison| poison.into_inner()) = None;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar_style() -> ProgressStyle {
    // The template is a constant that the test below parses.
    ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

const BAR: &str = "{spinner} [{bar:24}] {msg}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_parses() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }

    #[test]
    fn words_say_files_bytes_rate_and_time_left() {
        let snapshot = |listed, files_total, files_done, bytes_done| Snapshot {
            listed,
            files_total,
            files_done,
            bytes_done,
        };
        for (snapshot, seconds, expected) in [
            (snapshot(false, 1234, 0, 0), 0, "listing: 1,234 files found"),
            (snapshot(true, 0, 0, 0), 0, "reading: 0 of 0 files (100%)"),
            (snapshot(true, 2000, 0, 0), 3, "reading: 0 of 2,000 files (0%)"),
            (
                snapshot(true, 2000, 500, 10 << 20),
                10,
                "reading: 500 of 2,000 files (25%), 10.00 MiB, 1.00 MiB/s, about 30.0 s left",
            ),
            (snapshot(true, 5, 9, 0), 1, "reading: 9 of 9 files (100%)"),
        ] {
            assert_eq!(snapshot.describe("reading", Duration::from_secs(seconds)), expected);
        }
    }
}
