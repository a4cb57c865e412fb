//! Operations as OCSF events.
//!
//! Under load most of the guard's time goes into serializing these, so they are typed and borrow their texts.
#![expect(clippy::struct_field_names, reason = "names of the schema")]

use std::borrow::Cow;

use monitor_common::{
    Access, Verdict,
    event::{
        Event, FLAG_AFTER, FLAG_BY_NAME, FLAG_COMPAT, FLAG_CONFIRMED, FLAG_CREATED, FLAG_CUT, FLAG_DAMAGED,
        FLAG_FAILED, FLAG_FS_PATH, FLAG_IO_URING, FLAG_MAINTENANCE, FLAG_NO_PLACE, FLAG_OBSERVED, FLAG_UNLINKED, Hook,
    },
    scope::Origin,
};
use serde::Serialize;
use serde_json::{Number, Value, json};

use crate::{
    kernel::table,
    record::{
        enrich::{Enriched, Parent, Program},
        tunnel::Tunnel,
    },
};
use journal::{
    chain::Body,
    ocsf::{Action, Attack, Disposition, Metadata, address, command_line, device},
};

const FILE: u32 = 1001;
const PROCESS: u32 = 1007;
const NETWORK: u32 = 4001;

/// Names of the flags of a record, as `unmapped.flags` has them.
pub const FLAGS: [(u32, &str); 14] = [
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
    (FLAG_NO_PLACE, "no_place"),
    (FLAG_MAINTENANCE, "maintenance"),
];

/// An operation that matched a rule or a class default.
#[derive(Debug, Serialize)]
pub struct Activity<'a> {
    class_uid: u32,
    category_uid: u32,
    activity_id: u32,
    activity_name: &'static str,
    type_uid: u32,
    time: i64,
    #[serde(flatten)]
    action: Action,
    is_alert: bool,
    status_id: u8,
    message: &'a str,
    device: &'static Value,
    actor: Actor<'a>,
    policy: Policy<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attacks: Vec<Attack<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_info: Option<Connection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_endpoint: Option<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_endpoint: Option<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
    /// Serialized separately: the journal adds to it.
    #[serde(skip)]
    unmapped: Unmapped<'a>,
    /// The same.
    #[serde(skip)]
    metadata: Metadata<'a>,
}

#[derive(Debug, Serialize)]
struct Actor<'a> {
    process: Process<'a>,
}

#[derive(Debug, Serialize)]
struct Policy<'a> {
    name: &'a str,
    uid: &'a str,
    desc: &'a str,
}

#[derive(Debug, Serialize)]
struct Process<'a> {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd_line: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_process: Option<Box<Self>>,
}

#[derive(Debug, Serialize)]
struct User<'a> {
    uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct File<'a> {
    path: Cow<'a, str>,
    name: Cow<'a, str>,
    type_id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_folder: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize)]
struct Connection {
    direction_id: u8,
    protocol_num: u8,
    protocol_name: &'static str,
}

#[derive(Debug, Serialize)]
struct Endpoint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    port: u16,
}

#[derive(Debug, Serialize)]
struct Traffic {
    bytes_out: u64,
}

/// Attributes that OCSF does not have.
#[derive(Debug, Serialize)]
struct Unmapped<'a> {
    instance: &'a str,
    rule: &'a str,
    rule_text: &'a str,
    verdict: &'static str,
    wanted: &'static str,
    hook: &'static str,
    sensor: &'static str,
    access: Vec<&'static str>,
    flags: Vec<&'static str>,
    origin: &'static str,
    epoch: u32,
    time_ns: u64,
    kernel_sequence: u64,
    cpu: u32,
    euid: u32,
    start_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    syscall: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ret: Option<i32>,
    #[serde(flatten)]
    inode: Option<Inode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loginuid: Option<u32>,
    #[serde(flatten)]
    tunnel: Option<&'a Tunnel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_flags: Option<u32>,
    /// A name is not UTF-8 and has replacement characters.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lossy: bool,
}

#[derive(Debug, Serialize)]
struct Inode {
    dev: String,
    ino: u64,
    generation: u32,
}

