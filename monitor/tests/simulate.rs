//! `flowwarden simulate` over a journal of a million events: it takes seconds, and no more memory than over a short one.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../benches/common/mod.rs"]
#[expect(dead_code, reason = "the benchmarks use the rest")]
mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use monitor::journal::{Durability, Journal, Limits};
use serde_json::Value;

/// Events that may be on their way to the disk, so that the queue takes them all.
const ON_THE_WAY: u64 = 800;
const MOST_TIME: Duration = Duration::from_secs(10);
/// Memory, in KiB, that reading may take, and that a journal of many segments may take more than one of a few.
const MOST_KIB: u64 = 40 << 10;
const MOST_MORE_KIB: u64 = 4 << 10;
/// Has an opinion about every event of the journal, the one that the journal's policy had.
const POLICY: &str = "version = 1\n[[instance]]\nname = \"plant-a\"\nselect = [{ uid = 990 }]\n\
    user-dir = \"/home/nodered/.node-red\"\n\
    [[instance.files]]\nid = \"settings-js\"\npath = \"projects/**/settings-*\"\naccess = [\"write\"]\nverdict = \"deny\"\n";

/// A journal as a guard leaves it: closed segments compressed.
fn write(directory: &Path, count: u64) {
    let journal = Journal::open(directory, Limits { max_bytes: u64::MAX, ..Limits::default() }).unwrap();
    let tail = journal.tail();
    for number in 0..count {
        while number.saturating_sub(tail.sequence()) > ON_THE_WAY {
            let _ = tail.wait(tail.end(), Duration::from_millis(1));
        }
        journal.append(common::sample(number), Durability::Grouped);
    }
    while tail.sequence() < count {
        let _ = tail.wait(tail.end(), Duration::from_millis(1));
    }
    journal.close().unwrap();
}

/// The report about a journal, how long it took, and how much memory it took at most, in KiB.
fn simulated(policy: &Path, journal: &Path) -> (Value, Duration, u64) {
    let report = journal.with_extension("report");
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowwarden"));
    command.args(["simulate", "--json", "--policy"]).arg(policy).arg("--journal").arg(journal);
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(fs::File::create(&report).unwrap()).spawn().unwrap();
    let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0);
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let now = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        peak = now.unwrap_or(peak);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let time = start.elapsed();
    assert!(ended.success(), "{ended}");
    (serde_json::from_slice(&fs::read(report).unwrap()).unwrap(), time, peak)
}

#[test]
#[ignore = "writes a million events, and its time means nothing beside other work: `cargo test --release -p monitor --test simulate -- --ignored`"]
fn a_million_events_take_seconds_and_no_more_memory_than_fifty_thousand() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    let of = |count: u64| {
        let journal = directory.path().join(count.to_string());
        write(&journal, count);
        let (report, time, peak) = simulated(&policy, &journal);
        println!("{count} events: {:.2} s, {peak} KiB", time.as_secs_f64());
        assert_eq!(report["operations"], count, "{report:#}");
        // As the policy of the journal had it, one by one.
        assert_eq!(report["stopped"][0]["count"], count, "{report:#}");
        assert!(report["changes"].as_array().unwrap().is_empty(), "{report:#}");
        fs::remove_dir_all(&journal).unwrap();
        (time, peak)
    };
    let (_, few) = of(50_000);
    let (time, many) = of(1_000_000);
    assert!(time < MOST_TIME, "{time:?}");
    assert!(many < MOST_KIB && many < few + MOST_MORE_KIB, "{many} KiB, and {few} KiB for fewer");
}
