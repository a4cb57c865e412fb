//! A program is about to be executed.
//!
//! An ELF file is reported and judged again when it has become the process: only a denial is reported here. A script
//! never does, its interpreter does: whatever is to be said of it is said here, by every sensor.

use monitor_common::{Verdict, event::Hook};

use super::Args;
use crate::{
    emit::Record,
    facts::{actor::Actor, file::File, offset, pointer, read},
    hooks::exec::judge_program,
    maps::Scratch,
};

/// What an ELF file begins with (elf(5)).
const ELF: u32 = u32::from_ne_bytes(*b"\x7fELF");

#[inline(always)]
pub(super) fn check<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let program = args.arg(0);
    let becomes_process = read::<u32>(program, offset!(bprm_buf))? == ELF;
    if becomes_process && !actor.sensor.can_deny() {
        return None;
    }
    let file = File(pointer(program, offset!(bprm_file))?);
    let (decision, kind) = judge_program(scratch, actor, file)?;
    let done = actor.outcome(&decision, scratch);
    let least = if becomes_process { Verdict::Deny } else { Verdict::Log };
    if (done as u8) < scratch.opaque(least as u32) as u8 {
        return None;
    }
    let mut record = Record::new(scratch, actor, Hook::Exec as u8);
    record.inode(file.inode()?);
    record.event().detail = kind;
    record.path(file.dentry_and_mount()?);
    record.carry_out(actor, &decision, done);
    Some(done)
}
