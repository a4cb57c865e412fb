//! A signal to, or the tracing of, a process outside the instance: `kill`, `tgkill`, `ptrace`, `process_vm_readv`,
//! `process_vm_writev`.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{Access, decide, event::Hook, policy::Class, syscall::SYSCALL_PID_SECOND};

use super::judge;
use crate::{
    facts::{call::Call, task},
    maps::{self, TASKS},
};

/// `PTRACE_ATTACH`, `PTRACE_SEIZE`: the only requests that begin to trace somebody else.
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

#[raw_tracepoint]
fn process_enter(ctx: RawTracePointContext) -> i32 {
    let _ = handle(&ctx);
    0
}

#[inline(always)]
fn handle(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let first = call.arg(0)?;
    let signals = call.spec.hook == Hook::Signal as u8;
    let target = if call.spec.traits & SYSCALL_PID_SECOND != 0 {
        if first != PTRACE_ATTACH && first != PTRACE_SEIZE {
            return None;
        }
        call.arg(1)? as i32
    } else {
        first as i32
    };
    // Signal 0 only asks whether the process is there; groups are not looked into.
    if target <= 0 || target as u32 == task::ids().0 || (signals && call.arg(call.spec.flags)? == 0) {
        return None;
    }
    // SAFETY: copied at once.
    let instance = unsafe { TASKS.get(target as u32) }.map(|label| label.instance);
    if instance == Some(call.label.instance) {
        return None;
    }
    let class = if signals { Class::Signal } else { Class::Ptrace };
    let decision = decide::class(&call.subject, class, Access::NONE);
    let raw = call.spec.hook;
    judge(maps::scratch()?, &call, Hook::Signal, &decision, |event| {
        event.hook = raw;
        event.detail = target as u64;
    });
    Some(())
}
