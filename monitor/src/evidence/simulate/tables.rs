//! A compiled policy in ordinary maps, for [`decide`](monitor_common::decide) to look things up in.

use std::collections::HashMap;

use monitor_common::{
    decide::Lookups,
    dns::{Bound, BoundKey, NameRulesKey},
    name::{NAME_LEN, Name},
    policy::{
        ChildKey, InodeKey, Instance, MAX_INSTANCES, Maintenance, NET_HEAD_BITS, NetKey, NetRules, Node, NodeKey,
        PATTERN_HEAD_BITS, PATTERN_LEN, Pattern, PatternKey,
    },
};

use policy::{compile::Compiled, name::DnsName};

/// The one epoch of these tables.
pub(super) const EPOCH: u32 = 1;

/// Bytes of a name or a pattern; the rest is zero.
type NameBytes = [u8; NAME_LEN];
type Literal = [u8; PATTERN_LEN];
/// By length, from the longest on.
type Layers<L, K, V> = Vec<(L, HashMap<K, V>)>;

/// What the kernel has in its maps.
#[derive(Debug)]
pub(super) struct Tables {
    inodes: HashMap<InodeKey, u32>,
    children: HashMap<(u32, NameBytes), u32>,
    nodes: HashMap<NodeKey, Node>,
    /// By node and kind: how many bytes count, from the longest on, and the patterns by these bytes.
    patterns: HashMap<(u32, u32), Layers<usize, Literal, Pattern>>,
    /// By instance and direction: how many bits count, from the longest on, and the rules by these bits.
    nets: HashMap<(u16, u16), Layers<u32, u128, NetRules>>,
    /// Rules of names, by instance and [`DnsName::id`].
    name_rules: HashMap<(u32, u64), NetRules>,
    /// The name that gave the address which is judged.
    bound: Option<Bound>,
    instances: HashMap<u16, Instance>,
    /// Until when maintenance windows are open, in milliseconds since 1970.
    windows: [u64; MAX_INSTANCES * Maintenance::PLACES],
    /// The time of the event that is judged.
    now: u64,
}

fn bytes_of(name: &Name) -> NameBytes {
    let mut bytes = [0; NAME_LEN];
    for (byte, at) in bytes.iter_mut().zip(0..name.len()) {
        *byte = name.at(at);
    }
    bytes
}

/// The first `len` bytes.
fn beginning(bytes: &Literal, len: usize) -> Literal {
    let mut literal = [0; PATTERN_LEN];
    literal[..len].copy_from_slice(&bytes[..len]);
    literal
}

/// The first `bits` of an address.
fn prefix(address: [u8; 16], bits: u32) -> u128 {
    let all = u128::from_be_bytes(address);
    if bits == 0 { 0 } else { all & (u128::MAX << (128 - bits)) }
}

/// The layer of that length, in a list that is ordered from the longest on.
fn layer<L: Copy + Ord, K, V>(layers: &mut Layers<L, K, V>, len: L) -> usize {
    match layers.binary_search_by(|(known, _)| len.cmp(known)) {
        Ok(at) => at,
        Err(at) => {
            layers.insert(at, (len, HashMap::new()));
            at
        }
    }
}

impl Tables {
    pub(super) fn new(compiled: &Compiled) -> Self {
        let mut tables = Self {
            inodes: compiled.inodes.iter().copied().collect(),
            children: compiled.children.iter().map(|(key, node)| ((key.node, bytes_of(&key.name)), *node)).collect(),
            nodes: compiled.nodes.iter().copied().collect(),
            patterns: HashMap::new(),
            nets: HashMap::new(),
            name_rules: compiled.name_rules.iter().map(|(key, rules)| ((key.instance, key.name), *rules)).collect(),
            bound: None,
            instances: compiled.instances.iter().copied().collect(),
            windows: [0; MAX_INSTANCES * Maintenance::PLACES],
            now: 0,
        };
        for &(key, bits, pattern) in &compiled.patterns {
            let len = ((bits - PATTERN_HEAD_BITS) / 8) as usize;
            let layers = tables.patterns.entry((key.node, key.kind)).or_default();
            let at = layer(layers, len);
            layers[at].1.insert(beginning(&key.bytes, len), pattern);
        }
        for &(key, bits, rules) in &compiled.nets {
            let bits = bits - NET_HEAD_BITS;
            let layers = tables.nets.entry((key.instance, key.direction)).or_default();
            let at = layer(layers, bits);
            layers[at].1.insert(prefix(key.address, bits), rules);
        }
        tables
    }

    pub(super) fn instance(&self, slot: u16) -> Option<&Instance> {
        self.instances.get(&slot)
    }

    /// Sets the clock, in milliseconds since 1970.
    pub(super) fn set_now(&mut self, now: i64) {
        self.now = u64::try_from(now).unwrap_or_default();
    }

    /// Says by which name the instance got the address that is judged next. As in the kernel the nearest name of the policy
    /// counts.
    pub(super) fn bind(&mut self, slot: u16, name: Option<&DnsName>) {
        let known = |name: &DnsName| Some(name.id()).filter(|&id| self.name_rules.contains_key(&(slot.into(), id)));
        let id = name.and_then(|name| known(name).or_else(|| name.around().find_map(|name| known(&name))));
        self.bound = id.map(|name| {
            let mut bound = Bound::default();
            bound.add(name, u64::MAX);
            bound
        });
    }

    /// Opens a maintenance window until a time in milliseconds since 1970; 0 closes it.
    pub(super) fn set_window(&mut self, slot: u16, maintenance: Maintenance, until: u64) {
        self.windows[Maintenance::place(slot, maintenance as u8) as usize] = until;
    }
}

impl Lookups for Tables {
    fn inode(&self, key: &InodeKey) -> Option<u32> {
        self.inodes.get(key).copied()
    }

    fn child(&self, key: &ChildKey) -> Option<u32> {
        self.children.get(&(key.node, bytes_of(&key.name))).copied()
    }

    fn node(&self, key: &NodeKey) -> Option<&Node> {
        self.nodes.get(key)
    }

    fn pattern(&self, key: &PatternKey) -> Option<&Pattern> {
        let layers = self.patterns.get(&(key.node, key.kind))?;
        layers.iter().find_map(|(len, patterns)| patterns.get(&beginning(&key.bytes, *len)))
    }

    fn net(&self, key: &NetKey) -> Option<&NetRules> {
        let layers = self.nets.get(&(key.instance, key.direction))?;
        layers.iter().find_map(|(bits, rules)| rules.get(&prefix(key.address, *bits)))
    }

    fn bound(&self, _: &BoundKey) -> Option<&Bound> {
        self.bound.as_ref()
    }

    fn name_rules(&self, key: &NameRulesKey) -> Option<&NetRules> {
        self.name_rules.get(&(key.instance, key.name))
    }

    fn window(&self, slot: u16, maintenance: u8) -> u64 {
        self.windows[Maintenance::place(slot, maintenance) as usize]
    }

    fn now(&self) -> u64 {
        self.now
    }
}
