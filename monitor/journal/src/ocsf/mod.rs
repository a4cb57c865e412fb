//! Events as OCSF 1.8.0, profiles `host` and `security_control`.
//!
//! Classes of operations: 1001 File System Activity, 1007 Process Activity, 4001 Network Activity. Class of incidents: 2004
//! Detection Finding. Class of healed files: 7002 File Remediation Activity. Class of the guard itself: 6002 Application
//! Lifecycle. What OCSF has no attribute for is in `unmapped`, flat.

mod disposition;
mod severity;

use std::{net::Ipv6Addr, sync::OnceLock};

use serde::Serialize;
use serde_json::{Map, Value, json};

pub use disposition::{Action, Disposition};
pub use severity::Severity;

/// Version of the schema.
pub const VERSION: &str = "1.8.0";

/// Class of a Detection Finding: an incident.
pub const FINDING: u32 = 2004;
const LIFECYCLE: u32 = 6002;

/// What happened to the guard itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It started.
    Start,
    /// It stopped.
    Stop,
    /// It took a new policy.
    Reload,
    /// It took over from an earlier run whose programs were still judging.
    Takeover,
    /// A maintenance window was opened.
    Open,
    /// A maintenance window was closed, by somebody or by its time.
    Close,
    /// Records were lost.
    Loss,
    /// Something failed that it goes on without.
    Error,
    /// Somebody tries a sink.
    Test,
    /// The journal was signed.
    Checkpoint,
    /// Old segments of the journal were removed, as configured.
    Retention,
}

/// A technique of MITRE ATT&CK, `T1552`, or a sub-technique, `T1552.004`.
#[derive(Debug, Serialize)]
pub struct Attack<'a> {
    technique: Technique<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_technique: Option<Technique<'a>>,
}

#[derive(Debug, Serialize)]
struct Technique<'a> {
    uid: &'a str,
}

impl<'a> Attack<'a> {
    /// By its identifier.
    #[must_use]
    pub fn new(uid: &'a str) -> Self {
        let technique = uid.split_once('.').map_or(uid, |(technique, _)| technique);
        let sub_technique = (technique != uid).then_some(Technique { uid });
        Self { technique: Technique { uid: technique }, sub_technique }
    }
}

/// An event about the guard itself.
#[must_use]
pub fn lifecycle(stage: Stage, message: &str, details: &Map<String, Value>) -> Value {
    let (activity, name, severity) = match stage {
        Stage::Start => (3, "Start", Severity::Informational),
        Stage::Stop => (4, "Stop", Severity::Informational),
        Stage::Reload => (99, "Reload", Severity::Informational),
        Stage::Takeover => (99, "Takeover", Severity::Informational),
        Stage::Open => (99, "Open", Severity::Medium),
        Stage::Close => (99, "Close", Severity::Informational),
        Stage::Loss => (99, "Loss", Severity::High),
        Stage::Error => (99, "Error", Severity::Medium),
        Stage::Test => (99, "Test", Severity::Informational),
        Stage::Checkpoint => (99, "Checkpoint", Severity::Informational),
        Stage::Retention => (99, "Retention", Severity::Informational),
    };
    json!({
        "class_uid": LIFECYCLE,
        "category_uid": 6,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": u64::from(LIFECYCLE) * 100 + activity,
        "time": now_ms(),
        "severity_id": severity,
        "message": message,
        "metadata": metadata(),
        "device": device(),
        "app": PRODUCT,
        "unmapped": details,
    })
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

#[derive(Debug, Serialize)]
struct Product {
    name: &'static str,
    vendor_name: &'static str,
    version: &'static str,
}

const PRODUCT: Product = Product { name: "Flowwarden", vendor_name: "Flowwarden", version: env!("CARGO_PKG_VERSION") };

/// `metadata` of an event; the journal adds its number.
#[derive(Debug, Serialize)]
pub struct Metadata<'a> {
    version: &'static str,
    product: Product,
    profiles: [&'static str; 2],
    /// The incident that the event belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_uid: Option<&'a str>,
}

impl Default for Metadata<'_> {
    fn default() -> Self {
        Self { version: VERSION, product: PRODUCT, profiles: ["host", "security_control"], correlation_uid: None }
    }
}

/// [`Metadata`] of an event that belongs to no incident.
#[must_use]
pub fn metadata() -> Value {
    json!(Metadata::default())
}

/// The `device` of every event: this host.
#[must_use]
pub fn device() -> &'static Value {
    static DEVICE: OnceLock<Value> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let uname = rustix::system::uname();
        json!({
            "type_id": 0,
            "hostname": uname.nodename().to_string_lossy(),
            "os": { "name": "Linux", "type_id": 200, "type": "Linux", "kernel_release": uname.release().to_string_lossy() },
        })
    })
}

/// Arguments, parted by zero bytes, as one line.
#[must_use]
pub fn command_line(argv: &[u8]) -> String {
    let argv = argv.strip_suffix(&[0]).unwrap_or(argv);
    String::from_utf8_lossy(argv).replace('\0', " ")
}

/// An address as a person writes it: v4-mapped IPv6 is IPv4.
#[must_use]
pub fn address(bytes: [u8; 16]) -> String {
    let v6 = Ipv6Addr::from(bytes);
    v6.to_ipv4_mapped().map_or_else(|| v6.to_string(), |v4| v4.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::valid;

    #[test]
    fn the_guards_own_events_are_valid() {
        let own = [Stage::Test, Stage::Checkpoint, Stage::Retention, Stage::Open, Stage::Close];
        for stage in [Stage::Start, Stage::Stop, Stage::Reload, Stage::Takeover, Stage::Loss, Stage::Error]
            .into_iter()
            .chain(own)
        {
            valid(&lifecycle(stage, "x", &Map::from_iter([("lost".to_owned(), 3.into())])));
        }
    }
}
