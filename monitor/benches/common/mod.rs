//! What the benchmarks share.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use journal::Journal;
use monitor::{
    pipeline::Pipeline,
    record::{
        decode::decode,
        enrich::{Enricher, Names, RuleName},
    },
};
use monitor_common::{
    Verdict,
    event::{Ancestor, Event, FLAG_OBSERVED, Hook},
    verdict::Sensor,
};
use zerocopy::IntoBytes as _;

/// Prints how many events there were in a second.
pub(crate) fn rate(what: &str, count: u64, time: Duration) {
    println!("{:>12.0} events/s {what}", f64::from(u32::try_from(count).unwrap()) / time.as_secs_f64());
}

/// A Node-RED that is attacked, as the kernel tells of it.
pub(crate) struct Plant {
    cgroup: u64,
    enricher: Option<Enricher>,
}

const NODE: u32 = 640;

impl Plant {
    /// `directory` becomes the mount of its cgroup.
    pub(crate) fn new(directory: &Path) -> Self {
        let cgroup = directory.join("system.slice/nodered.service");
        fs::create_dir_all(&cgroup).unwrap();
        Self { cgroup: fs::metadata(cgroup).unwrap().ino(), enricher: Some(Enricher::new(directory.to_owned())) }
    }

    /// Knows what runs there. To be taken once.
    pub(crate) fn enricher(&mut self) -> Enricher {
        let mut enricher = self.enricher.take().unwrap();
        let argv = b"node-red\0--max-old-space-size=256\0/usr/lib/node_modules/node-red/red.js\0";
        let exec = Event { hook: Hook::Exec as u8, sensor: Sensor::Tracepoint as u8, tgid: NODE, ..Event::ZERO };
        let record = decode(&bytes(exec, b"node\0bin\0usr\0", argv)).unwrap();
        enricher.observe(&record);
        enricher
    }

    /// Many of them, while the guard only observes.
    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        (0..5000).map(|number| self.record(number, Verdict::Log)).collect()
    }

    /// Somebody opens a file for writing that must not be changed; names, numbers and times differ.
    pub(crate) fn record(&self, number: u64, verdict: Verdict) -> Vec<u8> {
        let name = number % 1013;
        let mut event = Event {
            hook: Hook::Open as u8,
            sensor: Sensor::Lsm as u8,
            verdict: verdict as u8,
            wanted: Verdict::Deny as u8,
            rule: 1,
            tgid: NODE,
            tid: NODE + u32::try_from(number % 11).unwrap(),
            uid: 65_534,
            euid: 65_534,
            time_ns: 1_000_000_000 + number * 1_234_567,
            sequence: number,
            start_ns: 99_999,
            syscall: 257,
            ino: 1_000_000 + name,
            dev: 0xfe_0001,
            mode: 0o100_644,
            open_flags: 0x8_0001,
            cgroup: self.cgroup,
            epoch: 3,
            access: 2,
            flags: if verdict < Verdict::Deny { FLAG_OBSERVED } else { 0 },
            ..Event::ZERO
        };
        event.ancestors[0] = Ancestor { tgid: 1, comm: *b"systemd\0\0\0\0\0\0\0\0\0" };
        let path = format!("settings-{name}.js\0line-{}\0projects\0.node-red\0nodered\0home\0", number % 17);
        bytes(event, path.as_bytes(), b"")
    }
}

/// Events that may be on their way to the disk, so that the queue takes them all.
const ON_THE_WAY: u64 = 3500;

/// Fills a journal from the kernel's bytes, in groups, as fast as the disk takes it, and leaves it when all is there.
/// `records` come again and again. They belong to one incident, which is reported when it begins.
pub(crate) fn fill(journal: Journal, plant: &mut Plant, records: &[Vec<u8>], count: u64) -> Pipeline {
    let tail = journal.tail();
    let begin = tail.sequence();
    let mut pipeline = Pipeline::new(plant.enricher(), journal);
    for (number, record) in (0..count).zip(records.iter().cycle()) {
        if number % 100 == 0 {
            while (begin + number).saturating_sub(tail.sequence()) > ON_THE_WAY {
                let _ = tail.wait(tail.end(), Duration::from_millis(1));
            }
        }
        pipeline.record(record, plant).unwrap();
    }
    while tail.sequence() < begin + count {
        let _ = tail.wait(tail.end(), Duration::from_millis(1));
    }
    pipeline
}

impl Names for Plant {
    fn rule(&self, _: u32, _: u16) -> RuleName {
        RuleName {
            techniques: vec!["T1565.001".into()],
            ..RuleName::new("settings-js", "write, create, delete, rename, link or attr of settings.js: deny")
        }
    }

    fn instance(&self, _: u16) -> String {
        "plant-a".to_owned()
    }
}

fn bytes(mut event: Event, path: &[u8], text: &[u8]) -> Vec<u8> {
    event.path_len = u16::try_from(path.len()).unwrap();
    event.text_len = u16::try_from(text.len()).unwrap();
    [event.as_bytes(), path, text].concat()
}
