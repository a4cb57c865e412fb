//! `flowwarden simulate`

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::SystemTime,
};

use ::journal::{
    format::rfc3339_seconds,
    text::terminal::{plain, shown},
};
use clap::Args;
use monitor::{
    config::{self, Config, ConfigError},
    evidence::simulate::{Judge, Report, Tally, simulate},
};
use policy::host::System;

use super::{
    journal::{self, DIRECTORY, time},
    with_peers,
};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Policy to simulate. Its mode is ignored.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Directory of the journal.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    journal: PathBuf,
    /// Start: a time (2026-01-31T08:00:00Z) or an age (15m, 2h, 7days).
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (Config { policy, .. }, _) = config::read(&arguments.policy, &System::expected())?;
    let mut judge = Judge::new(&policy, &with_peers(&policy))
        .map_err(|fault| ConfigError::Faulty { path: arguments.policy.clone(), faults: vec![fault] })?;
    journal::look(&arguments.journal)?;
    let report = simulate(&mut judge, &arguments.journal, arguments.since)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let done = if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        tell(&mut out, &report)
    };
    match done.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn example(out: &mut dyn Write, tally: &Tally) -> io::Result<()> {
    writeln!(
        out,
        "             event {}, {}: {}",
        tally.event,
        rfc3339_seconds(tally.time),
        shown(tally.example.as_bytes())
    )
}

fn tell(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for fault in &report.faults {
        writeln!(out, "problem: {}", plain(fault.as_bytes()))?;
    }
    let more = report.faulty_lines - report.faults.len() as u64;
    if more > 0 {
        writeln!(out, "problem: {more} more lines are not events; see flowwarden journal verify")?;
    }
    if report.operations == 0 {
        writeln!(out, "the journal has no events about the instances of this policy")?;
    } else {
        let (count, first, last) = (report.operations, rfc3339_seconds(report.first), rfc3339_seconds(report.last));
        writeln!(out, "{count} operations from {first} to {last}, as if the policy were enforced")?;
    }
    if report.strangers > 0 {
        writeln!(out, "{} more are about instances that this policy does not have", report.strangers)?;
    }
    writeln!(out, "\nwould have been denied or killed: {}", none(report.stopped.len()))?;
    for row in &report.stopped {
        let rule = plain(row.rule.as_bytes());
        writeln!(out, "  {:>8}  {} by {rule} ({})", row.tally.count, row.verdict, plain(row.instance.as_bytes()))?;
        example(out, &row.tally)?;
    }
    writeln!(out, "\nverdicts that differ from the journal: {}", none(report.changes.len()))?;
    for row in &report.changes {
        let [old, new] = [&row.old_rule, &row.new_rule].map(|rule| plain(rule.as_bytes()));
        let instance = plain(row.instance.as_bytes());
        writeln!(out, "  {:>8}  {} by {old} -> {} by {new} ({instance})", row.tally.count, row.old, row.new)?;
        example(out, &row.tally)?;
    }
    if !report.unclear.is_empty() {
        writeln!(out, "\nnot evaluated, and not counted above:")?;
    }
    for row in &report.unclear {
        let (rule, instance) = (plain(row.rule.as_bytes()), plain(row.instance.as_bytes()));
        writeln!(out, "  {:>8}  {}; perhaps {} by {rule} ({instance})", row.tally.count, row.why, row.perhaps)?;
        example(out, &row.tally)?;
    }
    if report.more > 0 {
        writeln!(out, "\nand {} more events, for which there are too many different rules", report.more)?;
    }
    Ok(())
}

fn none(count: usize) -> &'static str {
    if count == 0 { "nothing" } else { "" }
}
