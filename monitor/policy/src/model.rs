//! A policy as a person means it.

use std::{net::IpAddr, path::PathBuf};

use monitor_common::{
    Access, Verdict,
    decide::map_v4,
    policy::{Class, Direction, Maintenance},
};

use super::{limit::Bound, name::DnsName};
use crate::toml_reader::At;

/// A whole policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Verdicts are carried out, not only logged.
    pub enforce: bool,
    /// The instances.
    pub instances: Vec<InstancePolicy>,
}

impl Policy {
    /// What is logged, or more, where no rule speaks: an instance a text, `NAME: CLASS, CLASS`. A journal says it, so that
    /// its readers know what it says nothing about.
    #[must_use]
    pub fn logged(&self) -> Vec<String> {
        let of = |instance: &InstancePolicy| {
            let is_logged = |class: Class| instance.defaults[class as usize].verdict >= Verdict::Log;
            let classes = Class::NAMES.iter().filter(|&&(_, class)| is_logged(class)).map(|&(name, _)| name);
            format!("{}: {}", instance.name, classes.collect::<Vec<_>>().join(", "))
        };
        self.instances.iter().map(of).collect()
    }
}

/// What holds for one Node-RED instance.
#[derive(Clone, Debug, PartialEq)]
pub struct InstancePolicy {
    /// Its name, unique in the policy.
    pub name: String,
    /// Any of these makes a task belong to it.
    pub select: Vec<Select>,
    /// Where its flows and settings are; absolute.
    pub user_dir: PathBuf,
    /// What is done where no rule speaks, by [`Class`].
    pub defaults: [ClassDefault; Class::COUNT],
    /// Rules for files and programs.
    pub files: Vec<FileRule>,
    /// Rules for addresses and names.
    pub nets: Vec<NetRule>,
    /// Where names are looked up; those of this machine when there are none.
    pub resolvers: Vec<IpAddr>,
    /// Where Node-RED's console goes, when that is known.
    pub audit_log: Option<AuditLog>,
    /// Where it stands.
    pub at: At,
}

/// Where the console of a Node-RED goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditLog {
    /// A file; absolute.
    File(PathBuf),
    /// The journal of systemd.
    Journal,
}

/// What is done about a class of operations where no rule speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassDefault {
    /// The verdict.
    pub verdict: Verdict,
    /// What to do where no sensor can deny; [`Verdict::Unset`] to log.
    pub fallback: Verdict,
    /// Who dies where somebody is killed.
    pub scope: KillScope,
}

impl ClassDefault {
    /// Nothing is done.
    pub const ALLOW: Self = Self { verdict: Verdict::Allow, fallback: Verdict::Unset, scope: KillScope::Process };
}

/// Who dies where a rule kills. The process that acted always does, at once and by the kernel. The numbers are those of
/// [`Rule::scope`](monitor_common::policy::Rule::scope).
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KillScope {
    /// No other process.
    #[default]
    Process = 0,
    /// What Node-RED has started: everything below that child of its main process under which it happened.
    Tree = 1,
    /// Every process of the instance.
    Instance = 2,
}

impl KillScope {
    /// All of them, with the names that policies and journals use.
    pub const NAMES: [(&'static str, Self); 3] =
        [("process", Self::Process), ("tree", Self::Tree), ("instance", Self::Instance)];

    /// The scope with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, scope)| scope)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|&&(_, scope)| scope == self).map_or("process", |&(name, _)| name)
    }
}

/// One way for a task to belong to an instance; all parts that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// By user name.
    pub user: Option<String>,
    /// By uid.
    pub uid: Option<u32>,
    /// By systemd unit.
    pub unit: Option<String>,
    /// By container id or the beginning of it.
    pub container: Option<String>,
    /// By cgroup path below the mount.
    pub cgroup: Option<String>,
    /// node with an argument that names Node-RED.
    pub exec: bool,
    /// Where it stands.
    pub at: At,
}

impl Select {
    /// Nothing but a user is named.
    #[must_use]
    pub fn by_user_alone(&self) -> bool {
        !self.exec && self.unit.is_none() && self.container.is_none() && self.cgroup.is_none()
    }

    /// Entries of systemd's journal say something of what is named.
    #[must_use]
    pub fn is_in_entries(&self) -> bool {
        let Self { user, uid, unit, container, cgroup, exec: _, at: _ } = self;
        user.is_some() || uid.is_some() || unit.is_some() || container.is_some() || cgroup.is_some()
    }
}

/// What a rule does, beside what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Stable name, unique in the instance.
    pub id: String,
    /// The verdict.
    pub verdict: Verdict,
    /// What to do where the sensor cannot deny.
    pub fallback: Verdict,
    /// Who dies where it kills.
    pub scope: KillScope,
    /// It only logs while a window for this is open.
    pub maintenance: Option<Maintenance>,
    /// Why the rule is there, in a sentence.
    pub why: Option<String>,
    /// ATT&CK techniques that it is about.
    pub techniques: Vec<String>,
    /// Where it stands.
    pub at: At,
}

/// Which names below a directory are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Names {
    /// The path itself.
    Itself,
    /// `dir/*`
    Children,
    /// `dir/**`
    Below,
    /// `dir/*SUFFIX`
    ChildSuffix(String),
    /// `dir/PREFIX*`
    ChildPrefix(String),
    /// `dir/**/*SUFFIX`
    BelowSuffix(String),
    /// `dir/**/PREFIX*`
    BelowPrefix(String),
}

/// A rule for files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRule {
    /// The literal part of the path, absolute and without `.` or `..`.
    pub path: PathBuf,
    /// What below it is meant.
    pub names: Names,
    /// The accesses that it speaks about.
    pub access: Access,
    /// A copy is kept of what it protects, and put back when that came to harm.
    pub heal: bool,
    /// It holds at once, also for a file that was just created.
    pub at_once: bool,
    /// What it does.
    pub action: Action,
}

/// An address range: an IPv6 prefix, IPv4 as v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Network byte order.
    pub address: [u8; 16],
    /// 0 to 128.
    pub bits: u8,
}

impl From<IpAddr> for Prefix {
    /// That address alone.
    fn from(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(address) => map_v4(address.octets()),
            IpAddr::V6(address) => address.octets(),
        };
        Self { address, bits: 128 }
    }
}

/// A rule for addresses and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetRule {
    /// Outgoing or incoming.
    pub direction: Direction,
    /// The addresses.
    pub prefixes: Vec<Prefix>,
    /// The names; for incoming traffic whole ones only, whose addresses [`peers`](super::peers) finds.
    pub names: Vec<DnsName>,
    /// First and last port; all ports when there is none.
    pub ports: Vec<(u16, u16)>,
    /// An `IPPROTO_*` number, 0 for any.
    pub protocol: u8,
    /// How much may leave; for outgoing traffic only.
    pub bound: Option<Bound>,
    /// What it does.
    pub action: Action,
}
