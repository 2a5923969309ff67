//! Which calls were begun before now and are not answered yet?
//!
//! A call that read the index before a commit must not be answered after the kernel was told of the commit: the kernel
//! would keep the old answer. So the one who tells waits until those calls are over.
//!
//! And the other way round: a call that changed the tree is answered once the kernel was told of what it changed, so that
//! whoever looks next sees it. But not of what the kernel holds locked for the call itself: that is told right after.
//! Such a call counts as over while its answer waits; and no thread that serves calls waits with it, for the kernel may
//! need another call answered before it takes the notice.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::store::change::Change;
use crate::store::node::NodeNumber;

thread_local! {
    /// The call at work on this thread changed the tree.
    static CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// An answer that waits until the kernel knows what its call changed.
struct Answer {
    count: u64,
    until: Instant,
    holding: Holding,
    give: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct Calls {
    next: u64,
    /// The numbers of the calls that are not over.
    running: BTreeSet<u64>,
    /// How many wait for calls to be over: each call would wake them otherwise, which costs more than the call.
    waiting_for_calls: u32,
    /// What the kernel holds locked for calls that change something, and for how many.
    held: BTreeMap<NodeNumber, u32>,
    /// What the kernel is just told of, but for names: it waits there for who holds it.
    telling: Option<NodeNumber>,
    /// The kernel is just told of a name.
    telling_name: bool,
    /// News that is to be told when no call holds its node, and the count that it reaches up to.
    later: BTreeSet<Change>,
    later_count: u64,
    /// News up to these counts was told: that of nodes that no call holds, and the rest but for what is held.
    told: u64,
    told_later: u64,
    answers: Vec<Answer>,
    /// Somebody gives them.
    answering: bool,
    closed: bool,
}

impl Calls {
    /// Is the kernel told of what this call changed? But for one who waits for us: who tells it of a node that came to be
    /// held for this call meanwhile. Every call but one in `by-name` waits for names there, also while others hold it;
    /// those in `by-name` wait for nothing that calls hold: so no two wait for each other.
    fn is_due(&self, answer: &Answer, now: Instant) -> bool {
        let holds = |number: NodeNumber| answer.holding.numbers.contains(&number);
        let names_told = !self.telling_name && !self.later.iter().any(is_name);
        let rest_told = self.told_later >= answer.count || self.telling.is_some_and(holds);
        let told = self.told >= answer.count && (holds(by_name()) || (names_told && rest_told));
        told || self.closed || answer.until <= now
    }
}

fn by_name() -> NodeNumber {
    NodeNumber::dir(b"by-name", 0)
}

fn is_name(change: &Change) -> bool {
    matches!(change, Change::Entry { dir, .. } if *dir == by_name())
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
    /// Something is to be told, or is no longer held: for those who tell of what was held.
    ended: Condvar,
    /// An answer may be due: for the one who gives them.
    due: Condvar,
    /// A call is over.
    over: Condvar,
}

/// A call at work; dropped once it is answered.
pub struct Running<'e> {
    epoch: &'e Epoch,
    number: u64,
}

/// Nodes that the kernel holds locked for a call; dropped once it is answered.
pub struct Holding {
    epoch: Arc<Epoch>,
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
        calls.waiting_for_calls += 1;
        let mut over = true;
        while calls.running.first().is_some_and(|&first| first < before) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                over = false;
                break;
            }
            calls = self.over.wait_timeout(calls, left).unwrap_or_else(|poison| poison.into_inner()).0;
        }
        calls.waiting_for_calls -= 1;
        over
    }

    /// A call begins for which the kernel holds these nodes.
    pub fn hold(self: &Arc<Self>, numbers: &[NodeNumber]) -> Holding {
        let mut calls = self.calls();
        for &number in numbers {
            *calls.held.entry(number).or_default() += 1;
        }
        drop(calls);
        Holding { epoch: self.clone(), numbers: numbers.to_vec() }
    }

    /// News up to `count` was told, but for `later`: what may be held by calls.
    pub fn told(&self, count: u64, later: impl IntoIterator<Item = Change>) {
        let mut calls = self.calls();
        calls.later.extend(later);
        calls.later_count = count;
        calls.told = count;
        self.ended.notify_all();
        self.wake_if_due(&calls);
    }

    /// No more will be told.
    pub fn close(&self) {
        self.calls().closed = true;
        self.ended.notify_all();
        self.due.notify_all();
    }

    /// Wakes who gives answers, if one is due: each notice would wake it otherwise, which costs more than the notice.
    fn wake_if_due(&self, calls: &Calls) {
        let now = Instant::now();
        if calls.answers.iter().any(|answer| calls.is_due(answer, now)) {
            self.due.notify_all();
        }
    }

    /// The next piece of news that could be held and is not, of the names in `by-name` or of the rest; waits for one.
    /// `node` says what is held of it. None once closed. [`Epoch::told_one`] is to follow.
    pub fn next_later(&self, names: bool, node: impl Fn(&Change) -> NodeNumber) -> Option<Change> {
        let mut calls = self.calls();
        while !calls.closed {
            let mut of_kind = calls.later.iter().filter(|change| is_name(change) == names);
            let free = of_kind.find(|change| !calls.held.contains_key(&node(change))).cloned();
            if let Some(change) = free {
                calls.later.remove(&change);
                match names {
                    true => calls.telling_name = true,
                    false => calls.telling = Some(node(&change)),
                }
                self.wake_if_due(&calls);
                return Some(change);
            }
            if !names && calls.told_later != calls.later_count {
                calls.told_later = calls.later_count;
                self.wake_if_due(&calls);
            }
            calls = self.ended.wait(calls).unwrap_or_else(|poison| poison.into_inner());
        }
        None
    }

    /// The kernel was told.
    pub fn told_one(&self, names: bool) {
        let mut calls = self.calls();
        match names {
            true => calls.telling_name = false,
            false => calls.telling = None,
        }
        self.wake_if_due(&calls);
    }

    /// Has `give` called once news up to `count` was told, or `at_most` after now; then what was held is let go.
    pub fn answer_when_told(
        &self,
        count: u64,
        holding: Holding,
        at_most: Duration,
        give: Box<dyn FnOnce() + Send>,
    ) {
        let mut calls = self.calls();
        if calls.answering && !calls.closed {
            calls.answers.push(Answer { count, until: Instant::now() + at_most, holding, give });
            self.due.notify_all();
            return;
        }
        drop(calls);
        give();
    }

    /// Gives answers when they are due, until closed.
    pub fn give_answers(&self) {
        self.calls().answering = true;
        while let Some(due) = self.due_answers() {
            for answer in due {
                if answer.until <= Instant::now() {
                    log::debug!("a call is answered before the kernel is told of all that it changed");
                }
                (answer.give)();
                drop(answer.holding);
            }
        }
    }

    /// Waits for answers that are due; None once closed and all are given.
    fn due_answers(&self) -> Option<Vec<Answer>> {
        let mut calls = self.calls();
        loop {
            let now = Instant::now();
            let answers = std::mem::take(&mut calls.answers);
            let (due, wait): (Vec<_>, Vec<_>) =
                answers.into_iter().partition(|answer| calls.is_due(answer, now));
            calls.answers = wait;
            if !due.is_empty() {
                return Some(due);
            }
            if calls.closed {
                return None;
            }
            let first = calls.answers.iter().map(|answer| answer.until).min();
            calls = match first {
                None => self.due.wait(calls).unwrap_or_else(|poison| poison.into_inner()),
                Some(first) => {
                    let left = first.saturating_duration_since(now);
                    self.due.wait_timeout(calls, left).unwrap_or_else(|poison| poison.into_inner()).0
                }
            };
        }
    }
}

