//! A guard is killed a hundred times while it writes and delivers: no line is lost, the chain holds, every event arrives, and
//! after each kill what a sink had in its hands, and nothing else, comes again.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod receiver;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use journal::{
    Durability, Journal, Limits,
    reader::{Position, Reader},
    segment,
    verify::{Request, verify},
};
use monitor::config::parse;
use receiver::{Arrived, stub::Server, take};
use serde_json::{Value, json};
use sinks::Sinks;

const KILLS: u32 = 100;
/// Segments of some hundred lines; none is removed.
const LIMITS: Limits = Limits { segment_bytes: 256 << 10, max_bytes: 1 << 30, max_age: None };
/// Events are written in such bursts, with such pauses.
const BURST: u64 = 4;
const PAUSE: Duration = Duration::from_millis(5);
/// One in so many events is of the rule that the sink is for which has a request for each.
const RARE: u64 = 6;
const PATIENCE: Duration = Duration::from_mins(1);

/// A sink by its keys, and how it is seen what arrives.
struct Sink {
    name: &'static str,
    keys: String,
    /// How many requests are a batch of it: they may come again after a kill.
    batch: usize,
    arrived: Arrived,
    /// Waits until everything that was sent is written down.
    settle: Box<dyn Fn()>,
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a server has accepted everybody who was there before: one that says nothing is sent away.
fn has_accepted(server: SocketAddr) {
    let mut last = TcpStream::connect(server).unwrap();
    last.shutdown(Shutdown::Write).unwrap();
    last.read_to_end(&mut Vec::new()).unwrap();
}

/// One that speaks HTTP to `path`.
fn web(name: &'static str, path: &str, batch: usize, more: &str) -> Sink {
    let arrived = Arrived::default();
    let log = arrived.clone();
    let server = Server::start(move |request| (200, take(request, &log)));
    let keys = format!("url = \"{}\"\n{more}", server.url(path));
    let settle = move || {
        has_accepted(server.address());
        wait(name, || server.connections() == 0);
    };
    Sink { name, keys, batch, arrived, settle: Box::new(settle) }
}

/// The id of the event that a text ends with.
fn id(text: &[u8]) -> Option<String> {
    let start = text.iter().position(|&byte| byte == b'{')?;
    let event = serde_json::Deserializer::from_slice(text.get(start..)?).into_iter::<Value>().next()?.ok()?;
    Some(event["metadata"]["uid"].as_str()?.to_owned())
}

/// systemd's journal as far as a datagram for each event.
fn journald(directory: &Path) -> Sink {
    const SETTLE: &[u8] = b"settle";
    let (arrived, path) = (Arrived::default(), directory.join("journald"));
    let socket = UnixDatagram::bind(&path).unwrap();
    let (log, settled) = (arrived.clone(), Arc::new(AtomicU32::new(0)));
    let seen = Arc::clone(&settled);
    thread::spawn(move || {
        let mut entry = vec![0; 64 << 10];
        while let Ok(length) = socket.recv(&mut entry) {
            if &entry[..length] == SETTLE {
                seen.fetch_add(1, Ordering::SeqCst);
            } else {
                log.add(vec![id(&entry[..length]).unwrap()]);
            }
        }
    });
    let keys = format!("socket = \"{}\"", path.display());
    let settle = move || {
        let before = settled.load(Ordering::SeqCst);
        UnixDatagram::unbound().unwrap().send_to(SETTLE, &path).unwrap();
        wait("journald", || settled.load(Ordering::SeqCst) > before);
    };
    Sink { name: "journald", keys, batch: 100, arrived, settle: Box::new(settle) }
}

/// A syslog server by TCP.
fn syslog() -> Sink {
    let (arrived, open) = (Arrived::default(), Arc::new(()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let keys = format!("server = \"{address}\"\ntransport = \"tcp\"");
    let (log, shares) = (arrived.clone(), Arc::clone(&open));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, log, share) = (BufReader::new(stream.unwrap()), log.clone(), Arc::clone(&shares));
            thread::spawn(move || {
                while let Some(frame) = frame(&mut stream) {
                    log.add(vec![id(&frame).unwrap()]);
                }
                drop(share);
            });
        }
    });
    let settle = move || {
        has_accepted(address);
        wait("syslog", || Arc::strong_count(&open) == 2);
    };
    Sink { name: "syslog", keys, batch: 100, arrived, settle: Box::new(settle) }
}

