//! Handing a record over, and carrying the verdict out.

use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str, bpf_ringbuf_output, bpf_send_signal,
};
use monitor_common::{
    Verdict,
    decide::Decision,
    event::{
        ANCESTORS, Ancestor, Event, FLAG_MAINTENANCE, FLAG_OBSERVED, FLAG_TEXT_PATH, FLAG_UNLINKED, Hook, PATH_MAX,
        PENDING_TEXT, TEXT_MAX,
    },
    inbound::Owner,
    opaque::zero,
    verdict::Sensor,
};

use crate::{
    facts::{actor::Actor, add, file::Inode, offset, pointer, read, task, word},
    global,
    maps::{COUNTERS, EVENTS, Scratch},
};

const SIGKILL: u32 = 9;

/// A record under construction in the scratch memory.
pub(crate) struct Record<'a> {
    scratch: &'a mut Scratch,
}

impl<'a> Record<'a> {
    /// Begins a record about the current task; `hook` is a [`monitor_common::event::Hook`].
    #[inline(always)]
    pub(crate) fn new(scratch: &'a mut Scratch, actor: &Actor, hook: u8) -> Self {
        let record = Self::begin(scratch, actor, hook);
        global::fw_current_task(record.scratch.buffer.get());
        record
    }

    /// Begins a record about the process that bound a socket, which need not be the current task.
    #[inline(always)]
    pub(crate) fn about(scratch: &'a mut Scratch, actor: &Actor, hook: u8, owner: &Owner) -> Self {
        let mut record = Self::begin(scratch, actor, hook);
        let event = record.event();
        // SAFETY: no arguments.
        event.time_ns = unsafe { bpf_ktime_get_boot_ns() };
        event.tgid = owner.tgid;
        event.tid = owner.tgid;
        event.start_ns = owner.start_ns;
        event.cgroup = owner.cgroup;
        event.uid = owner.uid;
        event.gid = owner.gid;
        event.euid = owner.euid;
        event.loginuid = u32::MAX;
        event.comm = owner.comm;
        record
    }

    #[inline(always)]
    fn begin(scratch: &'a mut Scratch, actor: &Actor, hook: u8) -> Self {
        let event = &mut scratch.event;
        zero(event);
        event.hook = hook;
        event.sensor = actor.sensor as u8;
        event.instance = actor.subject.slot;
        event.epoch = actor.subject.epoch;
        event.origin = actor.label.origin;
        event.syscall = actor.syscall;
        event.ret = actor.ret;
        event.flags = actor.flags;
        Self { scratch }
    }

    /// Begins a record that is about no task: that of a packet, which can arrive while any task runs.
    #[inline(always)]
    pub(crate) fn of_nobody(scratch: &'a mut Scratch, hook: Hook, slot: u16, epoch: u32) -> Self {
        let event = &mut scratch.event;
        zero(event);
        event.hook = hook as u8;
        event.sensor = Sensor::Cgroup as u8;
        (event.instance, event.epoch) = (slot, epoch);
        event.syscall = -1;
        // SAFETY: no arguments.
        event.time_ns = unsafe { bpf_ktime_get_boot_ns() };
        Self { scratch }
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
        self.scratch.set_location(place);
        let Scratch { buffer, path_len: len, event, .. } = &mut *self.scratch;
        event.flags |= global::fw_write_names(buffer.get(), 0);
        event.path_len = len.get() as u16;
    }

