//! A policy as map entries for one epoch.
//!
//! File rules become a tree with a node for each component of each path that a rule names. Everything that follows
//! from precedence is worked out here, once, so that the kernel reads one node and knows.
//!
//! Precedence, for each access by itself: a rule for the very path; then the nearer directory; in one directory name
//! patterns, `/*`, name patterns at any depth, `/**`; of two patterns the longer, of equally long ones the one for the
//! beginning of the name. Of two rules that are equally specific the stricter holds.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Component, Path, PathBuf},
};

use monitor_common::{
    Access, Verdict,
    decide::map_v4,
    dns::{NameKey, NameRulesKey, ResolverKey},
    name::Name,
    policy::{
        ChildKey, Class, Direction, FIRST_RESERVED, InodeId, InodeKey, Instance, MAX_INSTANCES, MAX_NET_RULES,
        MAX_WATCHES, Maintenance, NET_HEAD_BITS, NODE_CHILD_PATTERNS, NODE_HAS_CHILDREN, NODE_SUBTREE_PATTERNS, NetKey,
        NetRule, NetRules, Node, NodeKey, PATTERN_CHILD_PREFIX, PATTERN_CHILD_SUFFIX, PATTERN_HEAD_BITS, PATTERN_LEN,
        PATTERN_SUBTREE_PREFIX, PATTERN_SUBTREE_SUFFIX, Pattern, PatternKey, Rule, RuleSet,
    },
    scope::{MAX_SELECTORS, SELECT_CGROUP, SELECT_EXEC, SELECT_UID, Selector},
    volume::{Limit, LimitKey},
};

use super::{
    Fault,
    host::{Host, uid_of},
    limit,
    model::{self, Action, FileRule, InstancePolicy, KillScope, Names, Policy, Prefix},
    name::DnsName,
};

/// Most symbolic links that are followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;

/// A rule as records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The instance it belongs to.
    pub instance: String,
    /// Its id.
    pub id: String,
    /// What it says.
    pub sentence: String,
    /// What it wants.
    pub verdict: Verdict,
    /// What it is about.
    pub class: Class,
    /// Who dies where it kills.
    pub scope: KillScope,
    /// What it is lifted for.
    pub maintenance: Option<Maintenance>,
    /// ATT&CK techniques that it is about.
    pub techniques: Vec<String>,
}

/// Everything that goes into the kernel's maps, and what is needed to read records of this epoch.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Nodes by identity.
    pub inodes: Vec<(InodeKey, u32)>,
    /// Nodes by name.
    pub children: Vec<(ChildKey, u32)>,
    /// The nodes.
    pub nodes: Vec<(NodeKey, Node)>,
    /// Name patterns and the bits of the key that count.
    pub patterns: Vec<(PatternKey, u32, Pattern)>,
    /// Addresses and the bits of the key that count.
    pub nets: Vec<(NetKey, u32, NetRules)>,
    /// Names, the bits of the key that count, and what they lead to.
    pub names: Vec<(NameKey, u32, u64)>,
    /// Rules of names.
    pub name_rules: Vec<(NameRulesKey, NetRules)>,
    /// Bounds to what leaves.
    pub limits: Vec<(LimitKey, Limit)>,
    /// Resolvers whose answers count.
    pub resolvers: Vec<ResolverKey>,
    /// Instances by slot.
    pub instances: Vec<(u16, Instance)>,
    /// Selectors.
    pub selectors: Vec<Selector>,
    /// Paths whose state the kernel looks at around calls that name paths: slot of the instance, node, path.
    pub watches: Vec<(u16, u32, PathBuf)>,
    /// Rules by index, from 1.
    pub rules: Vec<RuleInfo>,
    /// Who dies by the default of a class, where that is more than the process: slot of the instance, class, scope.
    pub scopes: Vec<(u16, Class, KillScope)>,
    /// Files of which a copy is kept, with the index of the rule.
    pub healed: Vec<(u16, PathBuf)>,
    /// Paths on whose identity the nodes rest.
    pub watched: Vec<Watched>,
}

/// A path on whose identity nodes rest. When another file, or none, is found there, or rules need not wait any longer, the
/// policy is to be compiled anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The path.
    pub path: PathBuf,
    /// What was there.
    pub id: Option<InodeId>,
    /// Rules against changes to this very path wait until a file is there, and made.
    pub waits: bool,
}

/// Whether something is at a path, and whether a rule waits until it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Something is there.
    pub there: bool,
    /// A rule waits.
    pub waits: bool,
}

/// The same for each path once: several instances may watch one, and not all of them have rules that wait.
#[must_use]
pub fn presence(watched: &[Watched]) -> BTreeMap<&Path, Presence> {
    let mut all: BTreeMap<&Path, Presence> = BTreeMap::new();
    for Watched { path, id, waits } in watched {
        let entry = all.entry(path).or_default();
        entry.there |= id.is_some();
        entry.waits |= *waits;
    }
    all
}

/// What is found at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its identity.
    pub id: InodeId,
    /// Nobody is busy making it any more; see [`settle`](super::settle).
    pub made: bool,
}

/// Finds out what is at a path, not following a link in its last name; `None` when nothing is.
///
/// When finding out fails, what was compiled must not be used: a file that counts as not there is less protected.
pub type Identify<'a> = &'a mut dyn FnMut(&Path) -> Option<Seen>;

/// What a file is made with: rules about these wait until it is made.
const MAKING: Access = Access::WRITE.union(Access::ATTR).union(Access::DELETE);

/// Compiles a policy. `slots` gives each instance the place that running processes are marked with.
pub fn compile(
    policy: &Policy,
    epoch: u32,
    slots: &BTreeMap<String, u16>,
    host: &dyn Host,
    identify: Identify<'_>,
) -> Result<Compiled, Fault> {
    let mut compiled = Compiled::default();
    let mut next_node = 1;
    let mut last = Vec::new();
    let mut taken = BTreeSet::new();
    for instance in &policy.instances {
        let slot =
            slots.get(&instance.name).copied().filter(|&slot| usize::from(slot) < MAX_INSTANCES && taken.insert(slot));
        let slot =
            slot.ok_or_else(|| instance.fault(format!("instance \"{}\" has no slot of its own", instance.name)))?;
        let mut tree = Tree::new();
        // The user directory can be moved like any other, rules or no rules.
        tree.branch(&instance.user_dir);
        for rule in &instance.files {
            let class = if rule.access == Access::EXEC { Class::Exec } else { Class::Files };
            let index = compiled.rule(instance, &rule.action, class, file_sentence(rule))?;
            tree.add(rule, rule_of(&rule.action, index), host);
            if rule.heal {
                compiled.healed.push((index, rule.path.clone()));
            }
        }
        for (_, class) in Class::NAMES {
            let scope = instance.defaults[class as usize].scope;
            if scope != KillScope::Process {
                compiled.scopes.push((slot, class, scope));
            }
        }
        let mut own = tree.emit(&mut compiled, epoch, slot, &mut next_node, host, identify);
        last.append(&mut own);
        compiled.nets(instance, epoch, slot)?;
        compiled.resolvers(instance, epoch, slot, host);
        compiled.instances.push((slot, instance_of(instance, policy.enforce)));
        compiled.selectors(instance, slot, host)?;
    }
    // The deepest are the ones that rules name; the directories above them come after. There is room for so many.
    for watches in [&mut compiled.watches, &mut last] {
        watches.sort_by_key(|(_, _, path)| Reverse(path.components().count()));
    }
    compiled.watches.append(&mut last);
    compiled.watches.truncate(MAX_WATCHES);
    Ok(compiled)
}

