//! The decision's look-ups, answered from BPF maps.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, maps::lpm_trie::Key};
use monitor_common::{
    decide::{Lookups, Subject},
    policy::{
        ChildKey, InodeKey, MAX_INSTANCES, Maintenance, NET_HEAD_BITS, NetKey, NetRules, Node, NodeKey,
        PATTERN_HEAD_BITS, PATTERN_LEN, Pattern, PatternKey,
    },
};

use crate::maps::{CHILDREN, CONTROL, INODES, INSTANCES, NETS, NODES, PATTERNS, WINDOWS};

/// The policy in the kernel's maps.
pub(crate) struct Maps;

impl Lookups for Maps {
    #[inline(always)]
    fn inode(&self, key: &InodeKey) -> Option<u32> {
        // SAFETY: entries of an epoch are not changed while the epoch is current.
        unsafe { INODES.get(key) }.copied()
    }

    #[inline(always)]
    fn child(&self, key: &ChildKey) -> Option<u32> {
        // SAFETY: as above.
        unsafe { CHILDREN.get(key) }.copied()
    }

    #[inline(always)]
    fn node(&self, key: &NodeKey) -> Option<&Node> {
        // SAFETY: as above.
        unsafe { NODES.get(key) }
    }

    #[inline(always)]
    fn pattern(&self, key: &PatternKey) -> Option<&Pattern> {
        PATTERNS.get(Key::new(PATTERN_HEAD_BITS + 8 * PATTERN_LEN as u32, *key))
    }

    #[inline(always)]
    fn net(&self, key: &NetKey) -> Option<&NetRules> {
        NETS.get(Key::new(NET_HEAD_BITS + 128, *key))
    }

    #[inline(always)]
    fn window(&self, slot: u16, maintenance: u8) -> u64 {
        // SAFETY: a reference to a number; volatile, because userspace changes it.
        WINDOWS.get(Maintenance::place(slot, maintenance)).map_or(0, |until| unsafe { core::ptr::read_volatile(until) })
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}

/// The current policy's word on the instance in `slot`; `None` before there is a policy.
#[inline(always)]
pub(crate) fn subject(slot: u16) -> Option<Subject<'static>> {
    let control = CONTROL.get(0)?;
    let epoch = control.epoch;
    let half = (epoch & 1) * MAX_INSTANCES as u32;
    let instance = INSTANCES.get(half + (u32::from(slot) & (MAX_INSTANCES as u32 - 1)))?;
    if epoch == 0 || instance.used == 0 {
        return None;
    }
    Some(Subject { epoch, slot, instance })
}
