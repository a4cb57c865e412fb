//! Names of rules, paths and instances, which records carry as numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use monitor_common::{
    Verdict,
    policy::{Class, Direction, Maintenance, RULE_GUARD_PROCESS, RULE_GUARD_PROGRAMS},
};
use serde_json::{Value, json};

use super::{
    decode::Record,
    enrich::{Names, RuleName},
};
use policy::{
    compile::{Compiled, RuleInfo},
    model::{KillScope, Policy},
    name::DnsName,
};

/// Epochs whose names are kept for records that have not been read yet.
const EPOCHS_KEPT: usize = 8;

/// Built-in rules.
const RESERVED: [(u16, &str, &str); 2] = [
    (RULE_GUARD_PROCESS, "guard-process", "watched processes must not signal or trace the guard: deny"),
    (
        RULE_GUARD_PROGRAMS,
        "guard-programs",
        "watched processes must not access kernel programs and maps of others: deny",
    ),
];

/// Names of the policy of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Epoch {
    /// Rules with their kill scopes, by index from 1.
    rules: Vec<(RuleName, KillScope)>,
    /// Kill scopes of class defaults, where they exceed the process.
    scopes: Vec<(u16, Class, KillScope)>,
    /// Paths of policy nodes.
    places: Vec<(u32, PathBuf)>,
}

/// Names by epoch. Stored as text for the next run, which takes over pending records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameTable {
    epochs: BTreeMap<u32, Arc<Epoch>>,
    /// Slots of instances, by name.
    pub slots: BTreeMap<String, u16>,
    /// Domains below which the present policy allows every name, by slot.
    trusted: BTreeSet<(u16, DnsName)>,
}

impl NameTable {
    /// Adds the names of a new policy.
    pub fn add(&mut self, epoch: u32, policy: &Compiled) {
        let rule = |rule: &RuleInfo| {
            let RuleInfo { id, sentence, techniques, scope, maintenance, .. } = rule.clone();
            (RuleName { id, sentence, techniques, maintenance }, scope)
        };
        let rules = policy.rules.iter().map(rule).collect();
        let places = policy.watches.iter().map(|(_, node, path)| (*node, path.clone())).collect();
        self.epochs.insert(epoch, Arc::new(Epoch { rules, scopes: policy.scopes.clone(), places }));
        while self.epochs.len() > EPOCHS_KEPT {
            self.epochs.pop_first();
        }
    }

    /// Sets slots and the allowed domains of a new policy.
    pub fn assign(&mut self, slots: BTreeMap<String, u16>, policy: &Policy) {
        self.trusted.clear();
        for instance in &policy.instances {
            let Some(&slot) = slots.get(&instance.name) else { continue };
            let allows = instance
                .nets
                .iter()
                .filter(|rule| rule.direction == Direction::Egress && rule.action.verdict == Verdict::Allow);
            self.trusted.extend(allows.flat_map(|rule| &rule.names).map(|name| (slot, name.clone())));
        }
        self.slots = slots;
    }

    /// Kill scope of a record's rule. Records of an earlier run were handled by that run.
    #[must_use]
    pub fn scope(&self, record: &Record) -> KillScope {
        let event = &record.event;
        let Some(epoch) = self.epochs.get(&event.epoch) else { return KillScope::Process };
        if let Some(index) = usize::from(event.rule).checked_sub(1) {
            return epoch.rules.get(index).map_or(KillScope::Process, |&(_, scope)| scope);
        }
        let class = record.hook.class(event.detail);
        let found = epoch.scopes.iter().find(|&&(slot, known, _)| slot == event.instance && Some(known) == class);
        found.map_or(KillScope::Process, |&(_, _, scope)| scope)
    }

    /// Serializes to JSON, with these additional slots where they are free: until a policy is in force, a later run may take over
    /// the previous one.
    #[must_use]
    pub fn to_text(&self, former: &BTreeMap<String, u16>) -> String {
        let mut slots = self.slots.clone();
        for (name, slot) in former {
            if !self.slots.values().any(|used| used == slot) {
                slots.entry(name.clone()).or_insert(*slot);
            }
        }
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_owned();
        let epochs: Vec<_> = self
            .epochs
            .iter()
            .map(|(number, epoch)| {
                let places: Vec<_> = epoch.places.iter().map(|(node, path)| json!([node, bytes(path)])).collect();
                let rule = |rule: &RuleName| {
                    json!([rule.id, rule.sentence, rule.techniques, rule.maintenance.map(Maintenance::name)])
                };
                let rules: Vec<_> = epoch.rules.iter().map(|(name, _)| rule(name)).collect();
                json!({ "epoch": number, "rules": rules, "places": places })
            })
            .collect();
        json!({ "slots": slots, "epochs": epochs }).to_string()
    }

    /// Parses the text of [`NameTable::to_text`]. Invalid entries are skipped.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let slots = value["slots"].as_object().into_iter().flatten();
        let slots = slots.filter_map(|(name, slot)| Some((name.clone(), u16::try_from(slot.as_u64()?).ok()?)));
        let epochs = value["epochs"].as_array().into_iter().flatten();
        Self { slots: slots.collect(), epochs: epochs.filter_map(epoch).collect(), trusted: BTreeSet::new() }
    }
}