/// Only what makes processes belong to instances, as [`compile`] has it: units and containers come and go, and a look at
/// them every second must not cost what a whole policy does.
pub fn selectors(policy: &Policy, slots: &BTreeMap<String, u16>, host: &dyn Host) -> Result<Vec<Selector>, Fault> {
    let mut compiled = Compiled::default();
    for instance in &policy.instances {
        if let Some(&slot) = slots.get(&instance.name) {
            compiled.selectors(instance, slot, host)?;
        }
    }
    Ok(compiled.selectors)
}

impl InstancePolicy {
    fn fault(&self, what: String) -> Fault {
        Fault { line: self.at.line, column: self.at.column, what }
    }
}

fn instance_of(instance: &InstancePolicy, enforce: bool) -> Instance {
    let defaults = instance.defaults.map(|it| Rule { id: 0, verdict: it.verdict as u8, fallback: it.fallback as u8 });
    Instance { defaults, enforce: u32::from(enforce), used: 1 }
}

fn rule_of(action: &Action, index: u16) -> Rule {
    Rule { id: index, verdict: action.verdict as u8, fallback: action.fallback as u8 }
        .lifted_by(action.maintenance.map_or(0, |maintenance| maintenance as u8))
}

fn file_sentence(rule: &FileRule) -> String {
    let access: Vec<_> = rule.access.names().collect();
    let path = rule.path.display().to_string();
    let dir = path.trim_end_matches('/');
    let what = match &rule.names {
        Names::Itself => path,
        Names::Children => format!("{dir}/*"),
        Names::Below => format!("{dir}/**"),
        Names::ChildSuffix(suffix) => format!("{dir}/*{suffix}"),
        Names::ChildPrefix(prefix) => format!("{dir}/{prefix}*"),
        Names::BelowSuffix(suffix) => format!("{dir}/**/*{suffix}"),
        Names::BelowPrefix(prefix) => format!("{dir}/**/{prefix}*"),
    };
    format!("{} of {what}: {}", access.join(", "), rule.action.verdict.name())
}

fn net_sentence(rule: &model::NetRule) -> String {
    let mut text =
        String::from(if matches!(rule.direction, Direction::Egress) { "traffic to " } else { "connections from " });
    let names = rule.names.iter().map(ToString::to_string);
    let shown: Vec<_> = names.chain(rule.prefixes.iter().map(ToString::to_string)).take(4).collect();
    text += &shown.join(", ");
    let all = rule.names.len() + rule.prefixes.len();
    if all > shown.len() {
        let _ = write!(text, " and {} more", all - shown.len());
    }
    let ports: Vec<_> = rule
        .ports
        .iter()
        .map(|&(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    if !ports.is_empty() {
        let _ = write!(text, " port {}", ports.join(", "));
    }
    text += match rule.protocol {
        6 => " over TCP",
        17 => " over UDP",
        _ => "",
    };
    let bound = rule.bound.map_or_else(String::new, |bound| format!("; {bound}"));
    format!("{text}: {}{bound}", rule.action.verdict.name())
}

impl fmt::Display for Prefix {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Ipv6Addr::from(self.address).to_ipv4_mapped() {
            Some(address) if self.bits >= 96 => write!(to, "{address}/{}", self.bits - 96),
            _ if self.bits == 0 => to.write_str("any address"),
            _ => write!(to, "{}/{}", Ipv6Addr::from(self.address), self.bits),
        }
    }
}

/// The stricter of two rules of the same weight; the earlier one when they agree.
///
/// It speaks for both: a window lifts it only when the other is none that forbids outside of that window.
fn stricter(old: Rule, new: Rule) -> Rule {
    let rank = |rule: Rule| (rule.verdict, rule.fallback_verdict(), u16::MAX - rule.id);
    let (kept, other) = if new.is_set() && (!old.is_set() || rank(new) > rank(old)) { (new, old) } else { (old, new) };
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
                        // Nobody works on a file through the disk.
                        *mine = stricter(*mine, rule.lifted_by(0));
                    }
                }
            }
        }
        raw
    }
}

/// The paths of one instance's rules.
struct Tree {
    branches: Vec<Branch>,
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
    fn new() -> Self {
        Self { branches: vec![Branch { path: PathBuf::from("/"), ..Branch::default() }] }
    }

