//! Sinks whose receivers fail in every way that networks know: nothing is lost, and at most one batch comes twice.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod receiver;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use journal::{Durability, Journal, Limits};
use monitor::config::parse;
use receiver::{Arrived, stub::Server, take};
use serde_json::{Value, json};
use sinks::{Sinks, cursor::Cursor};

/// How many events there are before and after a fault, and during it: more than a batch.
const FEW: u64 = 96;
const MANY: u64 = 1200;
/// One in so many events is of the rule that the sink is for which has a request for each.
const RARE: u64 = 12;
/// How long everything may take.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(10);

/// What the way to a receiver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Fault {
    /// Nothing but its work.
    None,
    /// No server listens.
    Refused,
    /// Whatever is sent vanishes.
    Blackhole,
    /// The connection is reset in the middle of a request.
    Reset,
    /// The receiver takes what it is sent, and its answer is lost.
    Unanswered,
    /// The receiver answers 429.
    TooMany,
    /// The receiver answers 503.
    Unavailable,
}

impl Fault {
    fn of(way: &AtomicU16) -> Self {
        let all = [
            Self::None,
            Self::Refused,
            Self::Blackhole,
            Self::Reset,
            Self::Unanswered,
            Self::TooMany,
            Self::Unavailable,
        ];
        all[usize::from(way.load(Ordering::Relaxed))]
    }
}

type Way = Arc<AtomicU16>;

/// Listens, and hands over to `server` as the way is.
fn proxy(server: SocketAddr, way: &Way) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let way = Arc::clone(way);
    thread::spawn(move || {
        let mut listener = Some(listener);
        loop {
            if Fault::of(&way) == Fault::Refused {
                listener = None;
                thread::sleep(PAUSE);
                continue;
            }
            let listener = listener.get_or_insert_with(|| TcpListener::bind(address).unwrap());
            listener.set_nonblocking(true).unwrap();
            let Ok((client, _)) = listener.accept() else {
                thread::sleep(PAUSE);
                continue;
            };
            client.set_nonblocking(false).unwrap();
            let server = TcpStream::connect(server).unwrap();
            for (from, to, request) in [(&client, &server, true), (&server, &client, false)] {
                let (from, to, way) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&way));
                thread::spawn(move || carry(from, to, request, &way));
            }
        }
    });
    address
}

