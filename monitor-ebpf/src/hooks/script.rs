//! A script was executed by its name, where no security hook is asked before.
//!
//! At `sched_process_exec(task, old_pid, binprm)` the file of the process is the interpreter already, and of the script only
//! the name is left. It is walked as any other, before the interpreter's first instruction.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict, decide,
    event::{FLAG_BY_NAME, Hook, PENDING_TEXT},
    syscall::Handler,
    verdict::Sensor,
};

use super::walk_from;
use crate::{
    emit::Record,
    facts::{
        actor::Actor,
        call, offset,
        path::{AT_FDCWD, Text},
        pointer,
    },
    lookups::Maps,
    maps,
};

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn exec_script(ctx: RawTracePointContext) -> i32 {
    let _ = begin(&ctx);
    0
}

#[inline(always)]
fn begin(ctx: &RawTracePointContext) -> Option<()> {
    call::label()?;
    let program: u64 = ctx.arg(2);
    let name = pointer(program, offset!(bprm_filename))?;
    // One and the same until an interpreter takes over.
    if name == pointer(program, offset!(bprm_interp))? {
        return None;
    }
    let scratch = maps::scratch()?;
    let [first, other] = &mut scratch.pending.texts;
    other[0] = 0;
    // SAFETY: the destination is as long as is said.
    let len = unsafe { bpf_probe_read_kernel_str(first.as_mut_ptr().cast(), PENDING_TEXT as u32, name as *const _) };
    if len <= 1 {
        return None;
    }
    walk_from(ctx, scratch, AT_FDCWD, Handler::ScriptWalk)
}

/// Walks along the name and carries the verdict out.
#[raw_tracepoint]
fn exec_script_walk(_ctx: RawTracePointContext) -> i32 {
    let _ = walk();
    0
}

#[inline(always)]
fn walk() -> Option<()> {
    let scratch = maps::scratch()?;
    let actor = Actor::current(Sensor::Tracepoint)?;
    let text = Text::new(0, scratch);
    let decision = decide::text(&Maps::with(scratch), &actor.subject, &text, Access::EXEC, &mut scratch.work);
    let done = actor.outcome(&decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return None;
    }
    let start = scratch.start;
    let mut record = Record::new(scratch, &actor, Hook::Exec as u8);
    record.event().flags |= FLAG_BY_NAME;
    record.path(start);
    record.own_texts();
    record.carry_out(&actor, &decision, done);
    Some(())
}