/// A whole frame with its count of octets; none at the end.
fn frame(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut count = Vec::new();
    stream.read_until(b' ', &mut count).ok()?;
    let count = String::from_utf8(count).ok()?.trim_end().parse().ok()?;
    let mut frame = vec![0; count];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}

/// Lines in a file, of which one may be torn.
fn file(directory: &Path) -> Sink {
    let (arrived, path) = (Arrived::default(), directory.join("out.json"));
    let keys = format!("path = \"{}\"\nmax-size = \"1GiB\"", path.display());
    let (log, done) = (arrived.clone(), std::cell::Cell::new(0));
    let settle = move || {
        let text = fs::read(&path).unwrap_or_default();
        let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        for line in text[done.get()..end].split(|&byte| byte == b'\n').filter_map(id) {
            log.add(vec![line]);
        }
        done.set(end);
    };
    Sink { name: "file", keys, batch: 1000, arrived, settle: Box::new(settle) }
}

fn policy(sinks: &[Sink]) -> String {
    let sink = |sink: &Sink| {
        let Sink { name, keys, .. } = sink;
        let rule = if *name == "webhook" { "rule = \"rare\"\n" } else { "" };
        format!(
            "[[sink]]\nname = \"{name}\"\ntype = \"{name}\"\nown-events = false\nfrom = \"beginning\"\n{rule}{keys}\n"
        )
    };
    let sinks: String = sinks.iter().map(sink).collect();
    format!("version = 1\n{sinks}[[instance]]\nname = \"a\"\nselect = [{{ uid = 1 }}]\nuser-dir = \"/u\"\n")
}

fn open(directory: &Path) -> (Journal, Sinks) {
    let text = fs::read_to_string(directory.join("policy.toml")).unwrap();
    let journal = Journal::open(&directory.join("journal"), LIMITS).unwrap();
    let sinks = Sinks::start(&parse(&text).unwrap().sinks, journal.spool());
    (journal, sinks)
}

/// What is started and killed: it writes and delivers as long as it lives.
#[test]
#[ignore = "the other half of a_guard_that_is_killed_loses_nothing_and_says_a_batch_twice_at_most"]
fn guard_to_be_killed() {
    let Some(directory) = std::env::var_os("FLOWWARDEN_TEST_KILLED") else { return };
    let (journal, _sinks) = open(Path::new(&directory));
    println!("opened");
    for number in 0.. {
        let rule = if number % RARE == 0 { "rare" } else { "common" };
        let own = json!({ "verdict": "log", "rule": rule, "number": number });
        let event = json!({ "severity_id": 2, "class_uid": 1001, "message": "m", "unmapped": own });
        journal.append(event, if number % 50 == 0 { Durability::Now } else { Durability::Grouped });
        if number % BURST == BURST - 1 {
            thread::sleep(PAUSE);
        }
    }
}

/// Starts it, and kills it `delay` after it has begun, or has opened its journal and is `ready`.
fn kill(directory: &Path, delay: Duration, ready: Option<impl FnOnce()>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "guard_to_be_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env("FLOWWARDEN_TEST_KILLED", directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(ready) = ready {
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        said.find(|line| line.ends_with("opened")).unwrap();
        ready();
    }
    thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The whole lines of each segment.