/// Carries bytes one way until one end closes, or the way breaks.
fn carry(mut from: TcpStream, mut to: TcpStream, request: bool, way: &AtomicU16) {
    from.set_read_timeout(Some(PAUSE)).unwrap();
    let mut bytes = [0; 4096];
    loop {
        let read = from.read(&mut bytes);
        let fault = Fault::of(way);
        let part = match read {
            Ok(length @ 1..) => &bytes[..length],
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {
                if fault == Fault::Refused {
                    break;
                }
                continue;
            }
            _ => break,
        };
        match fault {
            Fault::Refused => break,
            Fault::Blackhole => {}
            Fault::Unanswered if !request => break,
            Fault::Reset if request => {
                let _ = to.write_all(&part[..part.len() / 2]);
                reset(&from);
                break;
            }
            _ if to.write_all(part).is_err() => break,
            _ => {}
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Has the connection end with a reset once it is closed.
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap();
    // SAFETY: the descriptor is open, and the option is a `linger` of the size that is given.
    let done = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
    };
    assert_eq!(done, 0);
}

/// A web server that takes events as the four kinds of sinks send them.
fn server(arrived: &Arrived, way: &Way) -> Server {
    let (arrived, way) = (arrived.clone(), Arc::clone(way));
    Server::start(move |request| match Fault::of(&way) {
        Fault::TooMany => (429, String::new()),
        Fault::Unavailable => (503, String::new()),
        _ => (200, take(request, &arrived)),
    })
}

fn append(journal: &Journal, count: u64) {
    for number in 0..count {
        let rule = if number.is_multiple_of(RARE) { "rare" } else { "common" };
        let own = json!({ "verdict": "log", "rule": rule });
        let event = json!({ "severity_id": 2, "class_uid": 1001, "message": "m", "unmapped": own });
        journal.append(event, Durability::Grouped);
    }
}

/// The sinks by type, where they send to, most events that each hands over at once, and one in how many it takes.
const SINKS: [(&str, &str, usize, u64); 4] =
    [("elastic", "", 1000, 1), ("splunk", "", 1000, 1), ("otlp", "/v1/logs", 500, 1), ("webhook", "/hook", 1, RARE)];

fn wait(what: &str, done: impl Fn() -> Result<(), String>) {
    let start = Instant::now();
    while let Err(why) = done() {
        assert!(start.elapsed() < PATIENCE, "{what}: {why}");
        thread::sleep(PAUSE);
    }
}

fn survives(fault: Fault) {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let mut token = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
    token.write_all(b"token\n").unwrap();
    let mut writer = Journal::open(&journal, Limits::default()).unwrap();
    let way: Way = Arc::default();
    let mut text = "version = 1\n".to_owned();
    let mut receivers = Vec::new();
    for (name, path, most, share) in SINKS {
        let arrived = Arrived::default();
        let address = proxy(server(&arrived, &way).address(), &way);
        let token =
            if name == "splunk" { format!("token-file = \"{}\"\n", token.path().display()) } else { String::new() };
        let rule = if share > 1 { "rule = \"rare\"\n" } else { "" };
        let sink = format!(
            "[[sink]]\nname = \"{name}\"\ntype = \"{name}\"\nurl = \"http://{address}{path}\"\nown-events = false\n{token}{rule}"
        );
        text.push_str(&sink);
        receivers.push((name, most, share, arrived));
    }
    // One that is well, beside those that are not.
    let file = directory.path().join("events.json");
    let path = file.display();
    text += &policy(&format!("name = \"file\"\ntype = \"file\"\npath = \"{path}\"\nown-events = false"))
        .replace("version = 1\n", "");
    let sinks = Sinks::start(&parse(&text).unwrap().sinks, writer.spool());
    let cursor = |name: &str| Cursor::load(&journal, name).unwrap();
    wait("the sinks to begin", || {
        if SINKS.iter().all(|sink| cursor(sink.0).is_some()) && cursor("file").is_some() {
            Ok(())
        } else {
            Err(String::new())
        }
    });

    append(&writer, FEW);
    let arrive = |count: u64| {
        for (name, _, share, arrived) in &receivers {
            wait(name, || {
                let found = arrived.len() as u64;
                if found >= count / share { Ok(()) } else { Err(format!("{found} of {count}: {:?}", cursor(name))) }
            });
        }
    };
    arrive(FEW);
    way.store(fault as u16, Ordering::Relaxed);
    append(&writer, MANY);
    for (name, ..) in &receivers {
        wait(name, || if cursor(name).unwrap().error.is_some() { Ok(()) } else { Err("nothing is wrong".to_owned()) });
    }
    // Sinks that keep failing delay no other.
    wait("the file", || {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count() as u64;
        if lines == FEW + MANY { Ok(()) } else { Err(format!("{lines} lines")) }
    });
    way.store(Fault::None as u16, Ordering::Relaxed);
    append(&writer, FEW);
    arrive(MANY + 2 * FEW);
    drop(sinks);
    for (name, most, share, arrived) in &receivers {
        assert_eq!(arrived.len() as u64, (MANY + 2 * FEW) / share, "{name}");
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        for id in arrived.since(0).concat() {
            if !seen.insert(id.clone()) {
                twice.insert(id);
            }
        }
        let twice = twice.len();
        assert!(twice <= *most, "{name}: {twice} events came twice");
        assert_eq!(cursor(name).unwrap().dead, 0, "{name}: events were put aside");
        if fault == Fault::Unanswered {
            assert!(twice > 0, "{name}: no answer was lost in {} requests", arrived.requests());
        }
    }
    writer.close().unwrap();
}

#[test]
fn a_receiver_that_is_not_there_loses_nothing() {
    survives(Fault::Refused);
}

#[test]
fn a_receiver_in_a_black_hole_loses_nothing() {
    survives(Fault::Blackhole);
}

#[test]
fn a_connection_that_is_reset_in_the_middle_loses_nothing() {
    survives(Fault::Reset);
}

#[test]
fn a_lost_answer_loses_nothing_and_doubles_one_batch_at_most() {
    survives(Fault::Unanswered);
}

#[test]
fn a_receiver_that_has_too_much_to_do_loses_nothing() {
    survives(Fault::TooMany);
}

#[test]
fn a_receiver_that_is_unavailable_loses_nothing() {
    survives(Fault::Unavailable);
}

/// What a strict Elasticsearch has been asked to create.
#[derive(Default)]
struct Index {
    /// How often each event was refused as one too many.
    refused: BTreeMap<u64, u32>,
    /// How often each was created, or would have been a second time.
    created: BTreeMap<u64, u32>,
}

/// Whether an event is one that the index never takes.
fn is_poison(number: u64) -> bool {
    number % 100 == 13
}

impl Index {
    /// Some events are too many at first, some are wrong for good; the rest is created.
    fn bulk(&mut self, body: &[u8]) -> String {
        let lines: Vec<Value> =
            body.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let items = lines.chunks(2).map(|pair| {
            let [action, document] = pair else { panic!("an action without a document") };
            let number = document["event"]["severity"].as_u64().unwrap();
            let tries = self.refused.entry(number).or_default();
            let (status, error) = if is_poison(number) {
                (400, json!({ "type": "document_parsing_exception", "reason": "failed to parse" }))
            } else if number % 50 == 7 && *tries < 2 {
                *tries += 1;
                (429, json!({ "type": "es_rejected_execution_exception", "reason": "queue full" }))
            } else {
                *self.created.entry(number).or_default() += 1;
                (201, Value::Null)
            };
            json!({ "create": { "_id": action["create"]["_id"], "status": status, "error": error } })
        });
        let items: Vec<_> = items.collect();
        json!({ "took": 1, "errors": true, "items": items }).to_string()
    }
}

#[test]
fn of_a_bulk_that_fails_in_parts_only_those_parts_go_again_and_what_is_wrong_is_put_aside() {
    const ALL: u64 = 700;
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let (server, index) = Server::with(Index::default(), |index, request| (200, index.bulk(&request.body)));
    let mut writer = Journal::open(&journal, Limits::default()).unwrap();
    for number in 1..=ALL {
        // The severity is what ECS keeps of the number.
        let event = json!({ "severity_id": number, "class_uid": 1001, "unmapped": { "verdict": "log", "rule": "r" } });
        writer.append(event, Durability::Grouped);
    }
    let sink = format!("type = \"elastic\"\nurl = \"{}\"\nown-events = false\nfrom = \"beginning\"", server.url(""));
    let text = policy(&format!("name = \"elastic\"\n{sink}"));
    let sinks = Sinks::start(&parse(&text).unwrap().sinks, writer.spool());
    let poison: Vec<_> = (1..=ALL).filter(|number| is_poison(*number)).collect();
    wait("every event", || {
        let created = index.lock().unwrap().created.len() + poison.len();
        let dead = Cursor::load(&journal, "elastic").unwrap().map_or(0, |cursor| cursor.dead);
        if (created as u64, dead) == (ALL, poison.len() as u64) { Ok(()) } else { Err(format!("{created}, {dead}")) }
    });
    drop(sinks);
    let index = index.lock().unwrap();
    assert!(index.created.values().all(|&count| count == 1), "what was created was sent again");
    let dead = std::fs::read_to_string(journal.join("sinks/elastic.dead.jsonl")).unwrap();
    let dead: Vec<Value> = dead.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = dead.iter().map(|line| line["event"]["severity_id"].as_u64().unwrap()).collect();
    assert_eq!(numbers, poison);
    assert!(dead.iter().all(|line| line["why"].as_str().unwrap().contains("400 document_parsing_exception")));
    drop(index);
    writer.close().unwrap();
}

/// Nothing is left to be done then, and the status says so.
#[test]
fn a_sink_for_which_nothing_comes_is_not_behind() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let mut writer = Journal::open(&journal, Limits::default()).unwrap();
    let file = directory.path().join("out.json");
    let sink = format!(
        "name = \"file\"\ntype = \"file\"\npath = \"{}\"\nrule = \"other\"\nown-events = false",
        file.display()
    );
    let sinks = Sinks::start(&parse(&policy(&sink)).unwrap().sinks, writer.spool());
    wait("the sink to begin", || Cursor::load(&journal, "file").unwrap().map(drop).ok_or_else(String::new));
    append(&writer, FEW);
    wait("the cursor", || {
        let cursor = Cursor::load(&journal, "file").unwrap().unwrap();
        if cursor.sequence == FEW { Ok(()) } else { Err(format!("{cursor:?}")) }
    });
    assert!(!file.exists());
    drop(sinks);
    writer.close().unwrap();
}

