//! Policies against what the kernel would look up.

use std::{collections::HashMap, net::IpAddr};

use monitor_common::{
    decide::{self, Lookups, PathView, Subject, TextView, Work, map_v4},
    name::Name,
    policy::{NET_HEAD_BITS, PATTERN_HEAD_BITS},
};
use proptest::prelude::*;

use super::{net::masked, *};
use crate::{
    host::{CanDeny, System},
    model::{Prefix, Select},
    name::DnsName,
    parse::parse,
    peers::Table,
};

/// The map entries in ordinary maps.
pub(crate) struct Tables {
    inodes: HashMap<InodeKey, u32>,
    children: Vec<(ChildKey, u32)>,
    nodes: HashMap<NodeKey, Node>,
    patterns: Vec<(PatternKey, u32, Pattern)>,
    nets: Vec<(NetKey, u32, NetRules)>,
    instance: Instance,
    /// The maintenance that goes on.
    pub(crate) window: Option<Maintenance>,
}

impl Tables {
    pub(crate) fn new(compiled: Compiled) -> Self {
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

    pub(crate) fn subject(&self) -> Subject<'_> {
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

pub(crate) fn id_of(path: &Path) -> InodeId {
    let ino = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(7_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    InodeId { ino, dev: 1, generation: 1 }
}

/// A file at that path that is there, and made.
pub(crate) fn seen(path: &Path) -> Seen {
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

pub(crate) const EPOCH: u32 = 3;

/// Symbolic links of the machine in the tests.
const LINKS: &[(&str, &str)] = &[
    ("/link", "/hop"),
    ("/hop", "x/../real"),
    ("/h/ud/linked.js", "../etc/real.js"),
    ("/loop", "/loop"),
    ("/h/far", "/real"),
];

pub(crate) struct Everything;

/// The same machine while this file is about to be restored.
struct Restoring(&'static str);

impl Host for Restoring {
    fn uid(&self, user: &str) -> Option<u32> {
        Everything.uid(user)
    }
    fn login(&self, uid: u32) -> Option<(String, String)> {
        Everything.login(uid)
    }
    fn cgroups(&self, select: &Select) -> Vec<(PathBuf, u64)> {
        Everything.cgroups(select)
    }
    fn owner(&self, path: &Path) -> Option<(u32, u32)> {
        Everything.owner(path)
    }
    fn exists(&self, path: &Path) -> bool {
        Everything.exists(path)
    }
    fn link(&self, path: &Path) -> Option<PathBuf> {
        Everything.link(path)
    }
    fn can_deny(&self) -> CanDeny {
        Everything.can_deny()
    }
    fn is_expected(&self, path: &Path) -> bool {
        path == Path::new(self.0)
    }
}

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

pub(crate) fn file(tables: &Tables, path: &str, access: Access) -> (Verdict, u16) {
    let decision =
        decide::file(tables, &tables.subject(), &mut View::new(Path::new(path)), access, &mut Work::NEW.clone());
    (decision.verdict, decision.rule)
}

pub(crate) fn text(tables: &Tables, from: &str, path: &str, access: Access) -> Verdict {
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

/// What holds for a file that is reached by the first of its names.
fn by_any_name(tables: &Tables, names: &[&str], access: Access) -> Verdict {
    let (subject, mut work) = (tables.subject(), Work::NEW);
    decide::file(tables, &subject, &mut View::new(Path::new(names[0])), access, &mut work);
    if decide::begin_others(&mut work) {
        for name in &names[1..] {
            decide::locate(tables, &subject, &mut View::new(Path::new(name)), &mut work);
            decide::weigh_place(tables, &subject, &mut work);
        }
    }
    work.decision().verdict
}

#[test]
fn the_rules_for_each_name_of_a_file_hold_under_all_of_them() {
    let rules = [
        rule("\"key.pem\"", "\"read\"", "kill"),
        rule("\"*.crt\", \"below/**\"", "\"read\"", "log"),
        rule("\"*.crt\", \"below/**\"", "\"delete\"", "kill"),
    ];
    let tables = compiled(&rules.concat(), &[]);
    for (name, verdict) in [("key.pem", Verdict::Kill), ("a.crt", Verdict::Log), ("below/a/b", Verdict::Log)] {
        let name = format!("/h/ud/{name}");
        assert_eq!(by_any_name(&tables, &["/tmp/link", &name], Access::READ), verdict, "{name}");
        assert_eq!(by_any_name(&tables, &["/tmp/link", "/other", &name], Access::READ), verdict, "{name}");
        // A name that goes takes no other with it.
        assert_eq!(by_any_name(&tables, &["/tmp/link", &name], Access::DELETE), Verdict::Allow, "{name}");
    }
    assert_eq!(by_any_name(&tables, &["/h/ud/a.crt", "/h/ud/key.pem"], Access::READ), Verdict::Kill);
    assert_eq!(by_any_name(&tables, &["/h/ud/key.pem", "/h/ud/a.crt"], Access::READ), Verdict::Kill);
}

#[test]
fn where_a_rule_is_about_one_name_the_default_is_not_about_the_others() {
    let rules = format!("default = {{ files = \"kill\" }}\n{}", rule("\"x\"", "\"read\"", "allow"));
    let tables = compiled(&rules, &[]);
    assert_eq!(by_any_name(&tables, &["/h/ud/x", "/tmp/link"], Access::READ), Verdict::Allow);
    assert_eq!(by_any_name(&tables, &["/tmp/link", "/h/ud/x"], Access::READ), Verdict::Kill);
}

#[test]
fn a_file_with_too_many_names_is_judged_by_the_strictest_rule() {
    let tables = compiled(&rule("\"key.pem\"", "\"read\"", "kill"), &[]);
    let (subject, mut work) = (tables.subject(), Work::NEW);
    decide::file(&tables, &subject, &mut View::new(Path::new("/tmp/link")), Access::READ, &mut work);
    assert_eq!(work.decision().verdict, Verdict::Allow);
    assert!(decide::begin_others(&mut work));
    decide::give_up(&mut work);
    decide::weigh_place(&tables, &subject, &mut work);
    assert_eq!(work.decision().verdict, Verdict::Kill);
}

#[test]
fn a_directory_says_which_instances_have_rules_about_what_is_in_it() {
    let instance = |name: &str, uid: u32, path: &str| {
        format!(
            "[[instance]]\nname = \"{name}\"\nselect = [{{ uid = {uid} }}]\nuser-dir = \"/h/{name}\"\n{}",
            rule(&format!("\"{path}\""), "\"read\"", "kill")
        )
    };
    let text =
        ["version = 1\nmode = \"enforce\"\n".to_owned(), instance("a", 990, "/s/k"), instance("b", 991, "/s/t/*.pem")];
    let policy = parse(&text.concat()).unwrap();
    let slots = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 5)]);
    let mut identify = |path: &Path| Some(seen(path));
    let compiled = compile(&policy, EPOCH, &slots, &Everything, &mut identify).unwrap();
    let knows = |path: &str| {
        let any = InodeKey { id: id_of(Path::new(path)), epoch: EPOCH, instance: InodeKey::ANY };
        let found = compiled.inodes.iter().find(|(key, _)| *key == any);
        found.map(|&(_, raw)| Knowing::from_raw(raw)).map(|knowing| (knowing.first, knowing.last))
    };
    assert_eq!(knows("/s"), Some((2, 5)));
    assert_eq!(knows("/s/t"), Some((5, 5)));
    assert_eq!(knows("/"), Some((2, 5)));
    assert_eq!(knows("/s/k"), None, "nothing is known of what is in it");
    assert_eq!(knows("/elsewhere"), None);
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
    let mut tables = compiled(&lifted("\"node_modules/**\", \"package.json\"", "\"write\", \"rename\"", "deny"), &[]);
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
fn a_file_that_is_about_to_be_restored_is_closed_whether_it_is_there_or_not() {
    let rules = [rule("\"settings.js\"", "\"write\"", "kill"), rule("\"other.js\"", "\"write\"", "kill")].concat();
    let slots = BTreeMap::from([("a".to_owned(), 0)]);
    for there in [true, false] {
        let mut identify = |path: &Path| {
            let found = Seen { made: path.extension().is_none(), ..seen(path) };
            (there || path.extension().is_none()).then_some(found)
        };
        let host = Restoring("/h/ud/settings.js");
        let compiled = compile(&policy_of(&rules), EPOCH, &slots, &host, &mut identify).unwrap();
        assert!(compiled.watched.iter().all(|watched| watched.waits == watched.path.ends_with("other.js")));
        let tables = Tables::new(compiled);
        let verdicts = ["settings.js", "other.js"].map(|name| file(&tables, &format!("/h/ud/{name}"), Access::WRITE).0);
        assert_eq!(verdicts, [Verdict::Kill, Verdict::Allow], "there: {there}");
    }
}

#[test]
fn a_milder_rule_below_does_not_soften_the_hold_on_a_directory() {
    let tables = compiled(&[rule("\"**\"", "\"rename\"", "kill"), rule("\"lib/x\"", "\"write\"", "log")].concat(), &[]);
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
        [(3, "/h/ud/settings.js"), (3, "/h/ud"), (3, "/real/x"), (3, "/h"), (3, "/link"), (3, "/hop"), (3, "/real")]
    );
    let many: String = (0..40).map(|index| rule(&format!("\"d/{index}\""), "\"write\"", "kill")).collect();
    let compiled = try_compile("{ uid = 9 }", &many, &[("a", 0)], &Everything).unwrap();
    assert_eq!(compiled.watches.len(), MAX_WATCHES);
    assert!(compiled.watches.iter().all(|(_, _, path)| path.starts_with("/h/ud/d/")));
    // A change of a healed file is always recorded.
    let healed = rule("\"settings.js\"", "\"write\"", "kill").replace("verdict", "heal = true\nverdict");
    let compiled = try_compile("{ uid = 9 }", &[many, healed].concat(), &[("a", 0)], &Everything).unwrap();
    assert_eq!(compiled.watches.len(), MAX_WATCHES);
    assert_eq!(compiled.watches[0].2, Path::new("/h/ud/settings.js"));
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
    let text = format!("version = 1\n[[instance]]\nname = \"a\"\nselect = [{select}]\nuser-dir = \"/h/ud\"\n{rules}");
    let (policy, slots) = (parse(&text).unwrap(), slots.iter().map(|&(name, slot)| (name.to_owned(), slot)).collect());
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
            let decision = decide::file(&tables, &tables.subject(), &mut view, Access::WRITE, &mut Work::NEW.clone());
            assert_eq!(decision.verdict, Verdict::Kill, "{path}");
        }
    }
}

#[test]
fn a_host_that_connects_ranks_as_its_addresses_do_and_matches_nothing_until_they_are_known() {
    let rules = "[[instance.ingress]]\nfrom = [\"private\"]\nverdict = \"log\"\n\
        [[instance.ingress]]\nfrom = [\"any\"]\nverdict = \"deny\"\n\
        [[instance.ingress]]\nfrom = [\"proxy.lan\", \"new.lan\"]\nports = [1880]\nverdict = \"allow\"\n";
    let known = [("proxy.lan", &["10.0.0.7", "2001:db8::7"][..]), ("other.lan", &["10.0.0.9"])];
    let table = |(name, addresses): (&str, &[&str])| {
        (DnsName::parse(name).unwrap(), addresses.iter().map(|address| address.parse().unwrap()).collect())
    };
    for (peers, allowed) in [(Table::new(), false), (known.map(table).into(), true)] {
        let host = System { peers, ..System::new() };
        let tables = Tables::new(try_compile("{ uid = 9 }", rules, &[("a", 0)], &host).unwrap());
        let verdict = |address: &str, port| {
            let Prefix { address, .. } = address.parse::<IpAddr>().unwrap().into();
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 1, address };
            decide::net(&tables, &tables.subject(), &key, port, 6).verdict
        };
        for (address, otherwise) in [("10.0.0.7", Verdict::Log), ("2001:db8::7", Verdict::Deny)] {
            assert_eq!(verdict(address, 1880), if allowed { Verdict::Allow } else { otherwise }, "{address}");
            assert_eq!(verdict(address, 80), otherwise, "{address}");
        }
        assert_eq!(verdict("10.0.0.9", 1880), Verdict::Log, "another's address");
    }
}

