//! The programs that go into a machine, with the libraries that they are linked with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use super::{Tests, architecture::Architecture};
use crate::{
    cross::{Profile, Std},
    shell,
};

/// Programs for one architecture.
pub(super) struct Programs {
    pub(super) architecture: Architecture,
    pub(super) init: Vec<u8>,
    tests: Vec<(Tests, Vec<u8>)>,
    pub(super) actor: Vec<u8>,
    pub(super) guard: Vec<u8>,
    /// By their paths.
    pub(super) libraries: Vec<(PathBuf, Vec<u8>)>,
}

impl Programs {
    /// Builds them, with `wanted` among the tests.
    pub(super) fn build(architecture: Architecture, wanted: &[Tests]) -> Result<Self> {
        let std = Std::find(architecture)?;
        let guard = std.guard(architecture)?;
        let profile = if wanted.contains(&Tests::Bench) { Profile::Release } else { Profile::Dev };
        let test = || {
            let mut cargo = std.tests(architecture, profile);
            cargo.args(wanted.iter().flat_map(|tests| ["--test", tests.name()]));
            cargo
        };
        shell::run(&mut test())?;
        let list = shell::ask(test().arg("--message-format=json").stderr(Stdio::null())).unwrap_or_default();
        let [init, actor] = ["vm-init", "actor"].map(|name| std.built(architecture, profile).join(name));
        let tests = wanted.iter().map(|&tests| {
            let program = executable(&list, tests.name());
            Ok((tests, program.with_context(|| format!("cargo does not name the program `{}`", tests.name()))?))
        });
        let tests = tests.collect::<Result<Vec<_>>>()?;
        let programs: Vec<_> = [&init, &actor, &guard].into_iter().chain(tests.iter().map(|(_, path)| path)).collect();
        let libraries = std.libraries(&programs)?.into_iter().map(|path| Ok((path.clone(), read(&path)?)));
        Ok(Self {
            architecture,
            libraries: libraries.collect::<Result<_>>()?,
            init: read(&init)?,
            tests: tests.iter().map(|(tests, path)| Ok((*tests, read(path)?))).collect::<Result<_>>()?,
            actor: read(&actor)?,
            guard: read(&guard)?,
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