/// A policy with one sink.
fn policy(sink: &str) -> String {
    format!("version = 1\n[[sink]]\n{sink}\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 1 }}]\nuser-dir = \"/u\"\n")
}

#[test]
fn a_secret_is_in_no_debug_output_and_in_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "hunter2-token").unwrap();
    let secret = token.display();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for sink in [
        format!("type = \"webhook\"\nurl = \"http://user:hunter2@{closed}/bot-hunter2\"\ntoken-file = \"{secret}\""),
        format!("type = \"splunk\"\nurl = \"http://{closed}\"\ntoken-file = \"{secret}\""),
        format!("type = \"otlp\"\nurl = \"http://{closed}/v1/logs?key=hunter2\"\ntoken-file = \"{secret}\""),
        format!("type = \"elastic\"\nurl = \"http://{closed}\"\nuser = \"u\"\npassword-file = \"{secret}\""),
        format!("type = \"nats\"\nserver = \"{closed}\"\ntransport = \"tcp\"\ntoken-file = \"{secret}\""),
        format!(
            "type = \"mqtt\"\nserver = \"{closed}\"\ntransport = \"tcp\"\nuser = \"u\"\npassword-file = \"{secret}\""
        ),
    ] {
        let config = parse(&policy(&format!("name = \"a\"\n{sink}"))).unwrap().sinks.remove(0);
        set_mode(&token, 0o600);
        let error = sinks::test(&config).unwrap_err();
        assert!(error.contains("efused"), "{error}");
        let shown = format!("{config:?} {error}");
        assert!(!shown.contains("hunter2"), "{shown}");
        // A secret that others can read is none.
        set_mode(&token, 0o644);
        if !sink.contains("server") {
            let error = sinks::test(&config).unwrap_err();
            assert!(error.contains("chmod 0600"), "{error}");
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}
