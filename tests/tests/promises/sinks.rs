//! What the journal holds arrives at the receivers, also after an outage, and a dead receiver does not affect others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    flows::js,
    guard::Guard,
    needs,
    policy::Policy,
    receiver::{Alertmanager, Certificates, Server, Software, Syslog, Transport},
    record::Record,
    scene::Scene,
    wait,
};
use serde_json::Value;

/// How many events there are in each part of a test.
pub(crate) const EVENTS: usize = 300;

/// Reads a file so many times, as the instance's user.
pub(crate) fn read(scene: &Scene, name: &str, count: usize) -> Result<()> {
    let file = scene.node_red.home().user_dir().join(name);
    let script = format!(
        "const fs = require('fs'); for (let i = 0; i < {count}; i++) fs.closeSync(fs.openSync({}));",
        js(&file)
    );
    let status = scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?.wait()?;
    ensure!(status.success(), "the reader did not finish: {status}");
    Ok(())
}

/// A policy that logs reads of these files, each by a rule of the same name.
pub(crate) fn policy(scene: &Scene, names: &[&str]) -> Result<Policy> {
    let mut policy = Policy::enforce(&scene.node_red);
    for name in names {
        fs::write(scene.node_red.home().user_dir().join(name), "x")?;
        policy = policy.file(name, &["read"], "log", name);
    }
    Ok(policy)
}

/// The ids of all events in a journal.
pub(crate) fn ids(records: &[Record]) -> BTreeSet<String> {
    records.iter().map(|record| record.pointer_text("/metadata/uid").to_owned()).collect()
}

