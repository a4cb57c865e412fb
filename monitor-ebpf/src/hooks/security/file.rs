//! Open files: opened, read and written through, mapped, given commands.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use monitor_common::{
    Access, Verdict, control, decide,
    event::Hook,
    security::{Judged, NAMING},
    verdict::Sensor,
};

use super::Args;
use crate::{
    facts::{actor::Actor, file::File, offset, pointer, read},
    hooks::{Request, descriptor::changes, judge_file, names, open::judge_open},
    lookups::Maps,
    maps::{JUDGED, Scratch},
};

/// `MAY_WRITE`, `MAY_READ` and `MAY_APPEND` of include/linux/fs.h.
const MAY_WRITE: u32 = 2;
const MAY_READ: u32 = 4;
const MAY_APPEND: u32 = 8;

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
/// `MAP_TYPE`, and the values of it that share the mapping.
const MAP_TYPE: u64 = 0xf;
const MAP_SHARED: u64 = 1;
const MAP_SHARED_VALIDATE: u64 = 3;
/// `VM_SHARED`
const VM_SHARED: u64 = 8;

#[inline(always)]
pub(super) fn open<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let file = File(args.arg(0));
    // `inode_create` judges what is made.
    let done = judge_open(scratch, actor, file, file.flags()?, false);
    if done.is_none_or(|done| (done as u8) < Verdict::Deny as u8) {
        // What was made was judged elsewhere; it may rest on any window that is open.
        let window = match done {
            Some(_) => u16::from(scratch.work.decision().window),
            None => decide::first_to_close(&Maps::WITHOUT_BUFFER, &actor.subject),
        };
        remember(actor, file, Access::READ.union(Access::WRITE), window);
    }
    done
}

/// A descriptor that was opened before the guard started, or by another process, is first seen here.
#[inline(always)]
pub(super) fn permission<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let (file, mask) = (File(args.arg(0)), args.arg(1) as u32);
    if mask & (MAY_WRITE | MAY_APPEND) != 0 {
        through_descriptor(actor, scratch, file, Hook::Write, Access::WRITE)
    } else if mask & MAY_READ != 0 {
        through_descriptor(actor, scratch, file, Hook::Read, Access::READ)
    } else {
        None
    }
}

/// A command that changes the file.
#[inline(always)]
pub(super) fn ioctl<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let (file, command) = (File(args.arg(0)), args.arg(1) as u32);
    let access = control::access(command)?;
    // What was judged for writing when it was opened need not be judged again.
    if !changes(file, access) || (access.contains(Access::WRITE) && is_judged(actor, file, access)) {
        return None;
    }
    judge_file(scratch, actor, file, &Request { detail: command.into(), ..Request::new(Hook::Ioctl as u8, access) })
}

/// A descriptor comes from another process, with whatever that one was allowed to open.
#[inline(always)]
pub(super) fn receive<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let file = File(args.arg(0));
    let (access, _) = file.opened_for()?;
    if access.is_empty() {
        return None;
    }
    through_descriptor(actor, scratch, file, Hook::Receive, access)
}

#[inline(always)]
pub(super) fn mmap<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    // LSM programs get the requested protection and the effective one; the function gets one.
    let given = if matches!(A::SENSOR, Sensor::Lsm) { 2 } else { 1 };
    let (file, protection, kind) = (File(args.arg(0)), args.arg(given), args.arg(given + 1) & MAP_TYPE);
    if file.0 == 0 {
        return None;
    }
    if protection & PROT_WRITE != 0 && (kind == MAP_SHARED || kind == MAP_SHARED_VALIDATE) {
        mapped_writable(actor, scratch, file)
    } else if protection & (PROT_READ | PROT_EXEC) != 0 {
        through_descriptor(actor, scratch, file, Hook::Read, Access::READ)
    } else {
        None
    }
}

/// A shared mapping becomes writable.
#[inline(always)]
pub(super) fn mprotect<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let (vma, protection) = (args.arg(0), args.arg(2));
    if protection & PROT_WRITE == 0 || read::<u64>(vma, offset!(vma_flags))? & VM_SHARED == 0 {
        return None;
    }
    mapped_writable(actor, scratch, File(pointer(vma, offset!(vma_file))?))
}

/// Stores to a shared mapping reach the file without a further call, so each mapping is reported.
#[inline(always)]
fn mapped_writable(actor: &Actor, scratch: &mut Scratch, file: File) -> Option<Verdict> {
    if !file.inode()?.is_regular() {
        return None;
    }
    judge_file(scratch, actor, file, &Request::new(Hook::Mmap as u8, Access::WRITE))
}

/// Judges an access through a file that was not judged for it when it was opened.
#[inline(always)]
fn through_descriptor(actor: &Actor, scratch: &mut Scratch, file: File, hook: Hook, access: Access) -> Option<Verdict> {
    if !file.inode()?.is_regular() || is_judged(actor, file, access) {
        return None;
    }
    let done = judge_file(scratch, actor, file, &Request::new(hook as u8, access))?;
    if (done as u8) < Verdict::Deny as u8 {
        let known = if is_judged(actor, file, Access::NONE) { Access::READ.union(Access::WRITE) } else { access };
        remember(actor, file, known, u16::from(scratch.work.decision().window));
    }
    Some(done)
}

/// Whether the file was judged for the access under this policy.
#[inline(always)]
fn is_judged(actor: &Actor, file: File, access: Access) -> bool {
    // SAFETY: copied at once.
    let Some(judged) = unsafe { JUDGED.get(file.0) }.copied() else { return false };
    Some(judged.mode) == file.mode()
        && file.dentry_and_mount().is_some_and(|(dentry, _)| dentry == judged.dentry)
        && judged.epoch == actor.subject.epoch
        && judged.at > names::last().saturating_add(NAMING)
        && judged.instance == actor.subject.slot
        && decide::is_good(&Maps::WITHOUT_BUFFER, &actor.subject, judged.window)
        && judged.access & u32::from(access.bits()) == u32::from(access.bits())
}

#[inline(always)]
fn remember(actor: &Actor, file: File, access: Access, window: u16) {
    let (Some(mode), Some((dentry, _))) = (file.mode(), file.dentry_and_mount()) else { return };
    let judged = Judged {
        dentry,
        mode,
        epoch: actor.subject.epoch,
        instance: actor.subject.slot,
        window,
        access: u32::from(access.bits()),
        // SAFETY: no arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
    };
    let _ = JUDGED.insert(file.0, judged, 0);
}
