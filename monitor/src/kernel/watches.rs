//! Which watched path has which slot in the kernel.

use std::path::PathBuf;

use monitor_common::policy::MAX_WATCHES;

/// A watched path as a policy has it: the instance, its node, and the path.
type Wanted = (u16, u32, PathBuf);

/// The slots, each with the instance and the path that it belongs to.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Option<(u16, PathBuf)>>);

fn is_same(held: &(u16, PathBuf), wanted: &Wanted) -> bool {
    (held.0, &held.1) == (wanted.0, &wanted.2)
}

impl Slots {
    /// The slots for another policy. A path that has one keeps it: a call that began under the policy before is compared
    /// by slot.
    pub(super) fn next(&self, wanted: &[Wanted]) -> Self {
        let is_wanted = |held: &&(u16, PathBuf)| wanted.iter().any(|path| is_same(held, path));
        let mut next: Vec<_> =
            (0..MAX_WATCHES).map(|index| self.0.get(index)?.as_ref().filter(is_wanted).cloned()).collect();
        for path in wanted {
            if !next.iter().flatten().any(|held| is_same(held, path))
                && let Some(free) = next.iter_mut().find(|place| place.is_none())
            {
                *free = Some((path.0, path.2.clone()));
            }
        }
        Self(next)
    }

    /// What belongs into a slot.
    pub(super) fn get<'a>(&self, index: usize, wanted: &'a [Wanted]) -> Option<&'a Wanted> {
        let held = self.0.get(index)?.as_ref()?;
        wanted.iter().find(|path| is_same(held, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> Vec<Wanted> {
        names.iter().zip(1..).map(|(name, node)| (0, node, PathBuf::from(name))).collect()
    }

    fn held(slots: &Slots, wanted: &[Wanted]) -> Vec<Option<u32>> {
        (0..4).map(|index| slots.get(index, wanted).map(|&(_, node, _)| node)).collect()
    }

    #[test]
    fn a_path_keeps_its_slot_and_a_new_one_takes_a_free_one() {
        let before = wanted(&["a", "b", "c"]);
        let slots = Slots::default().next(&before);
        assert_eq!(held(&slots, &before), [Some(1), Some(2), Some(3), None]);
        let after = wanted(&["x", "c", "y", "a"]);
        let slots = slots.next(&after);
        assert_eq!(held(&slots, &after), [Some(4), Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn the_same_path_of_another_instance_has_a_slot_of_its_own() {
        let both = [(0, 1, PathBuf::from("a")), (1, 2, PathBuf::from("a"))];
        assert_eq!(held(&Slots::default().next(&both), &both), [Some(1), Some(2), None, None]);
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let many: Vec<_> = (0..=MAX_WATCHES).map(|index| (0, 1, PathBuf::from(index.to_string()))).collect();
        let slots = Slots::default().next(&many);
        assert!(slots.get(MAX_WATCHES - 1, &many).is_some());
        assert!(slots.get(MAX_WATCHES, &many).is_none());
    }
}
