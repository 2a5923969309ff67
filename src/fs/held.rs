//! Which pieces of writes wait for their rest, and when do they land without it?
//!
//! The kernel cuts a write at the first border of a page (and a long one at others), answers nobody until all is taken, and
//! sends the pieces one after the other. A piece that may have been cut is kept (`store::held`) until the next one comes,
//! so that a line lands by one write. It lands alone when none comes: after `HOLD_MAX`, or soon after somebody asks for
//! the file. Who asks is answered when it has landed; no worker waits for that, for the rest needs one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Fs;
use crate::store::held::{Entry, HELD_BYTES_MAX, Journal};
use crate::store::node::NodeNumber;

/// The kernel's page, bytes.
const PAGE_BYTES: u64 = 4096;
/// A write of fewer bytes is cut at the first border alone, one of more also where the kernel's request is full.
const REQUEST_BYTES_MIN: usize = 128 * 1024;
/// How long a piece waits for the next one. The kernel sends it at once, but a loaded machine takes its time; and a piece
/// that lands too early may be cut by others' lines.
const HOLD_MAX: Duration = Duration::from_secs(2);
/// How long a call that asks for the file waits for the rest of a write.
const ASKED_WAIT_MAX: Duration = Duration::from_millis(500);
/// When a landing that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Pieces of one write.
pub(super) struct Piece {
    pub(super) entry: Entry,
    /// Where the kernel goes on, bytes.
    pub(super) next: u64,
    due: Instant,
}

impl Piece {
    pub(super) fn new(entry: Entry, next: u64) -> Piece {
        Piece { entry, next, due: Instant::now() + HOLD_MAX }
    }

    /// Waits anew, for the next piece.
    pub(super) fn go_on(&mut self, next: u64) {
        (self.next, self.due) = (next, Instant::now() + HOLD_MAX);
    }

    /// Can so many bytes more be held?
    pub(super) fn takes(&self, bytes: usize) -> bool {
        self.entry.bytes().len() + bytes <= HELD_BYTES_MAX
    }
}

/// May the rest of a write follow these bytes of it? A line that is whole needs no rest.
pub(super) fn may_go_on(offset: u64, bytes: &[u8]) -> bool {
    let cut = (offset + bytes.len() as u64).is_multiple_of(PAGE_BYTES);
    let first = !offset.is_multiple_of(PAGE_BYTES);
    cut && (first || bytes.len() >= REQUEST_BYTES_MIN) && !bytes.ends_with(b"\n")
}

/// A call that is answered when no piece of its file waits any more.
type Asking = Box<dyn FnOnce() + Send>;

/// The pieces that wait, one write a file. A piece is taken and put back under the file's writing lock.
pub(super) struct Pieces {
    pub(super) journal: Journal,
    held: Mutex<Held>,
    changed: Condvar,
    /// Files with a piece: most calls look at no more.
    count: AtomicUsize,
}

/// The piece of a file, or none, in the hand of who has the file's writing lock. Dropped, what is in it waits again.
pub(super) struct InHand<'a> {
    pieces: &'a Pieces,
    number: NodeNumber,
    pub(super) piece: Option<Piece>,
}

impl InHand<'_> {
    /// It could not land: it waits longer, and who asks sees the file without it.
    pub(super) fn try_later(&mut self) {
        if let Some(piece) = &mut self.piece {
            piece.due = Instant::now() + RETRY_PAUSE;
        }
        self.pieces.answer(self.number);
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.pieces.put(self.number, self.piece.take());
    }
}

#[derive(Default)]
struct Held {
    /// None: somebody has taken it, and appends.
    by_number: HashMap<NodeNumber, Option<Piece>>,
    asking: HashMap<NodeNumber, Vec<Asking>>,
    closed: bool,
}

