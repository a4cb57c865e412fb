//! The names of files: what holds for a file under one of them holds under all.
//!
//! A rule matches the name by which a file was reached, and the identity that userspace has looked up. A file that took a
//! protected name a moment ago matches neither when it is reached by another of its names. Two mechanisms close that gap:
//! the hook climbs from the other names that the kernel has in memory as well, and each rename and link, by any process,
//! notes which file takes a name that a rule names, before it does.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use monitor_common::{
    decide::{self, MAX_NAMES},
    name::Name,
    policy::{ChildKey, InodeKey, Knowing, MAX_INSTANCES},
};

use crate::{
    facts::{
        actor::Actor,
        file::{Inode, inode_at},
        offset,
        path::{likely_mount, name_of},
        word,
    },
    global,
    maps::{CHILDREN, CONTROL, INODES, NAMED, NOTES, Scratch, UNNOTED},
};

/// Has [`weigh_others`] look at the names of an inode other than the dentry in `place`. The mount there is the one that all
/// are named under, or 0 where they are of another file system than the dentry.
#[inline(always)]
pub(super) fn look_at(scratch: &mut Scratch, inode: Inode, (dentry, mount): (u64, u64)) {
    scratch.links.inode.set(inode.0);
    scratch.links.reached[0].set(dentry);
    scratch.links.reached[1].set(mount);
    scratch.links.next.set(word(inode.0, offset!(inode_dentries)));
}

/// Weighs in what holds for the other names of the inode that is to be looked at, if any.
#[inline(always)]
pub(super) fn weigh_others(scratch: &mut Scratch, actor: &Actor) {
    if scratch.links.inode.get() != 0 && decide::begin_others(&mut scratch.work) {
        weigh_each(scratch.buffer.get(), actor.subject.epoch, actor.subject.slot.into());
    }
}

/// Weighs in what was noted of the inode, and what holds for its names. All that it needs is in registers, and each step is a
/// function that the verifier checks once: there is hardly any stack left for the frames in between.
#[inline(always)]
fn weigh_each(buffer: u32, epoch: u32, slot: u32) {
    for index in 0..InodeKey::NOTES {
        match global::fw_note_of(buffer, epoch, slot, index) {
            0 => break,
            UNKNOWN => return weigh_unknown(buffer, epoch, slot),
            node => global::fw_weigh_node(buffer, epoch, slot, node),
        };
    }
    for _ in 0..=MAX_NAMES {
        let step = global::fw_next_name(buffer);
        if step == Step::End as u32 {
            return;
        }
        if step == Step::Found as u32 {
            global::fw_locate(buffer, epoch, slot);
            global::fw_weigh_place(buffer, epoch, slot);
        }
    }
    weigh_unknown(buffer, epoch, slot);
}

/// Weighs in the strictest rule: not all names of the file are known.
#[inline(always)]
fn weigh_unknown(buffer: u32, epoch: u32, slot: u32) {
    global::fw_give_up(buffer);
    global::fw_weigh_place(buffer, epoch, slot);
}

/// Something could not be noted.
const UNKNOWN: u32 = u32::MAX;

/// The node of a note of an inode, or 0 for none.
#[inline(always)]
pub(crate) fn note_of(inode: u64, epoch: u32, slot: u32, index: u32) -> u32 {
    // SAFETY: a reference to a number; volatile, because other CPUs change it.
    if UNNOTED.get(slot).is_some_and(|unnoted| unsafe { core::ptr::read_volatile(unnoted) } == epoch) {
        return UNKNOWN;
    }
    let Some(id) = Inode(inode).id() else { return 0 };
    noted(&InodeKey { id, epoch, instance: InodeKey::note(slot, index) }).unwrap_or(0)
}

/// What a step along the list of names came to.
#[repr(u32)]
pub(crate) enum Step {
    /// The list has ended.
    End,
    /// No other name.
    Nothing,
    /// Another name, stored as the location.
    Found,
}

