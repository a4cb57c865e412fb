//! mosquitto, and one who listens to it.

use std::{fs, net::SocketAddr, process::Command};

use anyhow::Result;

use super::{
    Certificates,
    server::{Program, Server, Transport, free_address},
};
use crate::{needs, wait};

/// Who may connect.
pub const USER: &str = "guard";
/// By this password.
pub const PASSWORD: &str = "let-me-in";

/// A broker with two doors: TLS for those who show a certificate, and a plain one. Both ask for the password.
#[derive(Debug)]
pub struct Mosquitto {
    /// The broker, whose address is the door for TLS.
    pub server: Server,
    plain: SocketAddr,
    listener: Program,
}

impl Mosquitto {
    /// Starts it, and somebody who writes down everything that is said.
    pub fn start(certificates: &Certificates) -> Result<Self> {
        let plain = free_address(Transport::Tcp)?;
        let server = Server::start("mosquitto", Transport::Tls, |directory, address| {
            let passwords = directory.join("passwords");
            let mut password = Command::new(needs::program("mosquitto_passwd")?);
            needs::run(password.args(["-b", "-c"]).arg(&passwords).args([USER, PASSWORD]))?;
            let config = format!(
                // Who listens misses nothing while it connects again.
                "user root\npersistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\n\
                 max_queued_messages 0\nmax_packet_size 70000\nper_listener_settings false\nallow_anonymous false\npassword_file {}\n\
                 listener {} 127.0.0.1\nlistener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
                 require_certificate true\n",
                directory.display(),
                passwords.display(),
                plain.port(),
                address.port(),
                certificates.text("ca.pem"),
                certificates.text("server.pem"),
                certificates.text("server.key"),
            );
            let file = directory.join("mosquitto.conf");
            fs::write(&file, config)?;
            let mut command = Command::new(needs::program("mosquitto")?);
            command.arg("-c").arg(file);
            Ok(command)
        })?;
        let mut broker = Self { server, plain, listener: Program::default() };
        let mut listen = broker.client("mosquitto_sub")?;
        listen.args(["-q", "1", "-t", "#"]);
        // It connects again by itself.
        listen.args(["-F", "%r %t %p", "--id", "listener", "--disable-clean-session"]);
        let said = broker.server.path("said");
        broker.listener.start(&mut listen, &said)?;
        broker.hears()?;
        Ok(broker)
    }

    /// Starts it again at the same ports, and waits until it is heard.
    pub fn restart(&mut self) -> Result<()> {
        self.server.restart()?;
        self.hears()
    }

    /// A program that speaks with it.
    fn client(&self, program: &str) -> Result<Command> {
        let mut client = Command::new(needs::program(program)?);
        client.args(["-h", "127.0.0.1", "-p", &self.plain.port().to_string(), "-u", USER, "-P", PASSWORD]);
        Ok(client)
    }

    /// Waits until the listener hears what is said.
    fn hears(&self) -> Result<()> {
        let before = self.said().len();
        wait::until("the listener", wait::SOON, || {
            needs::run(self.client("mosquitto_pub")?.args(["-t", "test/hears", "-m", "?"]))?;
            Ok((self.said().len() > before).then_some(()))
        })
    }

    /// The plain door.
    #[must_use]
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// Everything that was said: `1` for what was kept for latecomers or `0`, the topic, the message.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        let text = fs::read(self.server.path("said")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }
}
