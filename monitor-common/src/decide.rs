//! The one decision.
//!
//! [`file()`], [`text`] and [`net`] are the only places where a verdict is made. They are generic over [`Lookups`],
//! which the kernel programs implement with BPF maps and everyone else with ordinary ones, and they never allocate,
//! recurse or loop without a constant bound, so that the verifier accepts what the tests have proven. Their steps
//! [`locate`], [`step`], [`weigh_node`] and [`weigh_place`] are reached through methods of traits: the kernel programs make
//! global functions of them, which the verifier checks once (see [`opaque`](crate::opaque)).
//!
//! The most specific rule wins: a rule for the very path, then a name pattern, then `dir/*`, then `dir/**` of the
//! nearest directory. Where several count, for more than one access or because a file is known both by identity and
//! by place, the strictest does.

use core::marker::PhantomPinned;

use crate::{
    Access, Verdict,
    dns::{Bound, BoundKey, NAMES_PER_ADDRESS, NameRulesKey},
    name::Name,
    opaque::{Opaque, zero},
    policy::{
        ChildKey, Class, Direction, Executable, InodeId, InodeKey, Instance, MAX_NET_RULES, Maintenance,
        NODE_CHILD_PATTERNS, NODE_HAS_CHILDREN, NODE_SUBTREE_PATTERNS, NetKey, NetRule, NetRules, Node, NodeKey,
        PATTERN_CHILD_SUFFIX, PATTERN_LEN, PATTERN_SUBTREE_SUFFIX, Pattern, PatternKey, RANK_SHIFT, RULE_GUARD_PROCESS,
        RULE_GUARD_PROGRAMS, Rule, RuleSet,
    },
    volume::Limit,
};

/// How many directories are climbed from a file before it counts as being outside every rule.
pub const MAX_CLIMB: usize = 32;
/// From how many names of a file, as the kernel has them in memory, is climbed. With more of them the strictest rule decides.
pub const MAX_NAMES: usize = 64;
/// How many names are descended again from the first directory that a policy knows.
pub const MAX_DESCENT: usize = 8;
/// Bytes of a path given as text that are looked at.
pub const MAX_TEXT: usize = crate::event::PENDING_TEXT;

/// Where compiled policies are looked up.
pub trait Lookups {
    /// The node of a file or directory known by identity.
    fn inode(&self, key: &InodeKey) -> Option<u32>;
    /// The node of a name in a known directory.
    fn child(&self, key: &ChildKey) -> Option<u32>;
    /// A node's rules.
    fn node(&self, key: &NodeKey) -> Option<&Node>;
    /// The longest pattern that the bytes of the key begin with.
    fn pattern(&self, key: &PatternKey) -> Option<&Pattern>;
    /// The rules of the longest prefix of the address.
    fn net(&self, key: &NetKey) -> Option<&NetRules>;
    /// Until when a maintenance window of an instance is open, by [`now`](Lookups::now); 0 when there is none.
    /// `maintenance` is a [`Maintenance`] as a number.
    fn window(&self, slot: u16, maintenance: u8) -> u64;
    /// `CLOCK_BOOTTIME` in nanoseconds: it includes suspend and cannot be set.
    fn now(&self) -> u64;
    /// The names of the policy that gave an address to the instance.
    fn bound(&self, _key: &BoundKey) -> Option<&Bound> {
        None
    }
    /// The rules of a name.
    fn name_rules(&self, _key: &NameRulesKey) -> Option<&NetRules> {
        None
    }

