//! Kills the other processes of a kill scope. The kernel has killed the process that acted before its record is read.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ended::Ended;
use crate::{
    kernel::enforcer::Enforcer,
    record::{decode::Record, lineage::Lineage},
};
use policy::{
    host::{Host, System},
    machine::scan,
    model::{KillScope, Policy, Select},
};

/// Rounds of searching for new members of a scope. A stopped process forks no more.
const PASSES: usize = 16;
/// Most ancestors of a process that are followed.
const MAX_HEIGHT: usize = 64;

/// Context to find the members of a scope.
pub(super) struct Responder<'a> {
    pub(super) kernel: &'a dyn Enforcer,
    pub(super) lineage: &'a Lineage,
    pub(super) host: &'a System,
}

impl Responder<'_> {
    /// Kills all processes in the scope of a record. All are stopped first, so that none forks meanwhile.
    pub(super) fn kill(&self, record: &Record, scope: KillScope, policy: &Policy, instance: &str) -> Vec<Ended> {
        let event = &record.event;
        let top = match scope {
            KillScope::Process => return Vec::new(),
            KillScope::Tree => Some(self.top(record)),
            KillScope::Instance => None,
        };
        let mut members: BTreeMap<u32, Option<OwnedFd>> = BTreeMap::new();
        let mut names = BTreeMap::new();
        for _ in 0..PASSES {
            let before = members.len();
            for (tgid, label) in self.kernel.labels() {
                let belongs = label.instance == event.instance
                    && tgid != event.tgid
                    && top.is_none_or(|top| self.descends(tgid, top) || self.descends(tgid, event.tgid));
                if belongs && !members.contains_key(&tgid) {
                    names.insert(tgid, comm(tgid));
                    members.insert(tgid, self.stop(tgid));
                }
            }
            if members.len() == before {
                break;
            }
        }
        if scope == KillScope::Instance {
            for cgroup in self.cgroups(policy, instance) {
                // Kernels before 5.14 have no cgroup.kill; the processes are also killed one by one below.
                let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            }
        }
        let killed = members.into_iter().filter_map(|(pid, descriptor)| {
            pidfd_send_signal(descriptor?, Signal::KILL).ok()?;
            Some(Ended { pid, name: names.remove(&pid).unwrap_or_default() })
        });
        killed.collect()
    }

    /// Stops a process in scope; `None` if it has ended. The pidfd refers to this process also if its pid is reused.
    fn stop(&self, tgid: u32) -> Option<OwnedFd> {
        let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The label ends with the process: the pidfd was opened for the labelled one.
        if !self.kernel.is_labelled(tgid) {
            return None;
        }
        pidfd_send_signal(&descriptor, Signal::STOP).ok()?;
        Some(descriptor)
    }

    /// The child of Node-RED's main process whose tree acted. Without a Node-RED above, the child of the highest ancestor in
    /// scope; without one, the process itself.
    fn top(&self, record: &Record) -> u32 {
        let mut chain = vec![record.event.tgid];
        chain.extend(record.event.ancestors.iter().map(|ancestor| ancestor.tgid).take_while(|&tgid| tgid > 1));
        while let Some(parent) = self.parent(chain[chain.len() - 1])
            && chain.len() < MAX_HEIGHT
        {
            chain.push(parent);
        }
        let in_scope: Vec<_> = chain[1..].iter().take_while(|&&tgid| self.kernel.is_labelled(tgid)).collect();
        let is_node_red =
            |tgid: u32| scan::process(tgid, &self.host.cgroup_mount).is_some_and(|process| process.is_node_red);
        let main = in_scope.iter().position(|&&tgid| is_node_red(tgid)).or(in_scope.len().checked_sub(1));
        main.map_or(chain[0], |main| chain[main])
    }

    /// The parent of a process; for an orphan, its original parent.
    fn parent(&self, tgid: u32) -> Option<u32> {
        let adopted = || scan::process(tgid, &self.host.cgroup_mount).map(|process| process.parent);
        self.lineage.parent(tgid).or_else(adopted).filter(|&parent| parent > 1)
    }

    fn descends(&self, mut tgid: u32, from: u32) -> bool {
        for _ in 0..MAX_HEIGHT {
            if tgid == from {
                return true;
            }
            let Some(parent) = self.parent(tgid) else { return false };
            tgid = parent;
        }
        false
    }

    /// The cgroups that belong to the instance alone; never one of the guard.
    fn cgroups(&self, policy: &Policy, instance: &str) -> Vec<PathBuf> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let own = self.host.cgroup_mount.join(own);
        let whole = |select: &&Select| !select.exec && select.user.is_none() && select.uid.is_none();
        let selects = policy.instances.iter().filter(|it| it.name == instance).flat_map(|it| &it.select).filter(whole);
        let found = selects.flat_map(|select| self.host.cgroups(select));
        found.map(|(path, _)| path).filter(|path| !own.starts_with(path)).collect()
    }
}

fn comm(tgid: u32) -> String {
    let text = fs::read_to_string(Path::new("/proc").join(tgid.to_string()).join("comm")).unwrap_or_default();
    text.trim_end().to_owned()
}
