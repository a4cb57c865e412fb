//! One event under a policy: the decision of [`monitor_common::decide`], with the event's facts in the place of the kernel's.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use monitor_common::{
    Access, Verdict,
    decide::{self, Decision, PathView, Subject, Work},
    event::{FLAG_BY_NAME, FLAG_CREATED, FLAG_CUT, FLAG_FAILED, FLAG_FS_PATH, FLAG_MAINTENANCE, FLAG_UNLINKED, Hook},
    name::Name,
    policy::{Class, Direction, Executable, InodeId, Instance, Maintenance, NetKey},
    volume::Limit,
};

use super::tables::{EPOCH, Tables};
use crate::evidence::line::{BLOCK_DEVICE, Line};
use policy::{
    compile::{Compiled, RuleInfo, Seen, compile},
    host::Host,
    model::{Policy, Select},
    name::DnsName,
    own,
    settle::{GONE, GRACE, MADE, YOUNG},
    toml_reader::Fault,
};

/// What a file is made with: rules about these wait until it is made.
const MAKING: Access = Access::WRITE.union(Access::ATTR).union(Access::DELETE);
/// Most second names of protected files that are remembered.
const MAX_LINKS: usize = 4096;

/// Why an event does not say enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unclear {
    /// The file has, or had, a name that a rule speaks about.
    OtherName,
    /// The file was just being made.
    Young,
    /// The path is cut, is no text, or does not begin at the root.
    Path,
    /// More may have been asked than what the verdict rested on.
    Access,
    /// What kind of program it was.
    Program,
    /// A disk: what is on it is not in the journal.
    Disk,
    /// The event has no address, or none that can be read.
    Address,
    /// A window was open for a maintenance that is not known.
    Window,
}

impl Unclear {
    /// The reason in words.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::OtherName => "the file has another name that a rule speaks about (a hard link)",
            Self::Young => "the file was just created: its creator may change it until it has settled",
            Self::Path => "the event has no whole path",
            Self::Access => "the event tells only the accesses that its verdict rested on; there may have been more",
            Self::Program => "the event does not say whether the program could have been written by its user",
            Self::Disk => "a disk was opened: which protected files are on it is not in the journal",
            Self::Address => "the event has no address",
            Self::Window => "a maintenance window was open whose beginning is not in this part of the journal",
        }
    }
}

/// Which rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// A rule of the policy, by its index from 1.
    Rule(u16),
    /// The default of a class, by its place in [`Class::NAMES`].
    Default(usize),
    /// One of the guard's own rules, which every policy has.
    Own,
}

/// What a policy makes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// What it wants.
    pub wanted: Verdict,
    /// What the sensor that saw the event could have done about it, if the policy had been enforced.
    pub done: Verdict,
    /// Which rule decides.
    pub decider: Decider,
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is about no operation of an instance.
    NoOperation,
    /// It is about an instance that the policy does not have.
    Stranger,
    /// The policy decides.
    Clear(u16, Opinion),
    /// The event does not say enough; by what it says the policy would decide so.
    Unclear(u16, Unclear, Opinion),
}

/// A policy, ready to judge events in the order in which they happened.
pub struct Judge {
    tables: Tables,
    /// Bounds to what leaves, by the index of the rule.
    limits: HashMap<u16, Limit>,
    rules: Vec<RuleInfo>,
    slots: BTreeMap<String, u16>,
    places: Places,
    /// What rules name and was made lately, until when that is so; `i64::MAX` until the journal says that it is made.
    young: HashMap<String, i64>,
    /// Second names: a file's identity, and the path that rules name.
    links: HashMap<(String, u64, u32), String>,
    /// Files as they are on this machine now, by device and number.
    today: HashMap<(String, u64), String>,
}

/// Every path that the policy names, with a number that stands for its identity.
#[derive(Debug, Default)]
struct Places(HashMap<Vec<u8>, u64>);

impl Places {
    fn id(&self, path: &[u8]) -> InodeId {
        self.0.get(path).map_or_else(InodeId::default, |&ino| InodeId { ino, dev: 1, generation: 0 })
    }

    fn knows(&self, path: &str) -> bool {
        self.0.contains_key(path.as_bytes())
    }
}

/// The machine, but for what no event can be compared with: the disks below its files.
struct Paper<'a>(&'a dyn Host);

