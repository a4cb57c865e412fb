//! The decision over tables that are written by hand, without a compiler to be right or wrong with it.

use std::collections::HashMap;

use monitor_common::{
    Access, Verdict,
    decide::{self, Decision, Lookups, MAX_CLIMB, MAX_DESCENT, PathView, Subject, TextView, Work},
    dns::{Bound, BoundKey, NameRulesKey},
    event::Pending,
    name::{NAME_LEN, Name},
    policy::{
        ChildKey, Class, Executable, InodeId, InodeKey, Instance, MAX_NET_RULES, Maintenance, NET_HEAD_BITS,
        NODE_CHILD_PATTERNS, NODE_HAS_CHILDREN, NODE_SUBTREE_PATTERNS, NetKey, NetRule, NetRules, Node, NodeKey,
        PATTERN_CHILD_PREFIX, PATTERN_CHILD_SUFFIX, PATTERN_LEN, PATTERN_SUBTREE_SUFFIX, Pattern, PatternKey, Rule,
        RuleSet,
    },
    volume::Limit,
};
use proptest::prelude::*;

const EPOCH: u32 = 7;
const SLOT: u16 = 2;

#[derive(Default)]
struct Tables {
    bound: Vec<(BoundKey, Bound)>,
    name_rules: Vec<(NameRulesKey, NetRules)>,
    inodes: HashMap<InodeKey, u32>,
    children: Vec<(ChildKey, u32)>,
    nodes: HashMap<NodeKey, Node>,
    patterns: Vec<(PatternKey, usize, Pattern)>,
    nets: Vec<(NetKey, u32, NetRules)>,
    instance: Instance,
    /// Until when the window for each maintenance is open, and what the clock says.
    windows: [u64; Maintenance::PLACES],
    now: u64,
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
        let of = |key: &PatternKey| (key.epoch, key.node, key.kind);
        let fits = |known: &PatternKey, len: usize| of(known) == of(key) && known.bytes[..len] == key.bytes[..len];
        let found = self.patterns.iter().filter(|(known, len, _)| fits(known, *len));
        found.max_by_key(|(_, len, _)| *len).map(|(_, _, pattern)| pattern)
    }
    fn net(&self, key: &NetKey) -> Option<&NetRules> {
        let of = |key: &NetKey| (key.epoch, key.instance, key.direction);
        let differ = |a: [u8; 16], b: [u8; 16]| (u128::from_be_bytes(a) ^ u128::from_be_bytes(b)).leading_zeros();
        let found = self
            .nets
            .iter()
            .filter(|(known, bits, _)| of(known) == of(key) && differ(known.address, key.address) >= *bits);
        found.max_by_key(|(_, bits, _)| *bits).map(|(_, _, rules)| rules)
    }
    fn window(&self, slot: u16, maintenance: u8) -> u64 {
        if slot == SLOT { self.windows[usize::from(maintenance)] } else { 0 }
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn bound(&self, key: &BoundKey) -> Option<&Bound> {
        self.bound.iter().find(|(known, _)| known == key).map(|(_, bound)| bound)
    }
    fn name_rules(&self, key: &NameRulesKey) -> Option<&NetRules> {
        self.name_rules.iter().find(|(known, _)| known == key).map(|(_, rules)| rules)
    }
}

const fn rule(id: u16, verdict: Verdict) -> Rule {
    Rule { id, verdict: verdict as u8, fallback: 0 }
}

fn on(access: Access, rule: Rule) -> RuleSet {
    let mut rules = RuleSet::default();
    for (bit, slot) in rules.iter_mut().enumerate() {
        if access.bits() & 1 << bit != 0 {
            *slot = rule;
        }
    }
    rules
}

fn id(ino: u64) -> InodeId {
    InodeId { ino, dev: 1, generation: 1 }
}

impl Tables {
    fn subject(&self) -> Subject<'_> {
        Subject { epoch: EPOCH, slot: SLOT, instance: &self.instance }
    }

    /// A node, found by the inode of the same number when `known`, and by name under its parent.
    fn node(mut self, node: u32, name: &str, known: bool, value: Node) -> Self {
        if known {
            self.inodes.insert(InodeKey { id: id(u64::from(node)), epoch: EPOCH, instance: u32::from(SLOT) }, node);
        }
        if let Some(name) = Name::new(name.as_bytes()) {
            self.children.push((ChildKey { epoch: EPOCH, node: value.parent, name }, node));
            if let Some(parent) = self.nodes.get_mut(&NodeKey { epoch: EPOCH, node: value.parent }) {
                parent.flags |= NODE_HAS_CHILDREN;
            }
        }
        self.nodes.insert(NodeKey { epoch: EPOCH, node }, value);
        self
    }

    fn pattern(mut self, node: u32, kind: u32, literal: &[u8], rules: RuleSet, ranks: [u16; Access::COUNT]) -> Self {
        let mut bytes = [0; PATTERN_LEN];
        bytes[..literal.len()].copy_from_slice(literal);
        self.patterns.push((PatternKey { epoch: EPOCH, node, kind, bytes }, literal.len(), Pattern { rules, ranks }));
        self
    }

    /// `path` lists inode and name from the root's child down to the file.
    fn file(&self, path: &[(u64, &str)], access: Access) -> Decision {
        decide::file(self, &self.subject(), &mut View::new(path), access, &mut Work::NEW.clone())
    }

    /// The same for a path as text, from the directory `from`.
    fn text(&self, from: &[(u64, &str)], text: &str, access: Access) -> Option<Decision> {
        let mut work = Work::NEW;
        decide::place(self, &self.subject(), &mut View::new(from), &mut work)?;
        Some(decide::text(self, &self.subject(), &Text(text.as_bytes()), access, &mut work))
    }
}

