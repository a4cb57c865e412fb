//! The proc file systems that instances see beside this machine's own.
//!
//! A container has its own, and since Linux 5.8 each mount of it: other files than those of `/proc` here, for the
//! same processes. Only the table of mounts is read: a name in a root directory that somebody else has made may lead into a
//! file system that never answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use monitor_common::scope::TaskLabel;

use super::device;

/// Most processes that are looked at in one turn.
const TURN: usize = 512;
/// Most mount namespaces whose tables are read in one turn.
const NAMESPACES: usize = 256;
/// Most other proc file systems of one instance, so that mounting many fills no kernel map.
const MOST: usize = 64;

/// The numbers of other proc file systems, by the slot of the instance that sees them.
pub type Seen = BTreeMap<u16, BTreeSet<u32>>;

/// In which mount namespaces instances have been seen.
#[derive(Debug, Default)]
pub struct Procs {
    /// One process of each, by the instance's slot and the namespace.
    members: BTreeMap<(u16, PathBuf), u32>,
    /// Where the next turn begins.
    next: u32,
}

impl Procs {
    /// Looks where the processes of the instances in these slots are, and what is mounted there.
    pub fn look(&mut self, slots: &BTreeSet<u16>, labels: impl FnOnce() -> Vec<(u32, TaskLabel)>) -> Seen {
        if slots.is_empty() {
            self.members.clear();
            return Seen::new();
        }
        let mut labels = labels();
        labels.retain(|(_, label)| slots.contains(&label.instance));
        labels.sort_unstable_by_key(|&(tgid, _)| tgid);
        let from = labels.partition_point(|&(tgid, _)| tgid < self.next);
        labels.rotate_left(from);
        labels.truncate(TURN);
        self.next = labels.last().map_or(0, |&(tgid, _)| tgid.saturating_add(1));
        let found = labels.into_iter().filter_map(|(tgid, label)| Some(((label.instance, namespace(tgid)?), tgid)));
        self.members.extend(found);
        self.members.retain(|(slot, known), tgid| slots.contains(slot) && namespace(*tgid).as_ref() == Some(known));
        let (mut seen, own) = (Seen::new(), mounts("self"));
        for (&(slot, _), &tgid) in self.members.iter().take(NAMESPACES) {
            for other in others(&mounts(&tgid.to_string()), &own) {
                let known: &mut BTreeSet<_> = seen.entry(slot).or_default();
                if known.len() < MOST {
                    known.insert(other);
                }
            }
        }
        seen
    }
}

fn namespace(tgid: u32) -> Option<PathBuf> {
    fs::read_link(Path::new("/proc").join(tgid.to_string()).join("ns/mnt")).ok()
}

fn mounts(process: &str) -> String {
    fs::read_to_string(Path::new("/proc").join(process).join("mountinfo")).unwrap_or_default()
}

/// The numbers of the proc file systems in a table of mounts, without the one at `/proc` in this machine's.
fn others(mounts: &str, own: &str) -> BTreeSet<u32> {
    let here = device::mounted(own, "proc").filter(|(point, _)| *point == "/proc").last();
    let all = device::mounted(mounts, "proc").map(|(_, number)| number);
    all.filter(|&number| Some(number) != here.map(|(_, here)| here)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n23 22 0:22 / /proc rw shared:5 - proc proc rw\n";

    #[test]
    fn a_container_has_a_proc_of_its_own_and_parts_of_it_are_the_same() {
        let container = "99 72 0:40 / / rw - overlay overlay rw\n101 99 0:47 / /proc rw - proc proc rw\n\
                         102 101 0:47 /sys /proc/sys ro - proc proc rw\n103 99 0:48 / /proc/acpi ro - tmpfs tmpfs rw\n";
        assert_eq!(others(container, HOST), BTreeSet::from([47]));
        assert_eq!(others(HOST, HOST), BTreeSet::new());
        let more = format!("{HOST}24 22 0:51 / /srv/chroot/proc rw - proc proc rw\n");
        assert_eq!(others(&more, HOST), BTreeSet::from([51]), "one that is mounted elsewhere, in the same namespace");
        assert_eq!(others(&more, &more), BTreeSet::from([51]));
    }

    #[test]
    fn this_process_is_looked_at_as_any_other() {
        let label = |instance| TaskLabel { instance, ..TaskLabel::default() };
        let mut procs = Procs::default();
        let own = std::process::id();
        let slots = BTreeSet::from([3, 4]);
        procs.look(&slots, || vec![(own, label(3)), (u32::MAX, label(4))]);
        assert_eq!(procs.members.keys().map(|(slot, _)| *slot).collect::<Vec<_>>(), [3], "who has ended is not");
        assert_eq!(procs.look(&slots, Vec::new), procs.look(&slots, || vec![(own, label(3))]));
        procs.look(&BTreeSet::from([4]), || vec![(own, label(3))]);
        assert!(procs.members.is_empty(), "no rule of its instance is about /proc");
        assert_eq!(procs.look(&BTreeSet::new(), || unreachable!("no rule is about /proc")), Seen::new());
    }
}
