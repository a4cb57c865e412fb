//! A program is about to be executed.
//!
//! Only a refusal is told here: what is executed is told, and judged once more, when it has become the process.

use monitor_common::{Access, Verdict, decide, event::Hook};

use super::{Args, security_hook};
use crate::{
    facts::{actor::Actor, file::File, offset, path::Climb, pointer},
    hooks::{Request, judge_place},
    lookups::Maps,
    maps::Scratch,
};

security_hook!(
    BprmCheck,
    "bprm_check_security",
    "security_bprm_check",
    lsm_bprm_check,
    fentry_bprm_check,
    kprobe_bprm_check,
    check
);

#[inline(always)]
fn check<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    if !actor.sensor.can_deny() {
        return None;
    }
    let file = File(pointer(args.arg(0), offset!(bprm_file))?);
    let (dentry, mount) = file.dentry_and_mount()?;
    let mut view = Climb::new((dentry, mount), &mut scratch.dentries);
    let decision = decide::file(&Maps, &actor.subject, &mut view, Access::EXEC, &mut scratch.work);
    if (actor.outcome(&decision, scratch) as u8) < Verdict::Deny as u8 {
        return None;
    }
    Some(judge_place(scratch, actor, dentry, mount, &Request::new(Hook::Exec as u8, Access::EXEC)))
}
