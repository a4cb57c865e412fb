//! Which events go to a sink.

use std::str::FromStr;

use serde_json::Value;

/// How grave an event is, in OCSF's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Severity {
    /// 1
    #[default]
    Informational = 1,
    /// 2: something was logged
    Low,
    /// 3: the policy wants more than a log line
    Medium,
    /// 4: denied
    High,
    /// 5: killed
    Critical,
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "informational" => Self::Informational,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "critical" => Self::Critical,
            _ => return Err(format!("\"{text}\" is no severity: informational, low, medium, high or critical")),
        })
    }
}

/// What an event has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
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
            verdicts: Vec::new(),
            severity: Severity::default(),
            instances: Vec::new(),
            rules: Vec::new(),
            own_events: true,
        }
    }
}

impl Filter {
    /// Whether an event goes to the sink.
    #[must_use]
    pub fn takes(&self, event: &Value) -> bool {
        if event["severity_id"].as_i64().unwrap_or(1) < self.severity as i64 {
            return false;
        }
        let own = &event["unmapped"];
        if own["verdict"].is_null() {
            return self.own_events;
        }
        let listed = |list: &[String], key: &str| list.is_empty() || list.iter().any(|wanted| own[key] == **wanted);
        listed(&self.verdicts, "verdict") && listed(&self.instances, "instance") && listed(&self.rules, "rule")
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
        assert!(!Filter { own_events: false, ..all.clone() }.takes(&own));
        assert!(!Filter { severity: Severity::Low, ..all }.takes(&own));
    }
}
