//! Names and attributes of files.
//!
//! These hooks get dentries and no mount. Rules match by identity and name all the same; the record's path ends
//! at the root of the file system where the task has no mount of it at hand.
#![expect(clippy::unnecessary_wraps, reason = "one signature for the bodies of all hooks")]

use monitor_common::{
    Access, Verdict, decide,
    event::{FLAG_AFTER, FLAG_CREATED, Hook},
    verdict::Sensor,
};

use super::{Args, dentry_arg};
use crate::{
    facts::{
        actor::Actor,
        file::inode_at,
        offset,
        path::{Location, likely_mount},
        read,
    },
    hooks::{Request, judge_place, report_place},
    lookups::Maps,
    maps::Scratch,
};

/// `ATTR_*` of include/linux/fs.h.
const ATTR_MODE: u32 = 1;
const ATTR_UID: u32 = 1 << 1;
const ATTR_GID: u32 = 1 << 2;
const ATTR_SIZE: u32 = 1 << 3;
const ATTR_ATIME: u32 = 1 << 4;
const ATTR_MTIME: u32 = 1 << 5;
const ATTR_OPEN: u32 = 1 << 15;

/// Judges an access to a name.
#[inline(always)]
fn judge(actor: &Actor, scratch: &mut Scratch, dentry: u64, hook: Hook, access: Access) -> Option<Verdict> {
    let request = Request { flags: FLAG_AFTER, ..Request::new(hook as u8, access) };
    Some(judge_place(scratch, actor, dentry, likely_mount(dentry), &request))
}

/// A file is made by an open. What `mknod` makes of a regular file comes by here as well.
#[inline(always)]
pub(super) fn create<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let dentry = args.arg(1);
    let request = Request { flags: FLAG_CREATED | FLAG_AFTER, ..Request::new(Hook::Open as u8, Access::CREATE) };
    Some(judge_place(scratch, actor, dentry, likely_mount(dentry), &request))
}

#[inline(always)]
pub(super) fn unlink<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(1), Hook::Unlink, Access::DELETE)
}

#[inline(always)]
pub(super) fn mkdir<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(1), Hook::Mkdir, Access::CREATE)
}

#[inline(always)]
pub(super) fn rmdir<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(1), Hook::Rmdir, Access::DELETE)
}

#[inline(always)]
pub(super) fn mknod<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(1), Hook::Mknod, Access::CREATE)
}

#[inline(always)]
pub(super) fn symlink<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(1), Hook::Symlink, Access::CREATE)
}

#[inline(always)]
pub(super) fn link<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    two(actor, scratch, Hook::Link, (args.arg(0), Access::LINK), (args.arg(2), Access::CREATE))
}

#[inline(always)]
pub(super) fn rename<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let (from, to) = (args.arg(1), args.arg(3));
    let done = two(actor, scratch, Hook::Rename, (from, Access::RENAME), (to, Access::RENAME.union(Access::CREATE)))?;
    if done as u8 >= Verdict::Deny as u8 || !inode_at(from)?.is_directory() {
        return Some(done);
    }
    judge_moved(scratch, actor, from, to);
    // The result is in memory: one opaque value for both paths of the function.
    Some(Verdict::from_raw(scratch.value.get() as u8))
}

/// Judges a directory's being moved for what patterns protect in it.
#[inline(never)]
fn judge_moved(scratch: &mut Scratch, actor: &Actor, from: u64, to: u64) {
    scratch.value.set(Verdict::Allow as u32);
    let mount = likely_mount(from);
    let mut view = Location::new((from, mount), scratch);
    let (reaches, takes) = decide::reach(&Maps::with(scratch), &actor.subject, &mut view, &mut scratch.work);
    let mut view = Location::new((to, mount), scratch);
    let (reach_there, _) = decide::reach(&Maps::with(scratch), &actor.subject, &mut view, &mut scratch.work);
    if !takes.is_set() || reaches == reach_there {
        return;
    }
    let decision = decide::takes(&Maps::with(scratch), &actor.subject, takes, &mut scratch.work);
    let request = Request {
        flags: FLAG_AFTER,
        detail: 1,
        other: (to, mount),
        ..Request::new(Hook::Rename as u8, Access::RENAME)
    };
    let done = report_place(scratch, actor, (from, mount), &request, &decision);
    scratch.value.set(done as u32);
}

/// Judges both names of an operation; the second is not asked when the first is refused. A sensor that only kills stops
/// nothing: what heals at the second has to be known.
#[inline(always)]
fn two(actor: &Actor, scratch: &mut Scratch, hook: Hook, from: (u64, Access), to: (u64, Access)) -> Option<Verdict> {
    let mut worst = Verdict::Allow;
    // Both are on one file system.
    let mount = likely_mount(from.0);
    for (which, subject, other) in [(1, from, to), (2, to, from)] {
        let request = Request {
            flags: FLAG_AFTER,
            detail: which,
            other: (other.0, mount),
            ..Request::new(hook as u8, subject.1)
        };
        let done = judge_place(scratch, actor, subject.0, mount, &request);
        if done as u8 >= Verdict::Deny as u8 && actor.sensor.can_deny() {
            return Some(done);
        }
        if done as u8 > worst as u8 {
            worst = done;
        }
    }
    Some(worst)
}

#[inline(always)]
pub(super) fn setattr<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let place = dentry_arg!(A, setattr);
    let (dentry, attr) = (args.moved_arg(place), args.moved_arg(place + 1));
    let valid: u32 = read(attr, offset!(iattr_valid))?;
    // What an open truncates was judged as an open.
    if valid & ATTR_OPEN != 0 {
        return None;
    }
    let (hook, access) = if valid & ATTR_SIZE != 0 {
        (Hook::Truncate, Access::WRITE)
    } else if valid & ATTR_MODE != 0 {
        (Hook::Chmod, Access::ATTR)
    } else if valid & (ATTR_UID | ATTR_GID) != 0 {
        (Hook::Chown, Access::ATTR)
    } else if valid & (ATTR_ATIME | ATTR_MTIME) != 0 {
        (Hook::Utimes, Access::ATTR)
    } else {
        return None;
    };
    judge(actor, scratch, dentry, hook, access)
}

#[inline(always)]
pub(super) fn setxattr<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.moved_arg(dentry_arg!(A, setxattr)), Hook::Xattr, Access::ATTR)
}

#[inline(always)]
pub(super) fn file_setattr<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(0), Hook::FileAttr, Access::ATTR)
}

#[inline(always)]
pub(super) fn change_acl<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(1), Hook::Xattr, Access::ATTR)
}

#[inline(always)]
pub(super) fn removexattr<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.moved_arg(dentry_arg!(A, removexattr)), Hook::Xattr, Access::ATTR)
}
