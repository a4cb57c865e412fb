//! A journald of its own, beside the machine's: a log namespace.

use std::{
    fs,
    io::{self, Write},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;

use super::server::Program;
use crate::{needs, wait};

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
        let mut command = Command::new(needs::program("systemd-journald")?);
        server.program.start(command.arg(&server.name), &server.directory.path().join("log"))?;
        wait::until("journald", wait::SOON, || Ok(server.socket().exists().then_some(())))?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("socket")
    }

    /// What a unit of this user has as its standard output: each line is an entry.
    pub fn stream(&self, uid: u32) -> Result<Stream> {
        // Whose entries they are is the process that has connected.
        let mut command = Command::new(needs::program("socat")?);
        command.arg("-u").arg("-").arg(format!("UNIX-CONNECT:{}", self.runtime().join("stdout").display()));
        let mut stream = Stream(command.uid(uid).gid(uid).stdin(Stdio::piped()).spawn()?);
        // Identifier, unit, priority, whether a line may begin with one, and three places where else it may go.
        stream.write_all(b"node-red\n\n6\n0\n0\n0\n0\n")?;
        Ok(stream)
    }

    fn runtime(&self) -> PathBuf {
        PathBuf::from(format!("/run/systemd/journal.{}", self.name))
    }

    /// The entries with a field.
    pub fn entries(&self, field: &str) -> Result<Vec<Value>> {
        let mut command = Command::new(needs::program("journalctl")?);
        let text = needs::run(command.args(["--namespace", &self.name, "--output=json", "--all", field]))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

/// Lines for a journald.
#[derive(Debug)]
pub struct Stream(Child);

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What is written is read before it sees the end.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
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
