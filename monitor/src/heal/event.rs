//! Events about files that are healed.

use serde_json::{Value, json};

use super::{HealingReport, Outcome};
use journal::ocsf::{Severity, device, metadata, now_ms};

/// File Remediation Activity.
const REMEDIATION: u32 = 7002;

/// A report as an OCSF event.
#[must_use]
pub fn healing(report: &HealingReport) -> Value {
    let (activity, name, status, severity) = match report.outcome {
        Outcome::Kept => (4, "Harden", 1, Severity::Informational),
        Outcome::Differs => (5, "Detect", 1, Severity::Medium),
        Outcome::Gone => (5, "Detect", 1, Severity::High),
        Outcome::Restored => (3, "Restore", 1, Severity::High),
        Outcome::Failed => (3, "Restore", 2, Severity::Critical),
    };
    let path = report.file.path.to_string_lossy();
    let file_name = report.file.path.file_name().unwrap_or_default().to_string_lossy();
    let mut out = json!({
        "class_uid": REMEDIATION,
        "category_uid": REMEDIATION / 1000,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": REMEDIATION * 100 + activity,
        "time": now_ms(),
        "severity_id": severity,
        "status_id": status,
        "message": report.message,
        "metadata": metadata(),
        "device": device(),
        "command_uid": report.file.rule,
        "file": { "path": path, "name": file_name, "type_id": 1 },
        "policy": { "name": report.file.instance, "uid": report.file.rule },
        "unmapped": report.details,
    });
    if let Some(why) = report.details.get("error") {
        out["status_detail"] = why.clone();
    }
    if let Some(fix) = report.details.get("fix") {
        out["remediation"] = json!({ "desc": fix });
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::heal::Healed;
    use journal::testing::valid;

    #[test]
    fn every_outcome_is_a_valid_event() {
        for outcome in [Outcome::Kept, Outcome::Differs, Outcome::Gone, Outcome::Restored, Outcome::Failed] {
            let file = Healed { instance: "a".to_owned(), rule: "r".to_owned(), path: "/u/settings.js".into() };
            let details = ["heal_us", "error", "fix"].map(|key| (key.to_owned(), key.into()));
            let details = Map::from_iter(details);
            valid(&healing(&HealingReport { file, outcome, message: "x".to_owned(), details }));
        }
    }
}
