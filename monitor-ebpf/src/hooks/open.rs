//! A file was opened: `open`, `openat`, `openat2`, `creat`, `open_by_handle_at`.
//!
//! Judged at the exit, on the file that the kernel opened and not on the name that was asked for.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict,
    event::{FLAG_CREATED, FLAG_DAMAGED, Hook},
    syscall::{SYSCALL_FLAGS_IN_STRUCT, SYSCALL_TRUNCATES},
};

use super::{Request, judge_file};
use crate::{
    facts::{actor::Actor, call::Call, file::File, read_user},
    maps::{self, Scratch},
};

/// `O_TRUNC`, the same on every architecture that we run on.
pub(super) const O_TRUNC: u32 = 0o1000;

#[raw_tracepoint]
fn open_exit(ctx: RawTracePointContext) -> i32 {
    let _ = handle(&ctx);
    0
}

#[inline(always)]
fn handle(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::exit(ctx)?;
    if call.ret < 0 {
        return None;
    }
    let file = File::from_fd(call.ret as i32)?;
    judge_open(maps::scratch()?, &call.actor, file, open_flags(&call), true)?;
    Some(())
}

/// Judges the opening of a file; `creates` when the making of it is to be judged as well.
#[inline(always)]
pub(super) fn judge_open(
    scratch: &mut Scratch,
    actor: &Actor,
    file: File,
    flags: u32,
    creates: bool,
) -> Option<Verdict> {
    let (mut access, created) = file.opened_for()?;
    if created && !creates {
        return None;
    }
    let mut request = Request { open_flags: flags, ..Request::new(Hook::Open as u8, access) };
    if created {
        request.flags = FLAG_CREATED;
    } else if flags & O_TRUNC != 0 && !access.is_empty() {
        // Whatever it was opened for: the content goes.
        access = access.union(Access::WRITE);
        request.flags = FLAG_DAMAGED;
    }
    if access.is_empty() {
        return None;
    }
    request.access = access;
    judge_file(scratch, actor, file, &request)
}

/// The flags that the program gave: the kernel keeps no `O_TRUNC` in the open file.
#[inline(always)]
fn open_flags(call: &Call) -> u32 {
    if call.spec.traits & SYSCALL_TRUNCATES != 0 {
        return O_TRUNC;
    }
    let Some(flags) = call.arg(call.spec.flags) else { return 0 };
    if call.spec.traits & SYSCALL_FLAGS_IN_STRUCT != 0 {
        read_user::<u64>(flags).unwrap_or(0) as u32
    } else {
        flags as u32
    }
}
