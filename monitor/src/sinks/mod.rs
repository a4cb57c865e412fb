//! Sinks: the journal is the spool, and each sink reads it at its own pace.
//!
//! A sink is a thread, a [`cursor`] and a receiver. It takes events that are on the disk ([`crate::journal::tail`]), renders
//! them, and moves its cursor when the receiver has taken them: at least once, in order. While a receiver is down its sink
//! waits, and neither the guard nor another sink notices.

pub mod config;
mod connection;
pub mod cursor;
mod elastic;
#[cfg(feature = "email")]
mod email;
mod file;
pub mod filter;
mod http;
mod journald;
#[cfg(feature = "kafka")]
mod kafka;
mod mqtt;
mod nats;
mod otlp;
mod shorten;
#[cfg(feature = "email")]
mod smtp;
mod splunk;
#[cfg(test)]
mod stub;
mod syslog;
mod template;
mod tls;
mod webhook;
mod worker;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use crate::journal::{
    JournalError, Spool,
    ocsf::{self, Stage},
    reader::Position,
};
use config::{SinkConfig, Target};
use worker::Worker;

/// How long sinks that are in the middle of something are waited for when the guard ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// An event on its way out.
#[derive(Clone, Debug)]
struct Message {
    /// The event.
    event: Value,
    /// In the sink's format, without a line feed.
    text: Vec<u8>,
}

/// Why a batch was not taken as a whole. What comes before `taken` in it was.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// The rest may be taken later.
    Later { taken: usize, why: String },
    /// The first one of the rest will never be taken.
    Never { taken: usize, why: String },
}

impl Failure {
    /// The same, told of a batch that has `more` events before this one's.
    fn after(self, more: usize) -> Self {
        match self {
            Self::Later { taken, why } => Self::Later { taken: taken + more, why },
            Self::Never { taken, why } => Self::Never { taken: taken + more, why },
        }
    }
}

/// What a receiver is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To serve a sink: it may say that the guard is there.
    Sink,
    /// To send one event that is a test.
    Test,
}

/// Where events go.
trait Receiver: Send {
    /// Most events that are handed over at once.
    fn most(&self) -> usize;

    /// Longest text that it takes, in bytes, where there is a limit: what is longer is [shortened](shorten).
    fn longest(&self) -> Option<usize> {
        None
    }

    /// Hands events over; returns when the receiver has said that it has them, as far as its protocol lets it say that.
    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure>;

    /// The least time between two batches, for who wants what comes meanwhile in one piece.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    /// Called twice a second while there is nothing to deliver, for what a protocol asks for meanwhile. Answers how the
    /// connection is, where there has to be one all the time.
    fn idle(&mut self) -> Option<Result<(), String>> {
        None
    }
}

/// The receiver of a sink. Nothing is connected yet.
fn receiver(target: &Target, purpose: Purpose) -> Box<dyn Receiver> {
    match target {
        Target::File(target) => Box::new(file::File::new(target.clone())),
        Target::Syslog(target) => Box::new(syslog::Syslog::new(target.clone())),
        Target::Webhook(target) => Box::new(webhook::Webhook::new(target.clone())),
        Target::Mqtt(target) => Box::new(mqtt::Mqtt::new(target.clone(), purpose)),
        Target::Splunk(target) => Box::new(splunk::Splunk::new(target.clone())),
        Target::Elastic(target) => Box::new(elastic::Elastic::new(target.clone())),
        Target::Journald(target) => Box::new(journald::Journald::new(target.clone())),
        Target::Otlp(target) => Box::new(otlp::Otlp::new(target.clone())),
        Target::Nats(target) => Box::new(nats::Nats::new(target.clone())),
        #[cfg(feature = "email")]
        Target::Email(target) => Box::new(email::Email::new(target.clone())),
        #[cfg(feature = "kafka")]
        Target::Kafka(target) => Box::new(kafka::Kafka::new(target.clone())),
    }
}

/// The running sinks.
#[derive(Debug)]
pub struct Sinks {
    spool: Spool,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sinks {
    /// Starts the sinks on a journal. One that cannot run is told, and keeps nobody else from running.
    #[must_use]
    pub fn start(configs: &[SinkConfig], spool: Spool) -> Self {
        let mut sinks = Self { spool, stop: Arc::default(), thread: None };
        sinks.exchange(configs);
        sinks
    }

    /// Puts other sinks in place of those that run. Does not wait: what was begun is finished first.
    pub fn exchange(&mut self, configs: &[SinkConfig]) {
        self.end();
        let old = self.thread.take();
        // Until each has said where it is, every segment is needed.
        let needed = if configs.is_empty() { u64::MAX } else { 0 };
        self.spool.needed.store(needed, Ordering::Relaxed);
        self.stop = Arc::default();
        let (configs, spool, stop) = (configs.to_vec(), self.spool.clone(), Arc::clone(&self.stop));
        let end = (spool.tail.end(), spool.tail.sequence());
        let work = move || {
            let _ = old.map(JoinHandle::join);
            run(&configs, &spool, &stop, end);
        };
        match thread::Builder::new().name("sinks".to_owned()).spawn(work) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => eprintln!("flowwarden: the sinks cannot be started: {error}"),
        }
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.spool.tail.wake();
    }
}

