//! Takeover from an earlier run of the guard whose programs are pinned.
//!
//! Both sets of programs enforce until the end of the takeover, so an operation may be recorded twice, but is never missed.

use std::collections::BTreeMap;

use monitor_common::{policy::Maintenance, scope::TaskLabel};
use serde_json::{Map, json};

use super::{AgentError, say};
use crate::{
    kernel::{Kernel, error::chain, pin::Generation},
    pipeline::{Matched, Pipeline},
    record::names::NameTable,
};
use journal::{
    ocsf::Stage,
    state::{State, StateError},
    stdio::complain,
};

/// File of the names of a pinned policy, in the state directory.
const NAMES: &str = "names.json";

/// State of earlier runs.
#[derive(Default)]
pub(super) struct Takeover {
    generations: Vec<Generation>,
    /// Names of their policies.
    pub(super) names: NameTable,
    /// Their last epoch.
    pub(super) epoch: u32,
}

/// Result of a takeover.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    records: u64,
    lost: u64,
}

impl Takeover {
    /// Makes this process the guard of the pinned programs.
    pub(super) fn begin(generations: Vec<Generation>, state: &State) -> Result<Self, AgentError> {
        if generations.is_empty() {
            return Ok(Self::default());
        }
        let names = state.read(NAMES)?.map(|text| NameTable::from_text(&text)).unwrap_or_default();
        let mut epoch = 0;
        for generation in &generations {
            match generation.adopt() {
                Ok(used) => epoch = epoch.max(used),
                Err(error) => {
                    complain(&format_args!("pins of another version: only their programs are taken over: {error}"));
                }
            }
        }
        Ok(Self { generations, names, epoch })
    }

    /// Their labels: a process that changed its uid is known by its label only.
    pub(super) fn labels(&self) -> Vec<(u32, TaskLabel)> {
        self.generations.iter().filter_map(|generation| generation.labels().ok()).flatten().collect()
    }

    /// Copies what the older programs have learnt since the last call to the new programs.
    pub(super) fn teach(&self, kernel: &mut Kernel) {
        for generation in &self.generations {
            if let Err(error) = kernel.inherit(generation) {
                let why = chain(&error);
                complain(&format_args!("names and counts of an earlier run are not taken over: {why}"));
            }
        }
    }

    /// End of a window that they left open; 0 for none.
    pub(super) fn window(&self, slot: u16, maintenance: Maintenance) -> u64 {
        self.generations.iter().map(|generation| generation.window(slot, maintenance)).max().unwrap_or_default()
    }

    /// Journals the pending records and removes the older programs. Called when the new programs enforce. `on_match` gets each
    /// matched operation. Returns the number of lost records.
    pub(super) fn finish(
        self,
        pipeline: &mut Pipeline,
        mut on_match: impl FnMut(&NameTable, &Matched),
    ) -> Result<u64, AgentError> {
        if self.generations.is_empty() {
            return Ok(0);
        }
        let mut found = Found::default();
        for generation in self.generations {
            let events = generation.events();
            generation.detach()?;
            if let Ok(mut events) = events {
                while let Some(item) = events.next() {
                    found.records += 1;
                    match pipeline.record(&item, &self.names) {
                        Ok(Some(matched)) => {
                            say(&matched.sentence);
                            on_match(&self.names, &matched);
                        }
                        Ok(None) => {}
                        Err(error) => complain(&error),
                    }
                }
            }
            found.lost += generation.lost().unwrap_or_default();
            generation.remove()?;
        }
        let Found { records, lost } = found;
        let details = Map::from_iter([("records".to_owned(), json!(records)), ("lost".to_owned(), json!(lost))]);
        let message =
            format!("took over from an earlier run: {records} records were waiting, {lost} were lost meanwhile");
        say(&message);
        if lost > 0 {
            pipeline.lifecycle(Stage::Loss, &message, &details);
        } else {
            pipeline.lifecycle(Stage::Takeover, &message, &details);
        }
        Ok(lost)
    }
}

/// Stores the names of a policy for a later takeover, with the slots of the previous policy, which may be the one that is taken
/// over until the new one is in force.
pub(super) fn keep_names(state: &State, names: &NameTable, former: &BTreeMap<String, u16>) -> Result<(), StateError> {
    state.write(NAMES, names.to_text(former).as_bytes())
}
