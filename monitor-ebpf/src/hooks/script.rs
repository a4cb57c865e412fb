//! A script was executed by its name, where no security hook is asked before.
//!
//! At `sched_process_exec(task, old_pid, binprm)` the file of the process is the interpreter already, and of the script only
//! the name is left. It is walked as any other, before the interpreter's first instruction.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{Access, event::Hook, syscall::Handler, verdict::Sensor};

use super::{judge_name, walk_name};
use crate::{
    facts::{actor::Actor, call, offset, path::AT_FDCWD, pointer},
    maps,
    trace::trace,
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
    walk_name(ctx, maps::scratch()?, name, AT_FDCWD, Handler::ScriptWalk)
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
    trace!(fw_trace_script, actor.subject.slot.into());
    judge_name(scratch, &actor, Hook::Exec as u8, Access::EXEC, |_| ());
    Some(())
}