    /// Calls [`named`].
    #[inline(always)]
    fn named(&self, subject: &Subject<'_>, address: &[u8; 16], port: u16, protocol: u8) -> Rule
    where
        Self: Sized,
    {
        named(self, subject, address, port, protocol)
    }

    /// Calls [`weigh_node`].
    #[inline(always)]
    fn weigh_node(&self, subject: &Subject<'_>, node: u32, work: &mut Work)
    where
        Self: Sized,
    {
        weigh_node(self, subject, node, work);
    }

    /// Calls [`weigh_place`].
    #[inline(always)]
    fn weigh_place(&self, subject: &Subject<'_>, work: &mut Work)
    where
        Self: Sized,
    {
        weigh_place(self, subject, work);
    }
}

/// A file and the directories above it.
pub trait PathView {
    /// Fills in the identity of the next component: first the file itself, then its directory, and so on up to the
    /// root. False past the root.
    fn climb(&mut self, id: &mut InodeId) -> bool;
    /// Fills in the name of component `index` as counted by [`PathView::climb`], 0 being the file itself.
    fn name(&mut self, index: usize, name: &mut Name) -> bool;
}

/// A file whose place in the policy's tree can be found: by [`locate`] wherever its path is in view.
pub trait Locate {
    /// Leaves in `work` what [`locate`] leaves there.
    fn locate<L: Lookups>(&mut self, maps: &L, subject: &Subject<'_>, work: &mut Work);
}

impl<P: PathView> Locate for P {
    #[inline(always)]
    fn locate<L: Lookups>(&mut self, maps: &L, subject: &Subject<'_>, work: &mut Work) {
        locate(maps, subject, self, work);
    }
}

/// Bytes of a path as text; 0 past its end.
pub trait TextView {
    /// The byte at `index`.
    fn at(&self, index: usize) -> u8;
}

/// A path given as text that can be walked along: by [`step`] wherever its bytes are in view.
pub trait Walk {
    /// Does what [`step`] does.
    fn step<L: Lookups>(&self, maps: &L, subject: &Subject<'_>, work: &mut Work) -> bool;
}

impl<T: TextView> Walk for T {
    #[inline(always)]
    fn step<L: Lookups>(&self, maps: &L, subject: &Subject<'_>, work: &mut Work) -> bool {
        step(maps, subject, self, work)
    }
}

/// Working memory that is too big for a kernel program's stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    child: ChildKey,
    pattern: PatternKey,
    rules: RuleSet,
    known: Opaque<u32>,
    node: Opaque<u32>,
    depth: Opaque<u32>,
    fresh: Opaque<u32>,
    at: Opaque<u32>,
    ranks: [Opaque<u32>; Access::COUNT],
    access: Opaque<u32>,
    verdict: Opaque<u32>,
    fallback: Opaque<u32>,
    rule: Opaque<u32>,
    rank: Opaque<u32>,
    healing: Opaque<u32>,
    hits: Opaque<u32>,
    /// 1 where only rules count, and no class default.
    spoken: Opaque<u32>,
    /// Global functions look this memory up by themselves: a `&mut` is not the only way to it.
    shared: PhantomPinned,
}

impl Work {
    /// Cleared memory.
    pub const NEW: Self = Self {
        child: ChildKey { epoch: 0, node: 0, name: Name::EMPTY },
        pattern: PatternKey { epoch: 0, node: 0, kind: 0, bytes: [0; PATTERN_LEN] },
        rules: [Rule::NONE; Access::COUNT],
        known: Opaque::new(0),
        node: Opaque::new(0),
        depth: Opaque::new(0),
        fresh: Opaque::new(0),
        at: Opaque::new(0),
        ranks: [const { Opaque::new(0) }; Access::COUNT],
        access: Opaque::new(0),
        verdict: Opaque::new(0),
        fallback: Opaque::new(0),
        rule: Opaque::new(0),
        rank: Opaque::new(0),
        healing: Opaque::new(0),
        hits: Opaque::new(0),
        spoken: Opaque::new(0),
        shared: PhantomPinned,
    };

    /// Where the walk has come to.
    #[inline(always)]
    fn place(&self) -> Place {
        Place { node: self.node.get(), depth: self.depth.get() }
    }

    #[inline(always)]
    fn set_place(&mut self, place: Place) {
        self.node.set(place.node);
        self.depth.set(place.depth);
    }

    #[inline(always)]
    fn forget_rules(&mut self) {
        for rule in &mut self.rules {
            zero(rule);
        }
    }

    /// Forgets what was decided.
    #[inline(always)]
    pub fn begin(&mut self, access: Access) {
        self.access.set(u32::from(access.bits()));
        self.verdict.set(0);
        self.fallback.set(0);
        self.rule.set(0);
        self.rank.set(0);
        self.healing.set(0);
        self.hits.set(0);
        self.spoken.set(0);
    }

    /// Takes a rule into account for one access.
    #[inline(always)]
    fn weigh(&mut self, rule: Rule, access: u32) {
        let rank = rule.rank();
        if rank > self.rank.get() {
            self.rank.set(rank);
            self.verdict.set(u32::from(rule.verdict));
            self.fallback.set(u32::from(rule.fallback));
            self.rule.set(u32::from(rule.id));
            self.hits.set(access);
        } else if rank == self.rank.get() {
            self.hits.set(self.hits.get() | access);
        }
        if rule.heals() && rule.verdict > Verdict::Log as u8 && rank > self.healing.get() {
            self.healing.set(rank);
        }
    }

    /// The [rank](Rule::rank) of the rule that decided.
    #[inline(always)]
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank.get()
    }

    /// What the rule that decided does, see [`Rule::strength`].
    #[inline(always)]
    #[must_use]
    pub fn strength(&self) -> u32 {
        self.rank() >> RANK_SHIFT
    }

    /// A rule that heals what the decision is about, the strongest of those that spoke, whether or not it is the one that
    /// decided; 0 when none heals.
    #[inline(always)]
    #[must_use]
    pub fn healing(&self) -> u16 {
        (self.healing.get() as u16).wrapping_neg()
    }

    /// What was decided.
    #[inline(always)]
    #[must_use]
    pub fn decision(&self) -> Decision {
        let (verdict, fallback) = (self.verdict.get() as u8, self.fallback.get() as u8);
        let rule = Rule { id: self.rule.get() as u16, verdict, fallback };
        Decision::from_rule(rule, Access::from_bits(self.hits.get() as u8))
    }
}

/// Whose policy is asked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The current epoch.
    pub epoch: u32,
    /// Slot of the instance.
    pub slot: u16,
    /// The instance itself, for its defaults.
    pub instance: &'a Instance,
}

/// What the policy wants. [`crate::verdict::Sensor::apply`] turns it into what is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// What to do where the sensor cannot deny.
    pub fallback: Verdict,
    /// Index of the rule that decided, from 1; 0 for the class default.
    pub rule: u16,
    /// The accesses on which the verdict rests.
    pub access: Access,
    /// The [`Maintenance`] as a number in whose window the rule was lifted; 0 when it was not.
    pub window: u8,
}

impl Decision {
    /// What a rule says that was [lifted](lift) if that was due: only then one with a maintenance wants no more than a log.
    #[inline(always)]
    fn from_rule(rule: Rule, access: Access) -> Self {
        let lifted = rule.verdict <= Verdict::Log as u8;
        Self {
            verdict: Verdict::from_raw(rule.verdict),
            fallback: Verdict::from_raw(rule.fallback_verdict()),
            rule: rule.id,
            access,
            window: if lifted { rule.maintenance() } else { 0 },
        }
    }
}

/// Makes a rule that forbids only log, for as long as the window that it names is open.
#[inline(always)]
fn exempt<L: Lookups>(maps: &L, subject: &Subject<'_>, rule: &mut Rule) {
    let maintenance = rule.maintenance();
    if maintenance != 0 && maps.window(subject.slot, maintenance) > maps.now() {
        rule.verdict = Verdict::Log as u8;
    }
}

/// A place in the policy's tree: `depth` names below `node`, 0 for the node itself.
#[derive(Clone, Copy)]
struct Place {
    node: u32,
    depth: u32,
}

/// Whether what was decided on account of a window is good still; without a window it is.
#[inline(always)]
#[must_use]
pub fn is_good<L: Lookups>(maps: &L, subject: &Subject<'_>, window: u16) -> bool {
    window == 0 || maps.window(subject.slot, window as u8) > maps.now()
}

/// The window that ends first among those that are open for the instance; 0 when none is.
#[inline(always)]
#[must_use]
pub fn first_to_close<L: Lookups>(maps: &L, subject: &Subject<'_>) -> u16 {
    let (now, mut first, mut earliest) = (maps.now(), 0, u64::MAX);
    for maintenance in 1..Maintenance::PLACES as u8 {
        let until = maps.window(subject.slot, maintenance);
        if until > now && until < earliest {
            (first, earliest) = (u16::from(maintenance), until);
        }
    }
    first
}

/// Decides about an access to a file that the kernel holds.
///
/// `view` is the file. Answers what the policy wants for the strictest of the accesses in `access`.
#[inline(always)]
pub fn file<L: Lookups, P: Locate>(
    maps: &L,
    subject: &Subject<'_>,
    view: &mut P,
    access: Access,
    work: &mut Work,
) -> Decision {
    work.begin(access);
    view.locate(maps, subject, work);
    let known = work.known.get();
    if known != NOWHERE {
        // A hard link, or a file that was moved, is known by identity in a place where other rules hold.
        maps.weigh_node(subject, known, work);
    }
    if work.node.get() != NOWHERE || known == NOWHERE {
        maps.weigh_place(subject, work);
    }
    work.decision()
}

/// Decides about the execution of a file; `kind` is an [`Executable`]. Where no rule speaks about it, the stricter of the
/// defaults for programs and for those of its kind does.
#[inline(always)]
pub fn program<L: Lookups, P: Locate>(
    maps: &L,
    subject: &Subject<'_>,
    view: &mut P,
    kind: u64,
    work: &mut Work,
) -> Decision {
    file(maps, subject, view, Access::EXEC, work);
    if work.rule.get() == 0 {
        let of_its_kind = subject.instance.defaults[Executable::class(kind) as usize];
        work.weigh(of_its_kind, u32::from(Access::EXEC.bits()));
    }
    work.decision()
}

/// Whether the default for programs of this kind has decided.
#[inline(always)]
#[must_use]
pub fn is_by_kind(subject: &Subject<'_>, kind: u64, decision: &Decision) -> bool {
    let default = subject.instance.defaults[Executable::class(kind) as usize];
    let plain = subject.instance.defaults[Class::Exec as usize];
    kind != Executable::Plain as u64 && decision.rule == 0 && default.is_set() && default.rank() >= plain.rank()
}

/// Weighs in what holds for everything on a block device that was opened; to be called after [`file()`].
#[inline(always)]
pub fn device<L: Lookups>(maps: &L, subject: &Subject<'_>, device: u32, work: &mut Work) {
    identity(maps, subject, InodeId::of_device(device), work);
}

/// Weighs in what holds for a file that is known by its identity, besides the one that [`file()`] was about.
#[inline(always)]
pub fn identity<L: Lookups>(maps: &L, subject: &Subject<'_>, id: InodeId, work: &mut Work) {
    let key = InodeKey { id, epoch: subject.epoch, instance: u32::from(subject.slot) };
    if let Some(node) = maps.inode(&key) {
        maps.weigh_node(subject, node, work);
    }
}

/// What is done to a file, whatever it is called; all else is done to one of its names.
const OF_THE_FILE: Access =
    Access::READ.union(Access::WRITE).union(Access::ATTR).union(Access::EXEC).union(Access::LINK);

/// Begins to weigh in what holds for the other names of the file that [`file()`] was about; false where the access is to
/// a name alone. Each is found by [`locate`] and weighed by [`weigh_place`]; where not all of them are known, [`give_up`]
/// takes the place of [`locate`]. Only rules count from here on: the class default is about names that no rule is about.
#[inline(always)]
pub fn begin_others(work: &mut Work) -> bool {
    let access = work.access.get() & u32::from(OF_THE_FILE.bits());
    work.access.set(access);
    work.spoken.set(1);
    access != 0
}

/// Leaves in `work` a place of which it is not known which rules reach it.
#[inline(always)]
pub fn give_up(work: &mut Work) {
    work.set_place(Place { node: TOO_DEEP, depth: 0 });
}

/// Weighs in an access to a path whose node is known, besides what was weighed since [`Work::begin`]. [`Work::healing`] is
/// then about this one alone.
#[inline(always)]
pub fn node_too<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32, access: Access, work: &mut Work) {
    work.access.set(u32::from(access.bits()));
    work.healing.set(0);
    maps.weigh_node(subject, node, work);
}

