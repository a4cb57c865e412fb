//! `close`: reports the totals of a file whose first write was recorded.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Verdict,
    event::{FLAG_MAINTENANCE, Hook},
};

use super::descriptor::totals_key;
use crate::{
    emit::Record,
    facts::{call::Call, file::File},
    maps::{self, WRITES},
};

#[raw_tracepoint]
fn close_enter(ctx: RawTracePointContext) -> i32 {
    let _ = handle(&ctx);
    0
}

#[inline(always)]
fn handle(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let file = File::from_fd(call.arg(call.spec.arg)? as i32)?;
    let key = totals_key(file);
    // SAFETY: copied at once.
    let totals = *unsafe { WRITES.get(key) }?;
    let _ = WRITES.remove(key);
    let mut record = Record::new(maps::scratch()?, &call.actor, Hook::WriteTotals as u8);
    if let Some(inode) = file.inode() {
        record.inode(inode);
    }
    let event = record.event();
    event.verdict = Verdict::Log as u8;
    event.wanted = Verdict::Log as u8;
    event.bytes = totals.bytes;
    event.count = totals.count;
    (event.rule, event.epoch) = (totals.rule, totals.epoch);
    if totals.window != 0 {
        event.flags |= FLAG_MAINTENANCE;
    }
    record.path(file.dentry_and_mount()?);
    record.send();
    Some(())
}
