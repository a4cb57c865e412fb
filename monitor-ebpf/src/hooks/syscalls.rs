//! Entry and exit of every system call on the machine: leaves at once for tasks out of scope, and hands the others to
//! the handler that the table names.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::syscall::HANDLERS_HALF;

use crate::{emit, facts::call, maps::HANDLERS};

#[raw_tracepoint(tracepoint = "sys_enter")]
fn sys_enter(ctx: RawTracePointContext) -> i32 {
    if call::label().is_some()
        && let Some((spec, _)) = call::spec(ctx.arg::<u64>(1) as u32)
        && spec.enter != 0
    {
        // SAFETY: the array holds programs of this type only. Comes back when there is no handler.
        unsafe { HANDLERS.tail_call(&ctx, u32::from(spec.enter)) };
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let Some(label) = call::label() else { return 0 };
    if label.kill != 0 {
        emit::kill();
    }
    if let Some(number) = call::number_at_exit(&ctx)
        && let Some((spec, _)) = call::spec(number)
        && spec.exit != 0
    {
        // SAFETY: as above.
        unsafe { HANDLERS.tail_call(&ctx, HANDLERS_HALF + u32::from(spec.exit)) };
    }
    0
}