/// Stands for a place that no node is above of.
const NOWHERE: u32 = u32::MAX;
/// Stands for a place deeper than anybody climbs from: which rules reach it is not known.
const TOO_DEEP: u32 = u32::MAX - 1;

/// Finds a directory's place and leaves it in `work`, for [`text`] to walk on from. `None` where no rule can reach.
#[inline(always)]
pub fn place<L: Lookups, P: Locate>(maps: &L, subject: &Subject<'_>, view: &mut P, work: &mut Work) -> Option<()> {
    view.locate(maps, subject, work);
    let known = work.known.get();
    if known != NOWHERE {
        work.set_place(Place { node: known, depth: 0 });
    }
    (work.node.get() != NOWHERE).then_some(())
}

/// Decides about an access to an unknown file: the strictest of all rules decides.
#[inline(always)]
pub fn unknown<L: Lookups>(maps: &L, subject: &Subject<'_>, access: Access, work: &mut Work) -> Decision {
    work.begin(access);
    work.set_place(Place { node: TOO_DEEP, depth: 0 });
    maps.weigh_place(subject, work);
    work.decision()
}

/// Which patterns reach a directory and what is in it, as the node that they are filed under, and what they say about the
/// directory's being moved out of their reach.
#[inline(always)]
pub fn reach<L: Lookups, P: Locate>(maps: &L, subject: &Subject<'_>, view: &mut P, work: &mut Work) -> (u32, Rule) {
    view.locate(maps, subject, work);
    match maps.node(&NodeKey { epoch: subject.epoch, node: work.node.get() }) {
        Some(node) if node.flags & NODE_SUBTREE_PATTERNS != 0 => (node.patterns, node.takes),
        _ => (0, Rule::NONE),
    }
}

