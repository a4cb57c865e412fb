//! A signal to, or a reach into, a process outside the instance: `kill` and its kin, `ptrace`, `process_vm_readv`,
//! `process_vm_writev`, `pidfd_getfd`.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Verdict, decide,
    event::Hook,
    policy::Class,
    syscall::{SYSCALL_GROUPS, SYSCALL_PIDFD, SYSCALL_REQUEST},
};

use super::judge;
use crate::{
    facts::{actor::Actor, call::Call, pid::Pid},
    maps::{self, CONTROL, Scratch, TASKS},
};

/// `PTRACE_ATTACH`, `PTRACE_SEIZE`: the only requests that begin to trace somebody else.
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

/// `PIDFD_SIGNAL_PROCESS_GROUP` in the last argument of `pidfd_send_signal`.
const PIDFD_GROUP: u64 = 1 << 2;
/// To `kill`, every process that may be signalled.
const EVERYBODY: i32 = -1;

#[raw_tracepoint]
fn process_enter(ctx: RawTracePointContext) -> i32 {
    let _ = handle(&ctx);
    0
}

#[inline(always)]
fn handle(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let signals = call.spec.hook == Hook::Signal as u8;
    // Signal 0 only asks whether the process is there.
    if signals && call.arg(call.spec.flags)? == 0 {
        return None;
    }
    if call.spec.traits & SYSCALL_REQUEST != 0 && !matches!(call.arg(0)?, PTRACE_ATTACH | PTRACE_SEIZE) {
        return None;
    }
    let (hit, hits_guard) = outside(&call, signals)?;
    let class = if signals { Class::Signal } else { Class::Ptrace };
    judge_target(maps::scratch()?, &call.actor, call.spec.hook, class, hit, hits_guard);
    Some(())
}

/// Judges what is done to `hit`, which is outside the instance: a process, a group as a negative number, or
/// [`EVERYBODY`].
#[inline(always)]
pub(super) fn judge_target(
    scratch: &mut Scratch,
    actor: &Actor,
    hook: u8,
    class: Class,
    hit: i64,
    hits_guard: bool,
) -> Verdict {
    let decision = decide::process(&actor.subject, class, hits_guard);
    judge(scratch, actor, hook, &decision, |event| event.detail = hit as u64)
}

/// Whether a process is outside the instance.
#[inline(always)]
pub(super) fn is_outside(actor: &Actor, tgid: u32) -> bool {
    // SAFETY: copied at once.
    unsafe { TASKS.get(tgid) }.is_none_or(|label| label.instance != actor.label.instance)
}

/// Whether a process is the guard.
#[inline(always)]
pub(super) fn is_guard(tgid: u32) -> bool {
    CONTROL.get(0).is_some_and(|control| control.guard == tgid)
}

/// Who outside the instance is hit: a process, a group as a negative number, or [`EVERYBODY`]; and whether the guard is.
#[inline(always)]
fn outside(call: &Call, signals: bool) -> Option<(i64, bool)> {
    let is_outside = |tgid| is_outside(&call.actor, tgid);
    let target = call.arg(call.spec.arg)? as i32;
    let (pid, group) = if call.spec.traits & SYSCALL_PIDFD != 0 {
        (Pid::by_fd(target)?, signals && call.arg(3)? & PIDFD_GROUP != 0)
    } else if target > 0 {
        (Pid::by_number(target as u32)?, false)
    } else if call.spec.traits & SYSCALL_GROUPS == 0 {
        return None;
    } else if target == EVERYBODY {
        return Some((EVERYBODY.into(), true));
    } else if target == 0 {
        (Pid::own_group()?, true)
    } else {
        (Pid::by_number(target.unsigned_abs())?, true)
    };
    if group {
        let group = -i64::from(pid.number()?);
        return pid.any_member(is_outside).then(|| (group, pid.any_member(is_guard)));
    }
    let tgid = pid.tgid()?;
    is_outside(tgid).then(|| (tgid.into(), is_guard(tgid)))
}