impl Pieces {
    pub(super) fn new(journal: Journal) -> Pieces {
        Pieces { journal, held: Mutex::default(), changed: Condvar::new(), count: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Takes the piece of a file, if there is one.
    pub(super) fn take(&self, number: NodeNumber) -> InHand<'_> {
        let taken = if self.count.load(Ordering::Acquire) == 0 {
            None
        } else {
            self.lock().by_number.get_mut(&number).and_then(Option::take)
        };
        InHand { pieces: self, number, piece: taken }
    }

    /// Has a piece wait, or says that none does: then those are answered who asked.
    fn put(&self, number: NodeNumber, piece: Option<Piece>) {
        if piece.is_none() && self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut held = self.lock();
        let asking = match piece {
            Some(piece) => {
                held.by_number.insert(number, Some(piece));
                None
            }
            None => {
                held.by_number.remove(&number);
                held.asking.remove(&number)
            }
        };
        self.count.store(held.by_number.len(), Ordering::Release);
        drop(held);
        self.changed.notify_all();
        asking.into_iter().flatten().for_each(|answer| answer());
    }

    /// Answers those who asked, though the piece waits on.
    fn answer(&self, number: NodeNumber) {
        let asking = self.lock().asking.remove(&number);
        asking.into_iter().flatten().for_each(|answer| answer());
    }

    /// Does a piece of this file wait?
    pub(super) fn has(&self, number: NodeNumber) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.lock().by_number.contains_key(&number)
    }

    /// Keeps a call until no piece of this file waits, or gives it back. The kernel has bytes in its pages that are not in
    /// the file yet: to a read that came between it would add zeros.
    pub(super) fn ask(&self, number: NodeNumber, answer: Asking) -> Option<Asking> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Some(answer);
        }
        let mut held = self.lock();
        let Some(piece) = held.by_number.get_mut(&number) else { return Some(answer) };
        if let Some(piece) = piece {
            piece.due = piece.due.min(Instant::now() + ASKED_WAIT_MAX);
        }
        held.asking.entry(number).or_default().push(answer);
        drop(held);
        self.changed.notify_all();
        None
    }

    /// Waits until the rest of a write to this file came. True: it did not, and what is held must land.
    pub(super) fn must_land(&self, number: NodeNumber) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let waits = |held: &mut Held| held.by_number.contains_key(&number);
        let waited = self.changed.wait_timeout_while(self.lock(), ASKED_WAIT_MAX, waits);
        waited.unwrap_or_else(|poison| poison.into_inner()).1.timed_out()
    }

    /// Waits for the next piece that has waited long enough. None: the mount ends.
    fn next_due(&self) -> Option<NodeNumber> {
        let mut held = self.lock();
        loop {
            if held.closed {
                return None;
            }
            let waiting =
                held.by_number.iter().filter_map(|(number, piece)| Some((*number, piece.as_ref()?.due)));
            let wait = match waiting.min_by_key(|(_, due)| *due) {
                None => None,
                Some((number, due)) if due <= Instant::now() => return Some(number),
                Some((_, due)) => Some(due.saturating_duration_since(Instant::now())),
            };
            held = match wait {
                None => self.changed.wait(held).unwrap_or_else(|poison| poison.into_inner()),
                Some(wait) => {
                    self.changed.wait_timeout(held, wait).unwrap_or_else(|poison| poison.into_inner()).0
                }
            };
        }
    }

    /// Files with a piece.
    fn numbers(&self) -> Vec<NodeNumber> {
        self.lock().by_number.keys().copied().collect()
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// The thread `held`. Dropped, it ends, and what waits lands.
pub struct Landing {
    fs: Arc<Fs>,
    thread: Option<JoinHandle<()>>,
}

impl Landing {
    /// Starts the thread that has pieces land which nothing follows.
    pub fn start(fs: Arc<Fs>) -> std::io::Result<Landing> {
        let of_thread = fs.clone();
        let work = move || {
            while let Some(number) = of_thread.pieces().next_due() {
                let _ = of_thread.land_late(number);
            }
        };
        let thread = std::thread::Builder::new().name("held".into()).spawn(work)?;
        Ok(Landing { fs, thread: Some(thread) })
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.fs.pieces().close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for number in self.fs.pieces().numbers() {
            let _ = self.fs.land_late(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_ends_at_a_border_without_a_newline_may_go_on() {
        let long = vec![b'x'; REQUEST_BYTES_MIN];
        let table: [(u64, &[u8], bool); 9] = [
            (4090, b"123456", true),
            (4090, b"12345", false),
            (4090, b"1234567", false),
            (4090, b"12345\n", false),
            (0, &long[..4096], false),
            (4096, &long, true),
            (4096, &long[1..], false),
            (100, &long[..8192 - 100], true),
            (0, b"", false),
        ];
        for (offset, bytes, may) in table {
            assert_eq!(may_go_on(offset, bytes), may, "{offset} {}", bytes.len());
        }
    }
}
