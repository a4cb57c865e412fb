//! A mail server: aiosmtpd.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{
    Certificates,
    server::{Server, Transport},
};
use crate::needs;

/// Who may send.
pub const USER: &str = "guard";
/// By this password.
pub const PASSWORD: &str = "let-me-in";
const SCRIPT: &str = include_str!("mail_server.py");

/// A server that wants a certificate and a login, and keeps what it is sent.
#[derive(Debug)]
pub struct MailServer {
    /// What runs.
    pub server: Server,
}

impl MailServer {
    /// Starts one: `tls` from the first byte on, or `starttls`.
    pub fn start(how: &str, certificates: &Certificates) -> Result<Self> {
        let server = Server::start("aiosmtpd", Transport::Tls, |directory, address| {
            let script = directory.join("mail_server.py");
            fs::write(&script, SCRIPT)?;
            let mut command = Command::new(needs::program("python3")?);
            command.arg(script).arg(address.port().to_string()).arg(how).arg(directory);
            command.args(["ca.pem", "server.pem", "server.key"].map(|name| certificates.path(name)));
            command.args([USER, PASSWORD]);
            Ok(command)
        });
        let server = server.context("is python3-aiosmtpd there? type `cargo xtask setup --tests`")?;
        Ok(Self { server })
    }

    /// What it answers to the end of a mail from now on: `451 4.3.0 later`; none for what it usually does.
    pub fn answer(&self, answer: Option<&str>) -> Result<()> {
        tell(&self.server.path("answer"), answer)
    }

    /// The same of its recipients.
    pub fn answer_recipients(&self, answer: Option<&str>) -> Result<()> {
        tell(&self.server.path("recipients"), answer)
    }

    /// The mails that it has: sender and recipients in the first line, then the mail, whose long lines are whole again.
    pub fn mails(&self) -> Result<Vec<String>> {
        let mut files: Vec<_> = fs::read_dir(self.server.directory())?.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|name| name == "mail"));
        files.sort_by_key(|file| fs::metadata(file).and_then(|meta| meta.modified()).ok());
        files
            .iter()
            .map(|file| {
                let text = String::from_utf8_lossy(&fs::read(file)?).replace("\r\n", "\n");
                Ok(text.replace("=\n", "").replace("\n ", " "))
            })
            .collect()
    }
}

fn tell(file: &Path, answer: Option<&str>) -> Result<()> {
    match answer {
        Some(answer) => fs::write(file, answer)?,
        None => fs::remove_file(file)?,
    }
    Ok(())
}