fn written(journal: &Path) -> BTreeMap<u64, Vec<u8>> {
    let segments = segment::list(journal).unwrap_or_default();
    let read = |found: segment::Segment| {
        let mut text = Vec::new();
        found.open().unwrap().read_to_end(&mut text).unwrap();
        text.truncate(text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
        (found.number, text)
    };
    segments.into_iter().map(read).collect()
}

/// Fails when a line that was there is not where it was.
fn keeps(before: &BTreeMap<u64, Vec<u8>>, now: &BTreeMap<u64, Vec<u8>>) {
    for (segment, text) in before {
        assert!(now.get(segment).is_some_and(|now| now.starts_with(text)), "lines of segment {segment} are gone");
    }
}

/// What has come to a sink by the last kill.
#[derive(Default)]
struct Seen {
    requests: usize,
    ids: BTreeSet<String>,
    /// Requests with anything new in them. One that is killed again and again goes again and again.
    new: Vec<Vec<String>>,
    again: usize,
}

impl Seen {
    /// Fails when anything has come again but for what the sink had in its hands: the last batch that brought anything new.
    fn look(&mut self, sink: &Sink, kill: u32) {
        let in_hand: BTreeSet<_> = self.new.iter().rev().take(sink.batch).flatten().collect();
        let requests = sink.arrived.since(self.requests);
        for id in requests.iter().flatten().filter(|id| self.ids.contains(*id)) {
            assert!(in_hand.contains(id), "kill {kill}: {} has {id} again, which was not in its hands", sink.name);
            self.again += 1;
        }
        self.requests += requests.len();
        let is_new = |request: &Vec<String>| request.iter().any(|id| !self.ids.contains(id));
        let new: Vec<_> = requests.into_iter().filter(is_new).collect();
        self.ids.extend(new.iter().flatten().cloned());
        self.new.extend(new);
    }
}

/// The ids of all events that are for sinks, and of those of the rare rule.
fn events(journal: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut reader = Reader::new(journal, Position::default());
    let (mut line, mut all, mut rare) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    while reader.next(&mut line).unwrap().is_some() {
        let event: Value = serde_json::from_slice(&line).unwrap();
        if event["unmapped"]["rule"] == "rare" {
            rare.extend(id(&line));
        }
        if event["unmapped"]["verdict"] == "log" {
            all.extend(id(&line));
        }
    }
    (all, rare)
}

#[test]
fn a_guard_that_is_killed_loses_nothing_and_says_a_batch_twice_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let (path, journal) = (directory.path(), directory.path().join("journal"));
    let token = receiver::stub::secret("token");
    let token = format!("token-file = \"{}\"", token.path().display());
    let sinks = [
        file(path),
        journald(path),
        syslog(),
        web("elastic", "", 1, ""),
        web("splunk", "", 1, &token),
        web("otlp", "/v1/logs", 1, ""),
        web("webhook", "/hook", 50, ""),
    ];
    fs::write(path.join("policy.toml"), policy(&sinks)).unwrap();
    let mut seen: Vec<_> = sinks.iter().map(|_| Seen::default()).collect();
    let mut before = BTreeMap::new();
    for number in 0..KILLS {
        let delay = Duration::from_micros(u64::from(number * 7919 % 60_000));
        let requests: Vec<_> = sinks.iter().map(|sink| sink.arrived.requests()).collect();
        let moves = |(sink, before): (&Sink, &usize)| sink.name == "file" || sink.arrived.requests() > *before;
        // Some are killed while they open the journal, some soon after, most when every sink has delivered something.
        let ready = || {
            if number % 10 > 3 {
                wait("every sink", || sinks.iter().zip(&requests).all(moves));
            }
        };
        kill(path, delay, (number % 10 > 0).then_some(ready));
        let now = written(&journal);
        keeps(&before, &now);
        before = now;
        for (sink, seen) in sinks.iter().zip(&mut seen) {
            (sink.settle)();
            seen.look(sink, number);
        }
    }
    let again: Vec<_> = sinks.iter().zip(&seen).map(|(sink, seen)| (sink.name, seen.requests, seen.again)).collect();
    println!("requests, and events that came again: {again:?}");
    // Whether a kill meets a certain sink in the right moment is chance; that it meets none of them in all these is not.
    assert!(again.iter().any(|(_, _, again)| *again > 0), "no kill met a sink with something in its hands: {again:?}");

    // The last one goes on to the end.
    let (mut writer, running) = open(path);
    let (all, rare) = events(&journal);
    for sink in &sinks {
        let wanted = if sink.name == "webhook" { &rare } else { &all };
        wait(sink.name, || {
            // A file has to be looked at.
            if sink.name == "file" {
                (sink.settle)();
            }
            sink.arrived.len() >= wanted.len()
        });
        assert_eq!(sink.arrived.since(0).concat().into_iter().collect::<BTreeSet<_>>(), *wanted, "{}", sink.name);
    }
    drop(running);
    writer.close().unwrap();
    keeps(&before, &written(&journal));
    let report = verify(&journal, &Request::default()).unwrap();
    assert_eq!(report.worst(), None, "{:#?}", report.faults);
}
