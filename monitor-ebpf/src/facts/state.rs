//! The state of protected paths around a system call.

use monitor_common::{
    Access,
    decide::Subject,
    policy::{MAX_WATCHES, Watch},
};

use super::{offset, word};
use crate::maps::{CONTROL, WATCHES};

const S_IFMT: u64 = 0o170_000;
const S_IFDIR: u64 = 0o040_000;

/// The watch in a slot, when it belongs to the instance. None when there is no guard any more: what is pointed to stays in
/// memory only for as long as the guard holds it open.
#[inline(always)]
pub(crate) fn watch(subject: &Subject<'_>, index: u32) -> Option<&'static Watch> {
    if CONTROL.get(0)?.guard == 0 {
        return None;
    }
    slot(subject.epoch, index).filter(|watch| watch.dentry != 0 && watch.instance == u32::from(subject.slot))
}

#[inline(always)]
fn slot(epoch: u32, index: u32) -> Option<&'static Watch> {
    WATCHES.get((epoch & 1) * MAX_WATCHES as u32 + index)
}

/// The watch in a slot, when it is on the same path as it was in `epoch`: that of this policy, or the one before. A path
/// keeps its slot for as long as it is watched.
#[inline(always)]
pub(crate) fn watch_since(subject: &Subject<'_>, epoch: u32, index: u32) -> Option<&'static Watch> {
    let before = slot(epoch, index)?;
    watch(subject, index).filter(|watch| watch.dentry == before.dentry)
}

/// `S_APPEND` and `S_IMMUTABLE` of include/linux/fs.h: flags that only their setter changes.
const FIXED: u32 = 0b1100;

/// State of a watched path: sixteen bits each for name and place, links, mode, flags and owner, size. Of a directory links and size
/// do not count: they change with what is in it.
#[inline(never)]
pub(crate) fn state(watch: &Watch) -> u64 {
    let parent = word::<u64>(watch.dentry, offset!(dentry_parent));
    let name = word::<u32>(watch.dentry, offset!(dentry_name_hash));
    let hashed = u64::from(word::<u64>(watch.dentry, offset!(dentry_hash)) != 0);
    let place = fold(parent ^ u64::from(name) << 7) << 1 | hashed;
    let mode = u64::from(word::<u16>(watch.inode, offset!(inode_mode)));
    // All ones or none: a branch would be one more way for the verifier.
    let own = u64::from(mode & S_IFMT != S_IFDIR).wrapping_neg();
    let links = u64::from(word::<u32>(watch.inode, offset!(inode_nlink))) & own;
    let flags = u64::from(word::<u32>(watch.inode, offset!(inode_flags)) & FIXED);
    let uid = u64::from(word::<u32>(watch.inode, offset!(inode_uid)));
    let gid = u64::from(word::<u32>(watch.inode, offset!(inode_gid)));
    let size = word::<u64>(watch.inode, offset!(inode_size)) & own;
    place & 0xffff
        | (links & 0xffff) << 16
        | (fold(mode ^ flags << 16 ^ uid << 20 ^ gid << 41) & 0xffff) << 32
        | (fold(size) & 0xffff) << 48
}

/// Every bit of a word in the lower sixteen.
#[inline(always)]
fn fold(word: u64) -> u64 {
    word ^ word >> 15 ^ word >> 31 ^ word >> 47
}

/// Which of the accesses that a call asks for show in what has changed.
#[inline(always)]
pub(crate) fn shown(changed: u64, asked: Access) -> Access {
    let mut shows = 0;
    if changed & 0xffff != 0 {
        shows |= Access::RENAME.bits() | Access::DELETE.bits();
    }
    if changed & 0xffff << 16 != 0 {
        shows |= Access::LINK.bits() | Access::DELETE.bits();
    }
    if changed & 0xffff << 32 != 0 {
        shows |= Access::ATTR.bits();
    }
    if changed & 0xffff << 48 != 0 {
        shows |= Access::WRITE.bits();
    }
    Access::from_bits(shows & asked.bits())
}
