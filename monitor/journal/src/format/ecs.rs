//! Elastic Common Schema 9.4: its fields where it has them, ours under `flowwarden`. No arrays of objects, which Wazuh
//! cannot read.

use serde_json::{Map, Value, json};

use super::{number, process, rfc3339, text};

const VERSION: &str = "9.4.0";

/// An event as an ECS document.
pub(crate) fn render(event: &Value) -> Value {
    let verdict = text(event, "/unmapped/verdict");
    let time = rfc3339(number(event, "/time").unwrap_or_default());
    let (category, kind) = classified(event);
    let mut out = json!({
        "@timestamp": time,
        "ecs": { "version": VERSION },
        "message": event["message"],
        "event": {
            "kind": if event["is_alert"] == true { "alert" } else { "event" },
            "category": [category],
            "type": [kind],
            "action": text(event, "/unmapped/hook").or_else(|| text(event, "/activity_name")),
            "outcome": outcome(event, verdict),
            "severity": event["severity_id"],
            "id": event.pointer("/metadata/uid"),
            "sequence": event.pointer("/metadata/sequence"),
            "module": "flowwarden",
            "provider": "flowwarden",
            "dataset": "flowwarden.journal",
        },
        "observer": { "vendor": "Flowwarden", "product": "Flowwarden", "version": event.pointer("/metadata/product/version") },
        "host": {
            "hostname": event.pointer("/device/hostname"),
            "os": { "type": "linux", "kernel": event.pointer("/device/os/kernel_release") },
        },
    });
    let mut set = |key: &str, value: Value| out[key] = value;
    if let Some(process) = process(event) {
        let mut document = process_of(process);
        if let Some(parent) = process.get("parent_process") {
            document["parent"] = process_of(parent);
        }
        set("process", document);
        set("user", json!({ "id": process.pointer("/user/uid"), "name": process.pointer("/user/name") }));
    }
    if let Some(file) = event.get("file") {
        let inode = number(event, "/unmapped/ino").map(|inode| inode.to_string());
        set(
            "file",
            json!({ "path": file["path"], "name": file["name"], "directory": file["parent_folder"], "inode": inode }),
        );
    }
    for (from, to) in [("/src_endpoint", "source"), ("/dst_endpoint", "destination")] {
        if let Some(end) = event.pointer(from) {
            let address = text(end, "/ip").or_else(|| text(end, "/hostname"));
            set(to, json!({ "address": address, "ip": end["ip"], "port": end["port"] }));
        }
    }
    if let Some(info) = event.get("connection_info") {
        let direction = if info["direction_id"] == 1 { "ingress" } else { "egress" };
        set("network", json!({ "transport": info["protocol_name"], "direction": direction }));
    }
    if let Some(rule) = text(event, "/unmapped/rule") {
        let description = text(event, "/unmapped/rule_text");
        set(
            "rule",
            json!({ "id": rule, "name": rule, "ruleset": event["unmapped"]["instance"], "description": description }),
        );
    }
    if let Some(attacks) = event["attacks"].as_array() {
        let ids = |pointer| attacks.iter().filter_map(|attack| text(attack, pointer)).collect::<Vec<_>>();
        set(
            "threat",
            json!({
                "framework": "MITRE ATT&CK",
                "technique": { "id": ids("/technique/uid"), "subtechnique": { "id": ids("/sub_technique/uid") } },
            }),
        );
    }
    let mut own = event.get("unmapped").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(remediation) = text(event, "/remediation/desc") {
        own.insert("remediation".to_owned(), remediation.into());
        own.insert("count".to_owned(), event["count"].clone());
    }
    let own: Map<_, _> = own
        .into_iter()
        .filter(|(key, _)| !matches!(key.as_str(), "chain" | "rule_text"))
        .map(|(key, value)| (key, without_lists_of_objects(value)))
        .collect();
    set("flowwarden", Value::Object(own));
    prune(&mut out);
    out
}

