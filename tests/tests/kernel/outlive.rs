//! Protection that outlives the guard: what is pinned judges on, and the next run takes over without a gap.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{bpffs::BpfFs, guard::Guard, needs, stand_in::StandIn, wait};

/// How many have tried to write, and how many of them have.
type Score = (u32, u32);

/// What a stand-in's `hammer` has counted.
pub(crate) fn score(stand_in: &StandIn) -> Result<Score> {
    let read = || {
        let text = fs::read_to_string(stand_in.user_dir().join("score")).ok()?;
        let (tried, through) = text.trim().split_once(' ')?;
        Some((tried.parse().ok()?, through.parse().ok()?))
    };
    // The file may be cut at this moment.
    wait::until("the score", Duration::from_mins(1), || Ok(read()))
}

/// Waits for some more attempts; none of all so far may have come through.
fn hold_out(stand_in: &StandIn, when: &str) -> Result<()> {
    let (before, _) = score(stand_in)?;
    let (tried, through) = wait::until("more attempts", Duration::from_mins(2), || {
        let now = score(stand_in)?;
        Ok((now.0 >= before + 50).then_some(now))
    })
    .with_context(|| when.to_owned())?;
    ensure!(through == 0, "{when}: {through} of {tried} have written");
    ensure!(stand_in.is_intact(), "{when}: settings.js has changed");
    Ok(())
}

#[test]
fn what_is_pinned_judges_on_until_it_is_detached() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let (bpf, policy) = (BpfFs::new()?, stand_in.policy().deny("settings.js", &super::CHANGES, "settings-js"));
    let pins = bpf.pins().display().to_string();
    let flags = super::with_sensors(&["--pin", &pins]);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let detach = || needs::run(Command::new(needs::flowwarden()?).args(["detach", "--pin", &pins]));

    let mut guard = Guard::start(Some(&policy), &stand_in.cgroup, &flags)?;
    let _hammer = stand_in.begins("hammer settings.js score")?;
    hold_out(&stand_in, "with the guard")?;
    guard.kill()?;
    hold_out(&stand_in, "after the guard was killed")?;
    let guard = guard.start_again(&stand_in.cgroup, &flags)?;
    hold_out(&stand_in, "after another has taken over")?;
    let refused = detach().err().context("what a running guard holds is not detached")?;
    ensure!(refused.to_string().contains("stop it first"), "{refused}");
    let records = guard.stop()?;
    hold_out(&stand_in, "after the guard was stopped")?;

    let waiting = records.iter().find_map(|record| record.number("/unmapped/records")).context("no takeover")?;
    ensure!(waiting > 0, "nothing was recorded while there was no guard");
    let unnamed = records.iter().filter(|record| record.is_alert() && record.rule() != "settings-js").count();
    ensure!(unnamed == 0, "{unnamed} records do not name the rule");

    detach()?;
    let written = || Ok((score(&stand_in)?.1 > 0).then_some(()));
    wait::until("a write when all is detached", Duration::from_mins(2), written)
}