fn epoch(value: &Value) -> Option<(u32, Arc<Epoch>)> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let rules = value["rules"].as_array()?.iter();
    let rules = rules.map(|rule| {
        let techniques = rule[2].as_array().into_iter().flatten().filter_map(word).collect();
        let maintenance = rule[3].as_str().and_then(Maintenance::by_name);
        let name = RuleName { id: word(&rule[0])?, sentence: word(&rule[1])?, techniques, maintenance };
        Some((name, KillScope::Process))
    });
    let place = |place: &Value| {
        let path: Option<Vec<u8>> = place[1].as_array()?.iter().map(byte).collect();
        Some((number(&place[0])?, PathBuf::from(OsString::from_vec(path?))))
    };
    let places = value["places"].as_array()?.iter().map(place);
    let (rules, places) = (rules.collect::<Option<_>>()?, places.collect::<Option<_>>()?);
    Some((number(&value["epoch"])?, Arc::new(Epoch { rules, scopes: Vec::new(), places })))
}

impl Names for NameTable {
    fn rule(&self, epoch: u32, index: u16) -> RuleName {
        if let Some((_, id, sentence)) = RESERVED.iter().find(|(reserved, ..)| *reserved == index) {
            return RuleName::new(*id, *sentence);
        }
        let rule = usize::from(index).checked_sub(1).and_then(|index| self.epochs.get(&epoch)?.rules.get(index));
        rule.map_or_else(
            || RuleName::new(format!("rule-{index}"), "a rule of a policy that was replaced"),
            |(name, _)| name.clone(),
        )
    }

    fn trusts(&self, slot: u16, domain: &str) -> bool {
        let Ok(whole) = DnsName::parse(&format!("*.{domain}")) else { return false };
        std::iter::once(whole.clone()).chain(whole.around()).any(|name| self.trusted.contains(&(slot, name)))
    }

    fn place(&self, epoch: u32, node: u64) -> Option<Vec<u8>> {
        let (_, path) = self.epochs.get(&epoch)?.places.iter().find(|(known, _)| u64::from(*known) == node)?;
        Some(path.as_os_str().as_encoded_bytes().to_owned())
    }

    fn instance(&self, slot: u16) -> String {
        let name = self.slots.iter().find(|&(_, &known)| known == slot);
        name.map_or_else(|| format!("slot-{slot}"), |(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::parse::parse;

    fn table() -> NameTable {
        let rule = RuleInfo {
            instance: "a".to_owned(),
            id: "settings-js".to_owned(),
            sentence: "write of \"x\"\n: kill".to_owned(),
            verdict: Verdict::Kill,
            class: Class::Files,
            scope: KillScope::Process,
            maintenance: Some(Maintenance::Settings),
            techniques: vec!["T1565.001".to_owned()],
        };
        let mut table = NameTable { slots: BTreeMap::from([("a".to_owned(), 3)]), ..NameTable::default() };
        let watches = vec![(3, 9, PathBuf::from(OsString::from_vec(b"/u/\xff".to_vec())))];
        table.add(7, &Compiled { rules: vec![rule], watches, ..Compiled::default() });
        table
    }

    #[test]
    fn names_come_back_from_their_text() {
        let table = table();
        let back = NameTable::from_text(table.to_text(&BTreeMap::new()).as_bytes());
        assert_eq!(back, table);
        assert_eq!(back.rule(7, 1).id, "settings-js");
        assert_eq!(back.rule(7, 1).techniques, ["T1565.001"]);
        assert_eq!(back.place(7, 9).unwrap(), b"/u/\xff");
        assert_eq!(back.instance(3), "a");
        assert_eq!(back.rule(7, RULE_GUARD_PROCESS).id, "guard-process");
    }

    #[test]
    fn slots_of_the_policy_before_are_kept_beside_the_new_ones_unless_they_are_taken() {
        let former = BTreeMap::from([("a".to_owned(), 7), ("b".to_owned(), 3), ("c".to_owned(), 4)]);
        let back = NameTable::from_text(table().to_text(&former).as_bytes());
        assert_eq!(back.slots, BTreeMap::from([("a".to_owned(), 3), ("c".to_owned(), 4)]));
    }

    #[test]
    fn what_is_not_known_gets_a_name_all_the_same() {
        for text in [&b""[..], b"{", b"{\"slots\":{\"a\":70000},\"epochs\":[{\"epoch\":7,\"rules\":[[1]]}]}"] {
            let table = NameTable::from_text(text);
            assert_eq!((table.rule(7, 1).id, table.instance(3)), ("rule-1".to_owned(), "slot-3".to_owned()));
        }
    }

    #[test]
    fn what_the_policy_allows_everything_below_of_is_trusted() {
        let text = "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ uid = 990 }]\nuser-dir = \"/u\"\n";
        let rule = |to: &str, verdict: &str| format!("[[instance.egress]]\nto = [\"{to}\"]\nverdict = \"{verdict}\"\n");
        let text = text.to_owned()
            + &rule("*.good.example", "allow")
            + &rule("*.attacker.example", "deny")
            + &rule("one.example", "allow");
        let mut table = table();
        table.assign(BTreeMap::from([("a".to_owned(), 3)]), &parse(&text).unwrap());
        let trusted = ["good.example", "attacker.example", "one.example", "example", "b\u{fc}.example"];
        assert_eq!(trusted.map(|domain| table.trusts(3, domain)), [true, false, false, false, false]);
        assert!(table.trusts(3, "deep.good.example") && !table.trusts(4, "good.example"));
    }

    #[test]
    fn old_epochs_are_forgotten() {
        let mut table = table();
        for epoch in 100..120 {
            table.add(epoch, &Compiled::default());
        }
        assert_eq!(table.epochs.len(), EPOCHS_KEPT);
        assert_eq!(table.rule(7, 1).id, "rule-1");
    }
}
