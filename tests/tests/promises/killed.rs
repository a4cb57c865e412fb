//! A guard is killed while it delivers to real receivers: each has every event, and of each kill a batch at most comes again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    flows::js,
    guard::Guard,
    receiver::{
        Certificates, Software, Syslog, Transport,
        journald::Journald,
        kafka::{Entrance, Kafka},
        mosquitto::{self, Mosquitto},
        nats::{self, Nats},
    },
    scene::Scene,
    wait,
};
use serde_json::Value;

use crate::{
    brokers::{alerts, password, tls},
    sinks::{policy, status},
};

const KILLS: u64 = 3;
const KINDS: [&str; 5] = ["mqtt", "nats", "kafka", "syslog", "journald"];

/// A kill, by the numbers of lines.
struct Kill {
    /// Where each sink was.
    places: BTreeMap<&'static str, u64>,
    /// The last line of the journal.
    last: u64,
}

impl Kill {
    /// Kills the guard, and looks at what it has left.
    fn of(guard: &mut Guard) -> Result<Self> {
        guard.kill()?;
        let place = |kind: &'static str| -> Result<_> {
            // One that had not begun yet has no place.
            let text = fs::read(guard.journal_directory().join(format!("sinks/{kind}.cursor"))).unwrap_or_default();
            let cursor: Value = serde_json::from_slice(&text).unwrap_or_default();
            Ok((kind, cursor["sequence"].as_u64().unwrap_or_default()))
        };
        let last = guard.journal()?.last().and_then(|record| record.number("/metadata/sequence"));
        Ok(Self { places: KINDS.into_iter().map(place).collect::<Result<_>>()?, last: last.unwrap_or_default() })
    }

    /// Whether a sink may have had an event in its hands: behind what it had noted down, and before the end.
    fn may_repeat(&self, kind: &str, uid: &str) -> bool {
        let sequence = uid.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        self.places.get(kind).is_some_and(|&place| place < sequence && sequence <= self.last)
    }
}

fn uid(event: &Value) -> Option<String> {
    Some(event.pointer("/metadata/uid")?.as_str()?.to_owned())
}

fn uids<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    texts.filter_map(|text| uid(&serde_json::from_str(text).ok()?)).collect()
}

#[test]
fn a_guard_that_is_killed_says_a_batch_twice_at_most_to_whoever_listens() -> Result<()> {
    let scene = Scene::empty()?;
    let (certificates, directory) = (Certificates::new()?, tempfile::tempdir()?);
    let (mqtt, nats) = (Mosquitto::start(&certificates)?, Nats::start(&certificates)?);
    let kafka = Kafka::start(&certificates, Entrance::Certificate)?;
    let (syslog, journald) = (Syslog::start(Software::Rsyslog, Transport::Tls, &certificates)?, Journald::start()?);
    nats.make_stream()?;
    kafka.make_topic(1)?;
    let secret = password(directory.path(), mosquitto::PASSWORD)?;
    ensure!(mosquitto::PASSWORD == nats::PASSWORD && mosquitto::USER == nats::USER, "one login is enough");
    let login = format!("user = \"{}\"\npassword-file = \"{secret}\"\n", mosquitto::USER);
    let mqtt_keys = format!("server = \"{}\"\n{login}topic = \"plant\"", mqtt.server.address());
    let mut policy = policy(&scene, &["read-me"])?;
    for (kind, keys) in [
        ("mqtt", mqtt_keys),
        ("nats", format!("server = \"{}\"\n{login}", nats.server.address())),
        ("kafka", format!("server = \"{}\"", kafka.address())),
        ("syslog", format!("server = \"{}\"", syslog.server.address())),
        ("journald", format!("socket = \"{}\"", journald.socket().display())),
    ] {
        let tls = if kind == "journald" { String::new() } else { tls(&certificates) };
        // Their batches hold more than all events between two kills: one by one it shows what comes again.
        let rate = if matches!(kind, "mqtt" | "kafka") { "rate = 1000" } else { "" };
        policy = policy.sink(&format!(
            "name = \"{kind}\"\ntype = \"{kind}\"\nevents = \"single\"\nown-events = false\nfrom = \"beginning\"\n{rate}\n{tls}\n{keys}"
        ));
    }
    // What has come to each by now, and how much of it may come again after a kill.
    let arrived = |kind: &str| -> Result<(Vec<String>, u64)> {
        Ok(match kind {
            "mqtt" => {
                let said = mqtt.said();
                (uids(said.iter().filter_map(|line| line.strip_prefix("0 plant/events "))), 1)
            }
            // The stream drops what it has.
            "nats" => (nats.messages()?.iter().filter_map(uid).collect(), 0),
            "kafka" => (kafka.records()?.into_iter().map(|record| record.key).collect(), 1),
            "syslog" => {
                let lines = syslog.received();
                (uids(lines.iter().filter_map(|line| line.get(line.find('{')?..))), 100)
            }
            _ => {
                let entries = journald.entries("FLOWWARDEN_RULE=read-me")?;
                (entries.iter().filter_map(|it| Some(it["FLOWWARDEN_UID"].as_str()?.to_owned())).collect(), 100)
            }
        })
    };

    let file = scene.node_red.home().user_dir().join("read-me");
    let script = format!("const fs = require('fs'); setInterval(() => fs.closeSync(fs.openSync({})), 5);", js(&file));
    let mut reader = scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?;
    let mut guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let mut kills = Vec::new();
    for kill in 0..KILLS {
        thread::sleep(Duration::from_millis(500 + kill * 373));
        kills.push(Kill::of(&mut guard)?);
        guard = guard.start_again(&scene.cgroup, &[])?;
    }
    reader.kill()?;
    reader.wait()?;
    for kind in KINDS {
        let start = Instant::now();
        let wanted = alerts(&guard)?;
        ensure!(wanted.len() > 300, "only {} events", wanted.len());
        let (found, batch) = loop {
            let (found, batch) = arrived(kind)?;
            if wanted.iter().collect::<BTreeSet<_>>().is_subset(&found.iter().collect()) {
                break (found, batch);
            }
            let say = || format!("{}\n{}", status(&guard).unwrap_or_default(), guard.console().text());
            ensure!(start.elapsed() < wait::SOON, "{kind}: {} of {} events\n{}", found.len(), wanted.len(), say());
            thread::sleep(Duration::from_millis(200));
        };
        let mut times = BTreeMap::<_, usize>::new();
        for uid in &found {
            *times.entry(uid).or_default() += 1;
        }
        let again = found.len() - times.len();
        println!("{kind}: {again} of {} came again", wanted.len());
        ensure!(again as u64 <= KILLS * batch, "{kind}: {again} events came again after {KILLS} kills");
        for (uid, count) in times {
            let most = 1 + kills.iter().filter(|kill| kill.may_repeat(kind, uid)).count();
            ensure!(
                count <= most,
                "{kind}: {uid} came {count} times, {most} at most, and was in its hands no more often"
            );
        }
    }
    guard.stop().map(drop)
}
