//! The programs that go into a machine, statically linked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use super::{Tests, architecture::Architecture};
use crate::{cross::Std, shell};

/// Programs for one architecture.
pub(super) struct Programs {
    pub(super) architecture: Architecture,
    pub(super) init: Vec<u8>,
    tests: Vec<(Tests, Vec<u8>)>,
    pub(super) actor: Vec<u8>,
    pub(super) guard: Vec<u8>,
}

impl Programs {
    /// Builds them, with `wanted` among the tests.
    pub(super) fn build(architecture: Architecture, wanted: &[Tests]) -> Result<Self> {
        let std = Std::find(architecture)?;
        let cargo = |subcommand: &str, arguments: &[&str]| {
            let mut cargo = std.cargo(subcommand, architecture);
            cargo.args(arguments);
            cargo
        };
        shell::run(&mut cargo("build", &["--package", "monitor"]))?;
        shell::run(&mut cargo("build", &["--package", "flowwarden-tests", "--bins"]))?;
        let test: Vec<_> = ["--package", "flowwarden-tests", "--no-run"]
            .into_iter()
            .chain(wanted.iter().flat_map(|tests| ["--test", tests.name()]))
            .collect();
        shell::run(&mut cargo("test", &test))?;
        let list = shell::ask(cargo("test", &test).arg("--message-format=json").stderr(Stdio::null()));
        let list = list.unwrap_or_default();
        let tests = wanted.iter().map(|&tests| {
            let program = executable(&list, tests.name());
            Ok((tests, read(&program.with_context(|| format!("cargo does not name the program `{}`", tests.name()))?)?))
        });
        let tests = tests.collect::<Result<Vec<_>>>()?;
        let built = std.target_directory().join(architecture.target()).join("release");
        Ok(Self {
            architecture,
            init: read(&built.join("vm-init"))?,
            tests,
            actor: read(&built.join("actor"))?,
            guard: read(&built.join("flowwarden"))?,
        })
    }

    /// The program with these tests.
    pub(super) fn tests(&self, wanted: Tests) -> &[u8] {
        self.tests.iter().find(|(tests, _)| *tests == wanted).map_or(&[], |(_, program)| program)
    }
}

/// The program with these tests among those that cargo's messages name.
fn executable(messages: &str, tests: &str) -> Option<PathBuf> {
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.find_map(|message| {
        (message["target"]["name"] == tests).then(|| message["executable"].as_str().map(PathBuf::from))?
    })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{} is missing", file.display()))
}