/// Decides about the moving of a directory that takes along what patterns protect in it.
#[inline(always)]
pub fn takes<L: Lookups>(maps: &L, subject: &Subject<'_>, mut rule: Rule, work: &mut Work) -> Decision {
    work.begin(Access::RENAME);
    exempt(maps, subject, &mut rule);
    work.weigh(rule, u32::from(Access::RENAME.bits()));
    work.decision()
}

/// Finds the node that a file's identity names, if any, and its place by name; leaves both in `work`.
#[inline(always)]
pub fn locate<L: Lookups, P: PathView>(maps: &L, subject: &Subject<'_>, view: &mut P, work: &mut Work) {
    work.set_place(Place { node: NOWHERE, depth: 0 });
    work.known.set(NOWHERE);
    let mut key = InodeKey { id: InodeId::default(), epoch: subject.epoch, instance: u32::from(subject.slot) };
    if !view.climb(&mut key.id) {
        return;
    }
    if let Some(node) = maps.inode(&key) {
        work.known.set(node);
    }
    for index in 1..MAX_CLIMB {
        if !view.climb(&mut key.id) {
            break;
        }
        if let Some(node) = maps.inode(&key) {
            work.set_place(Place { node, depth: index as u32 });
            break;
        }
        if index == MAX_CLIMB - 1 {
            work.set_place(Place { node: TOO_DEEP, depth: 0 });
        }
    }
    for _ in 0..MAX_DESCENT {
        let Place { node, depth } = work.place();
        if depth == 0 || !has_children(maps, subject, node) {
            break;
        }
        if !view.name(depth as usize - 1, &mut work.child.name) {
            break;
        }
        let Some(node) = child(maps, subject, node, work) else { break };
        work.set_place(Place { node, depth: depth - 1 });
    }
    if work.depth.get() > 0 {
        view.name(0, &mut work.child.name);
    }
}

