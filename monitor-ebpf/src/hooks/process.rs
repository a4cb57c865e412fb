//! A signal to, or a reach into, a process outside the instance: `kill` and its kin, `fcntl` for signals of descriptors,
//! `ptrace`, `process_vm_readv`, `process_vm_writev`, `pidfd_getfd`, and what cuts its time (`prlimit64`, `setpriority`, ...).

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Verdict, decide,
    event::Hook,
    policy::Class,
    syscall::{SYSCALL_GROUPS, SYSCALL_OWNER, SYSCALL_PIDFD, SYSCALL_PRIORITY, SYSCALL_REQUEST},
};

use super::judge;
use crate::{
    facts::{actor::Actor, call::Call, pid::Pid, read_user},
    maps::{self, CONTROL, Scratch, TASKS},
};

/// `PTRACE_ATTACH`, `PTRACE_SEIZE`: the only requests that begin to trace another process.
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

/// `PRIO_PROCESS`: the priority of one process, and not of a group's or a user's.
const PRIO_PROCESS: u64 = 0;

/// `F_SETOWN` and `F_SETOWN_EX` of include/uapi/asm-generic/fcntl.h, and what the latter calls a group.
const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;
const F_OWNER_PGRP: i32 = 2;

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
    // Signal 0 only checks for the process, missing new limits only read them, and owner 0 is no process.
    if call.arg(call.spec.flags) == Some(0) {
        return None;
    }
    if call.spec.traits & SYSCALL_PRIORITY != 0 && call.arg(0)? != PRIO_PROCESS {
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
    let value = call.arg(call.spec.arg)?;
    if call.spec.traits & SYSCALL_PIDFD != 0 {
        let group = signals && call.arg(3)? & PIDFD_GROUP != 0;
        return outside_of(&call.actor, Pid::by_fd(value as i32)?, group);
    }
    let target = if call.spec.traits & SYSCALL_OWNER != 0 { owner(call.arg(1)? as u32, value)? } else { value as i32 };
    outside_by_number(&call.actor, target, call.spec.traits & SYSCALL_GROUPS != 0)
}

/// The owner that `fcntl` gives a descriptor, as a pid of `kill`; `None` without one.
#[inline(always)]
pub(super) fn owner(command: u32, argument: u64) -> Option<i32> {
    if command == F_SETOWN {
        return (argument as i32 != 0).then_some(argument as i32);
    }
    if command != F_SETOWN_EX {
        return None;
    }
    let [kind, pid] = read_user::<[i32; 2]>(argument)?;
    if pid <= 0 {
        return None;
    }
    Some(if kind == F_OWNER_PGRP { -pid } else { pid })
}

/// The same for a process given by number, or a process group.
#[inline(always)]
pub(super) fn outside_by_number(actor: &Actor, target: i32, groups: bool) -> Option<(i64, bool)> {
    let (pid, group) = if target > 0 {
        (Pid::by_number(target as u32)?, false)
    } else if !groups {
        return None;
    } else if target == EVERYBODY {
        return Some((EVERYBODY.into(), true));
    } else if target == 0 {
        (Pid::own_group()?, true)
    } else {
        (Pid::by_number(target.unsigned_abs())?, true)
    };
    outside_of(actor, pid, group)
}

#[inline(always)]
fn outside_of(actor: &Actor, pid: Pid, group: bool) -> Option<(i64, bool)> {
    let is_outside = |tgid| is_outside(actor, tgid);
    if group {
        let group = -i64::from(pid.number()?);
        return pid.any_member(is_outside).then(|| (group, pid.any_member(is_guard)));
    }
    let tgid = pid.tgid()?;
    is_outside(tgid).then(|| (tgid.into(), is_guard(tgid)))
}
