//! Finding what already runs when the guard comes: one pass over /proc.

use std::{collections::HashMap, ffi::OsStr, fs, os::unix::fs::MetadataExt as _, path::Path};

use monitor_common::scope::{ArgvMatcher, MAX_CGROUP_DEPTH, Origin, Selector, TaskFacts, TaskLabel, selects};

/// A running process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its tgid.
    pub tgid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Real uid.
    pub uid: u32,
    /// Effective uid.
    pub euid: u32,
    /// Effective capabilities.
    pub caps: u64,
    /// cgroup v2 ids, its own first.
    pub cgroups: [u64; MAX_CGROUP_DEPTH],
    /// Runs node with an argument that names Node-RED, or has taken the title `node-red`.
    pub is_node_red: bool,
    /// A kernel thread.
    pub is_kernel: bool,
}

/// All processes that can be read; one that ends meanwhile is left out.
#[must_use]
pub fn processes(cgroup_mount: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|tgid| process(tgid, cgroup_mount))
        .collect()
}

/// One process.
#[must_use]
pub fn process(tgid: u32, cgroup_mount: &Path) -> Option<Process> {
    let base = Path::new("/proc").join(tgid.to_string());
    let status = fs::read_to_string(base.join("status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let mut uids = field("Uid")?.split_whitespace().map_while(|uid| uid.parse().ok());
    let cmdline = fs::read(base.join("cmdline")).unwrap_or_default();
    let executable = fs::read_link(base.join("exe")).ok();
    let is_node = executable
        .as_deref()
        .and_then(Path::file_name)
        .and_then(OsStr::to_str)
        .is_some_and(|name| matches!(name, "node" | "nodejs"));
    Some(Process {
        tgid,
        parent: field("PPid")?.parse().ok()?,
        uid: uids.next()?,
        euid: uids.next()?,
        caps: u64::from_str_radix(field("CapEff")?, 16).ok()?,
        cgroups: cgroups(&base, cgroup_mount),
        // The title replaces the arguments once Node-RED listens.
        is_node_red: is_node && names_node_red(&cmdline),
        is_kernel: executable.is_none() && cmdline.is_empty(),
    })
}

fn names_node_red(cmdline: &[u8]) -> bool {
    let mut matcher = ArgvMatcher::default();
    // The title has no zero byte at its end.
    cmdline.iter().chain([&0]).for_each(|&byte| matcher.push(byte));
    matcher.found()
}

/// The ids of a process's cgroup and those above, from the `0::` line of /proc/PID/cgroup.
fn cgroups(base: &Path, mount: &Path) -> [u64; MAX_CGROUP_DEPTH] {
    let mut ids = [0; MAX_CGROUP_DEPTH];
    let text = fs::read_to_string(base.join("cgroup")).unwrap_or_default();
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return ids };
    let mut directory = Some(Path::new(path));
    for id in &mut ids {
        let Some(inside) = directory else { break };
        *id = fs::metadata(mount.join(inside)).map_or(0, |meta| meta.ino());
        directory = inside.parent();
    }
    ids
}

/// The marks of what already runs: what a selector names, and everything that descends from it.
#[must_use]
pub fn labels(processes: &[Process], selectors: &[Selector], own: u32) -> HashMap<u32, TaskLabel> {
    let may = |process: &&Process| process.tgid > 1 && process.tgid != own && !process.is_kernel;
    let label = |process: &Process, instance, origin: Origin| TaskLabel {
        instance,
        origin: origin as u8,
        kill: 0,
        euid: process.euid,
        caps: process.caps,
    };
    let mut labels = HashMap::new();
    for process in processes.iter().filter(may) {
        let facts = TaskFacts { uid: process.uid, cgroups: &process.cgroups, is_node_red: process.is_node_red };
        if let Some(selector) = selectors.iter().find(|selector| selects(selector, &facts)) {
            labels.insert(process.tgid, label(process, selector.instance, Origin::Scanned));
        }
    }
    // Children come in as often as a pass still finds some.
    loop {
        let known = labels.len();
        for process in processes.iter().filter(may) {
            if !labels.contains_key(&process.tgid)
                && let Some(instance) = labels.get(&process.parent).map(|parent| parent.instance)
            {
                labels.insert(process.tgid, label(process, instance, Origin::Inherited));
            }
        }
        if labels.len() == known {
            return labels;
        }
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::scope::SELECT_UID;

    use crate::machine::scan::*;

    fn fake(tgid: u32, parent: u32, uid: u32) -> Process {
        Process {
            tgid,
            parent,
            uid,
            euid: uid,
            caps: 0,
            cgroups: [0; MAX_CGROUP_DEPTH],
            is_node_red: false,
            is_kernel: false,
        }
    }

    #[test]
    fn descendants_of_another_uid_are_in_scope_and_strangers_are_not() {
        let selectors = [Selector { uid: 1000, flags: SELECT_UID, ..Selector::default() }];
        // The grandchild stands before its parent.
        let processes = [fake(30, 20, 0), fake(10, 1, 1000), fake(20, 10, 0), fake(40, 1, 0)];
        let mut found: Vec<_> = labels(&processes, &selectors, 99).into_keys().collect();
        found.sort_unstable();
        assert_eq!(found, [10, 20, 30]);
    }

    #[test]
    fn the_guard_and_pid_1_are_never_in_scope() {
        let selectors = [Selector { uid: 0, flags: SELECT_UID, ..Selector::default() }];
        assert!(labels(&[fake(1, 0, 0), fake(77, 1, 0)], &selectors, 77).is_empty());
    }

    #[test]
    fn this_process_is_read_as_it_is() {
        let own = process(std::process::id(), Path::new("/sys/fs/cgroup")).unwrap();
        assert_eq!(own.uid, rustix::process::getuid().as_raw());
        assert!(!own.is_node_red && !own.is_kernel);
    }
}
