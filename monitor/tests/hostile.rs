//! Receivers that mean harm, places in the journal that are none, and journals that somebody has prepared: the guard and who
//! reads a journal neither hang, nor fall over, nor treat received text as anything but text.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../sinks/src/stub.rs"]
#[expect(dead_code, reason = "unit tests look closer at a request")]
mod stub;

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use journal::{
    Durability, Journal, Limits,
    reader::{Position, Reader},
    segment,
    verify::{Kind, Request, verify},
};
use monitor::config::parse;
use serde_json::{Value, json};
use sinks::{Sinks, config::SinkConfig, cursor::Cursor};

const PATIENCE: Duration = Duration::from_secs(20);
/// What takes longer waits for something that never comes.
const SOON: Duration = Duration::from_secs(8);
/// Segments of a few lines.
const SMALL: Limits = Limits { segment_bytes: 4 << 10, max_bytes: 1 << 30, max_age: None };

fn configs(sinks: &[String]) -> Vec<SinkConfig> {
    let sinks: Vec<_> = sinks.iter().map(|sink| format!("[[sink]]\n{sink}\n")).collect();
    let sinks = sinks.concat();
    let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1 }]\nuser-dir = \"/u\"\n";
    parse(&format!("version = 1\n{sinks}{rest}")).unwrap().sinks
}

fn config(sink: &str) -> SinkConfig {
    configs(&[format!("name = \"a\"\n{sink}")]).remove(0)
}

fn file_sink(path: &Path) -> String {
    format!("name = \"file\"\ntype = \"file\"\npath = \"{}\"\nown-events = false\nformat = \"jsonl\"", path.display())
}

fn append(journal: &Journal, numbers: std::ops::Range<u64>) {
    let tail = journal.tail();
    for number in numbers {
        let event =
            json!({ "severity_id": 2, "number": number, "unmapped": { "verdict": "log" }, "filler": "x".repeat(300) });
        let seen = tail.end();
        journal.append(event, Durability::Now);
        let _ = tail.wait(seen, PATIENCE);
    }
}

/// The numbers of the events in a file, in order.
fn numbers(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let number = |line: &str| serde_json::from_str::<Value>(line).ok()?["number"].as_u64();
    text.lines().filter_map(number).collect()
}

fn wait(what: &str, patience: Duration, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < patience, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What `work` answers, if it does so soon.
fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(SOON).unwrap_or_else(|_| panic!("{what} does not come to an end"))
}

/// A server that reads the head of a request, counts it, and does what it likes.
fn server(act: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked, act) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)), Arc::new(act));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, count, act) = (stream.unwrap(), Arc::clone(&count), Arc::clone(&act));
            thread::spawn(move || {
                let head = BufReader::new(stream.try_clone().unwrap());
                if head.lines().map_while(Result::ok).any(|line| line.is_empty()) {
                    count.fetch_add(1, Ordering::SeqCst);
                    act(&mut stream);
                }
            });
        }
    });
    (address, asked)
}

/// Answers, a byte in 100 ms.
fn drip(stream: &mut TcpStream) {
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".iter().chain(std::iter::repeat(&b'x')) {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Writes the same again and again, as long as it is read.
fn flood(stream: &mut TcpStream, head: &str, part: &str) {
    let _ = stream.write_all(head.as_bytes());
    let part = part.repeat(1000);
    while stream.write_all(part.as_bytes()).is_ok() {}
}

#[test]
fn a_sink_that_is_stuck_keeps_no_other_from_a_reload_and_the_guard_from_no_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
    let (address, asked) = server(drip);
    let out = directory.path().join("out.json");
    let stuck = format!("name = \"stuck\"\ntype = \"webhook\"\nurl = \"http://{address}/\"\nown-events = false");
    let configs = configs(&[stuck, file_sink(&out)]);
    let mut sinks = Sinks::start(&configs, journal.spool());
    wait("the sinks to begin", PATIENCE, || {
        configs.iter().all(|sink| Cursor::load(journal.path(), &sink.name).unwrap().is_some())
    });
    append(&journal, 0..1);
    wait("a request", PATIENCE, || asked.load(Ordering::SeqCst) == 1);
    sinks.exchange(&configs);
    // By now those that had nothing to do have ended.
    thread::sleep(Duration::from_secs(1));
    append(&journal, 1..2);
    wait("the file", SOON, || numbers(&out) == [0, 1]);
    let start = Instant::now();
    drop(sinks);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    journal.close().unwrap();
}

