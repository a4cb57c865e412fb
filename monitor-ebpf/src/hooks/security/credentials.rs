//! Privilege is about to be gained: by a call that changes credentials, or by a setuid program.

use monitor_common::{Access, Verdict, decide, event::Hook, policy::Class};

use super::Args;
use crate::{
    facts::{actor::Actor, offset, pointer, task, word},
    hooks::judge,
    maps::Scratch,
};

#[inline(always)]
pub(super) fn change<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let (new, old) = (args.arg(0), args.arg(1));
    // The capabilities follow the uid after this hook: those of uid 0 are reported with it.
    judge_gain(actor, scratch, word(new, offset!(cred_euid)), caps(old), old)
}

#[inline(always)]
pub(super) fn change_capabilities<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    // The third argument points to what becomes effective; the new credentials do not hold it yet.
    let (old, effective) = (args.arg(1), word(args.arg(2), 0));
    judge_gain(actor, scratch, word(old, offset!(cred_euid)), effective, old)
}

/// A program with a setuid bit or capabilities of its own becomes the process.
#[inline(always)]
pub(super) fn program<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let (new, old) = (pointer(args.arg(0), offset!(bprm_cred))?, pointer(task::current(), offset!(task_cred))?);
    judge_gain(actor, scratch, word(new, offset!(cred_euid)), caps(old), old)
}

#[inline(always)]
fn caps(cred: u64) -> u64 {
    word(cred, offset!(cred_caps))
}

/// Judges a change from the credentials `old` to this effective uid and these capabilities, when it adds any.
#[inline(always)]
fn judge_gain(actor: &Actor, scratch: &mut Scratch, euid: u32, effective: u64, old: u64) -> Option<Verdict> {
    let was: u32 = word(old, offset!(cred_euid));
    if (euid != 0 || was == 0) && effective & !caps(old) == 0 {
        return None;
    }
    let decision = decide::class(&actor.subject, Class::Privilege, Access::NONE);
    Some(judge(scratch, actor, Hook::Privilege as u8, &decision, |event| {
        event.detail = effective;
        event.euid = euid;
    }))
}
