//! Names for what this process makes, and the end of what a killed one left behind.

use std::{
    path::Path,
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{cgroup, netns, place, user};

const PREFIX: &str = "fwtest-";

/// A name that nothing else on this machine has: it carries the process and a running number.
#[must_use]
pub fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
    format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes everything whose name carries a process that is no more.
pub fn sweep() {
    // The cgroups first: with them go the processes that use the rest.
    cgroup::remove_where(is_orphan);
    netns::remove_where(is_orphan);
    place::remove_where(is_orphan);
    user::remove_where(is_orphan);
}

fn is_orphan(name: &str) -> bool {
    let owner =
        name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
    owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_harness_made_is_an_orphan() {
        assert!(!is_orphan(&name()));
        assert!(!is_orphan("system.slice"));
        assert!(!is_orphan("fwtest-x-1"));
        // Larger than any pid that Linux gives.
        assert!(is_orphan("fwtest-4194305-0"));
    }
}
