//! What tests of several crates judge events by: the schemas of OCSF, the fields of ECS, and a parser of CEF.
#![expect(clippy::missing_panics_doc, clippy::unwrap_used, reason = "tests alone use it")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::format::{cef, ecs, text};

#[path = "../tests/ecs/mod.rs"]
pub(crate) mod published;

fn schema(class: u64) -> jsonschema::Validator {
    let path = format!("{}/tests/ocsf/{class}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

/// Panics unless an event is valid by OCSF's schema, and its exports are valid.
pub fn valid(event: &Value) {
    let mut event = event.clone();
    event["metadata"]["sequence"] = 1.into();
    event["metadata"]["uid"] = "x-1".into();
    let class = event["class_uid"].as_u64().unwrap();
    let errors: Vec<_> =
        schema(class).iter_errors(&event).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{event:#}");
    assert_eq!(event["type_uid"].as_u64(), Some(class * 100 + event["activity_id"].as_u64().unwrap()));
    assert_eq!(event["category_uid"].as_u64(), Some(class / 1000));
    exports_validly(&event);
}

/// An event whose names hold this text, such as one that ends a field of a format.
#[must_use]
pub fn hostile(name: &str) -> Value {
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

/// Panics unless the export of an event is ECS, and CEF by the specification.
fn exports_validly(event: &Value) {
    let document = ecs::render(event);
    assert_eq!(published::faults(&document), Vec::<String>::new(), "{document:#}");
    let line = cef::render(event);
    let (header, pairs) = parse_cef(&line);
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

/// Header and extension of a line, parsed by CEF's specification alone.
#[must_use]
pub fn parse_cef(line: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while fields.len() < 8 {
        match chars.next().unwrap() {
            '\\' => fields.last_mut().unwrap().push(chars.next().unwrap()),
            '|' => fields.push(String::new()),
            char => fields.last_mut().unwrap().push(char),
        }
    }
    fields.pop();
    // A key is the last word before a `=` that no backslash escapes.
    let rest: Vec<char> = chars.collect();
    let (mut pairs, mut key, mut value, mut at) = (BTreeMap::new(), String::new(), String::new(), 0);
    while at < rest.len() {
        match rest[at] {
            '\\' => {
                at += 1;
                value.push(match rest[at] {
                    'n' => '\n',
                    'r' => '\r',
                    char => char,
                });
            }
            '=' => {
                let (old, next) = value.rsplit_once(' ').map_or(("", value.as_str()), |(old, next)| (old, next));
                let (old, next) = (old.to_owned(), next.to_owned());
                if !key.is_empty() {
                    pairs.insert(key, old);
                }
                (key, value) = (next, String::new());
            }
            char => value.push(char),
        }
        at += 1;
    }
    pairs.insert(key, value);
    (fields, pairs)
}
