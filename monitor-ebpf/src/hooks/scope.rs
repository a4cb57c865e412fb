//! Who is in scope: marks processes when they are made, when they execute a program or are moved into a cgroup, and
//! forgets them when they end.

use aya_ebpf::{helpers::generated::bpf_probe_read_user, macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    event::Hook,
    name::Name,
    policy::Control,
    scope::{ArgvMatcher, MAX_CGROUP_DEPTH, MAX_SELECTORS, Origin, Selector, TaskFacts, TaskLabel, selects},
    verdict::Sensor,
};

use crate::{
    emit::Record,
    facts::{actor::Actor, call, file::File, offset, path::name_of, pointer, read, task},
    maps::{self, CONTROL, SELECTORS, TASKS},
    trace::trace,
};

/// Bytes of arguments in which Node-RED's name is looked for.
const ARGV_SEARCHED: usize = 512;

/// `sched_process_fork(parent, child)`: a child is where its parent is.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    let _ = fork(&ctx);
    0
}

#[inline(always)]
fn fork(ctx: &RawTracePointContext) -> Option<()> {
    let label = call::label()?;
    let child = task::tgid(ctx.arg::<u64>(1))?;
    if child == task::ids().0 {
        // A thread.
        return None;
    }
    let inherited = TaskLabel { origin: Origin::Inherited as u8, kill: 0, ..*label };
    TASKS.insert(child, inherited, 0).ok()?;
    trace!(fw_trace_fork, child);
    let mut record = Record::new(maps::scratch()?, &Actor::current(Sensor::Tracepoint)?, Hook::Fork as u8);
    record.event().detail = u64::from(child);
    record.send();
    Some(())
}

/// `sched_process_exit(task)`: the last thread of a process takes its mark along.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(ctx: RawTracePointContext) -> i32 {
    let _ = exit(&ctx);
    0
}

#[inline(always)]
fn exit(ctx: &RawTracePointContext) -> Option<()> {
    let is_guard = CONTROL.get(0).is_some_and(|control| control.guard == task::ids().0);
    if !is_guard {
        call::label()?;
    }
    let signal = pointer(ctx.arg::<u64>(0), offset!(task_signal))?;
    if read::<i32>(signal, offset!(signal_live))? > 0 {
        return None;
    }
    if is_guard {
        // Pinned programs keep enforcing. The kernel may reuse the pid: another process must not be taken for the guard.
        // SAFETY: the value of an array lives as long as the map; a single store.
        unsafe { (*CONTROL.get_ptr_mut(0)?).guard = 0 };
        return None;
    }
    if let Some(actor) = Actor::current(Sensor::Tracepoint) {
        trace!(fw_trace_exit, actor.subject.slot.into());
        Record::new(maps::scratch()?, &actor, Hook::Exit as u8).send();
    }
    TASKS.remove(task::ids().0).ok()
}

/// `sched_process_exec`: a program may bring its process into scope. Attached before the `exec` hook.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(_ctx: RawTracePointContext) -> i32 {
    if call::label().is_none() {
        let _ = enter_by_exec();
    }
    0
}

#[inline(always)]
fn enter_by_exec() -> Option<()> {
    let scratch = maps::scratch()?;
    let current = task::current();
    let mm = pointer(current, offset!(task_mm))?;
    let file = File(pointer(mm, offset!(mm_exe))?);
    let argv = (read::<u64>(mm, offset!(mm_arg_start))?, read::<u64>(mm, offset!(mm_arg_end))?);
    let node_red = is_node(file.dentry_and_mount()?.0, &mut scratch.name)
        && names_node_red(argv, &mut scratch.argv, &mut scratch.tail);
    let node_red = scratch.opaque(u32::from(node_red)) != 0;
    mark(current, node_red, &mut scratch.cgroups)
}

/// `cgroup_attach_task(cgroup, path, task, ...)`: the task belongs to its new cgroup, whatever process moved it.
///
/// Another process's arguments cannot be read from here: where a selector asks for Node-RED too, its next exec decides.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
fn process_moved(ctx: RawTracePointContext) -> i32 {
    let _ = enter_by_move(ctx.arg::<u64>(2));
    0
}

#[inline(always)]
fn enter_by_move(moved: u64) -> Option<()> {
    // SAFETY: only whether it is there is asked.
    if unsafe { TASKS.get(task::tgid(moved)?) }.is_some() {
        return None;
    }
    // Kernel threads have no memory of their own.
    pointer(moved, offset!(task_mm))?;
    mark(moved, false, &mut maps::scratch()?.cgroups)
}

/// Marks a task's process when a selector selects it.
#[inline(always)]
fn mark(of: u64, is_node_red: bool, cgroups: &mut [u64; MAX_CGROUP_DEPTH]) -> Option<()> {
    let instance = select(of, is_node_red, cgroups)?;
    let (euid, caps) = task::privilege(of)?;
    let label = TaskLabel { instance, origin: Origin::Selected as u8, kill: 0, euid, caps };
    TASKS.insert(task::tgid(of)?, label, 0).ok()
}

/// Whether the program's file is called node or nodejs.
#[inline(always)]
fn is_node(dentry: u64, name: &mut Name) -> bool {
    if !name_of(dentry, name) {
        return false;
    }
    let word = name.at(0) == b'n' && name.at(1) == b'o' && name.at(2) == b'd' && name.at(3) == b'e';
    word && (name.len() == 4 || (name.len() == 6 && name.at(4) == b'j' && name.at(5) == b's'))
}

/// Whether an argument names Node-RED.
#[inline(always)]
fn names_node_red((start, end): (u64, u64), matcher: &mut ArgvMatcher, args: &mut [u8]) -> bool {
    let len = end.saturating_sub(start).min(ARGV_SEARCHED as u64) as u32;
    matcher.reset();
    // SAFETY: the helper checks the source, and the destination is longer than is said.
    let ret = unsafe { bpf_probe_read_user(args.as_mut_ptr().cast(), len, start as *const _) };
    if ret < 0 {
        return false;
    }
    for index in 0..ARGV_SEARCHED {
        if index as u32 >= len {
            break;
        }
        // SAFETY: `index` is below ARGV_SEARCHED.
        matcher.push(unsafe { *args.as_ptr().add(index) });
    }
    matcher.found()
}

/// The instance that selects a task.
#[inline(always)]
fn select(of: u64, is_node_red: bool, cgroups: &mut [u64; MAX_CGROUP_DEPTH]) -> Option<u16> {
    let control: &Control = CONTROL.get(0)?;
    let tgid = task::tgid(of)?;
    if control.epoch == 0 || tgid <= 1 || tgid == control.guard {
        return None;
    }
    task::cgroups(of, cgroups);
    let uid = read(pointer(of, offset!(task_cred))?, offset!(cred_uid))?;
    let facts = TaskFacts { uid, cgroups, is_node_red };
    let half = (control.epoch & 1) * MAX_SELECTORS as u32;
    for index in 0..MAX_SELECTORS as u32 {
        if index >= control.selectors {
            break;
        }
        let selector: &Selector = SELECTORS.get(half + index)?;
        if selects(selector, &facts) {
            return Some(selector.instance);
        }
    }
    None
}
