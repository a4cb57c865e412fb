//! File rules as a tree: a node for each component of each path that a rule names.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    path::{Component, Path, PathBuf},
};

use monitor_common::{
    Access, Verdict,
    name::Name,
    policy::{
        ChildKey, InodeId, InodeKey, Knowing, NODE_CHILD_PATTERNS, NODE_HAS_CHILDREN, NODE_SUBTREE_PATTERNS, Node,
        NodeKey, PATTERN_CHILD_PREFIX, PATTERN_CHILD_SUFFIX, PATTERN_HEAD_BITS, PATTERN_LEN, PATTERN_SUBTREE_PREFIX,
        PATTERN_SUBTREE_SUFFIX, Pattern, PatternKey, Rule, RuleSet,
    },
};

use super::{Compiled, Identify, Seen, Watched};
use crate::{
    host::Host,
    model::{FileRule, Names},
};

/// Most symbolic links that are followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// What a file is made with: rules about these wait until it is made.
const MAKING: Access = Access::WRITE.union(Access::ATTR).union(Access::DELETE);

/// The stricter of two rules of the same weight, by the kernel's own order.
///
/// It speaks for both: a window lifts it only when the other is none that forbids outside of that window.
pub(super) fn stricter(old: Rule, new: Rule) -> Rule {
    let (kept, other) = if new.rank() > old.rank() { (new, old) } else { (old, new) };
    let forbids = other.verdict > Verdict::Log as u8;
    if forbids && other.maintenance() != kept.maintenance() { kept.lifted_by(0) } else { kept }
}

fn set(rules: &mut RuleSet, access: Access, rule: Rule) {
    for (bit, slot) in rules.iter_mut().enumerate() {
        if access.bits() & 1 << bit != 0 {
            *slot = stricter(*slot, rule);
        }
    }
}

/// Fills in what does not speak yet.
fn fill(rules: &mut RuleSet, from: &RuleSet) {
    for (slot, other) in rules.iter_mut().zip(from) {
        if !slot.is_set() {
            *slot = *other;
        }
    }
}

fn speaks(rules: &RuleSet) -> bool {
    rules.iter().any(Rule::is_set)
}

/// Where this machine's processes are.
const PROC: &str = "/proc";
/// The number of the root of every proc file system, `PROC_ROOT_INO` of `include/linux/proc_fs.h`.
const PROC_ROOT: u64 = 1;

/// Patterns of one kind under one node as rules name them: the bytes as they are compared.
type Patterns = BTreeMap<Vec<u8>, RuleSet>;

/// What the kernel looks up.
type RankedPatterns = BTreeMap<Vec<u8>, Pattern>;

