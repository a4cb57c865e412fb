//! Adds to records what userspace knows: programs, arguments, users, units, containers, wall-clock time.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use monitor_common::{
    Verdict,
    event::{FLAG_BY_NAME, FLAG_CONFIRMED, Hook},
    policy::{Class, Maintenance},
};

use rustix::time::{ClockId, clock_gettime};

use super::{
    decode::Record,
    hostnames::Hostnames,
    lineage::Lineage,
    tunnel::{self, Tunnel},
};

/// Most processes in the cache.
const MAX_PROCESSES: usize = 8192;
/// Most bytes of arguments in the cache for each process.
const MAX_ARGV: usize = 1024;

/// A rule, found by the index in records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleName {
    /// Id of the rule.
    pub id: String,
    /// Text of the rule.
    pub sentence: String,
    /// ATT&CK techniques of the rule.
    pub techniques: Vec<String>,
    /// The kind of maintenance window in which the rule only logs.
    pub maintenance: Option<Maintenance>,
}

impl RuleName {
    /// A rule without a technique.
    #[must_use]
    pub fn new(id: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self { id: id.into(), sentence: sentence.into(), ..Self::default() }
    }
}

/// Resolves the numbers in records to names.
pub trait Names {
    /// A rule by its index, from 1.
    fn rule(&self, epoch: u32, index: u16) -> RuleName;
    /// Name of an instance.
    fn instance(&self, slot: u16) -> String;
    /// Whether the policy allows an instance every name below a domain.
    fn trusts(&self, _slot: u16, _domain: &str) -> bool {
        false
    }
    /// Path of a node of the policy.
    fn place(&self, _epoch: u32, _node: u64) -> Option<Vec<u8>> {
        None
    }
}

/// An executed program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: Vec<u8>,
    /// Its arguments, each ended by a zero byte.
    pub argv: Vec<u8>,
}

impl Program {
    /// The arguments were truncated.
    fn new(path: Vec<u8>, mut argv: Vec<u8>) -> Self {
        argv.truncate(MAX_ARGV);
        argv.shrink_to_fit();
        Self { path, argv }
    }
}

/// An ancestor of the process that acted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its tgid.
    pub tgid: u32,
    /// Name of its program, or the command name if the program is unknown.
    pub name: String,
    /// Its program.
    pub program: Option<Arc<Program>>,
}

/// A record with its names and context.
#[derive(Clone, Debug)]
pub struct Enriched {
    /// The record.
    pub record: Record,
    /// Name of the instance.
    pub instance: String,
    /// Id of the rule.
    pub rule: String,
    /// Text of the rule.
    pub sentence: String,
    /// ATT&CK techniques of the rule.
    pub techniques: Vec<String>,
    /// The kind of maintenance window in which the rule only logs.
    pub maintenance: Option<Maintenance>,
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// The process's program's name.
    pub name: String,
    /// The process's program.
    pub program: Option<Arc<Program>>,
    /// From the parent up.
    pub parents: Vec<Parent>,
    /// User name of the real uid.
    pub user: Option<String>,
    /// cgroup below the mount.
    pub cgroup: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container id.
    pub container: Option<String>,
    /// The name that the instance resolved to this address.
    pub hostname: Option<String>,
    /// The DNS tunnel that a question belongs to.
    pub tunnel: Option<Tunnel>,
}

/// The class default that decided where no rule matched.
fn default_of(record: &Record) -> RuleName {
    let class = record.hook.class(record.event.detail);
    let name = class.and_then(|class| Class::NAMES.iter().find(|(_, known)| *known == class));
    name.map_or_else(
        || RuleName::new("default", "no rule speaks"),
        |(name, _)| RuleName::new(format!("default-{name}"), format!("no rule speaks; the default for {name}")),
    )
}

