//! nats-server with a stream.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Certificates, PATIENCE, Program, Transport, free_port, listens};
use crate::needs;

/// Who may connect.
pub const USER: &str = "guard";
/// By this password.
pub const PASSWORD: &str = "let-me-in";
const STREAM: &str = "FLOWWARDEN";

/// A server whose stream takes `flowwarden.>`. It speaks TLS with those who want it.
#[derive(Debug)]
pub struct Nats {
    directory: TempDir,
    port: u16,
    program: Program,
}

impl Nats {
    /// Starts it without a stream.
    pub fn start(certificates: &Certificates) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port(Transport::Tcp)?;
        let certificate = |name: &str| certificates.path(name).display().to_string();
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n\
             authorization {{ user: \"{USER}\", password: \"{PASSWORD}\" }}\nallow_non_tls: true\n\
             tls {{ ca_file: \"{}\", cert_file: \"{}\", key_file: \"{}\", verify: true }}\n",
            directory.path().join("store").display(),
            certificate("ca.pem"),
            certificate("server.pem"),
            certificate("server.key"),
        );
        fs::write(directory.path().join("nats.conf"), config)?;
        let mut server = Self { directory, port, program: Program::default() };
        server.restart()?;
        Ok(server)
    }

    /// Makes the stream.
    pub fn make_stream(&self) -> Result<()> {
        let wanted = json!({ "name": STREAM, "subjects": ["flowwarden.>"], "storage": "file" });
        let answer = self.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &wanted)?;
        ensure!(answer["error"].is_null(), "{answer:#}");
        Ok(())
    }

    /// Starts it again at the same port.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(needs::program("nats-server", "nats-server")?);
        command.arg("-c").arg(self.directory.path().join("nats.conf"));
        self.program.start(&mut command, &self.directory.path().join("log"))?;
        listens(self.address(), "nats-server")
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.program.kill()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// How many messages the stream holds.
    pub fn count(&self) -> Result<u64> {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), &json!({}))?;
        info.pointer("/state/messages").and_then(Value::as_u64).with_context(|| format!("no stream: {info:#}"))
    }

    /// The messages that the stream holds.
    pub fn messages(&self) -> Result<Vec<Value>> {
        let mut client = Client::new(self.address())?;
        (1..=self.count()?)
            .map(|number| {
                let answer = client.ask(&format!("$JS.API.STREAM.MSG.GET.{STREAM}"), &json!({ "seq": number }))?;
                let text = answer.pointer("/message/data").and_then(Value::as_str);
                let text = text.with_context(|| format!("no message {number}: {answer:#}"))?;
                Ok(serde_json::from_slice(&BASE64.decode(text.as_bytes())?)?)
            })
            .collect()
    }

    fn ask(&self, subject: &str, question: &Value) -> Result<Value> {
        Client::new(self.address())?.ask(subject, question)
    }

    /// What it says about itself.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// A plain connection that asks.
struct Client {
    stream: BufReader<TcpStream>,
    /// Nobody else's.
    inbox: String,
}

impl Client {
    fn new(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let inbox = format!("_INBOX.test.{}", stream.local_addr()?.port());
        let mut client = Self { stream: BufReader::new(stream), inbox };
        client.line()?;
        let connect = json!({ "verbose": false, "user": USER, "pass": PASSWORD });
        write!(client.stream.get_mut(), "CONNECT {connect}\r\nSUB {} 1\r\n", client.inbox)?;
        Ok(client)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(!line.is_empty() && !line.starts_with("-ERR"), "nats-server says {line:?}");
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, subject: &str, question: &Value) -> Result<Value> {
        let question = question.to_string();
        write!(self.stream.get_mut(), "PUB {subject} {} {}\r\n{question}\r\n", self.inbox, question.len())?;
        loop {
            let line = self.line()?;
            if line == "PING" {
                write!(self.stream.get_mut(), "PONG\r\n")?;
            }
            if let Some(length) = line.strip_prefix("MSG ").and_then(|rest| rest.rsplit(' ').next()) {
                let mut text = vec![0; length.parse::<usize>()? + 2];
                self.stream.read_exact(&mut text)?;
                return Ok(serde_json::from_slice(&text)?);
            }
        }
    }
}
