//! Brokers and the journal of systemd: what they hold in the end is what the guard's journal holds, also when they are
//! killed meanwhile.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    guard::Guard,
    policy::Policy,
    receiver::{
        Certificates,
        journald::Journald,
        mosquitto::{self, Mosquitto},
        nats::{self, Nats},
    },
    record::Record,
    scene::Scene,
    wait,
};
use serde_json::Value;

use crate::sinks::{EVENTS, a_long_event_holds_nothing_up, ids, policy, read, status};

/// A file with a password that only root can read.
pub(crate) fn password(directory: &Path, password: &str) -> Result<String> {
    let file = directory.join("password");
    fs::write(&file, password)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file.display().to_string())
}

pub(crate) fn tls(certificates: &Certificates) -> String {
    let path = |name| certificates.path(name).display().to_string();
    format!("ca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"", path("ca.pem"), path("client.pem"), path("client.key"))
}

/// The ids of the guard's alerts.
pub(crate) fn alerts(guard: &Guard) -> Result<BTreeSet<String>> {
    Ok(ids(&guard.journal()?.into_iter().filter(Record::is_alert).collect::<Vec<_>>()))
}

/// The ids of events that came by MQTT under a topic.
fn arrived(broker: &Mosquitto, topic: &str) -> BTreeSet<String> {
    let topic = format!("{topic}/events ");
    let said = broker.said();
    let events = said.iter().filter_map(|line| line.split_once(' ')?.1.strip_prefix(topic.as_str()));
    let ids = events.filter_map(|text| {
        let event: Value = serde_json::from_str(text).ok()?;
        Some(event.pointer("/metadata/uid")?.as_str()?.to_owned())
    });
    ids.collect()
}

#[test]
fn an_mqtt_broker_is_killed_and_everybody_knows_whether_the_guard_is_there() -> Result<()> {
    let scene = Scene::empty()?;
    let (certificates, directory) = (Certificates::new()?, tempfile::tempdir()?);
    let mut broker = Mosquitto::start(&certificates)?;
    let password = password(directory.path(), mosquitto::PASSWORD)?;
    let login = format!("user = \"{}\"\npassword-file = \"{password}\"\nown-events = false", mosquitto::USER);
    let policy = policy(&scene, &["before", "during"])?
        .sink(&format!(
            "name = \"five\"\ntype = \"mqtt\"\nserver = \"{}\"\n{}\n{login}\ntopic = \"plant/five\"\ndiscovery = \"homeassistant\"",
            broker.server.address(),
            tls(&certificates)
        ))
        .sink(&format!(
            "name = \"three\"\ntype = \"mqtt\"\nserver = \"{}\"\ntransport = \"tcp\"\nversion = \"3.1.1\"\n{login}\n\
             topic = \"plant/three\"",
            broker.plain()
        ));
    let mut guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let topics = ["plant/five", "plant/three"];
    let count = |broker: &Mosquitto, line: &str| broker.said().iter().filter(|said| *said == line).count();
    let states = |broker: &Mosquitto, state: &str| -> Vec<_> {
        topics.iter().map(|topic| count(broker, &format!("0 {topic}/state {state}"))).collect()
    };
    wait::until("the guard to show", wait::SOON, || Ok((states(&broker, "online") == [1, 1]).then_some(())))
        .with_context(|| format!("{}\n{:#?}\n{}", guard.console().text(), broker.said(), broker.server.log()))?;
    let discovered =
        || -> Vec<_> { broker.said().into_iter().filter(|line| line.contains(" homeassistant/")).collect() };
    wait::until(
        "the discovery messages for Home Assistant",
        wait::SOON,
        || Ok((discovered().len() == 2).then_some(())),
    )
    .with_context(|| format!("{:#?}", discovered()))?;
    ensure!(discovered().iter().all(|line| line.contains("plant/five/")), "{:#?}", discovered());

    let all = |guard: &Guard, broker: &Mosquitto| -> Result<()> {
        wait::until("every event", wait::SOON, || {
            let wanted = alerts(guard)?;
            Ok(topics.iter().all(|topic| arrived(broker, topic).is_superset(&wanted)).then_some(()))
        })
        .with_context(|| {
            format!("{}\n{}\n{}", status(guard).unwrap_or_default(), guard.console().text(), broker.server.log())
        })
    };
    read(&scene, "before", EVENTS)?;
    all(&guard, &broker)?;
    broker.server.kill()?;
    read(&scene, "during", EVENTS)?;
    wait::until("the status to tell", wait::SOON, || {
        let status = status(&guard)?;
        Ok((status.matches("refused").count() == 2).then_some(()))
    })?;
    broker.restart()?;
    all(&guard, &broker)?;
    ensure!(alerts(&guard)?.len() >= 2 * EVENTS);
    // Discovery messages are sent again.
    wait::until("the guard to show again", wait::SOON, || Ok((states(&broker, "online") == [2, 2]).then_some(())))
        .with_context(|| format!("{:?}", states(&broker, "online")))?;

    // A guard that dies cannot say so: its will does.
    guard.kill()?;
    wait::until("the will", wait::SOON, || Ok((states(&broker, "offline") == [1, 1]).then_some(())))?;
    let guard = guard.start_again(&scene.cgroup, &[])?;
    wait::until("the guard to show again", wait::SOON, || Ok((states(&broker, "online") == [3, 3]).then_some(())))?;
    let text = fs::read_to_string(guard.policy_file())?;
    let console = guard.console().clone();
    let journal: Vec<_> = guard.stop()?.iter().map(|record| record.json().to_string()).collect();
    wait::until("the farewell", wait::SOON, || Ok((states(&broker, "offline") == [2, 2]).then_some(())))?;
    let secret = mosquitto::PASSWORD;
    ensure!(!text.contains(secret) && !console.text().contains(secret) && !journal.concat().contains(secret));
    Ok(())
}

#[test]
fn a_broker_that_refuses_the_guard_says_why() -> Result<()> {
    let (certificates, directory) = (Certificates::new()?, Guard::new_directory()?);
    let broker = Mosquitto::start(&certificates)?;
    let password = password(directory.path(), "wrong")?;
    let file = directory.path().join("policy.toml");
    for (version, transport) in [
        ("5", tls(&certificates)),
        ("3.1.1", "transport = \"tcp\"".to_owned()),
        ("5", format!("ca = \"{}\"", certificates.path("ca.pem").display())),
    ] {
        let server = if transport.contains("tcp") { broker.plain() } else { broker.server.address() };
        let text = format!(
            "version = 1\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 64123 }}]\nuser-dir = \"/tmp\"\n[[sink]]\n\
             name = \"siem\"\ntype = \"mqtt\"\nserver = \"{server}\"\nversion = \"{version}\"\n{transport}\n\
             user = \"guard\"\npassword-file = \"{password}\"\n"
        );
        fs::write(&file, text)?;
        let (good, said) = crate::sinks::test_sink(&file)?;
        let why =
            if transport.contains("key") || transport.contains("tcp") { "the broker refuses" } else { "ertificate" };
        ensure!(!good && said.contains(why) && !said.contains("wrong"), "{version}: {said}");
    }
    Ok(())
}

/// A broker of version 3.1.1 cannot say what it takes, and hangs up over more.
#[test]
fn names_that_make_events_long_do_not_keep_others_from_an_mqtt_broker() -> Result<()> {
    let scene = Scene::empty()?;
    let (certificates, directory) = (Certificates::new()?, tempfile::tempdir()?);
    let broker = Mosquitto::start(&certificates)?;
    let secret = password(directory.path(), mosquitto::PASSWORD)?;
    let sink = format!(
        "name = \"three\"\ntype = \"mqtt\"\nversion = \"3.1.1\"\nserver = \"{}\"\nuser = \"{}\"\n\
         password-file = \"{secret}\"\ntopic = \"plant\"\nevents = \"single\"\n{}",
        broker.server.address(),
        mosquitto::USER,
        tls(&certificates),
    );
    a_long_event_holds_nothing_up(&scene, &sink, || broker.said(), &broker.server)
}

#[test]
fn a_nats_stream_has_every_event_once_after_its_server_was_killed() -> Result<()> {
    let scene = Scene::empty()?;
    let (certificates, directory) = (Certificates::new()?, tempfile::tempdir()?);
    let mut receiver = Nats::start(&certificates)?;
    let password = password(directory.path(), nats::PASSWORD)?;
    let sink = format!(
        "name = \"fleet\"\ntype = \"nats\"\nserver = \"{}\"\n{}\nuser = \"{}\"\npassword-file = \"{password}\"\n\
         own-events = false\nevents = \"single\"\nfrom = \"beginning\"",
        receiver.server.address(),
        tls(&certificates),
        nats::USER
    );
    let policy = policy(&scene, &["before", "during"])?.sink(&sink);
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let reports = |guard: &Guard, why: &str| {
        wait::until(why, wait::SOON, || Ok(status(guard)?.contains(why).then_some(())))
            .with_context(|| format!("{}\n{}", status(guard).unwrap_or_default(), receiver.server.log()))
    };
    read(&scene, "before", EVENTS)?;
    reports(&guard, "no stream takes flowwarden.events")?;
    receiver.make_stream()?;
    let all = |guard: &Guard, receiver: &Nats| -> Result<()> {
        wait::until("every event", wait::SOON, || Ok((receiver.count()? >= alerts(guard)?.len() as u64).then_some(())))
            .with_context(|| {
                format!("{}\n{}\n{}", status(guard).unwrap_or_default(), guard.console().text(), receiver.server.log())
            })
    };
    all(&guard, &receiver)?;
    receiver.server.kill()?;
    read(&scene, "during", EVENTS)?;
    wait::until("the status to tell", wait::SOON, || Ok(status(&guard)?.contains("refused").then_some(())))?;
    receiver.server.restart()?;
    all(&guard, &receiver)?;
    let wanted = alerts(&guard)?;
    // All of it once more: the stream knows what it has.
    let cursor = guard.journal_directory().join("sinks/fleet.cursor");
    let mut guard = guard;
    guard.kill()?;
    fs::remove_file(cursor)?;
    let guard = guard.start_again(&scene.cgroup, &[])?;
    wait::until("all of it once more", wait::SOON, || {
        Ok(status(&guard)?.contains(&format!("{} delivered", wanted.len())).then_some(()))
    })
    .with_context(|| status(&guard).unwrap_or_default())?;
    let found: Vec<_> = receiver.messages()?;
    let unique: BTreeSet<_> =
        found.iter().filter_map(|event| Some(event.pointer("/metadata/uid")?.as_str()?.to_owned())).collect();
    ensure!(found.len() == wanted.len() && unique == wanted, "{} of {} events", found.len(), wanted.len());
    guard.stop().map(drop)
}

#[test]
fn journalctl_finds_events_by_fields_of_their_own() -> Result<()> {
    let scene = Scene::empty()?;
    let receiver = Journald::start()?;
    let policy = policy(&scene, &["read-me"])?.sink(&format!(
        "name = \"here\"\ntype = \"journald\"\nevents = \"single\"\nsocket = \"{}\"",
        receiver.socket().display()
    ));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    read(&scene, "read-me", EVENTS)?;
    let entries = wait::until("the entries", wait::SOON, || {
        let entries = receiver.entries("FLOWWARDEN_RULE=read-me")?;
        Ok((entries.len() >= EVENTS).then_some(entries))
    })
    .with_context(|| format!("{}\n{}", status(&guard).unwrap_or_default(), guard.console().text()))?;
    let wanted = alerts(&guard)?;
    let found: BTreeSet<_> =
        entries.iter().filter_map(|entry| Some(entry["FLOWWARDEN_UID"].as_str()?.to_owned())).collect();
    ensure!(found == wanted && entries.len() == wanted.len(), "{} entries for {} events", entries.len(), wanted.len());
    let entry = entries.first().context("nothing")?;
    let event: Value = serde_json::from_str(entry["FLOWWARDEN_EVENT"].as_str().context("no event")?)?;
    ensure!(entry["MESSAGE"] == event["message"] && entry["PRIORITY"] == "5", "{entry:#}");
    ensure!(entry["_TRANSPORT"] == "journal" && entry["FLOWWARDEN_VERDICT"] == "log", "{entry:#}");
    guard.stop().map(drop)
}

/// A deploy that says much about 50 nodes: more than a datagram holds.
fn deploy(flows: &Path, version: u32) -> Result<()> {
    // The names of 16 properties are reported, up to 80 characters each; these have four bytes.
    let properties: Vec<_> = (10..26).map(|number| format!("{}{number}", "\u{1d11e}".repeat(78))).collect();
    let nodes = (0..50).map(|number| {
        let mut node = serde_json::json!({ "id": format!("node-{number}"), "type": "function" });
        for property in &properties {
            node[property] = version.into();
        }
        node
    });
    Ok(fs::write(flows, nodes.collect::<Value>().to_string())?)
}

#[test]
fn an_event_that_no_datagram_holds_reaches_journald_whole() -> Result<()> {
    let scene = Scene::empty()?;
    let receiver = Journald::start()?;
    let flows = scene.node_red.home().user_dir().join("flows.json");
    deploy(&flows, 1)?;
    let sink = "name = \"here\"\ntype = \"journald\"\nformat = \"jsonl\"";
    let policy =
        Policy::enforce(&scene.node_red).sink(&format!("{sink}\nsocket = \"{}\"", receiver.socket().display()));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let seen = guard.directory().join("state/seen");
    wait::until("a first look", wait::SOON, || Ok((fs::read_dir(&seen)?.count() == 1).then_some(())))?;
    deploy(&flows, 2)?;
    let change = guard.wait_for(wait::SOON, |record| record.pointer_text("/unmapped/change") == "flows")?;
    let largest: usize = fs::read_to_string("/proc/sys/net/core/wmem_default")?.trim().parse()?;
    let length = change.json().to_string().len();
    ensure!(length > largest, "{length} bytes fit into a datagram of {largest}");
    let field = format!("FLOWWARDEN_UID={}", change.pointer_text("/metadata/uid"));
    let entry = wait::until("the entry", wait::SOON, || Ok(receiver.entries(&field)?.pop()))
        .with_context(|| format!("{}\n{}", status(&guard).unwrap_or_default(), guard.console().text()))?;
    let event: Value = serde_json::from_str(entry["FLOWWARDEN_EVENT"].as_str().context("no event")?)?;
    ensure!(event == *change.json(), "{event:#}\n{change:#?}");
    guard.stop().map(drop)
}
