//! The thread of a sink: read, pick, render, hand over, move the cursor.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use super::{
    Failure, Message, Needed, Purpose, Receiver,
    config::SinkConfig,
    cursor::{self, Cursor},
    masked::masked,
    now_ms, receiver,
    shorten::shorten,
};
use journal::{
    JournalError, Spool,
    reader::{self, Position, Reader},
    stdio::complain,
};

/// How long a receiver that fails is left alone at first, and at most.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// How often the thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(500);
/// How often the cursor moves over events that are not for this sink.
const MOVE: Duration = Duration::from_secs(1);
/// Time that a stopping sink has for the pending events.
const LAST: Duration = Duration::from_secs(1);
/// Most bytes that are handed over at once.
const MOST_BYTES: usize = 1 << 20;
/// A file of dead letters is moved away when it would be longer, in bytes; one such is kept. The journal has all of them.
const MOST_DEAD: u64 = 32 << 20;

pub(super) struct Worker {
    config: SinkConfig,
    spool: Spool,
    receiver: Box<dyn Receiver>,
    reader: Reader,
    stop: Arc<AtomicBool>,
    /// Time of the stop request.
    stopped: Option<Instant>,
    needed: Arc<Needed>,
    cursor: Cursor,
    /// How far the cursor on the disk is, and since when.
    stored: Position,
    stored_at: Instant,
    failures: u32,
    /// When the next event may go, where there is a rate.
    next: Instant,
    /// When the receiver wants the next batch.
    wanted: Instant,
}

/// Events that were read together.
struct Batch {
    messages: Vec<Message>,
    /// Behind each of them.
    ends: Vec<(Position, u64)>,
    /// Behind everything that was read.
    end: (Position, u64),
}

