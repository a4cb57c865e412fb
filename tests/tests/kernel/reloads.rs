//! A policy that takes another's place while somebody is in the middle of an operation.

use std::{
    fs,
    os::{fd::AsRawFd as _, unix::fs::symlink},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{policy::Policy, record::Record, stand_in::StandIn, wait};

use super::{outlive::score, start};

const PATIENCE: Duration = Duration::from_mins(1);
/// `F_SETSIG` of linux/fcntl.h.
const SET_SIGNAL: libc::c_int = 10;
/// How often the policy changes.
const RELOADS: usize = 20;

/// Two policies that protect settings.js alike.
fn policies(stand_in: &StandIn) -> [Policy; 2] {
    ["one.js", "other.js"].map(|name| {
        let rules = stand_in.policy().deny("settings.js", &super::CHANGES, "settings-js").heal();
        rules.deny(name, &super::CHANGES, "another")
    })
}

#[test]
fn nobody_gets_through_between_two_policies() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policies = policies(&stand_in);
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
    wait::until("settings.js to be what it was", PATIENCE, || Ok(stand_in.is_healed().then_some(())))?;
    guard.stop().map(drop)
}

/// A descriptor whose first write was let through is judged anew by a policy that forbids it.
#[test]
fn a_descriptor_is_judged_by_the_policy_that_is_in_force() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    stand_in.file("data.json", b"[]", 0o644)?;
    let guard = start(&stand_in, &stand_in.policy().file("data.json", &["write"], "log", "data"), &[])?;
    let mut writer = stand_in.begins("linger data.json score")?;
    let pid = u64::from(writer.pid());
    guard.wait_for(PATIENCE, |record| record.rule() == "data" && record.pid() == Some(pid))?;
    let written = || fs::read_to_string(stand_in.user_dir().join("score"));
    wait::until("it to write again", PATIENCE, || Ok(written().is_ok_and(|count| count.len() > 2).then_some(())))?;
    let answer = guard.reload(&stand_in.policy().deny("data.json", &["write"], "data"))?;
    ensure!(answer.contains("in force"), "{answer}");
    let context = || format!("it continues: {:?}", written());
    let status = wait::until("its end", PATIENCE, || writer.ended()).with_context(context)?;
    ensure!(!status.success(), "{status}");
    guard.stop().map(drop)
}

/// A lease on a file: who opens it for writing, or cuts it, waits until this goes away.
struct Lease(fs::File);

impl Lease {
    fn take(path: &Path) -> Result<Self> {
        let lease = Self(fs::File::open(path)?);
        // A waiter is found by a signal that does not kill.
        lease.control(SET_SIGNAL, libc::SIGURG)?;
        lease.control(libc::F_SETLEASE, libc::F_RDLCK).context("the file cannot be leased")?;
        Ok(lease)
    }

    /// Whether somebody waits.
    fn is_wanted(&self) -> Result<bool> {
        Ok(self.control(libc::F_GETLEASE, 0)? != libc::F_RDLCK)
    }

    fn control(&self, command: libc::c_int, argument: libc::c_int) -> Result<libc::c_int> {
        // SAFETY: these commands take and give nothing but numbers.
        let answer = unsafe { libc::fcntl(self.0.as_raw_fd(), command, argument) };
        ensure!(answer >= 0, std::io::Error::last_os_error());
        Ok(answer)
    }
}

/// What the tracepoints have taken down at a call's entry is compared at its exit, where the policy may be another. The name
/// cannot be followed: nothing else tells.
#[test]
fn who_waits_for_a_file_while_the_policy_changes_is_met() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policies = policies(&stand_in);
    let guard = start(&stand_in, &policies[0], &[])?;
    symlink(".", stand_in.user_dir().join("here"))?;
    let lease = Lease::take(&stand_in.settings())?;
    let mut waiting = stand_in.begins("truncate here/settings.js")?;
    wait::until("somebody to wait for the file", PATIENCE, || Ok(lease.is_wanted()?.then_some(())))?;
    ensure!(guard.reload(&policies[1])?.contains("in force"));
    drop(lease);
    let status = wait::until("its end", PATIENCE, || waiting.ended())?;
    let met = |record: &Record| record.is_alert() && record.rule() == "settings-js";
    let context = || format!("it did not match ({status})");
    guard
        .wait_for(PATIENCE, |record| met(record) && record.pid() == Some(waiting.pid().into()))
        .with_context(context)?;
    ensure!(!status.success(), "it has gone through");
    wait::until("settings.js to be what it was", PATIENCE, || Ok(stand_in.is_healed().then_some(())))?;
    guard.stop().map(drop)
}
