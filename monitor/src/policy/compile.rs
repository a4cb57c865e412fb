//! A policy as map entries for one epoch.
//!
//! File rules become a tree with a node for each component of each path that a rule names. Everything that follows
//! from precedence is worked out here, once, so that the kernel reads one node and knows.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use monitor_common::{
    Access, Verdict,
    name::Name,
    policy::{
        ChildKey, Direction, Instance, InodeId, InodeKey, MAX_NET_RULES, NET_HEAD_BITS, NODE_CHILD_PATTERNS, NODE_HAS_CHILDREN,
        NODE_SUBTREE_PATTERNS, NetKey, NetRule, NetRules, Node, NodeKey, PATTERN_CHILD_PREFIX, PATTERN_CHILD_SUFFIX, PATTERN_HEAD_BITS,
        PATTERN_LEN, PATTERN_SUBTREE_PREFIX, PATTERN_SUBTREE_SUFFIX, Pattern, PatternKey, Rule, RuleSet,
    },
    scope::{SELECT_CGROUP, SELECT_EXEC, SELECT_UID, Selector},
};

use super::{
    Fault,
    host::{Host, uid_of},
    model::{Action, FileRule, InstancePolicy, Names, Policy, Prefix},
};

/// A rule as records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The instance it belongs to.
    pub instance: String,
    /// Its id.
    pub id: String,
    /// What it says.
    pub sentence: String,
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
    /// Instances by slot.
    pub instances: Vec<(u16, Instance)>,
    /// Selectors.
    pub selectors: Vec<Selector>,
    /// Rules by index, from 1.
    pub rules: Vec<RuleInfo>,
    /// Paths whose identity the nodes rest on, with the one they had.
    pub watched: Vec<(PathBuf, Option<InodeId>)>,
}

/// Finds out the identity of a file, not following a link; `None` when it does not exist.
pub type Identify<'a> = &'a mut dyn FnMut(&Path) -> Option<InodeId>;

/// Compiles a policy. `slots` gives each instance the place that running processes are marked with.
pub fn compile(policy: &Policy, epoch: u32, slots: &BTreeMap<String, u16>, host: &dyn Host, identify: Identify<'_>) -> Result<Compiled, Fault> {
    let mut compiled = Compiled::default();
    let mut next_node = 1;
    for instance in &policy.instances {
        let slot = slots.get(&instance.name).copied().unwrap_or_default();
        let mut tree = Tree::new();
        for rule in &instance.files {
            let index = compiled.rule(instance, &rule.action, sentence(rule))?;
            tree.add(rule, rule_of(&rule.action, index), host);
        }
        tree.emit(&mut compiled, epoch, slot, &mut next_node, identify);
        compiled.nets(instance, epoch, slot)?;
        compiled.instances.push((slot, instance_of(instance, policy.enforce)));
        for select in &instance.select {
            let mut selector = Selector { instance: slot, ..Selector::default() };
            if let Some(uid) = uid_of(select, host) {
                selector.uid = uid;
                selector.flags |= SELECT_UID;
            }
            if select.exec {
                selector.flags |= SELECT_EXEC;
            }
            if select.unit.is_none() && select.container.is_none() && select.cgroup.is_none() {
                compiled.selectors.push(selector);
                continue;
            }
            selector.flags |= SELECT_CGROUP;
            // A unit that does not run has no cgroup yet: nothing to select until it does.
            compiled.selectors.extend(host.cgroups(select).into_iter().map(|(_, cgroup)| Selector { cgroup, ..selector }));
        }
    }
    compiled.selectors.truncate(monitor_common::scope::MAX_SELECTORS);
    Ok(compiled)
}

fn instance_of(instance: &InstancePolicy, enforce: bool) -> Instance {
    let defaults = instance.defaults.map(|verdict| Rule { id: 0, verdict: verdict as u8, fallback: Verdict::Unset as u8 });
    Instance { defaults, enforce: u32::from(enforce), used: 1 }
}

fn rule_of(action: &Action, index: u16) -> Rule {
    Rule { id: index, verdict: action.verdict as u8, fallback: action.fallback as u8 }
}

