//! The current task.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};
use monitor_common::scope::MAX_CGROUP_DEPTH;

use super::{offset, pointer, read, word};

/// Address of the current `task_struct`.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_get_current_task() }
}

/// tgid and tid of the current task.
#[inline(always)]
pub(crate) fn ids() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}

/// tgid of a task.
#[inline(always)]
pub(crate) fn tgid(task: u64) -> Option<u32> {
    read(task, offset!(task_tgid))
}

/// Effective uid and capabilities of a task.
#[inline(always)]
pub(crate) fn privilege(task: u64) -> Option<(u32, u64)> {
    let cred = pointer(task, offset!(task_cred))?;
    Some((read(cred, offset!(cred_euid))?, read(cred, offset!(cred_caps))?))
}

/// cgroup v2 id of a task.
#[inline(always)]
pub(crate) fn cgroup_of(task: u64) -> Option<u64> {
    let set = pointer(task, offset!(task_cgroups))?;
    let cgroup = pointer(set, offset!(css_set_dfl_cgroup))?;
    read(pointer(cgroup, offset!(cgroup_kernfs_node))?, offset!(kernfs_id))
}

/// Fills in the cgroup v2 ids of a task: its own and those above, zero past the root.
#[inline(always)]
pub(crate) fn cgroups(task: u64, ids: &mut [u64; MAX_CGROUP_DEPTH]) {
    *ids = [0; MAX_CGROUP_DEPTH];
    let Some(set) = pointer(task, offset!(task_cgroups)) else { return };
    let Some(mut cgroup) = pointer(set, offset!(css_set_dfl_cgroup)) else { return };
    for id in ids {
        let node: u64 = word(cgroup, offset!(cgroup_kernfs_node));
        *id = word(node, offset!(kernfs_id));
        let parent: u64 = word(cgroup, offset!(cgroup_parent_css));
        cgroup = word(parent, offset!(css_cgroup));
    }
}
