//! What was done about an operation, as the profile `security_control` has it.

use serde::Serialize;
use serde_json::{Value, json};

use super::Severity;

/// What was done about an operation, or about the operations of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It was logged, as the policy wants it.
    Logged,
    /// It was logged, and the policy would have it denied.
    Alert,
    /// It was denied.
    Blocked,
    /// Its process was killed.
    Killed,
}

/// The attributes of a [`Disposition`], to be flattened into an event.
#[expect(clippy::struct_field_names, reason = "names of the schema")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    severity_id: Severity,
    action_id: u8,
    action: &'static str,
    disposition_id: u8,
    disposition: &'static str,
}

impl Action {
    /// Puts the attributes into an event, which is an object.
    pub fn put(&self, event: &mut Value) {
        if let (Value::Object(event), Value::Object(action)) = (event, json!(self)) {
            event.extend(action);
        }
    }
}

impl Disposition {
    /// Its attributes. OCSF has no disposition for a process that is killed: 99 is `Other`.
    #[must_use]
    pub fn action(self) -> Action {
        let (severity_id, (action_id, action), (disposition_id, disposition)) = match self {
            Self::Logged => (Severity::Low, (3, "Observed"), (17, "Logged")),
            Self::Alert => (Severity::Medium, (3, "Observed"), (19, "Alert")),
            Self::Blocked => (Severity::High, (2, "Denied"), (2, "Blocked")),
            Self::Killed => (Severity::Critical, (2, "Denied"), (99, "Killed")),
        };
        Action { severity_id, action_id, action, disposition_id, disposition }
    }
}