/// Cache of processes, users and cgroups. Bounded: the oldest entries are evicted.
#[derive(Debug)]
pub struct Enricher {
    programs: HashMap<u32, Arc<Program>>,
    order: VecDeque<u32>,
    lineage: Lineage,
    hostnames: Hostnames,
    users: HashMap<u32, Option<String>>,
    cgroups: HashMap<u64, Option<String>>,
    cgroup_mount: PathBuf,
}

impl Enricher {
    /// An empty cache; cgroup v2 is mounted at `cgroup_mount`.
    #[must_use]
    pub fn new(cgroup_mount: PathBuf) -> Self {
        Self {
            programs: HashMap::new(),
            order: VecDeque::new(),
            lineage: Lineage::default(),
            hostnames: Hostnames::default(),
            users: HashMap::new(),
            cgroups: HashMap::new(),
            cgroup_mount,
        }
    }

    /// Parents of processes.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Reads a process that is older than the guard from `/proc`.
    pub fn seed(&mut self, tgid: u32) {
        let base = Path::new("/proc").join(tgid.to_string());
        let Ok(path) = fs::read_link(base.join("exe")) else { return };
        let argv = fs::read(base.join("cmdline")).unwrap_or_default();
        self.remember(tgid, Program::new(path.into_os_string().into_encoded_bytes(), argv).into());
    }

    fn remember(&mut self, tgid: u32, program: Arc<Program>) {
        if self.programs.insert(tgid, program).is_none() {
            self.order.push_back(tgid);
        }
        while self.order.len() > MAX_PROCESSES {
            if let Some(oldest) = self.order.pop_front() {
                self.programs.remove(&oldest);
            }
        }
    }

    /// Updates the cache from a record. An ended process stays in it, since its children refer to it.
    pub fn observe(&mut self, record: &Record) {
        let tgid = record.event.tgid;
        self.hostnames.observe(record);
        match record.hook {
            Hook::Exec if record.has_become_the_process() => {
                self.remember(tgid, Program::new(record.path.clone(), record.text.clone()).into());
            }
            Hook::Fork => {
                let Ok(child) = u32::try_from(record.event.detail) else { return };
                self.lineage.fork(tgid, child);
                if let Some(program) = self.programs.get(&tgid).cloned() {
                    self.remember(child, program);
                }
            }
            _ => {}
        }
    }

    /// Enriches a record.
    pub fn enrich(&mut self, mut record: Record, names: &dyn Names) -> Enriched {
        if record.event.flags & (FLAG_CONFIRMED | FLAG_BY_NAME) == FLAG_CONFIRMED
            && let Some(path) = names.place(record.event.epoch, record.event.detail)
        {
            // Found by the state of the file: the kernel reports the node of the path, not the path.
            record.path = path;
        }
        let event = &record.event;
        let rule = if event.rule == 0 { default_of(&record) } else { names.rule(event.epoch, event.rule) };
        let RuleName { id: rule, sentence, techniques, maintenance } = rule;
        let parents = event
            .ancestors
            .iter()
            .take_while(|ancestor| ancestor.tgid != 0)
            .map(|ancestor| {
                let program = self.programs.get(&ancestor.tgid).cloned();
                Parent { tgid: ancestor.tgid, name: name(program.as_deref(), &ancestor.comm), program }
            })
            .collect();
        let program = self.programs.get(&event.tgid).cloned();
        let cgroup = self.cgroup(event.cgroup);
        let last = |fits: fn(&str) -> bool| cgroup.as_deref()?.rsplit('/').find(|part| fits(part)).map(str::to_owned);
        Enriched {
            instance: names.instance(event.instance),
            rule,
            sentence,
            techniques,
            maintenance,
            time_ms: wall_ms(event.time_ns, now(ClockId::Boottime), now(ClockId::Realtime)),
            name: name(program.as_deref(), &event.comm),
            program,
            parents,
            user: self.user(event.uid),
            unit: last(|part| part.strip_suffix(".service").or(part.strip_suffix(".scope")).is_some()),
            container: last(|part| container_id(part).is_some())
                .and_then(|part| container_id(&part).map(str::to_owned)),
            cgroup,
            hostname: self.hostnames.of(&record).map(str::to_owned),
            tunnel: None,
            record,
        }
    }

