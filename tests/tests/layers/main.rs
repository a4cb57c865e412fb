//! The layers of the user crate: a module may use the modules below its own layer, and nothing else.
//!
//! Every path in the code is parsed, not `use` lines alone. Paths inside of macro calls are read from their tokens. Code
//! under `#[cfg(test)]` is left out: a test may look at whatever it needs.

mod paths;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

/// The layers of `monitor/src` from the top down.
const LAYERS: [&[&str]; 16] = [
    &["cli"],
    &["agent", "evidence"],
    &["pipeline"],
    &["config", "control", "metrics"],
    &["maintenance", "sinks"],
    &["heal"],
    &["change", "incident"],
    &["deploys"],
    &["record"],
    &["instance", "journal", "kernel"],
    &["policy"],
    &["machine"],
    &["state"],
    &["durable"],
    &["stdio", "toml_reader"],
    &["text"],
];

/// Imports that run upwards or sideways today, as "file: module". The list may only shrink.
const KNOTS: &str = include_str!("knots.txt");

/// Where the picture stands in docs/design.md.
const PICTURE: (&str, &str) = ("<!-- layers -->\n", "<!-- /layers -->");

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate has no parent directory")
}

fn layer(module: &str) -> Result<usize> {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.with_context(|| format!("the module `{module}` has no layer: add it to LAYERS in tests/tests/layers/main.rs"))
}

/// Each import that does not run downwards, with an example of the path that makes it.
fn violations() -> Result<BTreeMap<String, String>> {
    let source = root()?.join("monitor/src");
    let mut violations = BTreeMap::new();
    for file in paths::files(&source)? {
        let own = file.module.first().map_or("", String::as_str);
        if own.is_empty() {
            // The crate's root declares its modules.
            continue;
        }
        let own_layer = layer(own)?;
        for path in file.paths()? {
            let Some(target) = path.first().filter(|target| *target != own) else { continue };
            if layer(target)? <= own_layer {
                violations.entry(format!("{}: {target}", file.name)).or_insert_with(|| path.join("::"));
            }
        }
    }
    Ok(violations)
}

#[test]
fn no_import_runs_upwards() -> Result<()> {
    let (found, known) = (violations()?, KNOTS.lines().map(str::to_owned).collect::<BTreeSet<_>>());
    let mut faults = String::new();
    for (edge, example) in found.iter().filter(|(edge, _)| !known.contains(*edge)) {
        writeln!(faults, "{edge} (`{example}`) runs upwards: move what both need below them")?;
    }
    for edge in known.iter().filter(|edge| !found.contains_key(*edge)) {
        writeln!(faults, "{edge} is untied: remove the line from tests/tests/layers/knots.txt")?;
    }
    ensure!(faults.is_empty(), "{faults}");
    Ok(())
}

#[test]
fn the_documented_layers_are_the_checked_ones() -> Result<()> {
    let (begin, end) = PICTURE;
    let design = fs::read_to_string(root()?.join("docs/design.md"))?;
    let (_, rest) = design.split_once(begin).context("docs/design.md has no picture of the layers")?;
    let (picture, _) = rest.split_once(end).context("the picture of the layers has no end")?;
    let layers = LAYERS.map(|layer| layer.join("  ")).join("\n");
    let wanted = format!("```\n{layers}\n```\n");
    ensure!(picture == wanted, "docs/design.md shows other layers; replace them with:\n{wanted}");
    Ok(())
}
