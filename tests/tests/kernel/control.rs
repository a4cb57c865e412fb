//! What the command line says of guards: what a reload has come to, what cannot be denied here, and what enforces although
//! no guard runs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    bpffs::BpfFs,
    cli::{self, Answer},
    guard::Guard,
    needs,
    policy::Policy,
    stand_in::StandIn,
};

use super::{CHANGES, with_sensors};

fn stand_in() -> Result<StandIn> {
    StandIn::new(option_env!("CARGO_BIN_EXE_actor"))
}

fn protecting(stand_in: &StandIn) -> Policy {
    stand_in.policy().deny("settings.js", &CHANGES, "settings-js")
}

fn guard(stand_in: &StandIn, more: &[&str]) -> Result<Guard> {
    let flags = with_sensors(more);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    Guard::start(Some(&protecting(stand_in)), &stand_in.cgroup, &flags)
}

/// Whether a process of the instance can change settings.js.
fn is_open(stand_in: &StandIn) -> Result<bool> {
    let _ = stand_in.does("append settings.js")?;
    let changed = !stand_in.is_intact();
    stand_in.restore()?;
    Ok(changed)
}

#[test]
fn a_reload_waits_and_its_exit_code_says_what_came_of_it() -> Result<()> {
    let stand_in = stand_in()?;
    let guard = guard(&stand_in, &[])?;
    let file = guard.policy_file();
    let good = fs::read_to_string(&file)?;
    let first = guard.control("reload")?;
    ensure!(first.code == Some(0) && first.text.contains("the new policy is in force"), "{first:?}");

    let faulty = good.replace("mode =", "mod =").replace("\"settings.js\"", "7");
    fs::write(&file, &faulty)?;
    let refused = guard.control("reload")?;
    ensure!(refused.code == Some(2), "{refused:?}");
    let place = |what: &str| {
        let line = faulty.lines().position(|line| line.contains(what)).map(|line| line + 1);
        Ok::<_, anyhow::Error>(format!("{}:{}:", file.display(), line.context("no such line")?))
    };
    for fault in [place("mod =")?, place("= 7")?] {
        ensure!(refused.errors.lines().any(|line| line.starts_with(&fault)), "no {fault}: {refused:?}");
    }
    ensure!(refused.errors.contains("the old policy remains in force"), "{refused:?}");
    ensure!(!is_open(&stand_in)?, "a faulty policy has taken the old one away");

    fs::remove_file(&file)?;
    let refused = guard.control("reload")?;
    ensure!(refused.code == Some(2) && refused.errors.contains("No such file"), "{refused:?}");
    // One that cannot be stored for another run.
    fs::write(&file, &good)?;
    let state = guard.directory().join("state");
    let without = cli::flowwarden(&["reload", "--state", &state.join("nowhere").display().to_string()])?;
    ensure!(without.code == Some(1) && without.errors.contains("no guard runs"), "{without:?}");
    let mut guard = guard;
    guard.end()?;
    let ended = guard.control("reload")?;
    ensure!(ended.code == Some(1) && ended.errors.contains("no guard runs"), "{ended:?}");
    Ok(())
}

/// A warning that something cannot be denied is given where that is so, and nowhere else.
#[test]
fn what_cannot_be_denied_is_said_where_it_cannot() -> Result<()> {
    let stand_in = stand_in()?;
    let guard = guard(&stand_in, &[])?;
    let first = guard.control("reload")?;
    let said = guard.console().text();
    let records = guard.stop()?;
    let start = records.iter().find(|record| record.pointer_text("/activity_name") == "Start").context("no start")?;
    let denies = start.pointer_text("/unmapped/hooks/file_open") == "lsm";
    let warns = |text: &str| text.contains("no sensor here can deny");
    ensure!(warns(&said) != denies, "denies: {denies}, and says: {said}");
    ensure!(warns(&first.text) != denies, "denies: {denies}, and a reload says: {first:?}");
    Ok(())
}

/// Every command that somebody asks who wonders why a process still dies.
fn ask_all(policy: &Path, state: &str) -> Result<Vec<(&'static str, Answer)>> {
    let policy = policy.display().to_string();
    Ok(vec![
        ("doctor", cli::flowwarden(&["doctor"])?),
        ("discover", cli::flowwarden(&["discover"])?),
        ("check", cli::flowwarden(&["check", &policy])?),
        ("maintenance", cli::flowwarden(&["maintenance", "status", "--state", state])?),
        ("reload", cli::flowwarden(&["reload", "--state", state])?),
    ])
}

#[test]
fn what_enforces_without_a_guard_is_named_with_the_way_out() -> Result<()> {
    let stand_in = stand_in()?;
    let bpf = BpfFs::new()?;
    let pins = bpf.pins().display().to_string();
    let mut guard = guard(&stand_in, &["--pin", &pins])?;
    let (policy, state) = (guard.policy_file(), guard.directory().join("state").display().to_string());
    let way_out = format!("flowwarden detach --pin {pins}");
    let elsewhere = bpf.path().join("elsewhere").display().to_string();
    let detach_elsewhere = || cli::flowwarden(&["detach", "--pin", &elsewhere]);

    for (what, answer) in ask_all(&policy, &state)? {
        let all = format!("{}{}", answer.text, answer.errors);
        // What others have left is not this test's.
        ensure!(answer.code == Some(0) && !all.contains(&way_out), "{what}, and a guard runs: {answer:?}");
    }
    let answer = detach_elsewhere()?;
    ensure!(!answer.errors.contains(&way_out), "{answer:?}");
    let strangers = answer.errors.contains("without a guard");
    ensure!(
        strangers || (answer.code == Some(0) && answer.text.contains(&format!("with pins in {pins}"))),
        "{answer:?}"
    );

    guard.end()?;
    ensure!(!is_open(&stand_in)?, "nothing enforces any more");
    for (what, answer) in ask_all(&policy, &state)? {
        let code = i32::from(matches!(what, "maintenance" | "reload"));
        let all = format!("{}{}", answer.text, answer.errors);
        ensure!(answer.code == Some(code), "{what}: {answer:?}");
        ensure!(all.contains("enforce without a guard") && all.contains(&way_out), "{what}: {answer:?}");
    }
    let answer = detach_elsewhere()?;
    ensure!(answer.code == Some(1) && answer.errors.contains(&way_out), "{answer:?}");

    // A guard that does not take them over says so.
    let other = Guard::start(Some(&protecting(&stand_in)), &stand_in.cgroup, &[])?;
    ensure!(other.console().text().contains(&way_out), "{}", other.console().text());
    let records = other.stop()?;
    let reports = |record: &flowwarden_tests::record::Record| {
        record.pointer_text("/activity_name") == "Error" && record.pointer_text("/message").contains("without a guard")
    };
    ensure!(records.iter().any(reports), "it is not in the journal: {records:#?}");

    needs::run(Command::new(needs::flowwarden()?).args(["detach", "--pin", &pins]))?;
    ensure!(is_open(&stand_in)?, "something still enforces");
    for (what, answer) in ask_all(&policy, &state)? {
        let all = format!("{}{}", answer.text, answer.errors);
        ensure!(!all.contains(&way_out), "{what}: {answer:?}");
    }
    let answer = detach_elsewhere()?;
    ensure!(strangers || (answer.code == Some(0) && answer.text.contains("no programs are pinned here")), "{answer:?}");
    Ok(())
}