fn sentence(rule: &FileRule) -> String {
    let access: Vec<_> = rule.access.names().collect();
    let path = rule.path.display();
    let what = match &rule.names {
        Names::Itself => format!("{path}"),
        Names::Children => format!("{path}/*"),
        Names::Below => format!("{path}/**"),
        Names::ChildSuffix(suffix) => format!("{path}/*{suffix}"),
        Names::ChildPrefix(prefix) => format!("{path}/{prefix}*"),
        Names::BelowSuffix(suffix) => format!("{path}/**/*{suffix}"),
        Names::BelowPrefix(prefix) => format!("{path}/**/{prefix}*"),
    };
    format!("{} of {what}: {}", access.join(", "), rule.action.verdict.name())
}

/// The stricter of two rules of the same weight; the earlier one when they agree.
fn stricter(old: Rule, new: Rule) -> Rule {
    if !old.is_set() || new.verdict > old.verdict || (new.verdict == old.verdict && new.id < old.id && new.is_set()) { new } else { old }
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

/// Patterns of one kind under one node: the bytes as they are compared.
type Patterns = BTreeMap<Vec<u8>, RuleSet>;

#[derive(Clone, Debug, Default)]
struct Branch {
    path: PathBuf,
    parent: usize,
    children: BTreeMap<Vec<u8>, usize>,
    own: RuleSet,
    /// A protected path is below: the directory must not be moved away.
    held: Rule,
    star: RuleSet,
    below: RuleSet,
    /// By `PATTERN_*`.
    patterns: [Patterns; 4],
}

/// The paths of one instance's rules.
struct Tree {
    branches: Vec<Branch>,
}

impl Tree {
    fn new() -> Self {
        Self { branches: vec![Branch { path: PathBuf::from("/"), ..Branch::default() }] }
    }

    fn branch(&mut self, path: &Path) -> usize {
        let mut at = 0;
        for name in path.iter().skip(1) {
            let bytes = name.as_encoded_bytes();
            at = match self.branches[at].children.get(bytes) {
                Some(&child) => child,
                None => {
                    let new = self.branches.len();
                    let path = self.branches[at].path.join(name);
                    self.branches.push(Branch { path, parent: at, ..Branch::default() });
                    self.branches[at].children.insert(bytes.to_owned(), new);
                    new
                }
            };
        }
        at
    }

    /// Adds a rule at the path as written and, where that leads through a symbolic link, at its other end as well.
    fn add(&mut self, rule: &FileRule, action: Rule, host: &dyn Host) {
        self.add_at(&rule.path, rule, action);
        let real = host.resolve(&rule.path).or_else(|| {
            // The last name may be yet to come.
            Some(host.resolve(rule.path.parent()?)?.join(rule.path.file_name()?))
        });
        if let Some(real) = real.filter(|real| *real != rule.path) {
            self.add_at(&real, rule, action);
        }
    }

    fn add_at(&mut self, path: &Path, rule: &FileRule, action: Rule) {
        let at = self.branch(path);
        let branch = &mut self.branches[at];
        let (kind, literal) = match &rule.names {
            Names::Itself => {
                set(&mut branch.own, rule.access, action);
                (None, None)
            }
            Names::Children => {
                set(&mut branch.star, rule.access, action);
                (None, None)
            }
            Names::Below => {
                set(&mut branch.below, rule.access, action);
                (None, None)
            }
            Names::ChildSuffix(suffix) => (Some(PATTERN_CHILD_SUFFIX), Some(suffix.bytes().rev().collect())),
            Names::ChildPrefix(prefix) => (Some(PATTERN_CHILD_PREFIX), Some(prefix.clone().into_bytes())),
            Names::BelowSuffix(suffix) => (Some(PATTERN_SUBTREE_SUFFIX), Some(suffix.bytes().rev().collect())),
            Names::BelowPrefix(prefix) => (Some(PATTERN_SUBTREE_PREFIX), Some(prefix.clone().into_bytes())),
        };
        if let (Some(kind), Some(literal)) = (kind, literal) {
            set(self.branches[at].patterns[kind as usize].entry(literal).or_default(), rule.access, action);
        }
        self.hold(at, rule, action);
    }

    /// Whoever moves a directory away can put another in its place: what is protected holds every directory above.
    fn hold(&mut self, at: usize, rule: &FileRule, action: Rule) {
        let changes = Access::WRITE.union(Access::CREATE).union(Access::DELETE).union(Access::RENAME);
        if action.verdict <= Verdict::Allow as u8 || rule.access.bits() & changes.bits() == 0 {
            return;
        }
        // Of a directory whose content is meant, the directory itself is held too.
        let mut at = if rule.names == Names::Itself { self.branches[at].parent } else { at };
        while at != 0 {
            let branch = &mut self.branches[at];
            branch.held = stricter(branch.held, action);
            at = branch.parent;
        }
    }

    fn emit(mut self, compiled: &mut Compiled, epoch: u32, slot: u16, next_node: &mut u32, identify: Identify<'_>) {
        let first = *next_node;
        let number = |index: usize| first + u32::try_from(index).unwrap_or(u32::MAX);
        *next_node = number(self.branches.len());
        let mut far_nodes = vec![0; self.branches.len()];
        // Parents come before their children, so one pass hands everything down.
        for index in 0..self.branches.len() {
            let parent = self.branches[index].parent;
            let mut branch = std::mem::take(&mut self.branches[index]);
            let mut has_far = branch.patterns[2..].iter().any(|patterns| !patterns.is_empty());
            let id = identify(&branch.path);
            let mut own = branch.own;
            if id.is_none() {
                // Node-RED makes its own settings file at the first start, with writes, a chmod and more: until the file
                // is there, only its making and what is moved onto its name are judged.
                for (bit, rule) in own.iter_mut().enumerate() {
                    if (Access::CREATE.bits() | Access::RENAME.bits()) & 1 << bit == 0 {
                        *rule = Rule::NONE;
                    }
                }
            }
            if branch.held.is_set() {
                fill(&mut own, &only(Access::RENAME, branch.held));
            }
            if index > 0 {
                let above = &self.branches[parent];
                let name = branch.path.file_name().map(|name| name.as_encoded_bytes().to_owned()).unwrap_or_default();
                // From here on a file that is not there yet is one like any other.
                fill_patterns(&mut own, &above.patterns[0], &above.patterns[1], &name);
                fill(&mut own, &above.star);
                if far_nodes[parent] != 0 {
                    let far = &self.branches[far_index(far_nodes[parent])];
                    fill_patterns(&mut own, &far.patterns[2], &far.patterns[3], &name);
                    // A nearer `/**` speaks before a pattern from farther up.
                    let nearer = branch.below;
                    if has_far || nearer.iter().any(Rule::is_set) {
                        has_far = true;
                        for kind in 2..4 {
                            for (literal, rules) in far.patterns[kind].clone() {
                                let merged = branch.patterns[kind].entry(literal).or_default();
                                fill(merged, &nearer);
                                fill(merged, &rules);
                            }
                        }
                    }
                }
                fill(&mut own, &above.below);
                let inherited = above.below;
                fill(&mut branch.below, &inherited);
            }
            branch.patterns.iter_mut().for_each(inherit_shorter);
            far_nodes[index] = if has_far { index + 1 } else { far_nodes[parent] };
            let mut flags = 0;
            if !branch.children.is_empty() {
                flags |= NODE_HAS_CHILDREN;
            }
            if branch.patterns[..2].iter().any(|patterns| !patterns.is_empty()) {
                flags |= NODE_CHILD_PATTERNS;
            }
            if far_nodes[index] != 0 {
                flags |= NODE_SUBTREE_PATTERNS;
            }
            let far = if far_nodes[index] == 0 { 0 } else { number(far_index(far_nodes[index])) };
            let node =
                Node { own, children: branch.star, below: branch.below, parent: number(parent), patterns: far, flags, pad: 0 };
            compiled.nodes.push((NodeKey { epoch, node: number(index) }, node));
            if let Some(id) = id {
                compiled.inodes.push((InodeKey { id, epoch, instance: u32::from(slot) }, number(index)));
            }
            compiled.watched.push((branch.path.clone(), id));
            for (name, &child) in &branch.children {
                if let Some(name) = Name::new(name) {
                    compiled.children.push((ChildKey { epoch, node: number(index), name }, number(child)));
                }
            }
            for (kind, patterns) in (0..).zip(&branch.patterns) {
                for (literal, rules) in patterns {
                    let mut bytes = [0; PATTERN_LEN];
                    bytes[..literal.len()].copy_from_slice(literal);
                    let len = u32::try_from(literal.len()).unwrap_or_default();
                    let key = PatternKey { epoch, node: number(index), kind, bytes };
                    compiled.patterns.push((key, PATTERN_HEAD_BITS + 8 * len, Pattern { rules: *rules, ranks: [u16::try_from(len).unwrap_or(u16::MAX); Access::COUNT] }));
                }
            }
            self.branches[index] = branch;
        }
    }
}

fn far_index(stored: usize) -> usize {
    stored - 1
}

fn only(access: Access, rule: Rule) -> RuleSet {
    let mut rules = RuleSet::default();
    set(&mut rules, access, rule);
    rules
}

/// The trie answers with the longest pattern alone, so a longer one also says what the shorter ones in it say.
fn inherit_shorter(patterns: &mut Patterns) {
    let all = patterns.clone();
    for (literal, rules) in patterns {
        for len in (0..literal.len()).rev() {
            if let Some(shorter) = all.get(&literal[..len]) {
                fill(rules, shorter);
            }
        }
    }
}

/// Fills in what the patterns say about a name, the longer pattern first, a prefix before a suffix of the same length.
fn fill_patterns(own: &mut RuleSet, suffixes: &Patterns, prefixes: &Patterns, name: &[u8]) {
    let backwards: Vec<u8> = name.iter().rev().copied().collect();
    for len in (0..=name.len().min(PATTERN_LEN)).rev() {
        if let Some(rules) = prefixes.get(&name[..len]) {
            fill(own, rules);
        }
        if let Some(rules) = suffixes.get(&backwards[..len]) {
            fill(own, rules);
        }
    }
}

impl Compiled {
    fn rule(&mut self, instance: &InstancePolicy, action: &Action, sentence: String) -> Result<u16, Fault> {
        self.rules.push(RuleInfo { instance: instance.name.clone(), id: action.id.clone(), sentence });
        u16::try_from(self.rules.len())
            .map_err(|_| Fault { line: action.at.line, column: action.at.column, what: "more than 65535 rules in one policy".to_owned() })
    }

    fn nets(&mut self, instance: &InstancePolicy, epoch: u32, slot: u16) -> Result<(), Fault> {
        let mut by_prefix: HashMap<(u16, Prefix), Vec<NetRule>> = HashMap::new();
        for rule in &instance.nets {
            let end = if matches!(rule.direction, Direction::Egress) { "traffic to" } else { "connections from" };
            let index = self.rule(instance, &rule.action, format!("{end} {} ranges: {}", rule.prefixes.len(), rule.action.verdict.name()))?;
            let ports = if rule.ports.is_empty() { vec![(0, u16::MAX)] } else { rule.ports.clone() };
            for &prefix in &rule.prefixes {
                let rules = by_prefix.entry((rule.direction as u16, prefix)).or_default();
                rules.extend(ports.iter().map(|&(port_first, port_last)| NetRule {
                    port_first,
                    port_last,
                    protocol: rule.protocol,
                    pad: [0; 3],
                    rule: rule_of(&rule.action, index),
                }));
            }
        }
        for rules in by_prefix.values_mut() {
            // The narrower the more specific; of the same width the stricter.
            rules.sort_by_key(|rule| (rule.port_last - rule.port_first, rule.protocol == 0, u8::MAX - rule.rule.verdict, rule.rule.id));
        }
        for (&(direction, prefix), own) in &by_prefix {
            let mut all = own.clone();
            for bits in (0..prefix.bits).rev() {
                let around = Prefix { address: masked(prefix.address, bits), bits };
                all.extend(by_prefix.get(&(direction, around)).into_iter().flatten().copied());
            }
            if all.len() > MAX_NET_RULES {
                return Err(Fault {
                    line: instance.at.line,
                    column: instance.at.column,
                    what: format!(
                        "instance \"{}\": {} port ranges apply to one address range; at most {MAX_NET_RULES} do. Join ranges",
                        instance.name,
                        all.len()
                    ),
                });
            }
            let mut rules = NetRules { count: u32::try_from(all.len()).unwrap_or_default(), ..NetRules::default() };
            rules.rules[..all.len()].copy_from_slice(&all);
            let key = NetKey { epoch, instance: slot, direction, address: prefix.address };
            self.nets.push((key, NET_HEAD_BITS + u32::from(prefix.bits), rules));
        }
        Ok(())
    }
}

fn masked(address: [u8; 16], bits: u8) -> [u8; 16] {
    let all = u128::from_be_bytes(address);
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
    (all & mask).to_be_bytes()
}


#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use monitor_common::decide::{self, Lookups, PathView, Subject, TextView, Work};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{model::Select, parse::parse};

    /// The map entries in ordinary maps.
    struct Tables {
        inodes: HashMap<InodeKey, u32>,
        children: Vec<(ChildKey, u32)>,
        nodes: HashMap<NodeKey, Node>,
        patterns: Vec<(PatternKey, u32, Pattern)>,
        nets: Vec<(NetKey, u32, NetRules)>,
        instance: Instance,
    }

    impl Tables {
        fn new(compiled: Compiled) -> Self {
            Self {
                inodes: compiled.inodes.into_iter().collect(),
                children: compiled.children,
                nodes: compiled.nodes.into_iter().collect(),
                patterns: compiled.patterns,
                nets: compiled.nets,
                instance: compiled.instances[0].1,
            }
        }

        fn subject(&self) -> Subject<'_> {
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
                .filter(|(known, bits, _)| (known.epoch, known.node, known.kind) == (key.epoch, key.node, key.kind)
                    && same_bits(&known.bytes, &key.bytes, bits - PATTERN_HEAD_BITS))
                .max_by_key(|(_, bits, _)| *bits)
                .map(|(_, _, pattern)| pattern)
        }
        fn net(&self, key: &NetKey) -> Option<&NetRules> {
            self.nets
                .iter()
                .filter(|(known, bits, _)| known.direction == key.direction && same_bits(&known.address, &key.address, bits - NET_HEAD_BITS))
                .max_by_key(|(_, bits, _)| *bits)
                .map(|(_, _, rules)| rules)
        }
    }

    /// A file at a path; the identity of a path is a number made from its text.
    struct View {
        ids: Vec<InodeId>,
        names: Vec<Vec<u8>>,
        next: usize,
    }

    fn id_of(path: &Path) -> InodeId {
        let ino = path.as_os_str().as_encoded_bytes().iter().fold(7_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        InodeId { ino, dev: 1, generation: 1 }
    }

    impl View {
        fn new(path: &Path) -> Self {
            let ids = path.ancestors().map(id_of).collect();
            let names = path.ancestors().map(|path| path.file_name().map_or(b"/".to_vec(), |name| name.as_encoded_bytes().to_vec())).collect();
            Self { ids, names, next: 0 }
        }
    }

    impl PathView for View {
        fn climb(&mut self) -> Option<InodeId> {
            self.next += 1;
            self.ids.get(self.next - 1).copied()
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

    const EPOCH: u32 = 3;

    struct Everything;

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
        fn resolve(&self, path: &Path) -> Option<PathBuf> {
            Some(path.to_str()?.replace("/link", "/real").into())
        }
        fn can_deny_network(&self) -> bool {
            true
        }
        fn can_deny_files(&self) -> bool {
            true
        }
    }

    fn compiled(rules: &str, missing: &[&str]) -> Tables {
        let policy = parse(&format!(
            "version = 1\nmode = \"enforce\"\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 990 }}]\nuser-dir = \"/h/ud\"\n{rules}"
        ))
        .unwrap();
        let slots = BTreeMap::from([("a".to_owned(), 0)]);
        let mut identify = |path: &Path| (!missing.iter().any(|gone| path == Path::new(gone))).then(|| id_of(path));
        Tables::new(compile(&policy, EPOCH, &slots, &Everything, &mut identify).unwrap())
    }

    fn file(tables: &Tables, path: &str, access: Access) -> (Verdict, u16) {
        let decision = decide::file(tables, &tables.subject(), &mut View::new(Path::new(path)), access, &mut Work::NEW.clone());
        (decision.verdict, decision.rule)
    }

    fn text(tables: &Tables, from: &str, path: &str, access: Access) -> Verdict {
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
        let rules = [rule("\"**\"", "\"read\"", "log"), rule("\"certs/**\"", "\"read\"", "kill"), rule("\"certs/own.pem\"", "\"read\"", "allow")];
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
    fn both_ends_of_a_symbolic_link_are_protected() {
        let tables = compiled(&rule("\"/link/key\"", "\"read\", \"delete\"", "kill"), &[]);
        assert_eq!(file(&tables, "/real/key", Access::READ).0, Verdict::Kill);
        assert_eq!(text(&tables, "/", "link/key", Access::DELETE), Verdict::Kill);
    }

    #[test]
    fn text_is_walked_as_it_stands() {
        let tables = compiled(&rule("\"settings.js\"", "\"delete\"", "kill"), &[]);
        for path in ["settings.js", "./settings.js", "lib/../settings.js", "/h/ud/settings.js", "//h//ud/./settings.js", "../ud/settings.js"] {
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
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 0, address: decide::map_v4(address) };
            decide::net(&tables, &tables.subject(), &key, port, protocol).verdict
        };
        assert_eq!(verdict([192, 0, 2, 1], 443, 6), Verdict::Deny);
        assert_eq!(verdict([10, 9, 0, 1], 443, 6), Verdict::Allow);
        assert_eq!(verdict([10, 9, 0, 1], 443, 17), Verdict::Log);
        assert_eq!(verdict([10, 9, 0, 1], 5000, 6), Verdict::Deny);
        assert_eq!(verdict([10, 1, 0, 1], 22, 6), Verdict::Kill);
        assert_eq!(verdict([10, 1, 0, 1], 443, 6), Verdict::Allow);
    }

    /// What a rule is worth for a path: nearer directories first, then the kind; `None` when it does not match.
    fn worth(rule: &FileRule, path: &Path) -> Option<(usize, usize)> {
        let depth = rule.path.components().count();
        let name = path.file_name()?.to_str()?;
        let child = path.parent() == Some(rule.path.as_path());
        let below = path != rule.path && path.starts_with(&rule.path);
        let kind = match &rule.names {
            Names::Itself => return (path == rule.path).then_some((usize::MAX, 0)),
            Names::ChildPrefix(prefix) => (child && name.starts_with(prefix.as_str())).then_some(5),
            Names::ChildSuffix(suffix) => (child && name.ends_with(suffix.as_str())).then_some(4),
            Names::Children => child.then_some(3),
            Names::BelowPrefix(prefix) => (below && name.starts_with(prefix.as_str())).then_some(2),
            Names::BelowSuffix(suffix) => (below && name.ends_with(suffix.as_str())).then_some(1),
            Names::Below => below.then_some(0),
        };
        kind.map(|kind| (depth, kind))
    }

    fn reference(policy: &Policy, path: &Path, access: Access) -> Verdict {
        let rules = policy.instances[0].files.iter().filter(|rule| rule.access.contains(access));
        let matching: Vec<_> = rules.filter_map(|rule| Some((worth(rule, path)?, rule.action.verdict))).collect();
        matching.into_iter().max().map_or(Verdict::Allow, |(_, verdict)| verdict)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        /// Compiler and decision together agree with the plain reading of the rules.
        #[test]
        fn the_tree_means_what_the_rules_say(
            rules in prop::collection::vec(("(a|b)?(/(a|b)){0,2}", 0..7_usize, 0..3_usize, 1..5_u8), 1..8),
            paths in prop::collection::vec("(/(a|b|c|a\\.x|pa)){1,4}", 1..12),
        ) {
            let patterns = ["", "/*", "/**", "/*.x", "/p*", "/**/*.x", "/**/p*"];
            let mut body = String::new();
            for (path, kind, access, verdict) in &rules {
                let path = format!("/h/ud/{path}{}", patterns[*kind]).replace("//", "/");
                let path = if path == "/h/ud/" { "/h/ud".to_owned() } else { path };
                let access = ["\"read\"", "\"write\"", "\"read\", \"write\""][*access];
                body += &rule(&format!("{path:?}"), access, Verdict::from_raw(*verdict).name());
            }
            let tables = compiled(&body, &[]);
            let policy = parse(&format!("version = 1\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 9 }}]\nuser-dir = \"/h/ud\"\n{body}")).unwrap();
            let tried: BTreeSet<_> = paths.iter().map(|path| format!("/h/ud{path}")).collect();
            for path in &tried {
                for access in [Access::READ, Access::WRITE] {
                    let expected = reference(&policy, Path::new(path), access);
                    prop_assert_eq!(file(&tables, path, access).0, expected, "{} {:?}\n{}", path, access, body);
                    prop_assert_eq!(text(&tables, "/", &path[1..], access), expected, "{} {:?} by name\n{}", path, access, body);
                }
            }
        }
    }
}
