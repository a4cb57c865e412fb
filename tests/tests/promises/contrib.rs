//! What is given along works: the flow for Node-RED in a real Node-RED, the rules of Sigma on what a guard has journaled.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    flows::Flow, guard::Guard, netns::Network, policy::Policy, scene::Scene, sigma::Rule, sink::Sink, wait,
};
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

/// One attack for each rule: it picks what was journaled of that, and nothing of the others.
#[test]
fn each_rule_of_sigma_picks_what_it_is_about() -> Result<()> {
    let scene = Scene::empty()?;
    let home = scene.node_red.home();
    let settings = home.file(".node-red/settings.js", "module.exports = {};\n")?;
    let key = home.file("privkey.pem", "x")?;
    let sink = Sink::tcp(&scene.network, Network::FORBIDDEN)?;
    let policy = Policy::enforce(&scene.node_red)
        .guard_settings()
        .deny(&key.display().to_string(), &["read"], "key")
        .deny_exec("/usr/bin/tac", "program")
        .egress(&[Network::FORBIDDEN_NET], "deny", "egress");
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let play = |script: String| -> Result<()> {
        let mut shell = Command::new("bash");
        scene.node_red.confinement().spawn(shell.arg("-c").arg(script))?.wait()?;
        Ok(())
    };
    play(format!("echo '// tampered' >> '{}'", settings.display()))?;
    play(format!("cat '{}'", key.display()))?;
    play("tac /dev/null; true".to_owned())?;
    play(format!("true > /dev/tcp/{}/{}", sink.address().ip(), sink.address().port()))?;
    guard.wait_for(wait::SOON, |record| record.rule() == "egress")?;
    let records = guard.stop()?;

    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/sigma");
    let mut picked = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let rule = Rule::read(&path).with_context(|| path.display().to_string())?;
        let mut found = Vec::new();
        for record in &records {
            if rule.picks(record.json())? {
                found.push(record.rule().to_owned());
            }
        }
        found.sort();
        found.dedup();
        picked.insert(path.file_stem().unwrap_or_default().display().to_string(), found);
    }
    let wanted = [
        ("egress_denied", vec!["egress"]),
        // In a flood it has something to say.
        ("evidence_lost", vec![]),
        ("private_key_read", vec!["key"]),
        ("program_denied", vec!["program"]),
        ("settings_changed", vec!["settings-js"]),
    ];
    let texts = |rules: Vec<&str>| rules.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let wanted: BTreeMap<_, _> = wanted.map(|(name, rules)| (name.to_owned(), texts(rules))).into();
    ensure!(picked == wanted, "{picked:#?}");
    Ok(())
}
