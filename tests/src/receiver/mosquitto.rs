//! mosquitto, and one who listens to it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;

use super::{Certificates, PATIENCE, Program, Transport, free_port, listens};
use crate::{needs, wait};

/// Who may connect.
pub const USER: &str = "guard";
/// By this password.
pub const PASSWORD: &str = "let-me-in";

/// A broker with two doors: TLS for those who show a certificate, and a plain one. Both ask for the password.
#[derive(Debug)]
pub struct Mosquitto {
    directory: TempDir,
    tls: u16,
    plain: u16,
    broker: Program,
    listener: Program,
}

impl Mosquitto {
    /// Starts it, and somebody who writes down everything that is said.
    pub fn start(certificates: &Certificates) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let certificate = |name: &str| certificates.path(name).display().to_string();
        let mut password = Command::new(needs::program("mosquitto_passwd", "mosquitto")?);
        needs::run(password.args(["-b", "-c", &path("passwords"), USER, PASSWORD]))?;
        let (tls, plain) = (free_port(Transport::Tls)?, free_port(Transport::Tcp)?);
        let config = format!(
            // Who listens misses nothing while it connects again.
            "user root\npersistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\n\
             max_queued_messages 0\nper_listener_settings false\nallow_anonymous false\npassword_file {}\n\
             listener {tls} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
             listener {plain} 127.0.0.1\n",
            directory.path().display(),
            path("passwords"),
            certificate("ca.pem"),
            certificate("server.pem"),
            certificate("server.key"),
        );
        fs::write(directory.path().join("mosquitto.conf"), config)?;
        let (broker, listener) = (Program::default(), Program::default());
        let mut server = Self { directory, tls, plain, broker, listener };
        server.restart()?;
        let mut listen = Command::new(needs::program("mosquitto_sub", "mosquitto-clients")?);
        listen.args(["-h", "127.0.0.1", "-p", &plain.to_string(), "-u", USER, "-P", PASSWORD, "-q", "1", "-t", "#"]);
        // It connects again by itself.
        listen.args(["-F", "%r %t %p", "--id", "listener", "--disable-clean-session"]);
        let said = server.said_file();
        server.listener.start(&mut listen, &said)?;
        server.hears()?;
        Ok(server)
    }

    /// Starts it again at the same ports.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(needs::program("mosquitto", "mosquitto")?);
        command.arg("-c").arg(self.directory.path().join("mosquitto.conf"));
        self.broker.start(&mut command, &self.directory.path().join("log"))?;
        listens(self.plain(), "mosquitto")?;
        listens(self.tls(), "mosquitto")?;
        if self.said_file().exists() { self.hears() } else { Ok(()) }
    }

    /// Waits until the listener hears what is said.
    fn hears(&self) -> Result<()> {
        let before = self.said().len();
        wait::until("the listener", PATIENCE, || {
            let mut publish = Command::new(needs::program("mosquitto_pub", "mosquitto-clients")?);
            publish.args(["-h", "127.0.0.1", "-p", &self.plain.to_string(), "-u", USER, "-P", PASSWORD]);
            needs::run(publish.args(["-t", "test/hears", "-m", "?"]))?;
            Ok((self.said().len() > before).then_some(()))
        })
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.broker.kill()
    }

    /// The door for TLS.
    #[must_use]
    pub fn tls(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.tls).into()
    }

    /// The plain door.
    #[must_use]
    pub fn plain(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.plain).into()
    }

    /// Everything that was said: `1` for what was kept for latecomers or `0`, the topic, the message.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        lines(&self.said_file())
    }

    fn said_file(&self) -> PathBuf {
        self.directory.path().join("said")
    }

    /// What it says about itself.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}
