//! What belongs together is told once: a storm of equal events is one incident with the right count.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::Guard, policy::Policy, record::Record, scene::Scene};

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
            "name = \"told\"\ntype = \"file\"\npath = \"{}\"\nevents = \"incidents\"\nown-events = false",
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
        let (events, told): (Vec<_>, Vec<_>) = records.iter().filter(of_rule).partition(|record| record.is_alert());
        let uid = told.first().context("no incident")?.pointer_text("/finding_info/uid");
        ensure!(told.iter().all(|it| it.pointer_text("/finding_info/uid") == uid), "more than one: {told:#?}");
        ensure!(events.iter().all(|it| it.pointer_text("/metadata/correlation_uid") == uid), "an event names another");
        let (first, last) = (told[0], told[told.len() - 1]);
        ensure!(first.pointer_text("/activity_name") == "Create" && last.pointer_text("/activity_name") == "Close");
        ensure!(last.number("/count") == Some(events.len() as u64), "{} events: {last:#?}", events.len());
        ensure!(last.pointer_text("/unmapped/example") == events[0].pointer_text("/metadata/uid"), "{last:#?}");
        ensure!(last.pointer_text("/remediation/desc").contains("If it was wanted"), "{last:#?}");
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
