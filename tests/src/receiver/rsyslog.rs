//! rsyslog.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use super::{
    Certificates,
    server::{Server, Transport},
};
use crate::needs;

/// rsyslog, which writes what it gets into a file.
#[derive(Debug)]
pub struct Rsyslog {
    /// What runs.
    pub server: Server,
}

impl Rsyslog {
    /// Starts one.
    pub fn start(transport: Transport, certificates: &Certificates) -> Result<Self> {
        let server = Server::start("rsyslog", transport, |directory, address| {
            let port = address.port();
            let input = match transport {
                Transport::Udp => {
                    format!("module(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\")")
                }
                Transport::Tcp => {
                    format!("module(load=\"imtcp\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\")")
                }
                Transport::Tls => format!(
                    "module(load=\"imtcp\" StreamDriver.Name=\"gtls\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"x509/certvalid\")\n\
                     input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\")"
                ),
            };
            configure(directory, certificates, &input)
        })?;
        Ok(Self { server })
    }

    /// What it has received: `PRI TIME APP MSGID MESSAGE`, one a line.
    #[must_use]
    pub fn received(&self) -> Vec<String> {
        let text = fs::read(self.server.path("received")).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

fn configure(directory: &Path, certificates: &Certificates, input: &str) -> Result<Command> {
    let config = format!(
        "global(workDirectory=\"{}\" maxMessageSize=\"64k\" DefaultNetstreamDriverCAFile=\"{}\" \
         DefaultNetstreamDriverCertFile=\"{}\" DefaultNetstreamDriverKeyFile=\"{}\")\n{input}\n\
         template(name=\"raw\" type=\"string\" string=\"%pri% %timestamp:::date-rfc3339% %app-name% %msgid% %msg%\\n\")\n\
         *.* action(type=\"omfile\" file=\"{}\" template=\"raw\")\n",
        directory.display(),
        certificates.text("ca.pem"),
        certificates.text("server.pem"),
        certificates.text("server.key"),
        directory.join("received").display(),
    );
    fs::write(directory.join("rsyslog.conf"), config)?;
    let mut command = Command::new(needs::program("rsyslogd", "rsyslog rsyslog-gnutls")?);
    // One that was killed leaves its pid's file, which another one would not start beside.
    command.arg("-n").arg("-f").arg(directory.join("rsyslog.conf")).args(["-i", "NONE"]);
    Ok(command)
}
