//! A signal to another process, and the tracing of one.

use monitor_common::{Verdict, event::Hook, policy::Class};

use super::{Args, security_hook};
use crate::{
    facts::{actor::Actor, task},
    hooks::process::{is_guard, is_outside, judge_target},
    maps::Scratch,
};

security_hook!(TaskKill, "task_kill", "security_task_kill", lsm_task_kill, fentry_task_kill, kprobe_task_kill, signal);
security_hook!(
    PtraceAccessCheck,
    "ptrace_access_check",
    "security_ptrace_access_check",
    lsm_ptrace_access,
    fentry_ptrace_access,
    kprobe_ptrace_access,
    trace
);

/// `PTRACE_MODE_ATTACH`; a mere look, as `ps` takes at every process, does not carry it.
const PTRACE_MODE_ATTACH: u64 = 2;

#[inline(always)]
fn signal<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    // Signal 0 only asks whether the process is there.
    if args.arg(2) as u32 == 0 {
        return None;
    }
    judge(actor, scratch, Hook::Signal, Class::Signal, args.arg(0))
}

#[inline(always)]
fn trace<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    if args.arg(1) & PTRACE_MODE_ATTACH == 0 {
        return None;
    }
    judge(actor, scratch, Hook::Ptrace, Class::Ptrace, args.arg(0))
}

/// Judges what is done to a task, when that is not of the same instance.
#[inline(always)]
fn judge(actor: &Actor, scratch: &mut Scratch, hook: Hook, class: Class, target: u64) -> Option<Verdict> {
    let tgid = task::tgid(target)?;
    is_outside(actor, tgid).then(|| judge_target(scratch, actor, hook as u8, class, tgid.into(), is_guard(tgid)))
}
