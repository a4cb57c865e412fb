//! The spool is killed at every system call that changes something on the disk: nothing that was durable is lost, the chain
//! holds, and no sink gets anything twice but what it had in its hands.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
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
use serde_json::{Value, json};
use sinks::{Sinks, cursor::Cursor};

/// Segments of a few lines, of which a few are kept.
const LIMITS: Limits = Limits { segment_bytes: 3 << 10, max_bytes: 8 << 10, max_age: None };
const EVENTS: u64 = 24;
const PATIENCE: Duration = Duration::from_secs(20);
const SINK: &str = "agent";
/// What changes something on the disk, and whether there is a sink meanwhile: of the threads the one that comes to a number
/// first is the one that is killed there, and a sink comes to most of them before who compresses.
const CALLS: [(&str, bool); 14] = [
    ("openat", true),
    ("mkdir", true),
    ("write", true),
    ("write", false),
    ("pwrite64", true),
    ("ftruncate", true),
    ("utimensat", true),
    ("fsync", true),
    ("fsync", false),
    ("fdatasync", true),
    ("rename", true),
    ("rename", false),
    ("unlink", true),
    ("unlink", false),
];
/// What changes something on the disk too: if the spool used one of these, the test would not kill it there.
const OTHERS: &str = "?open,?openat2,?creat,?mkdirat,?mknod,?mknodat,?rmdir,?unlinkat,?renameat,?renameat2,?link,?linkat,?symlink,\
    ?symlinkat,?writev,?pwritev,?pwritev2,?truncate,?fallocate,?copy_file_range,?sendfile,?splice,?chmod,?fchmod,?fchmodat,\
    ?chown,?fchown,?lchown,?fchownat,?setxattr,?fsetxattr,?lsetxattr,?utime,?utimes,?futimesat,?sync,?syncfs,?sync_file_range,\
    ?msync,?io_uring_enter";
/// Fewer kills than this mean that the kills do not work.
const KILLS: u32 = 100;

/// A journal in the directory, and a sink that writes its lines to a file, or none.
fn open(directory: &Path, sink: bool) -> (Journal, Sinks) {
    let journal = Journal::open(&directory.join("journal"), LIMITS).unwrap();
    let file = directory.join("out.json");
    let text = format!(
        "version = 1\n[[sink]]\nname = \"{SINK}\"\ntype = \"file\"\npath = \"{}\"\nfrom = \"beginning\"\n\
         format = \"jsonl\"\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 1 }}]\nuser-dir = \"/u\"\n",
        file.display()
    );
    let configs = parse(&text).unwrap().sinks;
    let sinks = Sinks::start(if sink { &configs } else { &[] }, journal.spool());
    (journal, sinks)
}

/// Waits until the sink has everything.
fn drain(directory: &Path, journal: &Journal) {
    let start = Instant::now();
    let end = journal.tail().end();
    while Cursor::load(&directory.join("journal"), SINK).unwrap().is_none_or(|cursor| cursor.position < end) {
        assert!(start.elapsed() < PATIENCE, "the sink does not come to {end:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What is started and killed: it appends, begins new segments, compresses and removes old ones, and delivers.
#[test]
#[ignore = "the other half of a_spool_that_is_killed_at_any_system_call_loses_nothing"]
fn spool_to_be_killed() {
    let Some(directory) = std::env::var_os("FLOWWARDEN_TEST_SPOOL") else { return };
    let directory = Path::new(&directory);
    let sink = std::env::var_os("FLOWWARDEN_TEST_SINK").is_some();
    let (mut journal, sinks) = open(directory, sink);
    let tail = journal.tail();
    for number in 0..EVENTS {
        let event = json!({ "message": format!("event {number}"), "number": number, "filler": "x".repeat(200) });
        let seen = tail.end();
        journal.append(event, if number % 3 == 0 { Durability::Now } else { Durability::Grouped });
        if number % 3 == 0 {
            let end = tail.wait(seen, PATIENCE);
            println!("{} {}", end.segment, end.offset);
        }
        if sink && number % 10 == 0 {
            drain(directory, &journal);
        }
    }
    if sink {
        drain(directory, &journal);
    }
    drop(sinks);
    journal.close().unwrap();
}

/// Runs the spool under strace with these options.
fn run(directory: &Path, sink: bool, options: &[&str]) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]).args(options).arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "spool_to_be_killed", "--ignored", "--nocapture", "--test-threads=1"]);
    if sink {
        strace.env("FLOWWARDEN_TEST_SINK", "1");
    }
    let output = strace.env("FLOWWARDEN_TEST_SPOOL", directory).stderr(Stdio::null()).output();
    output.expect("strace is missing: type `cargo xtask setup --tests`")
}

