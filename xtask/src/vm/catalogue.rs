//! `docs/explanation/bypass-catalogue.md`: the outcome of each attack on each kernel, as the tests report.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Answers;
use crate::cargo;

const HEAD: &str = "# Bypass catalogue

Every technique that is tried to get past a rule, and the result on each kernel. `cargo xtask vm` writes this page from the results of
the test `every_attack_is_met` (`tests/tests/kernel`) inside each kernel. Each line is an entry of its list of attacks, and each attack
succeeds without a guard. The rules say `deny`, with `fallback = \"kill\"`.

* **denied**: the operation fails with `EPERM` (`EACCES` for an exec), and nothing has changed;
* **killed before harm**: the process is killed; settings.js is unchanged, the file `environment` was not created;
* **killed and healed**: the process is killed after the change, and settings.js was restored from its baseline;
* **killed**: the process is killed; the change came first, or its effect leaves no trace to test for (what was read or sent);
* **not seen**: the sensor cannot see it, for the reason below the table.

Operations of another process on behalf of the instance (cron, at, systemd, a container engine) are not operations of the instance: deny
the access to that process, as `docker` and `syslog` below do. Stores through a shared writable mapping from before the guard started
make no system call, and no sensor sees them: start the guard before what it guards. The same holds for a mapping of a file from before it
took a protected name.

";

/// What came of each attack on each kernel, in the order of the attacks.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    kernels: Vec<String>,
    /// Rule, technique, and a verdict for each kernel.
    rows: Vec<(String, String, Vec<String>)>,
}

impl Table {
    /// From the answers of the machines.
    fn answered(all: &[Answers]) -> Self {
        let mut rows: Vec<(String, String, Vec<String>)> = Vec::new();
        for (column, answers) in all.iter().enumerate() {
            for [technique, rule, verdict] in said(answers, "attack: ") {
                let known = rows.iter().position(|(known, other, _)| known == rule && other == technique);
                let row = known.unwrap_or_else(|| {
                    rows.push((rule.to_owned(), technique.to_owned(), vec![String::new(); all.len()]));
                    rows.len() - 1
                });
                verdict.clone_into(&mut rows[row].2[column]);
            }
        }
        Self { kernels: all.iter().map(|answers| answers.kernel.name.to_owned()).collect(), rows }
    }

    /// As a catalogue says.
    fn written(catalogue: &str) -> Self {
        let mut lines = catalogue.lines().map(cells).skip_while(|cells| cells.first() != Some(&"rule"));
        let kernels = lines.next().unwrap_or_default().into_iter().skip(2).map(str::to_owned).collect();
        let row = |cells: Vec<&str>| {
            let (rule, technique) = (cells.first()?.to_string(), cells.get(1)?.to_string());
            Some((rule, technique, cells.into_iter().skip(2).map(str::to_owned).collect()))
        };
        // A line of dashes comes after the head.
        Self { kernels, rows: lines.skip(1).filter_map(row).collect() }
    }

    /// The verdict on an attack on a kernel.
    fn verdict(&self, rule: &str, technique: &str, kernel: &str) -> Option<&str> {
        let column = self.kernels.iter().position(|known| known == kernel)?;
        let row = self.rows.iter().find(|(known, other, _)| known == rule && other == technique)?;
        row.2.get(column).map(String::as_str)
    }

    /// What is said here and not there, in words.
    fn differences(&self, from: &Self) -> Vec<String> {
        let mut all = Vec::new();
        for (rule, technique, verdicts) in &self.rows {
            for (kernel, now) in self.kernels.iter().zip(verdicts) {
                let was = from.verdict(rule, technique, kernel);
                if was.map(comparable) != Some(comparable(now)) {
                    all.push(format!("{kernel}: {technique} ({rule}): {now}, was {}", was.unwrap_or("not listed")));
                }
            }
        }
        all
    }
}

/// A file that was healed before anybody looked is taken for one that came to no harm: which of the two is a matter of
/// time, and not of the guard.
fn comparable(verdict: &str) -> &str {
    if verdict == "killed and healed" { "killed before harm" } else { verdict }
}

/// The cells of a row.
fn cells(line: &str) -> Vec<&str> {
    let inner = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
    inner.map(|inner| inner.split(" | ").collect()).unwrap_or_default()
}