struct View<'a> {
    path: Vec<(u64, &'a str)>,
    next: usize,
}

impl<'a> View<'a> {
    /// The root directory has the inode and the node 1.
    fn new(path: &[(u64, &'a str)]) -> Self {
        let path = path.iter().rev().copied().chain([(1, "/")]).collect();
        Self { path, next: 0 }
    }
}

impl PathView for View<'_> {
    fn climb(&mut self, to: &mut InodeId) -> bool {
        let Some(&(ino, _)) = self.path.get(self.next) else { return false };
        self.next += 1;
        *to = id(ino);
        true
    }
    fn name(&mut self, index: usize, name: &mut Name) -> bool {
        name.clear();
        let Some((_, text)) = self.path.get(index) else { return false };
        text.bytes().for_each(|byte| name.push(byte));
        true
    }
}

struct Text<'a>(&'a [u8]);

impl TextView for Text<'_> {
    fn at(&self, index: usize) -> u8 {
        self.0.get(index).copied().unwrap_or(0)
    }
}

fn root() -> Tables {
    Tables::default().node(1, "", true, Node { parent: 1, ..Node::default() })
}

/// /ud is node 2, /ud/settings.js node 3, whose content must not be written.
fn settings() -> Tables {
    root().node(2, "ud", true, Node { parent: 1, ..Node::default() }).node(
        3,
        "settings.js",
        true,
        Node { parent: 2, own: on(Access::WRITE, rule(5, Verdict::Kill)), ..Node::default() },
    )
}

#[test]
fn a_file_is_known_by_identity_or_by_place() {
    let tables = settings();
    let killed = |path: &[(u64, &str)]| tables.file(path, Access::WRITE).verdict == Verdict::Kill;
    assert!(killed(&[(2, "ud"), (3, "settings.js")]));
    assert!(killed(&[(2, "ud"), (99, "settings.js")]), "another file in its place");
    assert!(killed(&[(98, "ud"), (99, "settings.js")]), "another directory in the place of its own");
    assert!(killed(&[(50, "tmp"), (3, "alias")]), "the file under another name");
    assert!(!killed(&[(2, "ud"), (99, "settings.json")]));
    assert!(!killed(&[(50, "tmp"), (99, "settings.js")]));
}

#[test]
fn a_decision_names_rule_access_and_fallback() {
    let mut own = on(Access::WRITE, Rule { id: 9, verdict: Verdict::Deny as u8, fallback: Verdict::Kill as u8 });
    own[0] = rule(4, Verdict::Log);
    let tables = root().node(2, "x", true, Node { parent: 1, own, ..Node::default() });
    let decision = tables.file(&[(2, "x")], Access::READ.union(Access::WRITE).union(Access::EXEC));
    assert_eq!(
        decision,
        Decision { verdict: Verdict::Deny, fallback: Verdict::Kill, rule: 9, access: Access::WRITE, window: 0 },
        "the strictest of the accesses decides"
    );
    assert_eq!(tables.file(&[(2, "x")], Access::READ).rule, 4);
}

#[test]
fn a_tree_belongs_to_one_instance_and_one_epoch() {
    let tables = settings();
    let path = [(2, "ud"), (3, "settings.js")];
    for (epoch, slot) in [(EPOCH + 1, SLOT), (EPOCH, SLOT + 1)] {
        let subject = Subject { epoch, slot, instance: &tables.instance };
        let decision = decide::file(&tables, &subject, &mut View::new(&path), Access::WRITE, &mut Work::NEW.clone());
        assert_eq!(decision.verdict, Verdict::Allow, "epoch {epoch} slot {slot}");
    }
}

#[test]
fn class_defaults_hold_where_nothing_speaks() {
    let mut tables = settings();
    tables.instance.defaults[Class::Files as usize] = rule(0, Verdict::Log);
    tables.instance.defaults[Class::Exec as usize] = rule(0, Verdict::Deny);
    assert_eq!(tables.file(&[(50, "tmp"), (99, "x")], Access::READ).verdict, Verdict::Log);
    assert_eq!(tables.file(&[(50, "tmp"), (99, "x")], Access::EXEC).verdict, Verdict::Deny);
    assert_eq!(tables.file(&[(2, "ud"), (3, "settings.js")], Access::READ).verdict, Verdict::Log);
    assert_eq!(tables.file(&[(2, "ud"), (3, "settings.js")], Access::WRITE).verdict, Verdict::Kill);
    assert_eq!(decide::class(&tables.subject(), Class::Files, Access::READ).verdict, Verdict::Log);
    assert_eq!(decide::class(&tables.subject(), Class::Ptrace, Access::NONE).verdict, Verdict::Allow);
}