/// Runs the spool, and kills it at the `when`th `call` of one of its threads. Answers whether it came to that, and what it
/// had said to be durable.
fn crash(directory: &Path, (call, sink): (&str, bool), when: u32) -> (bool, Option<Position>) {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={when}"));
    let output = run(directory, sink, &["-o", "/dev/null", "-e", &trace, "-e", &inject]);
    let said = String::from_utf8_lossy(&output.stdout);
    let mut durable = said.lines().filter_map(|line| {
        let (segment, offset) = line.split_once(' ')?;
        Some(Position { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
    });
    (!output.status.success(), durable.next_back())
}

#[test]
fn the_spool_changes_the_disk_by_no_other_call_than_those_that_it_is_killed_at() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let options = ["-o", log.to_str().unwrap(), "-e", &format!("trace={OTHERS}")];
    assert!(run(&directory.path().join("spool"), true, &options).status.success());
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
}

/// The numbers of the events in lines, in order.
fn numbers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<u64> {
    lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()?["number"].as_u64()).collect()
}

/// The next start after a crash, and what has to be true then.
fn recovers(directory: &Path, durable: Option<Position>, what: &str) {
    let path = directory.join("journal");
    let delivered = Cursor::load(&path, SINK).unwrap().unwrap_or_default().sequence;
    let (mut journal, sinks) = open(directory, true);
    journal.append(json!({ "message": "afterwards", "number": EVENTS }), Durability::Now);
    let seen = journal.tail().end();
    let _ = journal.tail().wait(seen, PATIENCE);
    drain(directory, &journal);
    drop(sinks);
    journal.close().unwrap();

    let report = verify(&path, &Request::default()).unwrap();
    assert_eq!(report.worst(), None, "{what}: {:#?}", report.faults);
    let mut reader = Reader::new(&path, Position::default());
    let (mut line, mut lines, mut reached) = (Vec::new(), Vec::new(), durable.is_none());
    while reader.next(&mut line).unwrap().is_some() {
        reached |= durable.is_some_and(|durable| reader.position() >= durable);
        lines.push(line.clone());
    }
    assert!(reached, "{what}: the journal does not reach {durable:?}");
    let kept = numbers(lines.iter().map(Vec::as_slice));
    let first = kept.first().copied().unwrap_or_default();
    let before = kept.len().saturating_sub(1) as u64;
    let wanted: Vec<_> = (first..first + before).chain([EVENTS]).collect();
    assert_eq!(kept, wanted, "{what}: events are missing in the middle");

    let text = fs::read(directory.join("out.json")).unwrap();
    let mut arrived = BTreeMap::<u64, u32>::new();
    for number in numbers(text.split(|&byte| byte == b'\n')) {
        *arrived.entry(number).or_default() += 1;
    }
    for line in &lines {
        let event: Value = serde_json::from_slice(line).unwrap();
        let (Some(number), Some(sequence)) = (event["number"].as_u64(), event["metadata"]["sequence"].as_u64()) else {
            continue;
        };
        let times = arrived.get(&number).copied().unwrap_or_default();
        let most = if sequence <= delivered { 1 } else { 2 };
        assert!((1..=most).contains(&times), "{what}: event {number} has arrived {times} times, and {most} at most");
    }
    for entry in fs::read_dir(&path).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
        assert!(ending != Some("tmp"), "{what}: {name} is left");
    }
    assert!(segment::list(&path).unwrap().len() < 20, "{what}: nothing is removed any more");
}

#[test]
fn a_spool_that_is_killed_at_any_system_call_loses_nothing() {
    let kills = |call: (&str, bool)| -> u32 {
        for when in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let (killed, durable) = crash(directory.path(), call, when);
            recovers(directory.path(), durable, &format!("{call:?} {when}"));
            if !killed {
                return when - 1;
            }
        }
        0
    };
    // Two at a time: most of it is waiting for the disk.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut counts = Vec::new();
        while let Some(&call) = CALLS.get(next.fetch_add(1, Ordering::Relaxed)) {
            counts.push((call, kills(call)));
        }
        counts
    };
    let counts = thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    println!("{counts:?}");
    assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
    assert!(counts.iter().map(|(_, count)| count).sum::<u32>() > KILLS, "{counts:?}");
}