impl Host for Paper<'_> {
    fn uid(&self, user: &str) -> Option<u32> {
        self.0.uid(user)
    }
    fn login(&self, uid: u32) -> Option<(String, String)> {
        self.0.login(uid)
    }
    fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
        Vec::new()
    }
    fn owner(&self, path: &Path) -> Option<(u32, u32)> {
        self.0.owner(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn link(&self, path: &Path) -> Option<PathBuf> {
        self.0.link(path)
    }
    fn devices(&self, _: u32) -> Vec<u32> {
        Vec::new()
    }
    fn addresses(&self, name: &DnsName) -> Vec<IpAddr> {
        self.0.addresses(name)
    }
    fn can_deny(&self) -> policy::host::CanDeny {
        self.0.can_deny()
    }
}

/// A path as the kernel would climb it.
struct View<'a> {
    places: &'a Places,
    path: &'a [u8],
    /// What the file itself is taken for.
    own: InodeId,
    /// Where what is still to be climbed ends; `None` past the root.
    end: Option<usize>,
    first: bool,
}

impl<'a> View<'a> {
    fn new(places: &'a Places, path: &'a [u8], own: InodeId) -> Self {
        let end = if path == b"/" { 0 } else { path.len() };
        Self { places, path, own, end: Some(end), first: true }
    }
}

impl PathView for View<'_> {
    fn climb(&mut self, id: &mut InodeId) -> bool {
        let Some(end) = self.end else { return false };
        let here = if end == 0 { &b"/"[..] } else { &self.path[..end] };
        *id = if std::mem::take(&mut self.first) { self.own } else { self.places.id(here) };
        self.end = if end == 0 { None } else { self.path[..end].iter().rposition(|&byte| byte == b'/') };
        true
    }

    fn name(&mut self, index: usize, name: &mut Name) -> bool {
        name.clear();
        let Some(found) = self.path.rsplit(|&byte| byte == b'/').nth(index) else { return false };
        for &byte in found {
            name.push(byte);
        }
        !found.is_empty()
    }
}

/// Why the path is not one that rules can be asked about.
fn broken_path(line: &Line<'_>) -> Option<Unclear> {
    let broken = line.unmapped.flags & (FLAG_CUT | FLAG_FS_PATH) != 0;
    (broken || line.unmapped.lossy || !line.path().starts_with('/')).then_some(Unclear::Path)
}

/// The default that decides about an operation, as journals name it.
fn default_of(hook: Hook, detail: u64) -> Decider {
    let class = hook.class(detail);
    Decider::Default(class.and_then(|class| Class::NAMES.iter().position(|&(_, it)| it == class)).unwrap_or_default())
}

/// The other path of a rename or a link, and what is done with that one.
#[must_use]
pub(in crate::evidence) fn other_end<'l>(line: &'l Line<'_>) -> Option<(&'l str, Access)> {
    let second = line.unmapped.detail == Some(2);
    let access = match line.unmapped.hook? {
        Hook::Rename if second => Access::RENAME,
        Hook::Rename => Access::RENAME.union(Access::CREATE),
        Hook::Link if second => Access::LINK,
        Hook::Link => Access::CREATE,
        _ => return None,
    };
    let other = line.unmapped.other.as_ref().filter(|other| other.starts_with('/'))?;
    Some((other, access))
}

/// What an operation has, or may have, asked for beside what the event says; a rename and a link have an event for each
/// name.
fn asked(line: &Line<'_>, hook: Hook) -> Access {
    const O_ACCMODE: u32 = 3;
    const O_TRUNC: u32 = 0o1000;
    let own = &line.unmapped;
    let any = Access::READ.union(Access::WRITE);
    match (hook, own.open_flags, own.detail) {
        // The making of a file is judged by itself where it can be refused.
        (Hook::Open, _, _) if own.access == Access::CREATE => Access::NONE,
        (Hook::Open, Some(flags), _) => {
            let cuts = if flags & O_TRUNC != 0 { Access::WRITE } else { Access::NONE };
            match flags & O_ACCMODE {
                0 => Access::READ.union(cuts),
                1 => Access::WRITE,
                _ => any,
            }
        }
        (Hook::Open | Hook::Receive | Hook::IoUring, ..) => any,
        (Hook::Rename, _, Some(2)) => Access::RENAME.union(Access::CREATE),
        _ => Access::NONE,
    }
}

