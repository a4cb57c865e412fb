//! Related events are reported once: a storm of equal events is one incident with the right count.

use std::{fs, io::Write as _, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use flowwarden_tests::{
    flows::{Flow, INJECT},
    guard::Guard,
    policy::Policy,
    receiver::journald::Journald,
    record::Record,
    scene::Scene,
    wait,
};
use rustix::process::{Pid, Signal, kill_process};

use super::releases::{HASH, PASSWORD};

/// How often a file is opened; what the ring buffer loses of it is not counted.
const OPENS: u64 = 10_000;

#[test]
fn a_storm_is_one_incident_with_the_right_count_and_two_rules_are_two() -> Result<()> {
    let scene = Scene::empty()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| scene.node_red.home().user_dir().join(name);
    fs::write(path("storm.txt"), "x")?;
    fs::write(path("other.txt"), "x")?;
    let out = directory.path().join("incidents.json");
    let policy = Policy::enforce(&scene.node_red)
        .file("storm.txt", &["read"], "log", "storm")
        .file("other.txt", &["read"], "log", "other")
        .sink(&format!(
            "name = \"incidents\"\ntype = \"file\"\npath = \"{}\"\nevents = \"incidents\"\nown-events = false",
            out.display()
        ));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let script = format!(
        "const fs = require('fs'); for (let i = 0; i < {OPENS}; i++) {{ fs.closeSync(fs.openSync({:?})); \
         if (i % 500 === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20); }} fs.readFileSync({:?});",
        path("storm.txt"),
        path("other.txt")
    );
    let status = scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?.wait()?;
    ensure!(status.success(), "the storm did not finish: {status}");
    let console = guard.console().clone();
    let records = guard.stop()?;

    for rule in ["storm", "other"] {
        let of_rule = |record: &&Record| record.rule() == rule;
        let (events, reported): (Vec<_>, Vec<_>) = records.iter().filter(of_rule).partition(|record| record.is_alert());
        let uid = reported.first().context("no incident")?.pointer_text("/finding_info/uid");
        ensure!(reported.iter().all(|it| it.pointer_text("/finding_info/uid") == uid), "more than one: {reported:#?}");
        ensure!(events.iter().all(|it| it.pointer_text("/metadata/correlation_uid") == uid), "an event names another");
        let (first, last) = (reported[0], reported[reported.len() - 1]);
        ensure!(first.pointer_text("/activity_name") == "Create" && last.pointer_text("/activity_name") == "Close");
        ensure!(last.number("/count") == Some(events.len() as u64), "{} events: {last:#?}", events.len());
        ensure!(last.pointer_text("/unmapped/example") == events[0].pointer_text("/metadata/uid"), "{last:#?}");
        ensure!(last.pointer_text("/remediation/desc").contains("If this was wanted"), "{last:#?}");
        let number = |at: &Record| at.number("/time").unwrap_or_default();
        ensure!(last.number("/start_time") == events.iter().map(|it| number(it)).min(), "{last:#?}");
    }
    let storm = records.iter().filter(|it| it.is_alert() && it.rule() == "storm").count() as u64;
    ensure!(storm > OPENS / 2, "only {storm} events: nothing is proved");
    let said = console.text().lines().filter(|line| line.contains("storm.txt")).count();
    ensure!(said < 20, "{said} lines about one storm:\n{}", console.text());
    let sent = fs::read_to_string(&out)?;
    ensure!(sent.lines().count() >= 4 && sent.lines().all(|line| line.contains("\"class_uid\":2004")), "{sent}");
    Ok(())
}

/// A Node-RED that tells on its console who asks for what.
fn audited() -> Result<Scene> {
    let scene = Scene::empty()?;
    let users = format!("[{{ username: 'admin', password: '{HASH}', permissions: '*' }}]");
    let settings = format!(
        "module.exports = {{ adminAuth: {{ type: 'credentials', users: {users} }},
             logging: {{ console: {{ level: 'info', metrics: false, audit: true }} }} }};\n"
    );
    scene.node_red.home().file(".node-red/settings.js", &settings)?;
    Ok(scene)
}

