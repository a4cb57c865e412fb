//! The journal on the disk: lines go in, and are durable after [`Store::commit`].

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, json};

use super::{
    JournalError, Limits,
    chain::{Entry, Hash, MAX_LINE, Number, Removed},
    checkpoint::{self, Checkpoint},
    directory::{self, Directory},
    key::Signer,
    ocsf::{self, Stage, now_ms},
    reader::Position,
    recover::{self, Finding},
    segment,
};

/// How long a key is used.
const KEY_LIFE: Duration = Duration::from_hours(1);
/// How often a checkpoint goes into the journal itself, and so to every sink.
const SHIP: Duration = Duration::from_mins(1);

/// An open journal.
#[derive(Debug)]
pub(super) struct Store {
    directory: Directory,
    limits: Limits,
    signer: Signer,
    run: String,
    boot_id: String,
    segment: u64,
    file: File,
    /// How much of the segment is on the disk.
    durable: u64,
    /// Number of the last line in that.
    durable_sequence: u64,
    /// Lines that come after that.
    pending: Vec<u8>,
    /// Number and hash of the last line, pending ones included.
    sequence: u64,
    head: Hash,
    /// Number of the last line under a checkpoint.
    signed: u64,
    /// Number of the last line that a checkpoint in the journal would say nothing new about.
    shipped: u64,
    /// The newest checkpoint of this run.
    newest: Option<Checkpoint>,
    shipped_at: Instant,
    dropped_total: u64,
    /// Removed segments that have not been journaled yet.
    removed: Option<Removed>,
    /// Lowest segment that a sink still needs.
    needed: Arc<AtomicU64>,
    /// Closed segments that are to be compressed.
    closed: VecDeque<u64>,
}

impl Store {
    /// Opens the journal in a directory, and sets right what a crash left.
    pub(super) fn open(directory: Directory, limits: Limits, needed: Arc<AtomicU64>) -> Result<Self, JournalError> {
        let path = directory.path().to_owned();
        let end = recover::recover(&path)?;
        let signer = Signer::open(&path, || Ok(end.last))?;
        let (sequence, head) = end.last.unwrap_or((0, signer.first().genesis()));
        let file = open_segment(&segment::plain(&path, end.segment))?;
        directory::sync(&path)?;
        let closed = segment::list(&path)?;
        let mut store = Self {
            directory,
            limits,
            run: random_id(),
            boot_id: read_id("/proc/sys/kernel/random/boot_id"),
            segment: end.segment,
            file,
            durable: end.offset,
            durable_sequence: sequence,
            pending: Vec::new(),
            sequence,
            head,
            signed: end.signed,
            shipped: sequence,
            newest: None,
            shipped_at: Instant::now(),
            dropped_total: end.dropped_total,
            removed: None,
            needed,
            closed: closed
                .iter()
                .filter(|found| !found.compressed && found.number < end.segment)
                .map(|found| found.number)
                .collect(),
            signer,
        };
        for finding in &end.findings {
            store.tell(finding)?;
        }
        if let Some(why) = store.signer.broken.take() {
            let message = format!("A new signing key was made, and no old one vouches for it: {why}");
            store.tell(&Finding { message, details: Map::new() })?;
        }
        Ok(store)
    }

    /// Takes other limits.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Where the journal ends on the disk.
    pub(super) fn end(&self) -> Position {
        Position { segment: self.segment, offset: self.durable }
    }

    /// Number of the last line on the disk.
    pub(super) fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    /// Bytes that are not on the disk yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether lines wait for a checkpoint.
    pub(super) fn is_unsigned(&self) -> bool {
        self.sequence > self.signed
    }

    /// Closed segments that have not been handed to the compressor.
    pub(super) fn take_closed(&mut self) -> VecDeque<u64> {
        std::mem::take(&mut self.closed)
    }

    /// Counts events that could not be taken, and says so in the journal.
    pub(super) fn lost(&mut self, count: u64) -> Result<(), JournalError> {
        let message = format!("{count} events were lost: the journal could not take them");
        let total = self.dropped_total + count;
        let details = Map::from_iter([
            ("journal_lost".to_owned(), count.into()),
            ("journal_lost_total".to_owned(), total.into()),
        ]);
        self.append(&Entry::new(ocsf::lifecycle(Stage::Loss, &message, &details), true))?;
        self.dropped_total = total;
        Ok(())
    }

    fn tell(&mut self, finding: &Finding) -> Result<(), JournalError> {
        self.append(&Entry::new(ocsf::lifecycle(Stage::Error, &finding.message, &finding.details), true))
    }

