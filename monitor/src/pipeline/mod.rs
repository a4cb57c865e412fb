//! From the kernel's bytes to a line in the journal: decode, enrich, render, append.

pub mod decode;
pub mod enrich;

use monitor_common::{Verdict, event::Hook};

use crate::journal::{Durability, Journal, JournalError, Spool, console, ocsf};
use decode::{DecodeError, Record};
use enrich::{Enricher, Names};

/// Why a record could not be journaled.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The kernel's bytes make no record.
    #[error("a record from the kernel cannot be read: {0}")]
    Decode(#[from] DecodeError),
}

/// Takes records, one after the other.
#[derive(Debug)]
pub struct Pipeline {
    enricher: Enricher,
    journal: Journal,
}

impl Pipeline {
    /// A pipeline that ends in `journal`.
    #[must_use]
    pub fn new(enricher: Enricher, journal: Journal) -> Self {
        Self { enricher, journal }
    }

    /// What is known about processes.
    pub fn enricher(&mut self) -> &mut Enricher {
        &mut self.enricher
    }

    /// Takes one record; answers the sentence for the console when there is something to say.
    ///
    /// What was denied or killed is put on the disk at once; nobody waits for that here.
    pub fn record(&mut self, bytes: &[u8], names: &dyn Names) -> Result<Option<(Verdict, String)>, PipelineError> {
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
        Ok(Some((enriched.record.verdict, sentence)))
    }

    /// Journals that the guard started, stopped, or changed its policy.
    pub fn lifecycle(&self, stage: ocsf::Stage, message: &str, details: &serde_json::Map<String, serde_json::Value>) {
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
