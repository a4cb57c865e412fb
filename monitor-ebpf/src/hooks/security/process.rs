//! A signal to another process, and the tracing of one.

use monitor_common::{Verdict, event::Hook, policy::Class};

use super::Args;
use crate::{
    facts::{actor::Actor, task},
    hooks::process::{is_guard, is_outside, judge_target, outside_by_number, owner},
    maps::Scratch,
};

/// `PTRACE_MODE_ATTACH`; a mere look, as `ps` takes at every process, does not carry it.
const PTRACE_MODE_ATTACH: u64 = 2;

#[inline(always)]
pub(super) fn signal<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    // Signal 0 only asks whether the process is there.
    if args.arg(2) as u32 == 0 {
        return None;
    }
    judge(actor, scratch, Hook::Signal, Class::Signal, args.arg(0))
}

/// A descriptor is given an owner, who is signalled when something comes for it.
#[inline(always)]
pub(super) fn own<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let owner = owner(args.arg(1) as u32, args.arg(2))?;
    let (hit, hits_guard) = outside_by_number(actor, owner, true)?;
    Some(judge_target(scratch, actor, Hook::Signal as u8, Class::Signal, hit, hits_guard))
}

/// A descriptor with an owner to signal became ready, in the context of any task. A signal to the guard is denied, see
/// [`refuses_unasked`](super::refuses_unasked); signals to other owners are not judged here.
#[inline(always)]
pub(super) fn own_signal<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let target = args.arg(0);
    if !is_guard(task::tgid(target)?) {
        return None;
    }
    judge(actor, scratch, Hook::Signal, Class::Signal, target)
}

/// What another process may use is cut: a limit on its time is as good as a signal, and the lowest priority as a stop.
#[inline(always)]
pub(super) fn hold_back<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, Hook::Ptrace, Class::Ptrace, args.arg(0))
}

#[inline(always)]
pub(super) fn trace<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    if args.arg(1) & PTRACE_MODE_ATTACH == 0 {
        return None;
    }
    judge(actor, scratch, Hook::Ptrace, Class::Ptrace, args.arg(0))
}

/// Judges what is done to a task, when that is not of the same instance.
#[inline(always)]
fn judge(actor: &Actor, scratch: &mut Scratch, hook: Hook, class: Class, target: u64) -> Option<Verdict> {
    let tgid = task::tgid(target)?;
    if !is_outside(actor, tgid) {
        return None;
    }
    Some(judge_target(scratch, actor, hook as u8, class, tgid.into(), is_guard(tgid)))
}