/// That an incident says, as a hint, that the admin has deployed, where the console goes to `log`, whatever happens `then`.
fn hints_at_the_admin(scene: &mut Scene, log: &str, then: impl FnOnce() -> Result<()>) -> Result<Guard> {
    let node_red = &mut scene.node_red;
    let secret = node_red.home().file("secret.txt", "x")?;
    node_red.start()?;
    node_red.log_in("admin", PASSWORD)?;
    let policy = Policy::enforce(node_red).audit_log(log).deny(&secret.display().to_string(), &["read"], "secret");
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    scene.node_red.deploy(&Flow::exec(&format!("cat '{}'", secret.display())))?;
    then()?;
    scene.node_red.inject(INJECT)?;
    let reported =
        guard.wait_for(wait::SOON, |record| record.rule() == "secret" && record.number("/class_uid") == Some(2004))?;
    let hint = &reported.json()["unmapped"]["last_deploy"];
    ensure!(hint["user"] == "admin" && hint["event"] == "flows.set" && hint["verified"] == false, "{reported:#?}");
    ensure!(hint["address"].as_str().is_some_and(|address| address.ends_with("127.0.0.1")), "{reported:#?}");
    ensure!(reported.pointer_text("/remediation/desc").contains("not verified"), "{reported:#?}");
    Ok(guard)
}

#[test]
fn an_incident_names_who_deployed_last_as_a_hint_that_is_not_verified() -> Result<()> {
    let mut scene = audited()?;
    let place = Guard::new_directory()?;
    let log = place.path().join("node-red.log");
    // As systemd does with `StandardOutput=append:`.
    scene.node_red.console().copy_to(fs::File::options().append(true).create(true).open(&log)?);
    hints_at_the_admin(&mut scene, &log.display().to_string(), || Ok(()))?.stop().map(drop)
}

/// What of `journalctl` a guard has started.
fn followers(guard: &Guard) -> Result<Vec<u32>> {
    let children = fs::read_dir(format!("/proc/{}/task", guard.pid()))?.flatten().map(|task| {
        // A thread may end meanwhile.
        fs::read_to_string(task.path().join("children")).unwrap_or_default()
    });
    children.collect::<Vec<_>>().join(" ").split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}

fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.contains("(journalctl)") && !status.contains(") Z ")
}

#[test]
fn an_incident_names_who_deployed_last_from_the_journal_and_journalctl_lives_no_longer_than_the_guard() -> Result<()> {
    let mut scene = audited()?;
    let journald = Journald::start()?;
    scene.node_red.console().copy_to(journald.stream(scene.node_red.confinement().uid)?);
    let mut guard = hints_at_the_admin(&mut scene, "journal", || {
        // What another user says counts for nothing.
        let line = r#"[audit] {"event":"flows.set","user":{"username":"mallory"},"timestamp":1}"#;
        // Kept until journald has the entry: it looks the writing process up, which must not have ended by then.
        let mut stream = journald.stream(0)?;
        writeln!(stream, "{line}")?;
        wait::until("the entry", wait::SOON, || {
            let all = journald.entries("_UID=0")?;
            Ok(all.iter().any(|entry| entry["MESSAGE"] == line).then_some(()))
        })?;
        // The follower is a moment behind.
        wait::pause(Duration::from_secs(1))
    })?;

    // One that ends is started again, and a guard that dies takes it along.
    let [first] = followers(&guard)?[..] else { bail!("not one: {:?}", followers(&guard)?) };
    ensure!(runs(first), "{first} is no journalctl");
    kill_process(Pid::from_raw(first.try_into()?).context("no pid")?, Signal::KILL)?;
    let second = wait::until("another journalctl", wait::SOON, || {
        Ok(followers(&guard)?.into_iter().find(|&pid| pid != first && runs(pid)))
    })?;
    guard.kill()?;
    wait::until("its end", wait::SOON, || Ok((!runs(second)).then_some(())))?;

    // One that ends as it should leaves none either.
    let guard = guard.start_again(&scene.cgroup, &[])?;
    let [third] = followers(&guard)?[..] else { bail!("not one: {:?}", followers(&guard)?) };
    guard.stop()?;
    ensure!(!runs(third), "{third} is left");
    Ok(())
}
