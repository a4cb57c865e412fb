//! Policies at the limit of what fits, and beyond it.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use flowwarden_tests::{cli, guard::Guard, policy::Policy, stand_in::StandIn, wait};

/// As many as a large installation has.
const RULES: usize = 10_000;
/// What the guard may hold with that many, in KiB.
const MOST_KIB: u64 = 64 * 1024;

/// A policy with many rules for files and as many for networks, the last of which are about things that are there.
fn policy(stand_in: &StandIn, rules: usize) -> Policy {
    let mut paths = String::new();
    let mut nets = String::new();
    for at in 0..rules {
        // Writing to a String cannot fail.
        let _ = writeln!(paths, "  \"many/{}/{at}\",", at % 100);
        let _ = writeln!(nets, "  \"10.{}.{}.{}/30\",", at >> 14 & 0xff, at >> 6 & 0xff, (at & 0x3f) * 4);
    }
    stand_in.policy().deny("settings.js", &super::CHANGES, "settings-js").with(&format!(
        "[[instance.files]]\nid = \"many\"\npaths = [\n{paths}]\naccess = [\"create\", \"write\"]\nverdict = \"deny\"\n\
         fallback = \"kill\"\n\n[[instance.egress]]\nid = \"nets\"\nto = [\n{nets}]\nverdict = \"deny\"\nfallback = \"kill\"\n"
    ))
}

#[test]
fn ten_thousand_rules_for_files_and_as_many_for_networks_hold() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let guard = super::start(&stand_in, &policy(&stand_in, RULES), &[])?;
    for what in ["mkdir many", "mkdir many/99"] {
        let (_, status) = stand_in.does(what)?;
        ensure!(status.success(), "{what}: {status}\n{}", guard.console().text());
    }
    let last = RULES - 1;
    let net = format!("10.{}.{}.{}:9", last >> 14 & 0xff, last >> 6 & 0xff, (last & 0x3f) * 4 + 1);
    for (what, rule) in [(format!("create many/99/{last}"), "many"), (format!("udp {net}"), "nets")] {
        let (pid, status) = stand_in.does(&what)?;
        ensure!(!status.success(), "{what} goes through");
        let met = |record: &flowwarden_tests::record::Record| {
            record.rule() == rule && record.is_alert() && record.pid() == Some(pid.into())
        };
        guard.wait_for(wait::PATIENCE, met)?;
    }
    let (_, status) = stand_in.does("create many/99/other")?;
    ensure!(status.success(), "what no rule names is closed: {status}");
    let memory = guard.memory()?;
    println!("{RULES} rules each: {} KiB, {} KiB at the most", memory.now_kib, memory.peak_kib);
    ensure!(memory.now_kib < MOST_KIB, "the guard holds {} KiB", memory.now_kib);
    guard.stop().map(drop)
}

#[test]
fn more_rules_than_fit_are_refused_with_the_reason() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let directory = Guard::new_directory()?;
    let file = directory.path().join("policy.toml");
    std::fs::write(&file, policy(&stand_in, 70_000).text())?;
    let answer = cli::flowwarden(&["check", &file.display().to_string()])?;
    ensure!(answer.code == Some(2), "{answer:?}");
    let said = answer.text + &answer.errors;
    ensure!(said.contains("rules, one for each path; at most"), "{said}");
    Ok(())
}
