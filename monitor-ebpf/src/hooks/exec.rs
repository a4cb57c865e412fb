//! A program was executed.
//!
//! Judged at `sched_process_exec`, on the file that the kernel runs, before its first instruction. A record is handed
//! over whatever the verdict: userspace names the processes of other records by it.

use aya_ebpf::{helpers::generated::bpf_probe_read_user, macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    decide,
    decide::Decision,
    event::{Hook, TEXT_MAX},
    policy::Executable,
    verdict::Sensor,
};

use super::names;
use crate::{
    emit::Record,
    facts::{actor::Actor, file::File, offset, path::Location, pointer, read, task},
    lookups::Maps,
    maps::{self, Scratch},
    trace::trace,
};

/// Decides about the execution of a file. The kind comes back, an [`Executable`], where the default for it has decided.
#[inline(always)]
pub(super) fn judge_program(scratch: &mut Scratch, actor: &Actor, file: File) -> Option<(Decision, u64)> {
    let place = file.dentry_and_mount()?;
    let kind = u64::from(scratch.opaque(file.inode()?.executable(place.0) as u32));
    let mut view = Location::new(place, scratch);
    decide::program(&Maps::with(scratch), &actor.subject, &mut view, kind, &mut scratch.work);
    scratch.links.inode.set(0);
    let inode = file.inode()?;
    if inode.has_names() {
        names::look_at(scratch, inode, place);
    }
    names::weigh_others(scratch, actor);
    let decision = scratch.work.decision();
    let by_kind = decide::is_by_kind(&actor.subject, kind, &decision);
    Some((decision, if by_kind { kind } else { Executable::Plain as u64 }))
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn exec(_ctx: RawTracePointContext) -> i32 {
    let _ = handle();
    0
}

#[inline(always)]
fn handle() -> Option<()> {
    let actor = Actor::current(Sensor::Tracepoint)?;
    trace!(fw_trace_exec, actor.subject.slot.into());
    let scratch = maps::scratch()?;
    let mm = pointer(task::current(), offset!(task_mm))?;
    let file = File(pointer(mm, offset!(mm_exe))?);
    let place = file.dentry_and_mount()?;
    let (decision, kind) = judge_program(scratch, &actor, file)?;
    let done = actor.outcome(&decision, scratch);
    let mut record = Record::new(scratch, &actor, Hook::Exec as u8);
    if let Some(inode) = file.inode() {
        record.inode(inode);
    }
    record.event().detail = kind;
    record.path(place);
    let (start, end) = (read::<u64>(mm, offset!(mm_arg_start))?, read::<u64>(mm, offset!(mm_arg_end))?);
    record.text(|to| {
        let len = end.saturating_sub(start).min(TEXT_MAX as u64 - 1) as u32;
        // SAFETY: the helper checks the source, and the destination holds TEXT_MAX bytes.
        let ret = unsafe { bpf_probe_read_user(to.cast(), len & (TEXT_MAX as u32 - 1), start as *const _) };
        if ret < 0 { 0 } else { len as usize }
    });
    record.carry_out(&actor, &decision, done);
    Some(())
}
