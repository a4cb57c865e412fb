//! The decision's look-ups, answered from BPF maps.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, maps::lpm_trie::Key};
use monitor_common::{
    decide::{Lookups, Subject, Work},
    dns::{Bound, BoundKey, NameRulesKey},
    policy::{
        ChildKey, InodeKey, MAX_INSTANCES, Maintenance, NET_HEAD_BITS, NetKey, NetRules, Node, NodeKey,
        PATTERN_HEAD_BITS, PATTERN_LEN, Pattern, PatternKey, Rule,
    },
};

use crate::{
    global,
    maps::{BOUND, CHILDREN, CONTROL, INODES, INSTANCES, NAME_RULES, NETS, NODES, PATTERNS, Scratch, WINDOWS},
};

/// The policy in the kernel's maps, for a program with this scratch memory.
pub(crate) struct Maps {
    pub(crate) buffer: u32,
}

impl Maps {
    /// For questions that need no memory, such as those about addresses and windows.
    pub(crate) const WITHOUT_BUFFER: Self = Self { buffer: u32::MAX };

    /// The same where names count: they are learnt from packets, so only the programs that see sockets at the cgroup ask
    /// for them.
    pub(crate) const WITH_NAMES: Self = Self { buffer: u32::MAX - 1 };

    /// For who works in this memory, and nowhere else: the steps of a decision find it by themselves.
    #[inline(always)]
    pub(crate) fn with(scratch: &Scratch) -> Self {
        Self { buffer: scratch.buffer.get() }
    }
}

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
    fn weigh_node(&self, subject: &Subject<'_>, node: u32, _: &mut Work) {
        global::fw_weigh_node(self.buffer, subject.epoch, subject.slot.into(), node);
    }

    #[inline(always)]
    fn weigh_place(&self, subject: &Subject<'_>, _: &mut Work) {
        global::fw_weigh_place(self.buffer, subject.epoch, subject.slot.into());
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

    #[inline(always)]
    fn bound(&self, key: &BoundKey) -> Option<&Bound> {
        // SAFETY: a time that is changed meanwhile is the old one or the new one; a name comes before its time, and one
        // that takes another's place counts for no longer than that did, for this once.
        unsafe { BOUND.get(key) }
    }

    #[inline(always)]
    fn name_rules(&self, key: &NameRulesKey) -> Option<&NetRules> {
        // SAFETY: entries of an epoch are not changed while the epoch is current.
        unsafe { NAME_RULES.get(key) }
    }

    #[inline(always)]
    fn named(&self, subject: &Subject<'_>, address: &[u8; 16], port: u16, protocol: u8) -> Rule {
        if self.buffer != Self::WITH_NAMES.buffer {
            return Rule::NONE;
        }
        // SAFETY: both are sixteen plain bytes.
        let [high, low]: [u64; 2] = unsafe { core::mem::transmute(*address) };
        let [id_low, id_high, verdict, fallback] = global::fw_named(
            subject.epoch,
            subject.slot.into(),
            high,
            low,
            u32::from(protocol) << 16 | u32::from(port),
        )
        .to_le_bytes();
        Rule { id: u16::from_le_bytes([id_low, id_high]), verdict, fallback }
    }
}

/// The current policy's word on the instance in `slot`; `None` before there is a policy.
#[inline(always)]
pub(crate) fn subject(slot: u16) -> Option<Subject<'static>> {
    let epoch = CONTROL.get(0)?.epoch;
    let subject = subject_of(epoch, slot)?;
    (epoch != 0 && subject.instance.used != 0).then_some(subject)
}

/// The word of the policy of that epoch, which is the current one or has just been.
#[inline(always)]
pub(crate) fn subject_of(epoch: u32, slot: u16) -> Option<Subject<'static>> {
    let half = (epoch & 1) * MAX_INSTANCES as u32;
    let instance = INSTANCES.get(half + (u32::from(slot) & (MAX_INSTANCES as u32 - 1)))?;
    Some(Subject { epoch, slot, instance })
}
