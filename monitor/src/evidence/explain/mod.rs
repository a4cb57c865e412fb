//! Events and rules in plain words, for who knows Node-RED and no kernels.

mod event;
mod rule;
mod words;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use monitor_common::Verdict;
use serde_json::Value;

pub use event::event;
pub use rule::rule;

use super::{
    line::Line,
    stream::{self, Faults},
};
use journal::{JournalError, text::terminal::plain};
use policy::model::{Action, FileRule, InstancePolicy, NetRule, Policy};

/// Most names of programs that are kept for a rule.
const MAX_ACTORS: usize = 64;

/// A policy and the file that it stands in.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub policy: Policy,
}

/// A rule of a policy, with the instance that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) instance: &'a InstancePolicy,
    pub(super) action: &'a Action,
    pub(super) files: Option<&'a FileRule>,
    pub(super) net: Option<&'a NetRule>,
}

impl Source {
    /// The rules with this id; of one instance when one is named. One with several paths counts once for each.
    pub(super) fn rules<'a>(&'a self, instance: Option<&'a str>, id: &'a str) -> impl Iterator<Item = Found<'a>> {
        let wanted = self.policy.instances.iter().filter(move |it| instance.is_none_or(|name| name == it.name));
        wanted.flat_map(move |instance| {
            let files = instance.files.iter().map(|rule| (&rule.action, Some(rule), None));
            let nets = instance.nets.iter().map(|rule| (&rule.action, None, Some(rule)));
            let all = files.chain(nets).filter(move |(action, ..)| action.id == id);
            all.map(move |(action, files, net)| Found { instance, action, files, net })
        })
    }
}

/// What a journal says of a rule.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// How often, by what was done.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// How often in a maintenance window.
    pub lifted: u64,
    /// Programs, and how often each.
    pub actors: BTreeMap<String, u64>,
    /// Number and time of the first event.
    pub first: Option<(u64, i64)>,
    /// Number and time of the last event.
    pub last: Option<(u64, i64)>,
    /// What happened last.
    pub example: String,
    /// What the rule says, as the journal has it.
    pub says: Option<String>,
}

/// What a journal has to say.
#[derive(Debug, Default)]
pub struct Searched<T> {
    /// What was looked for.
    pub found: T,
    /// Lines that are no events.
    pub faults: Faults,
}

/// Looks for an event by its number, or by its uid. Of several with one number the last.
pub fn find(journal: &Path, id: &str) -> Result<Searched<Option<Value>>, JournalError> {
    let number: Option<u64> = id.parse().ok();
    let mut found = None;
    let faults = stream::events(journal, None, |line, bytes| {
        let metadata = &line.metadata;
        if number.map_or_else(|| *metadata.uid == *id, |number| number == metadata.sequence) {
            found = serde_json::from_slice(bytes).ok();
        }
    })?;
    Ok(Searched { found, faults })
}

/// Looks for what a rule has met.
pub fn met(journal: &Path, rule: &str) -> Result<Searched<Met>, JournalError> {
    let mut met = Met::default();
    let faults = stream::events(journal, None, |line, bytes| {
        if *line.unmapped.rule == *rule && line.unmapped.hook.is_some() {
            met.add(line, bytes);
        }
    })?;
    Ok(Searched { found: met, faults })
}

impl Met {
    fn add(&mut self, line: &Line<'_>, bytes: &[u8]) {
        let own = &line.unmapped;
        let done = match own.verdict {
            Verdict::Log if own.wanted > Verdict::Log => {
                "only logged, since the policy observed or nothing here could deny"
            }
            Verdict::Log => "logged",
            Verdict::Deny => "denied",
            Verdict::Kill => "killed",
            _ => "let through",
        };
        *self.verdicts.entry(done).or_default() += 1;
        self.lifted += u64::from(own.flags & monitor_common::event::FLAG_MAINTENANCE != 0);
        let name = &*line.actor.process.name;
        let known = self.actors.len() < MAX_ACTORS || self.actors.contains_key(name);
        *self.actors.entry(if known { name.to_owned() } else { "others".to_owned() }).or_default() += 1;
        let here = (line.metadata.sequence, line.time);
        self.first.get_or_insert(here);
        self.last = Some(here);
        self.example = line.message.to_string();
        if self.says.is_none() {
            let event: Value = serde_json::from_slice(bytes).unwrap_or_default();
            self.says = event.pointer("/policy/desc").and_then(Value::as_str).map(str::to_owned);
        }
    }
}

/// A text under headings.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn heading(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0 += text;
        self.0.push('\n');
    }

    /// A line below the heading; what events and policies say is shown as text, whatever it is.
    pub(super) fn line(&mut self, text: &str) {
        self.0 += "  ";
        self.0 += &plain(text.as_bytes());
        self.0.push('\n');
    }

    pub(super) fn end(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests;