#[test]
fn rules_about_proc_hold_in_the_proc_of_a_container_but_not_those_about_the_guards_own_process() {
    const OTHER: u32 = 47;
    let text = rule("\"/proc/**/*environ\", \"/proc/sys/kernel/core_pattern\"", "\"read\"", "deny");
    let mut policy = policy_of(&text);
    let mut own = policy.instances[0].files[0].clone();
    (own.path, own.names, own.at_once) = ("/proc/4711".into(), Names::Below, true);
    policy.instances[0].files.push(own);
    let host = System { procs: BTreeMap::from([(0, BTreeSet::from([OTHER]))]), ..System::new() };
    let slots = BTreeMap::from([("a".to_owned(), 0)]);
    let compiled = compile(&policy, EPOCH, &slots, &host, &mut |path| Some(seen(path))).unwrap();
    let tables = Tables::new(compiled);
    // Nothing else that the container's names lead through is known.
    let inside = |path: &str| {
        let (proc, mut view) = (id_of(Path::new("/proc")), View::new(Path::new(path)));
        for id in &mut view.ids {
            *id =
                if *id == proc { InodeId { ino: 1, dev: OTHER, generation: 0 } } else { InodeId { dev: OTHER, ..*id } };
        }
        decide::file(&tables, &tables.subject(), &mut view, Access::READ, &mut Work::NEW.clone()).verdict
    };
    for path in ["/proc/1/environ", "/proc/4711/environ", "/proc/sys/kernel/core_pattern"] {
        assert_eq!((inside(path), file(&tables, path, Access::READ).0), (Verdict::Deny, Verdict::Deny), "{path}");
    }
    assert_eq!(
        (inside("/proc/4711/maps"), file(&tables, "/proc/4711/maps", Access::READ).0),
        (Verdict::Allow, Verdict::Deny)
    );
    assert_eq!(inside("/proc/1/maps"), Verdict::Allow);
}

