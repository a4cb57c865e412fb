//! Events about what the guard has done beyond the operation that it met.

use serde_json::{Value, json};

use super::ocsf::{device, metadata, now_ms};
use crate::{
    change::Change,
    heal::{Outcome, Told},
    text::terminal,
};

/// File System Activity.
const FILE: u32 = 1001;

/// Process Activity.
const PROCESS: u32 = 1007;
/// File Remediation Activity.
const REMEDIATION: u32 = 7002;

/// A process that was killed because of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its pid.
    pub pid: u32,
    /// Its command name.
    pub name: String,
}

/// Whose policy had a process killed.
#[derive(Clone, Copy, Debug)]
pub struct Because<'a> {
    /// Name of the instance.
    pub instance: &'a str,
    /// Id of the rule.
    pub rule: &'a str,
    /// Name of the scope.
    pub scope: &'a str,
    /// The process that acted, which the kernel has killed.
    pub actor: u32,
}

/// A process was killed because of what another has done.
#[must_use]
pub fn ended(process: &Ended, because: Because<'_>, sentence: &str) -> Value {
    json!({
        "class_uid": PROCESS,
        "category_uid": PROCESS / 1000,
        "activity_id": 2,
        "activity_name": "Terminate",
        "type_uid": PROCESS * 100 + 2,
        "time": now_ms(),
        "severity_id": 4,
        "action_id": 2,
        "action": "Denied",
        "disposition_id": 99,
        "disposition": "Killed",
        "message": sentence,
        "metadata": metadata(),
        "device": device(),
        "actor": { "app_name": "Flowwarden" },
        "process": { "pid": process.pid, "name": process.name },
        "policy": { "name": because.instance, "uid": because.rule },
        "unmapped": {
            "instance": because.instance,
            "rule": because.rule,
            "scope": because.scope,
            "because_of_pid": because.actor,
        },
    })
}

/// Something was found or done about a file that is healed.
#[must_use]
pub fn healing(told: &Told) -> Value {
    let (activity, name, status, severity) = match told.outcome {
        Outcome::Kept => (4, "Harden", 1, 1),
        Outcome::Differs => (5, "Detect", 1, 3),
        Outcome::Gone => (5, "Detect", 1, 4),
        Outcome::Restored => (3, "Restore", 1, 4),
        Outcome::Failed => (3, "Restore", 2, 5),
    };
    let path = told.file.path.to_string_lossy();
    let file_name = told.file.path.file_name().unwrap_or_default().to_string_lossy();
    let mut out = json!({
        "class_uid": REMEDIATION,
        "category_uid": REMEDIATION / 1000,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": REMEDIATION * 100 + activity,
        "time": now_ms(),
        "severity_id": severity,
        "status_id": status,
        "message": told.message,
        "metadata": metadata(),
        "device": device(),
        "command_uid": told.file.rule,
        "file": { "path": path, "name": file_name, "type_id": 1 },
        "policy": { "name": told.file.instance, "uid": told.file.rule },
        "unmapped": told.details,
    });
    if let Some(why) = told.details.get("error") {
        out["status_detail"] = why.clone();
    }
    if let Some(fix) = told.details.get("fix") {
        out["remediation"] = json!({ "desc": fix });
    }
    out
}

/// Settings or flows have changed. Who has done it is not known here; what was met at the file names the same incident.
#[must_use]
pub fn changed(change: &Change) -> Value {
    // Nobody may be at work just now: what git runs, it runs for somebody who knows nothing of it.
    let severity = if change.git_runs.is_empty() { 1 } else { 4 };
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
    use serde_json::Map;

    use super::*;
    use crate::{
        change::{Kind, diff, flows},
        heal::Healed,
        journal::ocsf::tests::valid,
    };

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

    #[test]
    fn responses_are_valid() {
        let because = Because { instance: "a", rule: "r", scope: "tree", actor: 7 };
        valid(&ended(&Ended { pid: 9, name: "curl".to_owned() }, because, "x"));
        for outcome in [Outcome::Kept, Outcome::Differs, Outcome::Gone, Outcome::Restored, Outcome::Failed] {
            let file = Healed { instance: "a".to_owned(), rule: "r".to_owned(), path: "/u/settings.js".into() };
            let details = ["heal_us", "error", "fix"].map(|key| (key.to_owned(), key.into()));
            let details = Map::from_iter(details);
            valid(&healing(&Told { file, outcome, message: "x".to_owned(), details }));
        }
    }
}
