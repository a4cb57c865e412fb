//! A thousand processes that write to settings.js at the same moment: not one byte gets through.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    guard::Guard,
    policy::Policy,
    record::Record,
    scene::Scene,
    snapshot::{Snapshot, State},
};

use crate::stage::copy;

const WRITERS: usize = 1000;
const RULE: &str = "settings-js";

/// How the writers fared.
#[derive(Debug, PartialEq, Eq)]
struct Race {
    wrote: usize,
    killed: usize,
    failed: usize,
}

/// Has all writers begin at the same moment, as the instance's uid.
fn race(scene: &Scene, how: &str) -> Result<Race> {
    let racer = copy(scene, Path::new(env!("CARGO_BIN_EXE_racer")), 0o755)?;
    let mut command = Command::new(&racer);
    command.arg(scene.node_red.settings()).arg(WRITERS.to_string()).arg(how);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = scene.node_red.confinement().spawn(&mut command)?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |key| {
        let value = text.split_whitespace().find_map(|word| word.strip_prefix(key))?;
        value.parse().ok()
    };
    let parsed = || Some(Race { wrote: number("wrote=")?, killed: number("killed=")?, failed: number("failed=")? });
    parsed().with_context(|| format!("the racer did not finish: {} {text:?}", output.status))
}

/// Races without and with guard; gives back the state of settings.js and the verdicts in the guarded race.
fn prove(how: &str) -> Result<(State, usize, Vec<Record>)> {
    let mut scene = Scene::new()?;
    let mut settings = Snapshot::take(&scene.node_red.settings())?;
    scene.node_red.stop()?;
    let free = race(&scene, how)?;
    ensure!(free == Race { wrote: WRITERS, killed: 0, failed: 0 }, "without a guard all should write: {free:?}");
    ensure!(settings.state()? != State::Intact, "the writers do not write");
    settings.restore()?;

    let guard = Guard::start(Some(&Policy::enforce(&scene.node_red).guard_settings()), &scene.cgroup, &[])?;
    let guarded = race(&scene, how)?;
    ensure!(guarded == Race { wrote: 0, killed: WRITERS, failed: 0 }, "some got through: {guarded:?}");
    let state = settings.state()?;
    let records: Vec<_> =
        guard.stop()?.into_iter().filter(|record| record.rule() == RULE && record.is_alert()).collect();
    Ok((state, guarded.killed, records))
}

#[test]
fn writers_that_do_not_cut_change_nothing() -> Result<()> {
    let (state, killed, records) = prove("keep")?;
    ensure!(state == State::Intact, "settings.js is {state:?}");
    ensure!(records.iter().filter(|record| record.verdict() == "kill").count() >= killed, "{} records", records.len());
    Ok(())
}

#[test]
fn writers_that_cut_are_killed_and_the_damage_is_admitted() -> Result<()> {
    let (state, _, records) = prove("truncate")?;
    match state {
        State::Intact => {}
        State::Emptied => {
            ensure!(records.iter().any(|record| record.has_flag("damaged")), "no record admits the damage");
        }
        state => anyhow::bail!("settings.js is {state:?}"),
    }
    Ok(())
}