#[test]
fn no_access_is_no_decision() {
    // An O_PATH open.
    let decision = settings().file(&[(2, "ud"), (3, "settings.js")], Access::NONE);
    assert_eq!((decision.verdict, decision.rule), (Verdict::Unset, 0));
}

#[test]
fn children_and_below_reach_as_far_as_they_say() {
    let children = on(Access::READ, rule(1, Verdict::Kill));
    let below = on(Access::READ.union(Access::WRITE), rule(2, Verdict::Log));
    let tables = root().node(2, "d", true, Node { parent: 1, children, below, ..Node::default() });
    assert_eq!(
        tables.file(&[(2, "d")], Access::READ).verdict,
        Verdict::Allow,
        "the directory itself is not below itself"
    );
    assert_eq!(tables.file(&[(2, "d"), (9, "x")], Access::READ).verdict, Verdict::Kill);
    assert_eq!(tables.file(&[(2, "d"), (9, "x")], Access::WRITE).verdict, Verdict::Log);
    assert_eq!(tables.file(&[(2, "d"), (8, "y"), (9, "x")], Access::READ).verdict, Verdict::Log);
}

#[test]
fn of_both_ends_of_a_name_the_higher_rank_decides_for_each_access() {
    // READ: the beginning is more specific; WRITE: the end is. Neither entry as a whole is.
    let rules = |read, write| {
        let mut rules = on(Access::READ, rule(1, read));
        rules[1] = rule(2, write);
        rules
    };
    let tables = root()
        .node(2, "d", true, Node { parent: 1, flags: NODE_CHILD_PATTERNS, ..Node::default() })
        .pattern(2, PATTERN_CHILD_PREFIX, b"id_", rules(Verdict::Kill, Verdict::Allow), [9, 1, 0, 0, 0, 0, 0, 0])
        .pattern(2, PATTERN_CHILD_SUFFIX, b"bup.", rules(Verdict::Allow, Verdict::Deny), [4, 4, 0, 0, 0, 0, 0, 0]);
    assert_eq!(tables.file(&[(2, "d"), (9, "id_rsa.pub")], Access::READ).verdict, Verdict::Kill);
    assert_eq!(tables.file(&[(2, "d"), (9, "id_rsa.pub")], Access::WRITE).verdict, Verdict::Deny);
    assert_eq!(tables.file(&[(2, "d"), (9, "id_rsa")], Access::WRITE).verdict, Verdict::Allow);
    assert_eq!(tables.file(&[(2, "d"), (9, "x.pub")], Access::READ).verdict, Verdict::Allow);
}

#[test]
fn of_equal_ranks_the_beginning_decides_and_silence_never_does() {
    let tables = root()
        .node(2, "d", true, Node { parent: 1, flags: NODE_CHILD_PATTERNS, ..Node::default() })
        .pattern(2, PATTERN_CHILD_PREFIX, b"ab", on(Access::READ, rule(1, Verdict::Log)), [3, 9, 0, 0, 0, 0, 0, 0])
        .pattern(2, PATTERN_CHILD_SUFFIX, b"yx", on(Access::READ.union(Access::WRITE), rule(2, Verdict::Kill)), [3; 8]);
    assert_eq!(tables.file(&[(2, "d"), (9, "abxy")], Access::READ).verdict, Verdict::Log);
    assert_eq!(
        tables.file(&[(2, "d"), (9, "abxy")], Access::WRITE).verdict,
        Verdict::Kill,
        "no rule, whatever its rank"
    );
}

#[test]
fn patterns_below_are_looked_up_where_they_are_filed() {
    let kill = on(Access::READ, rule(1, Verdict::Kill));
    let tables = root()
        .node(2, "d", true, Node { parent: 1, flags: NODE_SUBTREE_PATTERNS, patterns: 2, ..Node::default() })
        .node(3, "e", true, Node { parent: 2, flags: NODE_SUBTREE_PATTERNS, patterns: 2, ..Node::default() })
        .pattern(2, PATTERN_SUBTREE_SUFFIX, b"mep.", kill, [1; 8]);
    for path in [
        &[(2, "d"), (9, "a.pem")][..],
        &[(2, "d"), (3, "e"), (9, "a.pem")],
        &[(2, "d"), (3, "e"), (8, "f"), (9, "a.pem")],
    ] {
        assert_eq!(tables.file(path, Access::READ).verdict, Verdict::Kill, "{path:?}");
    }
    assert_eq!(tables.file(&[(2, "d"), (9, "a.pem.txt")], Access::READ).verdict, Verdict::Allow);
}

#[test]
fn a_name_that_does_not_fit_has_a_beginning_but_no_end() {
    let kill = on(Access::READ, rule(1, Verdict::Kill));
    let tables = root()
        .node(2, "d", true, Node { parent: 1, flags: NODE_CHILD_PATTERNS, ..Node::default() })
        .pattern(2, PATTERN_CHILD_SUFFIX, b"mep.", kill, [1; 8])
        .pattern(2, PATTERN_CHILD_PREFIX, b"id_", kill, [1; 8]);
    let long = |head: &str, len: usize| format!("{head}{}.pem", "n".repeat(len - head.len() - 4));
    let verdict = |name: &str| tables.file(&[(2, "d"), (9, name)], Access::READ).verdict;
    assert_eq!(verdict(&long("", NAME_LEN - 1)), Verdict::Kill);
    // A known limit: the kernel gives the first bytes of a name only.
    assert_eq!(verdict(&long("", NAME_LEN)), Verdict::Allow);
    // Nor is the beginning taken for the end.
    assert_eq!(verdict(&format!(".pem{}", "n".repeat(NAME_LEN))), Verdict::Allow);
    assert_eq!(verdict(&long("id_", NAME_LEN)), Verdict::Kill);
}

