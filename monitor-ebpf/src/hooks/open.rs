//! A file was opened: `open`, `openat`, `openat2`, `creat`, `open_by_handle_at`.
//!
//! Judged at the exit, on the file that the kernel opened and not on the name that was asked for.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict, decide,
    event::{FLAG_CREATED, FLAG_DAMAGED, Hook},
    syscall::{SYSCALL_FLAGS_IN_STRUCT, SYSCALL_TRUNCATES},
};

use crate::{
    emit::{self, Record},
    facts::{call::Call, file::File, path::Climb, read_user},
    lookups::Maps,
    maps,
};

/// `O_TRUNC`, the same on every architecture that we run on.
const O_TRUNC: u32 = 0o1000;

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
    let (access, created) = file.opened_for()?;
    if access.is_empty() {
        return None;
    }
    let place = file.dentry_and_mount()?;
    let scratch = maps::scratch()?;
    let access = Access::from_bits(scratch.launder(u32::from(access.bits())) as u8);
    let created = scratch.launder(created);
    let mut view = Climb::new(place, &mut scratch.dentries);
    let decision = decide::file(&Maps, &call.subject, &mut view, access, &mut scratch.work);
    let done = emit::outcome(&call.subject, &decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return None;
    }
    let mut record = Record::of_call(scratch, &call, Hook::Open);
    let flags = open_flags(&call);
    let event = record.event();
    event.open_flags = flags;
    if created != 0 {
        event.flags |= FLAG_CREATED;
    } else if flags & O_TRUNC != 0 && access.contains(Access::WRITE) {
        event.flags |= FLAG_DAMAGED;
    }
    if let Some(inode) = file.inode() {
        record.inode(inode);
    }
    record.path(place);
    record.send_decision(&decision, done, call.subject.instance.enforce != 0);
    if matches!(done, Verdict::Kill) {
        emit::kill();
    }
    Some(())
}

/// The flags that the program gave: the kernel keeps no `O_TRUNC` in the open file.
#[inline(always)]
fn open_flags(call: &Call) -> u32 {
    if call.spec.traits & SYSCALL_TRUNCATES != 0 {
        return O_TRUNC;
    }
    let Some(flags) = call.arg(call.spec.flags) else { return 0 };
    if call.spec.traits & SYSCALL_FLAGS_IN_STRUCT != 0 { read_user::<u64>(flags).unwrap_or(0) as u32 } else { flags as u32 }
}
