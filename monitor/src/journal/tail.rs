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

    /// Wakes everybody who waits.
    pub(crate) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Waits until the journal ends behind `seen`; at most `patience`. Answers where it ends.
    #[must_use]
    pub fn wait(&self, seen: Position, patience: Duration) -> Position {
        let deadline = Instant::now() + patience;
        let mut now = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if now.position > seen || left.is_zero() {
                return now.position;
            }
            now = self.changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