#[test]
fn a_long_name_is_not_taken_for_its_beginning() {
    let name = "n".repeat(NAME_LEN - 1);
    let tables = root().node(
        2,
        &name,
        false,
        Node { parent: 1, own: on(Access::READ, rule(1, Verdict::Kill)), ..Node::default() },
    );
    assert_eq!(tables.file(&[(9, &name)], Access::READ).verdict, Verdict::Kill);
    assert_eq!(tables.file(&[(9, &(name.clone() + "n"))], Access::READ).verdict, Verdict::Allow);
    assert_eq!(tables.text(&[], &name, Access::READ).unwrap().verdict, Verdict::Kill);
    assert_eq!(tables.text(&[], &(name.clone() + "n"), Access::READ).unwrap().verdict, Verdict::Allow);
}

#[test]
fn the_climb_and_the_descent_have_bounds() {
    let names: Vec<String> = (0..40).map(|index| format!("d{index}")).collect();
    let path = |depth: usize| -> Vec<(u64, &str)> {
        (0..depth).map(|index| (100 + index as u64, names[index].as_str())).collect()
    };
    let mut tables = root();
    tables.nodes.get_mut(&NodeKey { epoch: EPOCH, node: 1 }).unwrap().below = on(Access::READ, rule(1, Verdict::Kill));
    assert_eq!(tables.file(&path(MAX_CLIMB - 1), Access::READ).verdict, Verdict::Kill);
    // A known limit: deeper files are outside of every rule but those for nearer directories.
    assert_eq!(tables.file(&path(MAX_CLIMB), Access::READ).verdict, Verdict::Allow);

    // Directories that were all replaced, found again by name.
    let mut tables = root();
    for (index, name) in names.iter().take(MAX_DESCENT + 1).enumerate() {
        let number = u32::try_from(index).unwrap();
        let own = on(Access::READ, rule(1, Verdict::Kill));
        tables = tables.node(number + 2, name, false, Node { parent: number + 1, own, ..Node::default() });
    }
    assert_eq!(tables.file(&path(MAX_DESCENT), Access::READ).verdict, Verdict::Kill);
    // A known limit too.
    assert_eq!(tables.file(&path(MAX_DESCENT + 1), Access::READ).verdict, Verdict::Allow);
}

#[test]
fn text_goes_up_and_down() {
    let tables = settings();
    let ud = [(2, "ud")];
    for (text, killed) in [
        ("settings.js", true),
        ("./settings.js", true),
        (".//./settings.js", true),
        ("../ud/settings.js", true),
        ("a/b/../../settings.js", true),
        ("../../../../ud/settings.js", true),
        ("settings.js/", true),
        ("settings.js/..", false),
        ("settings.js/x", false),
        (".settings.js", false),
        ("..settings.js", false),
        ("...", false),
        ("a/settings.js", false),
        ("", false),
    ] {
        let decision = tables.text(&ud, text, Access::WRITE).unwrap();
        assert_eq!(decision.verdict == Verdict::Kill, killed, "{text:?}: {decision:?}");
    }
}

/// A call on a descriptor has no text: what it is about is the file that the walk begins at.
#[test]
fn without_text_a_file_has_the_name_that_it_was_opened_by() {
    let ends = on(Access::ATTR, rule(1, Verdict::Kill));
    let ud = Node { parent: 1, flags: NODE_CHILD_PATTERNS, ..Node::default() };
    let tables = root().node(2, "ud", true, ud).pattern(2, PATTERN_CHILD_SUFFIX, b"mep.", ends, [1; Access::COUNT]);
    for (name, verdict) in [("key.pem", Verdict::Kill), ("key.txt", Verdict::Allow)] {
        let file = [(2, "ud"), (3, name)];
        assert_eq!(tables.text(&file, "", Access::ATTR).unwrap().verdict, verdict, "{name}");
    }
}

#[test]
fn text_has_no_place_where_no_directory_is_known() {
    let mut tables = settings();
    tables.inodes.clear();
    assert_eq!(tables.text(&[(2, "ud")], "settings.js", Access::WRITE), None);
}

