//! The policy file as a whole: the [policy](Config::policy) of the instances, and how the guard keeps and delivers what it sees.

mod file;
mod limits;
mod metrics;

use std::net::SocketAddr;

use journal::Limits;
use policy::{model::Policy, parse, toml_reader::Fault};
use sinks::config::SinkConfig;

pub use file::{ConfigError, load, read};

/// What a policy file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// What each instance may do.
    pub policy: Policy,
    /// `[journal]`: how large the journal may be.
    pub journal: Limits,
    /// `[[sink]]`: where events go, beside the journal.
    pub sinks: Vec<SinkConfig>,
    /// `[metrics]`: the address that serves metrics to Prometheus; none without the table.
    pub metrics: Option<SocketAddr>,
}

impl From<Policy> for Config {
    fn from(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }
}

/// Parses a policy file. Returns every fault that one pass can find.
pub fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    let (policy, config) = parse::parse_with(text, |reader, root| Config {
        journal: limits::read(reader, root.take("journal")),
        sinks: sinks::config::read(reader, root.take("sink")),
        metrics: metrics::read(reader, root.take("metrics")),
        policy: Policy::default(),
    })?;
    Ok(Config { policy, ..config })
}
