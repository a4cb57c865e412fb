//! Events as OCSF 1.8.0, profiles `host` and `security_control`.
//!
//! Classes: 1001 File System Activity, 1007 Process Activity, 4001 Network Activity, 6002 Application Lifecycle for the
//! guard itself. What OCSF has no place for is in `unmapped`, flat.

use std::{net::Ipv6Addr, sync::OnceLock};

use monitor_common::{
    Access, Verdict,
    event::{
        Event, FLAG_AFTER, FLAG_BY_NAME, FLAG_COMPAT, FLAG_CONFIRMED, FLAG_CREATED, FLAG_CUT, FLAG_DAMAGED,
        FLAG_FAILED, FLAG_FS_PATH, FLAG_IO_URING, FLAG_MAINTENANCE, FLAG_OBSERVED, FLAG_UNLINKED, Hook,
    },
    scope::Origin,
};
use serde_json::{Map, Value, json};

use crate::{
    kernel::table,
    pipeline::{
        enrich::{Enriched, Parent, Program},
        tunnel::Tunnel,
    },
};

/// Version of the schema.
pub const VERSION: &str = "1.8.0";

const FILE: u32 = 1001;
const PROCESS: u32 = 1007;
const NETWORK: u32 = 4001;
const LIFECYCLE: u32 = 6002;

/// Names of the flags of a record, as `unmapped.flags` has them.
pub const FLAGS: [(u32, &str); 13] = [
    (FLAG_CUT, "cut"),
    (FLAG_BY_NAME, "by_name"),
    (FLAG_CONFIRMED, "confirmed"),
    (FLAG_FAILED, "failed"),
    (FLAG_DAMAGED, "damaged"),
    (FLAG_AFTER, "after"),
    (FLAG_COMPAT, "compat"),
    (FLAG_UNLINKED, "unlinked"),
    (FLAG_CREATED, "created"),
    (FLAG_IO_URING, "io_uring"),
    (FLAG_OBSERVED, "observed"),
    (FLAG_FS_PATH, "fs_path"),
    (FLAG_MAINTENANCE, "maintenance"),
];

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

/// Class and activity of an operation.
fn class(event: &Event, hook: Hook) -> (u32, u32, &'static str) {
    let access = Access::from_bits(event.access);
    match hook {
        Hook::Open if access.contains(Access::CREATE) => (FILE, 1, "Create"),
        Hook::Open | Hook::Mmap | Hook::Receive => (FILE, 14, "Open"),
        Hook::Mkdir | Hook::Mknod | Hook::Link | Hook::Symlink => (FILE, 1, "Create"),
        Hook::Read => (FILE, 2, "Read"),
        Hook::Write | Hook::WriteTotals | Hook::Truncate => (FILE, 3, "Update"),
        Hook::Unlink | Hook::Rmdir => (FILE, 4, "Delete"),
        Hook::Rename => (FILE, 5, "Rename"),
        Hook::Chown | Hook::Utimes | Hook::Xattr => (FILE, 6, "Set Attributes"),
        Hook::Chmod => (FILE, 7, "Set Security"),
        Hook::IoUring | Hook::UnixConnect => (FILE, 99, "Other"),
        Hook::Mount => (FILE, 12, "Mount"),
        Hook::Unmount => (FILE, 13, "Unmount"),
        Hook::Connect | Hook::Accept => (NETWORK, 1, "Open"),
        Hook::Send | Hook::Dns | Hook::Volume => (NETWORK, 6, "Traffic"),
        Hook::Listen => (NETWORK, 7, "Listen"),
        Hook::Bind | Hook::Socket => (NETWORK, 99, "Other"),
        Hook::Exec | Hook::Fork => (PROCESS, 1, "Launch"),
        Hook::Exit => (PROCESS, 2, "Terminate"),
        Hook::Ptrace => (PROCESS, 3, "Open"),
        Hook::Privilege => (PROCESS, 5, "Set User ID"),
        Hook::Signal | Hook::Namespace | Hook::Bpf | Hook::Module | Hook::UringCommand => (PROCESS, 99, "Other"),
    }
}

