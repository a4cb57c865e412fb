//! A journald of its own, beside the machine's: a log namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, server::Program};
use crate::{needs, wait};

const PROGRAM: &str = "/lib/systemd/systemd-journald";
const PERSISTENT: &str = "/var/log/journal";

/// systemd-journald for one namespace; everything that it made goes with it.
#[derive(Debug)]
pub struct Journald {
    name: String,
    directory: TempDir,
    program: Program,
}

impl Journald {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let name = format!("fwtest{}", std::process::id());
        let mut server = Self { name, directory: tempfile::tempdir()?, program: Program::default() };
        let mut command = Command::new(PROGRAM);
        server
            .program
            .start(command.arg(&server.name), &server.directory.path().join("log"))
            .with_context(|| format!("{PROGRAM} is missing: type `apt-get install systemd`"))?;
        wait::until("journald", PATIENCE, || Ok(server.socket().exists().then_some(())))?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("socket")
    }

    fn runtime(&self) -> PathBuf {
        PathBuf::from(format!("/run/systemd/journal.{}", self.name))
    }

    /// The entries with a field.
    pub fn entries(&self, field: &str) -> Result<Vec<Value>> {
        let mut command = Command::new(needs::program("journalctl", "systemd")?);
        let text = needs::run(command.args(["--namespace", &self.name, "--output=json", "--all", field]))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = fs::remove_dir_all(self.runtime());
        for journals in [PERSISTENT, "/run/log/journal"] {
            for entry in fs::read_dir(journals).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|name| *name == *self.name) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
            // Where it was not there before, it would make the machine's journal a lasting one.
            let _ = fs::remove_dir(Path::new(journals));
        }
    }
}
