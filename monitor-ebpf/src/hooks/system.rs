//! What changes the machine itself, as system calls: mounts, namespaces, BPF, modules.
//!
//! Judged at the entry: what a module or a program in the kernel does cannot be taken back. An attempt that the system is
//! going to refuse is therefore judged as well; nothing that Node-RED does comes near these calls.

use aya_ebpf::{helpers::generated::bpf_probe_read_user_str, macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict, decide,
    event::{FLAG_BY_NAME, Hook, PENDING_TEXT},
    policy::{CONTROL_USERNS, Class},
    syscall::{NO_ARG, SYSCALL_FLAGS_IN_STRUCT, SYSCALL_SIGNAL_IN_FLAGS},
};

use crate::{
    emit::Record,
    facts::{
        call::Call,
        path::{AT_FDCWD, start},
        read_user,
    },
    maps::{self, CONTROL},
};

/// `CLONE_NEWUSER` and the other `CLONE_NEW*` flags: time, mount, cgroup, uts, ipc, pid, net.
const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_NEW_OTHER: u64 = 0x80 | 0x2_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x2000_0000 | 0x4000_0000;
/// In the flags of `clone` that bit is part of the signal at the child's end.
const CLONE_NEWTIME: u64 = 0x80;

#[raw_tracepoint]
fn system_enter(ctx: RawTracePointContext) -> i32 {
    let _ = handle(&ctx);
    0
}

#[inline(always)]
fn handle(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let scratch = maps::scratch()?;
    let hook = call.spec.hook;
    let mut detail = 0;
    let decision = if hook == Hook::Namespace as u8 {
        detail = namespaces(&call)?;
        decide::class(&call.actor.subject, Class::Namespace, Access::NONE)
    } else if hook == Hook::Mount as u8 || hook == Hook::Unmount as u8 {
        decide::class(&call.actor.subject, Class::Mount, Access::NONE)
    } else {
        if call.spec.flags != NO_ARG {
            detail = call.arg(call.spec.flags)?;
        }
        if hook == Hook::Bpf as u8 {
            decide::bpf(&call.actor.subject, detail as u32)
        } else {
            decide::class(&call.actor.subject, Class::Kernel, Access::NONE)
        }
    };
    let done = call.actor.outcome(&decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return None;
    }
    let mut record = Record::new(scratch, &call.actor, hook);
    record.event().detail = detail;
    if let Some(path) = call.arg(call.spec.arg) {
        let absolute = u32::from(read_user::<u8>(path)? == b'/');
        let dir = call.arg(call.spec.dir).map_or(AT_FDCWD, |dir| dir as i32);
        record.path(start(dir, absolute)?);
        record.event().flags |= FLAG_BY_NAME;
        record.text(|to| {
            // SAFETY: the destination holds more than PENDING_TEXT bytes; the helper checks the source.
            let read = unsafe { bpf_probe_read_user_str(to.cast(), PENDING_TEXT as u32, path as *const _) };
            if read > 0 { read as usize } else { 0 }
        });
    }
    record.carry_out(&call.actor, &decision, done);
    Some(())
}

/// The namespaces that are asked for, `None` when there are none that this sensor is to judge.
#[inline(always)]
fn namespaces(call: &Call) -> Option<u64> {
    // To enter one takes a descriptor; of what kind is not always said.
    if call.spec.flags == NO_ARG {
        return Some(0);
    }
    let flags = call.arg(call.spec.flags)?;
    let served = CONTROL.get(0).is_some_and(|control| control.flags & CONTROL_USERNS != 0);
    let all = if served { CLONE_NEW_OTHER } else { CLONE_NEW_OTHER | CLONE_NEWUSER };
    let asked = if call.spec.traits & SYSCALL_FLAGS_IN_STRUCT != 0 {
        read_user::<u64>(flags)? & all
    } else if call.spec.traits & SYSCALL_SIGNAL_IN_FLAGS != 0 {
        flags & all & !CLONE_NEWTIME
    } else {
        flags & all
    };
    (asked != 0).then_some(asked)
}
