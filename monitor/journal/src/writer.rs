//! The thread that writes the journal, so that writers of events never wait for the disk.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use super::{JournalError, Limits, chain::Entry, compress::Compressor, queue::Queue, store::Store, tail::Tail};

/// How often what is new is signed.
const SIGN: Duration = Duration::from_secs(1);
/// How often old segments are looked for, and how long the thread sleeps at most.
const LOOK: Duration = Duration::from_mins(1);
/// How long a disk that refuses is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// Lines are put on the disk when they come to this many bytes, whatever else waits.
const MUCH: usize = 1 << 20;
/// How often the last lines are tried when the guard ends.
const LAST_TRIES: usize = 3;

/// What the thread and its owner share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) tail: Arc<Tail>,
    /// Lowest segment that a sink still needs.
    pub(super) needed: Arc<AtomicU64>,
    /// What is wrong now.
    trouble: Mutex<Option<String>>,
    /// Limits that the thread has not taken over yet.
    limits: Mutex<Option<Limits>>,
}

impl Shared {
    /// What is wrong now.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other limits, for the next time that something is written.
    pub(super) fn limit(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
    }

    fn new_limits(&self) -> Option<Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set_trouble(&self, what: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

/// The thread, seen from its owner.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<u64>>,
}

impl Writer {
    /// Starts it.
    pub(super) fn start(store: Store, directory: &Path, shared: Arc<Shared>) -> io::Result<Self> {
        let trouble = Arc::clone(&shared);
        let compressor = Compressor::start(directory, move |what| trouble.set_trouble(Some(what)))?;
        shared.tail.set(store.end(), store.durable_sequence());
        let mut work = Work {
            store,
            compressor,
            shared: Arc::clone(&shared),
            backlog: VecDeque::new(),
            lost: 0,
            signed_at: Instant::now(),
            looked_at: None,
        };
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || work.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Writes everything out, and ends the thread. Answers how many events were not written.
    pub(super) fn close(&mut self) -> u64 {
        self.shared.queue.close();
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Work {
    store: Store,
    compressor: Compressor,
    shared: Arc<Shared>,
    /// Taken from the queue and not in the store yet.
    backlog: VecDeque<Entry>,
    /// Number of events rejected by the queue, as journaled.
    lost: u64,
    signed_at: Instant,
    looked_at: Option<Instant>,
}

impl Work {
    fn run(&mut self) -> u64 {
        let mut tries = 0;
        loop {
            let (closed, lost) = if self.backlog.is_empty() {
                let taken = self.shared.queue.take(self.idle());
                self.backlog = taken.entries;
                (taken.closed, taken.lost)
            } else {
                // The disk refuses: what comes meanwhile waits in the queue, or is counted there.
                (self.shared.queue.pause(RETRY), self.lost)
            };
            let done = self.step(lost);
            self.shared.tail.set(self.store.end(), self.store.durable_sequence());
            for number in self.store.take_closed() {
                // One more segment may be one too many.
                self.looked_at = None;
                self.compressor.order(number);
            }
            let failed = done.is_err();
            self.shared.set_trouble(done.err().map(|error| error.to_string()));
            if closed {
                tries += 1;
                let rest = self.shared.queue.take(Duration::ZERO);
                self.backlog.extend(rest.entries);
                if (self.backlog.is_empty() && !failed) || tries == LAST_TRIES {
                    let last = self.finish();
                    self.shared.set_trouble(last.err().map(|error| error.to_string()));
                    self.shared.tail.set(self.store.end(), self.store.durable_sequence());
                    return self.backlog.len() as u64 + rest.lost.saturating_sub(self.lost);
                }
            }
        }
    }

    /// How long nothing may happen.
    fn idle(&self) -> Duration {
        let next = if self.store.is_unsigned() { SIGN } else { LOOK };
        next.saturating_sub(self.signed_at.elapsed()).max(Duration::from_millis(1))
    }

    fn step(&mut self, lost: u64) -> Result<(), JournalError> {
        if let Some(limits) = self.shared.new_limits() {
            self.store.limit(limits);
            self.looked_at = None;
        }
        if self.store.has_removed() {
            self.store.tell_removed("since the disk is full")?;
        }
        while let Some(entry) = self.backlog.front() {
            self.store.append(entry)?;
            self.backlog.pop_front();
            if self.store.pending() > MUCH {
                self.store.commit()?;
            }
        }
        if lost > self.lost {
            self.store.lost(lost - self.lost)?;
            self.lost = lost;
        }
        self.store.commit()?;
        if self.signed_at.elapsed() >= SIGN {
            self.signed_at = Instant::now();
            self.store.ship(false)?;
            self.store.checkpoint()?;
        }
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK) {
            self.looked_at = Some(Instant::now());
            self.store.retain(SystemTime::now())?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), JournalError> {
        self.store.ship(true)?;
        self.store.checkpoint()
    }
}

/// No sink needs anything.
pub(super) const NOTHING_NEEDED: u64 = u64::MAX;

impl Shared {
    /// For a journal that no sink reads.
    pub(super) fn new() -> Self {
        let shared = Self::default();
        shared.needed.store(NOTHING_NEEDED, Ordering::Relaxed);
        shared
    }
}
