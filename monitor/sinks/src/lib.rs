//! Sinks: the journal is the spool, and each sink reads it at its own pace.
//!
//! A sink is a thread, a [`cursor`] and a receiver. It takes events that are on the disk ([`journal::tail`]), renders
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
mod masked;
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
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use config::{SinkConfig, Target};
use journal::{
    Spool, durable,
    ocsf::{self, Stage},
    stdio::complain,
};
use worker::Worker;

/// How long sinks that are in the middle of something are waited for when the guard ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest secret, in bytes.
const LONGEST_SECRET: u64 = 64 << 10;

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
    /// The same for a batch with `more` events before this one.
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
    needed: Arc<Needed>,
    stop: Arc<AtomicBool>,
    /// By name; those too that have no place in the policy any more and have not ended yet.
    threads: BTreeMap<String, JoinHandle<()>>,
}

impl Sinks {
    /// Starts the sinks of a journal. A sink that cannot start is reported; the others run.
    #[must_use]
    pub fn start(configs: &[SinkConfig], spool: Spool) -> Self {
        let needed = Arc::new(Needed::new(Arc::clone(&spool.needed)));
        let mut sinks = Self { spool, needed, stop: Arc::default(), threads: BTreeMap::new() };
        sinks.exchange(configs);
        sinks
    }

    /// Puts other sinks in place of those that run. Does not wait: each one begins when that of the same name, if there was
    /// one, has finished what it was in the middle of.
    pub fn exchange(&mut self, configs: &[SinkConfig]) {
        self.end();
        self.stop = Arc::default();
        self.needed.exchange(configs.iter().map(|config| config.name.as_str()));
        self.threads.retain(|_, thread| !thread.is_finished());
        let end = (self.spool.tail.end(), self.spool.tail.sequence());
        for config in configs {
            let before = self.threads.remove(&config.name);
            let (config, spool, needed) = (config.clone(), self.spool.clone(), Arc::clone(&self.needed));
            let (name, stop) = (config.name.clone(), Arc::clone(&self.stop));
            let work = move || {
                let _ = before.map(JoinHandle::join);
                let name = config.name.clone();
                match Worker::new(config, spool, stop, needed, end) {
                    Ok(mut worker) => worker.run(),
                    Err(error) => complain(&format_args!("sink {name} does not run: {error}")),
                }
            };
            match thread::Builder::new().name(format!("sink-{name}")).spawn(work) {
                Ok(thread) => drop(self.threads.insert(name, thread)),
                Err(error) => complain(&format_args!("sink {name} cannot be started: {error}")),
            }
        }
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.spool.tail.wake();
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.end();
        let start = Instant::now();
        // One that waits for its receiver is left behind: its cursor is true at every moment.
        while self.threads.values().any(|thread| !thread.is_finished()) && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The segment that each sink reads: what lies before the lowest is free to go.
#[derive(Debug)]
struct Needed {
    places: Mutex<BTreeMap<String, u64>>,
    lowest: Arc<AtomicU64>,
}

impl Needed {
    fn new(lowest: Arc<AtomicU64>) -> Self {
        Self { places: Mutex::default(), lowest }
    }

    /// There are these sinks now. One that is new needs every segment until it has said where it is.
    fn exchange<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        *places = names.map(|name| (name.to_owned(), places.get(name).copied().unwrap_or_default())).collect();
        self.publish(&places);
    }

    /// A sink is at this segment. One that is not among them any more needs nothing.
    fn set(&self, name: &str, segment: u64) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get_mut(name) {
            *place = segment;
        }
        self.publish(&places);
    }

    fn publish(&self, places: &BTreeMap<String, u64>) {
        self.lowest.store(places.values().min().copied().unwrap_or(u64::MAX), Ordering::Relaxed);
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
        Failure::Later { why, .. } | Failure::Never { why, .. } => masked::masked(&config.target, &why),
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
fn bearer(secret: Option<&config::Secret>) -> Result<Option<String>, String> {
    Ok(secret.map(token).transpose()?.map(|token| format!("Bearer {token}")))
}

/// A random identifier in hexadecimal digits.
fn unique() -> String {
    let mut bytes = [0; 8];
    // Without a random number the process id distinguishes it.
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
    let text = durable::read(&path, LONGEST_SECRET).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = String::from_utf8(text).map_err(|_| format!("{}: no text in UTF-8", path.display()))?;
    let text = text.trim();
    let wrong = |what: &str| Err(format!("{}: {what}; put the secret in it, on one line", path.display()));
    if text.is_empty() {
        return wrong("the secret is empty");
    }
    if text.contains(['\n', '\r']) {
        return wrong("there is more than one line in it");
    }
    if text.contains(|char: char| char == '\u{feff}' || (char.is_control() && char != '\t')) {
        return wrong("a control character in it: this is no secret");
    }
    Ok(text.to_owned())
}

/// Reads a secret that goes as it is into a header: a token or a key, not a password.
fn token(from: &config::Secret) -> Result<String, String> {
    let text = secret(from)?;
    let place = || match from {
        config::Secret::File(path) => path.display().to_string(),
        config::Secret::Credential(name) => format!("credential {name}"),
    };
    if text.contains(char::is_whitespace) {
        return Err(format!("{}: there is a blank in the token; put it in the file alone, on one line", place()));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{}: this is no secret that a token can be: tokens are ASCII", place()));
    }
    Ok(text)
}
