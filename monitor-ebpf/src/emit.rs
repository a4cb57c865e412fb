//! Handing a record over, and carrying the verdict out.

use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str, bpf_ringbuf_output, bpf_send_signal,
};
use monitor_common::{
    Verdict,
    decide::{Decision, Subject},
    event::{
        ANCESTORS, Ancestor, COMM_LEN, Event, FLAG_CUT, FLAG_OBSERVED, FLAG_UNLINKED, Hook, PATH_MAX, PENDING_TEXT,
        TEXT_MAX,
    },
    opaque::wipe,
    scope::TaskLabel,
    verdict::Sensor,
};

use crate::{
    facts::{call::Call, file::Inode, offset, path, pointer, read, task},
    maps::{COUNTERS, EVENTS, Scratch},
};

const SIGKILL: u32 = 9;

/// A record under construction in the scratch memory.
pub(crate) struct Record<'a> {
    scratch: &'a mut Scratch,
}

impl<'a> Record<'a> {
    /// Begins a record about the current task.
    #[inline(always)]
    pub(crate) fn new(
        scratch: &'a mut Scratch,
        hook: Hook,
        sensor: Sensor,
        label: &TaskLabel,
        slot: u16,
        epoch: u32,
    ) -> Self {
        let event = &mut scratch.event;
        wipe(event);
        event.hook = hook as u8;
        event.sensor = sensor as u8;
        event.instance = slot;
        event.epoch = epoch;
        event.origin = label.origin;
        event.syscall = -1;
        // SAFETY: no arguments.
        event.time_ns = unsafe { bpf_ktime_get_boot_ns() };
        let current = task::current();
        event.tgid = read(current, offset!(task_tgid)).unwrap_or(0);
        event.tid = read(current, offset!(task_pid)).unwrap_or(0);
        event.loginuid = read(current, offset!(task_loginuid)).unwrap_or(u32::MAX);
        if let Some(cred) = pointer(current, offset!(task_cred)) {
            event.uid = read(cred, offset!(cred_uid)).unwrap_or(u32::MAX);
            event.gid = read(cred, offset!(cred_gid)).unwrap_or(u32::MAX);
            event.euid = read(cred, offset!(cred_euid)).unwrap_or(u32::MAX);
        }
        event.cgroup = task::cgroup_of(current).unwrap_or(0);
        event.comm = read(current, offset!(task_comm)).unwrap_or([0; COMM_LEN]);
        if let Some(leader) = pointer(current, offset!(task_leader)) {
            event.start_ns = read(leader, offset!(task_start)).unwrap_or(0);
            let mut above = leader;
            for index in 0..ANCESTORS {
                let Some(parent) = pointer(above, offset!(task_parent)) else { break };
                if parent == above {
                    break;
                }
                let Some(tgid) = task::tgid(parent) else { break };
                event.ancestors[index] =
                    Ancestor { tgid, comm: read(parent, offset!(task_comm)).unwrap_or([0; COMM_LEN]) };
                if tgid <= 1 {
                    break;
                }
                above = parent;
            }
        }
        Self { scratch }
    }

    /// Begins a record about a system call.
    #[inline(always)]
    pub(crate) fn of_call(scratch: &'a mut Scratch, call: &Call, hook: Hook) -> Self {
        let record = Self::new(scratch, hook, Sensor::Tracepoint, call.label, call.subject.slot, call.subject.epoch);
        record.scratch.event.syscall = call.number as i32;
        record.scratch.event.ret = call.ret as i32;
        if call.compat != 0 {
            record.scratch.event.flags |= monitor_common::event::FLAG_COMPAT;
        }
        record
    }

    /// The fixed part.
    #[inline(always)]
    pub(crate) fn event(&mut self) -> &mut Event {
        &mut self.scratch.event
    }

    /// Adds a file's identity and mode.
    #[inline(always)]
    pub(crate) fn inode(&mut self, inode: Inode) {
        let event = &mut self.scratch.event;
        if let Some(id) = inode.id() {
            event.ino = id.ino;
            event.dev = id.dev;
            event.generation = id.generation;
        }
        event.mode = inode.mode();
        if inode.links() == 0 {
            event.flags |= FLAG_UNLINKED;
        }
    }

    /// Adds where a file is. To be called before any text is added.
    #[inline(always)]
    pub(crate) fn path(&mut self, place: (u64, u64)) {
        if !path::write_names(place, &mut self.scratch.tail, &mut self.scratch.len) {
            self.scratch.event.flags |= FLAG_CUT;
        }
        self.scratch.event.path_len = self.scratch.len.get() as u16;
    }

