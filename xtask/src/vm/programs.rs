//! The programs that go into a machine, statically linked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use super::architecture::Architecture;
use crate::{cross::Std, shell};

/// The tests that need no Node-RED.
const TESTS: &str = "kernel";

/// Programs for one architecture.
pub(super) struct Programs {
    pub(super) architecture: Architecture,
    pub(super) init: Vec<u8>,
    pub(super) tests: Vec<u8>,
    pub(super) actor: Vec<u8>,
    pub(super) guard: Vec<u8>,
}

impl Programs {
    pub(super) fn build(architecture: Architecture) -> Result<Self> {
        let std = Std::find(architecture)?;
        let cargo = |subcommand: &str, arguments: &[&str]| {
            let mut cargo = std.cargo(subcommand, architecture);
            cargo.args(arguments);
            cargo
        };
        shell::run(&mut cargo("build", &["--package", "monitor"]))?;
        shell::run(&mut cargo("build", &["--package", "flowwarden-tests", "--bins"]))?;
        let test = ["--package", "flowwarden-tests", "--test", TESTS, "--no-run"];
        shell::run(&mut cargo("test", &test))?;
        let list = shell::ask(cargo("test", &test).arg("--message-format=json").stderr(Stdio::null()));
        let tests = executable(&list.unwrap_or_default()).context("cargo does not name the test program")?;
        let built = std.target_directory().join(architecture.target()).join("release");
        Ok(Self {
            architecture,
            init: read(&built.join("vm-init"))?,
            tests: read(&tests)?,
            actor: read(&built.join("actor"))?,
            guard: read(&built.join("flowwarden"))?,
        })
    }
}

/// The program with the tests of [`TESTS`] among those that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.find_map(|message| {
        (message["target"]["name"] == TESTS).then(|| message["executable"].as_str().map(PathBuf::from))?
    })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{} is missing", file.display()))
}
