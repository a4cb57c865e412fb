//! What is given along works: the flow for Node-RED in a real Node-RED.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{flows::Flow, wait};
use serde_json::{Value, json};

use crate::SCENE;

/// The flow as it is given along, except that events come by HTTP: no broker is in reach of this Node-RED.
fn flow() -> Result<Vec<Value>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/node-red/flowwarden.json");
    let mut nodes: Vec<Value> = serde_json::from_str(&fs::read_to_string(file)?)?;
    let mut heard = 0;
    for node in &mut nodes {
        if node["type"] == "mqtt in" {
            let mut wires = node["wires"][0].as_array().cloned().unwrap_or_default();
            wires.push("fwtest00000heard".into());
            let url = format!("/test/{}", node["name"].as_str().context("a node without a name")?);
            let (id, tab) = (node["id"].clone(), node["z"].clone());
            *node = json!({ "id": id, "type": "http in", "z": tab, "url": url, "method": "post", "wires": [wires] });
            heard += 1;
        }
    }
    ensure!(heard == 2, "{heard} nodes listen");
    nodes.push(json!({ "id": "fwtest00000heard", "type": "http response", "z": nodes[0]["id"], "wires": [] }));
    Ok(nodes)
}

#[test]
fn the_flow_shows_what_the_guard_sends_and_trusts_none_of_it() -> Result<()> {
    SCENE.with(|scene| {
        let node_red = &scene.node_red;
        let flow = Value::from(flow()?).to_string();
        node_red.deploy(&Flow::empty())?;
        let answer = node_red.http("POST", "/flows", &flow)?;
        ensure!(answer.is_success(), "{answer:?}");
        let page = || node_red.http("GET", "/flowwarden", "");
        wait::until("the page", wait::SOON, || Ok(page()?.body.contains("class=\"offline\"").then_some(())))?;
        let event = json!({ "time": 1_790_000_000_000_i64, "message": "<script>alert(1)</script> tried",
            "unmapped": { "instance": "plant-a", "rule": "settings-js", "verdict": "kill" } });
        for (what, body) in [
            ("events", event.to_string()),
            ("events", json!({ "unmapped": { "verdict": "constructor" } }).to_string()),
            ("events", "[]".to_owned()),
        ] {
            let answer = node_red.http("POST", &format!("/test/{what}"), &body)?;
            ensure!(answer.is_success(), "{answer:?}");
        }
        let said = page()?.body;
        for text in ["1 killed, 0 denied, 0 logged", "settings-js", "&lt;script&gt;", "2026-09-21T"] {
            ensure!(said.contains(text), "{text} is missing: {said}");
        }
        ensure!(!said.contains("<script") && !said.contains("constructor"), "{said}");
        Ok(())
    })
}
