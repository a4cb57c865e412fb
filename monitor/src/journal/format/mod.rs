//! Events in the forms that others read. On the disk everything is OCSF; these are made where events leave.

pub(super) mod cef;
mod ecs;

use std::{
    str::FromStr,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::Value;

/// A form of an event. Each is one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The journal's line, byte by byte: what `verify` and checkpoints are about.
    Jsonl,
    /// OCSF 1.8.0, without the place in the hash chain.
    Ocsf,
    /// Elastic Common Schema 9.4.
    Ecs,
    /// `ArcSight` Common Event Format, version 0.
    Cef,
}

impl Format {
    /// Every form and its name.
    pub const NAMES: [(&'static str, Self); 4] =
        [("jsonl", Self::Jsonl), ("ocsf", Self::Ocsf), ("ecs", Self::Ecs), ("cef", Self::Cef)];

    /// The event as one line, without a line feed. `line` is the journal's line that `event` was read from.
    #[must_use]
    pub fn render(self, line: &[u8], event: &Value) -> Vec<u8> {
        match self {
            Self::Jsonl => line.strip_suffix(b"\n").unwrap_or(line).to_vec(),
            Self::Ocsf => {
                let mut event = event.clone();
                if let Some(unmapped) = event.get_mut("unmapped").and_then(Value::as_object_mut) {
                    unmapped.remove("chain");
                }
                super::chain::to_line(&event).into_bytes()
            }
            Self::Ecs => super::chain::to_line(&ecs::render(event)).into_bytes(),
            Self::Cef => cef::render(event).into_bytes(),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.into_iter().find(|(name, _)| *name == text).map(|(_, format)| format);
        found.ok_or_else(|| format!("\"{text}\" is no format: jsonl, ocsf, ecs or cef"))
    }
}

/// The last second of the year 9999, which dates have no digits beyond.
const LAST_SECOND: u64 = 253_402_300_799;

/// A moment in milliseconds since 1970 as a date and time of RFC 3339, with thousandths. Whatever an event says is one.
#[must_use]
pub fn rfc3339(millis: i64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + moment(millis)).to_string()
}

/// The same without thousandths.
#[must_use]
pub fn rfc3339_seconds(millis: i64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + moment(millis)).to_string()
}

fn moment(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or_default().min(LAST_SECOND * 1000))
}

/// A text by its JSON pointer.
fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

/// A number by its JSON pointer.
fn number(event: &Value, pointer: &str) -> Option<i64> {
    event.pointer(pointer)?.as_i64()
}

/// The process that acted: process events have it at the top, all others under `actor`.
fn process(event: &Value) -> Option<&Value> {
    event.pointer("/process").or_else(|| event.pointer("/actor/process"))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// An event with names that try to break out.
    pub(in crate::journal) fn hostile(name: &str) -> Value {
        json!({
            "class_uid": 1001, "category_uid": 1, "activity_id": 3, "activity_name": "Update", "type_uid": 100_103,
            "time": 1_700_000_000_123_i64, "severity_id": 5, "message": format!("kill of {name}"), "is_alert": true,
            "action": "Denied", "disposition": "Killed", "status_id": 1,
            "metadata": { "uid": "run-7", "sequence": 7, "version": "1.8.0", "product": { "version": "0.1.0" } },
            "device": { "hostname": name, "os": { "name": "Linux", "kernel_release": "6.1" } },
            "actor": { "process": { "pid": 7, "tid": 8, "name": name, "cmd_line": name,
                "file": { "path": name }, "user": { "uid": "990", "name": name },
                "parent_process": { "pid": 1, "name": name } } },
            "file": { "path": name, "name": name, "parent_folder": name, "type_id": 1 },
            "dst_endpoint": { "ip": "203.0.113.9", "port": 443 }, "src_endpoint": { "hostname": name, "port": 1 },
            "connection_info": { "direction_id": 2, "protocol_name": "tcp" },
            "policy": { "name": name, "uid": name, "desc": name },
            "attacks": [{ "technique": { "uid": "T1565" }, "sub_technique": { "uid": "T1565.001" } }],
            "unmapped": { "instance": name, "rule": name, "rule_text": name, "verdict": "kill", "wanted": "kill",
                "hook": "write", "sensor": "lsm", "flags": ["damaged"], "access": ["write"], "ino": 5,
                "chain": { "seg": 1, "prev": "00" } },
        })
    }

    /// Fails when an event is exported as something that is not ECS, or that CEF's specification reads otherwise.
    pub(in crate::journal) fn valid(event: &Value) {
        let document = ecs::render(event);
        assert_eq!(ecs::published::faults(&document), Vec::<String>::new(), "{document:#}");
        let line = cef::render(event);
        let (header, pairs) = cef::tests::parse(&line);
        assert_eq!((header.len(), header[4].as_str()), (7, event["type_uid"].to_string().as_str()), "{line}");
        for (key, pointer) in [
            ("externalId", "/metadata/uid"),
            ("msg", "/message"),
            ("act", "/unmapped/verdict"),
            ("cs1", "/unmapped/instance"),
            ("cs2", "/unmapped/rule"),
        ] {
            assert_eq!(pairs.get(key).map(String::as_str), text(event, pointer), "{key} in {line}");
        }
    }

    #[test]
    fn ocsf_is_the_event_without_its_place_in_the_chain() {
        let event = hostile("x");
        let out: Value = serde_json::from_slice(&Format::Ocsf.render(b"", &event)).unwrap();
        assert!(out["unmapped"]["chain"].is_null());
        assert_eq!(out["unmapped"]["ino"], 5);
    }

    #[test]
    fn jsonl_is_the_line_as_it_is() {
        assert_eq!(Format::Jsonl.render(b"{ }\n", &Value::Null), b"{ }");
    }

    #[test]
    fn no_name_breaks_a_line_of_any_format() {
        let long = "é".repeat(127);
        for name in ["a\nb", "\"}\r\n{", "|\\|=", "\x1b[31m\u{9b}2J", "\u{202e}\u{2028}", "\0\x7f", &long] {
            let event = hostile(name);
            let line = super::super::chain::to_line(&event) + "\n";
            for (format_name, format) in Format::NAMES {
                let out = String::from_utf8(format.render(line.as_bytes(), &event)).unwrap();
                assert!(!out.contains(crate::text::terminal::is_hidden), "{format_name}: {out:?}");
            }
        }
    }
}