    /// The same for a question of a DNS tunnel, which is only reported: a resolver cannot be kept from forwarding single
    /// names.
    pub fn enrich_tunnel(&mut self, mut record: Record, tunnel: Tunnel, names: &dyn Names) -> Enriched {
        (record.verdict, record.wanted) = (Verdict::Log, Verdict::Deny);
        // cgroup_skb programs run without task context: only the process that opened the socket is known.
        let process = fs::metadata(format!("/proc/{}", record.event.tgid));
        let (uid, gid) = process.map_or((u32::MAX, u32::MAX), |meta| (meta.uid(), meta.gid()));
        let event = &mut record.event;
        (event.uid, event.gid, event.euid, event.loginuid) = (uid, gid, uid, u32::MAX);
        Enriched {
            rule: tunnel::RULE.to_owned(),
            sentence: tunnel::SENTENCE.to_owned(),
            techniques: tunnel::TECHNIQUES.map(str::to_owned).into(),
            tunnel: Some(tunnel),
            ..self.enrich(record, names)
        }
    }

    fn user(&mut self, uid: u32) -> Option<String> {
        if self.users.len() > 1024 {
            self.users.clear();
        }
        self.users
            .entry(uid)
            .or_insert_with(|| {
                let text = fs::read_to_string("/etc/passwd").ok()?;
                text.lines().find_map(|line| {
                    let mut fields = line.split(':');
                    let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
                    (number.parse() == Ok(uid)).then(|| name.to_owned())
                })
            })
            .clone()
    }

    /// Path of a cgroup by its id. An unknown id causes another walk of the tree.
    fn cgroup(&mut self, id: u64) -> Option<String> {
        if id == 0 {
            return None;
        }
        if let Some(known) = self.cgroups.get(&id) {
            return known.clone();
        }
        self.cgroups.clear();
        let mut open = vec![(self.cgroup_mount.clone(), 0)];
        while let Some((directory, depth)) = open.pop() {
            if let Ok(meta) = fs::metadata(&directory)
                && let Ok(inside) = directory.strip_prefix(&self.cgroup_mount)
            {
                self.cgroups.insert(meta.ino(), Some(format!("/{}", inside.display())));
            }
            if depth < 12 && self.cgroups.len() < 4 * MAX_PROCESSES {
                let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
                open.extend(
                    entries
                        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                        .map(|entry| (entry.path(), depth + 1)),
                );
            }
        }
        self.cgroups.entry(id).or_default().clone()
    }
}

