//! Kafka: every event is a record under its id, in order, also when the broker is killed meanwhile, and clients that have to log in
//! does.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    guard::Guard,
    receiver::{
        Certificates,
        kafka::{self, Entrance, Kafka},
    },
    scene::Scene,
    wait,
};

use crate::{
    brokers::{alerts, password, tls},
    sinks::{EVENTS, policy, read, status, test_sink},
};

#[test]
fn a_topic_of_kafka_has_every_event_under_its_id_after_its_broker_was_killed() -> Result<()> {
    let scene = Scene::empty()?;
    let certificates = Certificates::new()?;
    let mut broker = Kafka::start(&certificates, Entrance::Certificate)?;
    let sink = format!(
        "name = \"fleet\"\ntype = \"kafka\"\nserver = \"{}\"\n{}\nown-events = false\nevents = \"single\"",
        broker.address(),
        tls(&certificates)
    );
    let guard = Guard::start(Some(&policy(&scene, &["before", "during"])?.sink(&sink)), &scene.cgroup, &[])?;
    let say = |broker: &Kafka| format!("{}\n{}", status(&guard).unwrap_or_default(), broker.log());
    let reports = |broker: &Kafka, why: &str| {
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
    reports(&broker, "there is no topic flowwarden")?;
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
    reports(&broker, "efused")?;
    broker.restart()?;
    // It has lost what it had, and the topic.
    broker.make_topic(4)?;
    let second: BTreeSet<_> = alerts(&guard)?.difference(&first).cloned().collect();
    ensure!(second.len() >= EVENTS, "only {} events", second.len());
    all(&broker, &second)?;
    guard.stop().map(drop)
}

#[test]
fn a_broker_that_wants_a_login_gets_the_right_one_and_a_wrong_one_is_told() -> Result<()> {
    let (certificates, directory) = (Certificates::new()?, Guard::new_directory()?);
    let file = directory.path().join("policy.toml");
    for (mechanism, other) in
        [("PLAIN", "scram-sha-512"), ("SCRAM-SHA-256", "plain"), ("SCRAM-SHA-512", "scram-sha-256")]
    {
        let broker = Kafka::start(&certificates, Entrance::Login(mechanism))?;
        broker.make_topic(1)?;
        let test = |login: Option<(&str, &str, &str)>| -> Result<(bool, String)> {
            let login = match login {
                None => String::new(),
                Some((mechanism, user, word)) => {
                    let secret = password(directory.path(), word)?;
                    format!("mechanism = \"{mechanism}\"\nuser = \"{user}\"\npassword-file = \"{secret}\"")
                }
            };
            let ca = certificates.path("ca.pem");
            let sink = format!(
                "name = \"siem\"\ntype = \"kafka\"\nserver = \"{}\"\nca = \"{}\"\n{login}",
                broker.address(),
                ca.display()
            );
            let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 64123 }]\nuser-dir = \"/tmp\"";
            fs::write(&file, format!("version = 1\n[[sink]]\n{sink}\n{rest}\n"))?;
            test_sink(&file)
        };
        let ours = mechanism.to_lowercase();
        for (wrong, why) in [
            (None, "siem"),
            (Some((ours.as_str(), kafka::USER, "wrong")), "the login is refused"),
            (Some((ours.as_str(), "other", kafka::PASSWORD)), "the login is refused"),
            (Some((other, kafka::USER, kafka::PASSWORD)), "the login is refused"),
        ] {
            let (good, said) = test(wrong)?;
            ensure!(!good && said.contains(why), "{mechanism}: {wrong:?}: {said}\n{}", broker.log());
            ensure!(!said.contains(kafka::PASSWORD), "{said}");
        }
        ensure!(broker.records()?.is_empty());
        let (good, said) = test(Some((&ours, kafka::USER, kafka::PASSWORD)))?;
        ensure!(good, "{mechanism}: {said}\n{}", broker.log());
        let records = broker.records()?;
        ensure!(records.len() == 1 && records[0].key.starts_with("test-"), "{records:#?}");
    }
    Ok(())
}
