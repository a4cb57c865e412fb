//! The commands of `flowwarden` that end by themselves.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{needs, node_red::NodeRed};

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub text: String,
    /// What it complained about.
    pub errors: String,
}

/// Runs `flowwarden` with these arguments.
pub fn flowwarden(arguments: &[&str]) -> Result<Answer> {
    run(Command::new(needs::flowwarden()?).args(arguments))
}

/// Runs a command to its end, however that is.
pub fn run(command: &mut Command) -> Result<Answer> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Answer { code: output.status.code(), text: text(&output.stdout), errors: text(&output.stderr) })
}

/// What `flowwarden discover` knows of a Node-RED.
pub fn discover(node_red: &NodeRed) -> Result<Value> {
    let answer = flowwarden(&["discover", "--json"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let survey: Value = serde_json::from_str(&answer.text)?;
    let pid = node_red.pid().context("Node-RED does not run")?;
    let mut instances = survey["instances"].as_array().into_iter().flatten();
    let found = instances.find(|instance| instance["pid"] == pid).cloned();
    found.with_context(|| format!("process {pid} was not found: {survey:#}"))
}

/// What `flowwarden audit` finds about a Node-RED, and its exit code.
pub fn audit(node_red: &NodeRed) -> Result<(Vec<Value>, Option<i32>)> {
    let name = discover(node_red)?["name"].as_str().context("an instance without a name")?.to_owned();
    let answer = flowwarden(&["audit", "--json", "--instance", &name])?;
    let report: Value = serde_json::from_str(&answer.text).with_context(|| format!("no JSON: {answer:?}"))?;
    let findings = report["reports"][0]["findings"].as_array().cloned();
    Ok((findings.with_context(|| format!("no findings: {report:#}"))?, answer.code))
}

/// The policy that `flowwarden init` writes for what runs now.
pub fn init(preset: &str, flags: &[&str]) -> Result<String> {
    let answer = flowwarden(&[&["init", "--preset", preset], flags].concat())?;
    ensure!(answer.code == Some(0), "{answer:?}");
    Ok(answer.text)
}
