//! rsyslog.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::Result;

use super::{Certificates, server::Transport, syslog::RECEIVED};
use crate::needs;

/// What starts it.
pub(super) fn configure(
    directory: &Path,
    address: SocketAddr,
    transport: Transport,
    certificates: &Certificates,
) -> Result<Command> {
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
    let config = format!(
        "global(workDirectory=\"{}\" maxMessageSize=\"64k\" DefaultNetstreamDriverCAFile=\"{}\" \
         DefaultNetstreamDriverCertFile=\"{}\" DefaultNetstreamDriverKeyFile=\"{}\")\n{input}\n\
         template(name=\"raw\" type=\"string\" string=\"%pri% %timestamp:::date-rfc3339% %app-name% %msgid% %msg%\\n\")\n\
         *.* action(type=\"omfile\" file=\"{}\" template=\"raw\")\n",
        directory.display(),
        certificates.text("ca.pem"),
        certificates.text("server.pem"),
        certificates.text("server.key"),
        directory.join(RECEIVED).display(),
    );
    fs::write(directory.join("rsyslog.conf"), config)?;
    let mut command = Command::new(needs::program("rsyslogd")?);
    // One that was killed leaves its pid's file, which another one would not start beside.
    command.arg("-n").arg("-f").arg(directory.join("rsyslog.conf")).args(["-i", "NONE"]);
    Ok(command)
}
