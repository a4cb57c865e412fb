//! A program is about to be executed.
//!
//! Only a refusal is told here: what is executed is told, and judged once more, when it has become the process.

use monitor_common::{Verdict, event::Hook};

use super::{Args, security_hook};
use crate::{
    emit::Record,
    facts::{actor::Actor, file::File, offset, pointer},
    hooks::exec::judge_program,
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
    let (decision, kind) = judge_program(scratch, actor, file)?;
    let done = actor.outcome(&decision, scratch);
    if (done as u8) < Verdict::Deny as u8 {
        return None;
    }
    let mut record = Record::new(scratch, actor, Hook::Exec as u8);
    record.inode(file.inode()?);
    record.event().detail = kind;
    record.path(file.dentry_and_mount()?);
    record.carry_out(actor, &decision, done);
    Some(done)
}
