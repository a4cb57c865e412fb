//! From bytes of the ring buffer to a line of the journal: decode, enrich, render, append.

use std::{sync::Arc, time::Instant};

use monitor_common::{Verdict, event::Hook};

use crate::{
    incident::{Incident, Incidents, Phase, finding},
    maintenance::programs::Programs,
    metrics::Counts,
    record::{
        activity::Activity,
        decode::{DecodeError, Record, decode},
        enrich::{Enriched, Enricher, Names},
        sentence,
        tunnel::Tunnels,
    },
};
use journal::{Durability, Journal, JournalError, Limits, Spool, ocsf};
use node_red::deploys::editor::{Deploy, Editors};
use serde_json::{Map, Value};

/// Why a record could not be journaled.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The bytes are not a valid record.
    #[error("a record from the kernel cannot be read: {0}")]
    Decode(#[from] DecodeError),
}

/// A record that has to be printed or responded to.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The record.
    pub record: Record,
    /// Name of the instance.
    pub instance: String,
    /// Id of the rule.
    pub rule: String,
    /// Message for the console.
    pub sentence: String,
    /// Uid of its incident.
    pub uid: Arc<str>,
    /// Number of events of the incident so far.
    pub nth: u64,
    /// Report about the incident, if one is due.
    pub incident: Option<IncidentReport>,
}

/// Report about an incident for the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncidentReport {
    /// Title and count.
    pub sentence: String,
    /// Remediation, for a new incident.
    pub remediation: Option<String>,
}

/// Processes records in order.
#[derive(Debug)]
pub struct Pipeline {
    enricher: Enricher,
    journal: Journal,
    counts: Arc<Counts>,
    incidents: Incidents,
    tunnels: Tunnels,
    programs: Programs,
    editors: Editors,
}

impl Pipeline {
    /// A pipeline that ends in `journal`.
    #[must_use]
    pub fn new(enricher: Enricher, journal: Journal) -> Self {
        Self {
            enricher,
            journal,
            counts: Arc::default(),
            incidents: Incidents::default(),
            tunnels: Tunnels::default(),
            programs: Programs::default(),
            editors: Editors::default(),
        }
    }

    /// The cache of processes.
    pub fn enricher(&mut self) -> &mut Enricher {
        &mut self.enricher
    }

    /// Logs of the editors of instances.
    pub fn editors(&mut self) -> &mut Editors {
        &mut self.editors
    }

    /// Programs that run in maintenance windows.
    pub fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Processes one record. Returns what has to be printed or responded to.
    ///
    /// Denied and killed operations are written to disk at once, without waiting here.
    pub fn record(&mut self, bytes: &[u8], names: &dyn Names) -> Result<Option<Matched>, PipelineError> {
        let record = decode(bytes)?;
        self.enricher.observe(&record);
        self.programs.observe(&record);
        let tunnel = self.tunnels.look(&record, |domain| names.trusts(record.event.instance, domain));
        if tunnel.is_none() && (record.verdict < Verdict::Log || is_context(&record)) {
            return Ok(None);
        }
        let enriched = match tunnel {
            Some(tunnel) => self.enricher.enrich_tunnel(record, tunnel, names),
            None => self.enricher.enrich(record, names),
        };
        Ok(Some(self.take(enriched)))
    }

    /// Journals a record and counts it in its incident.
    fn take(&mut self, enriched: Enriched) -> Matched {
        let sentence = sentence::sentence(&enriched);
        let mut activity = Activity::new(&enriched, &sentence);
        let urgent = enriched.record.verdict >= Verdict::Deny;
        let durability = if urgent { Durability::Now } else { Durability::Grouped };
        let noted = self.incidents.note(&enriched, &activity, Instant::now());
        let (uid, nth) = (Arc::clone(&noted.incident.uid), noted.incident.count);
        activity.correlate(&uid);
        if nth == 1 {
            self.journal.append_noted(&activity, durability, noted.incident.mark.clone());
        } else {
            self.journal.append(&activity, durability);
        }
        let deploy = noted.phase.and_then(|_| self.editors.last(&enriched.instance));
        let incident = noted.phase.map(|phase| tell(&self.journal, phase, noted.incident, deploy.as_ref(), durability));
        if incident.is_some() {
            self.incidents.reported(&uid);
        }
        let Enriched { record, instance, rule, .. } = enriched;
        self.counts.event(&instance, &rule, record.verdict.name());
        Matched { record, instance, rule, sentence, uid, nth, incident }
    }

    /// Reports incidents that continue or were closed. Called periodically.
    pub fn tick(&mut self, now: Instant) -> Vec<IncidentReport> {
        let reports = self.incidents.tick(now);
        self.report_all(&reports)
    }