    /// Adds text with a reader that fills at most [`TEXT_MAX`] bytes and answers how many.
    #[inline(always)]
    pub(crate) fn text(&mut self, read: impl FnOnce(*mut u8) -> usize) {
        let at = self.scratch.event.path_len as usize & (PATH_MAX - 1);
        // SAFETY: `at` is below PATH_MAX and the memory goes on for TEXT_MAX bytes after that.
        let len = read(unsafe { self.scratch.tail.as_mut_ptr().add(at) });
        self.scratch.event.text_len = len.min(TEXT_MAX) as u16;
    }

    /// Adds the paths that a program gave, each ended by a zero byte.
    #[inline(always)]
    pub(crate) fn texts(&mut self, texts: &[[u8; PENDING_TEXT]; 2]) {
        const _: () = assert!(2 * PENDING_TEXT <= TEXT_MAX);
        self.text(|to| {
            // SAFETY: both fit: the destination holds TEXT_MAX bytes, and each copy is of PENDING_TEXT at the most.
            unsafe {
                let len = bpf_probe_read_kernel_str(to.cast(), PENDING_TEXT as u32, texts[0].as_ptr().cast());
                let at = if len > 0 { len as usize & (PENDING_TEXT - 1) } else { 0 };
                let more = bpf_probe_read_kernel_str(to.add(at).cast(), PENDING_TEXT as u32, texts[1].as_ptr().cast());
                at + if more > 0 { more as usize & (2 * PENDING_TEXT - 1) } else { 0 }
            }
        });
    }

    /// The same with the paths in the scratch memory.
    #[inline(always)]
    pub(crate) fn own_texts(&mut self) {
        let texts = &raw const self.scratch.pending.texts;
        // SAFETY: another part of the scratch memory than the one that is written to.
        self.texts(unsafe { &*texts });
    }

    /// Hands the record over as it is, with a verdict that is no decision's.
    #[inline(always)]
    pub(crate) fn send(self) {
        let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
        // SAFETY: the per-CPU value is ours while preemption is off.
        let counters = unsafe { &mut *counters };
        let event = &mut self.scratch.event;
        event.sequence = counters.produced;
        // SAFETY: no arguments.
        event.cpu = unsafe { bpf_get_smp_processor_id() };
        counters.produced += 1;
        let path = event.path_len as usize & (PATH_MAX - 1);
        let text = event.text_len as usize;
        let text = if text > TEXT_MAX { TEXT_MAX } else { text };
        let len = size_of::<Event>() + path + text;
        // SAFETY: the tail follows the event in the scratch memory, which is longer than `len` can be.
        let ret = unsafe {
            bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), (&raw mut *self.scratch).cast(), len as u64, 0)
        };
        if ret < 0 {
            counters.lost += 1;
        } else {
            counters.emitted += 1;
        }
    }

    /// Writes down what was decided and what is done, and hands the record over. The caller does it.
    #[inline(always)]
    pub(crate) fn send_decision(mut self, decision: &Decision, done: Verdict, enforce: bool) {
        let event = self.event();
        event.wanted = decision.verdict as u8;
        event.verdict = done as u8;
        event.rule = decision.rule;
        event.access = decision.access.bits();
        if !enforce && decision.verdict as u8 > Verdict::Log as u8 {
            event.flags |= FLAG_OBSERVED;
        }
        self.send();
    }

    /// The same, and kills the current process when that is the verdict. For tracepoints.
    #[inline(always)]
    pub(crate) fn carry_out(self, decision: &Decision, done: Verdict, enforce: bool) {
        self.send_decision(decision, done, enforce);
        if matches!(done, Verdict::Kill) {
            kill();
        }
    }
}

/// What a tracepoint does about a decision.
#[inline(always)]
pub(crate) fn outcome(subject: &Subject<'_>, decision: &Decision, scratch: &mut Scratch) -> Verdict {
    let done = Sensor::Tracepoint.apply(decision.verdict, decision.fallback, subject.instance.enforce != 0);
    Verdict::from_raw(scratch.launder(done as u32) as u8)
}

/// Sends SIGKILL to the current process: it does not return to user mode.
#[inline(always)]
pub(crate) fn kill() {
    // SAFETY: no pointers.
    unsafe { bpf_send_signal(SIGKILL) };
}
