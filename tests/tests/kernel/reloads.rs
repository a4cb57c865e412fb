//! A policy that takes another's place while somebody is in the middle of an operation.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowwarden_tests::{stand_in::StandIn, wait};

use super::{outlive::score, start};

/// How often the policy changes.
const RELOADS: usize = 20;

/// What a call has found at its entry is judged at its exit, where the sensor can do no better: the rules may be others by
/// then.
#[test]
fn nobody_gets_through_between_two_policies() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policies = ["one", "other"].map(|name| {
        let rules = stand_in.policy().deny("settings.js", &super::CHANGES, "settings-js").heal();
        rules.deny(&format!("{name}.js"), &super::CHANGES, name)
    });
    let guard = start(&stand_in, &policies[0], &[])?;
    let hammer = stand_in.begins("hammer-over settings.js score")?;
    let (before, _) = score(&stand_in)?;
    for policy in policies.iter().cycle().skip(1).take(RELOADS) {
        let answer = guard.reload(policy)?;
        ensure!(answer.contains("in force"), "{answer}");
    }
    let (tried, through) = score(&stand_in)?;
    ensure!(tried > before + 5, "{tried} attempts are too few to tell: {before} before the first new policy");
    ensure!(through == 0, "{through} of {tried} have gone through");
    drop(hammer);
    wait::until("settings.js to be what it was", Duration::from_mins(1), || Ok(stand_in.is_healed().then_some(())))?;
    guard.stop().map(drop)
}
