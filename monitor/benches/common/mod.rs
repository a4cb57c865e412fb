//! What the benchmarks share.

use std::time::Duration;

use monitor::{
    journal::{console, ocsf},
    pipeline::{
        decode::Record,
        enrich::{Enriched, Parent, Program},
    },
};
use monitor_common::{
    Verdict,
    event::{Event, Hook},
    verdict::Sensor,
};

/// Prints how many events there were in a second.
pub(crate) fn rate(what: &str, count: u64, time: Duration) {
    println!("{:>12.0} events/s {what}", f64::from(u32::try_from(count).unwrap()) / time.as_secs_f64());
}

/// An event like those of a Node-RED that is attacked: names, numbers and times differ.
pub(crate) fn sample(number: u64) -> serde_json::Value {
    let small = u32::try_from(number % 50_000).unwrap();
    let event = Event {
        tgid: 1000 + small,
        tid: 1000 + small,
        uid: 990,
        euid: 990,
        time_ns: 1_000_000_000 + number * 1_234_567,
        sequence: number,
        start_ns: 99_999 + number,
        syscall: 257,
        ino: 1_000_000 + number % 1013,
        dev: 0xfe_0001,
        mode: 0o100_644,
        cgroup: 4711,
        epoch: 3,
        access: 2,
        ..Event::ZERO
    };
    let node = Program {
        path: b"/usr/bin/node".to_vec(),
        argv: b"node-red\0--max-old-space-size=256\0/usr/lib/node_modules/node-red/red.js\0".to_vec(),
    };
    let record = Record {
        event,
        hook: Hook::Open,
        sensor: Sensor::Lsm,
        verdict: Verdict::Deny,
        wanted: Verdict::Deny,
        path: format!("/home/nodered/.node-red/projects/line-{}/settings-{}.js", number % 17, number % 1013)
            .into_bytes(),
        other: None,
        text: Vec::new(),
    };
    let parent = Parent { tgid: 1, name: "systemd".into(), program: None };
    let enriched = Enriched {
        record,
        instance: "plant-a".into(),
        rule: "settings-js".into(),
        sentence: "write, create, delete, rename, link or attr of settings.js: deny".into(),
        techniques: vec!["T1565.001".into()],
        maintenance: None,
        time_ms: 1_790_000_000_000 + i64::try_from(number).unwrap(),
        name: "node".into(),
        program: Some(node),
        parents: vec![parent],
        user: Some("nodered".into()),
        cgroup: Some("/system.slice/nodered.service".into()),
        unit: Some("nodered.service".into()),
        hostname: None,
        tunnel: None,
        container: None,
    };
    ocsf::render(&enriched, &console::sentence(&enriched))
}
