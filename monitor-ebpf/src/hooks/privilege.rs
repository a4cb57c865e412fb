//! uid, gid or capabilities changed in a way that adds privilege: at the exit of the system calls that change them, and
//! when a setuid program is executed.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, decide,
    event::{FLAG_COMPAT, Hook},
    policy::Class,
    verdict::Sensor,
};

use super::judge;
use crate::{
    facts::{actor::Actor, call, task},
    maps::{self, TASKS},
    trace::trace,
};

#[raw_tracepoint]
fn credentials_exit(ctx: RawTracePointContext) -> i32 {
    let number = call::number_at_exit(&ctx);
    let _ = handle(number.and_then(|number| call::spec(number).map(|(_, compat)| (number, compat))));
    0
}

/// Attached after the `exec` hook.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn exec_privilege(_ctx: RawTracePointContext) -> i32 {
    let _ = handle(None);
    0
}

/// With the number of the system call and whether the caller is a 32-bit one; a setuid program has neither.
#[inline(always)]
fn handle(call: Option<(u32, bool)>) -> Option<()> {
    let label = call::label()?;
    let (euid, caps) = task::privilege(task::current())?;
    let gained = (euid == 0 && label.euid != 0) || caps & !label.caps != 0;
    let stored = TASKS.get_ptr_mut(task::ids().0)?;
    // SAFETY: the entry is this process's own.
    unsafe {
        (*stored).euid = euid;
        (*stored).caps = caps;
    }
    if !gained {
        return None;
    }
    let mut actor = Actor::current(Sensor::Tracepoint)?;
    trace!(fw_trace_privilege, euid);
    if let Some((number, compat)) = call {
        actor.syscall = number as i32;
        actor.flags |= if compat { FLAG_COMPAT } else { 0 };
    }
    let decision = decide::class(&actor.subject, Class::Privilege, Access::NONE);
    judge(maps::scratch()?, &actor, Hook::Privilege as u8, &decision, |event| event.detail = caps);
    Some(())
}
