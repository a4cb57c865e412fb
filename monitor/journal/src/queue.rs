//! The bounded queue between those who have something to say and the thread that writes.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::chain::Entry;

/// What may wait to be written, in bytes of lines.
const MOST: usize = 8 << 20;
/// From here on the writer does not wait for more.
const MUCH: usize = 1 << 20;
/// How long a line may wait for others to be written with it.
const GROUP: Duration = Duration::from_millis(50);

/// Entries in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// When the oldest entry came.
    since: Option<Instant>,
    urgent: bool,
    closed: bool,
    lost: u64,
}

impl State {
    /// Adds an entry; true when the writer has to be woken for it.
    fn add(&mut self, entry: Entry) -> bool {
        let length = entry.line_len();
        if self.closed || self.bytes + length > MOST {
            self.lost += 1;
            return false;
        }
        let (empty, much) = (self.entries.is_empty(), self.bytes > MUCH);
        self.bytes += length;
        self.urgent |= entry.urgent;
        let wake = empty || entry.urgent || (!much && self.bytes > MUCH);
        if empty {
            self.since = Some(Instant::now());
        }
        self.entries.push_back(entry);
        wake
    }
}

/// What the writer takes.
#[derive(Debug)]
pub(super) struct Taken {
    /// The entries.
    pub(super) entries: VecDeque<Entry>,
    /// Some of them must not wait for the disk.
    pub(super) closed: bool,
    /// How many were turned away so far.
    pub(super) lost: u64,
}

impl Queue {
    /// Adds an entry. Never waits: when the queue is full the entry is counted as lost.
    pub(super) fn push(&self, entry: Entry) {
        if self.state().add(entry) {
            self.changed.notify_one();
        }
    }

    /// Waits until there is something to write, and for what comes with it; at most `idle` when there is nothing.
    pub(super) fn take(&self, idle: Duration) -> Taken {
        let deadline = Instant::now() + idle;
        let mut state = self.state();
        loop {
            let until = state.since.map_or(deadline, |since| since + GROUP);
            let left = until.saturating_duration_since(Instant::now());
            if state.urgent || state.closed || state.bytes > MUCH || left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.bytes = 0;
        state.since = None;
        state.urgent = false;
        Taken { entries: std::mem::take(&mut state.entries), closed: state.closed, lost: state.lost }
    }

    /// How many were turned away so far.
    pub(super) fn lost(&self) -> u64 {
        self.state().lost
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Waits `time`, but not past the close.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return state.closed;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use serde_json::json;

    use super::*;

    fn entry(urgent: bool) -> Entry {
        Entry::new(json!({ "x": "y".repeat(1000) }), urgent)
    }

    #[test]
    fn lines_wait_for_company_and_urgent_ones_do_not() {
        let queue = Arc::new(Queue::default());
        queue.push(entry(false));
        let start = Instant::now();
        assert_eq!(queue.take(Duration::from_mins(1)).entries.len(), 1);
        assert!(start.elapsed() >= GROUP / 2);
        let writer = Arc::clone(&queue);
        let writer = thread::spawn(move || writer.take(Duration::from_mins(1)).entries.len());
        queue.push(entry(true));
        assert_eq!(writer.join().unwrap(), 1);
    }

    #[test]
    fn the_writer_is_woken_by_the_first_line_by_an_urgent_one_and_when_there_is_much() {
        let mut state = State::default();
        let woken: Vec<_> = [false, false, true, false, true].map(|urgent| state.add(entry(urgent))).to_vec();
        assert_eq!(woken, [true, false, true, false, true]);
        assert!(state.urgent && state.bytes < MUCH);
        let mut last = false;
        while state.bytes <= MUCH {
            assert!(!last, "woken before there was much");
            last = state.add(entry(false));
        }
        assert!(last && !state.add(entry(false)), "woken when there is much, and once");
        state.bytes = MOST;
        assert!(!state.add(entry(true)) && state.lost == 1);
    }

    #[test]
    fn a_full_queue_turns_away_and_counts() {
        let queue = Queue::default();
        for _ in 0..20_000 {
            queue.push(entry(false));
        }
        let taken = queue.take(Duration::ZERO);
        assert!(taken.entries.len() as u64 + taken.lost == 20_000 && taken.lost > 1000, "{}", taken.lost);
        queue.push(entry(false));
        assert_eq!(queue.take(Duration::ZERO).entries.len(), 1);
    }

    #[test]
    fn after_the_close_nothing_is_taken_in() {
        let queue = Queue::default();
        queue.push(entry(false));
        queue.close();
        queue.push(entry(false));
        let taken = queue.take(Duration::from_mins(1));
        assert_eq!((taken.entries.len(), taken.closed, taken.lost), (1, true, 1));
    }
}
