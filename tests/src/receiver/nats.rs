//! nats-server with a stream.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{
    Certificates,
    server::{Server, Transport},
};
use crate::{needs, wait};

/// Who may connect.
pub const USER: &str = "guard";
/// By this password.
pub const PASSWORD: &str = "let-me-in";
const STREAM: &str = "FLOWWARDEN";

/// A server whose stream takes `flowwarden.>`. It speaks TLS with those who want it.
#[derive(Debug)]
pub struct Nats {
    /// What runs.
    pub server: Server,
}

impl Nats {
    /// Starts it without a stream.
    pub fn start(certificates: &Certificates) -> Result<Self> {
        let server = Server::start("nats-server", Transport::Tcp, |directory, address| {
            let config = format!(
                "listen: \"{address}\"\njetstream {{ store_dir: \"{}\" }}\n\
                 authorization {{ user: \"{USER}\", password: \"{PASSWORD}\" }}\nallow_non_tls: true\n\
                 tls {{ ca_file: \"{}\", cert_file: \"{}\", key_file: \"{}\", verify: true }}\n",
                directory.join("store").display(),
                certificates.text("ca.pem"),
                certificates.text("server.pem"),
                certificates.text("server.key"),
            );
            let file = directory.join("nats.conf");
            fs::write(&file, config)?;
            let mut command = Command::new(needs::program("nats-server")?);
            command.arg("-c").arg(file);
            Ok(command)
        })?;
        Ok(Self { server })
    }

    /// Makes the stream.
    pub fn make_stream(&self) -> Result<()> {
        let wanted = json!({ "name": STREAM, "subjects": ["flowwarden.>"], "storage": "file" });
        let answer = self.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &wanted)?;
        ensure!(answer["error"].is_null(), "{answer:#}");
        Ok(())
    }

    /// How many messages the stream holds.
    pub fn count(&self) -> Result<u64> {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), &json!({}))?;
        info.pointer("/state/messages").and_then(Value::as_u64).with_context(|| format!("no stream: {info:#}"))
    }

    /// The messages that the stream holds.
    pub fn messages(&self) -> Result<Vec<Value>> {
        let mut client = Client::new(self.server.address())?;
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
        Client::new(self.server.address())?.ask(subject, question)
    }
}

/// A plain connection that asks.
struct Client {
    stream: BufReader<TcpStream>,
    /// Of this test alone.
    inbox: String,
}

impl Client {
    fn new(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(wait::SOON))?;
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
