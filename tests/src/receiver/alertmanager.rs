//! Prometheus Alertmanager.

use std::{fs, process::Command};

use anyhow::Result;
use serde_json::Value;

use super::server::{Server, Transport};
use crate::{http, needs};

/// One that sends nothing to anybody.
#[derive(Debug)]
pub struct Alertmanager {
    /// What runs.
    pub server: Server,
}

impl Alertmanager {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let server = Server::start("Alertmanager", Transport::Tcp, |directory, address| {
            let config = directory.join("config.yml");
            fs::write(&config, "route:\n  receiver: none\nreceivers:\n  - name: none\n")?;
            let mut command = Command::new(needs::program("prometheus-alertmanager")?);
            command.arg(format!("--config.file={}", config.display()));
            command.arg(format!("--storage.path={}", directory.join("data").display()));
            command.arg(format!("--web.listen-address={address}")).arg("--cluster.listen-address=");
            Ok(command)
        })?;
        Ok(Self { server })
    }

    /// The alerts that it holds.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let answer = http::request(self.server.address(), "GET", "/api/v2/alerts", &[], "")?;
        Ok(serde_json::from_str::<Value>(&answer.body)?.as_array().cloned().unwrap_or_default())
    }
}
