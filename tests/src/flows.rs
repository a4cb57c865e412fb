//! Flows that do what an intruder at the editor would do: inject -> one node -> debug.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

/// The id of every flow's inject node.
pub const INJECT: &str = "fw-inject";

const TAB: &str = "fw-tab";
const ACTOR: &str = "fw-actor";
const DONE: &str = "fw-done";
const FAILED: &str = "fw-failed";

/// What a `file` node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAction {
    /// Writes from the beginning, after cutting the file to nothing.
    Overwrite,
    /// Writes at the end.
    Append,
    /// Deletes the file.
    Delete,
}

/// A flow, ready to be deployed. It says how it ended through two debug nodes that print to the log, `done` and `failed`.
#[derive(Clone, Debug)]
pub struct Flow {
    nodes: Vec<Value>,
    /// What Node-RED prints when a node is ready that takes its time.
    ready: Option<&'static str>,
}

impl Flow {
    /// No flow at all.
    #[must_use]
    pub fn empty() -> Self {
        Self { nodes: Vec::new(), ready: None }
    }

    /// A `function` node with this code; `modules` are in scope under their own names.
    #[must_use]
    pub fn function(code: &str, modules: &[&str]) -> Self {
        let libraries: Vec<_> = modules.iter().map(|module| json!({ "var": module, "module": module })).collect();
        Self::around(&json!({
            "type": "function", "func": code, "outputs": 1, "libs": libraries, "wires": [[DONE]],
        }))
    }

    /// A `function` node that names a module for npm to install, with its version or where it comes from.
    #[must_use]
    pub fn with_library(code: &str, variable: &str, module: &str) -> Self {
        Self::around(&json!({
            "type": "function", "func": code, "outputs": 1, "libs": [{ "var": variable, "module": module }],
            "wires": [[DONE]],
        }))
    }

    /// A `file` node; the message it writes is `text`.
    #[must_use]
    pub fn file(path: &Path, action: FileAction, text: &str) -> Self {
        let overwrite = match action {
            FileAction::Overwrite => "true",
            FileAction::Append => "false",
            FileAction::Delete => "delete",
        };
        let actor = json!({
            "type": "file", "filename": path, "filenameType": "str", "appendNewline": false, "createDir": false,
            "overwriteFile": overwrite, "encoding": "none", "wires": [[DONE]],
        });
        Self::around(&actor).with_payload(text)
    }

    /// A `file in` node that reads the whole file.
    #[must_use]
    pub fn file_in(path: &Path) -> Self {
        Self::around(&json!({
            "type": "file in", "filename": path, "filenameType": "str", "format": "utf8", "allProps": false,
            "wires": [[DONE]],
        }))
    }

    /// An `exec` node that hands the command to a shell. Its answer is the exit status.
    #[must_use]
    pub fn exec(command: &str) -> Self {
        let mut flow = Self::around(&json!({
            "type": "exec", "command": command, "addpay": "", "append": "", "useSpawn": "false", "timer": "",
            "winHide": false, "oldrc": false, "wires": [["fw-output"], ["fw-output"], [DONE]],
        }));
        flow.nodes.push(debug("fw-output", "output"));
        flow
    }

    /// An `http request` node.
    #[must_use]
    pub fn http_get(url: &str) -> Self {
        Self::around(&json!({
            "type": "http request", "method": "GET", "ret": "txt", "paytoqs": "ignore", "url": url,
            "persist": false, "authType": "", "wires": [[DONE]],
        }))
    }

    /// A `udp out` node that sends `text`.
    #[must_use]
    pub fn udp_out(to: SocketAddr, text: &str) -> Self {
        let family = if to.is_ipv6() { "udp6" } else { "udp4" };
        let mut flow = Self::around(&json!({
            "type": "udp out", "addr": to.ip().to_string(), "port": to.port().to_string(), "ipv": family,
            "iface": "", "outport": "", "base64": false, "multicast": "false", "wires": [],
        }));
        // The node has no output; it reports that it is done to a `complete` node.
        flow.nodes
            .push(json!({ "id": "fw-complete", "z": TAB, "type": "complete", "scope": [ACTOR], "wires": [[DONE]] }));
        flow.ready = Some("udp ready:");
        flow.with_payload(text)
    }

    /// Adds nodes, for example configuration.
    #[must_use]
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = Value>) -> Self {
        self.nodes.extend(nodes);
        self
    }

    /// What Node-RED prints once the flow can be set off, beside that its flows are started.
    #[must_use]
    pub fn ready(&self) -> Option<&'static str> {
        self.ready
    }

    /// The body of `POST /flows`.
    #[must_use]
    pub fn to_json(&self) -> String {
        json!(self.nodes).to_string()
    }

    fn around(actor: &Value) -> Self {
        let mut actor = actor.clone();
        actor["id"] = json!(ACTOR);
        actor["z"] = json!(TAB);
        let nodes = vec![
            json!({ "id": TAB, "type": "tab", "label": "attack" }),
            json!({
                "id": INJECT, "z": TAB, "type": "inject", "props": [{ "p": "payload" }], "payload": "",
                "payloadType": "str", "repeat": "", "crontab": "", "once": false, "wires": [[ACTOR]],
            }),
            actor,
            debug(DONE, "done"),
            json!({ "id": "fw-catch", "z": TAB, "type": "catch", "scope": null, "uncaught": false, "wires": [[FAILED]] }),
            json!({
                "id": FAILED, "z": TAB, "type": "debug", "name": "failed", "active": true, "tosidebar": false,
                "console": true, "complete": "error.message", "targetType": "msg", "wires": [],
            }),
        ];
        Self { nodes, ready: None }
    }

    fn with_payload(mut self, text: &str) -> Self {
        for node in self.nodes.iter_mut().filter(|node| node["id"] == INJECT) {
            node["payload"] = json!(text);
        }
        self
    }
}

/// `path` as a JavaScript string.
#[must_use]
pub fn js(path: &Path) -> String {
    json!(path).to_string()
}

fn debug(id: &str, name: &str) -> Value {
    json!({
        "id": id, "z": TAB, "type": "debug", "name": name, "active": true, "tosidebar": false, "console": true,
        "complete": "payload", "targetType": "msg", "wires": [],
    })
}