/// Decides about an access to a path given as text, from the directory whose [`place`] was found last.
///
/// The text is walked name by name as it stands; symbolic links in it are not followed, which is why a caller
/// confirms the outcome against the file system.
#[inline(always)]
pub fn text<L: Lookups, T: Walk>(
    maps: &L,
    subject: &Subject<'_>,
    path: &T,
    access: Access,
    work: &mut Work,
) -> Decision {
    work.begin(access);
    walk(maps, subject, path, work);
    maps.weigh_place(subject, work);
    work.decision()
}

/// Walks a path given as text; place and last name stay in `work`.
#[inline(always)]
fn walk<L: Lookups, T: Walk>(maps: &L, subject: &Subject<'_>, path: &T, work: &mut Work) {
    // Without a name in the text, a call is about the descriptor itself, whose own last name is there.
    work.at.set(0);
    // A name and what ends it are two bytes at the least.
    for _ in 0..MAX_TEXT / 2 {
        if !path.step(maps, subject, work) {
            break;
        }
    }
}

/// Takes the next name of a path given as text, and goes down by it from the place in `work`, or up for `..`. False at
/// the end of the text.
#[inline(always)]
pub fn step<L: Lookups, T: TextView>(maps: &L, subject: &Subject<'_>, path: &T, work: &mut Work) -> bool {
    take_name(path, work);
    if work.fresh.get() != 0 {
        return false;
    }
    follow(maps, subject, work);
    true
}

/// Reads up to the end of the next name; `fresh` stays set when there is none, and the last name where it is.
#[inline(always)]
fn take_name<T: TextView>(path: &T, work: &mut Work) {
    work.fresh.set(1);
    for _ in 0..MAX_TEXT {
        let at = work.at.get();
        let byte = if (at as usize) < MAX_TEXT { path.at(at as usize) } else { 0 };
        if byte == 0 {
            break;
        }
        work.at.set(at + 1);
        if byte != b'/' {
            if work.fresh.get() != 0 {
                work.child.name.clear();
                work.fresh.set(0);
            }
            work.child.name.push(byte);
        } else if work.fresh.get() == 0 {
            break;
        }
    }
}

