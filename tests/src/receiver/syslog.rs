//! Syslog servers, which write what they get into a file.

use std::fs;

use anyhow::Result;

use super::{
    Certificates, rsyslog,
    server::{Server, Transport},
    syslog_ng,
};

/// The file in its directory that it writes to.
pub(super) const RECEIVED: &str = "received";

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    /// rsyslog.
    Rsyslog,
    /// syslog-ng.
    SyslogNg,
}

/// A syslog server for RFC 5424, over TCP and TLS with octet counting.
#[derive(Debug)]
pub struct Syslog {
    /// What runs.
    pub server: Server,
}

impl Syslog {
    /// Starts one.
    pub fn start(software: Software, transport: Transport, certificates: &Certificates) -> Result<Self> {
        let name = match software {
            Software::Rsyslog => "rsyslog",
            Software::SyslogNg => "syslog-ng",
        };
        let server = Server::start(name, transport, |directory, address| match software {
            Software::Rsyslog => rsyslog::configure(directory, address, transport, certificates),
            Software::SyslogNg => syslog_ng::configure(directory, address, transport, certificates),
        })?;
        Ok(Self { server })
    }

    /// What it has received: `PRI TIME APP MSGID MESSAGE`, one a line.
    #[must_use]
    pub fn received(&self) -> Vec<String> {
        let text = fs::read(self.server.path(RECEIVED)).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}