impl<'a> Activity<'a> {
    /// An event about an operation, with its message.
    #[must_use]
    pub fn new(enriched: &'a Enriched, sentence: &'a str) -> Self {
        let record = &enriched.record;
        let event = &record.event;
        let (class_uid, activity_id, activity_name) = class(event, record.hook);
        let disposition = match record.verdict {
            Verdict::Kill => Disposition::Killed,
            Verdict::Deny => Disposition::Blocked,
            _ if record.wanted > Verdict::Log => Disposition::Alert,
            _ => Disposition::Logged,
        };
        let failed = event.flags & FLAG_FAILED != 0 || record.verdict == Verdict::Deny;
        let network = (class_uid == NETWORK).then(|| Network::new(enriched));
        let (connection_info, src_endpoint, dst_endpoint) =
            network.map_or((None, None, None), |it| (Some(it.connection), it.source, it.destination));
        Self {
            class_uid,
            category_uid: class_uid / 1000,
            activity_id,
            activity_name,
            type_uid: class_uid * 100 + activity_id,
            time: enriched.time_ms,
            action: disposition.action(),
            is_alert: record.verdict >= Verdict::Deny || record.wanted >= Verdict::Deny,
            status_id: if failed { 2 } else { 1 },
            message: sentence,
            device: device(),
            actor: Actor { process: Process::of(enriched) },
            policy: Policy { name: &enriched.instance, uid: &enriched.rule, desc: &enriched.sentence },
            attacks: enriched.techniques.iter().map(|uid| Attack::new(uid)).collect(),
            file: (class_uid == FILE).then(|| File::new(&record.path, event.mode)),
            process: match record.hook {
                Hook::Exec => Some(Process::launched(enriched)),
                _ => (class_uid == PROCESS).then(|| Process::of(enriched)),
            },
            connection_info,
            src_endpoint,
            dst_endpoint,
            traffic: (record.hook == Hook::Volume).then_some(Traffic { bytes_out: event.bytes }),
            unmapped: Unmapped::new(enriched),
            metadata: Metadata::default(),
        }
    }

    /// Sets the incident of the event.
    pub(crate) fn correlate(&mut self, incident: &'a str) {
        self.metadata.correlation_uid = Some(incident);
    }

    /// The message.
    pub(crate) fn message(&self) -> &'a str {
        self.message
    }

    /// Process and object, as evidence of a finding.
    pub(crate) fn evidence(&self) -> Value {
        let mut out = json!({ "process": self.actor.process });
        let parts = [
            ("file", self.file.as_ref().map(|it| json!(it))),
            ("dst_endpoint", self.dst_endpoint.as_ref().map(|it| json!(it))),
            ("src_endpoint", self.src_endpoint.as_ref().map(|it| json!(it))),
            ("connection_info", self.connection_info.as_ref().map(|it| json!(it))),
        ];
        for (key, part) in parts {
            if let Some(part) = part {
                out[key] = part;
            }
        }
        out
    }
}

impl From<&Activity<'_>> for Body {
    fn from(activity: &Activity<'_>) -> Self {
        Self::new(activity, &activity.unmapped, &activity.metadata)
    }
}

impl<'a> File<'a> {
    /// `mode` is `i_mode` of `struct inode`; 0 if unknown.
    fn new(path: &'a [u8], mode: u16) -> Self {
        let split = path.iter().rposition(|&byte| byte == b'/');
        let (folder, name) = split.map_or((&b""[..], path), |at| (&path[..at.max(1)], &path[at + 1..]));
        Self {
            path: String::from_utf8_lossy(path),
            name: if name.is_empty() { "/".into() } else { String::from_utf8_lossy(name) },
            type_id: match mode & 0o170_000 {
                0o100_000 => 1,
                0o040_000 => 2,
                0o020_000 => 3,
                0o060_000 => 4,
                0o010_000 => 5,
                0o140_000 => 6,
                0o120_000 => 7,
                _ => 0,
            },
            parent_folder: (!folder.is_empty()).then(|| String::from_utf8_lossy(folder)),
        }
    }

