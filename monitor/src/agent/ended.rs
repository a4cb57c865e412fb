//! A process that a rule killed beside the one that acted, as an event.

use serde_json::{Value, json};

use journal::ocsf::{Severity, device, metadata, now_ms};

/// Process Activity.
const PROCESS: u32 = 1007;

/// A process that was killed because of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its pid.
    pub(super) pid: u32,
    /// Its command name.
    pub(super) name: String,
}

/// Whose policy had a process killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Because<'a> {
    /// Name of the instance.
    pub(super) instance: &'a str,
    /// Id of the rule.
    pub(super) rule: &'a str,
    /// Name of the scope.
    pub(super) scope: &'a str,
    /// The process that acted, which the kernel has killed.
    pub(super) actor: u32,
}

/// A process was killed because of what another has done.
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
