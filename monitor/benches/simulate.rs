//! How long `flowwarden simulate` takes over a million events, and how much memory: `cargo bench -p monitor --bench simulate`.
//!
//! Prints figures, and fails when a verdict is not that of the journal.
#![expect(clippy::unwrap_used, reason = "a program for developers")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Plant, fill, rate};
use journal::{Journal, Limits};
use serde_json::Value;

/// Has an opinion about every event of the journal, the one that the journal's policy had.
const POLICY: &str = "version = 1\n[[instance]]\nname = \"plant-a\"\nselect = [{ uid = 65534 }]\n\
    user-dir = \"/home/nodered/.node-red\"\n\
    [[instance.files]]\nid = \"settings-js\"\npath = \"projects/**/settings-*\"\naccess = [\"write\"]\nverdict = \"deny\"\n";

fn main() {
    let place = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = tempfile::tempdir_in(place.map_or_else(std::env::temp_dir, PathBuf::from)).unwrap();
    let policy = directory.path().join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    for count in [50_000, 1_000_000] {
        let journal = directory.path().join(count.to_string());
        let mut plant = Plant::new(&directory.path().join(format!("cgroup-{count}")));
        let open = Journal::open(&journal, Limits { max_bytes: u64::MAX, ..Limits::default() }).unwrap();
        let records = plant.records();
        fill(open, &mut plant, &records, count).close().unwrap();
        let (report, time, peak) = simulated(&policy, &journal);
        rate(&format!("simulated, of {count}"), count, time);
        println!("{peak:>12} KiB of memory at most");
        assert_eq!(report["operations"], count, "{report:#}");
        // As the policy of the journal had it, one by one.
        assert_eq!(report["stopped"][0]["count"], count, "{report:#}");
        assert!(report["changes"].as_array().unwrap().is_empty(), "{report:#}");
        fs::remove_dir_all(&journal).unwrap();
    }
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
