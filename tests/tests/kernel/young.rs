//! Files that come to be while the guard looks on.

use std::fs;

use anyhow::{Result, ensure};
use flowwarden_tests::{guard::MADE, stand_in::StandIn, wait::PATIENCE};

use super::start;

/// What is told of a file must have an end, also when nobody ever finishes it.
#[test]
fn a_file_that_goes_before_it_is_made_is_told_to_be_gone() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let guard = start(&stand_in, &stand_in.policy().deny("young.js", &["write"], "young"), &[])?;
    let (path, mut mark) = (stand_in.user_dir().join("young.js"), 0);
    for end in ["young.js is gone again before it was made", MADE] {
        let (_, status) = stand_in.does("create young.js")?;
        ensure!(status.success(), "the maker is not let through: {status}\n{}", guard.console().text());
        guard.console().wait_for(mark, "young.js has just come to be", PATIENCE)?;
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
