//! The one decision.
//!
//! [`file`], [`text`] and [`net`] are the only places where a verdict is made. They are generic over [`Lookups`],
//! which the kernel programs implement with BPF maps and everyone else with ordinary ones, and they never allocate,
//! recurse or loop without a constant bound, so that the verifier accepts what the tests have proven.
//!
//! The most specific rule wins: a rule for the very path, then a name pattern, then `dir/*`, then `dir/**` of the
//! nearest directory. Where several count, for more than one access or because a file is known both by identity and
//! by place, the strictest does.

use crate::{
    Access, Verdict,
    name::{NAME_LEN, Name},
    policy::{
        ChildKey, Class, Instance, InodeId, InodeKey, MAX_NET_RULES, NODE_CHILD_PATTERNS, NODE_HAS_CHILDREN, NODE_SUBTREE_PATTERNS,
        NetKey, NetRules, Node, NodeKey, PATTERN_CHILD_PREFIX, PATTERN_CHILD_SUFFIX, PATTERN_LEN, PATTERN_SUBTREE_PREFIX,
        PATTERN_SUBTREE_SUFFIX, Pattern, PatternKey, Rule,
    },
};

/// How many directories are climbed from a file before it counts as being outside every rule.
pub const MAX_CLIMB: usize = 32;
/// How many names are descended again from the first directory that a policy knows.
pub const MAX_DESCENT: usize = 8;
/// Bytes of a path given as text that are looked at.
pub const MAX_TEXT: usize = 512;

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
}

/// A file and the directories above it.
pub trait PathView {
    /// The identity of the next component: first the file itself, then its directory, and so on up to the root.
    /// `None` past the root.
    fn climb(&mut self) -> Option<InodeId>;
    /// Fills in the name of component `index` as counted by [`PathView::climb`], 0 being the file itself.
    fn name(&mut self, index: usize, name: &mut Name) -> bool;
}

/// Bytes of a path as text; 0 past its end.
pub trait TextView {
    /// The byte at `index`.
    fn at(&self, index: usize) -> u8;
}

/// Working memory that is too big for a kernel program's stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    child: ChildKey,
    pattern: PatternKey,
}

impl Work {
    /// Cleared memory.
    pub const NEW: Self = Self {
        child: ChildKey { epoch: 0, node: 0, name: Name::EMPTY },
        pattern: PatternKey { epoch: 0, node: 0, kind: 0, bytes: [0; PATTERN_LEN] },
    };
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
}

impl Decision {
    #[inline(always)]
    fn from_rule(rule: &Rule, access: Access) -> Self {
        Self { verdict: Verdict::from_raw(rule.verdict), fallback: Verdict::from_raw(rule.fallback), rule: rule.id, access }
    }

    /// The stricter of two, their accesses joined when they agree.
    #[inline(always)]
    #[must_use]
    pub fn or_stricter(self, other: Self) -> Self {
        if other.verdict as u8 > self.verdict as u8 {
            other
        } else if other.verdict as u8 == self.verdict as u8 && other.rule == self.rule {
            Self { access: self.access.union(other.access), ..self }
        } else {
            self
        }
    }
}

/// A place in the policy's tree: `depth` names below `node`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The nearest node.
    pub node: u32,
    /// 0 when the place is the node itself.
    pub depth: u32,
}

/// Decides about an access to a file that the kernel holds.
///
/// `view` climbs from the file. Answers what the policy wants for the strictest of the accesses in `access`.
#[inline(always)]
pub fn file<L: Lookups, P: PathView>(maps: &L, subject: &Subject<'_>, view: &mut P, access: Access, work: &mut Work) -> Decision {
    let (known, place) = locate(maps, subject, view, work);
    let mut decision = match place {
        Some(place) => at(maps, subject, place, access, work),
        None => default(subject, access),
    };
    // A hard link, or a file that was moved, is known by identity in a place where other rules hold.
    if let Some(node) = known {
        decision = match place {
            Some(place) if place.depth == 0 && place.node == node => decision,
            _ => decision.or_stricter(own(maps, subject, node, access)),
        };
    }
    decision
}

