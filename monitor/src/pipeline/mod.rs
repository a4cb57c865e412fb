//! From the kernel's bytes to a line in the journal: decode, enrich, render, append.

pub mod decode;
pub mod enrich;
pub mod hostnames;
pub mod lineage;
pub mod names;

use std::sync::Arc;

use monitor_common::{Verdict, event::Hook};

use crate::{
    journal::{Durability, Journal, JournalError, Spool, console, ocsf},
    metrics::Counts,
};
use decode::{DecodeError, Record};
use enrich::{Enriched, Enricher, Names};
use serde_json::{Map, Value};

/// Why a record could not be journaled.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The kernel's bytes make no record.
    #[error("a record from the kernel cannot be read: {0}")]
    Decode(#[from] DecodeError),
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
    counts: Arc<Counts>,
}

impl Pipeline {
    /// A pipeline that ends in `journal`.
    #[must_use]
    pub fn new(enricher: Enricher, journal: Journal) -> Self {
        Self { enricher, journal, counts: Arc::default() }
    }

    /// What is known about processes.
    pub fn enricher(&mut self) -> &mut Enricher {
        &mut self.enricher
    }

    /// Takes one record; answers when there is something to say.
    ///
    /// What was denied or killed is put on the disk at once; nobody waits for that here.
    pub fn record(&mut self, bytes: &[u8], names: &dyn Names) -> Result<Option<Told>, PipelineError> {
        let record = decode::decode(bytes)?;
        self.enricher.observe(&record);
        if record.verdict < Verdict::Log || is_context(&record) {
            return Ok(None);
        }
        let enriched = self.enricher.enrich(record, names);
        let sentence = console::sentence(&enriched);
        let line = ocsf::render(&enriched, &sentence);
        let urgent = enriched.record.verdict >= Verdict::Deny;
        self.journal.append(line, if urgent { Durability::Now } else { Durability::Grouped });
        let Enriched { record, instance, rule, .. } = enriched;
        self.counts.event(&instance, &rule, record.verdict.name());
        Ok(Some(Told { record, instance, rule, sentence }))
    }

    /// Journals what was done beyond the operation itself.
    pub fn response(&self, event: Value) {
        self.journal.append(event, Durability::Now);
    }

    /// Journals that the guard started, stopped, or changed its policy.
    pub fn lifecycle(&self, stage: ocsf::Stage, message: &str, details: &Map<String, Value>) {
        self.journal.append(ocsf::lifecycle(stage, message, details), Durability::Now);
    }

    /// What has gone wrong with the journal since the last time.
    pub fn check(&self) -> Result<(), JournalError> {
        self.journal.check()
    }

    /// Writes everything out, and closes the journal.
    pub fn close(&mut self) -> Result<(), JournalError> {
        self.journal.close()
    }

    /// What sinks need of the journal.
    #[must_use]
    pub fn spool(&self) -> Spool {
        self.journal.spool()
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Where the journal is.
    #[must_use]
    pub fn journal_path(&self) -> &std::path::Path {
        self.journal.path()
    }
}

/// Records that only tell who descends from whom.
fn is_context(record: &Record) -> bool {
    matches!(record.hook, Hook::Fork | Hook::Exit | Hook::Dns)
}
