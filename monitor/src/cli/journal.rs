//! `flowwarden journal`

use std::{
    fs,
    io::{self, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use journal::{
    checkpoint::Checkpoint,
    format::{Format, rfc3339},
    key::PublicKey,
    query::{Filter, Query},
    segment,
    stdio::complain,
    text::terminal::{plain, shown},
    verify::{self, Report, Request},
};
use serde_json::Value;

/// Default directory of the journal.
pub(super) const DIRECTORY: &str = "/var/log/flowwarden";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Verify that no line was changed or removed, and that the journal is signed
    #[command(
        after_help = "Exit codes: 0 complete and signed, 1 the journal cannot be read, 2 the command line is wrong, \
                      3 damaged, 4 lines or segments are missing, 5 the end is not signed, 6 a signature or key does not hold. \
                      Of several the gravest: 6, 3, 4, 5."
    )]
    Verify(VerifyArguments),
    /// Print the events that match all conditions
    Query(QueryArguments),
    /// Export events in another format
    Export(ExportArguments),
}

#[derive(Args, Debug)]
struct VerifyArguments {
    /// Directory of the journal.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    journal: PathBuf,
    /// First public key of the journal, from a copy of its `public.key` that is kept elsewhere.
    #[arg(long, value_name = "FILE")]
    pubkey: Option<PathBuf>,
    /// File with a checkpoint that is kept elsewhere: lines of a `.checkpoints` file, or events that carry one. The last
    /// line is used.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Conditions {
    /// Directory of the journal.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    journal: PathBuf,
    /// Print incidents only: related events, reported once and counted.
    #[arg(long)]
    incidents: bool,
    /// Start: a time (2026-01-31T08:00:00Z) or an age (15m, 2h, 7days).
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// End: a time or an age.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
    /// Instance. Repeat for several.
    #[arg(long, value_name = "NAME")]
    instance: Vec<String>,
    /// Rule id. Repeat for several.
    #[arg(long, value_name = "ID")]
    rule: Vec<String>,
    /// Verdict. Repeat for several.
    #[arg(long, value_name = "VERDICT", value_parser = ["log", "deny", "kill"])]
    verdict: Vec<String>,
    /// Text that the path of a file contains.
    #[arg(long, value_name = "TEXT")]
    path: Option<String>,
    /// Address, or network that contains the address.
    #[arg(long, value_name = "ADDRESS", value_parser = network)]
    address: Option<IpNet>,
}

#[derive(Args, Debug)]
struct QueryArguments {
    #[command(flatten)]
    conditions: Conditions,
    /// Print events as JSON Lines instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ExportArguments {
    #[command(flatten)]
    conditions: Conditions,
    /// Format: jsonl (lines of the journal), ocsf, ecs or cef.
    #[arg(long, value_name = "FORMAT")]
    format: Format,
}

/// A time or an age.
pub(super) fn time(text: &str) -> Result<SystemTime, String> {
    if let Some(time) = rfc3339_time(text) {
        return Ok(time);
    }
    let ago: Duration = humantime::parse_duration(text).map_err(|_| {
        "expected a time such as 2026-01-31T08:00:00Z or 2026-01-31T09:00:00+01:00, or an age such as 15m".to_owned()
    })?;
    Ok(SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH))
}

/// A time of RFC 3339, with any offset; one without an offset is UTC. `humantime` knows no offset but `Z`.
fn rfc3339_time(text: &str) -> Option<SystemTime> {
    let (local, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, None),
        None => match text.split_at_checked(text.len().checked_sub("+00:00".len())?)? {
            (local, offset) if offset.starts_with(['+', '-']) => (local, Some(offset)),
            _ => (text, None),
        },
    };
    let fraction = local.get("2026-01-31T08:00:00".len()..)?;
    let digits = fraction.strip_prefix('.').unwrap_or("0");
    let is_fraction = fraction.is_empty() || fraction.starts_with('.');
    if !is_fraction || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let time = humantime::parse_rfc3339_weak(&local.to_ascii_uppercase()).ok()?;
    let Some(offset) = offset else { return Some(time) };
    let two = |text: &str, most: u64| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|&number: &u64| is_number && number <= most)
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    let ahead = Duration::from_secs((two(hours, 23)? * 60 + two(minutes, 59)?) * 60);
    let utc = if offset.starts_with('+') { time.checked_sub(ahead) } else { time.checked_add(ahead) };
    utc.filter(|&utc| utc >= UNIX_EPOCH)
}

fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
    net.map_err(|_| "expected an address such as 203.0.113.9 or a network such as 203.0.113.0/24".to_owned())
}

/// Fails without a journal: an empty result would read as a quiet one.
pub(super) fn look(directory: &Path) -> anyhow::Result<()> {
    let none = !directory.exists() || segment::list(directory)?.is_empty();
    ensure!(!none, "{}: no journal here; pass its directory with --journal", directory.display());
    Ok(())
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Verify(arguments) => verify(&arguments),
        Command::Query(QueryArguments { conditions, json }) if json => {
            stream(conditions, |out, line, _| out.write_all(line))
        }
        Command::Query(QueryArguments { conditions, .. }) => {
            let terminal = io::stdout().is_terminal();
            stream(conditions, move |out, _, event| row(out, event, terminal))
        }
        Command::Export(ExportArguments { conditions, format }) => stream(conditions, move |out, line, event| {
            out.write_all(&format.render(line, event))?;
            out.write_all(b"\n")
        }),
    }
}

