//! One line of the journal. Where each fact stands in it is known here and nowhere else.

use std::{net::IpAddr, time::Duration};

use serde_json::Value;

/// An event, as the journal has it: OCSF with our own facts under `unmapped`.
#[derive(Clone, Debug)]
pub struct Record(Value);

impl Record {
    /// The event in this line.
    pub fn parse(line: &str) -> serde_json::Result<Self> {
        serde_json::from_str(line).map(Self)
    }

    /// The whole event.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// Name of the instance.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.own("instance")
    }

    /// Name of the rule that decided.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.own("rule")
    }

    /// What was done: `allow`, `log`, `deny` or `kill`; empty for a record that is not about an access.
    #[must_use]
    pub fn verdict(&self) -> &str {
        self.own("verdict")
    }

    /// What the policy wants done.
    #[must_use]
    pub fn wanted(&self) -> &str {
        self.own("wanted")
    }

    /// The operation.
    #[must_use]
    pub fn hook(&self) -> &str {
        self.own("hook")
    }

    /// Who saw it.
    #[must_use]
    pub fn sensor(&self) -> &str {
        self.own("sensor")
    }

    /// The system call; empty for a record that is about none.
    #[must_use]
    pub fn syscall(&self) -> &str {
        self.own("syscall")
    }

    /// Whether the access is among those that the verdict rests on.
    #[must_use]
    pub fn has_access(&self, name: &str) -> bool {
        self.own_list("access").any(|access| access == name)
    }

    /// Whether the record carries this caveat, for example `damaged` or `after`.
    #[must_use]
    pub fn has_flag(&self, name: &str) -> bool {
        self.own_list("flags").any(|flag| flag == name)
    }

    /// Whether it is an alert: something that was logged, denied or killed.
    #[must_use]
    pub fn is_alert(&self) -> bool {
        matches!(self.verdict(), "log" | "deny" | "kill")
    }

    /// Whether it is an alert that no maintenance window explains.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        self.is_alert() && !self.has_flag("maintenance")
    }

    /// Whether a good copy of a file was kept.
    #[must_use]
    pub fn is_good_copy(&self) -> bool {
        self.is_remediation("Harden")
    }

    /// Whether a file was restored from its good copy.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.is_remediation("Restore") && self.number("/status_id") == Some(1)
    }

    /// File Remediation Activity.
    fn is_remediation(&self, activity: &str) -> bool {
        self.number("/class_uid") == Some(7002) && self.text("/activity_name") == activity
    }

    /// When it happened, since 1970.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        self.number("/time").map(Duration::from_millis)
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text("/file/path")
    }

    /// The pid of the process that acted.
    #[must_use]
    pub fn pid(&self) -> Option<u64> {
        self.process("pid").as_u64()
    }

    /// The name of the process that acted.
    #[must_use]
    pub fn process_name(&self) -> &str {
        self.process("name").as_str().unwrap_or_default()
    }

    /// Its command line.
    #[must_use]
    pub fn command_line(&self) -> &str {
        self.process("cmd_line").as_str().unwrap_or_default()
    }

    /// The address that it talked to.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.text("/dst_endpoint/ip").parse().ok()
    }

    /// The port that it talked to.
    #[must_use]
    pub fn port(&self) -> Option<u64> {
        self.0.pointer("/dst_endpoint/port")?.as_u64()
    }

    /// A text by its JSON pointer; empty when there is none.
    #[must_use]
    pub fn pointer_text(&self, pointer: &str) -> &str {
        self.text(pointer)
    }

    /// A number by its JSON pointer.
    #[must_use]
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.0.pointer(pointer).and_then(Value::as_u64)
    }

    /// A number that may be negative, by its JSON pointer.
    #[must_use]
    pub fn signed(&self, pointer: &str) -> Option<i64> {
        self.0.pointer(pointer).and_then(Value::as_i64)
    }

    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn own(&self, key: &str) -> &str {
        self.0["unmapped"][key].as_str().unwrap_or_default()
    }

    fn own_list(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0["unmapped"][key].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    /// Process events have the process at the top, all others under `actor`.
    fn process(&self, key: &str) -> &Value {
        let top = &self.0["process"][key];
        if top.is_null() { &self.0["actor"]["process"][key] } else { top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_where_they_stand() {
        let line = r#"{"actor":{"process":{"pid":7,"name":"node"}},"file":{"path":"/s"},
            "dst_endpoint":{"ip":"203.0.113.9","port":80},
            "unmapped":{"rule":"r","verdict":"kill","access":["write"],"flags":["damaged"]}}"#;
        let record = Record::parse(line).unwrap();
        assert_eq!((record.pid(), record.process_name(), record.path()), (Some(7), "node", "/s"));
        assert_eq!(
            (record.rule(), record.port(), record.ip().unwrap().to_string().as_str()),
            ("r", Some(80), "203.0.113.9")
        );
        assert!(record.is_alert() && record.has_access("write") && record.has_flag("damaged"));
        assert!(!record.has_access("read"));
    }

    #[test]
    fn only_what_was_done_to_a_file_is_restored() {
        let line = |activity, status| {
            format!(r#"{{"class_uid":7002,"activity_name":"{activity}","status_id":{status},"time":7}}"#)
        };
        let record = |activity, status| Record::parse(&line(activity, status)).unwrap();
        assert!(record("Restore", 1).is_restored() && !record("Restore", 2).is_restored());
        assert!(record("Harden", 1).is_good_copy() && !record("Detect", 1).is_restored());
        assert_eq!(record("Detect", 1).time(), Some(Duration::from_millis(7)));
    }
}