/// Starts a file sink with such a cursor on a journal of ten events in several segments, and answers what arrives.
fn arrives(change: impl Fn(&mut Value, &Path)) -> (Vec<u64>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut journal = Journal::open(&path, SMALL).unwrap();
    append(&journal, 0..20);
    let out = directory.path().join("out.json");
    let place = path.join("sinks/file.cursor");
    fs::create_dir(path.join("sinks")).unwrap();
    let mut cursor = json!({ "position": { "segment": 1, "offset": 0 }, "sequence": 0, "delivered": 0, "dead": 0, "error": null,
        "delivered_at": null });
    change(&mut cursor, &path);
    fs::write(&place, if cursor.is_null() { "{".to_owned() } else { cursor.to_string() }).unwrap();
    let sinks = Sinks::start(&configs(&[file_sink(&out)]), journal.spool());
    append(&journal, 20..21);
    wait("the last event", SOON, || numbers(&out).last() == Some(&20));
    drop(sinks);
    journal.close().unwrap();
    let mut text = String::new();
    let (mut reader, mut line) = (Reader::new(&path, Position::default()), Vec::new());
    while reader.next(&mut line).unwrap().is_some() {
        let event: Value = serde_json::from_slice(&line).unwrap();
        if event["activity_name"] == "Error" {
            text += event["message"].as_str().unwrap();
        }
    }
    (numbers(&out), text)
}

#[test]
fn a_place_that_is_none_in_this_journal_begins_at_the_oldest_event_and_is_told() {
    let all: Vec<_> = (0..21).collect();
    let ahead = arrives(|cursor, _| cursor["position"] = json!({ "segment": 57, "offset": 5 }));
    let beyond = arrives(|cursor, _| cursor["position"] = json!({ "segment": 1, "offset": 1_u64 << 40 }));
    let within = arrives(|cursor, _| cursor["position"] = json!({ "segment": 1, "offset": 100 }));
    let broken = arrives(|cursor, _| *cursor = Value::Null);
    for (what, (found, text)) in [("ahead", ahead), ("beyond", beyond), ("within a line", within), ("broken", broken)] {
        assert_eq!(found, all, "{what}");
        assert!(text.contains("Sink file") && text.contains("oldest"), "{what}: {text:?}");
    }
    // One whose segment the journal has removed goes on with what is there, and the journal has reported it.
    let (found, text) = arrives(|cursor, path| {
        cursor["position"] = json!({ "segment": 1, "offset": 100 });
        fs::remove_file(segment::plain(path, 1)).or_else(|_| fs::remove_file(segment::compressed(path, 1))).unwrap();
    });
    assert!(found.first() > Some(&0) && found.is_sorted(), "{found:?}");
    assert!(!text.contains("Sink file"), "{text}");
}

#[test]
fn a_cursor_that_cannot_be_written_holds_nothing_up_and_is_written_once_it_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
    let (out, place, away) =
        (directory.path().join("out.json"), journal.path().join("sinks"), directory.path().join("away"));
    let sinks = Sinks::start(&configs(&[file_sink(&out)]), journal.spool());
    let cursor = || Cursor::load(journal.path(), "file").ok().flatten();
    wait("the sink to begin", PATIENCE, || cursor().is_some());
    // As on a disk that is full, nothing can be made there.
    fs::rename(&place, &away).unwrap();
    fs::write(&place, "").unwrap();
    append(&journal, 0..3);
    wait("the events", SOON, || numbers(&out) == [0, 1, 2]);
    fs::remove_file(&place).unwrap();
    fs::rename(&away, &place).unwrap();
    append(&journal, 3..4);
    wait("the cursor", SOON, || cursor().is_some_and(|cursor| cursor.delivered == 4));
    assert_eq!(numbers(&out), [0, 1, 2, 3]);
    drop(sinks);
    journal.close().unwrap();
}

/// An answer that repeats the head of the request, with what terminals obey, and has no end that one would wait for.
fn echo() -> stub::Server {
    stub::Server::start(|request| {
        let said =
            format!("\u{1b}[2J\u{202e}{} {}\n", request.path, request.header("authorization").unwrap_or_default());
        if request.path.ends_with("_bulk") && request.path.starts_with("/items") {
            let id = String::from_utf8_lossy(&request.body).split('"').nth(5).unwrap_or_default().to_owned();
            let error = json!({ "type": said, "reason": said + &"x".repeat(1 << 20) });
            return (200, json!({ "items": [{ "create": { "_id": id, "status": 429, "error": error } }] }).to_string());
        }
        (401, said + &"x".repeat(1 << 20))
    })
}