/// Finds the place of a file or directory: the node that its identity names, if any, and its place by name.
#[inline(always)]
pub fn locate<L: Lookups, P: PathView>(maps: &L, subject: &Subject<'_>, view: &mut P, work: &mut Work) -> (Option<u32>, Option<Place>) {
    let mut key = InodeKey { id: InodeId::default(), epoch: subject.epoch, instance: u32::from(subject.slot) };
    let Some(id) = view.climb() else { return (None, None) };
    key.id = id;
    let known = maps.inode(&key);
    let mut node = 0;
    let mut depth = 0;
    for index in 1..MAX_CLIMB {
        let Some(id) = view.climb() else { break };
        key.id = id;
        if let Some(found) = maps.inode(&key) {
            node = found;
            depth = index;
            break;
        }
    }
    if depth == 0 {
        // No directory above is known: the file itself may be the root.
        return (known, known.map(|node| Place { node, depth: 0 }));
    }
    for _ in 0..MAX_DESCENT {
        if depth == 0 || !has_flag(maps, subject, node, NODE_HAS_CHILDREN) {
            break;
        }
        if !view.name(depth - 1, &mut work.child.name) {
            break;
        }
        let Some(child) = child(maps, subject, node, work) else { break };
        node = child;
        depth -= 1;
    }
    if depth > 0 {
        view.name(0, &mut work.child.name);
    }
    (known, Some(Place { node, depth: depth as u32 }))
}

/// Decides about an access to a path given as text, from a directory whose place is known.
///
/// The text is walked name by name as it stands; symbolic links in it are not followed, which is why a caller
/// confirms the outcome against the file system.
#[inline(always)]
pub fn text<L: Lookups, T: TextView>(maps: &L, subject: &Subject<'_>, start: Place, path: &T, access: Access, work: &mut Work) -> Decision {
    let place = walk(maps, subject, start, path, work);
    at(maps, subject, place, access, work)
}

/// Walks a path given as text; the last name stays in `work`.
#[inline(always)]
pub fn walk<L: Lookups, T: TextView>(maps: &L, subject: &Subject<'_>, start: Place, path: &T, work: &mut Work) -> Place {
    let mut place = start;
    work.child.name.clear();
    let mut fresh = true;
    for index in 0..MAX_TEXT {
        let byte = path.at(index);
        if byte != b'/' && byte != 0 {
            if fresh {
                work.child.name.clear();
                fresh = false;
            }
            work.child.name.push(byte);
            continue;
        }
        if !fresh {
            place = step(maps, subject, place, work);
            fresh = true;
        }
        if byte == 0 {
            break;
        }
    }
    place
}

/// One name down, or up for `..`.
#[inline(always)]
fn step<L: Lookups>(maps: &L, subject: &Subject<'_>, place: Place, work: &mut Work) -> Place {
    let len = work.child.name.len();
    let dots = work.child.name.at(0) == b'.';
    if dots && len == 1 {
        return place;
    }
    if dots && len == 2 && work.child.name.at(1) == b'.' {
        if place.depth > 0 {
            return Place { depth: place.depth - 1, ..place };
        }
        let parent = maps.node(&NodeKey { epoch: subject.epoch, node: place.node }).map_or(place.node, |node| node.parent);
        return Place { node: parent, depth: 0 };
    }
    if place.depth == 0 && let Some(node) = child(maps, subject, place.node, work) {
        return Place { node, depth: 0 };
    }
    Place { depth: place.depth + 1, ..place }
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
fn has_flag<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32, flag: u32) -> bool {
    maps.node(&NodeKey { epoch: subject.epoch, node }).is_some_and(|node| node.flags & flag != 0)
}

/// What a node says about itself.
#[inline(always)]
pub fn own<L: Lookups>(maps: &L, subject: &Subject<'_>, node: u32, access: Access) -> Decision {
    let Some(node) = maps.node(&NodeKey { epoch: subject.epoch, node }) else { return default(subject, access) };
    strictest(subject, access, [Some(&node.own), None, None, None, None, None])
}

/// What holds at a place; the last name of the path is in `work`.
#[inline(always)]
pub fn at<L: Lookups>(maps: &L, subject: &Subject<'_>, place: Place, access: Access, work: &mut Work) -> Decision {
    let Some(node) = maps.node(&NodeKey { epoch: subject.epoch, node: place.node }) else { return default(subject, access) };
    if place.depth == 0 {
        return strictest(subject, access, [Some(&node.own), None, None, None, None, None]);
    }
    let direct = place.depth == 1;
    let (near_suffix, near_prefix) = if direct && node.flags & NODE_CHILD_PATTERNS != 0 {
        patterns(maps, subject, place.node, PATTERN_CHILD_SUFFIX, PATTERN_CHILD_PREFIX, work)
    } else {
        (None, None)
    };
    let (far_suffix, far_prefix) = if node.flags & NODE_SUBTREE_PATTERNS != 0 {
        patterns(maps, subject, node.patterns, PATTERN_SUBTREE_SUFFIX, PATTERN_SUBTREE_PREFIX, work)
    } else {
        (None, None)
    };
    let children = if direct { Some(&node.children) } else { None };
    strictest(subject, access, [near_suffix, near_prefix, children, far_suffix, far_prefix, Some(&node.below)])
}