/// Passes each matching event to `print`.
fn stream(
    conditions: Conditions,
    mut print: impl FnMut(&mut dyn Write, &[u8], &Value) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    let Conditions { journal, incidents, since, until, instance, rule, verdict, path, address } = conditions;
    let filter = Filter { incidents, since, until, instances: instance, rules: rule, verdicts: verdict, path, address };
    look(&journal)?;
    let mut query = Query::new(&journal, filter)?;
    let mut out = BufWriter::new(io::stdout().lock());
    while let Some((line, event)) = query.next_event()? {
        match print(&mut out, line, &event) {
            // The reader closed the pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            printed => printed?,
        }
    }
    if let Some(damage) = query.damage() {
        complain(&format_args!("{}; see flowwarden journal verify", plain(damage.as_bytes())));
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A row of the table. Control characters in events are escaped.
fn row(out: &mut dyn Write, event: &Value, shorten: bool) -> io::Result<()> {
    let time = rfc3339(event["time"].as_i64().unwrap_or_default());
    let verdict = event["unmapped"]["verdict"].as_str().or(event["activity_name"].as_str()).unwrap_or_default();
    let message = event["message"].as_str().unwrap_or_default();
    let message = if shorten { shown(message.as_bytes()) } else { plain(message.as_bytes()) };
    writeln!(out, "{time}  {:<10}  {message}", plain(verdict.as_bytes()).to_lowercase())
}

fn verify(arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()));
    let public_key = arguments
        .pubkey
        .as_deref()
        .map(|path| read(path)?.parse::<PublicKey>().map_err(|why| anyhow!("{}: {why}", path.display())));
    let against = arguments
        .against
        .as_deref()
        .map(|path| Checkpoint::last_of(&read(path)?).map_err(|why| anyhow!("{}: {why}", path.display())));
    // A journal whose segments were removed still has keys, and is reported as damaged.
    if !arguments.journal.join("keys.jsonl").exists() {
        look(&arguments.journal)?;
    }
    let request = Request { public_key: public_key.transpose()?, against: against.transpose()? };
    let report = verify::verify(&arguments.journal, &request)?;
    // The exit code holds also if the reader closes the pipe early.
    let _ = tell(&report, &request);
    Ok(report.worst().map_or(ExitCode::SUCCESS, |worst| ExitCode::from(worst.exit_code())))
}

fn tell(report: &Report, request: &Request) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for fault in &report.faults {
        writeln!(out, "{}", plain(fault.to_string().as_bytes()))?;
    }
    if report.more > 0 {
        writeln!(out, "and {} more", report.more)?;
    }
    writeln!(out, "{} lines in {} segments, signed up to line {}", report.lines, report.segments, report.signed)?;
    if report.removed > 0 {
        writeln!(out, "segments 1 to {} were removed by retention, as the journal records", report.removed)?;
    }
    if report.against_is_gone {
        writeln!(out, "the given checkpoint is about a removed segment and cannot be compared")?;
    }
    if report.in_use && report.last > report.signed {
        writeln!(out, "a guard is running: it signs the last {} lines within a second", report.last - report.signed)?;
    }
    if let (Some(key), None) = (report.first_key, request.public_key) {
        writeln!(
            out,
            "first key {key}; a process that can rewrite the journal can also replace its key: keep a copy of public.key \
             elsewhere, and give it as --pubkey"
        )?;
    }
    let outcome = match report.worst() {
        None => "whole",
        Some(_) => "NOT whole",
    };
    writeln!(out, "the journal is {outcome}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_any_offset_that_rfc_3339_has() {
        let utc = |text: &str| humantime::parse_rfc3339(text).unwrap();
        for (text, expected) in [
            ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00Z"),
            ("2026-01-31T09:00:00+01:00", "2026-01-31T08:00:00Z"),
            ("2026-01-31t08:00:00z", "2026-01-31T08:00:00Z"),
            ("2026-01-31 08:00:00", "2026-01-31T08:00:00Z"),
            ("2026-01-31 08:00:00+00:00", "2026-01-31T08:00:00Z"),
            ("2026-01-31T08:00:00-00:00", "2026-01-31T08:00:00Z"),
            ("2026-01-31T00:30:00.25+05:45", "2026-01-30T18:45:00.250Z"),
            ("2026-01-31T23:30:00.123456-09:30", "2026-02-01T09:00:00.123456Z"),
            ("2026-01-31T23:59:60+23:59", "2026-01-31T00:00:59Z"),
            ("1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(time(text), Ok(utc(expected)), "{text}");
        }
        let earlier = || SystemTime::now().checked_sub(Duration::from_hours(2)).unwrap();
        let (before, ago, after) = (earlier(), time("2h").unwrap(), earlier());
        assert!(before <= ago && ago <= after);
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in [
            "",
            " ",
            "yesterday",
            "2026-01-31",
            "2026-13-31T08:00:00Z",
            "2026-02-30T08:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T08:60:00Z",
            "2026-01-31T08:00:00Z ",
            " 2026-01-31T08:00:00Z",
            "2026-01-31T08:00:00+25:00",
            "2026-01-31T08:00:00+01:60",
            "2026-01-31T08:00:00+1:00",
            "2026-01-31T08:00:00+0100",
            "2026-01-31T08:00:00+01",
            "2026-01-31T08:00:00Z+01:00",
            "2026-01-31T08:00:00+01:00Z",
            "2026-01-31T08:00:00+00:00+01:00",
            "2026-01-31T08:00:00 +01:00",
            "2026-01-31T08:00:00.+01:00",
            "2026-01-31T08:00:00.Z",
            "2026-01-31T08:00:00+-1:00",
            "1970-01-01T00:00:00+01:00",
            "1969-12-31T23:59:59Z",
            "2026-01-31T08:00+01:00",
            "2026-01-31T08:00:00é1:00",
            "-2h",
            "2026-01-31x08:00:00Z",
        ] {
            let why = time(text).expect_err(text);
            assert!(why.contains("2026-01-31T09:00:00+01:00") && why.contains("15m"), "{text}: {why}");
        }
    }
}