#[test]
fn addresses_ports_and_protocols() {
    let net_rule = |port_first, port_last, protocol, verdict| NetRule {
        port_first,
        port_last,
        protocol,
        single: 0,
        pad: [0; 2],
        rule: rule(1, verdict),
    };
    let mut rules = NetRules { count: 2, ..NetRules::default() };
    rules.rules[0] = net_rule(10, 20, 6, Verdict::Allow);
    rules.rules[1] = net_rule(0, u16::MAX - 1, 0, Verdict::Deny);
    // Not counted, so not there.
    rules.rules[2] = net_rule(0, u16::MAX, 0, Verdict::Kill);
    let key = NetKey { epoch: EPOCH, instance: SLOT, direction: 0, address: decide::map_v4([10, 0, 0, 0]) };
    let mut tables = Tables { nets: vec![(key, 96 + 8, rules)], ..Tables::default() };
    tables.instance.defaults[Class::Egress as usize] = rule(0, Verdict::Log);
    tables.instance.defaults[Class::Ingress as usize] = rule(0, Verdict::Kill);
    let verdict = |key: NetKey, port, protocol| decide::net(&tables, &tables.subject(), &key, port, protocol).verdict;
    let to = |address| NetKey { address: decide::map_v4(address), ..key };
    assert_eq!(verdict(to([10, 1, 2, 3]), 10, 6), Verdict::Allow);
    assert_eq!(verdict(to([10, 1, 2, 3]), 20, 6), Verdict::Allow);
    assert_eq!(verdict(to([10, 1, 2, 3]), 21, 6), Verdict::Deny);
    assert_eq!(verdict(to([10, 1, 2, 3]), 9, 6), Verdict::Deny);
    assert_eq!(verdict(to([10, 1, 2, 3]), 10, 17), Verdict::Deny);
    assert_eq!(verdict(to([10, 1, 2, 3]), 10, 0), Verdict::Allow, "a protocol that is not known fits every rule");
    assert_eq!(verdict(to([10, 1, 2, 3]), u16::MAX, 6), Verdict::Log, "the third rule does not count");
    assert_eq!(verdict(to([11, 1, 2, 3]), 10, 6), Verdict::Log);
    assert_eq!(verdict(NetKey { direction: 1, ..to([10, 1, 2, 3]) }, 10, 6), Verdict::Kill);
    assert_eq!(NET_HEAD_BITS, 64);
}

/// 192.0.2.1 as the names 1 and 2 gave it, which end at 100 and 200, and a rule about the whole net.
fn named() -> (Tables, NetKey) {
    let rules = |port, id, verdict, single| {
        let mut rules = NetRules { count: 1, ..NetRules::default() };
        let (port_first, port_last) = if port == 0 { (0, u16::MAX) } else { (port, port) };
        rules.rules[0] = NetRule { port_first, port_last, protocol: 0, single, pad: [0; 2], rule: rule(id, verdict) };
        rules
    };
    let address = decide::map_v4([192, 0, 2, 1]);
    let key = NetKey { epoch: EPOCH, instance: SLOT, direction: 0, address };
    let mut bound = Bound::default();
    bound.add(1, 100);
    bound.add(2, 200);
    let instance = u32::from(SLOT);
    let of = |name| NameRulesKey { name, epoch: EPOCH, instance };
    let mut tables = Tables {
        bound: vec![(BoundKey { address, instance }, bound)],
        name_rules: vec![(of(1), rules(1883, 11, Verdict::Allow, 0)), (of(2), rules(443, 12, Verdict::Log, 0))],
        nets: vec![(key, 96 + 24, rules(0, 13, Verdict::Deny, 0)), (key, 128, rules(22, 14, Verdict::Kill, 1))],
        ..Tables::default()
    };
    tables.nets.push((NetKey { address: decide::map_v4([192, 0, 2, 9]), ..key }, 128, rules(0, 15, Verdict::Deny, 1)));
    tables.instance.defaults[Class::Egress as usize] = rule(0, Verdict::Deny);
    (tables, key)
}

#[test]
fn a_name_that_gave_an_address_outranks_the_nets_around_it_until_it_ends() {
    let (mut tables, key) = named();
    tables.nets.remove(1);
    let rule = |tables: &Tables, key: &NetKey, port, protocol| {
        decide::net(tables, &tables.subject(), key, port, protocol).rule
    };
    assert_eq!(rule(&tables, &key, 1883, 6), 11);
    assert_eq!(rule(&tables, &key, 443, 6), 12);
    assert_eq!(rule(&tables, &key, 80, 6), 13, "no name has anything to say about this port");
    assert_eq!(rule(&tables, &key, 0, 17), 11, "the C library sorts addresses");
    assert_eq!(rule(&tables, &key, u16::MAX, 17), 11, "another C library does");
    assert_eq!(rule(&tables, &key, 0, 6), 13);
    let other = NetKey { address: decide::map_v4([192, 0, 2, 2]), ..key };
    assert_eq!(rule(&tables, &other, 1883, 6), 13, "no name gave this address");
    assert_eq!(rule(&tables, &NetKey { direction: 1, ..key }, 1883, 6), 0, "who connects has no name");
    tables.now = 101;
    assert_eq!((rule(&tables, &key, 1883, 6), rule(&tables, &key, 443, 6)), (13, 12), "the first name has ended");
}

#[test]
fn of_a_name_and_a_rule_about_the_very_address_the_stricter_decides() {
    let (mut tables, key) = named();
    let net = |tables: &Tables, port| decide::net(tables, &tables.subject(), &key, port, 6).rule;
    assert_eq!(net(&tables, 22), 14);
    let all = NetRule { port_first: 0, port_last: u16::MAX, ..tables.name_rules[0].1.rules[0] };
    tables.name_rules[0].1.rules[0] = all;
    assert_eq!(net(&tables, 22), 14, "kill before allow");
    tables.nets[1].1 = 128;
    tables.nets[1].2.rules[0].rule = rule(14, Verdict::Allow);
    tables.name_rules[0].1.rules[0].rule = rule(11, Verdict::Deny);
    assert_eq!(net(&tables, 22), 11, "deny before allow");
}

