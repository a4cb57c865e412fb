//! A signal to, or the tracing of, a process outside the instance: `kill`, `tgkill`, `ptrace`, `process_vm_readv`,
//! `process_vm_writev`.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{Access, Verdict, decide, event::Hook, policy::Class, syscall::SYSCALL_PID_SECOND};

use super::judge;
use crate::{
    facts::{actor::Actor, call::Call, task},
    maps::{self, Scratch, TASKS},
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
    if target <= 0 || (signals && call.arg(call.spec.flags)? == 0) {
        return None;
    }
    let (hook, class) = if signals { (Hook::Signal, Class::Signal) } else { (Hook::Ptrace, Class::Ptrace) };
    judge_target(maps::scratch()?, &call.actor, hook, class, target as u32)?;
    Some(())
}

/// Judges what is done to another process, when that is not of the same instance.
#[inline(always)]
pub(super) fn judge_target(
    scratch: &mut Scratch,
    actor: &Actor,
    hook: Hook,
    class: Class,
    target: u32,
) -> Option<Verdict> {
    // SAFETY: copied at once.
    let instance = unsafe { TASKS.get(target) }.map(|label| label.instance);
    if target == task::ids().0 || instance == Some(actor.label.instance) {
        return None;
    }
    let decision = decide::class(&actor.subject, class, Access::NONE);
    Some(judge(scratch, actor, hook, &decision, |event| event.detail = u64::from(target)))
}