/// An operation as an event; `sentence` becomes its message.
#[must_use]
pub fn render(enriched: &Enriched, sentence: &str) -> Value {
    let record = &enriched.record;
    let event = &record.event;
    let (class_uid, activity, activity_name) = class(event, record.hook);
    let (action_id, action, disposition_id, disposition, severity_id) = match record.verdict {
        Verdict::Kill => (2, "Denied", 99, "Killed", 5),
        Verdict::Deny => (2, "Denied", 2, "Blocked", 4),
        _ if record.wanted > Verdict::Log => (3, "Observed", 19, "Alert", 3),
        _ => (3, "Observed", 17, "Logged", 2),
    };
    let mut out = json!({
        "class_uid": class_uid,
        "category_uid": class_uid / 1000,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": u64::from(class_uid) * 100 + u64::from(activity),
        "time": enriched.time_ms,
        "severity_id": severity_id,
        "action_id": action_id,
        "action": action,
        "disposition_id": disposition_id,
        "disposition": disposition,
        "is_alert": record.verdict >= Verdict::Deny || record.wanted >= Verdict::Deny,
        "status_id": if event.flags & FLAG_FAILED != 0 || record.verdict == Verdict::Deny { 2 } else { 1 },
        "message": sentence,
        "metadata": metadata(),
        "device": device(),
        "actor": { "process": process(enriched) },
        "policy": { "name": enriched.instance, "uid": enriched.rule, "desc": enriched.sentence },
        "unmapped": unmapped(enriched),
    });
    if !enriched.techniques.is_empty() {
        out["attacks"] = enriched.techniques.iter().map(|technique| attack(technique)).collect();
    }
    match class_uid {
        FILE => out["file"] = file(&record.path, event),
        PROCESS if record.hook == Hook::Exec => out["process"] = launched(enriched),
        PROCESS => out["process"] = process(enriched),
        _ => network(&mut out, event, record.hook),
    }
    if record.hook == Hook::Volume {
        out["traffic"] = json!({ "bytes_out": event.bytes });
    }
    if let Some(name) = &enriched.hostname {
        out["dst_endpoint"]["hostname"] = Value::from(name.as_str());
    }
    out
}

/// A technique of MITRE ATT&CK by its identifier: `T1552`, `T1552.004`.
pub(super) fn attack(uid: &str) -> Value {
    match uid.split_once('.') {
        Some((technique, _)) => json!({ "technique": { "uid": technique }, "sub_technique": { "uid": uid } }),
        None => json!({ "technique": { "uid": uid } }),
    }
}

/// An event about the guard itself.
#[must_use]
pub fn lifecycle(stage: Stage, message: &str, details: &Map<String, Value>) -> Value {
    let (activity, name, severity) = match stage {
        Stage::Start => (3, "Start", 1),
        Stage::Stop => (4, "Stop", 1),
        Stage::Reload => (99, "Reload", 1),
        Stage::Takeover => (99, "Takeover", 1),
        Stage::Open => (99, "Open", 3),
        Stage::Close => (99, "Close", 1),
        Stage::Loss => (99, "Loss", 4),
        Stage::Error => (99, "Error", 3),
        Stage::Test => (99, "Test", 1),
        Stage::Checkpoint => (99, "Checkpoint", 1),
        Stage::Retention => (99, "Retention", 1),
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
        "app": product(),
        "unmapped": details,
    })
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

fn product() -> Value {
    json!({ "name": "Flowwarden", "vendor_name": "Flowwarden", "version": env!("CARGO_PKG_VERSION") })
}

pub(super) fn metadata() -> Value {
    json!({ "version": VERSION, "product": product(), "profiles": ["host", "security_control"] })
}

pub(super) fn device() -> &'static Value {
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Arguments, parted by zero bytes, as one line.
pub(crate) fn command_line(argv: &[u8]) -> String {
    let argv = argv.strip_suffix(&[0]).unwrap_or(argv);
    text(argv).replace('\0', " ")
}

fn file(path: &[u8], event: &Event) -> Value {
    let split = path.iter().rposition(|&byte| byte == b'/');
    let (folder, name) = split.map_or((&b""[..], path), |at| (&path[..at.max(1)], &path[at + 1..]));
    let kind = match event.mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    };
    let mut file = json!({ "path": text(path), "name": if name.is_empty() { "/".to_owned() } else { text(name) }, "type_id": kind });
    if !folder.is_empty() {
        file["parent_folder"] = text(folder).into();
    }
    file
}

fn program_parts(process: &mut Value, program: Option<&Program>) {
    if let Some(program) = program {
        process["cmd_line"] = command_line(&program.argv).into();
        if program.path.starts_with(b"/") {
            let mut file = file(&program.path, &Event::ZERO);
            file["type_id"] = 1.into();
            process["file"] = file;
        }
    }
}

fn parent_process(parents: &[Parent]) -> Option<Value> {
    let (parent, above) = parents.split_first()?;
    let mut process = json!({ "pid": parent.tgid, "name": parent.name });
    program_parts(&mut process, parent.program.as_ref());
    if let Some(above) = parent_process(above) {
        process["parent_process"] = above;
    }
    Some(process)
}