#[test]
fn what_a_receiver_says_is_text_of_a_line_and_repeats_no_secret() {
    let secret = stub::secret("hunter2/token+x");
    let (token, server) = (secret.path().display(), echo());
    for sink in [
        format!(
            "type = \"webhook\"\nurl = \"{}\"\ntoken-file = \"{token}\"",
            server.url("/bot12:hunter2/send?key=hunter2-too")
        ),
        format!("type = \"splunk\"\nurl = \"{}\"\ntoken-file = \"{token}\"", server.url("")),
        format!("type = \"otlp\"\nurl = \"{}\"\ntoken-file = \"{token}\"", server.url("/v1/logs")),
        format!("type = \"elastic\"\nurl = \"{}\"\nuser = \"u\"\npassword-file = \"{token}\"", server.url("")),
        format!("type = \"elastic\"\nurl = \"{}\"\napi-key-file = \"{token}\"", server.url("/items")),
    ] {
        let text = sinks::test(&config(&sink)).unwrap_err();
        assert!(text.contains("40") || text.contains("42"), "{text}");
        assert!(text.contains("\\u{1b}[2J") && !text.contains(char::is_control), "{text:?}");
        assert!(!text.contains('\u{202e}') && text.len() < 4096, "{} bytes: {text:?}", text.len());
        for part in ["hunter2", &data_encoding::BASE64.encode(b"u:hunter2/token+x")] {
            assert!(!text.contains(part), "{part} in {text:?}");
        }
    }
}

#[test]
fn what_goes_wrong_is_kept_as_text_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
    let secret = stub::secret("hunter2");
    let sink = format!(
        "name = \"a\"\ntype = \"otlp\"\nurl = \"{}\"\ntoken-file = \"{}\"",
        echo().url("/v1/logs"),
        secret.path().display()
    );
    let sinks = Sinks::start(&configs(&[sink]), journal.spool());
    let error = || Cursor::load(journal.path(), "a").unwrap().and_then(|cursor| cursor.error);
    wait("the sink to begin", PATIENCE, || Cursor::load(journal.path(), "a").unwrap().is_some());
    append(&journal, 0..1);
    wait("a failure", PATIENCE, || error().is_some());
    let error = error().unwrap();
    assert!(!error.contains(char::is_control) && !error.contains("hunter2") && error.len() < 4096, "{error:?}");
    drop(sinks);
    journal.close().unwrap();
}

#[test]
fn no_answer_makes_the_guard_go_elsewhere_or_wait_or_read_without_end() {
    let secret = stub::secret("hunter2");
    let (elsewhere, asked) = server(|stream| _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let test = |address: SocketAddr| {
        let token = secret.path().display();
        let sink = config(&format!("type = \"webhook\"\nurl = \"http://{address}/\"\ntoken-file = \"{token}\""));
        soon("a test", move || sinks::test(&sink))
    };
    for status in [301, 302, 303, 307, 308] {
        let head = format!("HTTP/1.1 {status} X\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n");
        let (address, _) = server(move |stream| _ = stream.write_all(head.as_bytes()));
        assert!(test(address).unwrap_err().contains(&status.to_string()));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "the token went elsewhere");
    let (address, _) = server(|stream| flood(stream, "HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"));
    assert!(test(address).is_err());
    let (address, _) =
        server(|stream| flood(stream, "HTTP/1.1 500 X\r\nContent-Length: 9999999999\r\n\r\n", "and more\r\n"));
    assert!(test(address).unwrap_err().contains("500"));
}

#[test]
fn a_broker_that_announces_a_packet_of_a_quarter_gigabyte_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // A PUBLISH with the largest length that there is.
        stream.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f]).unwrap();
        thread::sleep(PATIENCE);
    });
    let sink = config(&format!("type = \"mqtt\"\nserver = \"{address}\"\ntransport = \"tcp\""));
    let text = soon("a test", move || sinks::test(&sink)).unwrap_err();
    assert!(!text.contains("does not answer"), "{text}");
}