    /// Reports all open incidents, since the guard stops.
    pub fn end(&mut self) -> Vec<IncidentReport> {
        let reports = self.incidents.close();
        self.report_all(&reports)
    }

    fn report_all(&mut self, reports: &[(Phase, Incident)]) -> Vec<IncidentReport> {
        let Self { journal, editors, .. } = self;
        let report = |(phase, incident): &(Phase, Incident)| {
            tell(journal, *phase, incident, editors.last(&incident.instance).as_ref(), Durability::Grouped)
        };
        reports.iter().map(report).collect()
    }

    /// Journals a response beyond the operation itself.
    pub fn response(&self, event: Value) {
        self.journal.append(event, Durability::Now);
    }

    /// Journals a lifecycle event of the guard.
    pub fn lifecycle(&self, stage: ocsf::Stage, message: &str, details: &Map<String, Value>) {
        self.journal.append(ocsf::lifecycle(stage, message, details), Durability::Now);
    }

    /// The present failure of the journal.
    pub fn check(&self) -> Result<(), JournalError> {
        self.journal.check()
    }

    /// Flushes and closes the journal.
    pub fn close(&mut self) -> Result<(), JournalError> {
        self.journal.close()
    }

    /// Changes the limits of the journal.
    pub fn limit_journal(&self, limits: Limits) {
        self.journal.limit(limits);
    }

    /// The journal as the spool of sinks.
    #[must_use]
    pub fn spool(&self) -> Spool {
        self.journal.spool()
    }

    /// The counters.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Directory of the journal.
    #[must_use]
    pub fn journal_path(&self) -> &std::path::Path {
        self.journal.path()
    }
}

/// Journals a report about an incident.
fn tell(
    journal: &Journal,
    phase: Phase,
    incident: &Incident,
    deploy: Option<&Deploy>,
    durability: Durability,
) -> IncidentReport {
    let mut event = finding::finding(phase, incident);
    if let Some(deploy) = deploy {
        finding::hint(&mut event, deploy);
    }
    let text = |pointer| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let remediation = (phase == Phase::Create).then(|| text("/remediation/desc"));
    let said = IncidentReport { sentence: text("/message"), remediation };
    journal.append_naming(event, durability, incident.mark.clone());
    said
}

/// Records that carry process lineage only.
fn is_context(record: &Record) -> bool {
    matches!(record.hook, Hook::Fork | Hook::Exit | Hook::Dns)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use monitor_common::event::Event;

    use super::*;
    use crate::record::{decode::tests::bytes, enrich::tests::Plain};
    use journal::Limits;

    #[test]
    fn a_storm_is_journaled_event_by_event_and_told_as_one_incident_that_names_its_first_event() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
        let mut pipeline = Pipeline::new(Enricher::new("/sys/fs/cgroup".into()), journal);
        let event = |rule| Event { hook: Hook::Open as u8, sensor: 1, verdict: 3, wanted: 3, rule, ..Event::ZERO };
        let mut said = 0;
        for number in 0..2000 {
            let rule = if number == 1000 { 2 } else { 1 };
            let matched = pipeline.record(&bytes(event(rule), b"settings.js\0ud\0", b""), &Plain).unwrap().unwrap();
            said += usize::from(matched.incident.is_some_and(|said| said.remediation.is_some()));
        }
        assert_eq!((said, pipeline.end().len()), (2, 2));
        pipeline.close().unwrap();
        let text = fs::read_to_string(directory.path().join("journal/journal-00000001.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (events, other): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["class_uid"] == 1001);
        assert_eq!(events.len(), 2000);
        for rule in ["rule-1", "rule-2"] {
            let of_rule = |line: &&&Value| line["unmapped"]["rule"] == rule;
            let (events, findings): (Vec<_>, Vec<_>) =
                (events.iter().filter(of_rule).collect(), other.iter().filter(of_rule).collect());
            let uid = &findings[0]["finding_info"]["uid"];
            assert!(findings.iter().all(|line| line["class_uid"] == 2004 && line["finding_info"]["uid"] == *uid));
            assert!(events.iter().all(|line| line["metadata"]["correlation_uid"] == *uid));
            assert_eq!(
                (findings.len(), &findings[0]["activity_name"], &findings[1]["activity_name"]),
                (2, &"Create".into(), &"Close".into())
            );
            assert_eq!((&findings[0]["count"], findings[1]["count"].as_u64()), (&1.into(), Some(events.len() as u64)));
            assert_eq!(findings[1]["unmapped"]["example"], events[0]["metadata"]["uid"]);
        }
    }
}