impl Judge {
    /// Compiles a policy. Symbolic links are followed as they are on this machine now.
    pub fn new(policy: &Policy, host: &dyn Host) -> Result<Self, Fault> {
        let slots: BTreeMap<String, u16> =
            policy.instances.iter().map(|instance| instance.name.clone()).zip(0..).collect();
        let (mut places, mut today) = (Places::default(), HashMap::new());
        let mut identify = |path: &Path| {
            let number = places.0.len() as u64 + 1;
            let ino = *places.0.entry(path.as_os_str().as_encoded_bytes().to_owned()).or_insert(number);
            if let (Some(text), Ok(meta)) = (path.to_str(), std::fs::symlink_metadata(path))
                && meta.is_file()
            {
                let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
                today.insert((format!("{major}:{minor}"), meta.ino()), text.to_owned());
            }
            Some(Seen { id: InodeId { ino, dev: 1, generation: 0 }, made: true })
        };
        let compiled: Compiled = compile(policy, EPOCH, &slots, &Paper(host), &mut identify)?;
        let tables = Tables::new(&compiled);
        let limits = compiled.limits.iter().filter_map(|&(key, limit)| Some((u16::try_from(key.rule).ok()?, limit)));
        Ok(Self {
            tables,
            limits: limits.collect(),
            rules: compiled.rules,
            slots,
            places,
            young: HashMap::new(),
            links: HashMap::new(),
            today,
        })
    }

    /// What a rule of the policy is, by its index from 1.
    #[must_use]
    pub fn rule(&self, index: u16) -> Option<&RuleInfo> {
        self.rules.get(usize::from(index).checked_sub(1)?)
    }

    /// What the policy makes of an access to a path, by its name alone.
    #[must_use]
    pub fn path(&self, instance: &str, path: &str, access: Access) -> Option<Opinion> {
        let slot = *self.slots.get(instance)?;
        let subject = Subject { epoch: EPOCH, slot, instance: self.tables.instance(slot)? };
        let mut view = View::new(&self.places, path.as_bytes(), self.places.id(path.as_bytes()));
        let decision = decide::file(&self.tables, &subject, &mut view, access, &mut Work::NEW.clone());
        let decider = if decision.rule == 0 { default_of(Hook::Open, 0) } else { Decider::Rule(decision.rule) };
        Some(Opinion { wanted: decision.verdict, done: decision.verdict, decider })
    }

    /// The name of a rule, as journals have it; `own` is what the event calls it.
    #[must_use]
    pub fn name(&self, decider: Decider, own: &str) -> String {
        match decider {
            Decider::Rule(index) => self.rule(index).map_or_else(String::new, |rule| rule.id.clone()),
            Decider::Default(class) => format!("default-{}", Class::NAMES.get(class).map_or("", |(name, _)| name)),
            Decider::Own => own.to_owned(),
        }
    }

    /// The name of an instance.
    #[must_use]
    pub fn instance(&self, slot: u16) -> &str {
        self.slots.iter().find(|&(_, &known)| known == slot).map_or("", |(name, _)| name)
    }

    /// Judges the next event.
    pub fn judge(&mut self, line: &Line<'_>) -> Judged {
        let own = &line.unmapped;
        // Totals are about writes that have their own event; what resolvers are asked is judged by no policy.
        let (Some(hook), Some(sensor)) =
            (own.hook.filter(|&hook| !matches!(hook, Hook::WriteTotals | Hook::Dns)), own.sensor)
        else {
            self.notice(line);
            return Judged::NoOperation;
        };
        let Some(&slot) = self.slots.get(&*own.instance) else { return Judged::Stranger };
        let Some(instance) = self.tables.instance(slot).copied() else { return Judged::Stranger };
        if own.rule.starts_with(own::PREFIX) {
            // These hold under every policy.
            let opinion = Opinion { wanted: own.wanted, done: own.verdict, decider: Decider::Own };
            return Judged::Clear(slot, opinion);
        }
        self.tables.set_now(line.time);
        let name = if matches!(hook, Hook::Connect | Hook::Send) { line.name() } else { None };
        self.tables.bind(slot, name.as_ref());
        let (decision, kind, unclear) = self.decide(line, hook, slot, &instance);
        let verdict = Verdict::from_raw(decision.verdict as u8);
        let mut done = sensor.apply(verdict, decision.fallback, true);
        if own.flags & FLAG_FAILED != 0 {
            // What the system itself refused is only logged.
            done = done.min(Verdict::Log);
        }
        let decider = if decision.rule == 0 {
            // A rename over a mounted place is one by the rules for files.
            match hook {
                Hook::Mount if !own.access.is_empty() => default_of(Hook::Rename, 0),
                _ => default_of(hook, kind),
            }
        } else {
            Decider::Rule(decision.rule)
        };
        let opinion = Opinion { wanted: verdict, done, decider };
        self.remember(line, hook);
        match unclear {
            Some(why) => Judged::Unclear(slot, why, opinion),
            None => Judged::Clear(slot, opinion),
        }
    }

