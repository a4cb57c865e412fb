//! Taking over from a run of the guard that has ended and left its programs pinned.
//!
//! Until the very end both judge, so an operation in between may be recorded twice, and never not at all.

use std::collections::BTreeMap;

use monitor_common::{policy::Maintenance, scope::TaskLabel};
use serde_json::{Map, json};

use super::{AgentError, say};
use crate::{
    kernel::{Kernel, error::chain, pin::Generation},
    pipeline::{Pipeline, Told},
    record::names::NameTable,
};
use journal::{
    ocsf::Stage,
    state::{State, StateError},
    stdio::complain,
};

/// Where the names of a pinned policy are kept, in the state directory.
const NAMES: &str = "names.json";

/// What earlier runs have left.
#[derive(Default)]
pub(super) struct Takeover {
    generations: Vec<Generation>,
    /// What their policies called things.
    pub(super) names: NameTable,
    /// The last epoch of theirs.
    pub(super) epoch: u32,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    records: u64,
    lost: u64,
}

impl Takeover {
    /// Makes this process the guard of what is pinned.
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

    /// Who is in scope for them: a process that has left its uid is known by nothing else.
    pub(super) fn labels(&self) -> Vec<(u32, TaskLabel)> {
        self.generations.iter().filter_map(|generation| generation.labels().ok()).flatten().collect()
    }

    /// Lets the new programs know what the older ones have learnt, and may have learnt since the last time.
    pub(super) fn teach(&self, kernel: &mut Kernel) {
        for generation in &self.generations {
            if let Err(error) = kernel.inherit(generation) {
                let why = chain(&error);
                complain(&format_args!("names and counts of an earlier run are not taken over: {why}"));
            }
        }
    }

    /// Until when a window that they have left is open; 0 for none.
    pub(super) fn window(&self, slot: u16, maintenance: Maintenance) -> u64 {
        self.generations.iter().map(|generation| generation.window(slot, maintenance)).max().unwrap_or_default()
    }

    /// Journals what was recorded while nobody read, and removes the older programs. To be called when the new ones judge.
    /// `met` gets each operation that a rule has met. Answers with how many records were lost.
    pub(super) fn finish(
        self,
        pipeline: &mut Pipeline,
        mut met: impl FnMut(&NameTable, &Told),
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
                        Ok(Some(told)) => {
                            say(&told.sentence);
                            met(&self.names, &told);
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

/// Keeps the names of a policy for the run that may take over, with the slots of the one before it: until the new one is in
/// force, that is the one to take over.
pub(super) fn keep_names(state: &State, names: &NameTable, former: &BTreeMap<String, u16>) -> Result<(), StateError> {
    state.write(NAMES, names.to_text(former).as_bytes())
}
