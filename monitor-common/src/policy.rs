//! A compiled policy: the keys and values of the kernel's maps.
//!
//! A policy's file rules become a tree of *nodes*, one for each component of each path that a rule names, from
//! the root directory down. A node is found by the identity of a directory or file ([`InodeKey`]), or by its name
//! under its parent's node ([`ChildKey`]), so that a file that was replaced, or is not there yet, is met as well.
//! What a rule says about things below a directory is worked out when the policy is compiled: one node holds all
//! that there is to know, and the kernel never climbs twice.
//!
//! Every key carries the policy's `epoch`. A new policy is written beside the old one under the next epoch and
//! takes effect when the one word that holds the current epoch changes; no program sees a mixture.

use crate::{Access, Verdict, name::Name, shared};

/// Most instances in one policy.
pub const MAX_INSTANCES: usize = 64;
/// Most port ranges for one address prefix, those of the prefixes around it included.
pub const MAX_NET_RULES: usize = 16;
/// Bytes of a `*SUFFIX` or `PREFIX*` pattern that are compared.
pub const PATTERN_LEN: usize = 32;

/// Index of the rule that watched processes must not signal or trace the guard. No policy can change it.
pub const RULE_GUARD_PROCESS: u16 = u16::MAX - 1;
/// Index of the rule that watched processes must not access programs and maps of others.
pub const RULE_GUARD_PROGRAMS: u16 = u16::MAX - 2;
/// The first index that no rule of a policy has.
pub const FIRST_RESERVED: u16 = RULE_GUARD_PROGRAMS;

/// What to do, and on whose word.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Index of the rule in the policy, from 1; 0 for the class default.
    pub id: u16,
    /// A [`Verdict`] as a number; 0 when no rule speaks.
    pub verdict: u8,
    /// A [`Verdict`] as a number: what to do where the sensor cannot deny. The bits above it hold the rest that the kernel
    /// has to know: see [`Rule::heals`], [`Rule::maintenance`] and [`Rule::scope`].
    pub fallback: u8,
}

/// The bits of [`Rule::fallback`] that hold the verdict.
const FALLBACK_MASK: u8 = 0b111;
/// The bit of [`Rule::fallback`] for a rule that heals.
const HEALS: u8 = 1 << 3;
/// How far up in [`Rule::fallback`] the maintenance is, and its bits there.
const MAINTENANCE_SHIFT: u8 = 4;
const MAINTENANCE_MASK: u8 = 0b11 << MAINTENANCE_SHIFT;
/// How far up in [`Rule::fallback`] the scope is: its two highest bits.
const SCOPE_SHIFT: u8 = 6;
const SCOPE_MASK: u8 = 0b11 << SCOPE_SHIFT;
const _: () = assert!(Maintenance::PLACES as u8 - 1 == MAINTENANCE_MASK >> MAINTENANCE_SHIFT);

/// How far up in [`Rule::rank`] the strength is; below it is what parts rules that are equally strong.
pub const RANK_SHIFT: u32 = 16;

impl Rule {
    /// No rule.
    pub const NONE: Self = Self { id: 0, verdict: 0, fallback: 0 };

    /// The [`Maintenance`] as a number during which the rule only logs; 0 when it always holds.
    #[inline(always)]
    #[must_use]
    pub const fn maintenance(&self) -> u8 {
        (self.fallback & MAINTENANCE_MASK) >> MAINTENANCE_SHIFT
    }

    /// The same rule, lifted by this maintenance; 0 for one that always holds.
    #[inline(always)]
    #[must_use]
    pub const fn lifted_by(self, maintenance: u8) -> Self {
        let maintenance = (maintenance << MAINTENANCE_SHIFT) & MAINTENANCE_MASK;
        Self { fallback: self.fallback & !MAINTENANCE_MASK | maintenance, ..self }
    }

    /// Which processes die where the rule kills: the greater the number, the more of them.
    #[inline(always)]
    #[must_use]
    pub const fn scope(&self) -> u8 {
        (self.fallback & SCOPE_MASK) >> SCOPE_SHIFT
    }

    /// The same rule with this scope.
    #[inline(always)]
    #[must_use]
    pub const fn killing(self, scope: u8) -> Self {
        Self { fallback: self.fallback & !SCOPE_MASK | (scope << SCOPE_SHIFT), ..self }
    }

    /// Whether a good copy is kept of what the rule protects, and restored after an attack.
    #[inline(always)]
    #[must_use]
    pub const fn heals(&self) -> bool {
        self.fallback & HEALS != 0
    }

    /// The same rule, which heals or does not.
    #[inline(always)]
    #[must_use]
    pub const fn healing(self, heals: bool) -> Self {
        Self { fallback: if heals { self.fallback | HEALS } else { self.fallback & !HEALS }, ..self }
    }

