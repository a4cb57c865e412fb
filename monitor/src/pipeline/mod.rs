//! From the kernel's bytes to a line in the journal: decode, enrich, render, append.

pub mod decode;
pub mod enrich;
pub mod lineage;
pub mod names;

use monitor_common::{Verdict, event::Hook};

use crate::journal::{Durability, Journal, JournalError, console, ocsf};
use decode::{DecodeError, Record};
use enrich::{Enriched, Enricher, Names};
use serde_json::{Map, Value};

/// Why a record could not be journaled.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The kernel's bytes make no record.
    #[error("a record from the kernel cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What there is to say about a record, and what has to be done about it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The record.
    pub record: Record,
    /// Name of the instance.
    pub instance: String,
    /// Id of the rule.
    pub rule: String,
    /// For the console.
    pub sentence: String,
}

/// Takes records, one after the other.
#[derive(Debug)]
pub struct Pipeline {
    enricher: Enricher,
    journal: Journal,
    /// Something is in the journal's memory that must not wait.
    urgent: bool,
}

impl Pipeline {
    /// A pipeline that ends in `journal`.
    #[must_use]
    pub fn new(enricher: Enricher, journal: Journal) -> Self {
        Self { enricher, journal, urgent: false }
    }

    /// What is known about processes.
    pub fn enricher(&mut self) -> &mut Enricher {
        &mut self.enricher
    }

    /// Takes one record; answers when there is something to say.
    ///
    /// What was denied or killed is on the disk after the next [`Pipeline::settle`].
    pub fn record(&mut self, bytes: &[u8], names: &dyn Names) -> Result<Option<Told>, PipelineError> {
        let record = decode::decode(bytes)?;
        self.enricher.observe(&record);
        if record.verdict < Verdict::Log || is_context(&record) {
            return Ok(None);
        }
        let enriched = self.enricher.enrich(record, names);
        let sentence = console::sentence(&enriched);
        let line = ocsf::render(&enriched, &sentence);
        self.urgent |= enriched.record.verdict >= Verdict::Deny;
        self.journal.append(line, Durability::Grouped)?;
        let Enriched { record, instance, rule, .. } = enriched;
        Ok(Some(Told { record, instance, rule, sentence }))
    }

    /// Journals what was done beyond the operation itself.
    pub fn response(&mut self, event: Value) -> Result<(), PipelineError> {
        self.urgent = true;
        Ok(self.journal.append(event, Durability::Grouped)?)
    }

    /// Journals that the guard started, stopped, or changed its policy.
    pub fn lifecycle(
        &mut self,
        stage: ocsf::Stage,
        message: &str,
        details: &Map<String, Value>,
    ) -> Result<(), PipelineError> {
        Ok(self.journal.append(ocsf::lifecycle(stage, message, details), Durability::Now)?)
    }

    /// Writes out what must not wait. To be called whenever a batch of records is through.
    pub fn settle(&mut self) -> Result<(), PipelineError> {
        if std::mem::take(&mut self.urgent) { self.tick() } else { Ok(()) }
    }

    /// Writes everything out.
    pub fn tick(&mut self) -> Result<(), PipelineError> {
        Ok(self.journal.flush()?)
    }

    /// Where the journal is.
    #[must_use]
    pub fn journal_path(&self) -> &std::path::Path {
        self.journal.path()
    }
}

/// Records that only tell who descends from whom.
fn is_context(record: &Record) -> bool {
    matches!(record.hook, Hook::Fork | Hook::Exit)
}
