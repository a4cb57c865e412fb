//! A package for the palette, made here: no registry is asked.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::needs;

/// The name of the package and of the type of its node.
pub const NAME: &str = "node-red-contrib-fw-probe";
/// The type of its node.
pub const NODE: &str = "fw-probe";

/// A package with one node, as a tarball that npm installs. `scripts` go into its package.json.
pub fn tarball(version: &str, scripts: &serde_json::Value) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let package = directory.path().join("package");
    fs::create_dir(&package)?;
    let description = json!({
        "name": NAME, "version": version, "license": "MIT", "scripts": scripts, "keywords": ["node-red"],
        "node-red": { "version": ">=3.0.0", "nodes": { NODE: "probe.js" } },
    });
    let code = format!(
        "module.exports = RED => RED.nodes.registerType('{NODE}', function (config) {{
            RED.nodes.createNode(this, config); this.on('input', (msg, send, done) => {{ send(msg); done(); }});
        }});\n"
    );
    let editor = format!(
        "<script type=\"text/javascript\">RED.nodes.registerType('{NODE}', {{ category: 'function', defaults: {{}},
            inputs: 1, outputs: 1, label: '{NODE}' }});</script>\n"
    );
    for (name, content) in [("package.json", description.to_string()), ("probe.js", code), ("probe.html", editor)] {
        fs::write(package.join(name), content)?;
    }
    let archive = directory.path().join("package.tgz");
    let mut tar = Command::new(needs::program("tar")?);
    tar.args(["--create", "--gzip", "--owner=0", "--group=0", "--file"]).arg(&archive);
    needs::run(tar.arg("--directory").arg(directory.path()).arg("package"))?;
    fs::read(&archive).context("tar has made no archive")
}