    fn branch(&mut self, path: &Path) -> usize {
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
    fn add(&mut self, rule: &FileRule, action: Rule, host: &dyn Host) {
        let ways = ways(&rule.path, host);
        for path in &ways.paths {
            self.add_at(path, rule, action);
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

    /// Answers with the guard's own paths to be watched, which take what room the policy's leave.
    fn emit(
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
            let made = branch.at_once || found[index].is_some_and(|seen: Seen| seen.made);
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
            }
            for kind in 0..4 {
                let patterns = match kind {
                    0 | 1 => with_shorter(&branch.patterns[kind]),
                    _ if node.patterns == number(index) => self.far_patterns(index, kind),
                    _ => continue,
                };
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
            // One file under several of the names: whoever made the second name must not choose the milder rule.
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

/// Whether the rule for the access of this bit is more than a permission, and the access is one of `what`.
fn restrains(bit: usize, rule: Rule, what: Access) -> bool {
    what.bits() & 1 << bit != 0 && rule.verdict > Verdict::Allow as u8
}

/// Whoever moves a directory away can put another in its place: what is protected against change holds those above.
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
    fn rule(
        &mut self,
        instance: &InstancePolicy,
        action: &Action,
        class: Class,
        sentence: String,
    ) -> Result<u16, Fault> {
        let Action { id, verdict, scope, maintenance, techniques, at, why, .. } = action;
        // Who reads a record wants the reason first.
        let sentence = match why {
            Some(why) => format!("{why} ({sentence})"),
            None => sentence,
        };
        self.rules.push(RuleInfo {
            instance: instance.name.clone(),
            id: id.clone(),
            sentence,
            verdict: *verdict,
            class,
            scope: *scope,
            maintenance: *maintenance,
            techniques: techniques.clone(),
        });
        let fits = u16::try_from(self.rules.len()).ok().filter(|&index| index < FIRST_RESERVED);
        fits.ok_or_else(|| Fault {
            line: at.line,
            column: at.column,
            what: format!("more than {} rules in one policy", FIRST_RESERVED - 1),
        })
    }

    fn patterns(&mut self, epoch: u32, node: u32, kind: usize, patterns: &RankedPatterns) {
        for (literal, &pattern) in patterns {
            let mut bytes = [0; PATTERN_LEN];
            bytes[..literal.len()].copy_from_slice(literal);
            let len = u32::try_from(literal.len()).unwrap_or_default();
            let key = PatternKey { epoch, node, kind: u32::try_from(kind).unwrap_or_default(), bytes };
            self.patterns.push((key, PATTERN_HEAD_BITS + 8 * len, pattern));
        }
    }

    fn selectors(&mut self, instance: &InstancePolicy, slot: u16, host: &dyn Host) -> Result<(), Fault> {
        for select in &instance.select {
            let fault = |what: String| Fault { line: select.at.line, column: select.at.column, what };
            let mut selector = Selector { instance: slot, ..Selector::default() };
            match (uid_of(select, host), &select.user) {
                (Some(uid), _) => {
                    selector.uid = uid;
                    selector.flags |= SELECT_UID;
                }
                // Without its user the rest of the selector would select more than was meant.
                (None, Some(user)) => return Err(fault(format!("there is no user \"{user}\" on this machine"))),
                (None, None) => {}
            }
            if select.exec {
                selector.flags |= SELECT_EXEC;
            }
            if select.unit.is_none() && select.container.is_none() && select.cgroup.is_none() {
                self.selectors.push(selector);
            } else {
                selector.flags |= SELECT_CGROUP;
                // A unit that does not run has no cgroup yet: nothing to select until it does.
                self.selectors
                    .extend(host.cgroups(select).into_iter().map(|(_, cgroup)| Selector { cgroup, ..selector }));
            }
            if self.selectors.len() > MAX_SELECTORS {
                return Err(fault(format!(
                    "more than {MAX_SELECTORS} selectors and cgroups in all; name a cgroup above several"
                )));
            }
        }
        Ok(())
    }

    fn nets(&mut self, instance: &InstancePolicy, epoch: u32, slot: u16) -> Result<(), Fault> {
        let mut by_prefix: BTreeMap<(u16, Prefix), Vec<NetRule>> = BTreeMap::new();
        let mut by_name: BTreeMap<&DnsName, Vec<NetRule>> = BTreeMap::new();
        for rule in &instance.nets {
            let class = if matches!(rule.direction, Direction::Egress) { Class::Egress } else { Class::Ingress };
            let index = self.rule(instance, &rule.action, class, net_sentence(rule))?;
            if let Some(bound) = rule.bound {
                limit::fits(self.limits.len(), &rule.action)?;
                self.limits.push(bound.limit(epoch, index));
            }
            let ports = if rule.ports.is_empty() { vec![(0, u16::MAX)] } else { rule.ports.clone() };
            let rules = |single| {
                ports.iter().map(move |&(port_first, port_last)| NetRule {
                    port_first,
                    port_last,
                    protocol: rule.protocol,
                    single,
                    pad: [0; 2],
                    rule: rule_of(&rule.action, index),
                })
            };
            for &prefix in &rule.prefixes {
                let single = u8::from(prefix.bits == 128);
                by_prefix.entry((rule.direction as u16, prefix)).or_default().extend(rules(single));
            }
            for name in &rule.names {
                by_name.entry(name).or_default().extend(rules(0));
            }
        }
        for rules in by_prefix.values_mut().chain(by_name.values_mut()) {
            sort(rules);
        }
        for (&(direction, prefix), own) in &by_prefix {
            let around = (0..prefix.bits).rev().map(|bits| Prefix { address: masked(prefix.address, bits), bits });
            let around = around.filter_map(|around| by_prefix.get(&(direction, around))).flatten();
            let rules = instance.joined(&prefix, own.iter().chain(around))?;
            let key = NetKey { epoch, instance: slot, direction, address: prefix.address };
            self.nets.push((key, NET_HEAD_BITS + u32::from(prefix.bits), rules));
        }
        for (&name, own) in &by_name {
            let around = name.around().filter_map(|around| by_name.get(&around)).flatten();
            let rules = instance.joined(name, own.iter().chain(around))?;
            let (key, bits) = name.key(slot, epoch);
            self.names.push((key, bits, name.id()));
            self.name_rules.push((NameRulesKey { name: name.id(), epoch, instance: slot.into() }, rules));
        }
        Ok(())
    }

    fn resolvers(&mut self, instance: &InstancePolicy, epoch: u32, slot: u16, host: &dyn Host) {
        let mut addresses = instance.resolvers.clone();
        if addresses.is_empty() {
            addresses = host.resolvers();
            if instance.select.iter().any(|select| select.container.is_some()) {
                addresses.push(DOCKER_RESOLVER);
            }
        }
        self.resolvers.extend(addresses.into_iter().map(|address| {
            let address = match address {
                IpAddr::V4(address) => map_v4(address.octets()),
                IpAddr::V6(address) => address.octets(),
            };
            ResolverKey { address, epoch, instance: slot.into() }
        }));
    }
}

/// Where containers in a network that a user has defined look names up.
const DOCKER_RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// The narrower the more specific; of the same width the stricter.
fn sort(rules: &mut [NetRule]) {
    rules.sort_by_key(|rule| {
        let (Rule { id, verdict, .. }, fallback) = (rule.rule, rule.rule.fallback_verdict());
        let lifted = rule.rule.maintenance() != 0;
        (rule.port_last - rule.port_first, rule.protocol == 0, u8::MAX - verdict, lifted, u8::MAX - fallback, id)
    });
}

impl InstancePolicy {
    /// The rules about one party, the most specific first, without those that are never reached.
    fn joined<'a>(
        &self,
        party: &dyn fmt::Display,
        rules: impl Iterator<Item = &'a NetRule>,
    ) -> Result<NetRules, Fault> {
        let mut all: Vec<NetRule> = Vec::new();
        for rule in rules {
            // What an earlier one covers is never reached.
            let covered = all.iter().any(|earlier| {
                earlier.port_first <= rule.port_first
                    && rule.port_last <= earlier.port_last
                    && (earlier.protocol == 0 || earlier.protocol == rule.protocol)
            });
            if !covered {
                all.push(*rule);
            }
        }
        if all.len() > MAX_NET_RULES {
            return Err(self.fault(format!(
                "instance \"{}\": {} port ranges apply to {party}, those of the ranges around it included; at most {MAX_NET_RULES} do. \
                 Join ranges",
                self.name,
                all.len(),
            )));
        }
        let mut joined = NetRules { count: u32::try_from(all.len()).unwrap_or_default(), ..NetRules::default() };
        joined.rules[..all.len()].copy_from_slice(&all);
        Ok(joined)
    }
}

fn masked(address: [u8; 16], bits: u8) -> [u8; 16] {
    let all = u128::from_be_bytes(address);
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
    (all & mask).to_be_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use monitor_common::decide::{self, Lookups, PathView, Subject, TextView, Work};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{host::CanDeny, model::Select, parse::parse};

    /// The map entries in ordinary maps.
    pub(in crate::policy) struct Tables {
        inodes: HashMap<InodeKey, u32>,
        children: Vec<(ChildKey, u32)>,
        nodes: HashMap<NodeKey, Node>,
        patterns: Vec<(PatternKey, u32, Pattern)>,
        nets: Vec<(NetKey, u32, NetRules)>,
        instance: Instance,
        /// The maintenance that goes on.
        pub(in crate::policy) window: Option<Maintenance>,
    }

    impl Tables {
        pub(in crate::policy) fn new(compiled: Compiled) -> Self {
            Self {
                inodes: compiled.inodes.into_iter().collect(),
                children: compiled.children,
                nodes: compiled.nodes.into_iter().collect(),
                patterns: compiled.patterns,
                nets: compiled.nets,
                instance: compiled.instances[0].1,
                window: None,
            }
        }

        pub(in crate::policy) fn subject(&self) -> Subject<'_> {
            Subject { epoch: EPOCH, slot: 0, instance: &self.instance }
        }
    }

    fn same_bits(a: &[u8], b: &[u8], bits: u32) -> bool {
        (0..bits as usize).all(|bit| (a[bit / 8] ^ b[bit / 8]) & (0x80 >> (bit % 8)) == 0)
    }

    impl Lookups for Tables {
        fn inode(&self, key: &InodeKey) -> Option<u32> {
            self.inodes.get(key).copied()
        }
        fn child(&self, key: &ChildKey) -> Option<u32> {
            self.children.iter().find(|(child, _)| child == key).map(|&(_, node)| node)
        }
        fn node(&self, key: &NodeKey) -> Option<&Node> {
            self.nodes.get(key)
        }
        fn pattern(&self, key: &PatternKey) -> Option<&Pattern> {
            self.patterns
                .iter()
                .filter(|(known, bits, _)| {
                    (known.epoch, known.node, known.kind) == (key.epoch, key.node, key.kind)
                        && same_bits(&known.bytes, &key.bytes, bits - PATTERN_HEAD_BITS)
                })
                .max_by_key(|(_, bits, _)| *bits)
                .map(|(_, _, pattern)| pattern)
        }
        fn net(&self, key: &NetKey) -> Option<&NetRules> {
            self.nets
                .iter()
                .filter(|(known, bits, _)| {
                    known.direction == key.direction && same_bits(&known.address, &key.address, bits - NET_HEAD_BITS)
                })
                .max_by_key(|(_, bits, _)| *bits)
                .map(|(_, _, rules)| rules)
        }
        fn window(&self, _: u16, maintenance: u8) -> u64 {
            u64::from(self.window.is_some_and(|open| open as u8 == maintenance))
        }
        fn now(&self) -> u64 {
            0
        }
    }

    /// A file at a path; the identity of a path is a number made from its text.
    struct View {
        ids: Vec<InodeId>,
        names: Vec<Vec<u8>>,
        next: usize,
    }

    pub(in crate::policy) fn id_of(path: &Path) -> InodeId {
        let ino = path
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(7_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        InodeId { ino, dev: 1, generation: 1 }
    }

    /// A file at that path that is there, and made.
    pub(in crate::policy) fn seen(path: &Path) -> Seen {
        Seen { id: id_of(path), made: true }
    }

    impl View {
        fn new(path: &Path) -> Self {
            let ids = path.ancestors().map(id_of).collect();
            let names = path
                .ancestors()
                .map(|path| path.file_name().map_or(b"/".to_vec(), |name| name.as_encoded_bytes().to_vec()))
                .collect();
            Self { ids, names, next: 0 }
        }
    }

    impl PathView for View {
        fn climb(&mut self, id: &mut InodeId) -> bool {
            let Some(&found) = self.ids.get(self.next) else { return false };
            self.next += 1;
            *id = found;
            true
        }
        fn name(&mut self, index: usize, name: &mut Name) -> bool {
            name.clear();
            self.names[index].iter().for_each(|&byte| name.push(byte));
            true
        }
    }

    struct Text(Vec<u8>);

    impl TextView for Text {
        fn at(&self, index: usize) -> u8 {
            self.0.get(index).copied().unwrap_or(0)
        }
    }

    pub(in crate::policy) const EPOCH: u32 = 3;

    /// Symbolic links of the machine in the tests.
    const LINKS: &[(&str, &str)] = &[
        ("/link", "/hop"),
        ("/hop", "x/../real"),
        ("/h/ud/linked.js", "../etc/real.js"),
        ("/loop", "/loop"),
        ("/h/far", "/real"),
    ];

    pub(in crate::policy) struct Everything;

    impl Host for Everything {
        fn uid(&self, _: &str) -> Option<u32> {
            Some(990)
        }
        fn login(&self, _: u32) -> Option<(String, String)> {
            None
        }
        fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
            Vec::new()
        }
        fn owner(&self, _: &Path) -> Option<(u32, u32)> {
            None
        }
        fn exists(&self, _: &Path) -> bool {
            true
        }
        fn link(&self, path: &Path) -> Option<PathBuf> {
            LINKS.iter().find(|(link, _)| Path::new(link) == path).map(|(_, target)| PathBuf::from(target))
        }
        fn can_deny(&self) -> CanDeny {
            CanDeny::default()
        }
    }

    fn compiled(rules: &str, missing: &[&str]) -> Tables {
        let policy = parse(&format!(
            "version = 1\nmode = \"enforce\"\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 990 }}]\nuser-dir = \"/h/ud\"\n{rules}"
        ))
        .unwrap();
        let slots = BTreeMap::from([("a".to_owned(), 0)]);
        let mut identify = |path: &Path| (!missing.iter().any(|gone| path == Path::new(gone))).then(|| seen(path));
        Tables::new(compile(&policy, EPOCH, &slots, &Everything, &mut identify).unwrap())
    }

    pub(in crate::policy) fn file(tables: &Tables, path: &str, access: Access) -> (Verdict, u16) {
        let decision =
            decide::file(tables, &tables.subject(), &mut View::new(Path::new(path)), access, &mut Work::NEW.clone());
        (decision.verdict, decision.rule)
    }

    pub(in crate::policy) fn text(tables: &Tables, from: &str, path: &str, access: Access) -> Verdict {
        let mut work = Work::NEW;
        let mut view = View::new(Path::new(from));
        if decide::place(tables, &tables.subject(), &mut view, &mut work).is_none() {
            return Verdict::Allow;
        }
        decide::text(tables, &tables.subject(), &Text(path.into()), access, &mut work).verdict
    }

    fn rule(paths: &str, access: &str, verdict: &str) -> String {
        format!("[[instance.files]]\npaths = [{paths}]\naccess = [{access}]\nverdict = \"{verdict}\"\n")
    }

    #[test]
    fn the_most_specific_rule_wins_whatever_the_order() {
        let rules = [
            rule("\"**\"", "\"read\"", "log"),
            rule("\"certs/**\"", "\"read\"", "kill"),
            rule("\"certs/own.pem\"", "\"read\"", "allow"),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let tables = compiled(&order.map(|index| rules[index].clone()).concat(), &[]);
            assert_eq!(file(&tables, "/h/ud/flows.json", Access::READ).0, Verdict::Log);
            assert_eq!(file(&tables, "/h/ud/certs/a/key.pem", Access::READ).0, Verdict::Kill);
            assert_eq!(file(&tables, "/h/ud/certs/own.pem", Access::READ).0, Verdict::Allow);
            assert_eq!(file(&tables, "/h/other", Access::READ).0, Verdict::Allow);
        }
    }

    #[test]
    fn on_a_tie_the_stricter_verdict_wins() {
        for order in [["log", "kill"], ["kill", "log"]] {
            let tables = compiled(&order.map(|verdict| rule("\"x\"", "\"read\"", verdict)).concat(), &[]);
            assert_eq!(file(&tables, "/h/ud/x", Access::READ).0, Verdict::Kill);
        }
    }

    #[test]
    fn a_hard_link_is_known_by_its_identity() {
        let tables = compiled(&rule("\"settings.js\"", "\"write\"", "kill"), &[]);
        let mut view = View::new(Path::new("/h/ud/lib/alias.js"));
        view.ids[0] = id_of(Path::new("/h/ud/settings.js"));
        let decision = decide::file(&tables, &tables.subject(), &mut view, Access::WRITE, &mut Work::NEW.clone());
        assert_eq!(decision.verdict, Verdict::Kill);
    }

    #[test]
    fn a_replaced_file_and_a_replaced_directory_are_known_by_name() {
        let tables = compiled(&rule("\"certs/key.pem\"", "\"read\"", "kill"), &[]);
        let mut view = View::new(Path::new("/h/ud/certs/key.pem"));
        view.ids[0].ino += 1;
        view.ids[1].ino += 1;
        let decision = decide::file(&tables, &tables.subject(), &mut view, Access::READ, &mut Work::NEW.clone());
        assert_eq!(decision.verdict, Verdict::Kill);
    }

    #[test]
    fn directories_above_a_protected_file_cannot_be_moved() {
        let tables = compiled(&rule("\"settings.js\"", "\"write\"", "kill"), &[]);
        for directory in ["/h/ud", "/h"] {
            assert_eq!(file(&tables, directory, Access::RENAME).0, Verdict::Kill, "{directory}");
            assert_eq!(text(&tables, "/", &directory[1..], Access::RENAME), Verdict::Kill, "{directory}");
        }
        assert_eq!(file(&tables, "/h/ud/lib", Access::RENAME).0, Verdict::Allow);
    }

    /// A rule that a palette window lifts.
    fn lifted(paths: &str, access: &str, verdict: &str) -> String {
        rule(paths, access, verdict) + "maintenance = \"palette\"\n"
    }

    #[test]
    fn a_window_opens_what_is_worked_on_and_moves_nothing_above_it() {
        let mut tables =
            compiled(&lifted("\"node_modules/**\", \"package.json\"", "\"write\", \"rename\"", "deny"), &[]);
        for (window, verdict) in [(None, Verdict::Deny), (Some(Maintenance::Palette), Verdict::Log)] {
            tables.window = window;
            for path in ["/h/ud/package.json", "/h/ud/node_modules/a", "/h/ud/node_modules/a/b.js"] {
                assert_eq!(file(&tables, path, Access::WRITE).0, verdict, "{path}");
                assert_eq!(file(&tables, path, Access::RENAME).0, verdict, "{path}");
            }
            for path in ["/h/ud/node_modules", "/h/ud", "/h"] {
                assert_eq!(file(&tables, path, Access::RENAME).0, Verdict::Deny, "{path}");
            }
        }
    }

    #[test]
    fn a_rule_that_speaks_for_another_is_lifted_only_with_it() {
        let [mild, strict] = ["deny", "kill"];
        for rules in [
            lifted("\"x\"", "\"write\"", strict) + &rule("\"x\"", "\"write\"", mild),
            lifted("\"x\"", "\"write\"", mild) + &rule("\"x\"", "\"write\"", mild),
            lifted("\"x\"", "\"write\"", strict)
                + &lifted("\"x\"", "\"write\"", strict).replace("\"palette\"", "\"settings\""),
        ] {
            let mut tables = compiled(&rules, &[]);
            tables.window = Some(Maintenance::Palette);
            assert!(file(&tables, "/h/ud/x", Access::WRITE).0 >= Verdict::Deny, "{rules}");
        }
        let both = lifted("\"x\"", "\"write\"", strict) + &lifted("\"x\"", "\"write\"", mild);
        let with_log = lifted("\"x\"", "\"write\"", mild) + &rule("\"x\"", "\"write\"", "log");
        for rules in [both, with_log] {
            let mut tables = compiled(&rules, &[]);
            tables.window = Some(Maintenance::Palette);
            assert_eq!(file(&tables, "/h/ud/x", Access::WRITE).0, Verdict::Log, "{rules}");
        }
    }

    #[test]
    fn the_first_start_may_make_its_settings_but_nothing_may_be_moved_there() {
        let rules = rule("\"settings.js\"", "\"write\", \"attr\", \"rename\"", "kill");
        let tables = compiled(&rules, &["/h/ud/settings.js"]);
        for access in [Access::WRITE, Access::CREATE, Access::ATTR] {
            assert_eq!(file(&tables, "/h/ud/settings.js", access).0, Verdict::Allow);
        }
        assert_eq!(text(&tables, "/h/ud", "settings.js", Access::RENAME), Verdict::Kill);
    }

    #[test]
    fn while_a_file_is_made_it_is_known_but_its_maker_is_let_through() {
        let rules = rule("\"settings.js\"", "\"read\", \"write\", \"attr\", \"delete\", \"link\"", "kill");
        let slots = BTreeMap::from([("a".to_owned(), 0)]);
        let compiled = |made| {
            let mut identify = |path: &Path| Some(Seen { made: made || !path.ends_with("settings.js"), ..seen(path) });
            compile(&policy_of(&rules), EPOCH, &slots, &Everything, &mut identify).unwrap()
        };
        let waiting = |compiled: &Compiled| -> Vec<_> {
            compiled.watched.iter().filter(|watched| watched.waits).map(|watched| watched.path.clone()).collect()
        };
        let [young, made] = [false, true].map(compiled);
        assert_eq!(waiting(&young), [PathBuf::from("/h/ud/settings.js")]);
        assert!(waiting(&made).is_empty());
        let (young, made) = (Tables::new(young), Tables::new(made));
        for access in [Access::WRITE, Access::ATTR, Access::DELETE] {
            assert_eq!(file(&young, "/h/ud/settings.js", access).0, Verdict::Allow, "{access:?}");
            assert_eq!(file(&made, "/h/ud/settings.js", access).0, Verdict::Kill, "{access:?}");
        }
        // By another name of the same file too.
        let mut alias = View::new(Path::new("/h/alias"));
        alias.ids[0] = id_of(Path::new("/h/ud/settings.js"));
        let read = decide::file(&young, &young.subject(), &mut alias, Access::READ, &mut Work::NEW.clone());
        assert_eq!(read.verdict, Verdict::Kill);
        assert_eq!(file(&young, "/h/ud/settings.js", Access::LINK).0, Verdict::Kill);
    }

    #[test]
    fn a_milder_rule_below_does_not_soften_the_hold_on_a_directory() {
        let tables =
            compiled(&[rule("\"**\"", "\"rename\"", "kill"), rule("\"lib/x\"", "\"write\"", "log")].concat(), &[]);
        assert_eq!(file(&tables, "/h/ud/lib", Access::RENAME).0, Verdict::Kill);
        // But a rule for the directory itself is the last word.
        let tables =
            compiled(&[rule("\"lib\"", "\"rename\"", "allow"), rule("\"lib/x\"", "\"write\"", "kill")].concat(), &[]);
        assert_eq!(file(&tables, "/h/ud/lib", Access::RENAME).0, Verdict::Allow);
    }

    #[test]
    fn a_file_that_is_not_there_keeps_what_does_not_hinder_its_making() {
        let rules = [
            rule("\"x\"", "\"read\", \"write\"", "kill"),
            rule("\"y\"", "\"write\"", "allow"),
            rule("\"**\"", "\"write\"", "deny"),
        ]
        .concat();
        let tables = compiled(&rules, &["/h/ud/x", "/h/ud/y"]);
        assert_eq!(file(&tables, "/h/ud/x", Access::READ).0, Verdict::Kill);
        assert_eq!(file(&tables, "/h/ud/x", Access::WRITE).0, Verdict::Deny);
        assert_eq!(file(&tables, "/h/ud/y", Access::WRITE).0, Verdict::Allow);
    }

    #[test]
    fn the_first_start_may_come_through_a_link() {
        let rules = rule("\"/link/settings.js\"", "\"write\", \"attr\", \"rename\"", "kill");
        let tables = compiled(&rules, &["/link/settings.js", "/hop/settings.js", "/real/settings.js"]);
        for path in ["link/settings.js", "real/settings.js"] {
            assert_eq!(text(&tables, "/", path, Access::ATTR), Verdict::Allow, "{path}");
            assert_eq!(text(&tables, "/", path, Access::RENAME), Verdict::Kill, "{path}");
        }
        let tables = compiled(&rules, &[]);
        assert_eq!(text(&tables, "/", "link/settings.js", Access::ATTR), Verdict::Kill);
    }

    #[test]
    fn every_link_on_the_way_and_its_end_are_protected() {
        let tables = compiled(&rule("\"/link/key\"", "\"read\", \"write\", \"delete\"", "kill"), &[]);
        assert_eq!(file(&tables, "/real/key", Access::READ).0, Verdict::Kill);
        for path in ["link/key", "hop/key", "real/key", "link", "hop"] {
            assert_eq!(text(&tables, "/", path, Access::DELETE), Verdict::Kill, "{path}");
        }
        for path in ["link", "hop", "real"] {
            assert_eq!(text(&tables, "/", path, Access::RENAME), Verdict::Kill, "{path}");
        }
        assert_eq!(text(&tables, "/", "real", Access::DELETE), Verdict::Allow);
        let id = |path: &str| tables.inode(&InodeKey { id: id_of(Path::new(path)), epoch: EPOCH, instance: 0 });
        assert!(id("/link").is_some() && id("/real/key").is_some());
        assert_eq!(id("/link/key"), None, "an identity belongs to the place where the file is");
    }

    #[test]
    fn an_absolute_link_starts_at_the_root() {
        let tables = compiled(&rule("\"/h/far/key\"", "\"read\"", "kill"), &[]);
        assert_eq!(file(&tables, "/real/key", Access::READ).0, Verdict::Kill);
    }

    #[test]
    fn what_is_protected_against_change_is_watched_where_it_is() {
        let rules = [
            rule("\"settings.js\"", "\"write\"", "kill"),
            rule("\"key.pem\"", "\"read\"", "kill"),
            rule("\"flows.json\"", "\"write\"", "allow"),
            rule("\"new.js\"", "\"write\"", "kill"),
            rule("\"/link/x\"", "\"write\"", "kill"),
        ]
        .concat();
        let policy = policy_of(&rules);
        let slots = BTreeMap::from([("a".to_owned(), 3)]);
        let mut identify = |path: &Path| (!path.ends_with("new.js")).then(|| seen(path));
        let compiled = compile(&policy, EPOCH, &slots, &Everything, &mut identify).unwrap();
        let watched: Vec<_> = compiled.watches.iter().map(|(slot, _, path)| (*slot, path.to_str().unwrap())).collect();
        assert_eq!(
            watched,
            [
                (3, "/h/ud/settings.js"),
                (3, "/h/ud"),
                (3, "/real/x"),
                (3, "/h"),
                (3, "/link"),
                (3, "/hop"),
                (3, "/real")
            ]
        );
        let many: String = (0..40).map(|index| rule(&format!("\"d/{index}\""), "\"write\"", "kill")).collect();
        let compiled = try_compile("{ uid = 9 }", &many, &[("a", 0)], &Everything).unwrap();
        assert_eq!(compiled.watches.len(), MAX_WATCHES);
        assert!(compiled.watches.iter().all(|(_, _, path)| path.starts_with("/h/ud/d/")));
    }

    fn policy_of(rules: &str) -> Policy {
        let head = "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ uid = 9 }]\nuser-dir = \"/h/ud\"\n";
        parse(&format!("{head}{rules}")).unwrap()
    }

    #[test]
    fn a_link_in_place_of_the_file_is_protected_as_the_file() {
        let tables = compiled(&rule("\"linked.js\"", "\"write\", \"delete\"", "kill"), &[]);
        assert_eq!(file(&tables, "/h/etc/real.js", Access::WRITE).0, Verdict::Kill);
        assert_eq!(text(&tables, "/h/ud", "linked.js", Access::DELETE), Verdict::Kill);
    }

    #[test]
    fn links_that_lead_nowhere_end() {
        let tables = compiled(&rule("\"/loop/key\"", "\"read\"", "kill"), &[]);
        assert_eq!(text(&tables, "/", "loop/key", Access::READ), Verdict::Kill);
    }

    fn try_compile(select: &str, rules: &str, slots: &[(&str, u16)], host: &dyn Host) -> Result<Compiled, Fault> {
        let text =
            format!("version = 1\n[[instance]]\nname = \"a\"\nselect = [{select}]\nuser-dir = \"/h/ud\"\n{rules}");
        let (policy, slots) =
            (parse(&text).unwrap(), slots.iter().map(|&(name, slot)| (name.to_owned(), slot)).collect());
        let compiled = compile(&policy, EPOCH, &slots, host, &mut |path| Some(seen(path)))?;
        // The look at them alone sees the same.
        assert_eq!(selectors(&policy, &slots, host).unwrap(), compiled.selectors);
        Ok(compiled)
    }

    #[test]
    fn a_path_that_two_instances_watch_waits_as_long_as_one_of_them_does() {
        let watched = |waits| Watched { path: "/h/ud".into(), id: Some(seen(Path::new("/h/ud")).id), waits };
        let (yes, no) = (watched(true), watched(false));
        for all in [[no.clone(), yes.clone()], [yes, no.clone()]] {
            assert_eq!(presence(&all)[Path::new("/h/ud")], Presence { there: true, waits: true });
        }
        assert!(!presence(&[no])[Path::new("/h/ud")].waits);
    }

    #[test]
    fn of_two_names_of_one_file_the_stricter_rule_holds() {
        for (a, b) in [("allow", "kill"), ("kill", "allow")] {
            let body = [rule("\"a.json\"", "\"write\"", a), rule("\"b.js\"", "\"write\"", b)].concat();
            let policy = parse(&format!(
                "version = 1\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 9 }}]\nuser-dir = \"/h/ud\"\n{body}"
            ))
            .unwrap();
            let one = |path: &Path| {
                if path.ends_with("b.js") { Path::new("/h/ud/a.json").to_owned() } else { path.to_owned() }
            };
            let mut identify = |path: &Path| Some(seen(&one(path)));
            let tables = Tables::new(
                compile(&policy, EPOCH, &BTreeMap::from([("a".to_owned(), 0)]), &Everything, &mut identify).unwrap(),
            );
            for path in ["/h/ud/a.json", "/h/ud/b.js", "/elsewhere/c"] {
                let mut view = View::new(Path::new(path));
                view.ids[0] = id_of(Path::new("/h/ud/a.json"));
                let decision =
                    decide::file(&tables, &tables.subject(), &mut view, Access::WRITE, &mut Work::NEW.clone());
                assert_eq!(decision.verdict, Verdict::Kill, "{path}");
            }
        }
    }

    #[test]
    fn every_instance_needs_a_slot_of_its_own() {
        assert!(try_compile("{ uid = 9 }", "", &[("a", 63)], &Everything).is_ok());
        assert!(try_compile("{ uid = 9 }", "", &[], &Everything).is_err());
        assert!(try_compile("{ uid = 9 }", "", &[("a", 64)], &Everything).is_err());
        let second = "[[instance]]\nname = \"b\"\nselect = [{ uid = 10 }]\nuser-dir = \"/h/ud2\"\n";
        assert!(try_compile("{ uid = 9 }", second, &[("a", 1), ("b", 1)], &Everything).is_err());
        let compiled = try_compile("{ uid = 9 }", second, &[("a", 1), ("b", 0)], &Everything).unwrap();
        assert_eq!(compiled.instances.iter().map(|&(slot, _)| slot).collect::<Vec<_>>(), [1, 0]);
        let numbers: BTreeSet<_> = compiled.nodes.iter().map(|(key, _)| key.node).collect();
        assert_eq!(numbers.len(), compiled.nodes.len(), "node numbers are unique in an epoch");
    }

    /// A machine without users, on which a unit has many cgroups.
    struct Strange;

    impl Host for Strange {
        fn uid(&self, _: &str) -> Option<u32> {
            None
        }
        fn login(&self, _: u32) -> Option<(String, String)> {
            None
        }
        fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
            (1..=65).map(|id| (PathBuf::new(), id)).collect()
        }
        fn owner(&self, _: &Path) -> Option<(u32, u32)> {
            None
        }
        fn exists(&self, _: &Path) -> bool {
            true
        }
        fn link(&self, _: &Path) -> Option<PathBuf> {
            None
        }
        fn can_deny(&self) -> CanDeny {
            CanDeny::default()
        }
    }

    #[test]
    fn a_selector_never_selects_more_or_less_than_was_meant() {
        let error = |select| try_compile(select, "", &[("a", 0)], &Strange).unwrap_err().to_string();
        assert!(error("{ user = \"gone\", exec = \"node-red\" }").contains("no user \"gone\""));
        assert!(error("{ unit = \"x.service\" }").contains("more than 64 selectors"));
        let compiled = try_compile("{ uid = 7, exec = \"node-red\" }", "", &[("a", 5)], &Strange).unwrap();
        assert_eq!(compiled.selectors, [Selector { cgroup: 0, uid: 7, instance: 5, flags: SELECT_UID | SELECT_EXEC }]);
        // A unit that does not run selects nobody, not everybody.
        assert!(
            try_compile("{ uid = 7, unit = \"x.service\" }", "", &[("a", 0)], &Everything)
                .unwrap()
                .selectors
                .is_empty()
        );
    }

    #[test]
    fn too_many_ports_are_refused_with_the_range_they_are_about() {
        let ports = |count: u16| (1..=count).map(|port| (port * 2).to_string()).collect::<Vec<_>>().join(", ");
        let rules = |count| {
            format!("[[instance.egress]]\nto = [\"10.0.0.0/8\"]\nports = [{}]\nverdict = \"log\"\n", ports(count))
        };
        assert!(try_compile("{ uid = 9 }", &rules(16), &[("a", 0)], &Everything).is_ok());
        let inner = "[[instance.egress]]\nto = [\"10.1.0.0/16\"]\nports = [9]\nverdict = \"log\"\n";
        let error = try_compile("{ uid = 9 }", &(rules(16) + inner), &[("a", 0)], &Everything).unwrap_err().to_string();
        assert!(error.contains("17 port ranges apply to 10.1.0.0/16"), "{error}");
        // A rule for every port leaves no room for those of the ranges around it, and needs none.
        let inner = "[[instance.egress]]\nto = [\"10.1.0.0/16\"]\nverdict = \"log\"\n";
        let compiled = try_compile("{ uid = 9 }", &(rules(16) + inner), &[("a", 0)], &Everything).unwrap();
        assert_eq!(
            compiled.nets.iter().map(|(_, bits, rules)| (bits - NET_HEAD_BITS, rules.count)).collect::<Vec<_>>(),
            [(104, 16), (112, 1)]
        );
    }

    #[test]
    fn a_reason_comes_first() {
        let rule =
            "[[instance.files]]\npath = \"x\"\naccess = [\"read\"]\nverdict = \"kill\"\nwhy = \"it is secret\"\n";
        let compiled = try_compile("{ uid = 9 }", rule, &[("a", 0)], &Everything).unwrap();
        assert_eq!(compiled.rules[0].sentence, "it is secret (read of /h/ud/x: kill)");
    }

    #[test]
    fn rules_are_told_as_sentences() {
        let rules = rule("\"/**/*.pem\"", "\"read\"", "kill")
            + "[[instance.egress]]\nto = [\"10.0.0.0/8\", \"any\", \"::1\"]\nports = [53, \"1-9\"]\nprotocol = \"udp\"\nverdict = \"deny\"\n[[instance.exec]]\npath = \"/usr/bin/curl\"\nverdict = \"log\"\n";
        let compiled = try_compile("{ uid = 9 }", &rules, &[("a", 0)], &Everything).unwrap();
        let told: Vec<_> =
            compiled.rules.iter().map(|rule| (rule.id.as_str(), rule.class, rule.sentence.as_str())).collect();
        assert_eq!(
            told,
            [
                ("files-1", Class::Files, "read of /**/*.pem: kill"),
                ("exec-1", Class::Exec, "exec of /usr/bin/curl: log"),
                ("egress-1", Class::Egress, "traffic to 10.0.0.0/8, any address, ::1/128 port 53, 1-9 over UDP: deny"),
            ]
        );
    }

    #[test]
    fn a_bound_is_the_rules_and_is_told_with_it() {
        let rules = "[[instance.egress]]\nto = \"10.0.0.0/8\"\nverdict = \"allow\"\n[[instance.egress]]\nto = \"any\"\n\
                     verdict = \"log\"\nmax-bytes = \"50 MiB\"\nper = \"day\"\nbeyond = \"deny\"\n";
        let compiled = try_compile("{ uid = 9 }", rules, &[("a", 0)], &Everything).unwrap();
        let limit = Limit { bytes: 50 << 20, hours: 24, beyond: Verdict::Deny as u32 };
        assert_eq!(compiled.limits, [(LimitKey { epoch: EPOCH, rule: 2 }, limit)]);
        let sentence = "traffic to any address: log; beyond 50 MiB to one address in a day: deny";
        assert_eq!(compiled.rules[1].sentence, sentence);
    }

    #[test]
    fn text_is_walked_as_it_stands() {
        let tables = compiled(&rule("\"settings.js\"", "\"delete\"", "kill"), &[]);
        for path in [
            "settings.js",
            "./settings.js",
            "lib/../settings.js",
            "/h/ud/settings.js",
            "//h//ud/./settings.js",
            "../ud/settings.js",
        ] {
            let from = if path.starts_with('/') { "/" } else { "/h/ud" };
            assert_eq!(text(&tables, from, path, Access::DELETE), Verdict::Kill, "{path}");
        }
        for path in ["settings.json", "lib/settings.js", "../settings.js", "settings.js/x"] {
            assert_eq!(text(&tables, "/h/ud", path, Access::DELETE), Verdict::Allow, "{path}");
        }
    }

    #[test]
    fn patterns_match_ends_and_beginnings() {
        let tables = compiled(&rule("\"**/*.pem\", \"id_*\"", "\"read\"", "kill"), &[]);
        for (path, verdict) in [
            ("/h/ud/a.pem", Verdict::Kill),
            ("/h/ud/x/y/z.pem", Verdict::Kill),
            ("/h/ud/.pem", Verdict::Kill),
            ("/h/ud/a.pem.txt", Verdict::Allow),
            ("/h/ud/id_rsa", Verdict::Kill),
            ("/h/ud/x/id_rsa", Verdict::Allow),
            ("/h/a.pem", Verdict::Allow),
        ] {
            assert_eq!(file(&tables, path, Access::READ).0, verdict, "{path}");
        }
    }

    #[test]
    fn the_longest_prefix_and_the_narrowest_ports_win() {
        let rules = "[[instance.egress]]\nto = [\"any\"]\nverdict = \"deny\"\n\
            [[instance.egress]]\nto = [\"10.0.0.0/8\"]\nports = [\"1-1000\"]\nverdict = \"log\"\n\
            [[instance.egress]]\nto = [\"10.0.0.0/8\"]\nports = [443]\nprotocol = \"tcp\"\nverdict = \"allow\"\n\
            [[instance.egress]]\nto = [\"10.1.0.0/16\"]\nports = [22]\nverdict = \"kill\"\n";
        let tables = compiled(rules, &[]);
        let verdict = |address: [u8; 4], port, protocol| {
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 0, address: map_v4(address) };
            decide::net(&tables, &tables.subject(), &key, port, protocol).verdict
        };
        assert_eq!(verdict([192, 0, 2, 1], 443, 6), Verdict::Deny);
        assert_eq!(verdict([10, 9, 0, 1], 443, 6), Verdict::Allow);
        assert_eq!(verdict([10, 9, 0, 1], 443, 17), Verdict::Log);
        assert_eq!(verdict([10, 9, 0, 1], 5000, 6), Verdict::Deny);
        assert_eq!(verdict([10, 1, 0, 1], 22, 6), Verdict::Kill);
        assert_eq!(verdict([10, 1, 0, 1], 443, 6), Verdict::Allow);
    }

