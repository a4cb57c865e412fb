//! A mail server: aiosmtpd.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{Certificates, Program, Transport, free_port, listens};

/// Who may send.
pub const USER: &str = "guard";
/// By this password.
pub const PASSWORD: &str = "let-me-in";
const SCRIPT: &str = include_str!("mail_server.py");

/// A server that wants a certificate and a login, and keeps what it is sent.
#[derive(Debug)]
pub struct MailServer {
    directory: TempDir,
    port: u16,
    /// Killed with it.
    _program: Program,
}

impl MailServer {
    /// Starts one: `tls` from the first byte on, or `starttls`.
    pub fn start(how: &str, certificates: &Certificates) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("mail_server.py"), SCRIPT)?;
        let certificates =
            ["ca.pem", "server.pem", "server.key"].map(|name| certificates.path(name).display().to_string());
        let port = free_port(Transport::Tls)?;
        let path = directory.path();
        // Another Python that comes first on PATH does not have Debian's packages.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(path.join("mail_server.py")).arg(port.to_string()).arg(how).arg(path);
        command.args(&certificates).args([USER, PASSWORD]);
        let mut program = Program::default();
        program.start(&mut command, &path.join("log"))?;
        let server = Self { directory, port, _program: program };
        listens(server.address(), "aiosmtpd").with_context(|| {
            format!("{}; is python3-aiosmtpd there? type `cargo xtask setup --tests`", server.log())
        })?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What it answers to the end of a mail from now on: `451 4.3.0 later`; none for what it usually does.
    pub fn answer(&self, answer: Option<&str>) -> Result<()> {
        tell(&self.directory.path().join("answer"), answer)
    }

    /// The same of its recipients.
    pub fn answer_recipients(&self, answer: Option<&str>) -> Result<()> {
        tell(&self.directory.path().join("recipients"), answer)
    }

    /// The mails that it has: sender and recipients in the first line, then the mail, whose long lines are whole again.
    pub fn mails(&self) -> Result<Vec<String>> {
        let mut files: Vec<_> = fs::read_dir(self.directory.path())?.flatten().map(|entry| entry.path()).collect();
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

    /// What it says about itself.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn tell(file: &Path, answer: Option<&str>) -> Result<()> {
    match answer {
        Some(answer) => fs::write(file, answer)?,
        None => fs::remove_file(file)?,
    }
    Ok(())
}