    /// The one order of rules: by verdict, fallback, scope and heal, in this order; 0 for no rule. Of rules that ask for
    /// the same the one that was written first ranks higher, and any rule ranks above a class default, so that the
    /// outcome does not depend on the order in which they are met.
    ///
    /// A rule that does not forbid kills nothing and restores nothing: among those the verdict alone counts.
    #[inline(always)]
    #[must_use]
    pub const fn rank(&self) -> u32 {
        self.strength() << RANK_SHIFT | self.id.wrapping_neg() as u32
    }

    /// The part of the [rank](Rule::rank) that says what the rule does.
    #[inline(always)]
    #[must_use]
    pub const fn strength(&self) -> u32 {
        let verdict = (self.verdict as u32) << 8;
        if self.verdict <= Verdict::Log as u8 {
            return verdict;
        }
        verdict | (self.fallback_verdict() as u32) << 4 | (self.scope() as u32) << 1 | (self.heals() as u32)
    }

    /// What to do where the sensor cannot deny, as a number.
    #[inline(always)]
    #[must_use]
    pub const fn fallback_verdict(&self) -> u8 {
        self.fallback & FALLBACK_MASK
    }

    /// Whether a rule speaks here.
    #[inline(always)]
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.verdict != Verdict::Unset as u8
    }
}

/// A rule for each kind of access, in the order of the bits of [`Access`].
pub type RuleSet = [Rule; Access::COUNT];

/// Identity of a file as the running kernel holds it.
///
/// `dev` and `ino` are those of `struct inode`, which on overlayfs and btrfs are not what `stat` reports. The
/// generation tells a file from a later one that got the same inode number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId {
    /// `inode->i_ino`
    pub ino: u64,
    /// `inode->i_sb->s_dev`, the kernel's encoding: major << 20 | minor
    pub dev: u32,
    /// `inode->i_generation`
    pub generation: u32,
}

impl InodeId {
    /// Stands for everything on a block device. No file has this identity.
    #[inline(always)]
    #[must_use]
    pub const fn of_device(device: u32) -> Self {
        Self { ino: 0, dev: device, generation: u32::MAX }
    }
}

/// Finds a node by identity.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InodeKey {
    /// The file or directory.
    pub id: InodeId,
    /// The policy's epoch.
    pub epoch: u32,
    /// The instance whose tree is meant.
    pub instance: u32,
}

impl InodeKey {
    /// Stands for all instances: says which of them know what is in a directory, see [`Knowing`].
    pub const ANY: u32 = u32::MAX;
    /// Under how many names that rules name one file is noted in one epoch. Beyond that it counts as unknown.
    pub const NOTES: u32 = 4;

    /// The place of a note in the map of notes, in the place of the instance: `index` is below [`InodeKey::NOTES`].
    #[inline(always)]
    #[must_use]
    pub const fn note(slot: u32, index: u32) -> u32 {
        slot | index << 16
    }
}

/// Which instances have rules about what is in a directory: those whose slots are in a range. Kept in the map of identities
/// under [`InodeKey::ANY`], so that a task which is not watched is through after one look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knowing {
    /// The lowest slot.
    pub first: u16,
    /// The highest slot.
    pub last: u16,
}

impl Knowing {
    /// One instance.
    #[must_use]
    pub const fn only(slot: u16) -> Self {
        Self { first: slot, last: slot }
    }

    /// These and one more.
    #[must_use]
    pub fn and(self, slot: u16) -> Self {
        Self { first: self.first.min(slot), last: self.last.max(slot) }
    }

    /// As the value of a map.
    #[inline(always)]
    #[must_use]
    pub const fn to_raw(self) -> u32 {
        self.first as u32 | (self.last as u32) << 16
    }

    /// From the value of a map.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self { first: raw as u16, last: (raw >> 16) as u16 }
    }
}

/// Finds a node by its name in the directory of another node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildKey {
    /// The policy's epoch.
    pub epoch: u32,
    /// The directory's node; node numbers are unique in an epoch.
    pub node: u32,
    /// The name.
    pub name: Name,
}

/// Finds a node's rules.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeKey {
    /// The policy's epoch.
    pub epoch: u32,
    /// The node.
    pub node: u32,
}

/// Some child of the node has a node of its own.
pub const NODE_HAS_CHILDREN: u32 = 1;
/// Name patterns apply to children of this node.
pub const NODE_CHILD_PATTERNS: u32 = 1 << 1;
/// Name patterns apply to everything below this node; they are kept under [`Node::patterns`].
pub const NODE_SUBTREE_PATTERNS: u32 = 1 << 2;