fn process(enriched: &Enriched) -> Value {
    let event = &enriched.record.event;
    let mut user = json!({ "uid": event.uid.to_string() });
    if let Some(name) = &enriched.user {
        user["name"] = name.as_str().into();
    }
    let mut process = json!({ "pid": event.tgid, "tid": event.tid, "name": enriched.name, "user": user });
    program_parts(&mut process, enriched.program.as_ref());
    if let Some(parent) = parent_process(&enriched.parents) {
        process["parent_process"] = parent;
    }
    process
}

/// The process with the program that it executes, also when that is refused.
fn launched(enriched: &Enriched) -> Value {
    let record = &enriched.record;
    let mut launched = process(enriched);
    program_parts(&mut launched, Some(&Program { path: record.path.clone(), argv: record.text.clone() }));
    let name = record.path.rsplit(|&byte| byte == b'/').next().filter(|name| !name.is_empty());
    if let Some(name) = name {
        launched["name"] = text(name).into();
    }
    launched
}

/// An address as a person writes it: v4-mapped IPv6 is IPv4.
pub(crate) fn address(bytes: [u8; 16]) -> String {
    let v6 = Ipv6Addr::from(bytes);
    v6.to_ipv4_mapped().map_or_else(|| v6.to_string(), |v4| v4.to_string())
}

fn network(out: &mut Value, event: &Event, hook: Hook) {
    let end = &event.endpoint;
    let peer = json!({ "ip": address(end.address), "port": end.port });
    // An endpoint has to be named; our own address is not known here, our name is.
    let own = json!({ "hostname": device()["hostname"], "port": end.local_port });
    let inbound = matches!(hook, Hook::Accept | Hook::Bind | Hook::Listen);
    let protocol = match end.protocol {
        6 => "tcp",
        17 => "udp",
        _ => "other",
    };
    out["connection_info"] =
        json!({ "direction_id": if inbound { 1 } else { 2 }, "protocol_num": end.protocol, "protocol_name": protocol });
    if hook == Hook::Socket {
        // A socket that has no peer yet; the class wants one end at least.
        out["src_endpoint"] = own;
        return;
    }
    if hook == Hook::Bind {
        out["dst_endpoint"] = json!({ "ip": address(end.address), "port": end.local_port });
        return;
    }
    let (source, destination) = if inbound { (peer, own) } else { (own, peer) };
    out["dst_endpoint"] = destination;
    if hook != Hook::Listen {
        out["src_endpoint"] = source;
    }
}