    /// A program, which is a regular file.
    fn program(path: &'a [u8]) -> Option<Self> {
        path.starts_with(b"/").then(|| Self::new(path, 0o100_000))
    }
}

impl<'a> Process<'a> {
    /// The one that acted.
    fn of(enriched: &'a Enriched) -> Self {
        let event = &enriched.record.event;
        let user = User { uid: event.uid.to_string(), name: enriched.user.as_deref() };
        let parent_process = Self::parent(&enriched.parents);
        let name = Cow::Borrowed(enriched.name.as_str());
        let process = Self { tid: Some(event.tid), user: Some(user), parent_process, ..Self::bare(event.tgid, name) };
        process.with_program(enriched.program.as_deref())
    }

    /// The process with the program that it executes, also when that is refused.
    fn launched(enriched: &'a Enriched) -> Self {
        let record = &enriched.record;
        let mut process = Self::of(enriched);
        // Of one that was refused no arguments are known.
        process.cmd_line = (!record.text.is_empty()).then(|| command_line(&record.text));
        let program = (!record.path.is_empty()).then(|| File::new(&record.path, 0o100_000));
        process.file = program.or(process.file);
        let name = record.path.rsplit(|&byte| byte == b'/').next().filter(|name| !name.is_empty());
        process.name = name.map_or(process.name, String::from_utf8_lossy);
        process
    }

    fn parent(parents: &'a [Parent]) -> Option<Box<Self>> {
        let (parent, above) = parents.split_first()?;
        let process =
            Self { parent_process: Self::parent(above), ..Self::bare(parent.tgid, parent.name.as_str().into()) };
        Some(Box::new(process.with_program(parent.program.as_deref())))
    }

    fn bare(pid: u32, name: Cow<'a, str>) -> Self {
        Self { pid, name, tid: None, user: None, cmd_line: None, file: None, parent_process: None }
    }

    fn with_program(mut self, program: Option<&'a Program>) -> Self {
        if let Some(program) = program {
            self.cmd_line = Some(command_line(&program.argv));
            self.file = File::program(&program.path);
        }
        self
    }
}

/// The ends of a connection.
struct Network<'a> {
    connection: Connection,
    source: Option<Endpoint<'a>>,
    destination: Option<Endpoint<'a>>,
}

impl<'a> Network<'a> {
    fn new(enriched: &'a Enriched) -> Self {
        let hook = enriched.record.hook;
        let end = &enriched.record.event.endpoint;
        let ip = || Some(address(end.address));
        let peer = Endpoint { ip: ip(), hostname: None, port: end.port };
        // An endpoint has to be named; our own address is not known here, our name is.
        let own = Endpoint { ip: None, hostname: device()["hostname"].as_str(), port: end.local_port };
        let inbound = matches!(hook, Hook::Accept | Hook::Bind | Hook::Listen);
        let protocol_name = match end.protocol {
            6 => "tcp",
            17 => "udp",
            _ => "other",
        };
        let (source, mut destination) = match hook {
            // A socket that has no peer yet; the class wants one end at least.
            Hook::Socket => (Some(own), None),
            Hook::Bind => (None, Some(Endpoint { ip: ip(), hostname: None, port: end.local_port })),
            Hook::Listen => (None, Some(own)),
            Hook::Accept => (Some(peer), Some(own)),
            _ => (Some(own), Some(peer)),
        };
        if let (Some(end), Some(name)) = (&mut destination, &enriched.hostname) {
            end.hostname = Some(name);
        }
        let direction_id = if inbound { 1 } else { 2 };
        Self { connection: Connection { direction_id, protocol_num: end.protocol, protocol_name }, source, destination }
    }
}

