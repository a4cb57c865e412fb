//! What was opened before the guard came.

use std::{fs, os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Result, ensure};
use flowwarden_tests::{stand_in::StandIn, wait};

const PATIENCE: Duration = Duration::from_mins(1);

/// No open is there to be judged, and no call tells of the store: the mapping is the only moment.
#[test]
fn an_older_descriptor_is_not_mapped_for_writing() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let gate = stand_in.user_dir().join("gate");
    let mut older = stand_in.begins("map-when settings.js gate")?;
    wait::until("the descriptor", PATIENCE, || Ok(gate.exists().then_some(())))?;
    let policy = stand_in.policy().deny("settings.js", &super::CHANGES, "settings-js");
    let guard = super::start(&stand_in, &policy, &[])?;
    fs::remove_file(&gate)?;
    let status = wait::until("its end", PATIENCE, || older.ended())?;
    let pid = u64::from(older.pid());
    let alert = guard.wait_for(PATIENCE, |record| record.is_alert() && record.pid() == Some(pid))?;
    let killed = status.signal() == Some(super::SIGKILL);
    ensure!(killed || status.code() == Some(super::EPERM), "neither killed nor refused: {status}");
    ensure!((alert.rule(), alert.hook()) == ("settings-js", "mmap"), "{alert:#?}");
    ensure!((alert.verdict() == "deny") != killed, "{status}: {alert:#?}");
    ensure!(stand_in.is_intact(), "it has stored");
    guard.stop().map(drop)
}
