//! Something is done to a file through a descriptor: the write family, `ftruncate`, `fallocate`, `fchmod`, `fchown`,
//! `fsetxattr`.
//!
//! Judged at the entry: a descriptor may be older than the guard, or have been passed in. A task that is killed here
//! writes nothing on file systems that look for a fatal signal before they copy, as the kernel's generic write does.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict, decide,
    event::{Hook, WriteKey, WriteTotals},
};

use super::{Request, judge_file};
use crate::{
    facts::{call::Call, file::File, task},
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
    if !file.inode()?.is_regular() || (writes && !file.is_writable()) {
        return None;
    }
    let key = totals_key(file);
    // SAFETY: copied at once.
    let totals = unsafe { WRITES.get(key) }.copied();
    if writes && totals.is_some_and(|totals| decide::is_good(&Maps::WITHOUT_ROOM, &call.actor.subject, totals.window)) {
        return None;
    }
    let scratch = maps::scratch()?;
    let done = judge_file(scratch, &call.actor, file, &Request::new(call.spec.hook, access))?;
    if writes && done as u8 >= Verdict::Log as u8 {
        // From now on the writes are only counted, and the totals are told when the file is closed.
        let decision = scratch.work.decision();
        let totals = WriteTotals {
            bytes: 0,
            count: 0,
            epoch: call.actor.subject.epoch,
            rule: decision.rule,
            window: u16::from(decision.window),
        };
        let _ = WRITES.insert(key, totals, 0);
    }
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