fn file() -> PathBuf {
    cargo::root().join("docs/explanation/bypass-catalogue.md")
}

/// Checks that the catalogue agrees with the answers of the machines.
pub(super) fn compare(all: &[Answers]) -> Result<()> {
    let text = fs::read_to_string(file()).with_context(|| format!("{} is missing", file().display()))?;
    let (answered, written) = (Table::answered(all), Table::written(&text));
    let mut differences = answered.differences(&written);
    let booted = |line: &String| answered.kernels.iter().any(|kernel| line.starts_with(&format!("{kernel}: ")));
    let gone = written.differences(&answered).into_iter().filter(|line| line.ends_with("not listed"));
    differences.extend(gone.filter(booted));
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "{} differs from the answers of the kernels; review each line, then write it with `cargo xtask vm`:\n{}",
        file().display(),
        differences.join("\n")
    )
}

/// Writes the catalogue. `all` are in the order of the columns.
pub(super) fn write(all: &[Answers]) -> Result<()> {
    let table = Table::answered(all);
    let mut text = HEAD.to_owned();
    writeln!(text, "| kernel | version | sensors |\n|---|---|---|")?;
    for Answers { kernel, version, text: said } in all {
        let sensors = said.lines().find_map(|line| line.split_once("sensors: ")).map_or("", |(_, sensors)| sensors);
        writeln!(text, "| {} | {version} | {sensors} |", kernel.name)?;
    }
    writeln!(text, "\n| rule | technique | {} |", table.kernels.join(" | "))?;
    writeln!(text, "|---|---|{}", "---|".repeat(all.len()))?;
    for (rule, technique, verdicts) in &table.rows {
        writeln!(text, "| {rule} | {technique} | {} |", verdicts.join(" | "))?;
    }
    writeln!(
        text,
        "\n## Not seen\n\nBy the tracepoint sensor, with the reason. Sensors on security hooks see all of it.\n"
    )?;
    writeln!(text, "{}", reasons(all).join("\n"))?;
    fs::write(file(), text).with_context(|| format!("{} cannot be written", file().display()))?;
    println!("written: {}", file().display());
    Ok(())
}

/// What the tests said in lines with this word: a technique, its rule, and what is said of it.
fn said<'a>(answers: &'a Answers, word: &'a str) -> impl Iterator<Item = [&'a str; 3]> {
    let lines = answers.text.lines().filter_map(move |line| Some(line.split_once(word)?.1));
    lines.filter_map(|line| line.splitn(3, " | ").collect::<Vec<_>>().try_into().ok())
}

/// Why something is not seen, each once.
fn reasons(all: &[Answers]) -> Vec<String> {
    let mut reasons = Vec::new();
    for [technique, rule, reason] in all.iter().flat_map(|answers| said(answers, "reason: ")) {
        let line = format!("* {technique} ({rule}): {reason}.");
        if !reasons.contains(&line) {
            reasons.push(line);
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "# Bypass catalogue

| kernel | version | sensors |
|---|---|---|
| a | 1 | lsm |

| rule | technique | a | b |
|---|---|---|---|
| r | unlink(2) | denied | killed |
";

    fn table(verdicts: [&str; 2]) -> Table {
        let verdicts = verdicts.map(str::to_owned).to_vec();
        let rows = vec![("r".to_owned(), "unlink(2)".to_owned(), verdicts)];
        Table { kernels: vec!["a".to_owned(), "b".to_owned()], rows }
    }

    #[test]
    fn a_catalogue_is_read_as_it_is_written() {
        assert_eq!(Table::written(WRITTEN), table(["denied", "killed"]));
    }

    #[test]
    fn a_verdict_that_changes_is_told() {
        let now = table(["denied", "not seen"]);
        assert_eq!(now.differences(&Table::written(WRITTEN)), ["b: unlink(2) (r): not seen, was killed"]);
        assert!(table(["denied", "killed"]).differences(&Table::written(WRITTEN)).is_empty());
    }

    #[test]
    fn what_is_missing_on_one_side_is_told() {
        let nothing = Table { kernels: Vec::new(), rows: Vec::new() };
        assert_eq!(Table::written(WRITTEN).differences(&nothing).len(), 2);
    }
}