const PALETTE: u8 = Maintenance::Palette as u8;

/// /ud/package.json, node 3: a palette window exempts writes, and changes of its mode are always denied.
fn palette() -> Tables {
    let mut own = on(Access::WRITE.union(Access::RENAME), rule(7, Verdict::Deny).lifted_by(PALETTE));
    own[Access::ATTR.bits().trailing_zeros() as usize] = rule(8, Verdict::Deny);
    let mut tables = root().node(2, "ud", true, Node { parent: 1, ..Node::default() });
    tables = tables.node(3, "package.json", true, Node { parent: 2, own, ..Node::default() });
    tables.now = 1000;
    tables
}

#[test]
fn a_window_lifts_the_rules_that_name_it_until_its_time() {
    let mut tables = palette();
    let path = [(2, "ud"), (3, "package.json")];
    let of = |tables: &Tables| {
        let decision = tables.file(&path, Access::WRITE);
        (decision.verdict, decision.rule, decision.window)
    };
    assert_eq!(of(&tables), (Verdict::Deny, 7, 0), "no window");
    tables.windows[Maintenance::Settings as usize] = u64::MAX;
    assert_eq!(of(&tables), (Verdict::Deny, 7, 0), "the window of another maintenance");
    tables.windows[usize::from(PALETTE)] = 1001;
    assert_eq!(of(&tables), (Verdict::Log, 7, PALETTE), "open");
    tables.now = 1001;
    assert_eq!(of(&tables), (Verdict::Deny, 7, 0), "its time has come");
    let other = Subject { epoch: EPOCH, slot: SLOT + 1, instance: &tables.instance };
    assert!(!decide::is_good(&tables, &other, u16::from(PALETTE)), "the window of another instance");
}

#[test]
fn a_window_lifts_no_other_rule_about_the_same_operation() {
    let mut tables = palette();
    tables.windows[usize::from(PALETTE)] = u64::MAX;
    let decision = tables.file(&[(2, "ud"), (3, "package.json")], Access::WRITE.union(Access::ATTR));
    assert_eq!((decision.verdict, decision.rule, decision.window), (Verdict::Deny, 8, 0));
    // Known by identity where it is, and by name where another rule holds.
    let kill = on(Access::WRITE, rule(9, Verdict::Kill));
    let tables = tables.node(4, "etc", true, Node { parent: 1, children: kill, ..Node::default() });
    let decision = tables.file(&[(4, "etc"), (3, "x")], Access::WRITE);
    assert_eq!((decision.verdict, decision.rule, decision.window), (Verdict::Kill, 9, 0));
}

#[test]
fn a_window_keeps_the_fallback_and_opens_addresses_too() {
    let registry = Rule { id: 3, verdict: Verdict::Deny as u8, fallback: Verdict::Kill as u8 }.lifted_by(PALETTE);
    let mut rules = NetRules { count: 1, ..NetRules::default() };
    rules.rules[0] = NetRule { port_first: 443, port_last: 443, protocol: 6, single: 0, pad: [0; 2], rule: registry };
    let key = NetKey { epoch: EPOCH, instance: SLOT, direction: 0, address: decide::map_v4([203, 0, 113, 9]) };
    let mut tables = Tables { nets: vec![(key, 128, rules)], now: 5, ..Tables::default() };
    let of = |tables: &Tables| decide::net(tables, &tables.subject(), &key, 443, 6);
    let denied = Decision { verdict: Verdict::Deny, fallback: Verdict::Kill, rule: 3, ..Decision::default() };
    assert_eq!(of(&tables), denied);
    tables.windows[usize::from(PALETTE)] = 6;
    assert_eq!(of(&tables), Decision { verdict: Verdict::Log, window: PALETTE, ..denied });
}

#[test]
fn no_address_is_this_machine() {
    let v4 = |address| decide::map_v4(address);
    let [any, loopback]: [[u8; 16]; 2] = [0, 1].map(u128::to_be_bytes);
    assert_eq!(decide::reached(v4([0; 4])), v4([127, 0, 0, 1]));
    assert_eq!(decide::reached(any), loopback);
    for other in [v4([0, 0, 0, 1]), v4([10, 0, 0, 0]), loopback] {
        assert_eq!(decide::reached(other), other);
    }
}

#[test]
fn what_rests_on_a_window_is_good_for_as_long_as_that_is_open() {
    let mut tables = palette();
    assert_eq!(decide::first_to_close(&tables, &tables.subject()), 0);
    assert!(decide::is_good(&tables, &tables.subject(), 0), "it rests on none");
    tables.windows = [0, 3000, 2000, 999];
    assert_eq!(decide::first_to_close(&tables, &tables.subject()), Maintenance::Settings as u16);
    assert!(decide::is_good(&tables, &tables.subject(), u16::from(PALETTE)));
    tables.now = 3000;
    assert!(!decide::is_good(&tables, &tables.subject(), u16::from(PALETTE)));
}

