//! A test that fails shows what its guard has printed and recorded, wherever it fails.

use std::{env, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use flowwarden_tests::{guard::Guard, stand_in::StandIn, wait};

/// Where this program fails on purpose.
const FAILS: &str = "FLOWWARDEN_TEST_FAILS";
const NAME: &str = "failures::a_failure_shows_the_console_and_the_last_events_of_the_guard";

#[test]
fn a_failure_shows_the_console_and_the_last_events_of_the_guard() -> Result<()> {
    if let Some(place) = env::var_os(FAILS) {
        return fail(&place.to_string_lossy());
    }
    for place in ["error", "panic", "error after the end"] {
        let mut test = Command::new(env::current_exe()?);
        let output = test.args(["--exact", NAME]).env(FAILS, place).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!output.status.success() && text.contains("on purpose"), "{place}: {text}");
        let report = text.split_once("console of the guard").map(|(_, report)| report);
        let report = report.with_context(|| format!("{place}: no report in {text}"))?;
        let (console, events) = report.split_once("last events of its journal").context("no events")?;
        ensure!(console.contains("ready: enforce"), "{place}: {text}");
        let record = events.lines().any(|line| line.contains("settings.js") && line.contains("\"kill\""));
        ensure!(record, "{place}: {text}");
    }
    Ok(())
}

fn fail(place: &str) -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policy = stand_in.policy().guard_settings();
    let guard = Guard::start(Some(&policy), &stand_in.cgroup, &[])?;
    stand_in.does("append settings.js")?;
    guard.wait_for(wait::SOON, |record| record.verdict() == "kill")?;
    assert!(place != "panic", "on purpose");
    if place == "error" {
        bail!("on purpose");
    }
    guard.stop()?;
    bail!("on purpose")
}
