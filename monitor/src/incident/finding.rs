//! Incidents as OCSF Detection Findings.

use monitor_common::Verdict;
use serde_json::{Value, json};

use crate::incident::{Incident, OVERFLOW, Outcome, Phase, remediation::remediation};
use journal::{
    format::rfc3339_seconds,
    ocsf::{Attack, Disposition, FINDING, device, metadata, now_ms},
};
use node_red::deploys::editor::Deploy;

/// An incident as an OCSF event.
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
        // The end of an incident does not mean that it was investigated.
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
        "remediation": { "desc": remediation(incident) },
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

/// Adds the last deploy as a hint.
pub fn hint(event: &mut Value, deploy: &Deploy) {
    event["unmapped"]["last_deploy"] = deploy.json();
    let remediation = event["remediation"]["desc"].as_str().unwrap_or_default();
    event["remediation"]["desc"] = format!("{remediation} {}", deploy.words()).into();
}

/// Title of an incident, constant while it is open.
fn title(incident: &Incident) -> String {
    let what = match incident.outcome {
        Outcome::Stopped => "stopped",
        Outcome::Alert => "matched, observed only",
        Outcome::Logged => "matched, logged",
        Outcome::Exempted => "exempted by a maintenance window",
    };
    if incident.rule == OVERFLOW {
        return format!("too many incidents: events of further rules, {what}");
    }
    format!("rule {} of instance {}: {what}", incident.rule, incident.instance)
}

/// Message of an incident: title, count and an example.
fn sentence(phase: Phase, incident: &Incident) -> String {
    let Incident { count, new, example, .. } = incident;
    let title = title(incident);
    let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
    let (first, last) = (rfc3339_seconds(incident.first_ms), rfc3339_seconds(incident.last_ms));
    match phase {
        Phase::Create => format!("incident opened: {title}: {example}"),
        Phase::Update => {
            format!("incident continues: {title}: {times} since {first}, {new} new; first: {example}")
        }
        Phase::Close => format!("incident closed: {title}: {times}, from {first} to {last}; first: {example}"),
        Phase::Stop => {
            format!("incident open when the guard stopped: {title}: {times}, from {first} to {last}; first: {example}")
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

    fn finding_of(phase: Phase, verdict: Verdict, path: &str, times: usize) -> Value {
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
                    journal::testing::valid(&finding_of(phase, verdict, path, 3));
                }
            }
        }
    }

    #[test]
    fn a_hint_says_that_it_is_not_verified_and_is_valid() {
        let mut event = finding_of(Phase::Create, Verdict::Deny, "settings.js", 1);
        let (event_name, user) = ("flows.set".to_owned(), Some("ann".to_owned()));
        hint(&mut event, &Deploy { event: event_name, user, address: None, time_ms: 5 });
        journal::testing::valid(&event);
        assert_eq!(event["unmapped"]["last_deploy"]["verified"], false);
        let remediation = event["remediation"]["desc"].as_str().unwrap();
        assert!(
            remediation.starts_with("If this was not wanted")
                && remediation.contains("not verified: by Node-RED's own log ann deployed"),
            "{remediation}"
        );
    }

    #[test]
    fn it_says_how_often_by_which_rule_and_what_to_do() {
        let event = finding_of(Phase::Close, Verdict::Deny, "settings.js", 10_000);
        let message = event["message"].as_str().unwrap();
        assert!(
            message.starts_with("incident closed: rule rule-1 of instance plant-0: stopped: 10000 times, from "),
            "{message}"
        );
        assert_eq!((&event["count"], &event["severity_id"]), (&10_000.into(), &4.into()));
        assert_eq!(event["finding_info"]["analytic"]["uid"], "rule-1");
        assert!(event["remediation"]["desc"].as_str().unwrap().contains("If this was wanted"));
        assert_eq!(event["evidences"][0]["process"]["pid"], 7);
        assert!(event["unmapped"]["verdict"].is_null(), "it is no event of its own");
    }
}