#[test]
fn what_leaves_is_let_out_up_to_the_bound_itself() {
    let limit = |beyond| Limit { bytes: 1000, hours: 1, beyond: u32::from(beyond as u8) };
    for (sent, beyond, verdict) in [
        (1000, Verdict::Deny, Verdict::Allow),
        (1001, Verdict::Deny, Verdict::Deny),
        (1001, Verdict::Log, Verdict::Log),
        (u64::MAX, Verdict::Deny, Verdict::Deny),
    ] {
        let decision = decide::volume(&limit(beyond), sent, 7);
        assert_eq!((decision.verdict, decision.rule), (verdict, 7), "{sent}");
    }
}

/// A rule that is met in an operation: what it says, and in which window it is lifted.
fn any_rule(id: u16) -> impl Strategy<Value = Rule> {
    let fallbacks = prop::sample::select(vec![Verdict::Unset, Verdict::Log, Verdict::Kill]);
    (1_u8..5, fallbacks, 0_u8..4, 0_u8..3, any::<bool>()).prop_map(
        move |(verdict, fallback, maintenance, scope, heals)| {
            // Only a rule that forbids can be lifted.
            let maintenance = if verdict > Verdict::Log as u8 { maintenance } else { 0 };
            Rule { id, verdict, fallback: fallback as u8 }.lifted_by(maintenance).killing(scope).healing(heals)
        },
    )
}

/// What the rule says at this moment, in the order in which rules are compared.
fn strength(tables: &Tables, rule: Rule) -> (u8, u8, u8, bool) {
    let is_open = tables.windows[usize::from(rule.maintenance())] > tables.now;
    if rule.verdict <= Verdict::Log as u8 || (rule.maintenance() != 0 && is_open) {
        return (rule.verdict.min(Verdict::Log as u8), 0, 0, false);
    }
    (rule.verdict, rule.fallback_verdict(), rule.scope(), rule.heals())
}

/// How strong a decision is, by the rule that it names.
fn decided(tables: &Tables, decision: Decision, rules: &[Rule]) -> (u8, u8, u8, bool) {
    let rule = rules.iter().copied().find(|rule| rule.id == decision.rule);
    let strength = strength(tables, rule.unwrap_or(Rule::NONE));
    assert_eq!(strength.0, decision.verdict as u8);
    strength
}

/// The ids of the rules that heal and are not lifted.
fn healers(tables: &Tables, rules: &[Rule]) -> Vec<u16> {
    rules.iter().filter(|&&rule| strength(tables, rule).3).map(|rule| rule.id).collect()
}

/// A file known by identity in a place where another rule holds.
fn linked(here: RuleSet, there: RuleSet) -> Tables {
    root().node(2, "here", true, Node { parent: 1, own: here, ..Node::default() }).node(
        3,
        "there",
        true,
        Node { parent: 1, own: there, ..Node::default() },
    )
}

#[test]
fn an_operation_is_judged_by_the_stronger_fallback() {
    let log = Rule { id: 1, verdict: Verdict::Deny as u8, fallback: Verdict::Log as u8 };
    let kill = Rule { id: 2, fallback: Verdict::Kill as u8, ..log };
    for (here, there) in [(log, kill), (kill, log)] {
        let tables = linked(on(Access::RENAME, here), on(Access::RENAME, there));
        // The file that node 3 names, in the place of node 2.
        let decision = tables.file(&[(3, "here")], Access::RENAME);
        assert_eq!((decision.rule, decision.fallback), (2, Verdict::Kill));
    }
}

