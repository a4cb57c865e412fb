//! Failures of a running guard. None ends it; each is reported once, and once more when it is over.

use std::{collections::BTreeMap, fmt::Display};

use serde_json::Map;

use super::Agent;
use journal::{ocsf::Stage, stdio::complain, text::terminal};

/// Successes in a row that end a failure. An intermittent failure is reported once.
const CALM: u8 = 5;

/// A periodic task of a running guard. The guard continues if it fails. See [`Fatal`](super::fatal::Fatal) for errors that
/// end the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Compiles the policy for changed files, cgroups or addresses.
    Renew,
    /// Labels running processes.
    Label,
    /// Stores the names of rules for a takeover.
    Names,
    /// Stores the addresses of hosts in ingress rules.
    Peers,
    /// Writes the list of open maintenance windows.
    Windows,
    /// Reads the number of lost records.
    Counters,
    /// Reads the number of skipped DNS messages.
    Skipped,
    /// Stores the number of reported losses for a takeover.
    Reported,
    /// Reads records.
    Records,
    /// Writes the journal.
    Journal,
}

impl Task {
    /// Message of a failure.
    pub(super) fn failed(self) -> &'static str {
        match self {
            Self::Renew => "the policy could not be renewed, the old one stays in force",
            Self::Label => "processes that run already could not be marked, and may not be guarded until they are",
            Self::Names => "the names of rules cannot be kept: what a later run takes over is recorded by numbers",
            Self::Peers => "addresses of hosts in ingress rules cannot be kept for the next run",
            Self::Windows => "the list of maintenance windows cannot be written",
            Self::Counters => "lost records cannot be counted",
            Self::Skipped => "skipped names cannot be counted",
            Self::Reported => "a later run may report lost records again",
            Self::Records => "a record cannot be read",
            Self::Journal => "the journal has failed",
        }
    }

    /// Message of a recovery.
    fn over(self) -> &'static str {
        match self {
            Self::Renew => "the policy is up to date again",
            Self::Label => "all processes of the instances are marked again",
            Self::Names => "the names of rules are kept again",
            Self::Peers => "addresses of hosts in ingress rules are kept again",
            Self::Windows => "the list of maintenance windows is written again",
            Self::Counters => "lost records are counted again",
            Self::Skipped => "skipped names are counted again",
            Self::Reported => "reported losses are kept again",
            Self::Records => "records can be read again",
            Self::Journal => "the journal is on the disk again",
        }
    }
}

/// Failing tasks, each with its number of successes since.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Task, u8>);

impl Troubles {
    /// Takes the outcome of a task. Returns the report that is due.
    pub(super) fn note<E: Display>(&mut self, task: Task, outcome: &Result<(), E>) -> Option<String> {
        match (outcome, self.0.get_mut(&task)) {
            (Err(error), None) => {
                self.0.insert(task, 0);
                Some(format!("{}: {error}", task.failed()))
            }
            (Err(_), Some(calm)) => {
                *calm = 0;
                None
            }
            (Ok(()), Some(calm)) => {
                *calm += 1;
                if *calm < CALM {
                    return None;
                }
                self.0.remove(&task);
                Some(task.over().to_owned())
            }
            (Ok(()), None) => None,
        }
    }
}

impl<E> Agent<E> {
    /// Reports the failure of a task, and its recovery.
    pub(super) fn note<Error: Display>(&mut self, task: Task, outcome: &Result<(), Error>) {
        let Some(message) = self.troubles.note(task, outcome) else { return };
        let message = terminal::plain(message.as_bytes());
        complain(&message);
        // A failure of the journal shows in the missing numbers of its lines.
        if task != Task::Journal {
            self.pipeline.lifecycle(Stage::Error, &message, &Map::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_reported_once_and_once_more_when_it_is_over() {
        let mut troubles = Troubles::default();
        let mut note = |task, outcome: Result<(), &str>| troubles.note(task, &outcome);
        assert_eq!(note(Task::Counters, Ok(())), None);
        let first = note(Task::Counters, Err("no map")).unwrap();
        assert_eq!(first, "lost records cannot be counted: no map");
        assert!(note(Task::Label, Err("full")).is_some(), "another task");
        for round in 0..100 {
            // One that works now and then has not recovered.
            let outcome = if round % 3 == 0 { Ok(()) } else { Err("no map") };
            assert_eq!(note(Task::Counters, outcome), None);
        }
        let after: Vec<_> = (0..10).filter_map(|_| note(Task::Counters, Ok(()))).collect();
        assert_eq!(after, ["lost records are counted again"]);
        assert!(note(Task::Counters, Err("no map")).is_some(), "a new failure");
    }
}