/// All that a policy says about one path and what is below it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// For the file or directory itself.
    pub own: RuleSet,
    /// For its children that have no node (`dir/*`).
    pub children: RuleSet,
    /// For everything below that has no node (`dir/**`), the rules of the directories above included.
    pub below: RuleSet,
    /// The parent's node; the root's is itself.
    pub parent: u32,
    /// The node under which subtree patterns are filed: this one or the nearest above that has any.
    pub patterns: u32,
    /// `NODE_*`
    pub flags: u32,
    /// For a directory that is moved from here out of the reach of the subtree patterns, with what they protect in it.
    pub takes: Rule,
}

/// What an administrator works on while a window is open: rules that say so are lifted meanwhile.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Maintenance {
    /// Packages come and go.
    Palette = 1,
    /// Settings and what Node-RED is started with change.
    Settings = 2,
    /// Other files change.
    Files = 3,
}

impl Maintenance {
    /// Places for the windows of one instance; that of number 0 is never open.
    pub const PLACES: usize = 4;
    /// All of them, with the names that policies and journals use.
    pub const NAMES: [(&'static str, Self); 3] =
        [("palette", Self::Palette), ("settings", Self::Settings), ("files", Self::Files)];

    /// The one with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, maintenance)| maintenance)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Palette => "palette",
            Self::Settings => "settings",
            Self::Files => "files",
        }
    }

    /// Where the window of an instance is in the kernel's array of windows; `maintenance` is a number of this type.
    #[inline(always)]
    #[must_use]
    pub const fn place(slot: u16, maintenance: u8) -> u32 {
        let slot = slot as u32 & (MAX_INSTANCES as u32 - 1);
        slot * Self::PLACES as u32 + (maintenance as u32 & (Self::PLACES as u32 - 1))
    }
}

/// What a [`PatternKey`] is about: the end of the name of a direct child.
pub const PATTERN_CHILD_SUFFIX: u32 = 0;
/// The beginning of the name of a direct child.
pub const PATTERN_CHILD_PREFIX: u32 = 1;
/// The end of a name anywhere below.
pub const PATTERN_SUBTREE_SUFFIX: u32 = 2;
/// The beginning of a name anywhere below.
pub const PATTERN_SUBTREE_PREFIX: u32 = 3;
const _: () = assert!(PATTERN_CHILD_PREFIX == PATTERN_CHILD_SUFFIX + 1);
const _: () = assert!(PATTERN_SUBTREE_PREFIX == PATTERN_SUBTREE_SUFFIX + 1);

/// Bits of a [`PatternKey`] before its bytes.
pub const PATTERN_HEAD_BITS: u32 = 96;

/// Key of a longest-prefix trie of name patterns; suffixes are filed backwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternKey {
    /// The policy's epoch.
    pub epoch: u32,
    /// The directory's node.
    pub node: u32,
    /// `PATTERN_*`
    pub kind: u32,
    /// The bytes in the order of comparison, padded with zeros.
    pub bytes: [u8; PATTERN_LEN],
}

/// Rules of one pattern, those of the shorter patterns in it included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// The rules.
    pub rules: RuleSet,
    /// How specific each of them is. A name has a beginning and an end, and patterns for both may speak: the greater
    /// rank decides, for each access by itself, since the rules of one pattern can come from several.
    pub ranks: [u16; Access::COUNT],
}

/// Which end of a connection the other party is.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The instance connects or sends; the address is the destination.
    Egress = 0,
    /// Somebody connects to the instance; the address is the peer's.
    Ingress = 1,
}

/// Bits of a [`NetKey`] before the address.
pub const NET_HEAD_BITS: u32 = 64;

/// Key of the longest-prefix trie of addresses. IPv4 is filed as v4-mapped IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NetKey {
    /// The policy's epoch.
    pub epoch: u32,
    /// The instance.
    pub instance: u16,
    /// A [`Direction`].
    pub direction: u16,
    /// Network byte order.
    pub address: [u8; 16],
}

/// A rule for ports and a protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetRule {
    /// First port, host byte order.
    pub port_first: u16,
    /// Last port, inclusive.
    pub port_last: u16,
    /// An `IPPROTO_*` number; 0 for any.
    pub protocol: u8,
    /// 1 where the rule is about this one address, and so as specific as a name.
    pub single: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// What to do.
    pub rule: Rule,
}

/// All rules for a prefix, the most specific first; those of the prefixes around it follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetRules {
    /// How many of `rules` count.
    pub count: u32,
    /// The rules; the first that matches decides.
    pub rules: [NetRule; MAX_NET_RULES],
}

