//! Two rules that meet in one operation: the stronger one decides, and what heals at either end heals.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    guard::Guard,
    policy::Policy,
    stand_in::StandIn,
    wait::{PATIENCE, until},
};

use super::{CHANGES, beside, start};

/// What is outside of the user directory is denied and only logged where a sensor cannot deny, as the preset `strict` has
/// it; settings.js is denied and kills.
fn policy(stand_in: &StandIn) -> Policy {
    let all = ["write", "create", "delete", "rename", "link", "attr"];
    let policy = stand_in.policy().file("/**", &all, "deny", "host-files").with("fallback = \"log\"");
    let home = beside(stand_in, "home").display().to_string();
    policy
        .file(".", &all, "allow", "own-directory")
        .file("**", &all, "allow", "own-files")
        .file(&format!("{home}/killing"), &all, "kill", "killing")
        .deny("settings.js", &CHANGES, "settings-js")
        .heal()
        .deny("other.js", &CHANGES, "other-js")
        .heal()
}

struct Stage {
    stand_in: StandIn,
    guard: Guard,
}

impl Stage {
    fn new() -> Result<Self> {
        let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
        stand_in.file("other.js", b"other\n", 0o644)?;
        stand_in.directory(&beside(&stand_in, "home"))?;
        symlink(".", stand_in.user_dir().join("around"))?;
        let guard = start(&stand_in, &policy(&stand_in), &[])?;
        Ok(Self { stand_in, guard })
    }

    /// Has the stand-in try it with a file of its own beside the user directory, which must be no use.
    fn refuses(&self, what: &str, rule: &str) -> Result<()> {
        let home = beside(&self.stand_in, "home");
        for name in ["x", "killing"] {
            fs::write(home.join(name), "tampered")?;
            std::os::unix::fs::chown(home.join(name), Some(self.stand_in.uid), Some(self.stand_in.uid))?;
        }
        let (pid, status) = self.stand_in.does(what)?;
        let console = || self.guard.console().text();
        ensure!(!status.success(), "`{what}` goes through: {}", console());
        let met = self
            .guard
            .wait_for(PATIENCE, |record| record.pid() == Some(pid.into()) && record.rule() == rule)
            .with_context(|| format!("`{what}` ({status}): {}", console()))?;
        ensure!(matches!(met.verdict(), "deny" | "kill"), "`{what}`: {met:#?}");
        let good = || {
            let other = fs::read(self.stand_in.user_dir().join("other.js")).is_ok_and(|content| content == b"other\n");
            Ok((self.stand_in.is_healed() && other).then_some(()))
        };
        until("both files to be as they were", PATIENCE, good).with_context(|| format!("`{what}`: {}", console()))
    }
}

#[test]
fn a_mild_rule_at_the_other_end_does_not_protect_an_attacker() -> Result<()> {
    let stage = Stage::new()?;
    for what in [
        "rename ../home/x settings.js",
        "exchange ../home/x settings.js",
        "exchange settings.js ../home/x",
        "rename settings.js ../home/away",
        "link settings.js ../home/alias",
        // No name leads to the file: its state tells.
        "rename ../home/x around/settings.js",
    ] {
        stage.refuses(what, "settings-js")?;
    }
    stage.guard.stop().map(drop)
}

#[test]
fn what_heals_at_either_end_heals() -> Result<()> {
    let stage = Stage::new()?;
    for (what, rule) in [
        ("rename ../home/killing settings.js", "killing"),
        ("rename ../home/killing around/settings.js", "killing"),
        ("rename other.js settings.js", "settings-js"),
        ("exchange other.js settings.js", "settings-js"),
        ("exchange settings.js other.js", "settings-js"),
        ("exchange around/other.js around/settings.js", "settings-js"),
    ] {
        stage.refuses(what, rule)?;
    }
    stage.guard.stop().map(drop)
}
