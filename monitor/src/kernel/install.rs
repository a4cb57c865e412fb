//! Keeping a compiled policy in the maps of the programs.
//!
//! Every entry belongs to an epoch. Those of a new one are written beside those in force, one word makes it the policy, and
//! the old ones are removed.

use std::fs::File;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
};
use monitor_common::{
    dns::{NameKey, NameRulesKey, ResolverKey},
    policy::{
        ChildKey, Identity, InodeKey, Instance, MAX_INSTANCES, MAX_WATCHES, NetKey, NetRules, Node, NodeKey, Pattern,
        PatternKey, Watch,
    },
    scope::{MAX_SELECTORS, Selector},
    volume::{Limit, LimitKey},
};

use super::{
    Kernel,
    error::{KernelError, Result},
    maps::open,
    watches::Slots,
};
use policy::compile::Compiled;

/// The paths that the kernel looks at.
#[derive(Default)]
pub(super) struct Watched {
    slots: Slots,
    /// They have to stay open: that keeps what is pointed to in memory.
    _files: Vec<File>,
}

/// The numbers of policies. Entries of the one in force and of the one that is being written stand side by side, so no
/// number is used again, also not that of a policy that was refused halfway: what it has left would be taken for the next one's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Epochs {
    current: u32,
    refused: u32,
}

impl Epochs {
    /// That of the policy in force; 0 for none.
    pub(super) fn current(self) -> u32 {
        self.current
    }

    /// That of the next policy. Halves of arrays go by parity, so the parity is the other one.
    pub(super) fn next(self) -> u32 {
        let step = self.refused.checked_mul(2).and_then(|skipped| skipped.checked_add(1));
        let first = if self.current.is_multiple_of(2) { 3 } else { 2 };
        step.and_then(|step| self.current.checked_add(step)).unwrap_or(first)
    }

    /// Begins after one that an earlier run has used.
    pub(super) fn begin_after(&mut self, epoch: u32) {
        self.current = self.current.max(epoch);
    }

    /// The next one never came.
    fn refuse(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// The next one has come.
    fn commit(&mut self) {
        *self = Self { current: self.next(), refused: 0 };
    }
}

impl Kernel {
    /// Puts a policy in force: all of it or none. The last step that can fail is the store that makes it the policy.
    pub fn install(&mut self, policy: &Compiled) -> Result<()> {
        let epoch = self.next_epoch();
        let selectors = u32::try_from(policy.selectors.len()).unwrap_or(u32::MAX);
        let written = write(&mut self.ebpf, policy, epoch).and_then(|()| self.watch(policy, epoch));
        match written.and_then(|watched| self.control(epoch, selectors).map(|()| watched)) {
            Ok(watched) => self.watched = watched,
            Err(error) => {
                // What was written belongs to an epoch that never came.
                forget(&mut self.ebpf, epoch);
                self.epochs.refuse();
                return Err(error);
            }
        }
        let old = self.epoch();
        self.epochs.commit();
        if old != 0 {
            forget(&mut self.ebpf, old);
        }
        // What a hook that was under way adds to an older epoch goes with the next policy.
        clear::<InodeKey, u32>(&mut self.ebpf, "NOTES", |key| key.epoch != epoch);
        Ok(())
    }