    /// How specific a rule is for a path, compared in this order; `None` when it does not match.
    ///
    /// The path itself, then the nearer directory, then patterns of names in it, `/*`, patterns at any depth, `/**`;
    /// of two patterns the longer, of equally long ones the beginning of the name.
    fn worth(rule: &FileRule, path: &Path) -> Option<(usize, usize, usize, usize)> {
        let depth = rule.path.components().count();
        let name = path.file_name()?.to_str()?;
        let child = path.parent() == Some(rule.path.as_path());
        let below = path != rule.path && path.starts_with(&rule.path);
        let (fits, kind, literal, beginning) = match &rule.names {
            Names::Itself => return (path == rule.path).then_some((usize::MAX, 0, 0, 0)),
            Names::ChildPrefix(prefix) => (child && name.starts_with(prefix.as_str()), 3, prefix.len(), 1),
            Names::ChildSuffix(suffix) => (child && name.ends_with(suffix.as_str()), 3, suffix.len(), 0),
            Names::Children => (child, 2, 0, 0),
            Names::BelowPrefix(prefix) => (below && name.starts_with(prefix.as_str()), 1, prefix.len(), 1),
            Names::BelowSuffix(suffix) => (below && name.ends_with(suffix.as_str()), 1, suffix.len(), 0),
            Names::Below => (below, 0, 0, 0),
        };
        fits.then_some((depth, kind, literal, beginning))
    }

