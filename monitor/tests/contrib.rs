//! What is given along in `contrib/` speaks of figures and fields that there are.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use monitor::metrics;
use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::Value;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

/// The words of a text that begin so.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_')).filter(move |word| word.starts_with(start))
}

#[test]
fn the_dashboard_shows_every_figure_and_none_that_there_is_not() {
    let dashboard: Value = serde_json::from_str(&text("contrib/grafana/flowwarden.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with one id: {panel:#}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let balanced = |open, close| expression.matches(open).count() == expression.matches(close).count();
            assert!(balanced('(', ')') && balanced('{', '}') && balanced('[', ']'), "{expression}");
            shown.extend(words(expression, "flowwarden_").map(str::to_owned));
        }
    }
    let known: BTreeSet<_> = metrics::NAMES.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(shown, known);
}

/// The fields that a detection asks for: the keys of maps, also of those in lists.
fn fields(detection: &Yaml<'_>, found: &mut BTreeSet<String>) {
    match detection {
        Yaml::Mapping(map) => {
            for (key, _) in map {
                found.insert(key.as_str().unwrap().split('|').next().unwrap().to_owned());
            }
        }
        Yaml::Sequence(list) => list.iter().for_each(|item| fields(item, found)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sigma_rules_are_whole_and_ask_for_fields_that_events_have() {
    const LEVELS: [&str; 5] = ["informational", "low", "medium", "high", "critical"];
    // Of OCSF; the schema itself vouches for these wherever a journal is checked.
    const OCSF: [&str; 10] = [
        "class_uid",
        "activity_id",
        "activity_name",
        "message",
        "file.name",
        "file.path",
        "actor.process.cmd_line",
        "process.cmd_line",
        "dst_endpoint.ip",
        "dst_endpoint.port",
    ];
    let documented = text("docs/reference/events.md");
    let (mut ids, mut count) = (BTreeSet::new(), 0);
    for entry in fs::read_dir(file("contrib/sigma")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display();
        let rule = Yaml::load_from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let [rule] = &rule[..] else { panic!("{name} holds {} rules", rule.len()) };
        let string = |key: &str| {
            let value = rule.as_mapping_get(key).unwrap_or_else(|| panic!("{name}: {key} is missing"));
            value.as_str().unwrap_or_else(|| panic!("{name}: {key} is no text")).to_owned()
        };
        for key in ["title", "description", "author", "status"] {
            assert!(!string(key).is_empty(), "{name}: {key}");
        }
        assert!(string("title").len() <= 256 && LEVELS.contains(&string("level").as_str()), "{name}");
        let id = string("id");
        assert!(id.len() == 36 && id.split('-').count() == 5 && ids.insert(id), "{name}: no new UUID");
        let source = rule.as_mapping_get("logsource").unwrap();
        assert_eq!(source.as_mapping_get("product").and_then(Yaml::as_str), Some("flowwarden"), "{name}");
        let detection = rule.as_mapping_get("detection").unwrap().as_mapping().unwrap();
        let mut parts = BTreeSet::new();
        let mut found = BTreeSet::new();
        let mut condition = String::new();
        for (key, value) in detection {
            let key = key.as_str().unwrap();
            if key == "condition" {
                condition = value.as_str().unwrap().to_owned();
            } else {
                parts.insert(key.to_owned());
                fields(value, &mut found);
            }
        }
        let named = words(&condition, "").filter(|word| !matches!(*word, "" | "and" | "or" | "not"));
        assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), parts, "{name}: {condition}");
        let shown = rule.as_mapping_get("fields").unwrap().as_sequence().unwrap();
        found.extend(shown.iter().map(|field| field.as_str().unwrap().to_owned()));
        for field in found {
            let known = match field.strip_prefix("unmapped.") {
                Some(own) => documented.contains(&format!("`{}`", own.split('.').next().unwrap())),
                None => OCSF.contains(&field.as_str()),
            };
            assert!(known, "{name}: no event has {field}");
        }
        count += 1;
    }
    assert!(count >= 5, "{count} rules");
}
