//! Who dies beside the process that acted.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{stand_in::StandIn, wait};

/// In the order in which a stand-in's `family` names them.
const NAMES: [&str; 5] = ["the first", "its idle child", "the parent", "the sibling", "the writer"];

/// Whether a process still runs. One that has ended and was not asked for by its parent does not.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    // The name before the state may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Has a family come to be, whose youngest writes to settings.js, and tells who is left of it.
fn survivors(scope: Option<&str>) -> Result<Vec<&'static str>> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policy = stand_in.policy().file("settings.js", &super::CHANGES, "kill", "settings-js");
    let policy = scope.iter().fold(policy, |policy, scope| policy.scope(scope));
    let guard = super::start(&stand_in, &policy, &[])?;
    let _family = stand_in.begins("family settings.js members")?;
    let members = stand_in.user_dir().join("members");
    let members = wait::until("the family", wait::PATIENCE, || Ok(fs::read_to_string(&members).ok()))?;
    let members: Vec<_> = members.split_whitespace().collect();
    ensure!(members.len() == NAMES.len(), "{members:?}");
    let writer: u64 = members[4].parse()?;
    guard
        .wait_for(Duration::from_mins(1), |record| record.verdict() == "kill" && record.pid() == Some(writer))
        .context("the writer was not met")?;
    // Those who are to die have time to, and those who are not as well.
    wait::pause(Duration::from_secs(1))?;
    let left = NAMES.iter().zip(&members).filter(|(_, pid)| lives(pid)).map(|(name, _)| *name).collect();
    let records = guard.stop()?;
    let ended: Vec<_> = records.iter().filter(|record| record.number("/unmapped/because_of_pid").is_some()).collect();
    ensure!(ended.iter().all(|record| record.number("/type_uid") == Some(100_702)), "{ended:#?}");
    let dead = NAMES.len() - Vec::len(&left);
    ensure!(ended.len() + 1 == dead, "{} records of {dead} dead", ended.len());
    ensure!(stand_in.is_intact(), "settings.js has changed");
    Ok(left)
}

#[test]
fn a_rule_kills_who_acts_and_nobody_else() -> Result<()> {
    let left = survivors(None)?;
    ensure!(left == NAMES[..4], "{left:?}");
    Ok(())
}

#[test]
fn a_rule_for_the_tree_spares_what_has_nothing_to_do_with_it() -> Result<()> {
    let left = survivors(Some("tree"))?;
    ensure!(left == NAMES[..2], "{left:?}");
    Ok(())
}

#[test]
fn a_rule_for_the_instance_ends_all_of_it() -> Result<()> {
    let left = survivors(Some("instance"))?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
