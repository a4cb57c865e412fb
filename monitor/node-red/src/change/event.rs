//! A change of settings or flows, as an event.

use serde_json::{Value, json};

use super::Change;
use journal::{
    ocsf::{Severity, device, metadata, now_ms},
    text::terminal,
};

/// File System Activity.
const FILE: u32 = 1001;

/// Settings or flows have changed. Who has done it is not known here; what was met at the file names the same incident.
#[must_use]
pub fn changed(change: &Change) -> Value {
    // git executes these for the next user who works with the project, without their knowledge.
    let severity = if change.git_runs.is_empty() { Severity::Informational } else { Severity::High };
    let name = change.path.file_name().unwrap_or_default().to_string_lossy();
    let mut out = json!({
        "class_uid": FILE,
        "category_uid": FILE / 1000,
        "activity_id": 3,
        "activity_name": "Update",
        "type_uid": FILE * 100 + 3,
        "time": now_ms(),
        "severity_id": severity,
        "message": terminal::plain(change.sentence().as_bytes()),
        "metadata": metadata(),
        "device": device(),
        "actor": { "app_name": "unknown" },
        "file": { "path": change.path.to_string_lossy(), "name": name, "type_id": 1 },
        "policy": { "name": change.instance },
        "unmapped": {
            "instance": change.instance,
            "change": change.kind.name(),
            "before_sha256": change.digests[0],
            "after_sha256": change.digests[1],
        },
    });
    if let Some(diff) = &change.diff {
        out["file_diff"] = diff.text.as_str().into();
        out["unmapped"]["lines_added"] = diff.added.into();
        out["unmapped"]["lines_removed"] = diff.removed.into();
    }
    if let Some(nodes) = &change.nodes {
        out["unmapped"]["nodes"] = json!({ "added": nodes.counts[0], "removed": nodes.counts[1],
            "changed": nodes.counts[2], "moved": nodes.moved });
        for (key, list) in
            [("nodes_added", &nodes.added), ("nodes_removed", &nodes.removed), ("nodes_changed", &nodes.changed)]
        {
            if !list.is_empty() {
                out["unmapped"][key] = json!(list);
            }
        }
    }
    if !change.git_runs.is_empty() {
        out["unmapped"]["git_runs"] = json!(change.git_runs);
    }
    if let Some(incident) = &change.incident {
        out["metadata"]["correlation_uid"] = incident.as_str().into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Kind, diff, flows};
    use journal::testing::valid;

    #[test]
    fn changes_are_valid_with_and_without_a_diff() {
        for (old, new) in [("[]", r#"[{"id":"a","type":"tab"}]"#), ("x", "y\u{1b}[2J")] {
            let mut change = Change {
                instance: "a".to_owned(),
                path: "/u/flows.json".into(),
                kind: Kind::Flows,
                digests: ["0".to_owned(), "1".to_owned()],
                diff: Some(diff::diff(old, new)),
                nodes: flows::compare(old, new),
                git_runs: vec!["core.hookspath = /tmp/x".to_owned()],
                incident: Some("i-1".to_owned()),
            };
            valid(&changed(&change));
            (change.diff, change.nodes) = (None, None);
            valid(&changed(&change));
        }
    }
}
