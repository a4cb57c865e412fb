//! The journal: one durable, chained and signed log, and the spool that every sink is served from.
//!
//! [`Journal::append`] puts an event into a bounded queue; one thread (`writer`) numbers, chains and writes it
//! (`store`, [`chain`]), signs ([`checkpoint`], [`key`]), closes segments and removes old ones. Readers
//! ([`reader`], [`verify`], [`query`]) need nothing but the directory.

pub mod chain;
pub mod checkpoint;
mod compress;
mod directory;
pub mod durable;
pub mod format;
pub mod key;
pub mod ocsf;
pub mod query;
mod queue;
pub mod reader;
mod recover;
pub mod segment;
pub mod state;
pub mod stdio;
mod store;
pub mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod verify;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use chain::{Body, Entry, Mark};
use directory::Directory;
use store::Store;
use tail::Tail;
use writer::{Shared, Writer};

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Something failed on the way to the disk.
    #[error("journal {path}: {cause}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause. Part of the message, so it is not the error source.
        cause: io::Error,
    },
    /// Others could change what is written.
    #[error("journal {path}: {why}; {fix}")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do.
        fix: String,
    },
    /// Somebody else writes to it.
    #[error("journal {path}: process {pid} writes to this journal; stop it, or give another directory")]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Who holds it.
        pid: String,
    },
    /// The disk refuses lines.
    #[error("events are not on the disk: {0}")]
    Trouble(String),
    /// The guard ended, and the disk did not take the last events.
    #[error("{0} events could not be written to the journal")]
    Unwritten(u64),
}

impl JournalError {
    /// An error of an operation on a file or directory.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }
}

/// How soon a line has to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once, without waiting for others.
    Now,
    /// With others, within 50 ms.
    Grouped,
}

/// How large a journal may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest segment, in bytes of plain text.
    pub segment_bytes: u64,
    /// What all segments may take on the disk, in bytes.
    pub max_bytes: u64,
    /// How long segments are kept.
    pub max_age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20, max_bytes: 4 << 30, max_age: None }
    }
}

/// An open journal. When it is dropped, what has been appended is written first.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    shared: Arc<Shared>,
    writer: Writer,
}

impl Journal {
    /// Opens the journal in a directory that only its owner can write to; creates it if it is missing. Waits some
    /// seconds for another process that is about to let go of it.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, JournalError> {
        let locked = Directory::open(directory, durable::PATIENCE)?;
        let shared = Arc::new(Shared::new());
        let store = Store::open(locked, limits, Arc::clone(&shared.needed))?;
        let writer = Writer::start(store, directory, Arc::clone(&shared)).map_err(JournalError::io(directory))?;
        Ok(Self { path: directory.to_owned(), shared, writer })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an event. Never waits: an event that finds the queue full is counted, and the journal tells of it.
    pub fn append(&self, event: impl Into<Body>, durability: Durability) {
        self.shared.queue.push(Entry::new(event, durability == Durability::Now));
    }

    /// Gives it other limits, from the next event on.
    pub fn limit(&self, limits: Limits) {
        self.shared.limit(limits);
    }

    /// The same for an event that others will name.
    pub fn append_noted(&self, event: impl Into<Body>, durability: Durability, mark: Mark) {
        self.shared.queue.push(Entry::new(event, durability == Durability::Now).noted(mark));
    }

    /// The same for an event that names another one, which was added before.
    pub fn append_naming(&self, event: impl Into<Body>, durability: Durability, mark: Mark) {
        self.shared.queue.push(Entry::new(event, durability == Durability::Now).naming(mark));
    }

    /// What is wrong at present; events wait in memory meanwhile, as far as it goes.
    pub fn check(&self) -> Result<(), JournalError> {
        self.shared.trouble().map_or(Ok(()), |what| Err(JournalError::Trouble(what)))
    }

    /// Writes everything out, signs it, and lets go of the directory.
    pub fn close(&mut self) -> Result<(), JournalError> {
        match self.writer.close() {
            0 => self.check(),
            count => Err(JournalError::Unwritten(count)),
        }
    }

    /// How far it is on the disk.
    #[must_use]
    pub fn tail(&self) -> Arc<Tail> {
        Arc::clone(&self.shared.tail)
    }

    /// What sinks need of it.
    #[must_use]
    pub fn spool(&self) -> Spool {
        Spool {
            path: self.path.clone(),
            tail: self.tail(),
            needed: Arc::clone(&self.shared.needed),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// An open journal, seen by those who only read it.
#[derive(Clone, Debug)]
pub struct Spool {
    /// Its directory.
    pub path: PathBuf,
    /// How far it is on the disk.
    pub tail: Arc<Tail>,
    /// Lowest segment that a sink still needs; `u64::MAX` when none does.
    pub needed: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl Spool {
    /// How many events the journal could not take since it was opened.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.queue.lost()
    }

    /// Says in the journal what a reader of it has found wrong.
    pub fn tell(&self, message: &str) {
        let event = ocsf::lifecycle(ocsf::Stage::Error, message, &serde_json::Map::new());
        self.shared.queue.push(Entry::new(event, true));
    }
}