impl Drop for Holding {
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
        let awaited = !calls.later.is_empty();
        drop(calls);
        if awaited {
            self.epoch.ended.notify_all();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut calls = self.epoch.calls();
        calls.running.remove(&self.number);
        let awaited = calls.waiting_for_calls > 0;
        drop(calls);
        if awaited {
            self.epoch.over.notify_all();
        }
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

    /// Gives an answer when it is due, and says whether that was in time.
    fn is_answered(epoch: &Epoch, count: u64, holding: Holding, within: Duration) -> bool {
        let given = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let give = given.clone();
        let give = Box::new(move || give.store(true, std::sync::atomic::Ordering::SeqCst));
        epoch.answer_when_told(count, holding, Duration::from_secs(30), give);
        let end = Instant::now() + within;
        while !given.load(std::sync::atomic::Ordering::SeqCst) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        given.load(std::sync::atomic::Ordering::SeqCst)
    }

    #[test]
    fn an_answer_waits_for_what_is_told_but_not_for_what_waits_for_it() {
        let epoch = Arc::new(Epoch::default());
        let (held, free) = (NodeNumber(7), NodeNumber(8));
        let change = |number| Change::Node { number };
        let node = |change: &Change| match change {
            Change::Node { number } => *number,
            _ => NodeNumber::ROOT,
        };
        let (long, short) = (Duration::from_secs(30), Duration::from_millis(20));
        assert!(is_answered(&epoch, 9, epoch.hold(&[held]), Duration::ZERO), "nobody tells");
        std::thread::scope(|scope| {
            scope.spawn(|| epoch.give_answers());
            while !epoch.calls().answering {
                std::thread::yield_now();
            }
            let other = epoch.hold(&[held]);
            epoch.told(3, [change(held), change(free)]);
            assert!(!is_answered(&epoch, 3, epoch.hold(&[held, held]), short), "the rest is not told");
            let teller = scope.spawn(|| {
                let mut told = Vec::new();
                while let Some(change) = epoch.next_later(false, node) {
                    told.push(change);
                    epoch.told_one(false);
                }
                told
            });
            assert!(is_answered(&epoch, 3, epoch.hold(&[held]), long));
            assert!(!is_answered(&epoch, 4, epoch.hold(&[free]), short));
            drop(other);
            epoch.told(5, []);
            assert!(is_answered(&epoch, 5, epoch.hold(&[free]), long));
            while !epoch.calls().later.is_empty() {
                std::thread::yield_now();
            }
            epoch.close();
            assert_eq!(teller.join().unwrap(), [change(free), change(held)]);
        });
        assert!(epoch.calls().answers.is_empty(), "all are given at the end");
    }

    #[test]
    fn there_is_no_waiting_for_who_waits() {
        let epoch = Arc::new(Epoch::default());
        let number = NodeNumber(7);
        epoch.told(1, [Change::Node { number }]);
        assert!(epoch.next_later(false, |_| number).is_some());
        std::thread::scope(|scope| {
            scope.spawn(|| epoch.give_answers());
            while !epoch.calls().answering {
                std::thread::yield_now();
            }
            assert!(!is_answered(&epoch, 1, epoch.hold(&[NodeNumber(8)]), Duration::from_millis(20)));
            assert!(is_answered(&epoch, 1, epoch.hold(&[number]), Duration::from_secs(30)), "at once");
            epoch.close();
        });
    }

    #[test]
    fn a_change_is_noted_once() {
        mark_changed();
        assert!(take_changed() && !take_changed());
    }
}