    /// The decision, the detail that names the default, and why it may be another.
    fn decide(&self, line: &Line<'_>, hook: Hook, slot: u16, instance: &Instance) -> (Decision, u64, Option<Unclear>) {
        let own = &line.unmapped;
        let subject = Subject { epoch: EPOCH, slot, instance };
        let detail = own.detail.map_or(0, i64::cast_unsigned);
        let of_class = |class| decide::class(&subject, class, Access::NONE);
        match hook {
            Hook::Connect | Hook::Send => self.net(line, &subject, Direction::Egress),
            Hook::Volume => self.volume(line, &subject),
            Hook::Bind | Hook::Accept => self.net(line, &subject, Direction::Ingress),
            // The kernel asks the class alone.
            Hook::Listen => (of_class(Class::Ingress), 0, None),
            Hook::Exec => self.program(line, &subject),
            Hook::Ptrace => (decide::process(&subject, Class::Ptrace, false), 0, None),
            Hook::Signal => (decide::process(&subject, Class::Signal, false), 0, None),
            Hook::Mount if !own.access.is_empty() => {
                let (decision, unclear) = self.file(line, &subject, own.access, Hook::Mount);
                (decision, 0, unclear)
            }
            _ => match hook.class(detail) {
                Some(Class::Files) => {
                    let (decision, unclear) = self.file(line, &subject, own.access, hook);
                    (decision, 0, unclear)
                }
                Some(class) => (of_class(class), detail, None),
                None => (Decision { verdict: Verdict::Allow, ..Decision::default() }, detail, None),
            },
        }
    }

    fn net(&self, line: &Line<'_>, subject: &Subject<'_>, direction: Direction) -> (Decision, u64, Option<Unclear>) {
        let (egress, hook) = (direction == Direction::Egress, line.unmapped.hook);
        // What is bound and where to is the destination; who connects is the source.
        let end = if egress || hook == Some(Hook::Bind) { &line.dst_endpoint } else { &line.src_endpoint };
        let port = if egress { end.port } else { line.dst_endpoint.port };
        let address = end.ip.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
        let bytes = match address {
            Some(IpAddr::V4(v4)) => decide::map_v4(v4.octets()),
            Some(IpAddr::V6(v6)) => v6.octets(),
            None => [0; 16],
        };
        let key = NetKey { epoch: EPOCH, instance: subject.slot, direction: direction as u16, address: bytes };
        let decision = decide::net(&self.tables, subject, &key, port, line.connection_info.protocol_num);
        let unclear = if address.is_none() { Some(Unclear::Address) } else { self.in_a_window(line, decision) };
        (decision, 0, unclear)
    }

    /// What left was counted by the policy of that time: of a smaller bound nothing is known before that.
    fn volume(&self, line: &Line<'_>, subject: &Subject<'_>) -> (Decision, u64, Option<Unclear>) {
        let (net, detail, unclear) = self.net(line, subject, Direction::Egress);
        let limit = self.limits.get(&net.rule);
        let decision = limit.map(|limit| decide::volume(limit, line.unmapped.bytes, net.rule));
        (decision.unwrap_or(Decision { verdict: Verdict::Allow, ..net }), detail, unclear)
    }

    fn program(&self, line: &Line<'_>, subject: &Subject<'_>) -> (Decision, u64, Option<Unclear>) {
        let own = &line.unmapped;
        let unnamed = Executable::Unnamed as u64;
        let said = own.detail.map_or(0, i64::cast_unsigned);
        let kind = if own.flags & FLAG_UNLINKED != 0 { unnamed } else { said };
        let path = line.path();
        let of = |taken_for: &str, kind: u64| {
            let mut view = View::new(&self.places, path.as_bytes(), self.places.id(taken_for.as_bytes()));
            let mut work = Work::NEW;
            let decision = decide::program(&self.tables, subject, &mut view, kind, &mut work);
            let by_kind = decide::is_by_kind(subject, kind, &decision);
            (decision, if by_kind { kind } else { 0 }, work.strength())
        };
        let (decision, detail, strength) = of(path, kind);
        let stricter = |taken_for, kind| of(taken_for, kind).2 > strength;
        let unclear = if let Some(why) = broken_path(line) {
            Some(why)
        } else if self.other_name(line).is_some_and(|name| stricter(name, kind)) {
            Some(Unclear::OtherName)
        } else if kind == 0 && stricter(path, Executable::Writable as u64) {
            Some(Unclear::Program)
        } else {
            self.in_a_window(line, decision)
        };
        (decision, detail, unclear)
    }

