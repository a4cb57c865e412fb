//! How far the journal is on the disk: what sinks may read.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::reader::Position;

/// The end of what is durable. Readers never go past it.
#[derive(Debug, Default)]
pub struct Tail {
    end: Mutex<End>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    position: Position,
    sequence: u64,
}

impl Tail {
    /// Where the journal ends.
    #[must_use]
    pub fn end(&self) -> Position {
        self.lock().position
    }

    /// Number of the last line.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.lock().sequence
    }

    pub(super) fn set(&self, position: Position, sequence: u64) {
        let new = End { position, sequence };
        let mut now = self.lock();
        if *now != new {
            *now = new;
            drop(now);
            self.changed.notify_all();
        }
    }

    /// Has everybody who waits look whether it is over.
    pub fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Waits until the journal ends behind `seen`; at most `patience`. Answers where it ends.
    #[must_use]
    pub fn wait(&self, seen: Position, patience: Duration) -> Position {
        self.wait_unless(seen, patience, || false)
    }

    /// The same, until it is over.
    pub fn wait_unless(&self, seen: Position, patience: Duration, is_over: impl Fn() -> bool) -> Position {
        let deadline = Instant::now() + patience;
        let mut now = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if now.position > seen || left.is_zero() || is_over() {
                return now.position;
            }
            now = self.changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn whoever_waits_is_woken_when_it_is_over() {
        let (tail, over) = (Tail::default(), AtomicBool::new(false));
        let start = Instant::now();
        thread::scope(|scope| {
            let waits =
                || tail.wait_unless(Position::default(), Duration::from_mins(1), || over.load(Ordering::Relaxed));
            scope.spawn(waits);
            thread::sleep(Duration::from_millis(20));
            over.store(true, Ordering::Relaxed);
            tail.wake();
        });
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
