//! Parents of processes, also of ended ones: the kernel reparents orphans.

use std::collections::{HashMap, VecDeque};

/// Most processes in the cache. The oldest are evicted.
const MAX_PROCESSES: usize = 8192;

/// Parents by tgid.
#[derive(Debug, Default)]
pub struct Lineage {
    parents: HashMap<u32, u32>,
    order: VecDeque<u32>,
}

impl Lineage {
    /// Adds a new process. A reused tgid belongs to the new process.
    pub fn fork(&mut self, parent: u32, child: u32) {
        if self.parents.insert(child, parent).is_none() {
            self.order.push_back(child);
        }
        while self.order.len() > MAX_PROCESSES {
            if let Some(oldest) = self.order.pop_front() {
                self.parents.remove(&oldest);
            }
        }
    }

    /// The parent of a process.
    #[must_use]
    pub fn parent(&self, child: u32) -> Option<u32> {
        self.parents.get(&child).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered() {
        let mut lineage = Lineage::default();
        for child in 1..=u32::try_from(2 * MAX_PROCESSES).unwrap() {
            lineage.fork(child - 1, child);
        }
        assert_eq!(lineage.parents.len(), MAX_PROCESSES);
        assert_eq!(lineage.parent(1), None);
        assert_eq!(
            lineage.parent(u32::try_from(2 * MAX_PROCESSES).unwrap()),
            u32::try_from(2 * MAX_PROCESSES - 1).ok()
        );
        lineage.fork(7, 9000);
        assert_eq!(lineage.parent(9000), Some(7));
    }
}