type Rules<'a> = Option<&'a [Rule; Access::COUNT]>;

/// The patterns that the name in `work` ends and begins with; the longer one first, so that it is asked first.
#[inline(always)]
fn patterns<'a, L: Lookups>(
    maps: &'a L,
    subject: &Subject<'_>,
    node: u32,
    suffix: u32,
    prefix: u32,
    work: &mut Work,
) -> (Rules<'a>, Rules<'a>) {
    let len = work.child.name.len();
    let Work { child, pattern } = work;
    pattern.epoch = subject.epoch;
    pattern.node = node;
    pattern.kind = prefix;
    for index in 0..PATTERN_LEN {
        pattern.bytes[index] = child.name.at(index as u32);
    }
    let by_prefix = maps.pattern(pattern);
    // The end of a name that did not fit is not known, so a suffix cannot be compared.
    if len as usize >= NAME_LEN {
        return (None, by_prefix.map(|found| &found.rules));
    }
    pattern.kind = suffix;
    for index in 0..PATTERN_LEN as u32 {
        pattern.bytes[index as usize] = if index < len { child.name.at(len - 1 - index) } else { 0 };
    }
    let by_suffix = maps.pattern(pattern);
    match (by_suffix, by_prefix) {
        (Some(end), Some(begin)) if begin.len > end.len => (Some(&begin.rules), Some(&end.rules)),
        (end, begin) => (end.map(|found| &found.rules), begin.map(|found| &found.rules)),
    }
}

/// For each access the first rule that speaks; of those the strictest.
#[inline(always)]
fn strictest(subject: &Subject<'_>, access: Access, sources: [Rules<'_>; 6]) -> Decision {
    let mut decision = Decision::default();
    for bit in 0..Access::COUNT {
        let this = Access::from_bits(1 << bit);
        if !access.contains(this) {
            continue;
        }
        let mut found = default(subject, this);
        // From the least specific to the most, so that the last word stands.
        for rules in sources.iter().rev().copied().flatten() {
            if rules[bit].is_set() {
                found = Decision::from_rule(&rules[bit], this);
            }
        }
        decision = decision.or_stricter(found);
    }
    decision
}

/// What the instance does with a class of operations where no rule speaks.
#[inline(always)]
#[must_use]
pub fn class(subject: &Subject<'_>, class: Class, access: Access) -> Decision {
    let rule = &subject.instance.defaults[class as usize];
    if rule.is_set() { Decision::from_rule(rule, access) } else { Decision { verdict: Verdict::Allow, access, ..Decision::default() } }
}

#[inline(always)]
fn default(subject: &Subject<'_>, access: Access) -> Decision {
    let of = if access.contains(Access::EXEC) { Class::Exec } else { Class::Files };
    class(subject, of, access)
}

/// Decides about traffic with an address.
///
/// `key` holds the address with IPv4 as v4-mapped (see [`map_v4`]), `port` is in host byte order, `protocol` an
/// `IPPROTO_*` number or 0 when it is not known.
#[inline(always)]
pub fn net<L: Lookups>(maps: &L, subject: &Subject<'_>, key: &NetKey, port: u16, protocol: u8) -> Decision {
    if let Some(rules) = maps.net(key) {
        for index in 0..MAX_NET_RULES {
            if index as u32 >= rules.count {
                break;
            }
            let rule = &rules.rules[index];
            let port_fits = port >= rule.port_first && port <= rule.port_last;
            let protocol_fits = rule.protocol == 0 || protocol == 0 || rule.protocol == protocol;
            if port_fits && protocol_fits {
                return Decision::from_rule(&rule.rule, Access::NONE);
            }
        }
    }
    class(subject, if key.direction == 0 { Class::Egress } else { Class::Ingress }, Access::NONE)
}

/// An IPv4 address in network byte order as v4-mapped IPv6 (RFC 4291, 2.5.5.2).
#[inline(always)]
#[must_use]
pub const fn map_v4(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
