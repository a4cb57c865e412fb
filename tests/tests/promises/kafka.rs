//! Kafka: every event is a record under its id, in order, also when the broker is killed meanwhile.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    guard::Guard,
    receiver::{Certificates, kafka::Kafka},
    scene::Scene,
    wait,
};

use crate::{
    brokers::{alerts, tls},
    sinks::{EVENTS, policy, read, status},
};

#[test]
fn a_topic_of_kafka_has_every_event_under_its_id_after_its_broker_was_killed() -> Result<()> {
    let scene = Scene::empty()?;
    let certificates = Certificates::new()?;
    let mut broker = Kafka::start(&certificates)?;
    let sink = format!(
        "name = \"fleet\"\ntype = \"kafka\"\nserver = \"{}\"\n{}\nown-events = false\nevents = \"single\"",
        broker.address(),
        tls(&certificates)
    );
    let guard = Guard::start(Some(&policy(&scene, &["before", "during"])?.sink(&sink)), &scene.cgroup, &[])?;
    let say = |broker: &Kafka| format!("{}\n{}", status(&guard).unwrap_or_default(), broker.log());
    let told = |broker: &Kafka, why: &str| {
        wait::until(why, wait::SOON, || Ok(status(&guard)?.contains(why).then_some(()))).with_context(|| say(broker))
    };
    // The records of a time, once all that are wanted are there.
    let all = |broker: &Kafka, wanted: &BTreeSet<String>| {
        let found = wait::until("every event", wait::SOON, || {
            let records = broker.records()?;
            let keys: BTreeSet<_> = records.iter().map(|record| record.key.clone()).collect();
            Ok(keys.is_superset(wanted).then_some(records))
        });
        found.with_context(|| say(broker))
    };
    let seen = |rule: &str| wait::until(rule, wait::SOON, || Ok((alerts(&guard)?.len() >= EVENTS).then_some(())));

    read(&scene, "before", EVENTS)?;
    told(&broker, "there is no topic flowwarden")?;
    broker.make_topic(4)?;
    seen("before")?;
    let first = alerts(&guard)?;
    let records = all(&broker, &first)?;
    for record in &records {
        ensure!(record.value.pointer("/metadata/uid").is_some_and(|uid| *uid == *record.key), "{record:#?}");
        ensure!(record.partition == records[0].partition, "{record:#?}");
    }
    let numbers: Vec<_> =
        records.iter().filter_map(|record| record.value.pointer("/metadata/sequence")?.as_u64()).collect();
    ensure!(numbers.is_sorted() && numbers.len() == records.len(), "{numbers:?}");

    broker.kill()?;
    read(&scene, "during", EVENTS)?;
    told(&broker, "efused")?;
    broker.restart()?;
    // It has lost what it had, and the topic.
    broker.make_topic(4)?;
    let second: BTreeSet<_> = alerts(&guard)?.difference(&first).cloned().collect();
    ensure!(second.len() >= EVENTS, "only {} events", second.len());
    all(&broker, &second)?;
    guard.stop().map(drop)
}