/// One name down, or up for `..`.
#[inline(always)]
fn follow<L: Lookups>(maps: &L, subject: &Subject<'_>, work: &mut Work) {
    let len = work.child.name.len();
    let Place { node, depth } = work.place();
    let dots = work.child.name.at(0) == b'.';
    if dots && len == 1 {
        return;
    }
    if dots && len == 2 && work.child.name.at(1) == b'.' {
        if depth > 0 {
            work.depth.set(depth - 1);
        } else if let Some(found) = maps.node(&NodeKey { epoch: subject.epoch, node }) {
            work.node.set(found.parent);
        }
        return;
    }
    if depth == 0
        && let Some(node) = child(maps, subject, node, work)
    {
        work.node.set(node);
        return;
    }
    work.depth.set(depth.saturating_add(1));
}

/// The node of the name in `work` under `node`.
#[inline(always)]
fn child<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32, work: &mut Work) -> Option<u32> {
    if work.child.name.is_truncated() {
        return None;
    }
    work.child.epoch = subject.epoch;
    work.child.node = node;
    maps.child(&work.child)
}

#[inline(always)]
fn has_children<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32) -> bool {
    maps.node(&NodeKey { epoch: subject.epoch, node }).is_some_and(|node| node.flags & NODE_HAS_CHILDREN != 0)
}

/// Weighs in what a node says about itself.
#[inline(always)]
pub fn weigh_node<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32, work: &mut Work) {
    gather_own(maps, subject, node, work);
    weigh_all(maps, subject, work);
}

/// Weighs in what holds at the place in `work`; the class default, when no node is above it.
#[inline(always)]
pub fn weigh_place<L: Lookups>(maps: &L, subject: &Subject<'_>, work: &mut Work) {
    if work.node.get() == NOWHERE {
        work.forget_rules();
    } else if work.node.get() == TOO_DEEP {
        work.forget_rules();
        overlay(&mut work.rules, &subject.instance.strictest);
    } else {
        gather(maps, subject, work);
    }
    weigh_all(maps, subject, work);
}

/// Gathers what a node says about itself.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn gather_own<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32, work: &mut Work) {
    work.forget_rules();
    if let Some(node) = maps.node(&NodeKey { epoch: subject.epoch, node }) {
        overlay(&mut work.rules, &node.own);
    }
}

/// Gathers what holds at the place in `work`, whose last name is there too.
///
/// The rules are laid over one another in memory, the least specific first. That keeps one reference alive at a time,
/// which is what the compiler can still spill in a way that the verifier understands.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn gather<L: Lookups>(maps: &L, subject: &Subject<'_>, work: &mut Work) {
    let Place { node, depth } = work.place();
    if depth == 0 {
        gather_own(maps, subject, node, work);
        return;
    }
    work.forget_rules();
    let key = NodeKey { epoch: subject.epoch, node };
    let (mut flags, mut far) = (0, 0);
    if let Some(found) = maps.node(&key) {
        overlay(&mut work.rules, &found.below);
        flags = found.flags;
        far = found.patterns;
    }
    if flags & NODE_SUBTREE_PATTERNS != 0 {
        patterns(maps, subject, far, PATTERN_SUBTREE_SUFFIX, work);
    }
    if work.depth.get() == 1 {
        if let Some(found) = maps.node(&key) {
            overlay(&mut work.rules, &found.children);
        }
        if flags & NODE_CHILD_PATTERNS != 0 {
            patterns(maps, subject, node, PATTERN_CHILD_SUFFIX, work);
        }
    }
}

/// Lays the rules that speak over those that are there.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn overlay(rules: &mut RuleSet, over: &RuleSet) {
    for bit in 0..Access::COUNT {
        if over[bit].is_set() {
            rules[bit] = over[bit];
        }
    }
}

/// Lays the patterns that the name in `work` ends or begins with over the rules there. `suffix` is the kind of the
/// former; the latter comes after it.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn patterns<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32, suffix: u32, work: &mut Work) {
    for rank in &mut work.ranks {
        rank.set(0);
    }
    if fill_suffix(work, subject.epoch, node, suffix)
        && let Some(found) = maps.pattern(&work.pattern)
    {
        overlay_ranked(&mut work.rules, &mut work.ranks, found);
    }
    fill_prefix(work, subject.epoch, node, suffix + 1);
    if let Some(found) = maps.pattern(&work.pattern) {
        overlay_ranked(&mut work.rules, &mut work.ranks, found);
    }
}

