//! What the policy of a journal logged where no rule spoke: of everything else the journal says nothing, however long it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use memchr::memmem::Finder;
use monitor_common::policy::Class;

use crate::evidence::line::Line;
use journal::{
    JournalError,
    reader::{Position, Reader},
};

/// How it is known what was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// The journal is that of a guard which logged everything.
    Everything,
    /// The journal says it: what the guard said at its start, and the events of defaults.
    AsJournaled,
}

/// Classes of instances, by name.
#[derive(Debug)]
pub(super) struct Known(Option<BTreeMap<String, BTreeSet<usize>>>);

impl Known {
    pub(super) fn of(&self, instance: &str) -> BTreeSet<usize> {
        match &self.0 {
            None => Class::NAMES.iter().map(|&(_, class)| class as usize).collect(),
            Some(known) => known.get(instance).cloned().unwrap_or_default(),
        }
    }
}

impl Logged {
    /// What guards have said about themselves from a time on, and last before it.
    pub(super) fn read(self, journal: &Path, since: Option<SystemTime>) -> Result<Known, JournalError> {
        if self == Self::Everything {
            return Ok(Known(None));
        }
        let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        let since = since.map_or(i64::MIN, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let (mut reader, mut bytes) = (Reader::new(journal, Position::default()), Vec::new());
        let finder = Finder::new(b"\"logged\":[");
        let mut known: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        while reader.next(&mut bytes)?.is_some() {
            if finder.find(&bytes).is_none() {
                continue;
            }
            let Ok(line) = Line::read(&bytes) else { continue };
            if line.time < since {
                // The next one takes its place.
                known.clear();
            }
            for said in &line.unmapped.logged {
                let Some((instance, classes)) = said.rsplit_once(": ") else { continue };
                known.entry(instance.to_owned()).or_default().extend(classes.split(", ").filter_map(by_name));
            }
        }
        Ok(Known(Some(known)))
    }
}

fn by_name(name: &str) -> Option<usize> {
    Class::NAMES.iter().find(|&&(known, _)| known == name).map(|&(_, class)| class as usize)
}

/// The class whose default is called so.
pub(super) fn class(rule: &str) -> Option<usize> {
    by_name(rule.strip_prefix("default-")?)
}
