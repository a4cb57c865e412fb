//! What a policy would have done about the events of a journal.
//!
//! There is no second matcher: [`Judge`] asks [`monitor_common::decide`], as the kernel programs do, with the compiled
//! policy in ordinary maps. What an event does not say enough about is counted apart.

mod judge;
mod tables;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::SystemTime,
};

use monitor_common::Verdict;
use serde::Serialize;

pub(in crate::evidence) use judge::other_end;
pub use judge::{Decider, Judge, Judged, Opinion, Unclear};

use super::{
    line::Line,
    stream::{self, Faults},
};
use journal::JournalError;

/// Most rows of each list; what finds no place is counted.
const MAX_ROWS: usize = 4096;

/// How many events, and one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The number of the first one.
    pub event: u64,
    /// Its time, milliseconds since 1970.
    pub time: i64,
    /// What happened.
    pub example: String,
}

impl Tally {
    fn add(&mut self, line: &Line<'_>) {
        if self.count == 0 {
            (self.event, self.time) = (line.metadata.sequence, line.time);
            self.example = line.message.to_string();
        }
        self.count += 1;
    }
}

/// What a rule would have done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// The instance.
    pub instance: String,
    /// The rule of the new policy.
    pub rule: String,
    /// `deny` or `kill`.
    pub verdict: &'static str,
    /// About how many events.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Events that the two policies want different things done about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The instance.
    pub instance: String,
    /// The rule that decided.
    pub old_rule: String,
    /// What it wanted.
    pub old: &'static str,
    /// The rule of the new policy.
    pub new_rule: String,
    /// What it wants.
    pub new: &'static str,
    /// About how many events.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Events that do not say enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Open {
    /// The instance.
    pub instance: String,
    /// Why.
    pub why: &'static str,
    /// The rule that decides by what there is.
    pub rule: String,
    /// What would have been done by that.
    pub perhaps: &'static str,
    /// How many.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What came of a journal.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Operations of instances that the policy has.
    pub operations: u64,
    /// Those of other instances.
    pub strangers: u64,
    /// Time of the first operation, milliseconds since 1970.
    pub first: i64,
    /// Time of the last one.
    pub last: i64,
    /// What would have been denied or killed.
    pub stopped: Vec<Stopped>,
    /// What is different from what the journal's policy wanted.
    pub changes: Vec<Change>,
    /// Operations that cannot be evaluated.
    pub unclear: Vec<Open>,
    /// Events that found no place in these lists.
    pub more: u64,
    /// Lines that are no events, with their place.
    pub faults: Vec<String>,
    /// How many there are.
    pub faulty_lines: u64,
}

/// Rows by key, no more than there is room for.
#[derive(Debug)]
struct Rows<K>(HashMap<K, Tally>);

impl<K: std::hash::Hash + Eq> Rows<K> {
    fn add(&mut self, key: K, line: &Line<'_>, more: &mut u64) {
        if self.0.len() < MAX_ROWS || self.0.contains_key(&key) {
            self.0.entry(key).or_default().add(line);
        } else {
            *more += 1;
        }
    }
}

/// The journal's rules, by numbers of our own: names are looked up without a copy.
#[derive(Debug, Default)]
struct OldRules(BTreeMap<String, usize>);

impl OldRules {
    fn number(&mut self, name: &str) -> usize {
        if let Some(&known) = self.0.get(name) {
            return known;
        }
        let new = self.0.len();
        if new < MAX_ROWS {
            self.0.insert(name.to_owned(), new);
        }
        new
    }

    fn name(&self, number: usize) -> String {
        self.0.iter().find(|&(_, &known)| known == number).map_or_else(|| "others".to_owned(), |(name, _)| name.clone())
    }
}

/// Judges every event of a journal, from a time on when one is given, as if the policy had been enforced.
pub fn simulate(judge: &mut Judge, journal: &Path, since: Option<SystemTime>) -> Result<Report, JournalError> {
    let mut report = Report::default();
    let mut stopped = Rows(HashMap::new());
    let mut changes = Rows(HashMap::new());
    let mut unclear = Rows(HashMap::new());
    let mut old_rules = OldRules::default();
    let faults = stream::events(journal, since, |line, _| {
        let judged = judge.judge(line);
        let own = &line.unmapped;
        match judged {
            Judged::NoOperation => return,
            Judged::Stranger => report.strangers += 1,
            Judged::Unclear(slot, why, opinion) => {
                unclear.add((slot, why, opinion.decider, opinion.done), line, &mut report.more);
            }
            Judged::Clear(slot, Opinion { wanted, done, decider }) => {
                if done >= Verdict::Deny {
                    stopped.add((slot, decider, done), line, &mut report.more);
                }
                if wanted != own.wanted {
                    let old = old_rules.number(&own.rule);
                    changes.add((slot, old, own.wanted, decider, wanted), line, &mut report.more);
                }
            }
        }
        if !matches!(judged, Judged::Stranger) {
            if report.operations == 0 {
                report.first = line.time;
            }
            report.operations += 1;
            report.last = line.time;
        }
    })?;
    let instance = |slot| judge.instance(slot).to_owned();
    // What every policy has is called so by every journal.
    let name = |decider| judge.name(decider, "the guard's own");
    report.stopped = stopped
        .0
        .into_iter()
        .map(|((slot, decider, done), tally)| Stopped {
            instance: instance(slot),
            rule: name(decider),
            verdict: done.name(),
            tally,
        })
        .collect();
    report.changes = changes
        .0
        .into_iter()
        .map(|((slot, old_rule, old, decider, new), tally)| Change {
            instance: instance(slot),
            old_rule: old_rules.name(old_rule),
            old: old.name(),
            new_rule: name(decider),
            new: new.name(),
            tally,
        })
        .collect();
    report.unclear = unclear
        .0
        .into_iter()
        .map(|((slot, why, decider, done), tally)| Open {
            instance: instance(slot),
            why: why.sentence(),
            rule: name(decider),
            perhaps: done.name(),
            tally,
        })
        .collect();
    report.stopped.sort_by(|a, b| (&a.instance, b.tally.count, &a.rule).cmp(&(&b.instance, a.tally.count, &b.rule)));
    report.changes.sort_by(|a, b| {
        (&a.instance, b.tally.count, &a.new_rule, &a.old_rule).cmp(&(
            &b.instance,
            a.tally.count,
            &b.new_rule,
            &b.old_rule,
        ))
    });
    report.unclear.sort_by(|a, b| (&a.instance, b.tally.count, a.why).cmp(&(&b.instance, a.tally.count, b.why)));
    let Faults { first, count } = faults;
    report.faults = first.iter().map(ToString::to_string).collect();
    report.faulty_lines = count;
    Ok(report)
}

#[cfg(test)]
mod tests;
