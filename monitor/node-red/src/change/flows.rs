//! Changes of flows, node by node. A diff of JSON lines is not readable.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::mask::Masker;

/// Most nodes of a kind that are named.
const MOST: usize = 50;
/// Longest name, in characters.
const MAX_NAME: usize = 80;
/// Where a node is drawn is nothing that it does.
const PLACE: [&str; 5] = ["x", "y", "w", "h", "l"];

/// A node that came, went or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its type.
    pub r#type: String,
    /// Its name or label; empty when it has none.
    pub name: String,
    /// Label of the tab that it is on; empty for configuration.
    pub tab: String,
    /// Properties that changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<String>,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Nodes that came; the first of them.
    pub added: Vec<Node>,
    /// Nodes that went.
    pub removed: Vec<Node>,
    /// Nodes that do something else now.
    pub changed: Vec<Node>,
    /// How many came, went, and changed.
    pub counts: [usize; 3],
    /// How many are only drawn elsewhere.
    pub moved: usize,
}

impl Summary {
    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        let [added, removed, changed] = self.counts;
        match (added + removed + changed, self.moved) {
            (0, 0) => "no node differs".to_owned(),
            (0, moved) => format!("{moved} nodes are only drawn elsewhere"),
            _ => format!("{added} nodes added, {removed} removed, {changed} changed"),
        }
    }
}

/// Compares two versions of a flow file; `None` when one is none.
#[must_use]
pub fn compare(old: &str, new: &str) -> Option<Summary> {
    let (old, new) = (nodes(old)?, nodes(new)?);
    let mut masker = Masker::default();
    let mut summary = Summary::default();
    for (id, node) in &new {
        match old.get(id) {
            None => add(&mut summary.added, &mut summary.counts[0], || tell(id, node, &new, &mut masker)),
            Some(before) if before == node => {}
            Some(before) => {
                let properties = differing(before, node);
                if properties.is_empty() {
                    summary.moved += 1;
                } else {
                    add(&mut summary.changed, &mut summary.counts[2], || Node {
                        properties,
                        ..tell(id, node, &new, &mut masker)
                    });
                }
            }
        }
    }
    for (id, node) in old.iter().filter(|(id, _)| !new.contains_key(*id)) {
        add(&mut summary.removed, &mut summary.counts[1], || tell(id, node, &old, &mut masker));
    }
    Some(summary)
}

fn add(list: &mut Vec<Node>, count: &mut usize, node: impl FnOnce() -> Node) {
    *count += 1;
    if list.len() < MOST {
        list.push(node());
    }
}

/// Nodes by their ids. A flow file is a list of them, or an object that has one as `flows`.
fn nodes(text: &str) -> Option<BTreeMap<String, Map<String, Value>>> {
    let list = match serde_json::from_str(text).ok()? {
        Value::Array(list) => list,
        Value::Object(mut file) => match file.remove("flows") {
            Some(Value::Array(list)) => list,
            _ => return None,
        },
        _ => return None,
    };
    let node = |node| match node {
        Value::Object(node) => Some((node.get("id")?.as_str()?.to_owned(), node)),
        _ => None,
    };
    Some(list.into_iter().filter_map(node).collect())
}

fn differing(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    let differ = keys.filter(|key| !PLACE.contains(&key.as_str()) && old.get(*key) != new.get(*key));
    differ.take(16).map(|key| cut(key)).collect()
}

fn tell(id: &str, node: &Map<String, Value>, all: &BTreeMap<String, Map<String, Value>>, masker: &mut Masker) -> Node {
    let text =
        |node: &Map<String, Value>, key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut name = |node: &Map<String, Value>| {
        let (name, label) = (text(node, "name"), text(node, "label"));
        cut(&masker.mask(if name.is_empty() { &label } else { &name }))
    };
    let tab = node.get("z").and_then(Value::as_str).and_then(|tab| all.get(tab));
    Node {
        id: cut(id),
        r#type: cut(&text(node, "type")),
        name: name(node),
        tab: tab.map_or_else(String::new, name),
        properties: Vec::new(),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_that_came_went_and_changed_are_named_with_their_tab() {
        let tab = json!({ "id": "t", "type": "tab", "label": "Boiler" });
        let node = |id: &str, code: &str, x: u32| json!({ "id": id, "type": "function", "z": "t", "name": format!("n-{id}"), "func": code, "x": x });
        let old = json!([tab, node("a", "1", 1), node("b", "1", 1), node("c", "1", 1)]).to_string();
        let new = json!([tab, node("a", "2", 1), node("b", "1", 9), node("d", "1", 1)]).to_string();
        let summary = compare(&old, &new).unwrap();
        let named = |nodes: &[Node]| nodes.iter().map(|it| (it.name.clone(), it.tab.clone())).collect::<Vec<_>>();
        let on_tab = |name: &str| vec![(name.to_owned(), "Boiler".to_owned())];
        assert_eq!(
            (named(&summary.added), named(&summary.removed), named(&summary.changed)),
            (on_tab("n-d"), on_tab("n-c"), on_tab("n-a"))
        );
        assert_eq!((summary.changed[0].properties.as_slice(), summary.moved), (&["func".to_owned()][..], 1));
        assert_eq!(summary.words(), "1 nodes added, 1 removed, 1 changed");
        let wrapped = |text: &str| format!("{{\"rev\":\"1\",\"flows\":{text}}}");
        assert_eq!(compare(&wrapped(&old), &wrapped(&new)), Some(summary));
    }

    #[test]
    fn many_nodes_are_counted_and_some_named_and_no_name_shows_a_secret() {
        let nodes: Vec<_> = (0..500)
            .map(|number| json!({ "id": number.to_string(), "type": "http request", "name": "https://u:hunter22@x/" }))
            .collect();
        let summary = compare("[]", &Value::from(nodes).to_string()).unwrap();
        assert_eq!((summary.counts, summary.added.len()), ([500, 0, 0], MOST));
        assert!(!serde_json::to_string(&summary).unwrap().contains("hunter22"));
    }

    #[test]
    fn what_is_no_flow_file_is_none() {
        for text in ["", "{", "{}", "7", "{\"flows\":7}"] {
            assert_eq!(compare("[]", text), None, "{text}");
        }
        assert_eq!(compare("[]", "[1,{\"id\":2},{}]"), Some(Summary::default()));
    }
}
