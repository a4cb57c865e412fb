//! Hosts in ingress rules: stored for the next run; changes of their addresses are reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use serde_json::{Map, json};

use super::{Agent, AgentError, say, trouble::Task};
use journal::{ocsf::Stage, state::State};
use policy::{
    name::DnsName,
    peers::{LookupReport, Peers, Table},
};

/// File of their addresses in the state directory, for a guard that starts before the network.
const KEPT: &str = "peers.json";

type Kept = BTreeMap<String, BTreeSet<IpAddr>>;

/// Addresses of an earlier run.
pub(super) fn open(state: &State) -> Result<Peers, AgentError> {
    let kept: Kept = state.read(KEPT)?.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let known = kept.into_iter().filter_map(|(name, addresses)| Some((DnsName::parse(&name).ok()?, addresses)));
    Ok(Peers::new(&known.collect(), Instant::now()))
}

fn keep(state: &State, table: &Table) -> Result<(), AgentError> {
    let kept: Kept = table.iter().map(|(name, addresses)| (name.to_string(), addresses.clone())).collect();
    Ok(state.write(KEPT, &serde_json::to_vec(&kept).unwrap_or_default())?)
}

impl<E> Agent<E> {
    /// Logs and journals results of look-ups, and stores the addresses in force.
    pub(super) fn report_lookups(&mut self, all: &[LookupReport]) {
        for lookup in all {
            let (stage, message, details) = words(lookup);
            say(&message);
            self.pipeline.lifecycle(stage, &message, &Map::from_iter(details));
        }
        let changed = all.iter().any(|lookup| matches!(lookup, LookupReport::Changed { .. }));
        if changed {
            let kept = keep(&self.state, &self.host.peers);
            self.note(Task::Peers, &kept);
        }
    }
}

fn words(lookup: &LookupReport) -> (Stage, String, Vec<(String, serde_json::Value)>) {
    match lookup {
        LookupReport::Changed { name, before, now } => {
            let was = if before.is_empty() { String::new() } else { format!(", until now {}", list(before)) };
            let message = format!("{name} in ingress rules is {}{was}", list(now));
            let details = [("name", json!(name.to_string())), ("addresses", json!(now)), ("before", json!(before))];
            (Stage::Reload, message, details.map(|(key, value)| (key.to_owned(), value)).into())
        }
        LookupReport::Failed { name, why, kept } => {
            let then = if kept.is_empty() {
                "it stands for no address until it can be".to_owned()
            } else {
                format!("it stays {}", list(kept))
            };
            let message = format!("{name} in ingress rules cannot be looked up: {why}; {then}");
            let details = [("name", json!(name.to_string())), ("addresses", json!(kept)), ("error", json!(why))];
            (Stage::Error, message, details.map(|(key, value)| (key.to_owned(), value)).into())
        }
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    shown.join(", ")
}
