//! Metrics agree with the journal, in a format that `promtool` accepts.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::Guard, http, needs, policy::Policy, scene::Scene, wait};

const EVENTS: usize = 20;

/// `promtool check metrics` says nothing about the page.
fn check(page: &str) -> Result<()> {
    let mut promtool = Command::new(needs::program("promtool")?);
    let mut child = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no way in")?.write_all(page.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "promtool: {said}\n{page}");
    Ok(())
}

#[test]
fn prometheus_is_told_what_the_journal_holds() -> Result<()> {
    let scene = Scene::empty()?;
    let file = scene.node_red.home().user_dir().join("read-me");
    fs::write(&file, "x")?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let (address, out) = (taken.local_addr()?, tempfile::tempdir()?);
    let policy = Policy::enforce(&scene.node_red)
        .file("read-me", &["read"], "log", "read-me")
        .sink(&format!("name = \"agent\"\ntype = \"file\"\npath = \"{}\"", out.path().join("events.json").display()))
        .with(&format!("[metrics]\nlisten = \"{address}\""));
    // An address in use is reported, and the guard runs.
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    guard.console().wait_for(0, "[metrics]", wait::SOON)?;
    drop(taken);
    // Once the policy changes it is tried again.
    let mut without = policy.text().to_owned();
    without.truncate(without.find("[metrics]").context("no such table")?);
    guard.reload(&Policy::written(without))?;
    guard.reload(&policy)?;

    let script = format!("for i in $(seq {EVENTS}); do read line < {}; done; true", file.display());
    let status = scene.node_red.confinement().spawn(Command::new("sh").arg("-c").arg(script))?.wait()?;
    ensure!(status.success(), "the reader did not finish: {status}");
    let page = || -> Result<String> {
        let answer = http::request(address, "GET", "/metrics", &[], "")?;
        ensure!(answer.is_success(), "{answer:?}");
        Ok(answer.body)
    };
    let counted = wait::until("the figures", wait::SOON, || {
        let page = page()?;
        let figure = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let events = figure("flowwarden_events_total{node_red=\"plant-a\",rule=\"read-me\",verdict=\"log\"}");
        let sink = figure("flowwarden_sink_lag_events{sink=\"agent\"}");
        Ok((events >= Some(EVENTS as u64) && sink == Some(0)).then(|| (page.clone(), events.unwrap_or_default())))
    });
    let (page, events) = counted.with_context(|| page().unwrap_or_default())?;
    check(&page)?;
    ensure!(check("flowwarden_bytes_total_total 1\n").is_err(), "promtool accepts anything");
    let records = guard.stop()?;
    let journaled = records.iter().filter(|record| record.is_alert() && record.rule() == "read-me").count();
    ensure!(journaled as u64 == events, "{journaled} in the journal, {events} counted");
    Ok(())
}