/// Takes the next name of the inode that is looked at.
#[inline(always)]
pub(crate) fn next(scratch: &mut Scratch) -> Step {
    let (inode, link) = (scratch.links.inode.get(), scratch.links.next.get());
    if link == 0 {
        return Step::End;
    }
    let dentry = link.wrapping_sub(u64::from(offset!(dentry_alias)));
    scratch.links.next.set(word(link, offset!(link_next)));
    // No lock is held, so the list may change meanwhile. A dentry that has left it leads nowhere: start again.
    if word::<u64>(dentry, offset!(dentry_inode)) != inode {
        scratch.links.next.set(word(inode, offset!(inode_dentries)));
        return Step::Nothing;
    }
    // Skip a name that was removed, and a dentry without a parent, which an open by a file handle makes.
    let hashed: u64 = word(dentry, offset!(dentry_hash));
    let parent: u64 = word(dentry, offset!(dentry_parent));
    if dentry == scratch.links.reached[0].get() || hashed == 0 || dentry == parent {
        return Step::Nothing;
    }
    let mount = scratch.links.reached[1].get();
    scratch.set_location((dentry, if mount == 0 { likely_mount(dentry) } else { mount }));
    Step::Found
}

/// A file is about to be renamed.
#[inline(always)]
pub(super) fn renamed(from: u64, to: u64) {
    // With one link, the new name will be the only one.
    if let Some(inode) = inode_at(from) {
        note_name(to, inode.0, inode.has_names());
    }
}

/// A file is about to get another name.
#[inline(always)]
pub(super) fn linked(from: u64, to: u64) {
    if let Some(inode) = inode_at(from) {
        note_name(to, inode.0, true);
        // The file may be younger than the last look of userspace at the name that it is linked from.
        note_name(from, inode.0, true);
    }
}

/// When a file was last about to take a name in a directory that rules know.
#[inline(always)]
pub(super) fn last() -> u64 {
    // SAFETY: a reference to a number; volatile, because other CPUs change it.
    NAMED.get(0).map_or(0, |at| unsafe { core::ptr::read_volatile(at) })
}

/// The node of an identity that userspace has looked up.
#[inline(always)]
fn known(key: &InodeKey) -> Option<u32> {
    // SAFETY: entries of an epoch are not changed while the epoch is current.
    unsafe { INODES.get(key) }.copied()
}

/// The node of a name.
#[inline(always)]
fn child_of(key: &ChildKey) -> Option<u32> {
    // SAFETY: as above.
    unsafe { CHILDREN.get(key) }.copied()
}

/// The node that was noted of an identity.
#[inline(always)]
fn noted(key: &InodeKey) -> Option<u32> {
    // SAFETY: a number, copied at once.
    unsafe { NOTES.get(key) }.copied()
}

/// Adds a note; false when the map is full.
#[inline(always)]
fn add_note(key: &InodeKey, node: u32) -> bool {
    NOTES.insert(key, node, 0).is_ok()
}

/// Notes that the inode is under a name, for all instances with rules that name it. A function of its own: it needs stack.
#[inline(never)]
fn note_name(dentry: u64, inode: u64, has_names: bool) {
    let Some(epoch) = CONTROL.get(0).map(|control| control.epoch) else { return };
    let directory: u64 = word(dentry, offset!(dentry_parent));
    let Some(id) = inode_at(directory).and_then(Inode::id) else { return };
    let mut above = InodeKey { id, epoch, instance: InodeKey::ANY };
    let Some(knowing) = known(&above).map(Knowing::from_raw) else { return };
    // SAFETY: no arguments.
    let _ = NAMED.set(0, unsafe { bpf_ktime_get_boot_ns() }, 0);
    if !has_names {
        return;
    }
    let mut child = ChildKey { epoch, node: 0, name: Name::EMPTY };
    name_of(dentry, &mut child.name);
    for index in 0..MAX_INSTANCES as u32 {
        let slot = u32::from(knowing.first) + index;
        if slot > u32::from(knowing.last) {
            break;
        }
        above.instance = slot;
        let Some(node) = known(&above) else { continue };
        child.node = node;
        if let Some(node) = child_of(&child) {
            note(inode, epoch, slot, node);
        }
    }
}

/// Notes that what a node says holds for an inode.
#[inline(never)]
fn note(inode: u64, epoch: u32, slot: u32, node: u32) {
    let Some(id) = Inode(inode).id() else { return };
    let mut key = InodeKey { id, epoch, instance: slot };
    if known(&key) == Some(node) {
        return;
    }
    for index in 0..InodeKey::NOTES {
        key.instance = InodeKey::note(slot, index);
        match noted(&key) {
            Some(noted) if noted == node => return,
            Some(_) => {}
            None if add_note(&key, node) => return,
            None => break,
        }
    }
    let _ = UNNOTED.set(slot, epoch, 0);
}
