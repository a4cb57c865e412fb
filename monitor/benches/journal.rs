//! How much the journal takes: `cargo bench -p monitor --bench journal [-- DIR]`.
//!
//! Prints figures and judges none. DIR is where the journals are made; what they cost is the cost of that disk.
#![expect(clippy::unwrap_used, reason = "a program for developers")]

mod common;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use common::{rate, sample};
use monitor::journal::{
    Durability, Journal, Limits,
    query::{Filter, Query},
    segment,
    verify::{Request, verify},
};

/// Events that may be on their way to the disk, so that the queue takes them all.
const ON_THE_WAY: u64 = 800;

fn main() {
    let place = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let place = place.map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(place).unwrap();
    let bytes = sample(0).to_string().len();
    println!("an event has about {bytes} bytes");

    let start = Instant::now();
    let count = 200_000;
    let total: usize = (0..count).map(|number| sample(number).to_string().len()).sum();
    rate("rendered and serialised, one thread", count, start.elapsed());
    assert!(total > 0);

    grouped(&directory.path().join("grouped"), 500_000);
    single(&directory.path().join("single"), 5_000);
}

/// Lines in groups of 50 ms; then compressed, verified, read, and opened again.
fn grouped(path: &Path, count: u64) {
    let limits = Limits { max_bytes: u64::MAX, ..Limits::default() };
    let events: Vec<_> = (0..1000).map(sample).collect();
    let copying = copying(&events, count);
    let mut journal = Journal::open(path, limits).unwrap();
    let tail = journal.tail();
    let (start, before) = (Instant::now(), cpu_time());
    for number in 0..count {
        if number % 100 == 0 {
            while number.saturating_sub(tail.sequence()) > ON_THE_WAY {
                let _ = tail.wait(tail.end(), Duration::from_millis(1));
            }
        }
        let event = &events[usize::try_from(number % 1000).unwrap()];
        journal.append(event.clone(), Durability::Grouped);
    }
    while tail.sequence() < count {
        let _ = tail.wait(tail.end(), Duration::from_millis(1));
    }
    let (time, cpu) = (start.elapsed(), cpu_time().saturating_sub(before));
    rate("durable, in groups", count, time);
    rate("  for each second of processor time, all threads", count, cpu);
    rate("  the same without copying the events for it", count, cpu.saturating_sub(copying));

    let start = Instant::now();
    while segment::list(path).unwrap().iter().filter(|found| !found.compressed).count() > 1 {
        thread::sleep(Duration::from_millis(10));
    }
    println!("{:>12.2} s more until all closed segments were compressed", start.elapsed().as_secs_f64());
    journal.close().unwrap();
    let segments = segment::list(path).unwrap();
    let closed: Vec<_> = segments.iter().filter(|found| found.compressed).collect();
    let bytes: u64 = closed.iter().map(|found| found.size_and_time().unwrap().0).sum();
    let lines = tail.sequence() * closed.len() as u64 / segments.len() as u64;
    println!("{:>12.1} bytes for each event on the disk, compressed", ratio(bytes, lines));

    let start = Instant::now();
    let report = verify(path, &Request::default()).unwrap();
    assert_eq!(report.worst(), None, "{:#?}", report.faults);
    rate("verified", report.lines, start.elapsed());

    let start = Instant::now();
    let mut query = Query::new(path, Filter { rules: vec!["no-such-rule".into()], ..Filter::default() }).unwrap();
    assert!(query.next_event().unwrap().is_none());
    rate("searched", report.lines, start.elapsed());

    let start = Instant::now();
    drop(Journal::open(path, limits).unwrap());
    println!("{:>12.3} s to open and close it again", start.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{:>12} of memory at most, the benchmark itself included", peak.trim());
}

/// Processor time for as many copies of events: the journal takes them and keeps none.
fn copying(events: &[serde_json::Value], count: u64) -> Duration {
    let mut time = Duration::ZERO;
    for _ in 0..count / events.len() as u64 {
        let before = cpu_time();
        let copies = std::hint::black_box(events.to_vec());
        time += cpu_time().saturating_sub(before);
        drop(copies);
    }
    time
}

/// Each line on the disk before the next.
fn single(path: &Path, count: u64) {
    let journal = Journal::open(path, Limits::default()).unwrap();
    let tail = journal.tail();
    let start = Instant::now();
    for number in 0..count {
        let seen = tail.end();
        journal.append(sample(number), Durability::Now);
        while tail.wait(seen, Duration::from_secs(1)) == seen {}
    }
    rate("durable, one by one", count, start.elapsed());
}

fn ratio(of: u64, to: u64) -> f64 {
    let float = |number| f64::from(u32::try_from(number).unwrap());
    float(of) / float(to)
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}
