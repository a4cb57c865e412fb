//! Whether a document is as the Elastic Common Schema has it.

use std::sync::LazyLock;

use serde_json::Value;

/// The fields that are used, as they are published.
static PUBLISHED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("fields.json")).unwrap_or_default());

/// What is wrong with a document; nothing when every field is one of ECS, holds what ECS says, and no list holds objects.
/// What is under `flowwarden` is its own, but for the lists.
pub(crate) fn faults(document: &Value) -> Vec<String> {
    let list = &*PUBLISHED;
    let mut found = Vec::new();
    if document.pointer("/ecs/version") != list.get("version") {
        found.push(format!("ecs.version is not {}", list["version"]));
    }
    walk("", document, &list["fields"], &mut found);
    let category = document.pointer("/event/category/0").and_then(Value::as_str).unwrap_or_default();
    let types = &list["fields"]["event.category"]["types"][category];
    let kinds = document.pointer("/event/type").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let allowed = |kind: &Value| types.as_array().is_some_and(|types| types.contains(kind));
    if kinds.is_empty() || !kinds.iter().all(allowed) {
        found.push(format!("event.type {kinds:?} does not go with event.category {category:?}"));
    }
    found
}

fn walk(path: &str, value: &Value, fields: &Value, found: &mut Vec<String>) {
    let own = path.starts_with("flowwarden.");
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, fields, found);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            found.push(format!("{path} is a list of objects"));
        }
        _ if own => {}
        _ => found.extend(wrong(path, value, &fields[path])),
    }
}

/// What is wrong with the value of a field.
fn wrong(path: &str, value: &Value, field: &Value) -> Option<String> {
    let kind = field["type"].as_str().unwrap_or("no field");
    let allowed = |value: &Value| field["values"].as_array().is_none_or(|values| values.contains(value));
    let fits = |value: &Value| match kind {
        "long" => value.is_i64() || value.is_u64(),
        "ip" => value.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
        "date" => {
            value.as_str().is_some_and(|text| text.ends_with('Z') && text.len() == "2026-01-31T00:00:00.000Z".len())
        }
        "keyword" | "wildcard" | "match_only_text" | "text" => value.is_string(),
        _ => false,
    };
    let one = |value: &Value| fits(value) && allowed(value);
    let good = match value.as_array() {
        Some(items) => field["array"] == true && items.iter().all(one),
        None => field["array"] != true && one(value),
    };
    (!good).then(|| format!("{path} is {value}, and ECS has {field} there"))
}