    /// The plain reading of the rules, without trees, nodes or tables.
    fn reference(policy: &Policy, path: &Path, access: Access) -> Verdict {
        let rules = &policy.instances[0].files;
        let speaking = rules.iter().filter(|rule| rule.access.contains(access));
        let best = speaking.filter_map(|rule| Some((worth(rule, path)?, rule.action.verdict))).max();
        if access != Access::RENAME || best.is_some_and(|((depth, ..), _)| depth == usize::MAX) {
            return best.map_or(Verdict::Allow, |(_, verdict)| verdict);
        }
        // What is protected below holds the directories above it.
        let changes = [Access::WRITE, Access::CREATE, Access::DELETE, Access::RENAME];
        let held = rules.iter().filter(|rule| changes.iter().any(|&change| rule.access.contains(change)));
        let held =
            held.filter(|rule| rule.path.starts_with(path) && (rule.names != Names::Itself || rule.path != path));
        let held = held.map(|rule| rule.action.verdict).filter(|verdict| *verdict > Verdict::Allow).max();
        best.map(|(_, verdict)| verdict).max(held).unwrap_or(Verdict::Allow)
    }

    const EACH: [Access; 5] = [Access::READ, Access::WRITE, Access::DELETE, Access::RENAME, Access::EXEC];

