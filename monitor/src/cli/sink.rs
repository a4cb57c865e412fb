//! `flowwarden sink`

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::bail;
use clap::{Args, Subcommand};
use journal::{
    format::rfc3339_seconds,
    reader::{Position, Reader},
    segment,
    stdio::Output,
    text::terminal::plain,
};
use monitor::config;
use policy::host::System;
use serde_json::Value;
use sinks::{config::SinkConfig, cursor::Cursor};

use super::journal::DIRECTORY;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send a test event and print the answer
    Test {
        /// Sink name.
        name: String,
        /// Policy file with the sink.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print position, backlog and last error of each sink
    Status {
        /// Policy file with the sinks.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Directory of the journal.
        #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
        journal: PathBuf,
    },
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Command::Test { name, config } => test(name, config),
        Command::Status { config, journal } => status(config, journal),
    }
}

fn read(config: &Path) -> anyhow::Result<Vec<SinkConfig>> {
    Ok(config::read(config, &System::new())?.0.sinks)
}

fn test(name: &str, config: &Path) -> anyhow::Result<()> {
    let sinks = read(config)?;
    let Some(sink) = sinks.iter().find(|sink| sink.name == name) else {
        let names: Vec<_> = sinks.iter().map(|sink| sink.name.as_str()).collect();
        bail!("{} has no sink \"{name}\"; it has: {}", config.display(), names.join(", "));
    };
    if let Err(why) = sinks::test(sink) {
        bail!("sink {name}: {}", plain(why.as_bytes()));
    }
    writeln!(Output, "sink {name}: test event accepted")?;
    Ok(())
}

fn status(config: &Path, journal: &Path) -> anyhow::Result<()> {
    let last = last(journal)?;
    for sink in read(config)? {
        let cursor = match Cursor::load(journal, &sink.name) {
            Ok(Some(cursor)) => cursor,
            Ok(None) => {
                writeln!(Output, "{}: not started yet", sink.name)?;
                continue;
            }
            // The others have theirs.
            Err(error) => {
                writeln!(Output, "{}: its cursor cannot be read: {}", sink.name, plain(error.to_string().as_bytes()))?;
                continue;
            }
        };
        let events = last.0.saturating_sub(cursor.sequence);
        let seconds = match first_after(journal, cursor.position)? {
            Some(time) if events > 0 => last.1.saturating_sub(time) / 1000,
            _ => 0,
        };
        let taken = cursor.delivered_at.map_or_else(|| "never".to_owned(), rfc3339_seconds);
        let error = cursor.error.as_deref().map_or_else(|| "none".to_owned(), |error| plain(error.as_bytes()));
        writeln!(
            Output,
            "{}: {events} events and {seconds} s behind, {} delivered, {} dead letters, last delivered {taken}, error: {error}",
            sink.name, cursor.delivered, cursor.dead
        )?;
    }
    Ok(())
}

/// Number and time of the last line of the journal.
fn last(journal: &Path) -> anyhow::Result<(u64, i64)> {
    let segments = segment::list(journal)?;
    // The last segment may have no line yet.
    let start = segments.iter().rev().nth(1).or(segments.last()).map_or(0, |segment| segment.number);
    let mut reader = Reader::new(journal, Position { segment: start, offset: 0 });
    let (mut line, mut last) = (Vec::new(), (0, 0));
    while reader.next(&mut line)?.is_some() {
        let event: Value = serde_json::from_slice(&line).unwrap_or_default();
        if let Some(sequence) = event["metadata"]["sequence"].as_u64() {
            last = (sequence, event["time"].as_i64().unwrap_or_default());
        }
    }
    Ok(last)
}

/// Time of the first event at or after a position.
fn first_after(journal: &Path, position: Position) -> anyhow::Result<Option<i64>> {
    let (mut reader, mut line) = (Reader::new(journal, position), Vec::new());
    if reader.next(&mut line)?.is_none() {
        return Ok(None);
    }
    let event: Value = serde_json::from_slice(&line).unwrap_or_default();
    Ok(event["time"].as_i64())
}