impl<'a> Unmapped<'a> {
    fn new(enriched: &'a Enriched) -> Self {
        let record = &enriched.record;
        let event = &record.event;
        let hook = record.hook;
        let syscall = u32::try_from(event.syscall).ok();
        let totals = hook == Hook::WriteTotals;
        let volume = hook == Hook::Volume;
        let is_text = |name: &[u8]| std::str::from_utf8(name).is_ok();
        Self {
            instance: &enriched.instance,
            rule: &enriched.rule,
            rule_text: &enriched.sentence,
            verdict: record.verdict.name(),
            wanted: record.wanted.name(),
            hook: hook.name(),
            sensor: record.sensor.name(),
            access: Access::from_bits(event.access).names().collect(),
            flags: FLAGS.iter().filter(|(bit, _)| event.flags & bit != 0).map(|&(_, name)| name).collect(),
            origin: Origin::name(event.origin),
            epoch: event.epoch,
            time_ns: event.time_ns,
            kernel_sequence: event.sequence,
            cpu: event.cpu,
            euid: event.euid,
            start_ns: event.start_ns,
            syscall: syscall.map(|number| table::name(number, event.flags & FLAG_COMPAT != 0).unwrap_or("unknown")),
            ret: syscall.map(|_| event.ret),
            inode: (event.ino != 0).then(|| Inode {
                // Major and minor of the kernel's own encoding.
                dev: format!("{}:{}", event.dev >> 20, event.dev & 0x000f_ffff),
                ino: event.ino,
                generation: event.generation,
            }),
            loginuid: (event.loginuid != u32::MAX).then_some(event.loginuid),
            tunnel: enriched.tunnel.as_ref(),
            cgroup: enriched.cgroup.as_deref(),
            unit: enriched.unit.as_deref(),
            container: enriched.container.as_deref(),
            other: record.other.as_deref().map(String::from_utf8_lossy),
            bytes: (totals || volume).then_some(event.bytes),
            count: totals.then_some(event.count),
            max_bytes: volume.then_some(event.detail),
            hours: volume.then_some(event.count),
            detail: match hook {
                // A process group is a negative number.
                Hook::Ptrace | Hook::Signal => Some(event.detail.cast_signed().into()),
                Hook::IoUring
                | Hook::Ioctl
                | Hook::Socket
                | Hook::Privilege
                | Hook::Exec
                | Hook::Rename
                | Hook::Link => Some(event.detail.into()),
                _ => None,
            },
            open_flags: (hook == Hook::Open).then_some(event.open_flags),
            lossy: !is_text(&record.path) || record.other.as_deref().is_some_and(|other| !is_text(other)),
        }
    }
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
        Hook::Ioctl if access.contains(Access::WRITE) => (FILE, 3, "Update"),
        Hook::Unlink | Hook::Rmdir => (FILE, 4, "Delete"),
        Hook::Rename => (FILE, 5, "Rename"),
        Hook::Chown | Hook::Utimes | Hook::Xattr | Hook::Ioctl | Hook::FileAttr => (FILE, 6, "Set Attributes"),
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

#[cfg(test)]
mod tests {
    use monitor_common::event::{Ancestor, Endpoint};

    use super::*;
    use crate::record::{
        decode::{decode, tests::bytes},
        enrich::{Enricher, Names, RuleName},
        sentence,
    };
    use journal::testing::valid;

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

    fn rendered(hook: Hook, verdict: Verdict, path: &[u8], text: &[u8]) -> Value {
        let mut event = Event {
            hook: hook as u8,
            sensor: 1,
            verdict: verdict as u8,
            wanted: Verdict::Kill as u8,
            rule: 1,
            flags: !(FLAG_BY_NAME | FLAG_NO_PLACE),
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
        value(&Activity::new(&enriched, &sentence::sentence(&enriched)))
    }

    fn value(activity: &Activity<'_>) -> Value {
        let mut value = json!(activity);
        value["unmapped"] = json!(activity.unmapped);
        value["metadata"] = json!(activity.metadata);
        value
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
    fn a_program_that_was_refused_is_told_without_the_arguments_of_its_caller() {
        let event = rendered(Hook::Exec, Verdict::Deny, b"id\0bin\0", b"");
        valid(&event);
        assert_eq!(event["process"]["file"]["path"], "/bin/id");
        assert_eq!(event["process"].get("cmd_line"), None);
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
}