/// A class of operations that has a default verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Files, but for exec.
    Files = 0,
    /// Outgoing traffic.
    Egress = 1,
    /// Incoming connections.
    Ingress = 2,
    /// Programs that are started.
    Exec = 3,
    /// A change of uid, gid or capabilities that adds privilege.
    Privilege = 4,
    /// ptrace, or access to another process's memory.
    Ptrace = 5,
    /// A signal to a process outside the instance.
    Signal = 6,
    /// Raw and packet sockets.
    RawSocket = 7,
    /// Sockets of other families than UNIX, IPv4, IPv6 and the kernel's routing table, and of other transports than
    /// TCP and UDP.
    Socket = 8,
    /// Mounts made, moved or taken away.
    Mount = 9,
    /// Namespaces made or entered.
    Namespace = 10,
    /// The kernel itself: BPF programs, modules, commands that `io_uring` hands to drivers.
    Kernel = 11,
    /// Programs without a name: in anonymous memory (`memfd_create`), or deleted.
    ExecUnnamed = 12,
    /// Programs that the instance's user could have written.
    ExecWritable = 13,
}

/// What kind of file a program is, where that has a class of its own.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executable {
    /// None: it has a name, and the user could not have written it.
    Plain = 0,
    /// It has no name any more, or never had one.
    Unnamed = 1,
    /// The user could have written it.
    Writable = 2,
}

impl Executable {
    /// The class that decides about it where no rule speaks.
    #[inline(always)]
    #[must_use]
    pub const fn class(kind: u64) -> Class {
        if kind == Self::Unnamed as u64 {
            Class::ExecUnnamed
        } else if kind == Self::Writable as u64 {
            Class::ExecWritable
        } else {
            Class::Exec
        }
    }
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = 14;
    /// The classes in order, with the names that policies use.
    pub const NAMES: [(&'static str, Self); Self::COUNT] = [
        ("files", Self::Files),
        ("egress", Self::Egress),
        ("ingress", Self::Ingress),
        ("exec", Self::Exec),
        ("privilege", Self::Privilege),
        ("ptrace", Self::Ptrace),
        ("signal", Self::Signal),
        ("raw-socket", Self::RawSocket),
        ("socket", Self::Socket),
        ("mount", Self::Mount),
        ("namespace", Self::Namespace),
        ("kernel", Self::Kernel),
        ("exec-unnamed", Self::ExecUnnamed),
        ("exec-writable", Self::ExecWritable),
    ];
}

/// What the kernel knows about an instance beside its rules.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// What to do where no rule speaks, by [`Class`].
    pub defaults: [Rule; Class::COUNT],
    /// The strictest that any rule says, where that is stricter than the default: for files of which it is not known which rules
    /// are about them.
    pub strictest: RuleSet,
    /// 1 to carry verdicts out, 0 to log them.
    pub enforce: u32,
    /// 1 when the slot is in use.
    pub used: u32,
}

/// Most paths whose state is looked at around system calls that name paths.
pub const MAX_WATCHES: usize = 32;

/// A protected path that the kernel keeps in memory for as long as the guard holds it open.
///
/// A system call that names a path is judged by the name at its entry. Whatever the name was, its effect shows in the
/// state of these before and after.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Address of its `struct dentry`; 0 when the slot is empty.
    pub dentry: u64,
    /// Address of its `struct inode`.
    pub inode: u64,
    /// Slot of the instance.
    pub instance: u32,
    /// Its node.
    pub node: u32,
}

/// Answer of the kernel about an open file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The identity.
    pub id: InodeId,
    /// Address of its `struct dentry`.
    pub dentry: u64,
    /// Address of its `struct inode`.
    pub inode: u64,
}

/// The one word that makes a policy the policy, and how many selectors it has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The current epoch; 0 before the first policy.
    pub epoch: u32,
    /// Selectors in the current epoch's half of the array.
    pub selectors: u32,
    /// `CONTROL_*`
    pub flags: u32,
    /// tgid of the guard, which is never in scope, and whose own operations prove the hooks; 0 when it has ended.
    pub guard: u32,
}

/// The cgroup programs are attached: the tracepoints leave Internet sockets to them.
pub const CONTROL_CGROUP: u32 = 1;
/// A security hook serves user namespaces: the tracepoints leave them to it.
pub const CONTROL_USERNS: u32 = 1 << 1;

shared!(
    Rule = 4,
    InodeId = 16,
    InodeKey = 24,
    ChildKey = 80,
    NodeKey = 8,
    Node = 112,
    PatternKey = 44,
    Pattern = 48,
    NetKey = 24,
    NetRule = 12,
    NetRules = 196,
    Instance = 96,
    Control = 16,
    Watch = 24,
    Identity = 32,
);