/// The events in a text of JSON lines, and how often each id is among them.
fn arrived<'a>(lines: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, usize>> {
    let mut arrived = BTreeMap::new();
    for line in lines {
        let event: Value = serde_json::from_str(line).with_context(|| format!("no event: {line}"))?;
        let id = event.pointer("/metadata/uid").or(event.pointer("/event/id")).and_then(Value::as_str);
        *arrived.entry(id.unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(arrived)
}

/// A file for agents like Filebeat: every event, once, in ECS.
#[test]
fn a_file_has_every_event_once() -> Result<()> {
    let scene = Scene::empty()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events.json");
    let policy = policy(&scene, &["read-me"])?.sink(&format!(
        "name = \"agent\"\ntype = \"file\"\npath = \"{}\"\nformat = \"ecs\"\nown-events = false",
        file.display()
    ));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    read(&scene, "read-me", EVENTS)?;
    let records = guard.stop()?;
    let wanted: BTreeSet<_> =
        ids(&records.into_iter().filter(|record| record.is_alert() && record.rule() == "read-me").collect::<Vec<_>>());
    ensure!(wanted.len() >= EVENTS, "only {} events", wanted.len());
    let text = fs::read_to_string(&file)?;
    let arrived = arrived(text.lines())?;
    ensure!(arrived.keys().cloned().collect::<BTreeSet<_>>().is_superset(&wanted), "events are missing");
    ensure!(arrived.values().all(|&count| count == 1), "events came twice");
    let first: Value = serde_json::from_str(text.lines().next().context("nothing")?)?;
    ensure!(first.pointer("/ecs/version").is_some() && first.pointer("/rule/id").is_some(), "{first:#}");
    Ok(())
}

/// A syslog server is killed in the middle: every event arrives in the end, and another sink goes on meanwhile.
fn outage(software: Software, transport: Transport) -> Result<()> {
    let scene = Scene::empty()?;
    let certificates = Certificates::new()?;
    let mut receiver = Syslog::start(software, transport, &certificates)?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events.json");
    let path = |name| certificates.path(name).display().to_string();
    let how = match transport {
        Transport::Tls => format!(
            "transport = \"tls\"\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"",
            path("ca.pem"),
            path("client.pem"),
            path("client.key")
        ),
        _ => "transport = \"tcp\"".to_owned(),
    };
    let policy = policy(&scene, &["before", "during", "after"])?
        .sink(&format!("name = \"siem\"\ntype = \"syslog\"\nserver = \"{}\"\n{how}", receiver.server.address()))
        .sink(&format!("name = \"agent\"\ntype = \"file\"\npath = \"{}\"", file.display()));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;

    read(&scene, "before", EVENTS)?;
    wait::until("the first events", wait::SOON, || Ok((receiver.received().len() > 10).then_some(())))
        .with_context(|| format!("{}\n{}", guard.console().text(), receiver.server.log()))?;
    receiver.server.kill()?;
    read(&scene, "during", EVENTS)?;
    // The other sink does not wait for the dead one, which is dead until it is started again.
    wait::until("the file", wait::SOON, || {
        Ok((fs::read_to_string(&file)?.matches("\"rule\":\"during\"").count() >= EVENTS).then_some(()))
    })?;
    wait::until("the status to tell", wait::SOON, || {
        let status = status(&guard)?;
        // It is refused, or died with a message in its hands.
        let fails = status.contains("refused") || status.contains("takes nothing");
        Ok((fails && status.contains("agent: 0 events")).then_some(()))
    })
    .with_context(|| status(&guard).unwrap_or_default())?;
    receiver.server.restart()?;
    read(&scene, "after", EVENTS)?;

    let journaled = |guard: &Guard| -> Result<BTreeSet<String>> {
        let records = guard.journal()?;
        Ok(ids(&records.into_iter().filter(Record::is_alert).collect::<Vec<_>>()))
    };
    let missing = |guard: &Guard| -> Result<Vec<String>> {
        let wanted = journaled(guard)?;
        let lines = receiver.received();
        let got = arrived(lines.iter().filter_map(|line| line.split_once('{').map(|(head, _)| &line[head.len()..])))?;
        Ok(wanted.into_iter().filter(|id| !got.contains_key(id)).collect())
    };
    // A sink that has failed some times waits for half a minute before it tries again.
    let all = wait::until("every event", 3 * wait::SOON, || Ok(missing(&guard)?.is_empty().then_some(())));
    all.with_context(|| {
        let (missing, status) = (missing(&guard).map_or(0, |all| all.len()), status(&guard).unwrap_or_default());
        format!("missing: {missing}\n{status}\n{}\n{}", guard.console().text(), receiver.server.log())
    })?;
    let records = guard.stop()?;
    for rule in ["before", "during", "after"] {
        let count = records.iter().filter(|record| record.is_alert() && record.rule() == rule).count();
        ensure!(count >= EVENTS, "{count} of {rule}");
    }
    // Facility 13 (log audit), severity 5 (notice) for what was logged.
    ensure!(receiver.received().iter().any(|line| line.starts_with("109 ") && line.contains(" flowwarden open ")));
    Ok(())
}

pub(crate) fn status(guard: &Guard) -> Result<String> {
    let mut command = Command::new(needs::flowwarden()?);
    command.args(["sink", "status", "--config"]).arg(guard.policy_file());
    needs::run(command.arg("--journal").arg(guard.journal_directory()))
}

#[test]
fn rsyslog_over_tcp_is_killed_and_nothing_is_lost() -> Result<()> {
    outage(Software::Rsyslog, Transport::Tcp)
}

#[test]
fn rsyslog_over_tls_is_killed_and_nothing_is_lost() -> Result<()> {
    outage(Software::Rsyslog, Transport::Tls)
}

#[test]
fn syslog_ng_over_tcp_is_killed_and_nothing_is_lost() -> Result<()> {
    outage(Software::SyslogNg, Transport::Tcp)
}

#[test]
fn syslog_ng_over_tls_is_killed_and_nothing_is_lost() -> Result<()> {
    outage(Software::SyslogNg, Transport::Tls)
}

#[test]
fn datagrams_reach_rsyslog() -> Result<()> {
    datagrams(Software::Rsyslog)
}

#[test]
fn datagrams_reach_syslog_ng() -> Result<()> {
    datagrams(Software::SyslogNg)
}

fn datagrams(software: Software) -> Result<()> {
    let scene = Scene::empty()?;
    let receiver = Syslog::start(software, Transport::Udp, &Certificates::new()?)?;
    let policy = policy(&scene, &["read-me"])?.sink(&format!(
        "name = \"siem\"\ntype = \"syslog\"\nserver = \"{}\"\ntransport = \"udp\"\nformat = \"cef\"",
        receiver.server.address()
    ));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    read(&scene, "read-me", 3)?;
    wait::until("the datagrams", wait::SOON, || {
        let lines = receiver.received();
        Ok((lines.iter().filter(|line| line.contains("CEF:0|Flowwarden|") && line.contains("cs2=read-me")).count()
            >= 3)
            .then_some(()))
    })
    .with_context(|| format!("{:#?}", receiver.received()))?;
    guard.stop().map(drop)
}

/// A watched process can cause an event of more than 70,000 bytes: what follows it arrives by this sink nevertheless, and of
/// the event itself as much as fits.
pub(crate) fn a_long_event_holds_nothing_up(
    scene: &Scene,
    sink: &str,
    received: impl Fn() -> Vec<String>,
    server: &Server,
) -> Result<()> {
    let policy = policy(scene, &["read-me"])?.file("deep/**", &["write", "rename"], "log", "deep").sink(sink);
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    // A program far below renames a file to somewhere farther below, and JSON needs six bytes for each character of the way.
    let script = "cd \"$1\"; name=$(printf '\\001%.0s' $(seq 250)); more=$name/$name/$name; way=deep/$more/$more/$name; \
         mkdir -p $way/$more; cd $way; cp $(command -v mv) ./m$name; echo > f$name; ./m$name f$name $more/file";
    let mut rename = Command::new("sh");
    rename.args(["-ec", script, "sh"]).arg(scene.node_red.home().user_dir());
    let ended = scene.node_red.confinement().spawn(&mut rename)?.wait()?;
    ensure!(ended.success(), "nothing was renamed: {ended}");
    read(scene, "read-me", 3)?;
    let came = |what: &str| received().iter().any(|line| line.contains(what));
    wait::until("the events after the long one", wait::SOON, || Ok(came("\"rule\":\"read-me\"").then_some(())))
        .with_context(|| format!("{}\n{}", status(&guard).unwrap_or_default(), server.log()))?;
    ensure!(came("\"is_truncated\":true"), "no event was too long");
    guard.stop().map(drop)
}

/// syslog-ng ends a connection over an event that is too long for it.
#[test]
fn names_that_make_events_long_do_not_keep_others_from_a_syslog_server() -> Result<()> {
    let scene = Scene::empty()?;
    let receiver = Syslog::start(Software::SyslogNg, Transport::Tcp, &Certificates::new()?)?;
    let sink =
        format!("name = \"siem\"\ntype = \"syslog\"\nserver = \"{}\"\ntransport = \"tcp\"", receiver.server.address());
    a_long_event_holds_nothing_up(&scene, &sink, || receiver.received(), &receiver.server)
}

/// `flowwarden sink test` says what came back.
pub(crate) fn test_sink(policy: &Path) -> Result<(bool, String)> {
    let mut command = Command::new(needs::flowwarden()?);
    let output = command.args(["sink", "test", "siem", "--config"]).arg(policy).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// A server whose certificate comes from somebody else gets nothing.
#[test]
fn a_server_that_cannot_prove_who_it_is_gets_nothing() -> Result<()> {
    let (ours, theirs) = (Certificates::new()?, Certificates::new()?);
    let receiver = Syslog::start(Software::Rsyslog, Transport::Tls, &theirs)?;
    let directory = tempfile::Builder::new().prefix("fwguard-").tempdir()?;
    let file = directory.path().join("policy.toml");
    let text = |certificates: &Certificates| {
        format!(
            "version = 1\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 64123 }}]\nuser-dir = \"/tmp\"\n[[sink]]\n\
             name = \"siem\"\ntype = \"syslog\"\nserver = \"{}\"\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
            receiver.server.address(),
            certificates.path("ca.pem").display(),
            certificates.path("client.pem").display(),
            certificates.path("client.key").display()
        )
    };
    fs::write(&file, text(&ours))?;
    let (good, said) = test_sink(&file)?;
    ensure!(!good && said.contains("certificate") && receiver.received().is_empty(), "{said}");
    fs::write(&file, text(&theirs))?;
    let (good, said) = test_sink(&file)?;
    ensure!(good && said.contains("test event accepted"), "{said}\n{}", receiver.server.log());
    wait::until("the test event", wait::SOON, || {
        Ok(receiver.received().iter().any(|line| line.contains("Test event")).then_some(()))
    })
}

/// Alertmanager is killed in the middle: alerts of that time are there once it is back.
#[test]
fn alertmanager_is_killed_and_has_every_alert_in_the_end() -> Result<()> {
    let scene = Scene::empty()?;
    let mut receiver = Alertmanager::start()?;
    let policy = policy(&scene, &["before", "during"])?.sink(&format!(
        "name = \"alerts\"\ntype = \"webhook\"\nurl = \"http://{}/api/v2/alerts\"\nbody = \"alertmanager\"\nown-events = false",
        receiver.server.address()
    ));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    // The incident that it belongs to is an alert of its own, with the same rule; they come in no order.
    let has = |receiver: &Alertmanager, rule: &str| -> Result<Option<Value>> {
        let is_wanted = |labels: &Value| labels["alertname"] == "Flowwarden open" && labels["rule"] == rule;
        Ok(receiver.alerts()?.into_iter().find(|alert| is_wanted(&alert["labels"])))
    };
    read(&scene, "before", 3)?;
    let alert =
        wait::until("an alert", wait::SOON, || has(&receiver, "before")).with_context(|| guard.console().text())?;
    ensure!(alert.pointer("/labels/node_red").is_some_and(|name| name == "plant-a"), "{alert:#}");
    receiver.server.kill()?;
    read(&scene, "during", 3)?;
    guard.wait_for(wait::SOON, |record| record.rule() == "during")?;
    receiver.server.restart()?;
    wait::until("the alert of the outage", wait::SOON, || has(&receiver, "during"))
        .with_context(|| guard.console().text())?;
    guard.stop().map(drop)
}
