//! A resolver with configured names only.

use std::{fmt::Write as _, fs, net::IpAddr, process::Command};

use anyhow::Result;
use tempfile::TempDir;

use super::server::Program;
use crate::{needs, netns::NetNs, wait};

/// dnsmasq at some addresses in a namespace.
#[derive(Debug)]
pub struct Dnsmasq {
    _directory: TempDir,
    _program: Program,
}

impl Dnsmasq {
    /// Starts one at port 53 that knows these names with their addresses, and aliases with what they stand for. What is not among them
    /// does not exist. Answers may be kept for a second.
    pub fn start(
        namespace: &NetNs,
        at: &[IpAddr],
        hosts: &[(String, IpAddr)],
        aliases: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_at(namespace, 53, at, hosts, aliases)
    }

    /// The same at another port.
    pub fn start_at(
        namespace: &NetNs,
        port: u16,
        at: &[IpAddr],
        hosts: &[(String, IpAddr)],
        aliases: &[(&str, &str)],
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let mut lines = String::new();
        for (name, address) in hosts {
            writeln!(lines, "{address} {name}")?;
        }
        fs::write(path("hosts"), lines)?;
        let mut command = Command::new(needs::program("dnsmasq")?);
        command.args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--no-poll",
        ]);
        // It need not give up its rights to read what the test has made.
        command.args([
            "--user=root",
            "--group=root",
            "--pid-file=",
            "--bind-dynamic",
            "--local-ttl=1",
            "--local=/example/",
        ]);
        command.arg(format!("--port={port}"));
        command.arg(format!("--addn-hosts={}", path("hosts").display()));
        command.args(at.iter().map(|address| format!("--listen-address={address}")));
        command.args(aliases.iter().map(|(alias, name)| format!("--cname={alias},{name}")));
        let mut program = Program::default();
        let log = path("log");
        namespace.run(|| program.start(&mut command, &log))?;
        let ready = || Ok(fs::read_to_string(&log)?.contains("read ").then_some(()));
        wait::until("dnsmasq", wait::SOON, ready)?;
        Ok(Self { _directory: directory, _program: program })
    }
}
