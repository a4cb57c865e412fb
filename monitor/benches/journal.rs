//! How much the journal takes: `cargo bench -p monitor --bench journal [-- DIR]`.
//!
//! Prints figures and judges none. DIR is where the journals are made; what they cost is the cost of that disk.
#![expect(clippy::unwrap_used, reason = "a program for developers")]

mod common;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use common::{Plant, fill, rate};
use journal::{
    Journal, Limits,
    chain::Body,
    query::{Filter, Query},
    segment,
    verify::{Request, verify},
};
use monitor::{
    pipeline::Pipeline,
    record::{activity::Activity, decode::decode, sentence},
};
use monitor_common::Verdict;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

fn main() {
    let place = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let place = place.map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(place).unwrap();
    let here = |name: &str| directory.path().join(name);

    rendered(&here("cgroup-a"), 200_000);
    // Every thread that is made from here on stays there, too.
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    sched_setaffinity(None, &one).unwrap();
    grouped(&here("grouped"), Plant::new(&here("cgroup-b")), 500_000);
    disk_alone(&here("disk"), 5_000);
    single(&here("single"), Plant::new(&here("cgroup-c")), 5_000);
}

/// What an event costs before it is in the journal.
fn rendered(cgroup: &Path, count: u64) {
    let mut plant = Plant::new(cgroup);
    let mut enricher = plant.enricher();
    let mut enrich = |record: &Vec<u8>| enricher.enrich(decode(record).unwrap(), &plant);
    let events: Vec<_> = plant.records().iter().map(&mut enrich).collect();
    let start = Instant::now();
    for event in events.iter().cycle().take(usize::try_from(count).unwrap()) {
        let sentence = sentence::sentence(event);
        std::hint::black_box(Body::from(&Activity::new(event, &sentence)));
    }
    rate("rendered and serialised", count, start.elapsed());
}

/// From the kernel's bytes to lines in groups of 50 ms; then compressed, verified, read, and opened again.
fn grouped(path: &Path, mut plant: Plant, count: u64) {
    let limits = Limits { max_bytes: u64::MAX, ..Limits::default() };
    let records = plant.records();
    let journal = Journal::open(path, limits).unwrap();
    let tail = journal.tail();
    let (start, before) = (Instant::now(), cpu_time());
    let mut pipeline = fill(journal, &mut plant, &records, count);
    let (time, cpu) = (start.elapsed(), cpu_time().saturating_sub(before));
    rate("from the kernel's bytes to the disk, in groups, all threads on one core", count, time);
    rate("  for each second of processor time, without compression", count, cpu);

    let start = Instant::now();
    while segment::list(path).unwrap().iter().filter(|found| !found.compressed).count() > 1 {
        thread::sleep(Duration::from_millis(10));
    }
    println!("{:>12.2} s more until all closed segments were compressed", start.elapsed().as_secs_f64());
    pipeline.close().unwrap();
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
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{:>12} of memory at most, the benchmark itself included", peak.trim());
}

/// What the disk takes: as many bytes as a line has, each time on the disk before the next.
fn disk_alone(path: &Path, count: u64) {
    let file = File::create(path).unwrap();
    let line = [b'x'; 1800];
    let start = Instant::now();
    for number in 0..count {
        file.write_all_at(&line, number * 1800).unwrap();
        file.sync_data().unwrap();
    }
    rate("one by one, the disk alone", count, start.elapsed());
}

/// Each line on the disk before the next.
fn single(path: &Path, mut plant: Plant, count: u64) {
    let journal = Journal::open(path, Limits::default()).unwrap();
    let tail = journal.tail();
    let mut pipeline = Pipeline::new(plant.enricher(), journal);
    let start = Instant::now();
    for number in 0..count {
        let seen = tail.sequence();
        pipeline.record(&plant.record(number, Verdict::Deny), &plant).unwrap();
        while tail.sequence() == seen {
            let _ = tail.wait(tail.end(), Duration::from_secs(1));
        }
    }
    rate("durable, one by one", count, start.elapsed());
}

fn ratio(of: u64, to: u64) -> f64 {
    let float = |number| f64::from(u32::try_from(number).unwrap());
    float(of) / float(to)
}

/// Processor time of this process, without what closed segments are compressed in: that is done with what is left.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let all = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap());
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let compressing =
        threads.filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name == "compress\n"));
    // The first number is the time on a processor, in nanoseconds (Documentation/scheduler/sched-stats.rst).
    let time_of = |thread: PathBuf| {
        let text = fs::read_to_string(thread.join("schedstat")).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    all.saturating_sub(compressing.map(time_of).sum())
}
