//! Which events go to a sink.

use std::str::FromStr;

use serde_json::Value;

use journal::ocsf::{FINDING, Severity};

/// Whether single events are wanted, or what they were grouped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grouping {
    /// Both.
    #[default]
    All,
    /// Events one by one.
    Single,
    /// Incidents.
    Incidents,
}

impl FromStr for Grouping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "all" => Self::All,
            "single" => Self::Single,
            "incidents" => Self::Incidents,
            _ => return Err(format!("`events` is \"all\", \"single\" or \"incidents\", not \"{text}\"")),
        })
    }
}

/// What an event has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// One by one, or as incidents.
    pub grouping: Grouping,
    /// One of these verdicts; any when there are none.
    pub verdicts: Vec<String>,
    /// As grave as this at least.
    pub severity: Severity,
    /// One of these instances; any when there are none.
    pub instances: Vec<String>,
    /// One of these rules; any when there are none.
    pub rules: Vec<String>,
    /// Events about the guard itself pass too, whatever the lists say: its start and stop, losses, checkpoints.
    pub own_events: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            grouping: Grouping::default(),
            verdicts: Vec::new(),
            severity: Severity::default(),
            instances: Vec::new(),
            rules: Vec::new(),
            own_events: true,
        }
    }
}

impl Filter {
    /// Default for mail: incidents, and failures of the guard.
    pub(super) fn for_persons() -> Self {
        Self { grouping: Grouping::Incidents, severity: Severity::Medium, ..Self::default() }
    }

    /// Whether an event goes to the sink.
    #[must_use]
    pub fn takes(&self, event: &Value) -> bool {
        if Severity::of(event) < self.severity {
            return false;
        }
        let own = &event["unmapped"];
        let is_incident = event["class_uid"] == FINDING;
        if own["verdict"].is_null() && !is_incident {
            return self.own_events;
        }
        if self.grouping == if is_incident { Grouping::Single } else { Grouping::Incidents } {
            return false;
        }
        let listed = |list: &[String], key: &str| list.is_empty() || list.iter().any(|wanted| own[key] == **wanted);
        let verdict = if is_incident {
            let counts = &own["verdicts"];
            self.verdicts.is_empty() || self.verdicts.iter().any(|wanted| !counts[wanted].is_null())
        } else {
            listed(&self.verdicts, "verdict")
        };
        verdict && listed(&self.instances, "instance") && listed(&self.rules, "rule")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_condition_drops_and_the_guards_own_events_pass_the_lists() {
        let event = json!({ "severity_id": 4, "unmapped": { "verdict": "deny", "instance": "a", "rule": "r" } });
        let own = json!({ "severity_id": 1, "unmapped": {} });
        let all = Filter::default();
        assert!(all.takes(&event) && all.takes(&own));
        let list = |text: &str| vec![text.to_owned()];
        let kills = Filter { verdicts: list("kill"), ..all.clone() };
        assert!(!kills.takes(&event) && kills.takes(&own));
        for filter in [
            Filter { severity: Severity::Critical, ..all.clone() },
            Filter { instances: list("b"), ..all.clone() },
            Filter { rules: list("s"), ..all.clone() },
        ] {
            assert!(!filter.takes(&event), "{filter:?}");
        }
        let incident = json!({ "class_uid": 2004, "severity_id": 4,
            "unmapped": { "verdicts": { "deny": 9, "log": 1 }, "instance": "a", "rule": "r" } });
        let takes = |filter: Filter| [&event, &incident, &own].map(|event| filter.takes(event));
        assert_eq!(takes(all.clone()), [true; 3]);
        assert_eq!(takes(Filter { grouping: Grouping::Single, ..all.clone() }), [true, false, true]);
        assert_eq!(takes(Filter { grouping: Grouping::Incidents, ..all.clone() }), [false, true, true]);
        assert_eq!(takes(Filter { verdicts: list("log"), ..all.clone() }), [false, true, true]);
        assert_eq!(takes(Filter { verdicts: list("kill"), ..all.clone() }), [false, false, true]);
        assert_eq!(takes(Filter { rules: list("s"), own_events: false, ..all.clone() }), [false; 3]);
        assert!(!Filter { own_events: false, ..all.clone() }.takes(&own));
        assert!(!Filter { severity: Severity::Low, ..all }.takes(&own));
    }
}
