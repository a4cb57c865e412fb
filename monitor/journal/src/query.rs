//! Picking events out of a journal.

use std::{net::IpAddr, path::Path, time::SystemTime};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    JournalError,
    reader::{Position, Reader},
    segment,
};
use crate::ocsf::FINDING;

/// What an event has to be like. Everything that is given has to hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Incidents only.
    pub incidents: bool,
    /// Not before this moment.
    pub since: Option<SystemTime>,
    /// Before this moment.
    pub until: Option<SystemTime>,
    /// One of these instances.
    pub instances: Vec<String>,
    /// One of these rules.
    pub rules: Vec<String>,
    /// One of these verdicts.
    pub verdicts: Vec<String>,
    /// The file's path contains this.
    pub path: Option<String>,
    /// One of the addresses is in this network.
    pub address: Option<IpNet>,
}

impl Filter {
    /// Whether an event is wanted.
    #[must_use]
    pub fn takes(&self, event: &Value) -> bool {
        let own = |key: &str| event["unmapped"][key].as_str().unwrap_or_default();
        let listed = |list: &[String], key: &str| list.is_empty() || list.iter().any(|wanted| wanted == own(key));
        let has_path = |wanted: &String| {
            ["/file/path", "/unmapped/other", "/process/file/path"]
                .iter()
                .any(|pointer| event.pointer(pointer).and_then(Value::as_str).is_some_and(|path| path.contains(wanted)))
        };
        let has_address = |net: &IpNet| {
            ["/dst_endpoint/ip", "/src_endpoint/ip"].iter().any(|pointer| {
                let address = event.pointer(pointer).and_then(Value::as_str);
                address.and_then(|text| text.parse::<IpAddr>().ok()).is_some_and(|address| net.contains(&address))
            })
        };
        let time = event["time"].as_i64().unwrap_or_default();
        (!self.incidents || event["class_uid"] == FINDING)
            && self.since.is_none_or(|since| time >= millis(since))
            && self.until.is_none_or(|until| time < millis(until))
            && listed(&self.instances, "instance")
            && listed(&self.rules, "rule")
            && listed(&self.verdicts, "verdict")
            && self.path.as_ref().is_none_or(has_path)
            && self.address.as_ref().is_none_or(has_address)
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Where to begin to read for what is wanted since a time.
pub fn start(directory: &Path, since: Option<SystemTime>) -> Result<Position, JournalError> {
    let mut start = Position::default();
    for found in segment::list(directory)? {
        // A segment that was written last before that time holds nothing that is wanted.
        let old = |since| found.size_and_time().is_ok_and(|(_, written)| written < since);
        if !since.is_some_and(old) {
            start.segment = found.number;
            break;
        }
    }
    Ok(start)
}

/// Events of a journal, one after the other, each with its line.
#[derive(Debug)]
pub struct Query {
    reader: Reader,
    filter: Filter,
    line: Vec<u8>,
}

impl Query {
    /// Looks through the journal in `directory`.
    pub fn new(directory: &Path, filter: Filter) -> Result<Self, JournalError> {
        let start = start(directory, filter.since)?;
        Ok(Self { reader: Reader::new(directory, start), filter, line: Vec::new() })
    }

    /// What could not be read, since the last time.
    pub fn damage(&mut self) -> Option<String> {
        self.reader.damage()
    }

    /// The next event that is wanted. What is no event is passed over.
    pub fn next_event(&mut self) -> Result<Option<(&[u8], Value)>, JournalError> {
        while self.reader.next(&mut self.line)?.is_some() {
            if let Ok(event) = serde_json::from_slice::<Value>(&self.line)
                && self.filter.takes(&event)
            {
                return Ok(Some((&self.line, event)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::hostile;

    #[test]
    fn every_condition_picks_and_drops() {
        let event = hostile("/srv/plant-a/settings.js");
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let name = || vec!["/srv/plant-a/settings.js".to_owned()];
        let other = || vec!["other".to_owned()];
        let none = Filter::default();
        let incidents = Filter { incidents: true, ..none.clone() };
        assert!(!incidents.takes(&event) && incidents.takes(&serde_json::json!({ "class_uid": 2004 })));
        for (takes, drops) in [
            (none.clone(), Filter { since: at(1_700_000_001), ..none.clone() }),
            (Filter { since: at(1_700_000_000), ..none.clone() }, Filter { until: at(1_700_000_000), ..none.clone() }),
            (Filter { instances: name(), ..none.clone() }, Filter { instances: other(), ..none.clone() }),
            (Filter { rules: name(), ..none.clone() }, Filter { rules: other(), ..none.clone() }),
            (
                Filter { verdicts: vec!["deny".into(), "kill".into()], ..none.clone() },
                Filter { verdicts: other(), ..none.clone() },
            ),
            (
                Filter { path: Some("settings".into()), ..none.clone() },
                Filter { path: Some("other".into()), ..none.clone() },
            ),
            (
                Filter { address: "203.0.113.0/24".parse().ok(), ..none.clone() },
                Filter { address: "10.0.0.0/8".parse().ok(), ..none.clone() },
            ),
        ] {
            assert!(takes.takes(&event), "{takes:?}");
            assert!(!drops.takes(&event), "{drops:?}");
        }
    }
}