    /// Points the kernel to the paths whose state it is to look at.
    fn watch(&mut self, policy: &Compiled, epoch: u32) -> Result<Watched> {
        let mut files = Vec::new();
        let slots = self.watched.slots.next(&policy.watches);
        let mut watches = Vec::new();
        for index in 0..MAX_WATCHES {
            let mut watch = Watch::default();
            if let Some((slot, node, path)) = slots.get(index, &policy.watches)
                && let Some((file, identity)) = self.look(path)?
            {
                let Identity { dentry, inode, .. } = identity;
                watch = Watch { dentry, inode, instance: u32::from(*slot), node: *node };
                files.push(file);
            }
            watches.push(watch);
        }
        fill_half(&mut self.ebpf, "WATCHES", epoch, &watches)?;
        Ok(Watched { slots, _files: files })
    }
}

fn write(ebpf: &mut Ebpf, policy: &Compiled, epoch: u32) -> Result<()> {
    fill(ebpf, "INODES", &policy.inodes)?;
    fill(ebpf, "CHILDREN", &policy.children)?;
    fill(ebpf, "NODES", &policy.nodes)?;
    fill_trie(ebpf, "PATTERNS", &policy.patterns)?;
    fill_trie(ebpf, "NETS", &policy.nets)?;
    fill_trie(ebpf, "NAMES", &policy.names)?;
    fill(ebpf, "NAME_RULES", &policy.name_rules)?;
    fill(ebpf, "LIMITS", &policy.limits)?;
    fill(ebpf, "RESOLVERS", &policy.resolvers.iter().map(|key| (*key, 1_u32)).collect::<Vec<_>>())?;
    let mut instances = [Instance::default(); MAX_INSTANCES];
    for &(slot, instance) in &policy.instances {
        if let Some(place) = instances.get_mut(usize::from(slot)) {
            *place = instance;
        }
    }
    fill_half(ebpf, "INSTANCES", epoch, &instances)?;
    let mut selectors = [Selector::default(); MAX_SELECTORS];
    for (place, selector) in selectors.iter_mut().zip(&policy.selectors) {
        *place = *selector;
    }
    fill_half(ebpf, "SELECTORS", epoch, &selectors)
}

/// Removes every entry of an epoch. An entry that stays behind is never looked at, so errors do no harm.
fn forget(ebpf: &mut Ebpf, epoch: u32) {
    clear::<InodeKey, u32>(ebpf, "INODES", |key| key.epoch == epoch);
    clear::<ChildKey, u32>(ebpf, "CHILDREN", |key| key.epoch == epoch);
    clear::<NodeKey, Node>(ebpf, "NODES", |key| key.epoch == epoch);
    clear_trie::<PatternKey, Pattern>(ebpf, "PATTERNS", |key| key.epoch == epoch);
    clear_trie::<NetKey, NetRules>(ebpf, "NETS", |key| key.epoch == epoch);
    let [lowest, ..] = epoch.to_le_bytes();
    clear_trie::<NameKey, u64>(ebpf, "NAMES", |key| key.epoch == lowest);
    clear::<NameRulesKey, NetRules>(ebpf, "NAME_RULES", |key| key.epoch == epoch);
    clear::<LimitKey, Limit>(ebpf, "LIMITS", |key| key.epoch == epoch);
    clear::<ResolverKey, u32>(ebpf, "RESOLVERS", |key| key.epoch == epoch);
}

fn fill<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str, entries: &[(K, V)]) -> Result<()> {
    let mut map: HashMap<_, K, V> = open(ebpf, name)?;
    let filled = entries.iter().try_for_each(|(key, value)| map.insert(key, value, 0));
    filled.map_err(|source| KernelError::Map { name, source })
}

/// The same by prefixes: keys, how many of their bits count, and values.
fn fill_trie<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str, entries: &[(K, u32, V)]) -> Result<()> {
    let mut map: LpmTrie<_, K, V> = open(ebpf, name)?;
    let filled = entries.iter().try_for_each(|(key, bits, value)| map.insert(&Key::new(*bits, *key), value, 0));
    filled.map_err(|source| KernelError::Map { name, source })
}

/// Fills the half of an array that belongs to an epoch: the lower one is for even epochs, the upper one for odd ones.
fn fill_half<V: Pod>(ebpf: &mut Ebpf, name: &'static str, epoch: u32, values: &[V]) -> Result<()> {
    let from = if epoch.is_multiple_of(2) { 0 } else { values.len() };
    let mut map: Array<_, V> = open(ebpf, name)?;
    let filled = (0..).skip(from).zip(values).try_for_each(|(index, value)| map.set(index, value, 0));
    filled.map_err(|source| KernelError::Map { name, source })
}

fn clear<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str, is_old: impl Fn(&K) -> bool) {
    let Ok(mut map) = open::<HashMap<_, K, V>>(ebpf, name) else { return };
    let old: Vec<K> = map.keys().flatten().filter(is_old).collect();
    for key in old {
        let _ = map.remove(&key);
    }
}

fn clear_trie<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str, is_old: impl Fn(&K) -> bool) {
    let Ok(mut map) = open::<LpmTrie<_, K, V>>(ebpf, name) else { return };
    let old: Vec<Key<K>> = map.keys().flatten().filter(|key| is_old(&key.data())).collect();
    for key in old {
        let _ = map.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_used_once_and_has_the_other_half_of_the_one_in_force() {
        let (mut epochs, mut used) = (Epochs::default(), vec![0]);
        epochs.begin_after(u32::MAX - 40);
        for round in 0..30 {
            let (current, next) = (epochs.current(), epochs.next());
            assert_ne!(current % 2, next % 2, "{current}, {next}");
            assert!(!used.contains(&next), "{next} again");
            used.push(next);
            if round % 3 == 0 { epochs.commit() } else { epochs.refuse() }
        }
    }
}