/// Category and type, from the lists of allowed values.
fn classified(event: &Value) -> (&'static str, &'static str) {
    let activity = number(event, "/activity_id").unwrap_or_default();
    match number(event, "/class_uid") {
        Some(1001) => (
            "file",
            match activity {
                1 => "creation",
                4 => "deletion",
                2 | 14 => "access",
                3 | 5 | 6 | 7 => "change",
                _ => "info",
            },
        ),
        Some(1007) => (
            "process",
            match activity {
                1 => "start",
                2 => "end",
                3 => "access",
                5 => "change",
                _ => "info",
            },
        ),
        Some(2004) => ("intrusion_detection", "info"),
        Some(4001) if text(event, "/unmapped/verdict") == Some("deny") => ("network", "denied"),
        Some(4001) => ("network", if activity == 1 { "connection" } else { "info" }),
        _ => ("configuration", if activity == 99 { "change" } else { "info" }),
    }
}

fn outcome(event: &Value, verdict: Option<&str>) -> &'static str {
    match verdict {
        Some("deny") => "failure",
        Some(_) if event["status_id"] == 2 => "failure",
        // Whether the operation of a killed process took place is unknown.
        Some("kill") => "unknown",
        _ => "success",
    }
}

fn process_of(process: &Value) -> Value {
    json!({
        "pid": process["pid"],
        "thread": process.get("tid").map(|tid| json!({ "id": tid })),
        "name": process["name"],
        "executable": process.pointer("/file/path"),
        "command_line": process["cmd_line"],
    })
}

/// The value with objects in lists as texts.
fn without_lists_of_objects(value: Value) -> Value {
    match value {
        Value::Array(items) => items
            .into_iter()
            .map(|item| if item.is_object() { Value::String(item.to_string()) } else { item })
            .collect(),
        other => other,
    }
}

/// Removes what is null.
fn prune(value: &mut Value) {
    if let Value::Object(map) = value {
        map.values_mut().for_each(prune);
        map.retain(|_, value| !value.is_null());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hostile, published};

    #[test]
    fn every_fact_has_its_field() {
        let out = render(&hostile("plant"));
        assert_eq!(out["@timestamp"], "2023-11-14T22:13:20.123Z");
        for (pointer, value) in [
            ("/event/kind", json!("alert")),
            ("/event/category", json!(["file"])),
            ("/event/type", json!(["change"])),
            ("/event/id", json!("run-7")),
            ("/file/path", json!("plant")),
            ("/file/inode", json!("5")),
            ("/process/parent/pid", json!(1)),
            ("/destination/ip", json!("203.0.113.9")),
            ("/rule/id", json!("plant")),
            ("/flowwarden/verdict", json!("kill")),
        ] {
            assert_eq!(out.pointer(pointer), Some(&value), "{pointer} in {out:#}");
        }
    }

    #[test]
    fn every_field_is_one_of_ecs_and_holds_what_ecs_says() {
        for class in [1001, 1007, 4001, 6002, 7002] {
            for activity in [1, 2, 3, 4, 5, 6, 7, 14, 99] {
                for verdict in ["log", "deny", "kill"] {
                    let mut event = hostile("plant");
                    (event["class_uid"], event["activity_id"]) = (class.into(), activity.into());
                    event["unmapped"]["verdict"] = verdict.into();
                    let out = render(&event);
                    assert_eq!(published::faults(&out), Vec::<String>::new(), "{out:#}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_as_ecs_has_it_is_found() {
        let good = render(&hostile("plant"));
        for (pointer, value) in [
            ("/event/category", json!("file")),
            ("/event/category/0", json!("files")),
            ("/event/type/0", json!("start")),
            ("/event/outcome", json!("denied")),
            ("/event/severity", json!("high")),
            ("/@timestamp", json!(5)),
            ("/destination/ip", json!("here")),
            ("/process/pid", json!("1")),
            ("/ecs/version", json!("1.0.0")),
            ("/rule", json!({ "rule": "x" })),
            ("/flowwarden/verdict", json!([{ "a": 1 }])),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value;
            assert!(!published::faults(&bad).is_empty(), "{pointer}");
        }
    }

    #[test]
    fn nothing_is_null_and_no_list_holds_objects() {
        fn walk(value: &Value) {
            match value {
                Value::Null => panic!("null"),
                Value::Array(items) => assert!(items.iter().all(|item| !item.is_object())),
                Value::Object(map) => map.values().for_each(walk),
                _ => {}
            }
        }
        walk(&render(&hostile("x")));
        walk(&render(&json!({ "class_uid": 6002, "unmapped": { "degraded": [{ "hook": "a", "why": "b" }] } })));
    }
}
