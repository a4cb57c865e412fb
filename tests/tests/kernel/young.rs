//! Files that are created while the guard runs.

use std::{fs, thread, time::Duration};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    guard::MADE,
    stand_in::StandIn,
    wait::{PATIENCE, until},
};

use super::{CHANGES, start};

/// The guard looks at what is there once a second.
const LOOK: Duration = Duration::from_millis(1200);

/// The messages about a new file have an end, also if it never settles.
#[test]
fn a_file_that_goes_before_it_is_made_is_told_to_be_gone() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let guard = start(&stand_in, &stand_in.policy().deny("young.js", &["write"], "young"), &[])?;
    let (path, mut mark) = (stand_in.user_dir().join("young.js"), 0);
    for end in ["young.js was removed before it settled", MADE] {
        let (_, status) = stand_in.does("create young.js")?;
        ensure!(status.success(), "the maker is not let through: {status}\n{}", guard.console().text());
        guard.console().wait_for(mark, "young.js was just created", PATIENCE)?;
        if end != MADE {
            fs::remove_file(&path)?;
        }
        guard.console().wait_for(mark, end, PATIENCE)?;
        mark = guard.console().mark();
    }
    let (_, status) = stand_in.does("append young.js")?;
    ensure!(!status.success(), "what is made is not protected");
    guard.stop().map(drop)
}

/// A restored file has no settling time, also if the guard has noticed its removal.
#[test]
fn a_file_that_is_put_back_is_protected_at_once() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policy = stand_in.policy().deny("settings.js", &CHANGES, "settings-js").heal();
    let guard = start(&stand_in, &policy, &[])?;
    // Whether it looks first at what is there or at what has happened is a matter of luck.
    for _ in 0..8 {
        guard.standing_still(|| {
            let (_, status) = stand_in.does("unlink settings.js")?;
            ensure!(!status.success(), "the process is not stopped: {status}");
            thread::sleep(LOOK);
            Ok(())
        })?;
        until("settings.js to be healed", PATIENCE, || Ok(stand_in.is_healed().then_some(())))?;
        let (_, status) = stand_in.does("append settings.js")?;
        ensure!(!status.success(), "what was put back is open: {status}\n{}", guard.console().text());
    }
    guard.stop().map(drop)
}
