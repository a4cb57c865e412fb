//! Events in the forms that others read. On the disk everything is OCSF; these are made where events leave.

pub(crate) mod cef;
pub(crate) mod ecs;

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
pub(crate) fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
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
mod tests {
    use super::*;
    use crate::testing::hostile;

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