/// Fills in what does not speak yet, with how specific it is: the deeper directory, in it the longer pattern.
fn fill_ranked(pattern: &mut Pattern, from: &RuleSet, depth: usize, bytes: usize) {
    let rank = u16::try_from(depth.min(255) << 7 | bytes).unwrap_or(u16::MAX);
    for (bit, rule) in from.iter().enumerate() {
        if rule.is_set() && !pattern.rules[bit].is_set() {
            pattern.rules[bit] = *rule;
            pattern.ranks[bit] = rank;
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Branch {
    path: PathBuf,
    parent: usize,
    children: BTreeMap<Vec<u8>, usize>,
    own: RuleSet,
    /// Something protected is below: the directory must not be moved away.
    held: RuleSet,
    star: RuleSet,
    below: RuleSet,
    /// By `PATTERN_*`.
    patterns: [Patterns; 4],
    /// Reached through a symbolic link: what is found there has its identity elsewhere.
    alias: bool,
    /// What the rules say holds at once, however young the file is.
    at_once: bool,
}

impl Branch {
    /// The strictest that any rule here says about reading and about changes.
    fn raw(&self) -> RuleSet {
        const CHANGES: Access = Access::WRITE.union(Access::DELETE).union(Access::RENAME);
        let mut raw = RuleSet::default();
        let patterns = self.patterns.iter().flat_map(BTreeMap::values);
        for rules in [&self.own, &self.star, &self.below].into_iter().chain(patterns) {
            for (bit, &rule) in rules.iter().enumerate() {
                for (of, what) in [(Access::READ, Access::READ), (Access::WRITE, CHANGES)] {
                    if restrains(bit, rule, what) {
                        let mine = &mut raw[of.bits().trailing_zeros() as usize];
                        // A window does not exempt access through the block device.
                        *mine = stricter(*mine, rule.lifted_by(0));
                    }
                }
            }
        }
        raw
    }
}

/// The paths of one instance's rules.
pub(super) struct Tree {
    branches: Vec<Branch>,
    /// A rule of the policy speaks about what is in `/proc`.
    about_proc: bool,
}

/// A path as written and every other one that leads to the same end.
struct Ways {
    paths: Vec<PathBuf>,
    /// Where the symbolic links are.
    links: Vec<PathBuf>,
}

/// Follows the symbolic links in a path, one by one; names that do not exist yet are taken as they are.
fn ways(path: &Path, host: &dyn Host) -> Ways {
    let names = |path: &Path| {
        path.components()
            .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
            .map(|part| part.as_os_str().to_owned())
            .collect()
    };
    let mut found = Ways { paths: vec![path.to_owned()], links: Vec::new() };
    let mut rest: VecDeque<OsString> = names(path);
    let mut real = PathBuf::from("/");
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let target = (found.links.len() < MAX_LINKS).then(|| host.link(&next)).flatten();
        let Some(target) = target else {
            real = next;
            continue;
        };
        found.links.push(next);
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        let mut names: VecDeque<OsString> = names(&target);
        names.append(&mut rest);
        rest = names;
        if rest.iter().all(|name| name != "..") {
            found.paths.push(real.join(rest.iter().collect::<PathBuf>()));
        }
    }
    found.paths.push(real);
    let mut seen = BTreeSet::new();
    found.paths.retain(|path| seen.insert(path.clone()));
    found
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { branches: vec![Branch { path: PathBuf::from("/"), ..Branch::default() }], about_proc: false }
    }

    pub(super) fn branch(&mut self, path: &Path) -> usize {
        let mut at = 0;
        for name in path.iter().skip(1) {
            let bytes = name.as_encoded_bytes();
            at = if let Some(&child) = self.branches[at].children.get(bytes) {
                child
            } else {
                let new = self.branches.len();
                let path = self.branches[at].path.join(name);
                self.branches.push(Branch { path, parent: at, ..Branch::default() });
                self.branches[at].children.insert(bytes.to_owned(), new);
                new
            };
        }
        at
    }

    /// Adds a rule at the path as written and, where that leads through symbolic links, at every other end as well.
    pub(super) fn add(&mut self, rule: &FileRule, action: Rule, host: &dyn Host) {
        let ways = ways(&rule.path, host);
        for path in &ways.paths {
            self.add_at(path, rule, action);
            // In another proc file system the guard has another pid: its own rules do not apply there.
            self.about_proc |= !rule.at_once && reaches(path, &rule.names, Path::new(PROC));
        }
        if holds(rule, action) {
            // Unlike a directory with something in it, a link can be removed, and another made in its place.
            for link in ways.links.iter().filter(|link| rule.names != Names::Itself || !ways.paths.contains(link)) {
                let at = self.branch(link);
                set(&mut self.branches[at].held, Access::RENAME.union(Access::DELETE), action.lifted_by(0));
            }
        }
    }

    fn add_at(&mut self, path: &Path, rule: &FileRule, action: Rule) {
        let at = self.branch(path);
        let Branch { own, star, below, patterns, at_once, .. } = &mut self.branches[at];
        *at_once |= rule.at_once;
        let mut pattern =
            |kind: u32, literal: Vec<u8>| set(patterns[kind as usize].entry(literal).or_default(), rule.access, action);
        match &rule.names {
            Names::Itself => set(own, rule.access, action),
            Names::Children => set(star, rule.access, action),
            Names::Below => set(below, rule.access, action),
            Names::ChildSuffix(suffix) => pattern(PATTERN_CHILD_SUFFIX, suffix.bytes().rev().collect()),
            Names::ChildPrefix(prefix) => pattern(PATTERN_CHILD_PREFIX, prefix.clone().into_bytes()),
            Names::BelowSuffix(suffix) => pattern(PATTERN_SUBTREE_SUFFIX, suffix.bytes().rev().collect()),
            Names::BelowPrefix(prefix) => pattern(PATTERN_SUBTREE_PREFIX, prefix.clone().into_bytes()),
        }
        if holds(rule, action) {
            // Of a directory whose content is meant, the directory itself is held too. No window lets the directories above
            // go: with them goes what has nothing to do with it.
            let action = action.lifted_by(0);
            let mut at = if rule.names == Names::Itself { self.branches[at].parent } else { at };
            while at != 0 {
                set(&mut self.branches[at].held, Access::RENAME, action);
                at = self.branches[at].parent;
            }
        }
    }

    /// This branch and those above it, the nearest first.
    fn chain(&self, from: usize) -> impl Iterator<Item = &Branch> {
        let mut next = Some(from);
        std::iter::from_fn(move || {
            let at = next?;
            next = (at != 0).then(|| self.branches[at].parent);
            self.branches.get(at)
        })
    }

    /// What is said about a name in a directory, but for a rule for the very path.
    fn general(&self, directory: usize, name: &[u8]) -> RuleSet {
        let mut rules = RuleSet::default();
        for (distance, branch) in self.chain(directory).enumerate() {
            if distance == 0 {
                fill_patterns(&mut rules, &branch.patterns[0], &branch.patterns[1], name);
                fill(&mut rules, &branch.star);
            }
            fill_patterns(&mut rules, &branch.patterns[2], &branch.patterns[3], name);
            fill(&mut rules, &branch.below);
        }
        rules
    }

    /// What is said about the path of a branch itself.
    fn own(&self, index: usize, made: bool) -> RuleSet {
        let branch = &self.branches[index];
        let mut own = branch.own;
        if !made {
            // Node-RED makes its own settings file at the first start, with writes, a chmod and more: until that is done,
            // only what makes it, what is moved onto its name, and what uses it is judged.
            for (bit, rule) in own.iter_mut().enumerate() {
                if restrains(bit, *rule, MAKING) {
                    *rule = Rule::NONE;
                }
            }
        }
        let name = branch.path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
        let mut general = if index == 0 { RuleSet::default() } else { self.general(branch.parent, name) };
        // What is protected below speaks as loudly as what is said about places in general, but not against a rule for
        // this very path.
        for (rule, &held) in general.iter_mut().zip(&branch.held) {
            *rule = stricter(*rule, held);
        }
        fill(&mut own, &general);
        own
    }

    /// The rules for names at any depth, as they hold below a branch: its own and those from above.
    fn far_patterns(&self, index: usize, kind: usize) -> RankedPatterns {
        let literals: BTreeSet<_> = self.chain(index).flat_map(|branch| branch.patterns[kind].keys()).collect();
        let ranked = literals.into_iter().map(|literal| {
            let mut pattern = Pattern::default();
            for branch in self.chain(index) {
                let depth = branch.path.components().count();
                for len in (1..=literal.len()).rev() {
                    if let Some(shorter) = branch.patterns[kind].get(&literal[..len]) {
                        fill_ranked(&mut pattern, shorter, depth, len);
                    }
                }
                fill_ranked(&mut pattern, &branch.below, depth, 0);
            }
            (literal.clone(), pattern)
        });
        ranked.collect()
    }

    /// The strictest that any rule of the policy says about each access, of those that forbid something.
    pub(super) fn strictest(&self) -> RuleSet {
        let mut strictest = RuleSet::default();
        // The guard's own paths are root's, and no directory of the instance's is below them.
        for branch in self.branches.iter().filter(|branch| !branch.at_once) {
            let patterns = branch.patterns.iter().flat_map(BTreeMap::values);
            for rules in [&branch.own, &branch.star, &branch.below].into_iter().chain(patterns) {
                for (mine, &rule) in strictest.iter_mut().zip(rules) {
                    if rule.verdict > Verdict::Log as u8 {
                        *mine = stricter(*mine, rule);
                    }
                }
            }
        }
        strictest
    }

    /// What holds for the block devices below the files that rules are about: to read one is to read all that is on it, to
    /// write it is to change all.
    fn devices(&self, found: &[Option<Seen>], host: &dyn Host) -> BTreeMap<u32, RuleSet> {
        let mut below = BTreeMap::new();
        let mut devices: BTreeMap<u32, RuleSet> = BTreeMap::new();
        for (index, branch) in self.branches.iter().enumerate() {
            let raw = branch.raw();
            // What is not there yet will be made where its directory is.
            let mut above = std::iter::successors(Some(index), |&at| (at != 0).then(|| self.branches[at].parent));
            if !speaks(&raw) {
                continue;
            }
            let Some(Seen { id, .. }) = above.find_map(|at| found[at]) else { continue };
            for &device in below.entry(id.dev).or_insert_with(|| host.devices(id.dev)).iter() {
                let rules = devices.entry(device).or_default();
                rules.iter_mut().zip(raw).for_each(|(mine, theirs)| *mine = stricter(*mine, theirs));
            }
        }
        devices
    }

    /// Has the policy's rules about `/proc` hold in the other proc file systems that the instance sees, by a node of this
    /// number, if there are any. Answers with the branch that it is like.
    fn other_procs(
        &self,
        compiled: &mut Compiled,
        (epoch, slot): (u32, u16),
        (first, node): (u32, u32),
        host: &dyn Host,
    ) -> Option<usize> {
        let others = host.procs(slot);
        if !self.about_proc || others.is_empty() {
            return None;
        }
        let proc = self.branches.iter().position(|branch| branch.path == Path::new(PROC))?;
        let Branch { children, patterns, .. } = &self.branches[proc];
        // There the guard has another number than here, and the number that it has here is somebody else's.
        for (name, &child) in children.iter().filter(|&(_, &child)| !self.branches[child].at_once) {
            if let Some(name) = Name::new(name) {
                let child = first + u32::try_from(child).unwrap_or(u32::MAX);
                compiled.children.push((ChildKey { epoch, node, name }, child));
            }
        }
        for (kind, patterns) in patterns[..2].iter().enumerate() {
            compiled.patterns(epoch, node, kind, &with_shorter(patterns));
        }
        let root = |dev| InodeId { ino: PROC_ROOT, dev, generation: 0 };
        let key = |dev| InodeKey { id: root(dev), epoch, instance: u32::from(slot) };
        compiled.inodes.extend(others.into_iter().map(|dev| (key(dev), node)));
        Some(proc)
    }

    /// Answers with the guard's own paths to be watched, which take what room the policy's leave.
    pub(super) fn emit(
        mut self,
        compiled: &mut Compiled,
        epoch: u32,
        slot: u16,
        next_node: &mut u32,
        host: &dyn Host,
        identify: Identify<'_>,
    ) -> Vec<(u16, u32, PathBuf)> {
        let mut own = Vec::new();
        let first = *next_node;
        let number = |index: usize| first + u32::try_from(index).unwrap_or(u32::MAX);
        let mut identities: BTreeMap<(u32, u64, u32), Vec<usize>> = BTreeMap::new();
        // Parents come before their children.
        let mut found = Vec::with_capacity(self.branches.len());
        for index in 0..self.branches.len() {
            let Branch { path, parent, .. } = &self.branches[index];
            let alias =
                index != 0 && (self.branches[*parent].alias || host.link(&self.branches[*parent].path).is_some());
            let seen = identify(path);
            self.branches[index].alias = alias;
            if let Some(Seen { id, .. }) = seen.filter(|_| !alias) {
                identities.entry((id.dev, id.ino, id.generation)).or_default().push(index);
            }
            found.push(seen);
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(self.branches.len());
        for (index, branch) in self.branches.iter().enumerate() {
            let made =
                branch.at_once || host.is_expected(&branch.path) || found[index].is_some_and(|seen: Seen| seen.made);
            let mut node = Node {
                own: self.own(index, made),
                children: branch.star,
                parent: number(branch.parent),
                ..Node::default()
            };
            self.chain(index).for_each(|above| fill(&mut node.below, &above.below));
            if !branch.children.is_empty() {
                node.flags |= NODE_HAS_CHILDREN;
            }
            if branch.patterns[..2].iter().any(|patterns| !patterns.is_empty()) {
                node.flags |= NODE_CHILD_PATTERNS;
            }
            // A nearer `/**` speaks before patterns from farther up, so it too makes a new set.
            let patterns_above =
                self.chain(index).any(|above| above.patterns[2..].iter().any(|patterns| !patterns.is_empty()));
            let new_set = speaks(&branch.below) || branch.patterns[2..].iter().any(|patterns| !patterns.is_empty());
            if patterns_above {
                node.flags |= NODE_SUBTREE_PATTERNS;
                node.patterns = if new_set || index == 0 { number(index) } else { nodes[branch.parent].patterns };
                if node.patterns == 0 {
                    node.patterns = number(index);
                }
                if node.patterns != number(index) {
                    node.takes = nodes[branch.parent].takes;
                }
            }
            for kind in 0..4 {
                let patterns = match kind {
                    0 | 1 => with_shorter(&branch.patterns[kind]),
                    _ if node.patterns == number(index) => self.far_patterns(index, kind),
                    _ => continue,
                };
                if kind >= 2 {
                    node.takes = patterns.values().fold(node.takes, taken);
                }
                compiled.patterns(epoch, number(index), kind, &patterns);
            }
            for (name, &child) in &branch.children {
                if let Some(name) = Name::new(name) {
                    compiled.children.push((ChildKey { epoch, node: number(index), name }, number(child)));
                }
            }
            let changes = Access::from_bits(!(Access::READ.bits() | Access::EXEC.bits() | Access::CREATE.bits()));
            let own_restrains = |what| branch.own.iter().enumerate().any(|(bit, rule)| restrains(bit, *rule, what));
            // What is seen through a link is watched where it is.
            let here = found[index].is_some() && !branch.alias;
            if here && (speaks(&branch.held) || own_restrains(changes)) {
                let watches = if branch.at_once { &mut own } else { &mut compiled.watches };
                watches.push((slot, number(index), branch.path.clone()));
            }
            compiled.watched.push(Watched {
                path: branch.path.clone(),
                id: found[index].map(|seen| seen.id),
                waits: !made && own_restrains(MAKING),
            });
            nodes.push(node);
        }
        let mut extra = self.branches.len();
        for ((dev, ino, generation), indices) in identities {
            let key = InodeKey { id: InodeId { ino, dev, generation }, epoch, instance: u32::from(slot) };
            let Some((&main, others)) = indices.split_first() else { continue };
            if others.is_empty() {
                compiled.inodes.push((key, number(main)));
                continue;
            }
            // One file under several of the names: the process that made the second name must not select the milder rule.
            let mut node = nodes[main];
            for &other in others {
                let other = &nodes[other];
                for (mine, theirs) in [
                    (&mut node.own, &other.own),
                    (&mut node.children, &other.children),
                    (&mut node.below, &other.below),
                ] {
                    mine.iter_mut().zip(theirs).for_each(|(mine, &theirs)| *mine = stricter(*mine, theirs));
                }
                node.flags |= other.flags & NODE_HAS_CHILDREN;
                node.takes = stricter(node.takes, other.takes);
            }
            let mut seen = BTreeSet::new();
            for &index in &indices {
                for (name, &child) in &self.branches[index].children {
                    if let Some(kept) = Name::new(name).filter(|_| seen.insert(name)) {
                        compiled.children.push((ChildKey { epoch, node: number(extra), name: kept }, number(child)));
                    }
                }
            }
            for kind in 0..2 {
                compiled.patterns(epoch, number(extra), kind, &with_shorter(&self.branches[main].patterns[kind]));
            }
            compiled.inodes.push((key, number(extra)));
            nodes.push(node);
            extra += 1;
        }
        for (branch, (node, seen)) in self.branches.iter().zip(nodes.iter().zip(&found)) {
            let reaches = node.flags != 0 || speaks(&node.children) || speaks(&node.below);
            if let Some(Seen { id, .. }) = seen.filter(|_| reaches && !branch.alias) {
                compiled
                    .knowing
                    .entry(id)
                    .and_modify(|knowing| *knowing = knowing.and(slot))
                    .or_insert(Knowing::only(slot));
            }
        }
        if self.about_proc {
            compiled.about_proc.insert(slot);
        }
        if let Some(proc) = self.other_procs(compiled, (epoch, slot), (first, number(extra)), host) {
            nodes.push(nodes[proc]);
            extra += 1;
        }
        for (device, own) in self.devices(&found, host) {
            let key = InodeKey { id: InodeId::of_device(device), epoch, instance: u32::from(slot) };
            compiled.inodes.push((key, number(extra)));
            nodes.push(Node { own, ..Node::default() });
            extra += 1;
        }
        compiled
            .nodes
            .extend(nodes.into_iter().enumerate().map(|(index, node)| (NodeKey { epoch, node: number(index) }, node)));
        *next_node = number(extra);
        own
    }
}

/// Whether a rule for these names in a place is about a directory, or about something in it.
fn reaches(place: &Path, names: &Names, directory: &Path) -> bool {
    let deep = matches!(names, Names::Below | Names::BelowSuffix(_) | Names::BelowPrefix(_));
    place.starts_with(directory) || deep && directory.starts_with(place)
}

/// Whether the rule for the access of this bit is more than a permission, and the access is one of `what`.
fn restrains(bit: usize, rule: Rule, what: Access) -> bool {
    what.bits() & 1 << bit != 0 && rule.verdict > Verdict::Allow as u8
}

/// What is said about moving what a pattern protects, where that is forbidden: who moves the directory around it moves it too.
fn taken(takes: Rule, pattern: &Pattern) -> Rule {
    let rule = pattern.rules[Access::RENAME.bits().trailing_zeros() as usize];
    // As for the directories above what is protected, no window lets it go.
    if rule.verdict > Verdict::Allow as u8 { stricter(takes, rule.lifted_by(0)) } else { takes }
}

/// A process that moves a directory away can replace it: protection against change includes the directories above.
fn holds(rule: &FileRule, action: Rule) -> bool {
    let changes = Access::WRITE.union(Access::CREATE).union(Access::DELETE).union(Access::RENAME);
    action.verdict > Verdict::Allow as u8 && rule.access.bits() & changes.bits() != 0
}

/// The trie answers with the longest pattern alone, so a longer one also says what the shorter ones in it say.
fn with_shorter(patterns: &Patterns) -> RankedPatterns {
    let ranked = patterns.keys().map(|literal| {
        let mut pattern = Pattern::default();
        for len in (1..=literal.len()).rev() {
            if let Some(shorter) = patterns.get(&literal[..len]) {
                fill_ranked(&mut pattern, shorter, 0, len);
            }
        }
        (literal.clone(), pattern)
    });
    ranked.collect()
}

/// Fills in what the patterns say about a name, the longer pattern first, a prefix before a suffix of the same length.
fn fill_patterns(own: &mut RuleSet, suffixes: &Patterns, prefixes: &Patterns, name: &[u8]) {
    let backwards: Vec<u8> = name.iter().rev().copied().collect();
    for len in (1..=name.len().min(PATTERN_LEN)).rev() {
        if let Some(rules) = prefixes.get(&name[..len]) {
            fill(own, rules);
        }
        if let Some(rules) = suffixes.get(&backwards[..len]) {
            fill(own, rules);
        }
    }
}

impl Compiled {
    fn patterns(&mut self, epoch: u32, node: u32, kind: usize, patterns: &RankedPatterns) {
        for (literal, &pattern) in patterns {
            let mut bytes = [0; PATTERN_LEN];
            bytes[..literal.len()].copy_from_slice(literal);
            let len = u32::try_from(literal.len()).unwrap_or_default();
            let key = PatternKey { epoch, node, kind: u32::try_from(kind).unwrap_or_default(), bytes };
            self.patterns.push((key, PATTERN_HEAD_BITS + 8 * len, pattern));
        }
    }
}