/// Runs one thread for each sink until all are told to stop.
fn run(configs: &[SinkConfig], spool: &Spool, stop: &AtomicBool, end: (Position, u64)) {
    let places: Arc<Vec<_>> = Arc::new(configs.iter().map(|_| AtomicU64::new(0)).collect());
    thread::scope(|scope| {
        for (index, config) in configs.iter().enumerate() {
            let needed = Needed { index, places: Arc::clone(&places), lowest: Arc::clone(&spool.needed) };
            let started = Worker::new(config.clone(), spool, stop, needed, end).and_then(|mut worker| {
                let thread = thread::Builder::new().name(format!("sink-{}", config.name));
                thread.spawn_scoped(scope, move || worker.run()).map_err(JournalError::io(&spool.path))
            });
            if let Err(error) = started {
                eprintln!("flowwarden: sink {} does not run: {error}", config.name);
            }
        }
    });
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.end();
        let Some(thread) = self.thread.take() else { return };
        let start = Instant::now();
        while !thread.is_finished() {
            // One that waits for its receiver is left behind: its cursor is true at every moment.
            if start.elapsed() > PATIENCE {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = thread.join();
    }
}

/// The segment that a sink reads, among those of all sinks: what lies before the lowest is free to go.
#[derive(Debug)]
struct Needed {
    index: usize,
    places: Arc<Vec<AtomicU64>>,
    lowest: Arc<AtomicU64>,
}

impl Needed {
    fn set(&self, segment: u64) {
        if let Some(place) = self.places.get(self.index) {
            place.store(segment, Ordering::Relaxed);
        }
        let lowest = self.places.iter().map(|place| place.load(Ordering::Relaxed)).min();
        self.lowest.store(lowest.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Sends one event that says that it is a test, past the journal. An error is what came back.
pub fn test(config: &SinkConfig) -> Result<(), String> {
    let message = "Test event: flowwarden sink test reaches this receiver";
    let mut event = ocsf::lifecycle(Stage::Test, message, &Map::new());
    event["metadata"]["uid"] = format!("test-{}", std::process::id()).into();
    event["metadata"]["sequence"] = 0.into();
    let line = event.to_string() + "\n";
    let text = config.format.render(line.as_bytes(), &event);
    receiver(&config.target, Purpose::Test).deliver(&[Message { event, text }]).map_err(|failure| match failure {
        Failure::Later { why, .. } | Failure::Never { why, .. } => why,
    })
}

/// A moment, in milliseconds since 1970.
fn now_ms() -> i64 {
    ocsf::now_ms()
}

/// An error of the network or the disk that may pass.
fn later(taken: usize, what: &str, error: &io::Error) -> Failure {
    Failure::Later { taken, why: format!("{what}: {error}") }
}

/// A header that shows a secret, where there is one.
fn bearer(token: Option<&config::Secret>) -> Result<Option<String>, String> {
    Ok(token.map(secret).transpose()?.map(|token| format!("Bearer {token}")))
}

/// A random number in hexadecimal digits, that nobody else has.
fn unique() -> String {
    let mut bytes = [0; 8];
    // Without a random number the process is told from others by its own.
    if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).is_err() {
        return format!("{:016x}", std::process::id());
    }
    data_encoding::HEXLOWER.encode(&bytes)
}

/// The name of this machine, of what a name has.
#[cfg(any(feature = "email", feature = "kafka"))]
fn hostname() -> String {
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
    rustix::system::uname().nodename().to_string_lossy().chars().filter(fits).collect()
}

/// Reads a secret. Its file must not be open to others.
fn secret(secret: &config::Secret) -> Result<String, String> {
    let path = match secret {
        config::Secret::File(path) => path.clone(),
        config::Secret::Credential(name) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                format!("credential {name}: the guard was not given any; add LoadCredential={name}:FILE to its unit")
            })?;
            Path::new(&directory).join(name)
        }
    };
    let meta = std::fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
    if mode & 0o077 != 0 {
        return Err(format!("{0}: others can read the secret; chmod 0600 {0}", path.display()));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}
