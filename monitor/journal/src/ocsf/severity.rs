//! Severity of events, and what each format makes of it.

use std::str::FromStr;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// `severity_id` of OCSF.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The guard works as it should.
    #[default]
    Informational = 1,
    /// An operation was logged.
    Low = 2,
    /// A rule would have denied the operation, or the guard lacks something.
    Medium = 3,
    /// An operation was denied.
    High = 4,
    /// A process was killed, or a file could not be restored.
    Critical = 5,
}

impl Severity {
    /// All severities with their names.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("informational", Self::Informational),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("critical", Self::Critical),
    ];

    /// The severity of an event. OCSF's `Fatal` (6) is critical; an event without severity is informational.
    #[must_use]
    pub fn of(event: &Value) -> Self {
        match event["severity_id"].as_i64() {
            Some(2) => Self::Low,
            Some(3) => Self::Medium,
            Some(4) => Self::High,
            Some(5..) => Self::Critical,
            _ => Self::Informational,
        }
    }

    /// Severity of syslog (RFC 5424, table 2), which is also the priority of journald: from 6, informational, to 2, critical.
    #[must_use]
    pub fn syslog(self) -> u8 {
        match self {
            Self::Informational => 6,
            Self::Low => 5,
            Self::Medium => 4,
            Self::High => 3,
            Self::Critical => 2,
        }
    }

    /// Severity of CEF, from 0 to 10.
    #[must_use]
    pub fn cef(self) -> u8 {
        match self {
            Self::Informational => 1,
            Self::Low => 3,
            Self::Medium => 5,
            Self::High => 8,
            Self::Critical => 10,
        }
    }

    /// `SeverityNumber` and `SeverityText` of OpenTelemetry's log data model.
    #[must_use]
    pub fn otel(self) -> (u8, &'static str) {
        match self {
            Self::Informational => (9, "INFO"),
            Self::Low => (10, "INFO2"),
            Self::Medium => (13, "WARN"),
            Self::High => (17, "ERROR"),
            Self::Critical => (21, "FATAL"),
        }
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == text);
        known
            .map(|&(_, severity)| severity)
            .ok_or_else(|| format!("\"{text}\" is no severity: informational, low, medium, high or critical"))
    }
}

impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(*self as u8)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_severity_comes_back_from_its_event_and_from_its_name() {
        for (name, severity) in Severity::NAMES {
            assert_eq!(Severity::of(&json!({ "severity_id": severity })), severity);
            assert_eq!(name.parse(), Ok(severity));
        }
        assert_eq!(Severity::of(&json!({ "severity_id": 6 })), Severity::Critical);
        for unknown in [json!({}), json!({ "severity_id": 0 }), json!({ "severity_id": "high" })] {
            assert_eq!(Severity::of(&unknown), Severity::Informational, "{unknown}");
        }
        assert!("High".parse::<Severity>().is_err());
    }

    #[test]
    fn each_format_orders_severities_as_they_are() {
        for [(_, lower), (_, higher)] in Severity::NAMES.array_windows() {
            assert!(lower < higher);
            assert!(lower.syslog() > higher.syslog());
            assert!(lower.cef() < higher.cef());
            assert!(lower.otel().0 < higher.otel().0);
        }
    }
}