#[test]
fn a_name_is_no_mention_and_no_link_in_slack() {
    let server = stub::Server::start(|request| (400, String::from_utf8_lossy(&request.body).into_owned()));
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
    let sink = format!(
        "name = \"a\"\ntype = \"webhook\"\nbody = \"slack\"\nfrom = \"beginning\"\nurl = \"{}\"",
        server.url("/")
    );
    let message = "open of /srv/<!channel> & <https://attacker.example|settings>: denied";
    journal.append(json!({ "severity_id": 4, "message": message, "unmapped": { "verdict": "deny" } }), Durability::Now);
    let sinks = Sinks::start(&configs(&[sink]), journal.spool());
    let dead = journal.path().join("sinks/a.dead.jsonl");
    wait("the answer", PATIENCE, || fs::read_to_string(&dead).is_ok_and(|text| text.ends_with('\n')));
    let text = fs::read_to_string(&dead).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let said = line["why"].as_str().unwrap();
    assert!(said.contains("/srv/&lt;!channel&gt; &amp; &lt;https://attacker.example|settings&gt;: denied"), "{said}");
    drop(sinks);
    journal.close().unwrap();
}

/// A journal of a few lines whose next segment somebody else has made.
fn prepared(make: impl Fn(&Path)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(directory.path(), Limits::default()).unwrap();
    append(&journal, 0..3);
    journal.close().unwrap();
    make(directory.path());
    directory
}

/// Verifies it, reads it, and goes on with it, each of which has to come to an end.
fn withstands(what: &str, directory: &tempfile::TempDir) {
    let path = directory.path().to_owned();
    let report = soon(what, move || verify(&path, &Request::default()));
    assert!(report.is_err() || report.unwrap().worst() > Some(Kind::Unsigned), "{what}: nothing was found");
    let path = directory.path().to_owned();
    let count = soon(what, move || {
        let (mut reader, mut line, mut count) = (Reader::new(&path, Position::default()), Vec::new(), 0);
        while let Ok(Some(_)) = reader.next(&mut line) {
            count += 1;
        }
        count
    });
    assert!(count >= 4, "{what}: {count} lines");
    let path = directory.path().to_owned();
    let _ = soon(what, move || Journal::open(&path, Limits::default()).map(drop));
}

#[test]
fn whatever_lies_in_place_of_a_segment_nobody_hangs_or_eats_the_memory() {
    let fifo = |path: &Path| {
        let made = Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    };
    let sparse = |path: &Path| fs::File::create(path).unwrap().set_len(1 << 42).unwrap();
    // A frame of RFC 8878 with nothing but blocks of 128 KiB of one letter, four bytes each.
    let bomb = |path: &Path| {
        let (head, block) = ([0x28, 0xb5, 0x2f, 0xfd, 0, 0x38], ((128 << 10) << 3 | 2_u32).to_le_bytes());
        let block = [block[0], block[1], block[2], b'x'];
        fs::write(path, [&head[..], &block.repeat(20 << 13)].concat()).unwrap();
    };
    withstands("a fifo", &prepared(|path| fifo(&segment::plain(path, 2))));
    withstands("a compressed fifo", &prepared(|path| fifo(&segment::compressed(path, 2))));
    withstands("a device", &prepared(|path| symlink("/dev/zero", segment::plain(path, 2)).unwrap()));
    withstands("a hole of 4 TiB", &prepared(|path| sparse(&segment::plain(path, 2))));
    withstands("a directory", &prepared(|path| fs::create_dir(segment::plain(path, 2)).unwrap()));
    withstands("20 GiB in a few", &prepared(|path| bomb(&segment::compressed(path, 2))));
    withstands(
        "a segment far ahead",
        &prepared(|path| fs::write(segment::plain(path, 999_999_999_999), "x\n").unwrap()),
    );
    withstands(
        "checkpoints without end",
        &prepared(|path| {
            fs::remove_file(segment::checkpoints(path, 1)).unwrap();
            symlink("/dev/zero", segment::checkpoints(path, 1)).unwrap();
        }),
    );
    withstands(
        "a fifo for checkpoints",
        &prepared(|path| {
            fs::remove_file(segment::checkpoints(path, 1)).unwrap();
            fifo(&segment::checkpoints(path, 1));
        }),
    );
    withstands(
        "keys without end",
        &prepared(|path| {
            fs::remove_file(path.join("keys.jsonl")).unwrap();
            symlink("/dev/zero", path.join("keys.jsonl")).unwrap();
        }),
    );
}