    /// Adds the other path of a rename or a link as text.
    #[inline(always)]
    pub(crate) fn other_path(&mut self, place: (u64, u64)) {
        self.scratch.set_location(place);
        let Scratch { buffer, path_len: len, event, .. } = &mut *self.scratch;
        let from = u32::from(event.path_len) & (PATH_MAX as u32 - 1);
        event.flags |= FLAG_TEXT_PATH | global::fw_write_names(buffer.get(), from);
        event.text_len = (len.get() - from).min(TEXT_MAX as u32) as u16;
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
        let event = &mut self.scratch.event;
        // SAFETY: the per-CPU value lives as long as the map.
        event.sequence = unsafe { core::ptr::read_volatile(&raw const (*counters).produced) };
        // SAFETY: no arguments.
        event.cpu = unsafe { bpf_get_smp_processor_id() };
        // A packet may come in the middle of this, with a record of its own.
        // SAFETY: as above; a number of eight bytes.
        unsafe { add(&raw mut (*counters).produced, 1) };
        let path = event.path_len as usize & (PATH_MAX - 1);
        let text = event.text_len as usize;
        let text = if text > TEXT_MAX { TEXT_MAX } else { text };
        let len = size_of::<Event>() + path + text;
        // SAFETY: the tail follows the event in the scratch memory, which is longer than `len` can be.
        let ret = unsafe {
            bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), (&raw mut *self.scratch).cast(), len as u64, 0)
        };
        // SAFETY: as above.
        unsafe { add(if ret < 0 { &raw mut (*counters).lost } else { &raw mut (*counters).emitted }, 1) };
    }

    /// Writes down what was decided and what is done, and hands the record over. The caller does it.
    #[inline(always)]
    pub(crate) fn send_decision(mut self, actor: &Actor, decision: &Decision, done: Verdict) {
        let event = self.event();
        event.wanted = decision.verdict as u8;
        event.verdict = done as u8;
        event.rule = decision.rule;
        event.access = decision.access.bits();
        if !actor.enforces() && decision.verdict as u8 > Verdict::Log as u8 {
            event.flags |= FLAG_OBSERVED;
        }
        if decision.window != 0 {
            event.flags |= FLAG_MAINTENANCE;
        }
        self.send();
    }

    /// The same, and kills the current process when that is the verdict. For sensors that can.
    #[inline(always)]
    pub(crate) fn carry_out(self, actor: &Actor, decision: &Decision, done: Verdict) {
        self.send_decision(actor, decision, done);
        if matches!(done, Verdict::Kill) {
            kill();
        }
    }
}

/// Writes down who the current task is.
#[inline(always)]
pub(crate) fn current_task(event: &mut Event) {
    // SAFETY: no arguments.
    event.time_ns = unsafe { bpf_ktime_get_boot_ns() };
    let current = task::current();
    event.tgid = word(current, offset!(task_tgid));
    event.tid = word(current, offset!(task_pid));
    event.loginuid = read(current, offset!(task_loginuid)).unwrap_or(u32::MAX);
    if let Some(cred) = pointer(current, offset!(task_cred)) {
        event.uid = word(cred, offset!(cred_uid));
        event.gid = word(cred, offset!(cred_gid));
        event.euid = word(cred, offset!(cred_euid));
    }
    event.cgroup = task::cgroup_of(current).unwrap_or(0);
    event.comm = word(current, offset!(task_comm));
    let Some(leader) = pointer(current, offset!(task_leader)) else { return };
    event.start_ns = word(leader, offset!(task_start));
    let mut above = leader;
    for index in 0..ANCESTORS {
        let parent = word(above, offset!(task_parent));
        if parent == above {
            break;
        }
        let tgid = word(parent, offset!(task_tgid));
        event.ancestors[index] = Ancestor { tgid, comm: word(parent, offset!(task_comm)) };
        if tgid <= 1 {
            break;
        }
        above = parent;
    }
}

/// Counts an operation that was refused because there was no memory to judge it in.
#[inline(always)]
pub(crate) fn count_unjudged() {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the per-CPU value lives as long as the map; a number of eight bytes.
        unsafe { add(&raw mut (*counters).unjudged, 1) };
    }
}

/// Sends SIGKILL to the current process: it does not return to user mode.
#[inline(always)]
pub(crate) fn kill() {
    // SAFETY: no pointers.
    unsafe { bpf_send_signal(SIGKILL) };
}
