//! Capabilities of this process, checked before the start, so that an error names its fix.

use std::{error::Error, io, iter};

use aya::{EbpfError, maps::MapError, util::KernelVersion};
use rustix::thread::{CapabilitySet, capabilities};

/// What loads programs, lets them look at tasks, and lets them look at traffic (include/linux/capability.h, since 5.8).
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
];

/// What stands behind a kprobe that was refused though root has the capabilities.
pub(super) const PROBES: &str = "; where `kernel.perf_event_paranoid` is 3, as on Debian, kprobes ask for CAP_SYS_ADMIN, see docs/how-to/service.md";

/// What makes the kernel refuse.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RightsError {
    /// Capabilities that root has lost on the way here.
    #[error(
        "root lacks {} here: give it to the guard (`CapabilityBoundingSet=` of a unit, `--cap-add` of a container), or start \
         it outside of the container",
        .0.join(", ")
    )]
    Capabilities(Vec<&'static str>),
    /// `RLIMIT_MEMLOCK`, which maps count for before 5.11.
    #[error(
        "this kernel counts maps as locked memory, and there is not enough of it for {map}: raise the limit \
         (`LimitMEMLOCK=infinity` of a unit, `ulimit -l unlimited` in a shell)"
    )]
    LockedMemory {
        /// The map that was refused.
        map: String,
    },
    /// Nothing that the process could see.
    #[error(
        "the kernel refuses map {map}, though root has the capabilities: a seccomp filter or a security module forbids \
         bpf(2); start the guard outside of the container"
    )]
    Filtered {
        /// The map that was refused.
        map: String,
    },
}

/// Fails when this process lacks a capability without which no guard runs.
pub(super) fn check() -> Result<(), RightsError> {
    // A kernel that does not say what a process may still says no to it.
    let lacking = capabilities(None).map_or_else(|_| Vec::new(), |sets| lacking(sets.effective));
    if lacking.is_empty() { Ok(()) } else { Err(RightsError::Capabilities(lacking)) }
}

/// `CAP_SYS_ADMIN` stands for all of them.
fn lacking(has: CapabilitySet) -> Vec<&'static str> {
    if has.contains(CapabilitySet::SYS_ADMIN) {
        return Vec::new();
    }
    NEEDED.iter().filter(|(one, _)| !has.contains(*one)).map(|&(_, name)| name).collect()
}

/// What stands behind a map that was refused, when rights do.
pub(super) fn behind(error: &EbpfError) -> Option<RightsError> {
    let EbpfError::MapError(MapError::CreateError { name, io_error }) = error else { return None };
    let refused = io_error.kind() == io::ErrorKind::PermissionDenied;
    let counted = KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 11, 0));
    refused.then(|| refusal(name.clone(), counted))
}

/// Whether an error comes of rights that are lacking.
pub(super) fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

/// Capabilities were looked at before.
fn refusal(map: String, counted: bool) -> RightsError {
    if counted { RightsError::LockedMemory { map } } else { RightsError::Filtered { map } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named_and_sys_admin_stands_for_it() {
        assert_eq!(lacking(CapabilitySet::empty()), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(lacking(CapabilitySet::BPF | CapabilitySet::NET_ADMIN), ["CAP_PERFMON"]);
        assert_eq!(lacking(CapabilitySet::SYS_ADMIN), [""; 0]);
        assert_eq!(lacking(CapabilitySet::all()), [""; 0]);
    }

    #[test]
    fn only_a_refused_map_is_about_rights() {
        let map = |code| {
            EbpfError::MapError(MapError::CreateError {
                name: "TASKS".to_owned(),
                io_error: io::Error::from_raw_os_error(code),
            })
        };
        assert!(behind(&map(libc::EPERM)).is_some_and(|why| why.to_string().contains("TASKS")));
        assert_eq!(behind(&map(libc::ENOMEM)), None);
        assert_eq!(behind(&EbpfError::NoBTF), None);
        assert!(is_refusal(&map(libc::EACCES)) && !is_refusal(&map(libc::ENOMEM)) && !is_refusal(&EbpfError::NoBTF));
    }
}
