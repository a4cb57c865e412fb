//! `docs/bypass-catalogue.md`: what became of each attack on each kernel, as the tests told.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use super::kernels::Kernel;
use crate::cargo;

/// One machine's answers.
pub(super) struct Answers {
    /// The kernel.
    pub(super) kernel: &'static Kernel,
    /// Its version.
    pub(super) version: String,
    /// What the tests printed.
    pub(super) text: String,
}

const HEAD: &str = "# Bypass catalogue

What is tried to get past a rule, and what became of it. Written by `cargo xtask vm` from what the test
`every_attack_is_met` (`tests/tests/kernel`) told inside each kernel; every line is an entry of its list of attacks, each
of which goes through when there is no guard. The rules say `deny`, with `fallback = \"kill\"`.

* **denied**: the operation fails with `EPERM` (`EACCES` for an exec), and nothing has changed;
* **killed before harm**: the process is killed; settings.js is as it was, the file `environment` was not made;
* **killed**: the process is killed; the harm was done before, or would leave no trace to tell by (what was read or sent);
* **not seen**: the sensor cannot see it.

";

/// Writes the catalogue. `all` are in the order of the columns.
pub(super) fn write(all: &[Answers]) -> Result<()> {
    let mut order = Vec::new();
    let mut verdicts: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (column, answers) in all.iter().enumerate() {
        for line in answers.text.lines().filter_map(|line| line.split_once("attack: ").map(|(_, rest)| rest)) {
            let mut fields = line.splitn(3, " | ").map(str::to_owned);
            let (Some(technique), Some(rule), Some(verdict)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let key = (rule, technique);
            if !verdicts.contains_key(&key) {
                order.push(key.clone());
            }
            let row = verdicts.entry(key).or_insert_with(|| vec![String::new(); all.len()]);
            row[column] = verdict;
        }
    }
    let mut text = HEAD.to_owned();
    writeln!(text, "| kernel | version | sensors |\n|---|---|---|")?;
    for Answers { kernel, version, text: said } in all {
        let sensors = said.lines().find_map(|line| line.split_once("sensors: ")).map_or("", |(_, sensors)| sensors);
        writeln!(text, "| {} | {version} | {sensors} |", kernel.name)?;
    }
    write!(text, "\n| rule | technique |")?;
    for answers in all {
        write!(text, " {} |", answers.kernel.name)?;
    }
    writeln!(text, "\n|---|---|{}", "---|".repeat(all.len()))?;
    for key in order {
        let (rule, technique) = &key;
        let row = verdicts.get(&key).map(|row| row.join(" | ")).unwrap_or_default();
        writeln!(text, "| {rule} | {technique} | {row} |")?;
    }
    let file = cargo::root().join("docs/bypass-catalogue.md");
    fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}