proptest! {
    #[test]
    fn rules_that_meet_are_never_weaker_together(
        one in any_rule(1),
        other in any_rule(2),
        default in any_rule(0),
        open in prop::array::uniform4(any::<bool>()),
    ) {
        let default = default.lifted_by(0).healing(false);
        let windows = open.map(|open| if open { 100 } else { 0 });
        let windows = [0, windows[1], windows[2], windows[3]];
        let rules = [one, other, default];
        let best = |tables: &Tables, rules: &[Rule]| rules.iter().map(|&rule| strength(tables, rule)).max().unwrap();
        let mut met = Vec::new();
        for pair in [[one, other], [other, one], [one, default], [default, one]] {
            // By identity and by place, for one access.
            let mut tables = linked(on(Access::RENAME, pair[0]), on(Access::RENAME, pair[1]));
            (tables.windows, tables.now) = (windows, 50);
            let mut work = Work::NEW;
            let mut view = View::new(&[(3, "here")]);
            let decision = decide::file(&tables, &tables.subject(), &mut view, Access::RENAME, &mut work);
            prop_assert_eq!(decided(&tables, decision, &rules), best(&tables, &pair));
            let healers = healers(&tables, &pair);
            prop_assert_eq!(healers.is_empty(), work.healing() == 0);
            prop_assert!(healers.is_empty() || healers.contains(&work.healing()));
            met.push(decision);
            // For two accesses of one place.
            let mut both = on(Access::RENAME, pair[0]);
            both[Access::CREATE.bits().trailing_zeros() as usize] = pair[1];
            let mut tables = root().node(2, "x", true, Node { parent: 1, own: both, ..Node::default() });
            (tables.windows, tables.now) = (windows, 50);
            let decision = tables.file(&[(2, "x")], Access::RENAME.union(Access::CREATE));
            prop_assert_eq!(decided(&tables, decision, &rules), best(&tables, &pair));
            // At the two ends of a call that names two paths.
            let mut tables = linked(on(Access::RENAME, pair[0]), on(Access::RENAME, pair[1]));
            (tables.windows, tables.now) = (windows, 50);
            let mut pending = Pending::NONE;
            for (which, name) in [(0, "here"), (1, "there")] {
                let (mut work, subject) = (Work::NEW, tables.subject());
                decide::place(&tables, &subject, &mut View::new(&[]), &mut work).unwrap();
                decide::text(&tables, &subject, &Text(name.as_bytes()), Access::RENAME, &mut work);
                pending.take(&work, which, (which.into(), 0));
            }
            let decision = pending.decision();
            prop_assert_eq!(decided(&tables, decision, &rules), best(&tables, &pair));
            prop_assert_eq!(u64::from(pending.which), pending.dentry + 1);
            for id in self::healers(&tables, &pair) {
                prop_assert!(pending.healing.contains(&id), "{:?} without {id}", pending.healing);
            }
        }
        prop_assert_eq!(met[0].rule, met[1].rule, "it depends on the order");
        prop_assert_eq!(met[2].rule, met[3].rule, "it depends on the order");
    }

    #[test]
    fn names_of_an_address_are_never_weaker_together(
        one in any_rule(1),
        other in any_rule(2),
        address in any_rule(3),
        open in any::<bool>(),
    ) {
        let mut met = Vec::new();
        for pair in [[one, other], [other, one]] {
            let (mut tables, key) = named();
            (tables.windows, tables.now) = ([0, u64::from(open) * 100, 0, 0], 50);
            let all = |rule| {
                let mut rules = NetRules { count: 1, ..NetRules::default() };
                rules.rules[0] = NetRule { port_first: 0, port_last: u16::MAX, single: 1, rule, ..NetRule::default() };
                rules
            };
            (tables.name_rules[0].1, tables.name_rules[1].1) = (all(pair[0]), all(pair[1]));
            tables.nets[1].2 = all(address);
            let decision = decide::net(&tables, &tables.subject(), &key, 443, 6);
            let rules = [one, other, address];
            let best = rules.iter().map(|&rule| strength(&tables, rule)).max().unwrap();
            prop_assert_eq!(decided(&tables, decision, &rules), best);
            met.push(decision.rule);
        }
        prop_assert_eq!(met[0], met[1]);
    }

    #[test]
    fn a_program_meets_the_stronger_of_two_defaults(plain in any_rule(0), of_its_kind in any_rule(0)) {
        let mut tables = root();
        let (plain, of_its_kind) = (plain.lifted_by(0), of_its_kind.lifted_by(0));
        tables.instance.defaults[Class::Exec as usize] = plain;
        tables.instance.defaults[Class::ExecUnnamed as usize] = of_its_kind;
        let (mut work, kind) = (Work::NEW, Executable::Unnamed as u64);
        let decision = decide::program(&tables, &tables.subject(), &mut View::new(&[]), kind, &mut work);
        let (one, other) = (strength(&tables, plain), strength(&tables, of_its_kind));
        let found = (decision.verdict as u8, decision.fallback as u8);
        prop_assert!(found >= (one.0, one.1) && found >= (other.0, other.1));
        // The scope of a default is that of its class.
        if one != other {
            prop_assert_eq!(decide::is_by_kind(&tables.subject(), kind, &decision), other > one);
        }
    }
}

proptest! {
    /// Whatever is in the tables, a decision comes back, and it is one that a table or a default holds.
    #[test]
    fn nothing_makes_it_panic(
        nodes in prop::collection::vec((0_u32..6, 0_u32..6, 0_u32..8, 0_u8..6, any::<u8>()), 0..6),
        names in prop::collection::vec("[a.]{0,3}", 0..6),
        text in "[a./]{0,600}",
        access in any::<u8>(),
        count in 0_u32..40,
    ) {
        let mut tables = root();
        for (index, &(parent, patterns, flags, verdict, bits)) in nodes.iter().enumerate() {
            let rules = on(Access::from_bits(bits), Rule { id: 1, verdict, fallback: 0 });
            let node = Node { own: rules, children: rules, below: rules, parent, patterns, flags, takes: Rule::NONE };
            let name = names.get(index).map_or("a", String::as_str);
            tables = tables.node(u32::try_from(index).unwrap(), name, verdict % 2 == 0, node);
        }
        let path: Vec<_> = names.iter().enumerate().map(|(index, name)| (index as u64, name.as_str())).collect();
        let decision = tables.file(&path, Access::from_bits(access));
        prop_assert!(Access::from_bits(access).contains(decision.access));
        if let Some(decision) = tables.text(&path, &text, Access::from_bits(access)) {
            prop_assert!(Access::from_bits(access).contains(decision.access));
        }
        // A count beyond the table reads what is there and no more.
        let key = NetKey { epoch: EPOCH, instance: SLOT, ..NetKey::default() };
        tables.nets.push((key, 0, NetRules { count, rules: [NetRule { port_first: 1, ..NetRule::default() }; MAX_NET_RULES] }));
        prop_assert_eq!(decide::net(&tables, &tables.subject(), &key, 0, 0).verdict, Verdict::Allow);
    }
}