impl Worker {
    /// A sink that goes on where its cursor is; a new one begins at `end`, or at the beginning if so configured.
    pub(super) fn new(
        config: SinkConfig,
        spool: Spool,
        stop: Arc<AtomicBool>,
        needed: Arc<Needed>,
        (position, sequence): (Position, u64),
    ) -> Result<Self, JournalError> {
        let cursor = match Cursor::load(&spool.path, &config.name) {
            Ok(Some(cursor)) if stands(&spool, cursor.position)? => cursor,
            Ok(Some(Cursor { position: Position { segment, offset }, delivered, dead, .. })) => {
                let why = format!("there is no line at byte {offset} of segment {segment}, where it had come to");
                begin_anew(&spool, &config.name, &why);
                Cursor { delivered, dead, ..Cursor::default() }
            }
            Ok(None) if config.from_beginning => Cursor::default(),
            Ok(None) => Cursor { position, sequence, ..Cursor::default() },
            Err(error) => {
                begin_anew(&spool, &config.name, &error.to_string());
                Cursor::default()
            }
        };
        cursor.store(&spool.path, &config.name)?;
        needed.set(&config.name, cursor.position.segment);
        Ok(Self {
            receiver: receiver(&config.target, Purpose::Sink),
            reader: Reader::new(&spool.path, cursor.position),
            spool,
            config,
            stop,
            stopped: None,
            needed,
            stored: cursor.position,
            cursor,
            stored_at: Instant::now(),
            failures: 0,
            next: Instant::now(),
            wanted: Instant::now(),
        })
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs until it is stopped; then delivers pending events if the receiver accepts them at once.
    pub(super) fn run(&mut self) {
        loop {
            self.sleep(self.wanted.saturating_duration_since(Instant::now()));
            let end = self.spool.tail.wait_unless(self.reader.position(), LOOK, || self.is_stopped());
            if self.is_stopped() {
                let since = *self.stopped.get_or_insert_with(Instant::now);
                if self.reader.position() >= end || self.failures > 0 || since.elapsed() > LAST {
                    return;
                }
            }
            match self.read(end) {
                Ok(batch) => {
                    if batch.messages.is_empty() && !self.is_stopped() {
                        self.idle();
                    }
                    self.hand_over(&batch);
                }
                Err(error) => {
                    self.failed(&error.to_string());
                    // What was read and not handed over is read again.
                    self.reader = Reader::new(&self.spool.path, self.cursor.position);
                }
            }
        }
    }

    /// Lets the receiver do what its protocol asks for while there is nothing to deliver.
    fn idle(&mut self) {
        match self.receiver.idle() {
            Some(Err(why)) => self.failed(&why),
            Some(Ok(())) if self.cursor.error.is_some() => {
                self.failures = 0;
                self.cursor.error = None;
                self.store();
            }
            None | Some(Ok(())) => {}
        }
    }

    /// Reads what is durable, up to a batch.
    fn read(&mut self, end: Position) -> Result<Batch, JournalError> {
        let start = (self.reader.position(), self.cursor.sequence);
        let mut batch = Batch { messages: Vec::new(), ends: Vec::new(), end: start };
        let (mut line, mut bytes) = (Vec::new(), 0);
        let most = self.receiver.most();
        while batch.messages.len() < most && bytes < MOST_BYTES && self.reader.position() < end {
            let Some(at) = self.reader.next(&mut line)? else { break };
            let behind = self.reader.position();
            if behind > end {
                // Written, and not on the disk yet.
                self.reader = Reader::new(&self.spool.path, at);
                break;
            }
            // A line that cannot be read is for `journal verify` to speak of.
            let Ok(mut event) = serde_json::from_slice::<Value>(&line) else { continue };
            batch.end = (behind, event["metadata"]["sequence"].as_u64().unwrap_or(batch.end.1));
            if self.config.filter.takes(&event) {
                let mut text = self.config.format.render(&line, &event);
                if let Some(longest) = self.receiver.longest()
                    && text.len() > longest
                    && let Some(short) = shorten(&event, self.config.format, longest)
                {
                    (event, text) = short;
                }
                bytes += text.len();
                batch.messages.push(Message { event, text });
                batch.ends.push(batch.end);
            }
            if self.config.rate.is_some() && !batch.messages.is_empty() {
                break;
            }
        }
        if let Some(damage) = self.reader.damage() {
            complain(&format_args!("sink {}: {damage}", self.config.name));
        }
        Ok(batch)
    }

    /// Delivers a batch with retries; gives up only on a stop.
    fn hand_over(&mut self, batch: &Batch) {
        let mut from = 0;
        while from < batch.messages.len() {
            self.keep_rate();
            let Some(rest) = batch.messages.get(from..) else { return };
            let (taken, failure) = match self.receiver.deliver(rest) {
                Ok(()) => (rest.len(), None),
                Err(Failure::Later { taken, why }) => (taken.min(rest.len()), Some(why)),
                Err(Failure::Never { taken, why }) => {
                    let taken = taken.min(rest.len().saturating_sub(1));
                    if let Some(dead) = rest.get(taken)
                        && let Err(error) = self.put_aside(dead, &why)
                    {
                        (taken, Some(format!("{why}, and the event cannot be put aside: {error}")))
                    } else {
                        self.cursor.dead += 1;
                        self.cursor.delivered = self.cursor.delivered.saturating_sub(1);
                        (taken + 1, None)
                    }
                }
            };
            from += taken;
            self.cursor.delivered += taken as u64;
            if let Some(&end) = from.checked_sub(1).and_then(|last| batch.ends.get(last)) {
                self.move_to(end);
            }
            if taken > 0 {
                self.failures = 0;
                self.cursor.delivered_at = Some(now_ms());
            }
            if let Some(why) = failure {
                self.failed(&why);
                if self.is_stopped() {
                    return;
                }
            } else {
                self.cursor.error = None;
                self.store();
            }
            self.wanted = Instant::now() + self.receiver.pause();
        }
        // What came after the last one of them is not for this sink.
        if batch.end.0 > self.cursor.position {
            self.move_to(batch.end);
        }
        if self.cursor.position > self.stored && self.stored_at.elapsed() >= MOVE {
            self.store();
        }
    }

    fn move_to(&mut self, (position, sequence): (Position, u64)) {
        (self.cursor.position, self.cursor.sequence) = (position, sequence);
    }

    /// Puts the cursor on the disk; what lies before it is not needed any more.
    fn store(&mut self) {
        self.stored_at = Instant::now();
        // On a full disk the old cursor stays: some events go twice, and none is lost.
        if self.cursor.store(&self.spool.path, &self.config.name).is_ok() {
            self.stored = self.cursor.position;
            self.needed.set(&self.config.name, self.cursor.position.segment);
        }
    }

    /// Tells what went wrong, and waits: longer each time, and never in step with other guards.
    fn failed(&mut self, why: &str) {
        let why = masked(&self.config.target, why);
        if self.cursor.error.as_ref() != Some(&why) {
            complain(&format_args!("sink {}: {why}", self.config.name));
        }
        self.cursor.error = Some(why);
        self.store();
        let longest = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.sleep(longest / 2 + longest.mul_f64(random() / 2.0));
    }

    fn keep_rate(&mut self) {
        let Some(rate) = self.config.rate else { return };
        let now = Instant::now();
        self.sleep(self.next.saturating_duration_since(now));
        self.next = self.next.max(now) + Duration::from_secs(1) / rate;
    }

    fn sleep(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while !self.is_stopped() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK));
        }
    }

    /// Keeps an event that the receiver will never take.
    fn put_aside(&self, message: &Message, why: &str) -> io::Result<()> {
        let why = masked(&self.config.target, why);
        complain(&format_args!("sink {}: an event was put aside: {why}", self.config.name));
        let letter = json!({ "why": why, "event": message.event });
        append(&cursor::dead_letters(&self.spool.path, &self.config.name), &letter, MOST_DEAD)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.store();
    }
}

/// Whether a sink can go on at a place: it is the end of a line, or that line was removed with its segment.
fn stands(spool: &Spool, place: Position) -> Result<bool, JournalError> {
    Ok(place <= spool.tail.end() && reader::is_between_lines(&spool.path, place)?)
}

/// Reports that the cursor of a sink does not match this journal. Duplicates can be recognized; omissions cannot.
fn begin_anew(spool: &Spool, sink: &str, why: &str) {
    let message = format!("Sink {sink} begins with the oldest event, and some arrive again: {why}");
    complain(&message);
    spool.tell(&message);
}

/// Adds a line to a file, which is moved to `.1` when it would get longer than `most`.
fn append(path: &Path, value: &Value, most: u64) -> io::Result<()> {
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path);
    let line = format!("{value}\n");
    let (mut file, mut before) = (open()?, fs::symlink_metadata(path)?.len());
    if before > 0 && before + line.len() as u64 > most {
        let mut moved = path.as_os_str().to_owned();
        moved.push(".1");
        fs::rename(path, moved)?;
        (file, before) = (open()?, 0);
    }
    // Half a line must not stay in the way of the next.
    file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).inspect_err(|_| drop(file.set_len(before)))
}

/// From 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without a random number the pause is the shortest of its kind.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_do_not_fill_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.dead.jsonl");
        for number in 0..50 {
            append(&path, &json!({ "number": number }), 100).unwrap();
        }
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        let (now, before) = (read("a.dead.jsonl"), read("a.dead.jsonl.1"));
        assert!(now.len() <= 100 && before.len() <= 100 && now.ends_with("{\"number\":49}\n"), "{before}{now}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
