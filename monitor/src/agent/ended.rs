//! Events about processes that were killed by the scope of a rule.

use serde_json::{Value, json};

use journal::ocsf::{Severity, device, metadata, now_ms};

/// Process Activity.
const PROCESS: u32 = 1007;

/// A process that was killed by the scope of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Pid.
    pub(super) pid: u32,
    /// Command name.
    pub(super) name: String,
}

/// Why a process was killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Because<'a> {
    /// Name of the instance.
    pub(super) instance: &'a str,
    /// Id of the rule.
    pub(super) rule: &'a str,
    /// Name of the scope.
    pub(super) scope: &'a str,
    /// Tgid of the process that acted, which the kernel killed.
    pub(super) actor: u32,
}

/// A process that was killed by the scope of a rule, as an OCSF event.
#[must_use]
pub(super) fn ended(process: &Ended, because: Because<'_>, sentence: &str) -> Value {
    json!({
        "class_uid": PROCESS,
        "category_uid": PROCESS / 1000,
        "activity_id": 2,
        "activity_name": "Terminate",
        "type_uid": PROCESS * 100 + 2,
        "time": now_ms(),
        "severity_id": Severity::High,
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

#[cfg(test)]
mod tests {
    use super::*;
    use journal::testing::valid;

    #[test]
    fn the_event_is_valid() {
        let because = Because { instance: "a", rule: "r", scope: "tree", actor: 7 };
        valid(&ended(&Ended { pid: 9, name: "curl".to_owned() }, because, "x"));
    }
}