#[test]
fn other_procs_are_looked_at_for_those_whose_rules_are_about_proc() {
    let about_proc = |path: &str, own: bool| {
        let mut policy = policy_of(&rule(path, "\"read\"", "deny"));
        policy.instances[0].files[0].at_once = own;
        let slots = BTreeMap::from([("a".to_owned(), 5)]);
        let compiled = compile(&policy, EPOCH, &slots, &System::new(), &mut |path| Some(seen(path))).unwrap();
        compiled.about_proc.contains(&5)
    };
    // The last is a link into /proc, on every Linux.
    for path in ["/proc", "/proc/*", "/proc/**/*environ", "/proc/1/environ", "/**", "/**/*.pem", "/dev/fd/1"] {
        assert!(about_proc(&format!("\"{path}\""), false), "{path}");
    }
    for path in ["/", "/*", "/procs/x", "/etc/**", "settings.js"] {
        assert!(!about_proc(&format!("\"{path}\""), false), "{path}");
    }
    assert!(!about_proc("\"/proc/4711/**\"", true), "the guard's own");
}

/// As when somebody starts two by hand.
#[test]
fn whose_processes_cannot_be_told_apart_share_their_rules() {
    let second = "[[instance]]\nname = \"b\"\nselect = [{ uid = 9 }, { uid = 11 }]\nuser-dir = \"/h/ud2\"\n\
                  [[instance.files]]\npath = \"settings.js\"\naccess = [\"write\"]\nverdict = \"deny\"\nheal = true\n\
                  [[instance.egress]]\nto = [\"10.0.0.0/8\"]\nverdict = \"deny\"\n";
    let slots = [("a", 0), ("b", 1)];
    let held = |select: &str| {
        let compiled = try_compile(select, second, &slots, &Everything).unwrap();
        let (healed, nets) =
            (compiled.healed.len(), compiled.nets.iter().filter(|(key, ..)| key.instance == 0).count());
        (file(&Tables::new(compiled), "/h/ud2/settings.js", Access::WRITE).0, nets, healed)
    };
    assert_eq!(held("{ uid = 9 }"), (Verdict::Deny, 1, 2));
    assert_eq!(held("{ uid = 10 }"), (Verdict::Allow, 0, 1));
}