/// Lays the rules of a pattern over those that are there, except over those of a pattern that is more specific.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn overlay_ranked(rules: &mut RuleSet, ranks: &mut [Opaque<u32>; Access::COUNT], over: &Pattern) {
    for bit in 0..Access::COUNT {
        let rank = u32::from(over.ranks[bit]);
        if over.rules[bit].is_set() && rank >= ranks[bit].get() {
            rules[bit] = over.rules[bit];
            ranks[bit].set(rank);
        }
    }
}

/// Makes the key of the beginning of the name.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fill_prefix(work: &mut Work, epoch: u32, node: u32, kind: u32) {
    let Work { child, pattern, .. } = work;
    (pattern.epoch, pattern.node, pattern.kind) = (epoch, node, kind);
    for index in 0..PATTERN_LEN {
        pattern.bytes[index] = child.name.at(index as u32);
    }
}

/// Makes the key of the end of the name, backwards; false for a name that did not fit, whose end is not known.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fill_suffix(work: &mut Work, epoch: u32, node: u32, kind: u32) -> bool {
    let Work { child, pattern, .. } = work;
    if child.name.is_truncated() {
        return false;
    }
    (pattern.epoch, pattern.node, pattern.kind) = (epoch, node, kind);
    for index in 0..PATTERN_LEN as u32 {
        // The length is read anew each time, or each comparison would narrow it and make a case of its own.
        let len = child.name.len();
        pattern.bytes[index as usize] = if index < len { child.name.at(len - 1 - index) } else { 0 };
    }
    true
}