    fn file(&self, line: &Line<'_>, subject: &Subject<'_>, access: Access, hook: Hook) -> (Decision, Option<Unclear>) {
        let path = line.path();
        let of = |taken_for: &str, access: Access| {
            let mut view = View::new(&self.places, path.as_bytes(), self.places.id(taken_for.as_bytes()));
            let mut work = Work::NEW;
            (decide::file(&self.tables, subject, &mut view, access, &mut work), work.strength())
        };
        let (decision, strength) = of(path, access);
        let mut unclear = broken_path(line);
        let mut doubt = |why: Unclear, other: u32| {
            if unclear.is_none() && other > strength {
                unclear = Some(why);
            }
        };
        let other = self.other_name(line).filter(|name| *name != path);
        if let Some(name) = other {
            doubt(Unclear::OtherName, of(name, access).1);
        }
        let more = asked(line, hook);
        if !access.contains(more) {
            doubt(Unclear::Access, of(path, access.union(more)).1);
        }
        // By their names two paths are judged at once, and the stricter verdict has the event.
        if let Some((other, access)) = other_end(line).filter(|_| line.unmapped.flags & FLAG_BY_NAME != 0) {
            let mut view = View::new(&self.places, other.as_bytes(), self.places.id(other.as_bytes()));
            let mut work = Work::NEW;
            decide::file(&self.tables, subject, &mut view, access, &mut work);
            doubt(Unclear::Access, work.strength());
        }
        if line.file.as_ref().is_some_and(|file| file.type_id == BLOCK_DEVICE) {
            unclear = Some(Unclear::Disk);
        }
        let rests_on_making = decision.access.bits() & MAKING.bits() != 0;
        if rests_on_making && decision.rule != 0 && self.young.get(path).is_some_and(|&until| line.time < until) {
            unclear = unclear.or(Some(Unclear::Young));
        }
        let unclear = unclear.or_else(|| self.in_a_window(line, decision));
        (decision, unclear)
    }

    /// A rule that forbids, with a maintenance, and an event from a window that the journal did not tell the beginning of.
    fn in_a_window(&self, line: &Line<'_>, decision: Decision) -> Option<Unclear> {
        let lifted = line.unmapped.flags & FLAG_MAINTENANCE != 0;
        let rule = self.rule(decision.rule)?;
        (lifted && decision.verdict > Verdict::Log && rule.maintenance.is_some()).then_some(Unclear::Window)
    }

    /// The path that rules name for a file that the event knows by another name.
    fn other_name(&self, line: &Line<'_>) -> Option<&str> {
        let own = &line.unmapped;
        if own.ino == 0 {
            return None;
        }
        let known = self.links.get(&(own.dev.to_string(), own.ino, own.generation));
        known.or_else(|| self.today.get(&(own.dev.to_string(), own.ino))).map(String::as_str)
    }

    /// What later events rest on.
    fn remember(&mut self, line: &Line<'_>, hook: Hook) {
        let (own, path) = (&line.unmapped, line.path());
        if own.flags & FLAG_FAILED != 0 || own.verdict > Verdict::Log || !self.places.knows(path) {
            return;
        }
        if hook == Hook::Link && own.detail != Some(2) && own.ino != 0 && self.links.len() < MAX_LINKS {
            self.links.insert((own.dev.to_string(), own.ino, own.generation), path.to_owned());
        }
        if own.flags & FLAG_CREATED != 0 || (hook != Hook::Rename && own.access.contains(Access::CREATE)) {
            let grace = i64::try_from(GRACE.as_millis()).unwrap_or_default();
            self.young.entry(path.to_owned()).or_insert(line.time.saturating_add(grace));
        }
    }

    /// What the guard tells of itself, and rules rest on: windows, and files that are made.
    fn notice(&mut self, line: &Line<'_>) {
        let own = &line.unmapped;
        if let Some(maintenance) = own.maintenance.as_ref().and_then(|name| Maintenance::by_name(name))
            && let Some(&slot) = self.slots.get(&*own.instance)
        {
            let until = own.until.as_ref().and_then(|text| humantime::parse_rfc3339(text).ok());
            let until = until.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let until = until.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or_default());
            // One that was closed before its time says so then.
            let closes = line.message.contains(" is closed: ");
            self.tables.set_window(slot, maintenance, if closes { 0 } else { until });
        }
        if let Some(path) = own.path.as_ref().filter(|path| self.places.knows(path)) {
            if line.message.ends_with(MADE) || line.message.ends_with(GONE) {
                self.young.remove(&**path);
            } else if line.message.contains(YOUNG) {
                self.young.insert(path.to_string(), i64::MAX);
            }
        }
    }
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Judge").field("instances", &self.slots).finish_non_exhaustive()
    }
}
