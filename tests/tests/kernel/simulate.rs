//! What `flowwarden simulate` says about a journal is what the kernel has done.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{cli, policy::Policy};
use serde_json::Value;

use super::{ATTACKS, CHANGES, HARMLESS, Stage, beside, start};

/// Rules of every kind that log, deny and kill.
fn policy(stage: &Stage) -> Policy {
    let docker = beside(&stage.stand_in, "docker.sock").display().to_string();
    stage
        .stand_in
        .policy()
        .deny("settings.js", &CHANGES, "settings-js")
        .file("*.pem", &["read"], "kill", "certificates")
        .deny("key.pem", &["read"], "keys")
        .file("flows.json", &["write", "rename"], "log", "flows")
        .deny("environment", &["create", "write"], "environment")
        .deny(&docker, &["write"], "docker")
        .deny_exec("rogue", "programs")
        .egress(&["127.0.0.0/8"], "deny", "egress")
        .by_default("files", "log")
        .by_default("exec", "log")
        .by_default("ingress", "log")
        .deny_by_default("raw-socket")
        .deny_by_default("socket")
        .deny_by_default("kernel")
}

/// The rules and classes of that policy.
const RULES: &[&str] = &[
    "settings-js",
    "certificates",
    "keys",
    "environment",
    "docker",
    "programs",
    "egress",
    "default-raw-socket",
    "default-socket",
    "default-kernel",
    "guard-files",
];

fn rows(report: &Value, list: &str) -> Vec<(String, u64)> {
    let rows = report[list].as_array().into_iter().flatten();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rule = |rule: String| if rule == "the guard's own" { "guard-files".to_owned() } else { rule };
    rows.map(|row| {
        (format!("{} {}", rule(text(row, "rule")), text(row, "verdict")), row["count"].as_u64().unwrap_or_default())
    })
    .collect()
}

#[test]
fn a_policy_over_its_own_journal_decides_as_the_kernel_did() -> Result<()> {
    for sensors in ["lsm,fentry,kprobe,tracepoint", "tracepoint"] {
        let stage = Stage::new()?;
        let mut guard = start(&stage.stand_in, &policy(&stage), &["--sensors", sensors])?;
        for attack in ATTACKS.iter().filter(|attack| RULES.contains(&attack.rule)) {
            stage.attempt(attack, Some(&guard))?;
            stage.restore()?;
        }
        for what in HARMLESS {
            stage.stand_in.does(&stage.words(what, Some(&guard))?)?;
        }
        let records = guard.end()?;
        let (file, journal) =
            (guard.policy_file().display().to_string(), guard.journal_directory().display().to_string());
        let answer = cli::flowwarden(&["simulate", "--policy", &file, "--journal", &journal, "--json"])?;
        ensure!(answer.code == Some(0), "{answer:?}");
        let report: Value = serde_json::from_str(&answer.text)?;

        let operations: Vec<_> =
            records.iter().filter(|it| !it.hook().is_empty() && it.hook() != "write_totals").collect();
        ensure!(operations.len() > 100, "next to nothing is in the journal: {}", operations.len());
        ensure!(report["operations"] == operations.len(), "{report:#}");
        // Whatever the policy wants is what the kernel wanted, event by event.
        ensure!(report["changes"].as_array().is_some_and(Vec::is_empty), "{sensors}: {:#}", report["changes"]);
        ensure!(report["faulty_lines"] == 0, "{report:#}");
        // The remaining ones are reported as not evaluated.
        let mut done: BTreeMap<String, u64> = BTreeMap::new();
        for record in operations.iter().filter(|it| matches!(it.verdict(), "deny" | "kill")) {
            *done.entry(format!("{} {}", record.rule(), record.verdict())).or_default() += 1;
        }
        ensure!(done.len() > 8, "too little was denied or killed: {done:?}");
        let mut missing = 0;
        let stopped: BTreeMap<_, _> = rows(&report, "stopped").into_iter().collect();
        for (what, count) in &done {
            let simulated = stopped.get(what).copied().unwrap_or_default();
            missing += count
                .checked_sub(simulated)
                .with_context(|| format!("{sensors}: more of {what}: {stopped:?} {done:?}"))?;
        }
        ensure!(stopped.keys().all(|what| done.contains_key(what)), "{sensors}: {stopped:?} {done:?}");
        let unclear: u64 = rows(&report, "unclear").iter().map(|(_, count)| count).sum();
        println!(
            "{sensors}: {} operations, {unclear} unclear, {missing} of them stopped by the kernel",
            operations.len()
        );
        ensure!(missing <= unclear, "{sensors}: {missing} are not reported: {stopped:?} {done:?}");
        ensure!(unclear * 10 <= operations.len() as u64, "{sensors}: {unclear} unclear: {:#}", report["unclear"]);
    }
    Ok(())
}
