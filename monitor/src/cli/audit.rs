//! `flowwarden audit`

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::Args;
use journal::{stdio::Output, text::terminal::plain};
use monitor::config;
use node_red::instance::audit::{self, AuditReport, Finding, Fix, RULES, Status};
use policy::host::System;
use serde_json::json;

use super::discover::Place;

/// Exit code: a check warns and none fails.
const WARNED: u8 = 3;
/// Exit code: a check fails.
const FAILED: u8 = 4;

#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 every check passes, 1 a part could not be read, 2 the command line or the \
                        policy is wrong, 3 a check warns, 4 a check fails.")]
pub(super) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Audit this instance only, by its name in `flowwarden discover`. Repeat for several.
    #[arg(long, value_name = "NAME")]
    instance: Vec<String>,
    /// Policy file of the guard.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Show passing checks too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let policy = arguments.policy.as_ref().map(|file| config::read(file, &System::new())).transpose()?;
    let policy = policy.map(|(config, _)| config.policy);
    let survey = arguments.place.survey()?;
    if let Some(missing) = arguments.instance.iter().find(|name| !survey.instances.iter().any(|one| one.name == **name))
    {
        bail!("no instance \"{missing}\"; `flowwarden discover` lists the instances");
    }
    let wanted = |name: &String| arguments.instance.is_empty() || arguments.instance.contains(name);
    let mut reports = Vec::new();
    let mut problems = survey.notes.clone();
    for instance in survey.instances.iter().filter(|instance| wanted(&instance.name)) {
        match audit::audit(instance, &survey, arguments.place.root(), policy.as_ref()) {
            Ok(report) => reports.push(report),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if arguments.json {
        writeln!(Output, "{}", serde_json::to_string_pretty(&json!({ "reports": reports, "problems": problems }))?)?;
    } else {
        for problem in &problems {
            writeln!(Output, "problem: {}", plain(problem.as_bytes()))?;
        }
        for report in &reports {
            write!(Output, "{}", text(report, arguments.all))?;
        }
    }
    if reports.is_empty() && !survey.instances.is_empty() {
        bail!("no instance could be audited");
    }
    if survey.instances.is_empty() && !arguments.json {
        writeln!(Output, "no Node-RED instance found")?;
    }
    Ok(match reports.iter().map(AuditReport::worst).max().unwrap_or(Status::Pass) {
        Status::Fail => ExitCode::from(FAILED),
        // What could not be looked at is no pass.
        _ if !problems.is_empty() => ExitCode::from(1),
        Status::Warn => ExitCode::from(WARNED),
        Status::Pass => ExitCode::SUCCESS,
    })
}

/// A report as text, rule by rule.
fn text(report: &AuditReport, all: bool) -> String {
    let mut lines = vec![format!("== {} ==", report.instance)];
    for (number, name) in RULES.iter().enumerate().cycle().skip(1).take(RULES.len()) {
        let findings = report.findings.iter().filter(|finding| usize::from(finding.rule) == number);
        let shown: Vec<_> = findings.filter(|finding| all || finding.status != Status::Pass).collect();
        if !shown.is_empty() {
            lines.push(if number == 0 { (*name).to_owned() } else { format!("{number} {name}") });
        }
        lines.extend(shown.into_iter().flat_map(finding));
    }
    let count = |status| report.findings.iter().filter(|finding| finding.status == status).count();
    let [passed, warned, failed] = [Status::Pass, Status::Warn, Status::Fail].map(count);
    lines.push(format!("{}: {passed} checks pass, {warned} warn, {failed} fail", report.instance));
    lines.into_iter().fold(String::new(), |text, line| text + &plain(line.as_bytes()) + "\n") + "\n"
}

fn finding(finding: &Finding) -> Vec<String> {
    let mut lines = vec![format!("  {} {}: {}", finding.status.name(), finding.check, finding.what)];
    lines.extend(finding.evidence.iter().map(|line| format!("         {line}")));
    if finding.status != Status::Pass {
        for fix in &finding.remediation {
            let (what, text) = match fix {
                Fix::Shell(line) => ("#", line),
                Fix::Settings(text) => ("settings.js:", text),
                Fix::Systemd(text) => ("drop-in:", text),
                Fix::Advice(text) => (">", text),
            };
            let mut text = text.lines();
            lines.push(format!("       {what} {}", text.next().unwrap_or_default()));
            lines.extend(text.map(|line| format!("           {line}")));
        }
    }
    lines
}