    /// Adds a line; it is on the disk after the next [`Self::commit`]. On an error nothing was added.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let length = entry.line_len();
        if length > MAX_LINE {
            let message = "An event was longer than a line can be, and was dropped";
            let details = Map::from_iter([("bytes".to_owned(), length.into())]);
            self.append(&Entry::new(ocsf::lifecycle(Stage::Loss, message, &details), true))?;
            self.dropped_total += 1;
            return Ok(());
        }
        let used = self.durable + self.pending.len() as u64;
        if used > 0 && used + length as u64 > self.limits.segment_bytes {
            self.rotate()?;
        }
        let start = self.pending.len();
        let number = Number {
            run: &self.run,
            sequence: self.sequence.saturating_add(1),
            segment: self.segment,
            prev: self.head,
        };
        entry.write(&mut self.pending, &number);
        self.head = Hash::of(self.pending.get(start..).unwrap_or_default());
        self.sequence = self.sequence.saturating_add(1);
        Ok(())
    }

    /// Puts every line on the disk.
    pub(super) fn commit(&mut self) -> Result<(), JournalError> {
        self.with_room(|store| {
            let path = segment::plain(store.directory.path(), store.segment);
            store.write().map_err(JournalError::io(&path))
        })
    }

    /// Does something that needs room. While the disk is full the oldest closed segments go, one after the other.
    fn with_room<T>(
        &mut self,
        mut action: impl FnMut(&mut Self) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        loop {
            match action(self) {
                Err(JournalError::Io { cause, .. }) if is_full(&cause) && self.make_room()? => {}
                done => return done,
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // By place and not at the end: what a failed write left is written over.
        self.file.write_all_at(&self.pending, self.durable)?;
        self.file.sync_data()?;
        self.durable += self.pending.len() as u64;
        self.durable_sequence = self.sequence;
        self.pending.clear();
        self.pending.shrink_to(1 << 20);
        Ok(())
    }

    /// Signs what is on the disk, if anything is new. A key that is old enough is replaced.
    pub(super) fn checkpoint(&mut self) -> Result<(), JournalError> {
        self.commit()?;
        if !self.is_unsigned() {
            return Ok(());
        }
        self.look_after_segment()?;
        let checkpoint = Checkpoint {
            chain: self.signer.first().id(),
            segment: self.segment,
            offset: self.durable,
            sequence: self.sequence,
            head: self.head,
            time: now_ms(),
            boot_id: self.boot_id.clone(),
            dropped_total: self.dropped_total,
            key_id: String::new(),
            signature: String::new(),
        }
        .signed(&self.signer);
        self.with_room(|store| checkpoint.store(store.directory.path()))?;
        self.signed = self.sequence;
        self.newest = Some(checkpoint);
        if self.signer.age() >= KEY_LIFE {
            self.signer.ratchet(self.sequence, self.head)?;
        }
        Ok(())
    }

    /// Puts a checkpoint into the journal itself, when it is time or `now`, and there is anything new.
    pub(super) fn ship(&mut self, now: bool) -> Result<(), JournalError> {
        if self.sequence == self.shipped || !(now || self.shipped_at.elapsed() >= SHIP) {
            return Ok(());
        }
        self.checkpoint()?;
        let Some(checkpoint) = &self.newest else { return Ok(()) };
        let message = format!("Checkpoint: the journal has {} lines", checkpoint.sequence);
        let details = Map::from_iter([("checkpoint".to_owned(), json!(checkpoint))]);
        self.append(&Entry::new(ocsf::lifecycle(Stage::Checkpoint, &message, &details), false))?;
        (self.shipped, self.shipped_at) = (self.sequence, Instant::now());
        Ok(())
    }

    /// Whether the segment is unchanged. No other process may write to it; a change is journaled.
    fn look_after_segment(&mut self) -> Result<(), JournalError> {
        let path = segment::plain(self.directory.path(), self.segment);
        let meta = self.file.metadata().map_err(JournalError::io(&path))?;
        let (what, length) = if meta.nlink() == 0 {
            ("was removed", 0)
        } else if meta.len() != self.durable {
            ("was changed in its length", meta.len())
        } else {
            return Ok(());
        };
        let mut message = format!("Segment {} {what} by somebody else", self.segment);
        if meta.nlink() == 0 {
            self.next_segment()?;
        } else if length > self.durable {
            let (bytes, kept) = recover::cut(self.directory.path(), &path, self.segment, self.durable)?;
            message = format!("{message}: {bytes} bytes {kept}");
        }
        let details = json!({ "segment": self.segment, "expected": self.durable, "found": length });
        self.tell(&Finding { message, details: Map::from_iter([("foreign".to_owned(), details)]) })?;
        self.commit()
    }

    /// Closes the segment and begins the next.
    fn rotate(&mut self) -> Result<(), JournalError> {
        self.commit()?;
        // The next checkpoint vouches for this segment too: where this one fails, the journal goes on.
        let signed = self.checkpoint();
        self.next_segment()?;
        signed
    }

    fn next_segment(&mut self) -> Result<(), JournalError> {
        let next = segment::plain(self.directory.path(), self.segment.saturating_add(1));
        let file = self.with_room(|_| open_segment(&next))?;
        let path = self.directory.path();
        directory::sync(path)?;
        // On a full disk there may be no room for what saves room.
        let _ = checkpoint::thin(path, self.segment);
        self.closed.push_back(self.segment);
        (self.segment, self.file, self.durable) = (self.segment.saturating_add(1), file, 0);
        Ok(())
    }

    /// Removes segments that are too many or too old, after the journal has said so. Of those that are too old one goes at a
    /// time, which keeps up with what is closed: a clock that jumps ahead must not take everything with it.
    pub(super) fn retain(&mut self, now: SystemTime) -> Result<(), JournalError> {
        let path = self.directory.path().to_owned();
        let mut closed = segment::list(&path)?;
        closed.retain(|found| found.number < self.segment);
        let mut sizes = Vec::new();
        for found in &closed {
            match found.size_and_time() {
                Ok((size, time)) => sizes.push((found.number, size, time)),
                // It is being compressed: counted the next time.
                Err(JournalError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let mut total = self.durable + sizes.iter().map(|(_, size, _)| size).sum::<u64>();
        let mut doomed = None;
        for (number, size, time) in sizes {
            let old = self.limits.max_age.is_some_and(|most| now.duration_since(time).is_ok_and(|age| age > most));
            if total <= self.limits.max_bytes && !(old && doomed.is_none()) {
                break;
            }
            total -= size;
            self.note_removed(number);
            doomed = Some(number);
        }
        let Some(doomed) = doomed else { return Ok(()) };
        self.tell_removed("as configured")?;
        self.commit()?;
        self.checkpoint()?;
        for found in closed.iter().filter(|found| found.number <= doomed) {
            remove(&path, found.number)?;
        }
        directory::sync(&path)
    }

    fn note_removed(&mut self, number: u64) {
        let unacknowledged = number >= self.needed.load(Ordering::Relaxed);
        let removed =
            self.removed.get_or_insert(Removed { first_segment: number, last_segment: number, unacknowledged });
        removed.last_segment = number;
        removed.unacknowledged |= unacknowledged;
    }

    /// Says in the journal which segments were taken away, if any were.
    pub(super) fn tell_removed(&mut self, why: &str) -> Result<(), JournalError> {
        let Some(removed) = self.removed else { return Ok(()) };
        let stage = if removed.unacknowledged { Stage::Loss } else { Stage::Retention };
        let gap = if removed.unacknowledged { ", before every sink had them" } else { "" };
        let Removed { first_segment, last_segment, .. } = removed;
        let message = format!("Segments {first_segment} to {last_segment} of the journal were removed {why}{gap}");
        let details = Map::from_iter([("removed".to_owned(), json!(removed))]);
        self.append(&Entry::new(ocsf::lifecycle(stage, &message, &details), true))?;
        self.removed = None;
        Ok(())
    }

    /// Removes the oldest closed segment; false without one. The removal is journaled once there is space.
    fn make_room(&mut self) -> Result<bool, JournalError> {
        let path = self.directory.path().to_owned();
        let Some(oldest) = segment::list(&path)?.into_iter().find(|found| found.number < self.segment) else {
            return Ok(false);
        };
        remove(&path, oldest.number)?;
        directory::sync(&path)?;
        self.note_removed(oldest.number);
        Ok(true)
    }

    /// Whether segments were taken away that the journal has not spoken of.
    pub(super) fn has_removed(&self) -> bool {
        self.removed.is_some()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn open_segment(path: &Path) -> Result<File, JournalError> {
    directory::open_write(path).map_err(JournalError::io(path))
}

/// Removes a segment in all its forms; its checkpoints last.
fn remove(directory: &Path, number: u64) -> Result<(), JournalError> {
    let paths = [segment::plain, segment::compressed, segment::checkpoints].map(|path| path(directory, number));
    for path in paths {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(JournalError::io(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Tells the events of one run of the guard from those of another.
fn random_id() -> String {
    read_id("/proc/sys/kernel/random/uuid")
}

fn read_id(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