/// Weighs what the rules in `work`, or else the class default, say about each access.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn weigh_all<L: Lookups>(maps: &L, subject: &Subject<'_>, work: &mut Work) {
    for bit in 0..Access::COUNT {
        weigh_one(maps, subject, work, bit);
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn weigh_one<L: Lookups>(maps: &L, subject: &Subject<'_>, work: &mut Work, bit: usize) {
    let this = 1 << bit;
    if work.access.get() & this == 0 {
        return;
    }
    // SAFETY: a reference to an element; volatile for the reason that [`Opaque`] gives.
    let mut rule = unsafe { core::ptr::read_volatile(&raw const work.rules[bit]) };
    if !rule.is_set() {
        if work.spoken.get() != 0 {
            return;
        }
        let class = if this == u32::from(Access::EXEC.bits()) { Class::Exec } else { Class::Files };
        rule = subject.instance.defaults[class as usize];
        if !rule.is_set() {
            rule.verdict = Verdict::Allow as u8;
        }
    }
    // Before rules are weighed against one another: a window lifts this one alone.
    exempt(maps, subject, &mut rule);
    work.weigh(rule, this);
}

/// What the instance does with a class of operations where no rule speaks.
#[inline(always)]
#[must_use]
pub fn class(subject: &Subject<'_>, class: Class, access: Access) -> Decision {
    let rule = subject.instance.defaults[class as usize];
    if rule.is_set() {
        Decision::from_rule(rule, access)
    } else {
        Decision { verdict: Verdict::Allow, access, ..Decision::default() }
    }
}

/// Decides about a signal to a process outside the instance, or a reach into one.
#[inline(always)]
#[must_use]
pub fn process(subject: &Subject<'_>, of: Class, hits_guard: bool) -> Decision {
    shield(class(subject, of, Access::NONE), hits_guard, RULE_GUARD_PROCESS)
}

/// `bpf` commands that hand out what others have loaded: `BPF_OBJ_GET`, `BPF_PROG_GET_FD_BY_ID`, `BPF_MAP_GET_FD_BY_ID`
/// and `BPF_LINK_GET_FD_BY_ID` (include/uapi/linux/bpf.h).
const HANDS_OUT: [u32; 4] = [7, 13, 14, 30];

/// Decides about a `bpf` system call.
#[inline(always)]
#[must_use]
pub fn bpf(subject: &Subject<'_>, command: u32) -> Decision {
    shield(class(subject, Class::Kernel, Access::NONE), HANDS_OUT.contains(&command), RULE_GUARD_PROGRAMS)
}

/// Access to the guard is denied, whatever the policy allows.
#[inline(always)]
fn shield(decision: Decision, hit: bool, rule: u16) -> Decision {
    if hit && (decision.verdict as u8) < Verdict::Deny as u8 {
        return Decision { verdict: Verdict::Deny, fallback: Verdict::Kill, rule, ..Decision::default() };
    }
    decision
}

/// Decides about traffic with an address.
///
/// `key` holds the address with IPv4 as v4-mapped (see [`map_v4`]), `port` is in host byte order, `protocol` an
/// `IPPROTO_*` number or 0 when it is not known.
#[inline(always)]
pub fn net<L: Lookups>(maps: &L, subject: &Subject<'_>, key: &NetKey, port: u16, protocol: u8) -> Decision {
    let mut found = Rule::NONE;
    let mut single = 0;
    if let Some(rules) = maps.net(key) {
        for index in 0..MAX_NET_RULES {
            if index as u32 >= rules.count {
                break;
            }
            let rule = &rules.rules[index];
            if fits(rule, port, protocol) {
                (found, single) = (rule.rule, rule.single);
                break;
            }
        }
    }
    exempt(maps, subject, &mut found);
    if key.direction == Direction::Egress as u16 {
        let named = maps.named(subject, &key.address, port, protocol);
        // A name is as specific as a single address; of the two the stricter decides.
        if named.is_set() && (single == 0 || named.rank() > found.rank()) {
            found = named;
        }
    }
    if found.is_set() {
        return Decision::from_rule(found, Access::NONE);
    }
    class(subject, if key.direction == 0 { Class::Egress } else { Class::Ingress }, Access::NONE)
}

/// Decides about a packet that leaves for an address under a rule that sets a bound; `sent` are the bytes that have left
/// for it in the span, the packet's included.
#[inline(always)]
#[must_use]
pub fn volume(limit: &Limit, sent: u64, rule: u16) -> Decision {
    let verdict = if sent > limit.bytes { Verdict::from_raw(limit.beyond as u8) } else { Verdict::Allow };
    Decision { verdict, rule, ..Decision::default() }
}

#[inline(always)]
fn fits(rule: &NetRule, port: u16, protocol: u8) -> bool {
    let port_fits = port >= rule.port_first && port <= rule.port_last;
    port_fits && (rule.protocol == 0 || protocol == 0 || rule.protocol == protocol)
}

/// `IPPROTO_UDP`
const UDP: u8 = 17;

/// What the names say that gave an address: the strictest of them, lifted by a window if that is due.
///
/// To sort addresses, a C library connects datagram sockets to them: to port 0 glibc, to port 65535 musl. Nothing is sent.
/// Where a name may be reached at all, that is nothing to refuse.
#[inline(always)]
pub fn named<L: Lookups>(maps: &L, subject: &Subject<'_>, address: &[u8; 16], port: u16, protocol: u8) -> Rule {
    let mut found = Rule::NONE;
    let key = BoundKey { address: *address, instance: u32::from(subject.slot) };
    let Some(bound) = maps.bound(&key) else { return found };
    let now = maps.now();
    let sorts = protocol == UDP && (port == 0 || port == u16::MAX);
    for index in 0..NAMES_PER_ADDRESS {
        let name = bound.names[index];
        if name.name == 0 || name.until < now {
            continue;
        }
        let key = NameRulesKey { name: name.name, epoch: subject.epoch, instance: u32::from(subject.slot) };
        let Some(rules) = maps.name_rules(&key) else { continue };
        for index in 0..MAX_NET_RULES {
            if index as u32 >= rules.count {
                break;
            }
            let rule = &rules.rules[index];
            if fits(rule, port, protocol) || (sorts && rule.rule.verdict == Verdict::Allow as u8) {
                let mut rule = rule.rule;
                exempt(maps, subject, &mut rule);
                if rule.rank() > found.rank() {
                    found = rule;
                }
                break;
            }
        }
    }
    found
}

/// Where a connection to an address ends: one to no address at all (`0.0.0.0`, `::`) ends at the machine that it is made on.
#[inline(always)]
#[must_use]
pub const fn reached(address: [u8; 16]) -> [u8; 16] {
    const MAPPED: u128 = u128::from_be_bytes(map_v4([0; 4]));
    match u128::from_be_bytes(address) {
        0 => 1_u128.to_be_bytes(),
        MAPPED => map_v4([127, 0, 0, 1]),
        _ => address,
    }
}

/// An IPv4 address in network byte order as v4-mapped IPv6 (RFC 4291, 2.5.5.2).
#[inline(always)]
#[must_use]
pub const fn map_v4(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
