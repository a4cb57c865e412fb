//! Starting a process as somebody else, somewhere else.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustix::{
    process::{Gid, Resource, Rlimit, Uid, setrlimit},
    thread::{
        CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use crate::{cgroup::Cgroup, needs, netns::Network, place};

/// The unit that comes with the guard.
const UNIT: &str = include_str!("../../contrib/systemd/flowwarden.service");

/// Leaves a command of root's no more privileges than the guard's unit does, and the memory that the unit grants.
pub fn as_service(command: &mut Command) -> &mut Command {
    as_service_without(command, &[])
}

/// The same without some of the unit's capabilities, as where it was edited.
pub fn as_service_without<'a>(command: &'a mut Command, lacking: &[&str]) -> &'a mut Command {
    let sets = UNIT.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    // What docs/how-to/service.md says of kernels where nothing better than kprobes runs.
    let probes = needs::expected_sensor().is_some_and(|sensor| sensor == "kprobe").then_some("CAP_SYS_ADMIN");
    let kept: Vec<_> =
        sets.flat_map(str::split_whitespace).chain(probes).filter(|name| !lacking.contains(name)).collect();
    let unlimited = UNIT.lines().any(|line| line == "LimitMEMLOCK=infinity");
    // What systemd grants otherwise.
    limited(command, &kept, (!unlimited).then_some(8 << 20))
}

/// Leaves a command of root's these capabilities and so much locked memory, or all that it may have of it.
pub fn limited<'a>(command: &'a mut Command, kept: &[&str], memory: Option<u64>) -> &'a mut Command {
    let kept: Vec<_> = kept.iter().filter_map(|name| name.strip_prefix("CAP_")).collect();
    let gone: Vec<_> =
        CapabilitySet::all().iter_names().filter(|(name, _)| !kept.contains(name)).map(|(_, set)| set).collect();
    let drop = move || {
        // Root without CAP_SYS_RESOURCE may not raise it. It counts before 5.11 only, and a guard that misses it says so.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: memory, maximum: memory });
        set_no_new_privs(true)?;
        gone.iter().try_for_each(|&set| Ok(remove_capability_from_bounding_set(set)?))
    };
    // SAFETY: between fork and exec only async-signal-safe calls may be made. `drop` makes bare system calls with values
    // computed before the fork; it neither allocates nor locks.
    unsafe { command.pre_exec(drop) }
}

/// Who a process is, and which network and cgroup it lives in.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// uid and gid.
    pub uid: u32,
    /// It runs in this network's `home`.
    pub network: Arc<Network>,
    /// Its cgroup.
    pub cgroup: Arc<Cgroup>,
}

impl Confinement {
    /// Starts `command` confined. What an instance executes is not below a directory that every user can write.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        place::ensure_ordinary(Path::new(command.get_program()))?;
        let entrance = self.cgroup.entrance()?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        let enter = move || -> io::Result<()> {
            // The cgroup first: joining it is root's right.
            rustix::io::write(&entrance, b"0")?;
            set_thread_groups(&[])?;
            set_thread_res_gid(gid, gid, gid)?;
            Ok(set_thread_res_uid(uid, uid, uid)?)
        };
        // SAFETY: between fork and exec only async-signal-safe calls may be made. `enter` makes four bare system calls
        // with values computed before the fork; it neither allocates nor locks. The child has one thread, so changing
        // that thread's ids changes the process's.
        let command = unsafe { command.pre_exec(enter) };
        // A child is born into the namespace of the thread that makes it.
        self.network.home.run(|| command.spawn().with_context(|| format!("{command:?} cannot be started")))
    }
}