/// Container id in the name of a cgroup: 64 hexadecimal digits, optionally with a prefix and `.scope`.
fn container_id(part: &str) -> Option<&str> {
    let id = part.strip_suffix(".scope").unwrap_or(part).rsplit('-').next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Name of a program: that of its file, since a process can change its command name.
fn name(program: Option<&Program>, comm: &[u8]) -> String {
    let from_path =
        program.and_then(|program| program.path.rsplit(|&byte| byte == b'/').next()).filter(|name| !name.is_empty());
    let bytes = from_path.unwrap_or_else(|| comm.split(|&byte| byte == 0).next().unwrap_or_default());
    String::from_utf8_lossy(bytes).into_owned()
}

/// Converts `CLOCK_BOOTTIME` of the kernel to milliseconds since 1970 by the present values of both clocks. The wall clock may
/// have been set since the guard started, and the journal uses its present value.
fn wall_ms(time_ns: u64, boot_ns: i64, wall_ns: i64) -> i64 {
    let ago = boot_ns.saturating_sub(i64::try_from(time_ns).unwrap_or(i64::MAX));
    wall_ns.saturating_sub(ago) / 1_000_000
}

/// Time of a clock, in nanoseconds.
fn now(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
pub(crate) mod tests {
    use monitor_common::event::{Ancestor, Event};

    use super::*;
    use crate::record::decode::{decode, tests::bytes};

    /// Names that tell what they stand for.
    pub(crate) struct Plain;

    impl Names for Plain {
        fn rule(&self, _: u32, index: u16) -> RuleName {
            RuleName::new(format!("rule-{index}"), "")
        }
        fn instance(&self, _: u16) -> String {
            "plant-a".to_owned()
        }
    }

    fn record(hook: Hook, tgid: u32, detail: u64, path: &[u8], text: &[u8]) -> Record {
        let mut event = Event { hook: hook as u8, sensor: 1, verdict: 2, tgid, detail, ..Event::ZERO };
        event.ancestors[0] = Ancestor { tgid: 10, comm: *b"node-red\0\0\0\0\0\0\0\0" };
        decode(&bytes(event, path, text)).unwrap()
    }

    #[test]
    fn a_child_is_known_by_its_program_and_its_parents() {
        let mut enricher = Enricher::new("/sys/fs/cgroup".into());
        enricher.observe(&record(Hook::Exec, 10, 0, b"node\0bin\0", b"node\0red.js\0"));
        enricher.observe(&record(Hook::Fork, 10, 20, b"", b""));
        enricher.observe(&record(Hook::Exec, 20, 0, b"curl\0bin\0", b"curl\0http://x\0"));
        let enriched = enricher.enrich(record(Hook::Connect, 20, 0, b"", b""), &Plain);
        assert_eq!(enriched.name, "curl");
        assert_eq!(enriched.parents[0].name, "node");
        assert_eq!(enriched.instance, "plant-a");
        let stranger = enricher.enrich(record(Hook::Connect, 99, 0, b"", b""), &Plain);
        assert_eq!(stranger.name, "");
    }

    #[test]
    fn a_clock_that_was_set_dates_what_comes_after_and_a_time_that_cannot_be_is_no_panic() {
        const SECOND: i64 = 1_000_000_000;
        // Two seconds ago, by a clock that says 1970-01-01T00:01:40 now, and then 1,000 seconds more.
        assert_eq!(wall_ms(8_000_000_000, 10 * SECOND, 100 * SECOND), 98_000);
        assert_eq!(wall_ms(8_000_000_000, 10 * SECOND, 1_100 * SECOND), 1_098_000);
        for time in [0, u64::MAX] {
            wall_ms(time, i64::MAX, i64::MIN);
            wall_ms(time, i64::MIN, i64::MAX);
        }
    }

    #[test]
    fn a_fork_storm_takes_no_more_memory_than_the_bound() {
        let mut enricher = Enricher::new("/sys/fs/cgroup".into());
        for tgid in 0..u32::try_from(3 * MAX_PROCESSES).unwrap() {
            enricher.observe(&record(Hook::Exec, tgid, 0, b"sh\0bin\0", b"sh\0"));
        }
        assert_eq!(enricher.programs.len(), MAX_PROCESSES);
        assert_eq!(enricher.order.len(), MAX_PROCESSES);
    }

    #[test]
    fn containers_are_known_by_their_id() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(container_id(&format!("docker-{id}.scope")), Some(id.as_str()));
        assert_eq!(container_id(&id), Some(id.as_str()));
        assert_eq!(container_id("user-1000.slice"), None);
    }

    #[test]
    fn of_long_arguments_the_beginning_is_kept() {
        let argv: Vec<_> = (0..=u8::MAX).cycle().take(4 * MAX_ARGV).collect();
        let kept = Program::new(b"/bin/x".to_vec(), argv.clone()).argv;
        assert!(kept == argv[..MAX_ARGV] && kept.capacity() < 2 * MAX_ARGV, "{} bytes", kept.len());
        assert_eq!(Program::new(Vec::new(), b"a\0b".to_vec()).argv, b"a\0b");
    }
}