    fn accesses() -> impl Strategy<Value = Vec<&'static str>> {
        prop::sample::subsequence(vec!["read", "write", "delete", "rename", "exec"], 1..=3)
    }

    /// Directories of two names, three deep, and every kind of pattern; literals that contain each other.
    fn rules() -> impl Strategy<Value = String> {
        let names = prop::sample::select(vec![
            "",
            "/*",
            "/**",
            "/*.x",
            "/*.y.x",
            "/*x",
            "/p*",
            "/pa*",
            "/**/*.x",
            "/**/*.y.x",
            "/**/*x",
            "/**/p*",
            "/**/pa*",
        ]);
        let one =
            ("(/(a|b|pa\\.y\\.x)){0,3}", names, accesses(), 1..5_u8).prop_map(|(path, names, access, verdict)| {
                let access: Vec<_> = access.iter().map(|access| format!("{access:?}")).collect();
                rule(&format!("\"/h/ud{path}{names}\""), &access.join(", "), Verdict::from_raw(verdict).name())
            });
        prop::collection::vec(one, 1..8).prop_map(|rules| rules.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        /// Compiler and decision together agree with the plain reading of the rules.
        #[test]
        fn the_tree_means_what_the_rules_say(
            body in rules(),
            paths in prop::collection::btree_set("(/(a|b|c|x|a\\.x|p|pa|pa\\.x|p\\.y\\.x|pa\\.y\\.x)){0,4}", 1..16),
            // Directories that were replaced since the policy was compiled: known by name only.
            replaced in 0..5_usize,
        ) {
            let tables = compiled(&body, &[]);
            let policy = parse(&format!("version = 1\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 9 }}]\nuser-dir = \"/h/ud\"\n{body}")).unwrap();
            for path in paths.iter().map(|path| format!("/h/ud{path}")) {
                for access in EACH {
                    let expected = reference(&policy, Path::new(&path), access);
                    prop_assert_eq!(file(&tables, &path, access).0, expected, "{} {:?}\n{}", path, access, body);
                    prop_assert_eq!(text(&tables, "/", &path[1..], access), expected, "{} {:?} as text\n{}", path, access, body);
                    let mut view = View::new(Path::new(&path));
                    // All but the root directory.
                    let above = view.ids.len() - 1;
                    view.ids.iter_mut().take(replaced.min(above)).for_each(|id| id.generation += 1);
                    let decision = decide::file(&tables, &tables.subject(), &mut view, access, &mut Work::NEW.clone());
                    prop_assert_eq!(decision.verdict, expected, "{} {:?} with {} replaced\n{}", path, access, replaced, body);
                }
            }
        }

        /// The same for addresses: the longest prefix with a rule for the port, in it the narrowest range, then the stricter.
        #[test]
        fn the_trie_means_what_the_rules_say(
            rules in prop::collection::vec(
                (
                    prop::sample::select(vec!["any", "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "fc00::/7", "private"]),
                    prop::sample::select(vec!["", "ports = [\"1-9\"]\n", "ports = [3]\n", "ports = [\"2-4\", 9]\n"]),
                    prop::sample::select(vec!["", "protocol = \"tcp\"\n", "protocol = \"udp\"\n"]),
                    1..5_u8,
                ),
                0..6,
            ),
            address in prop::sample::select(vec!["10.1.2.3", "10.1.2.4", "10.1.9.9", "10.9.9.9", "9.9.9.9", "fd00::1", "2001:db8::1"]),
            port in prop::sample::select(vec![1_u16, 3, 4, 9, 10]),
            protocol in prop::sample::select(vec![6_u8, 17]),
        ) {
            let mut body = String::new();
            for (to, ports, protocol, verdict) in &rules {
                let verdict = Verdict::from_raw(*verdict).name();
                body += &["[[instance.egress]]\nto = [\"", to, "\"]\n", ports, protocol, "verdict = \"", verdict, "\"\n"].concat();
            }
            let tables = compiled(&body, &[]);
            let policy = parse(&format!("version = 1\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 9 }}]\nuser-dir = \"/h/ud\"\n{body}")).unwrap();
            let address = match address.parse().unwrap() {
                IpAddr::V4(address) => map_v4(address.octets()),
                IpAddr::V6(address) => address.octets(),
            };
            let mut best = None;
            for rule in &policy.instances[0].nets {
                let ports = if rule.ports.is_empty() { vec![(0, u16::MAX)] } else { rule.ports.clone() };
                for prefix in rule.prefixes.iter().filter(|prefix| masked(address, prefix.bits) == prefix.address) {
                    for &(first, last) in ports.iter().filter(|&&(first, last)| (first..=last).contains(&port)) {
                        if rule.protocol == 0 || rule.protocol == protocol {
                            let worth = (prefix.bits, u16::MAX - (last - first), rule.protocol != 0, rule.action.verdict);
                            best = best.max(Some(worth));
                        }
                    }
                }
            }
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 0, address };
            let decision = decide::net(&tables, &tables.subject(), &key, port, protocol);
            prop_assert_eq!(decision.verdict, best.map_or(Verdict::Allow, |(.., verdict)| verdict), "{}", body);
        }

        /// Whatever the order of the rules in the file.
        #[test]
        fn order_means_nothing(body in rules(), path in "(/(a|b|x|pa\\.y\\.x)){1,4}") {
            let path = format!("/h/ud{path}");
            let mut parts: Vec<_> = body.split_inclusive("verdict = ").collect::<Vec<_>>().join("").split("[[instance.files]]\n").skip(1).map(|rule| format!("[[instance.files]]\n{rule}")).collect();
            let forwards = compiled(&body, &[]);
            parts.reverse();
            let backwards = compiled(&parts.concat(), &[]);
            for access in EACH {
                prop_assert_eq!(file(&forwards, &path, access).0, file(&backwards, &path, access).0, "{} {:?}\n{}", path, access, body);
            }
        }
    }
}
