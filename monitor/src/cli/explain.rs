//! `flowwarden explain`

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::bail;
use clap::Args;
use journal::{
    stdio::{Output, aside},
    text::terminal::{lines, plain},
};
use monitor::{
    config::{self, Config},
    evidence::explain::{self, Source},
};
use policy::host::System;

use super::journal::{DIRECTORY, look};

/// Default path of the policy.
pub(super) const POLICY: &str = "/etc/flowwarden/policy.toml";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Event number (`metadata.sequence`), event uid, or rule id.
    #[arg(value_name = "EVENT | RULE")]
    what: String,
    /// Policy file [default: /etc/flowwarden/policy.toml if it exists]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Directory of the journal.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    journal: PathBuf,
}

/// The given policy, or the one at the default path.
pub(super) fn source(named: Option<&Path>) -> anyhow::Result<Option<Source>> {
    let usual = Path::new(POLICY);
    let Some(path) = named.or_else(|| usual.exists().then_some(usual)) else { return Ok(None) };
    let (Config { policy, .. }, _) = config::read(path, &System::expected())?;
    Ok(Some(Source { path: path.to_owned(), policy }))
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let source = source(arguments.policy.as_deref())?;
    let (what, journal) = (&arguments.what, &arguments.journal);
    let is_number = what.parse::<u64>().is_ok();
    let has_journal = journal.is_dir();
    if is_number {
        look(journal)?;
    }
    if !is_number {
        let searched = if has_journal { Some(explain::met(journal, what)?) } else { None };
        let (met, faults) = searched.map_or_else(Default::default, |it| (it.found, it.faults));
        if let Some(text) = explain::rule(what, source.as_ref(), &met) {
            aside(&faults);
            return Ok(write!(Output, "{}", lines(&text))?);
        }
    }
    if has_journal {
        let searched = explain::find(journal, what)?;
        aside(&searched.faults);
        if let Some(event) = searched.found {
            return Ok(write!(Output, "{}", lines(&explain::event(&event, source.as_ref())))?);
        }
    }
    if is_number {
        bail!("{}: no event {what}; `flowwarden journal query --json` shows event numbers", journal.display());
    }
    let unread = if source.is_none() {
        format!("; no policy was read, since there is no {POLICY}: name one with --policy")
    } else {
        String::new()
    };
    bail!("no rule \"{}\" in the policy or the journal, and no event with that uid{unread}", plain(what.as_bytes()))
}
