//! Common Event Format: one header, then `key=value` pairs.

use std::fmt::Write as _;

use serde_json::Value;

use super::{number, process, text};
use crate::{ocsf::Severity, text::terminal::is_hidden};

/// An event as one line of CEF.
pub(crate) fn render(event: &Value) -> String {
    let mut out = String::from("CEF:0|Flowwarden|Flowwarden|");
    let name = match text(event, "/unmapped/verdict") {
        Some(verdict) => format!("{} {verdict}", text(event, "/unmapped/hook").unwrap_or_default()),
        None if number(event, "/class_uid") == Some(2004) => {
            format!("incident {}", text(event, "/activity_name").unwrap_or_default().to_lowercase())
        }
        None => text(event, "/activity_name").unwrap_or("event").to_owned(),
    };
    header(&mut out, text(event, "/metadata/product/version").unwrap_or_default());
    header(&mut out, &number(event, "/type_uid").unwrap_or_default().to_string());
    header(&mut out, &name);
    let _ = write!(out, "{}|", Severity::of(event).cef());
    let mut extension = Extension { out, first: true };
    let inbound = number(event, "/connection_info/direction_id") == Some(1);
    extension.number("rt", number(event, "/time"));
    extension.text("externalId", text(event, "/metadata/uid"));
    extension.text("dvchost", text(event, "/device/hostname"));
    extension.text("act", text(event, "/unmapped/verdict"));
    extension.text("msg", text(event, "/message"));
    extension.number("cnt", number(event, "/count"));
    extension.number("start", number(event, "/start_time"));
    extension.number("end", number(event, "/end_time"));
    extension.text("fname", text(event, "/file/name"));
    extension.text("filePath", text(event, "/file/path"));
    extension.text("src", text(event, "/src_endpoint/ip"));
    extension.number("spt", number(event, "/src_endpoint/port").filter(|_| inbound));
    extension.text("dst", text(event, "/dst_endpoint/ip"));
    extension.number("dpt", number(event, "/dst_endpoint/port"));
    extension.text("proto", text(event, "/connection_info/protocol_name"));
    if event.pointer("/connection_info/direction_id").is_some() {
        extension.number("deviceDirection", Some(i64::from(!inbound)));
    }
    if let Some(process) = process(event) {
        extension.number("spid", number(process, "/pid"));
        extension.text("sproc", text(process, "/file/path").or_else(|| text(process, "/name")));
        extension.text("suid", text(process, "/user/uid"));
        extension.text("suser", text(process, "/user/name"));
    }
    let customs = [
        ("cs1", "instance", text(event, "/unmapped/instance")),
        ("cs2", "rule", text(event, "/unmapped/rule")),
        ("cs3", "commandLine", process(event).and_then(|process| text(process, "/cmd_line"))),
        ("cs4", "wanted", text(event, "/unmapped/wanted")),
        ("cs5", "sensor", text(event, "/unmapped/sensor")),
        ("cs6", "whatToDo", text(event, "/remediation/desc")),
    ];
    for (key, label, value) in customs {
        if value.is_some() {
            extension.text(&format!("{key}Label"), Some(label));
            extension.text(key, value);
        }
    }
    if let Some(checkpoint) = event.pointer("/unmapped/checkpoint") {
        extension.text("flexString1Label", Some(CHECKPOINT));
        extension.text("flexString1", Some(&checkpoint.to_string()));
    }
    extension.out
}

/// The label of the key with a checkpoint, which is JSON.
const CHECKPOINT: &str = "checkpoint";

/// The checkpoint in an event, which may have something before it; as [`render`] has written it.
pub(crate) fn checkpoint(text: &str) -> Option<String> {
    let (_, event) = text.split_once("CEF:")?;
    let (_, value) = event.split_once(&format!(" flexString1Label={CHECKPOINT} flexString1="))?;
    let (mut out, mut chars) = (String::new(), value.chars());
    while let Some(char) = chars.next().filter(|&char| char != ' ') {
        out.push(if char == '\\' { chars.next()? } else { char });
    }
    Some(out)
}

/// One field of the header: `\` and `|` are escaped.
fn header(out: &mut String, value: &str) {
    for char in value.chars() {
        match char {
            '\\' | '|' => out.extend(['\\', char]),
            _ if is_hidden(char) => out.extend(char.escape_unicode()),
            _ => out.push(char),
        }
    }
    out.push('|');
}

struct Extension {
    out: String,
    first: bool,
}

impl Extension {
    fn number(&mut self, key: &str, value: Option<i64>) {
        if let Some(value) = value {
            self.text(key, Some(&value.to_string()));
        }
    }

    /// One pair: `\` and `=` are escaped, line ends are `\n` and `\r`, what a terminal may obey is written out.
    fn text(&mut self, key: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        if !std::mem::take(&mut self.first) {
            self.out.push(' ');
        }
        self.out.push_str(key);
        self.out.push('=');
        for char in value.chars() {
            match char {
                '\\' | '=' => self.out.extend(['\\', char]),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                // Written out with a backslash that is escaped itself.
                _ if is_hidden(char) => {
                    let _ = write!(self.out, "\\\\u{{{:x}}}", u32::from(char));
                }
                _ => self.out.push(char),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{hostile, parse_cef as parse};

    #[test]
    fn every_fact_has_its_key() {
        let line = render(&hostile("plant"));
        let (header, pairs) = parse(&line);
        assert_eq!(header, ["CEF:0", "Flowwarden", "Flowwarden", "0.1.0", "100103", "write kill", "10"]);
        for (key, value) in [
            ("act", "kill"),
            ("filePath", "plant"),
            ("dst", "203.0.113.9"),
            ("dpt", "443"),
            ("spid", "7"),
            ("cs2", "plant"),
        ] {
            assert_eq!(pairs.get(key).map(String::as_str), Some(value), "{key} in {line}");
        }
    }

    #[test]
    fn a_field_of_the_header_cannot_break_out() {
        let mut event = hostile("plant");
        (event["unmapped"]["hook"], event["metadata"]["product"]["version"]) = ("a|b\\".into(), "\\|1".into());
        let (header, pairs) = parse(&render(&event));
        assert_eq!((header[3].as_str(), header[5].as_str(), header.len()), ("\\|1", "a|b\\ kill", 7));
        assert_eq!(pairs["filePath"], "plant");
    }

    proptest! {
        #[test]
        fn a_name_comes_back_as_it_was(name in "[ -~\n\ré日]{1,60}") {
            let (header, pairs) = parse(&render(&hostile(&name)));
            prop_assert_eq!(header.len(), 7);
            prop_assert_eq!(&pairs["filePath"], &name);
            prop_assert_eq!(&pairs["cs1"], &name);
            prop_assert_eq!(&pairs["dpt"], "443");
        }
    }
}
