//! Any bytes as a policy: the parser must answer with a policy or with faults that can be shown, and whatever it takes
//! for a policy must compile into tables that keep what the kernel relies on.
#![no_main]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use libfuzzer_sys::fuzz_target;
use policy::{compile::{Seen, compile}, host::{CanDeny, Host}, model::Select, parse::parse};
use monitor_common::policy::{InodeId, MAX_NET_RULES, PATTERN_HEAD_BITS, PATTERN_LEN};

/// A machine on which half of everything exists, and some paths are links.
struct Machine;

fn hash(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(7, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

impl Host for Machine {
    fn uid(&self, user: &str) -> Option<u32> {
        (user.len() % 2 == 0).then_some(990)
    }
    fn login(&self, uid: u32) -> Option<(String, String)> {
        (uid == 1000).then(|| ("pi".to_owned(), "/bin/bash".to_owned()))
    }
    fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
        vec![(PathBuf::from("/sys/fs/cgroup/x"), 7)]
    }
    fn owner(&self, path: &Path) -> Option<(u32, u32)> {
        Some((u32::from(hash(path) % 5 == 0), 0o755))
    }
    fn exists(&self, path: &Path) -> bool {
        hash(path) % 2 == 0
    }
    fn link(&self, path: &Path) -> Option<PathBuf> {
        match hash(path) % 11 {
            0 => Some(PathBuf::from("../a/./b")),
            1 => Some(PathBuf::from("/c")),
            2 => Some(path.to_owned()),
            _ => None,
        }
    }
    fn can_deny(&self) -> CanDeny {
        CanDeny::default()
    }
}

fuzz_target!(|text: &str| {
    let policy = match parse(text) {
        Ok(policy) => policy,
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let lines = text.matches('\n').count() + 1;
            for fault in faults {
                assert!((1..=lines).contains(&fault.line) && fault.column >= 1 && !fault.what.is_empty(), "{fault:?}");
            }
            return;
        }
    };
    let slots = policy.instances.iter().map(|instance| instance.name.clone()).zip(0..).collect();
    let mut identify = |path: &Path| {
        // Few numbers, so that paths share files.
        let id = InodeId { ino: hash(path) % 64, dev: 1, generation: 1 };
        (hash(path) % 3 != 0).then(|| Seen { id, made: hash(path) % 5 != 0 })
    };
    let Ok(compiled) = compile(&policy, 1, &slots, &Machine, &mut identify) else { return };
    let nodes: BTreeSet<u32> = compiled.nodes.iter().map(|(key, _)| key.node).collect();
    assert_eq!(nodes.len(), compiled.nodes.len(), "node numbers are unique");
    assert!(compiled.inodes.iter().map(|(_, node)| node).all(|node| nodes.contains(node)));
    assert!(compiled.children.iter().all(|(key, node)| nodes.contains(node) && nodes.contains(&key.node)));
    let inodes: BTreeSet<_> = compiled.inodes.iter().map(|(key, _)| (key.instance, key.id.ino)).collect();
    assert_eq!(inodes.len(), compiled.inodes.len(), "an identity has one node");
    let rules = compiled.rules.len();
    for (_, node) in &compiled.nodes {
        assert!(nodes.contains(&node.parent) && (node.patterns == 0 || nodes.contains(&node.patterns)));
        let all = node.own.iter().chain(&node.children).chain(&node.below);
        assert!(all.map(|rule| usize::from(rule.id)).all(|id| id <= rules));
    }
    for (key, bits, _) in &compiled.patterns {
        assert!(nodes.contains(&key.node) && *bits > PATTERN_HEAD_BITS);
        assert!(*bits <= PATTERN_HEAD_BITS + 8 * u32::try_from(PATTERN_LEN).unwrap_or_default());
    }
    assert!(compiled.nets.iter().all(|(_, _, rules)| (1..=MAX_NET_RULES).contains(&(rules.count as usize))));
});