#[test]
fn a_time_that_no_calendar_has_is_no_end_of_who_reads_it() {
    let directory = prepared(|path| {
        let file = segment::plain(path, 1);
        let line = json!({ "time": i64::MAX, "start_time": i64::MAX, "class_uid": 2004, "activity_name": "Close", "message": "m",
            "metadata": { "sequence": 9, "uid": "x" }, "unmapped": { "verdict": "deny", "rule": "r", "incident": "i" } });
        let mut text = fs::read_to_string(&file).unwrap();
        let early = line.to_string().replace(&i64::MAX.to_string(), &i64::MIN.to_string());
        writeln!(text, "{line}\n{early}").unwrap();
        fs::write(file, text).unwrap();
    });
    for more in [
        &["query"][..],
        &["query", "--json"],
        &["export", "--format", "ecs"],
        &["export", "--format", "cef"],
        &["verify"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowwarden"));
        command.arg("journal").arg(more[0]).arg("--journal").arg(directory.path()).args(&more[1..]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked") && output.status.code().is_some_and(|code| code <= 6), "{more:?}: {said}");
    }
    // And of sinks, which have dates too.
    let (server, dates) = stub::Server::with(0, |dates, request| {
        *dates += usize::from(String::from_utf8_lossy(&request.body).contains("startsAt"));
        (200, String::new())
    });
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    let mut journal = Journal::open(&directory.path().join("other"), Limits::default()).unwrap();
    for time in [i64::MAX, i64::MIN] {
        journal.append(
            json!({ "time": time, "class_uid": 2004, "activity_name": "Close", "severity_id": 4 }),
            Durability::Now,
        );
    }
    let both = [
        format!(
            "name = \"a\"\ntype = \"webhook\"\nbody = \"alertmanager\"\nfrom = \"beginning\"\nurl = \"{}\"",
            server.url("/")
        ),
        format!("name = \"b\"\ntype = \"syslog\"\ntransport = \"udp\"\nfrom = \"beginning\"\nserver = \"{address}\""),
    ];
    let sinks = Sinks::start(&configs(&both), journal.spool());
    wait("alerts", SOON, || *dates.lock().unwrap() > 0);
    assert!(socket.recv(&mut [0; 1000]).unwrap() > 0);
    drop(sinks);
    journal.close().unwrap();
}

#[test]
fn a_clock_that_jumps_takes_no_more_than_a_segment_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut journal = Journal::open(path, SMALL).unwrap();
    append(&journal, 0..60);
    journal.close().unwrap();
    let segments = segment::list(path).unwrap();
    assert!(segments.len() > 6, "{}", segments.len());
    // As if the clock had gone on by ten years.
    let then = SystemTime::now() - Duration::from_hours(10 * 365 * 24);
    for found in &segments {
        fs::File::options().append(true).open(&found.path).unwrap().set_modified(then).unwrap();
    }
    let old = Limits { max_age: Some(Duration::from_hours(24)), segment_bytes: 1 << 20, ..SMALL };
    let mut journal = Journal::open(path, old).unwrap();
    append(&journal, 60..63);
    journal.close().unwrap();
    let left = segment::list(path).unwrap();
    // And one more for the segment that was closed meanwhile, if it was.
    let gone = segments.len() - left.len();
    assert!((1..=2).contains(&gone), "{gone} of {}", segments.len());
    let report = verify(path, &Request::default()).unwrap();
    assert_eq!((report.worst(), report.removed), (None, gone as u64), "{:#?}", report.faults);
}

#[test]
fn thousands_of_segments_are_read_in_one_go() {
    const COUNT: u64 = 3000;
    let directory = tempfile::tempdir().unwrap();
    for number in 1..=COUNT {
        fs::write(segment::plain(directory.path(), number), "{}\n").unwrap();
        fs::write(segment::checkpoints(directory.path(), number), "").unwrap();
    }
    let path = directory.path().to_owned();
    let count = soon("reading", move || {
        let (mut reader, mut line, mut count) = (Reader::new(&path, Position::default()), Vec::new(), 0);
        while reader.next(&mut line).unwrap().is_some() {
            count += 1;
        }
        count
    });
    assert_eq!(count, COUNT);
}
