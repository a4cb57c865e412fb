//! Incidents as OCSF Detection Findings.

use monitor_common::Verdict;
use serde_json::{Value, json};

use crate::incident::{Incident, OVERFLOW, Outcome, Phase, mend::mend};
use journal::{
    format::rfc3339_seconds,
    ocsf::{Attack, Disposition, FINDING, device, metadata, now_ms},
};
use node_red::deploys::editor::Deploy;

/// An incident as an event.
#[must_use]
pub fn finding(phase: Phase, incident: &Incident) -> Value {
    let (activity, name) = match phase {
        Phase::Create => (1, "Create"),
        Phase::Update => (2, "Update"),
        Phase::Close | Phase::Stop => (3, "Close"),
    };
    let (status, status_name) = match phase {
        Phase::Create => (1, "New"),
        Phase::Update => (2, "In Progress"),
        // That it is over does not say that somebody has looked.
        Phase::Close | Phase::Stop => (99, "Ended"),
    };
    let disposition = match (incident.verdict, incident.outcome) {
        (Verdict::Kill, _) => Disposition::Killed,
        (Verdict::Deny, _) => Disposition::Blocked,
        (_, Outcome::Alert) => Disposition::Alert,
        _ => Disposition::Logged,
    };
    let now = now_ms();
    let mut out = json!({
        "class_uid": FINDING,
        "category_uid": FINDING / 1000,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": FINDING * 100 + activity,
        "time": now,
        "status_id": status,
        "status": status_name,
        "is_alert": matches!(incident.outcome, Outcome::Stopped | Outcome::Alert),
        "count": incident.count,
        "start_time": incident.first_ms,
        "end_time": incident.last_ms,
        "message": sentence(phase, incident),
        "metadata": metadata(),
        "device": device(),
        "finding_info": {
            "uid": &*incident.uid,
            "title": title(incident),
            "desc": incident.example,
            "created_time": incident.first_ms,
            "modified_time": now,
            "first_seen_time": incident.first_ms,
            "last_seen_time": incident.last_ms,
            "analytic": { "uid": incident.rule, "name": incident.rule, "desc": incident.rule_text, "type_id": 1, "type": "Rule" },
        },
        "remediation": { "desc": mend(incident) },
        "evidences": [incident.evidence],
        "unmapped": {
            "rule": incident.rule,
            "rule_text": incident.rule_text,
            "incident": &*incident.uid,
            "outcome": incident.outcome.name(),
            "verdicts": incident.verdicts,
            "new": incident.new,
            "objects": incident.objects,
            "more_objects": incident.more_objects,
        },
    });
    disposition.action().put(&mut out);
    if !incident.instance.is_empty() {
        out["unmapped"]["instance"] = incident.instance.as_str().into();
        out["policy"] = json!({ "name": incident.instance, "uid": incident.rule, "desc": incident.rule_text });
    }
    if let Some(maintenance) = incident.maintenance {
        out["unmapped"]["maintenance"] = maintenance.name().into();
    }
    if !incident.techniques.is_empty() {
        out["attacks"] = json!(incident.techniques.iter().map(|uid| Attack::new(uid)).collect::<Vec<_>>());
    }
    out
}

/// Adds who deployed last.
pub fn hint(event: &mut Value, deploy: &Deploy) {
    event["unmapped"]["last_deploy"] = deploy.json();
    let mend = event["remediation"]["desc"].as_str().unwrap_or_default();
    event["remediation"]["desc"] = format!("{mend} {}", deploy.words()).into();
}

/// Names it; the same for as long as it is open.
fn title(incident: &Incident) -> String {
    let what = match incident.outcome {
        Outcome::Stopped => "stopped",
        Outcome::Alert => "met, and only watched",
        Outcome::Logged => "met, as it is to log",
        Outcome::Lifted => "lifted by a maintenance window",
    };
    if incident.rule == OVERFLOW {
        return format!("too many incidents at once: events of others, {what}");
    }
    format!("rule {} of instance {}: {what}", incident.rule, incident.instance)
}

/// For a person: what it is, how often, and an example.
fn sentence(phase: Phase, incident: &Incident) -> String {
    let Incident { count, new, example, .. } = incident;
    let title = title(incident);
    let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
    let (first, last) = (rfc3339_seconds(incident.first_ms), rfc3339_seconds(incident.last_ms));
    match phase {
        Phase::Create => format!("incident begins: {title}: {example}"),
        Phase::Update => {
            format!("incident goes on: {title}: {times} since {first}, {new} of them new; first: {example}")
        }
        Phase::Close => format!("incident is over: {title}: {times}, from {first} to {last}; first: {example}"),
        Phase::Stop => {
            format!("incident is open while the guard ends: {title}: {times}, from {first} to {last}; first: {example}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        incident::{Incidents, tests::event},
        record::{activity::Activity, sentence},
    };

    fn told(phase: Phase, verdict: Verdict, path: &str, times: usize) -> Value {
        let (mut incidents, event) = (Incidents::default(), event(1, verdict, path, 443));
        let sentence = sentence::sentence(&event);
        let activity = Activity::new(&event, &sentence);
        for _ in 0..times {
            incidents.note(&event, &activity, Instant::now());
        }
        finding(phase, &incidents.close().remove(0).1)
    }

    #[test]
    fn every_phase_with_every_verdict_is_valid() {
        for phase in [Phase::Create, Phase::Update, Phase::Close, Phase::Stop] {
            for verdict in [Verdict::Log, Verdict::Deny, Verdict::Kill] {
                for path in ["settings.js", ""] {
                    journal::testing::valid(&told(phase, verdict, path, 3));
                }
            }
        }
    }

    #[test]
    fn a_hint_says_that_it_is_not_verified_and_is_valid() {
        let mut event = told(Phase::Create, Verdict::Deny, "settings.js", 1);
        let (event_name, user) = ("flows.set".to_owned(), Some("ann".to_owned()));
        hint(&mut event, &Deploy { event: event_name, user, address: None, time_ms: 5 });
        journal::testing::valid(&event);
        assert_eq!(event["unmapped"]["last_deploy"]["verified"], false);
        let mend = event["remediation"]["desc"].as_str().unwrap();
        assert!(
            mend.starts_with("If nobody") && mend.contains("not verified: by Node-RED's own log ann deployed"),
            "{mend}"
        );
    }

    #[test]
    fn it_says_how_often_by_which_rule_and_what_to_do() {
        let event = told(Phase::Close, Verdict::Deny, "settings.js", 10_000);
        let message = event["message"].as_str().unwrap();
        assert!(
            message.starts_with("incident is over: rule rule-1 of instance plant-0: stopped: 10000 times, from "),
            "{message}"
        );
        assert_eq!((&event["count"], &event["severity_id"]), (&10_000.into(), &4.into()));
        assert_eq!(event["finding_info"]["analytic"]["uid"], "rule-1");
        assert!(event["remediation"]["desc"].as_str().unwrap().contains("If it was wanted"));
        assert_eq!(event["evidences"][0]["process"]["pid"], 7);
        assert!(event["unmapped"]["verdict"].is_null(), "it is no event of its own");
    }
}
