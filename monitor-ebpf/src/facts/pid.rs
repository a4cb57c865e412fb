//! Processes by their number or their descriptor, as the kernel itself finds them.

use aya_ebpf::cty::c_int;
use monitor_common::opaque::Opaque;

use super::{file::File, offset, pointer, read, task};

/// Steps down the tree of a namespace's pids: six bits each, and pids have 22 at the most (`PID_MAX_LIMIT`).
const MAX_STEPS: usize = 5;
/// Members of a process group that are looked at.
const MAX_MEMBERS: usize = 64;
/// What the lowest bits of an entry are when it is a node of the tree and no pid, `xa_is_node`.
const NODE: u64 = 2;
const NODE_MASK: u64 = 3;

/// Address of a `struct pid`.
#[derive(Clone, Copy)]
pub(crate) struct Pid(u64);

impl Pid {
    /// By a number of the pid namespace that the current task lives in, as `find_vpid` does.
    #[inline(always)]
    pub(crate) fn by_number(number: u32) -> Option<Self> {
        let own = pointer(task::current(), offset!(task_thread_pid))?;
        let level = read::<u32>(own, offset!(pid_level))?;
        let stride = offset!(pid_namespace_below).wrapping_sub(offset!(pid_namespace));
        let namespace = pointer(own + u64::from(level) * u64::from(stride), offset!(pid_namespace))?;
        let mut entry = Opaque::new(pointer(namespace, offset!(namespace_pids))?);
        let slots = offset!(node_slots_end).wrapping_sub(offset!(node_slots)) / size_of::<u64>() as u32;
        for step in 0..MAX_STEPS {
            let node = entry.get().wrapping_sub(NODE);
            if node & NODE_MASK != 0 {
                break;
            }
            let slot = number.checked_shr(read::<u8>(node, offset!(node_shift))?.into())?;
            if step == 0 && slot >= slots {
                return None;
            }
            let slot = slot & slots.wrapping_sub(1);
            entry.set(pointer(node + u64::from(slot) * size_of::<u64>() as u64, offset!(node_slots))?);
        }
        Some(Self(entry.get())).filter(|pid| pid.0 & NODE_MASK == 0)
    }

    /// By a descriptor of the current task. Of another file than a pidfd nothing comes that has a task.
    #[inline(always)]
    pub(crate) fn by_fd(fd: c_int) -> Option<Self> {
        let file = File::from_fd(fd)?;
        // Since 6.9 a pidfd is a file of a file system of its own.
        pointer(file.0, offset!(file_private)).or_else(|| pointer(file.inode()?.0, offset!(inode_private))).map(Self)
    }

    /// The process group of the current task.
    #[inline(always)]
    pub(crate) fn own_group() -> Option<Self> {
        pointer(pointer(task::current(), offset!(task_signal))?, offset!(signal_group)).map(Self)
    }

    /// The number in the first namespace, which records name processes by.
    #[inline(always)]
    pub(crate) fn number(self) -> Option<u32> {
        read(self.0, offset!(pid_number))
    }

    /// The process that it is, or a thread of it.
    #[inline(always)]
    pub(crate) fn tgid(self) -> Option<u32> {
        let task = pointer(self.0, offset!(pid_task))?.wrapping_sub(u64::from(offset!(task_pid_link)));
        // What is no pid has no task that says so.
        (pointer(task, offset!(task_thread_pid))? == self.0).then_some(())?;
        task::tgid(task)
    }

    /// Whether one of the processes whose group this is `is_outside`, or there are too many to tell.
    #[inline(always)]
    pub(crate) fn any_member(self, is_outside: impl Fn(u32) -> bool) -> bool {
        let mut link = Opaque::new(pointer(self.0, offset!(pid_group)).unwrap_or(0));
        for _ in 0..MAX_MEMBERS {
            if link.get() == 0 {
                return false;
            }
            let member = link.get().wrapping_sub(u64::from(offset!(task_group_link)));
            if task::tgid(member).is_some_and(&is_outside) {
                return true;
            }
            link.set(pointer(link.get(), offset!(link_next)).unwrap_or(0));
        }
        true
    }
}
