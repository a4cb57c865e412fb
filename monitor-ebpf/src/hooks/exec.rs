//! A program was executed.
//!
//! Judged at `sched_process_exec`, on the file that the kernel runs, before its first instruction. A record is handed
//! over whatever the verdict: userspace names the processes of other records by it.

use aya_ebpf::{helpers::generated::bpf_probe_read_user, macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, decide,
    event::{Hook, TEXT_MAX},
    verdict::Sensor,
};

use crate::{
    emit::Record,
    facts::{actor::Actor, file::File, offset, path::Climb, pointer, read, task},
    lookups::Maps,
    maps,
};

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn exec(_ctx: RawTracePointContext) -> i32 {
    let _ = handle();
    0
}

#[inline(always)]
fn handle() -> Option<()> {
    let actor = Actor::current(Sensor::Tracepoint)?;
    let scratch = maps::scratch()?;
    let mm = pointer(task::current(), offset!(task_mm))?;
    let file = File(pointer(mm, offset!(mm_exe))?);
    let place = file.dentry_and_mount()?;
    let mut view = Climb::new(place, &mut scratch.dentries);
    let decision = decide::file(&Maps, &actor.subject, &mut view, Access::EXEC, &mut scratch.work);
    let done = actor.outcome(&decision, scratch);
    let mut record = Record::new(scratch, &actor, Hook::Exec as u8);
    if let Some(inode) = file.inode() {
        record.inode(inode);
    }
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
