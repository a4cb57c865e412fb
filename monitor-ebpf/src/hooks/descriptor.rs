//! Something is done to a file through a descriptor: the write family, `ftruncate`, `fallocate`, `fchmod`, `fchown`,
//! `fsetxattr`, commands of `ioctl` that change it.
//!
//! Judged at the entry: a descriptor may be older than the guard, or have been passed in. A task that is killed here
//! writes nothing on file systems that look for a fatal signal before they copy, as the kernel's generic write does.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict, control, decide,
    event::{FLAG_COMPAT, Hook, WriteKey, WriteTotals},
};

use super::{Request, judge_file, judge_unknown};
use crate::{
    facts::{actor::Actor, call::Call, file::File, read_user, task},
    lookups::Maps,
    maps::{self, WRITES},
};

/// The key of a file's totals.
#[inline(always)]
pub(super) fn totals_key(file: File) -> WriteKey {
    WriteKey { file: file.0, tgid: task::ids().0, pad: 0 }
}

#[raw_tracepoint]
fn descriptor_enter(ctx: RawTracePointContext) -> i32 {
    let _ = enter(&ctx);
    0
}

#[inline(always)]
fn enter(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let file = File::from_fd(call.arg(call.spec.arg)? as i32)?;
    let access = Access::from_bits(call.spec.access);
    let writes = call.spec.hook == Hook::Write as u8;
    if !changes(file, access) {
        return None;
    }
    let (dentry, _) = file.dentry_and_mount()?;
    if writes && is_reported(&call.actor, file.0, dentry) {
        return None;
    }
    let scratch = maps::scratch()?;
    let done = judge_file(scratch, &call.actor, file, &Request::new(call.spec.hook, access))?;
    if writes && done as u8 >= Verdict::Log as u8 {
        // Further writes are counted; the totals are reported when the file is closed.
        let decision = scratch.work.decision();
        let totals = WriteTotals {
            bytes: 0,
            count: 0,
            epoch: call.actor.subject.epoch,
            rule: decision.rule,
            window: u16::from(decision.window),
            dentry,
        };
        let _ = WRITES.insert(totals_key(file), totals, 0);
    }
    Some(())
}

/// `ioctl`: a command that changes the file.
#[raw_tracepoint]
fn control_enter(ctx: RawTracePointContext) -> i32 {
    let _ = control(&ctx);
    0
}

#[inline(always)]
fn control(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let command = call.arg(call.spec.flags)? as u32;
    let access = control::access(command)?;
    let file = File::from_fd(call.arg(call.spec.arg)? as i32)?;
    if !changes(file, access) {
        return None;
    }
    let request = Request { detail: command.into(), ..Request::new(call.spec.hook, access) };
    judge_file(maps::scratch()?, &call.actor, file, &request)?;
    Some(())
}

/// Whether a file is one that can be changed in this way: a directory has attributes and no content.
#[inline(always)]
pub(super) fn changes(file: File, access: Access) -> bool {
    let Some(inode) = file.inode() else { return false };
    if access.contains(Access::WRITE) {
        inode.is_regular() && file.is_writable()
    } else {
        inode.is_regular() || inode.is_directory()
    }
}

/// Whether a write through the file was reported under this policy. A function of its own: the compiler would mix up what it keeps
/// on the stack.
#[inline(never)]
fn is_reported(actor: &Actor, file: u64, dentry: u64) -> bool {
    // SAFETY: the entry stays until it is removed, and is written as a whole.
    let Some(totals) = (unsafe { WRITES.get(totals_key(File(file))) }) else { return false };
    totals.epoch == actor.subject.epoch
        && totals.dentry == dentry
        && decide::is_good(&Maps::WITHOUT_BUFFER, &actor.subject, totals.window)
}

/// How many requests of one call are looked at.
const MAX_REQUESTS: u64 = 8;
/// `IOCB_CMD_PWRITE` and `IOCB_CMD_PWRITEV`, and where a `struct iocb` has command and descriptor (`include/uapi/linux/aio_abi.h`).
const PWRITE: u16 = 1;
const PWRITEV: u16 = 8;
const IOCB_COMMAND: u64 = 16;
const IOCB_FILE: u64 = 20;

/// `io_submit`: requests that write by themselves. What is beyond the first of them is judged by the strictest rule.
#[raw_tracepoint]
fn requests_enter(ctx: RawTracePointContext) -> i32 {
    let _ = requests(&ctx);
    0
}

#[inline(always)]
fn requests(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let (count, list) = (call.arg(1)?, call.arg(2)?);
    for index in 0..MAX_REQUESTS {
        if index >= count {
            return None;
        }
        let request = if call.actor.flags & FLAG_COMPAT == 0 {
            read_user::<u64>(list + 8 * index)?
        } else {
            read_user::<u32>(list + 4 * index)?.into()
        };
        judge_request(&call.actor, request);
    }
    if count > MAX_REQUESTS {
        judge_unknown(maps::scratch()?, &call.actor, Hook::Write as u8, Access::WRITE, 0);
    }
    Some(())
}

/// A function of its own: it is walked through for each of the requests.
#[inline(never)]
fn judge_request(actor: &Actor, request: u64) {
    let _ = judge_if_it_writes(actor, request);
}

#[inline(always)]
fn judge_if_it_writes(actor: &Actor, request: u64) -> Option<()> {
    if !matches!(read_user::<u16>(request + IOCB_COMMAND)?, PWRITE | PWRITEV) {
        return None;
    }
    let file = File::from_fd(read_user(request + IOCB_FILE)?)?;
    if !file.inode()?.is_regular() {
        return None;
    }
    judge_file(maps::scratch()?, actor, file, &Request::new(Hook::Write as u8, Access::WRITE))?;
    Some(())
}

/// Counts what was written.
#[raw_tracepoint]
fn descriptor_exit(ctx: RawTracePointContext) -> i32 {
    let _ = exit(&ctx);
    0
}

#[inline(always)]
fn exit(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::exit(ctx)?;
    if call.ret <= 0 {
        return None;
    }
    let file = File::from_fd(call.arg(call.spec.arg)? as i32)?;
    let totals = WRITES.get_ptr_mut(totals_key(file))?;
    // SAFETY: the entry stays until it is removed; a count lost to a race of two threads is no more than a count.
    unsafe {
        (*totals).bytes += call.ret as u64;
        (*totals).count += 1;
    }
    Some(())
}
