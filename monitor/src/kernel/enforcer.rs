//! What the running agent needs of the kernel: an interface, so that the agent is tested without one.

use std::{collections::BTreeSet, path::Path};

use monitor_common::{
    event::Counters,
    inbound::Owner,
    policy::{InodeId, Maintenance},
    scope::TaskLabel,
};

use super::{Kernel, error::Result};
use policy::compile::Compiled;

/// Enforces the policy that is installed, and says what it has seen.
pub trait Enforcer {
    /// The epoch that a new policy is to be compiled for.
    fn next_epoch(&self) -> u32;

    /// The epoch of the policy in force.
    fn epoch(&self) -> u32;

    /// The identity of a file; `None` when it does not exist. Does not follow a symbolic link.
    fn identify(&mut self, path: &Path) -> Result<Option<InodeId>>;

    /// Puts a policy in force: all of it or, on an error, none.
    fn install(&mut self, policy: &Compiled) -> Result<()>;

    /// Brings up what counts outgoing bytes below a directory of cgroup v2.
    fn attach_volume(&mut self, root: &Path) -> Result<()>;

    /// Notes a hook that does not run, for the record.
    fn degrade(&mut self, hook: &str, why: String);

    /// Marks a process as belonging to an instance.
    fn label(&mut self, tgid: u32, label: TaskLabel) -> Result<()>;

    /// The processes in scope.
    fn labels(&self) -> Vec<(u32, TaskLabel)>;

    /// The ids of the processes in scope.
    fn labelled(&self) -> BTreeSet<u32> {
        self.labels().into_iter().map(|(tgid, _)| tgid).collect()
    }

    /// Whether a process is in scope.
    fn is_labelled(&self, tgid: u32) -> bool;

    /// Takes a process out of scope.
    fn forget_task(&mut self, tgid: u32);

    /// Notes whose a socket is.
    fn own_socket(&mut self, cookie: u64, owner: Owner) -> Result<()>;

    /// Opens the window of an instance for a maintenance until a time of `CLOCK_BOOTTIME` in nanoseconds; 0 closes it.
    fn set_window(&mut self, slot: u16, maintenance: Maintenance, until_ns: u64) -> Result<()>;

    /// What became of the records, CPU by CPU.
    fn counters(&mut self) -> Result<Vec<Counters>>;

    /// How many questions to resolvers, and answers, were not read because they came too fast.
    fn skipped_names(&mut self) -> Result<u64>;

    /// Leaves word for the next run how many lost records have been reported.
    fn tell_lost(&mut self, lost: u64) -> Result<()>;
}

impl Enforcer for Kernel {
    fn next_epoch(&self) -> u32 {
        Self::next_epoch(self)
    }

    fn epoch(&self) -> u32 {
        Self::epoch(self)
    }

    fn identify(&mut self, path: &Path) -> Result<Option<InodeId>> {
        Self::identify(self, path)
    }

    fn install(&mut self, policy: &Compiled) -> Result<()> {
        Self::install(self, policy)
    }

    fn attach_volume(&mut self, root: &Path) -> Result<()> {
        Self::attach_volume(self, root)
    }

    fn degrade(&mut self, hook: &str, why: String) {
        Self::degrade(self, hook, why);
    }

    fn label(&mut self, tgid: u32, label: TaskLabel) -> Result<()> {
        Self::label(self, tgid, label)
    }

    fn labels(&self) -> Vec<(u32, TaskLabel)> {
        Self::labels(self)
    }

    fn is_labelled(&self, tgid: u32) -> bool {
        Self::is_labelled(self, tgid)
    }

    fn forget_task(&mut self, tgid: u32) {
        Self::forget_task(self, tgid);
    }

    fn own_socket(&mut self, cookie: u64, owner: Owner) -> Result<()> {
        Self::own_socket(self, cookie, owner)
    }

    fn set_window(&mut self, slot: u16, maintenance: Maintenance, until_ns: u64) -> Result<()> {
        Self::set_window(self, slot, maintenance, until_ns)
    }

    fn counters(&mut self) -> Result<Vec<Counters>> {
        Self::counters(self)
    }

    fn skipped_names(&mut self) -> Result<u64> {
        Self::skipped_names(self)
    }

    fn tell_lost(&mut self, lost: u64) -> Result<()> {
        Self::tell_lost(self, lost)
    }
}
