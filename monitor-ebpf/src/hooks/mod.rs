//! One file for each kind of operation.

mod cgroup;
mod close;
mod descriptor;
mod exec;
mod identify;
mod io_uring;
mod mmap;
mod open;
mod path;
mod privilege;
mod process;
mod scope;
mod socket;
mod syscalls;

use monitor_common::{
    Access, Verdict, decide,
    decide::Decision,
    event::{Event, Hook},
};

use crate::{
    emit::{self, Record},
    facts::{
        call::Call,
        file::{File, inode_at},
        path::Climb,
    },
    lookups::Maps,
    maps::Scratch,
};

/// Judges an access to an open file and carries the verdict out; `fill` completes the record. The body of every hook
/// that has a file in hand.
#[inline(always)]
fn judge_file(
    scratch: &mut Scratch,
    call: &Call,
    hook: Hook,
    file: File,
    access: Access,
    fill: impl FnOnce(&mut Event),
) -> Option<Verdict> {
    judge_place(scratch, call, hook, file.dentry_and_mount()?, access, fill)
}

/// The same for a dentry and its `struct mount`.
#[inline(always)]
fn judge_place(
    scratch: &mut Scratch,
    call: &Call,
    hook: Hook,
    place: (u64, u64),
    access: Access,
    fill: impl FnOnce(&mut Event),
) -> Option<Verdict> {
    let access = Access::from_bits(scratch.launder(u32::from(access.bits())) as u8);
    let mut view = Climb::new(place, &mut scratch.dentries);
    let decision = decide::file(&Maps, &call.subject, &mut view, access, &mut scratch.work);
    let done = emit::outcome(&call.subject, &decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return Some(done);
    }
    let mut record = Record::of_call(scratch, call, hook);
    record.inode(inode_at(place.0)?);
    record.event().access = access.bits();
    fill(record.event());
    record.path(place);
    record.carry_out(&decision, done, call.subject.instance.enforce != 0);
    Some(done)
}

/// Judges something that is not a file; `fill` completes the record.
#[inline(always)]
fn judge(scratch: &mut Scratch, call: &Call, hook: Hook, decision: &Decision, fill: impl FnOnce(&mut Event)) {
    let done = emit::outcome(&call.subject, decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return;
    }
    let mut record = Record::of_call(scratch, call, hook);
    fill(record.event());
    record.carry_out(decision, done, call.subject.instance.enforce != 0);
}