fn unmapped(enriched: &Enriched) -> Value {
    let record = &enriched.record;
    let event = &record.event;
    let flags: Vec<_> = FLAGS.iter().filter(|(bit, _)| event.flags & bit != 0).map(|&(_, name)| name).collect();
    let access: Vec<_> = Access::from_bits(event.access).names().collect();
    let mut out = json!({
        "instance": enriched.instance,
        "rule": enriched.rule,
        "rule_text": enriched.sentence,
        "verdict": record.verdict.name(),
        "wanted": record.wanted.name(),
        "hook": record.hook.name(),
        "sensor": record.sensor.name(),
        "access": access,
        "flags": flags,
        "origin": Origin::name(event.origin),
        "epoch": event.epoch,
        "time_ns": event.time_ns,
        "kernel_sequence": event.sequence,
        "cpu": event.cpu,
        "euid": event.euid,
        "start_ns": event.start_ns,
    });
    let mut set = |key: &str, value: Value| out[key] = value;
    if let Ok(number) = u32::try_from(event.syscall) {
        set("syscall", table::name(number, event.flags & FLAG_COMPAT != 0).unwrap_or("unknown").into());
        set("ret", event.ret.into());
    }
    if event.ino != 0 {
        // Major and minor of the kernel's own encoding.
        set("dev", format!("{}:{}", event.dev >> 20, event.dev & 0x000f_ffff).into());
        set("ino", event.ino.into());
        set("generation", event.generation.into());
    }
    if event.loginuid != u32::MAX {
        set("loginuid", event.loginuid.into());
    }
    for (key, value) in enriched.tunnel.iter().flat_map(Tunnel::fields) {
        set(key, value);
    }
    for (key, value) in [("cgroup", &enriched.cgroup), ("unit", &enriched.unit), ("container", &enriched.container)] {
        if let Some(value) = value {
            set(key, value.as_str().into());
        }
    }
    if let Some(other) = &record.other {
        set("other", text(other).into());
    }
    if record.hook == Hook::WriteTotals {
        set("bytes", event.bytes.into());
        set("count", event.count.into());
    }
    if record.hook == Hook::Volume {
        set("bytes", event.bytes.into());
        set("max_bytes", event.detail.into());
        set("hours", event.count.into());
    }
    match record.hook {
        // A process group is a negative number.
        Hook::Ptrace | Hook::Signal => set("detail", event.detail.cast_signed().into()),
        Hook::IoUring | Hook::Socket | Hook::Privilege | Hook::Exec | Hook::Rename | Hook::Link => {
            set("detail", event.detail.into());
        }
        Hook::Open => set("open_flags", event.open_flags.into()),
        _ => {}
    }
    // A name that is no UTF-8 is shown with replacement characters; say that it is not the name itself.
    if std::str::from_utf8(&record.path).is_err()
        || record.other.as_deref().is_some_and(|other| std::str::from_utf8(other).is_err())
    {
        set("lossy", true.into());
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use monitor_common::event::{Ancestor, Endpoint};

    use super::*;
    use crate::{
        journal::{console, format},
        pipeline::{
            decode::{decode, tests::bytes},
            enrich::{Enricher, Names, RuleName},
        },
    };

    struct Plain;

    impl Names for Plain {
        fn rule(&self, _: u32, _: u16) -> RuleName {
            let techniques = ["T1552", "T1565.001"].map(str::to_owned).into();
            RuleName { techniques, ..RuleName::new("settings-js", "write of settings.js: kill") }
        }
        fn instance(&self, _: u16) -> String {
            "plant-a".to_owned()
        }
    }

    fn schema(class: u64) -> jsonschema::Validator {
        let path = format!("{}/tests/ocsf/{class}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
    }

    /// Fails when an event is not as OCSF has it, or becomes what is no ECS or CEF.
    pub(in crate::journal) fn valid(event: &Value) {
        let mut event = event.clone();
        event["metadata"]["sequence"] = 1.into();
        event["metadata"]["uid"] = "x-1".into();
        let class = event["class_uid"].as_u64().unwrap();
        let errors: Vec<_> =
            schema(class).iter_errors(&event).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{event:#}");
        assert_eq!(event["type_uid"].as_u64(), Some(class * 100 + event["activity_id"].as_u64().unwrap()));
        assert_eq!(event["category_uid"].as_u64(), Some(class / 1000));
        format::tests::valid(&event);
    }

    fn rendered(hook: Hook, verdict: Verdict, path: &[u8], text: &[u8]) -> Value {
        let mut event = Event {
            hook: hook as u8,
            sensor: 1,
            verdict: verdict as u8,
            wanted: Verdict::Kill as u8,
            rule: 1,
            flags: !FLAG_BY_NAME,
            access: 0xff,
            tgid: 812,
            ino: 5,
            mode: 0o100_644,
            syscall: 1,
            endpoint: Endpoint {
                address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9],
                port: 443,
                family: 2,
                protocol: 6,
                ..Endpoint::default()
            },
            ..Event::ZERO
        };
        event.ancestors[0] = Ancestor { tgid: 640, comm: *b"node\0\0\0\0\0\0\0\0\0\0\0\0" };
        event.ancestors[1] = Ancestor { tgid: 1, comm: *b"systemd\0\0\0\0\0\0\0\0\0" };
        let mut enricher = Enricher::new("/sys/fs/cgroup".into());
        let record = decode(&bytes(event, path, text)).unwrap();
        enricher.observe(&record);
        let enriched = enricher.enrich(record, &Plain);
        render(&enriched, &console::sentence(&enriched))
    }

    #[test]
    fn every_hook_with_every_verdict_is_valid() {
        for (_, hook) in Hook::NAMES {
            for verdict in [Verdict::Log, Verdict::Deny, Verdict::Kill] {
                valid(&rendered(hook, verdict, b"settings.js\0ud\0", b"node\0x\0"));
            }
        }
    }

    #[test]
    fn techniques_are_attacks_of_the_schema() {
        let event = rendered(Hook::Open, Verdict::Kill, b"settings.js\0ud\0", b"");
        let expected = json!([
            { "technique": { "uid": "T1552" } },
            { "technique": { "uid": "T1565" }, "sub_technique": { "uid": "T1565.001" } },
        ]);
        assert_eq!(event["attacks"], expected);
    }

    #[test]
    fn names_that_are_no_text_are_valid_and_marked() {
        let event = rendered(Hook::Open, Verdict::Kill, b"\xff\n\"\x1b[31m\0ud\0", b"");
        valid(&event);
        assert_eq!(event["unmapped"]["lossy"], true);
        assert!(!event.to_string().contains('\n'));
    }

    #[test]
    fn an_endpoint_is_written_as_people_do() {
        let event = rendered(Hook::Connect, Verdict::Deny, b"", b"");
        assert_eq!(event["dst_endpoint"]["ip"], "203.0.113.9");
        assert_eq!(event["dst_endpoint"]["port"], 443);
        assert_eq!(event["disposition"], "Blocked");
    }

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