#[test]
fn who_is_selected_by_a_cgroup_belongs_there_whatever_else_selects_it() {
    let everywhere = Selector { uid: 9, instance: 0, flags: SELECT_UID | SELECT_EXEC, cgroup: 0 };
    let inside = Selector { instance: 1, flags: SELECT_CGROUP, cgroup: 7, uid: 0 };
    let mut selectors = [everywhere, inside];
    order(&mut selectors);
    assert_eq!(selectors, [inside, everywhere]);
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
/// One with so many cgroups, whatever is asked for, and no users.
struct Strange(u64);

impl Host for Strange {
    fn uid(&self, _: &str) -> Option<u32> {
        None
    }
    fn login(&self, _: u32) -> Option<(String, String)> {
        None
    }
    fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
        (1..=self.0).map(|id| (PathBuf::new(), id)).collect()
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
    let error = |select| try_compile(select, "", &[("a", 0)], &Strange(65)).unwrap_err().to_string();
    assert!(error("{ user = \"gone\", exec = \"node-red\" }").contains("no user \"gone\""));
    assert!(error("{ unit = \"x.service\" }").contains("more than 64 selectors"));
    let compiled = try_compile("{ uid = 7, exec = \"node-red\" }", "", &[("a", 5)], &Strange(65)).unwrap();
    assert_eq!(compiled.selectors, [Selector { cgroup: 0, uid: 7, instance: 5, flags: SELECT_UID | SELECT_EXEC }]);
    // With a cgroup: processes of the uid in this cgroup.
    let compiled = try_compile("{ uid = 7, unit = \"x.service\" }", "", &[("a", 5)], &Strange(2)).unwrap();
    let within = |cgroup| Selector { cgroup, uid: 7, instance: 5, flags: SELECT_UID | SELECT_CGROUP };
    assert_eq!(compiled.selectors, [within(1), within(2)]);
    // A unit that is not running selects no process, not every process.
    assert!(
        try_compile("{ uid = 7, unit = \"x.service\" }", "", &[("a", 0)], &Everything).unwrap().selectors.is_empty()
    );
}

#[test]
fn too_many_ports_are_refused_with_the_range_they_are_about() {
    let ports = |count: u16| (1..=count).map(|port| (port * 2).to_string()).collect::<Vec<_>>().join(", ");
    let rules =
        |count| format!("[[instance.egress]]\nto = [\"10.0.0.0/8\"]\nports = [{}]\nverdict = \"log\"\n", ports(count));
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
    let rule = "[[instance.files]]\npath = \"x\"\naccess = [\"read\"]\nverdict = \"kill\"\nwhy = \"it is secret\"\n";
    let compiled = try_compile("{ uid = 9 }", rule, &[("a", 0)], &Everything).unwrap();
    assert_eq!(compiled.rules[0].sentence, "it is secret (read of /h/ud/x: kill)");
}

#[test]
fn rules_are_told_as_sentences() {
    let rules = rule("\"/**/*.pem\"", "\"read\"", "kill")
        + "[[instance.egress]]\nto = [\"10.0.0.0/8\", \"any\", \"::1\"]\nports = [53, \"1-9\"]\nprotocol = \"udp\"\nverdict = \"deny\"\n[[instance.exec]]\npath = \"/usr/bin/curl\"\nverdict = \"log\"\n";
    let compiled = try_compile("{ uid = 9 }", &rules, &[("a", 0)], &Everything).unwrap();
    let faults: Vec<_> =
        compiled.rules.iter().map(|rule| (rule.id.as_str(), rule.class, rule.sentence.as_str())).collect();
    assert_eq!(
        faults,
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
fn a_file_too_deep_to_be_placed_is_judged_by_the_strictest_rule() {
    let rules = "default = { exec = \"deny\" }\n".to_owned()
        + &rule("\"a/**\"", "\"read\"", "log")
        + &rule("\"b/*.pem\"", "\"read\"", "kill")
        + &rule("\"c/**\"", "\"write\"", "allow")
        + "[[instance.exec]]\npath = \"d/**\"\nverdict = \"log\"\n";
    let tables = compiled(&rules, &[]);
    let at = |depth: usize| format!("/h/ud/c{}/x", "/d".repeat(depth));
    assert_eq!(file(&tables, &at(decide::MAX_CLIMB - 2), Access::READ).0, Verdict::Allow);
    let deep = at(decide::MAX_CLIMB - 1);
    assert_eq!(file(&tables, &deep, Access::READ).0, Verdict::Kill);
    assert_eq!(file(&tables, &deep, Access::WRITE).0, Verdict::Allow, "nothing forbids it anywhere");
    assert_eq!(file(&tables, &deep, Access::EXEC).0, Verdict::Deny, "the default is stricter than any rule");
    let unknown = |access| decide::unknown(&tables, &tables.subject(), access, &mut Work::NEW.clone()).verdict;
    assert_eq!((unknown(Access::READ), unknown(Access::WRITE)), (Verdict::Kill, Verdict::Allow));
}

#[test]
fn a_directory_takes_along_what_patterns_protect_in_it() {
    let rules = rule("\"**/*.pem\"", "\"read\", \"rename\"", "deny")
        + &rule("\"modules/**\"", "\"read\", \"rename\"", "allow")
        + &rule("\"../other/**/*.pem\"", "\"read\"", "kill").replace("../other", "/h/other");
    let tables = compiled(&rules, &[]);
    let reach =
        |path: &str| decide::reach(&tables, &tables.subject(), &mut View::new(Path::new(path)), &mut Work::NEW.clone());
    let (of_certs, takes) = reach("/h/ud/certs");
    assert_eq!(takes.verdict, Verdict::Deny as u8);
    assert_eq!(reach("/h/ud/lib/certs").0, of_certs, "it stays in reach");
    for elsewhere in ["/h/certs", "/certs", "/h/ud/modules/certs", "/h/other/certs"] {
        assert_ne!(reach(elsewhere).0, of_certs, "{elsewhere}");
    }
    for free in ["/h/ud/modules/certs", "/h/other/certs", "/h/certs"] {
        assert!(!reach(free).1.is_set(), "{free}");
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
    let held = held.filter(|rule| rule.path.starts_with(path) && (rule.names != Names::Itself || rule.path != path));
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
    let one = ("(/(a|b|pa\\.y\\.x)){0,3}", names, accesses(), 1..5_u8).prop_map(|(path, names, access, verdict)| {
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
