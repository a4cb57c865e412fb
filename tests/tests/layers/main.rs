//! The layers of the workspace: a crate depends on crates below its layer, a module uses modules below its layer.
//!
//! Dependencies of crates come from `cargo metadata`. Uses of modules come from every path in the code, not from `use` lines
//! alone; paths in macro calls are read from their tokens. Code under `#[cfg(test)]` is left out: a test may use any module.

mod paths;

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Layers of modules, the top one first.
type Layers = &'static [&'static [&'static str]];

/// The layers of crates, the top one first.
const CRATES: Layers = &[
    &["xtask"],
    &["flowwarden-tests"],
    &["monitor"],
    &["node-red", "sinks"],
    &["policy"],
    &["journal", "monitor-ebpf"],
    &["monitor-common"],
];

/// The source directory and the layers of modules of each userspace crate. A crate's root declares its modules and the
/// types that they share, and is in no layer.
const MODULES: [(&str, Layers); 5] = [
    (
        "monitor/src",
        &[
            &["cli"],
            &["agent", "evidence"],
            &["pipeline"],
            &["config", "control", "metrics"],
            &["maintenance"],
            &["heal"],
            &["incident"],
            &["record"],
            &["kernel"],
        ],
    ),
    (
        "monitor/sinks/src",
        &[
            &["stub", "worker"],
            &["email"],
            &["elastic", "file", "journald", "kafka", "mqtt", "nats", "otlp", "smtp", "splunk", "syslog", "webhook"],
            &["http"],
            &["connection", "masked"],
            &["tls"],
            &["config"],
            &["cursor", "filter", "shorten", "template"],
        ],
    ),
    ("monitor/node-red/src", &[&["change"], &["deploys", "instance"]]),
    (
        "monitor/policy/src",
        &[
            &["compile", "testing"],
            &["preset"],
            &["host", "parse"],
            &["own", "peers"],
            &["model"],
            &["limit", "name"],
            &["machine", "settle", "toml_reader"],
        ],
    ),
    (
        "monitor/journal/src",
        &[
            &["writer"],
            &["store"],
            &["query", "recover", "tail", "testing", "verify"],
            &["checkpoint"],
            &["compress", "format", "key", "queue", "reader"],
            &["chain", "directory", "segment", "state", "stdio"],
            &["durable", "ocsf", "text"],
        ],
    ),
];

/// The markers around the picture in the documentation.
const PICTURE: (&str, &str) = ("<!-- layers -->\n", "<!-- /layers -->");

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate has no parent directory")
}

fn layer(layers: Layers, name: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&name))
}

/// Each use of a module that does not run downwards, as one line.
fn upward_uses(folder: &str, layers: Layers) -> Result<BTreeSet<String>> {
    let files = paths::files(&root()?.join(folder))?;
    let modules: BTreeSet<_> = files.iter().filter_map(|file| file.module.first().cloned()).collect();
    let mut found = BTreeSet::new();
    for file in &files {
        let Some(own) = file.module.first() else { continue };
        let Some(own_layer) = layer(layers, own) else {
            found.insert(format!("{folder}: the module `{own}` has no layer: add it to tests/tests/layers/main.rs"));
            continue;
        };
        for path in file.paths()? {
            let Some(target) = path.first().filter(|target| *target != own && modules.contains(*target)) else {
                continue;
            };
            if layer(layers, target).is_some_and(|layer| layer <= own_layer) {
                let (file, path) = (&file.name, path.join("::"));
                found.insert(format!("{folder}/{file} uses `{path}`, which is not below `{own}`"));
            }
        }
    }
    Ok(found)
}

#[test]
fn no_module_uses_one_above_it() -> Result<()> {
    let mut faults = String::new();
    for (folder, layers) in MODULES {
        for fault in upward_uses(folder, layers)? {
            writeln!(faults, "{fault}")?;
        }
    }
    ensure!(faults.is_empty(), "{faults}move what both need into a module below them");
    Ok(())
}

#[test]
fn no_crate_depends_on_one_above_it() -> Result<()> {
    let cargo = env::var_os("CARGO").context("CARGO is not set: run the test by cargo")?;
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root()?)
        .output()
        .context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut faults = String::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let own = layer(CRATES, name).with_context(|| format!("the crate `{name}` has no layer in CRATES"))?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            // A dependency on itself turns features on for tests.
            if target != name && layer(CRATES, target).is_some_and(|layer| layer <= own) {
                writeln!(faults, "{name} depends on {target}, which is not below it")?;
            }
        }
    }
    ensure!(faults.is_empty(), "{faults}");
    Ok(())
}

/// The layers as the documentation shows them.
fn picture() -> String {
    let show = |layers: Layers| layers.iter().map(|layer| layer.join("  ")).collect::<Vec<_>>().join("\n");
    let mut text = format!("```\ncrates\n\n{}\n", show(CRATES));
    for (folder, layers) in MODULES {
        text = format!("{text}\n{folder}\n\n{}\n", show(layers));
    }
    text + "```\n"
}

#[test]
fn the_documentation_shows_these_layers() -> Result<()> {
    let (begin, end) = PICTURE;
    let design = fs::read_to_string(root()?.join("docs/explanation/design.md"))?;
    let (_, rest) = design.split_once(begin).context("docs/explanation/design.md has no picture of the layers")?;
    let (shown, _) = rest.split_once(end).context("the picture of the layers has no end")?;
    ensure!(shown == picture(), "docs/explanation/design.md shows other layers; replace them with:\n{}", picture());
    Ok(())
}
