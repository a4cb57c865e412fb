//! What an outage of eight hours costs: `cargo bench -p monitor --bench delivery [-- DIR]`, as root.
//!
//! Fifty events a second for eight hours wait in the journal; the guard starts with that; then the receiver comes back. The
//! receiver is a thread that answers as Elasticsearch does. Prints figures, and fails when an event is missing.
#![expect(clippy::unwrap_used, reason = "a program for developers")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Plant, fill, rate};
use journal::{Journal, Limits, segment};
use monitor::config::parse;
use sinks::Sinks;

const EVENTS: u64 = 8 * 3600 * 50;
/// What is delivered: they belong to one incident, which is reported when it begins.
const DELIVERED: u64 = EVENTS + 1;

fn main() {
    let place = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = tempfile::tempdir_in(place.map_or_else(std::env::temp_dir, PathBuf::from)).unwrap();
    let path = directory.path().join("journal");
    let limits = Limits { max_bytes: u64::MAX, ..Limits::default() };
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let policy = format!(
        "version = 1\n[[sink]]\nname = \"siem\"\ntype = \"elastic\"\nurl = \"http://{address}\"\nown-events = false\n\
         [[instance]]\nname = \"a\"\nselect = [{{ uid = 4000000 }}]\nuser-dir = \"/u\"\n"
    );
    let configs = parse(&policy).unwrap().sinks;

    // Before anything is written: only root may bring the guard up.
    assert!(rustix::process::geteuid().is_root(), "the guard is started, which only root may do: run this as root");
    // The outage: the sink is there, its receiver is not.
    let journal = Journal::open(&path, limits).unwrap();
    let sinks = Sinks::start(&configs, journal.spool());
    while !path.join("sinks/siem.cursor").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    let start = Instant::now();
    let mut plant = Plant::new(&directory.path().join("cgroup"));
    let records = plant.records();
    fill(journal, &mut plant, &records, EVENTS).close().unwrap();
    rate("written while the receiver was away", EVENTS, start.elapsed());
    drop(sinks);
    let (plain, compressed) = sizes(&path);
    println!("{plain:>12} MiB of lines, {compressed} MiB on the disk");
    let file = directory.path().join("policy.toml");
    fs::write(&file, &policy).unwrap();
    for (what, journal) in [("nothing", directory.path().join("empty")), ("all of it", path.clone())] {
        let time = guard_start(&file, &journal);
        println!("{:>12.3} s until the guard is ready, with {what} to deliver", time.as_secs_f64());
    }

    // A start with all of it, and the receiver back.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    println!("{:>12} KiB of memory before the start", memory("VmRSS:"));
    let taken = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind(address).unwrap();
    let counter = Arc::clone(&taken);
    thread::spawn(move || listener.incoming().for_each(|stream| _ = serve(stream.unwrap(), &counter)));
    let start = Instant::now();
    let mut journal = Journal::open(&path, limits).unwrap();
    let opened = start.elapsed();
    let sinks = Sinks::start(&configs, journal.spool());
    while taken.load(Ordering::Relaxed) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let (first, at_first) = (start.elapsed(), Instant::now());
    println!(
        "{:>12.3} s to open the journal, {:.3} s until the receiver had its first batch",
        opened.as_secs_f64(),
        first.as_secs_f64()
    );
    let (mut most, mut quarter) = (0, 1);
    let mut last = (0, Instant::now());
    while taken.load(Ordering::Relaxed) < DELIVERED {
        thread::sleep(Duration::from_millis(50));
        most = most.max(memory("VmRSS:"));
        let now = taken.load(Ordering::Relaxed);
        if now >= quarter * DELIVERED / 4 {
            println!("{:>12} KiB of memory after {quarter} quarters", memory("VmRSS:"));
            quarter += 1;
        }
        if now > last.0 {
            last = (now, Instant::now());
        }
        assert!(last.1.elapsed() < Duration::from_mins(1), "{now} of {DELIVERED} events, and no more come");
    }
    rate("drained", DELIVERED, at_first.elapsed());
    println!(
        "{most:>12} KiB of memory at most meanwhile, {} KiB at the very most, receiver included",
        memory("VmHWM:")
    );
    drop(sinks);
    assert_eq!(taken.load(Ordering::Relaxed), DELIVERED, "events came twice");
    journal.close().unwrap();
}

/// Starts the guard, and ends it when it is ready. It watches the sockets of an empty cgroup.
fn guard_start(policy: &Path, journal: &Path) -> Duration {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|mount| mount[2] == "cgroup2").unwrap();
    let cgroup = Path::new(mount[1]).join(format!("flowwarden-bench-{}", std::process::id()));
    fs::create_dir_all(&cgroup).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowwarden"));
    command.arg("run").arg("--config").arg(policy).arg("--journal").arg(journal).arg("--cgroup-root").arg(&cgroup);
    command.arg("--state").arg(policy.with_file_name("state"));
    let start = Instant::now();
    let mut guard = command.stdout(Stdio::piped()).spawn().unwrap();
    let ready = BufReader::new(guard.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ready = ready.map(|line| (line.trim_start().starts_with("ready:"), start.elapsed()));
    let time = ready.skip_while(|(is_ready, _)| !is_ready).map(|(_, time)| time).next();
    end(&mut guard);
    fs::remove_dir(cgroup).unwrap();
    time.unwrap()
}

fn end(guard: &mut Child) {
    let pid = rustix::process::Pid::from_child(guard);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    guard.wait().unwrap();
}

/// MiB of the journal's lines, and of its files.
fn sizes(path: &Path) -> (u64, u64) {
    let (mut plain, mut compressed) = (0, 0);
    for segment in segment::list(path).unwrap() {
        compressed += segment.size_and_time().unwrap().0;
        plain += std::io::copy(&mut segment.open().unwrap(), &mut std::io::sink()).unwrap();
    }
    (plain >> 20, compressed >> 20)
}

/// A figure of this process, in KiB.
fn memory(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Answers that every event was created.
fn serve(stream: TcpStream, taken: &AtomicU64) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while stream.read_line(&mut line).ok()? > 0 && line.trim_end() != "" {
            if let Some(rest) = line.to_lowercase().strip_prefix("content-length: ") {
                length = rest.trim().parse().ok()?;
            }
            line.clear();
        }
        let mut body = Vec::new();
        (&mut stream).take(length).read_to_end(&mut body).ok()?;
        if body.is_empty() {
            return None;
        }
        let mut items = Vec::new();
        for action in body.split(|&byte| byte == b'\n').step_by(2).filter(|line| !line.is_empty()) {
            let action = std::str::from_utf8(action).ok()?;
            let id = action.strip_prefix("{\"create\":{\"_id\":\"")?.split('"').next()?;
            items.push(format!("{{\"create\":{{\"_id\":\"{id}\",\"status\":201}}}}"));
        }
        let said = format!("{{\"items\":[{}]}}", items.join(","));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", said.len());
        stream.get_mut().write_all(format!("{head}{said}").as_bytes()).ok()?;
        taken.fetch_add(items.len() as u64, Ordering::Relaxed);
    }
}
