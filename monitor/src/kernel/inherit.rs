//! What the programs of an earlier run have learnt, for those of this one: which names gave an address, which sockets send,
//! and how much has left.

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapError},
};
use monitor_common::{
    dns::{Bound, BoundKey, Noted, QueryKey},
    inbound::Owner,
    volume::{PassedKey, Volume, VolumeKey},
};

use super::{error::KernelError, maps::open, pin::Generation};

/// The maps with it.
pub(super) const MAPS: [&str; 6] = ["BOUND", "PASSED", "QUERIES", "SENDERS", "SOCKETS", "VOLUMES"];

/// Carries it over: before the new programs judge, so that they know, and once more when they do, for what the older ones
/// have learnt in between.
///
/// Fails when it was left by a version that kept it otherwise, or not at all.
pub(super) fn carry(ebpf: &mut Ebpf, earlier: &Generation) -> Result<(), KernelError> {
    // Sockets and questions come first: from then on both kinds of programs learn from their answers.
    each::<u64, Noted>(ebpf, earlier, "SOCKETS", newer)?;
    each::<QueryKey, u64>(ebpf, earlier, "QUERIES", newer)?;
    each::<BoundKey, Bound>(ebpf, earlier, "BOUND", |old, new| Some(named(old, new.copied().unwrap_or_default())))?;
    each::<u64, Owner>(ebpf, earlier, "SENDERS", newer)?;
    each::<VolumeKey, Volume>(ebpf, earlier, "VOLUMES", more)?;
    each::<PassedKey, u32>(ebpf, earlier, "PASSED", newer)
}

/// Goes through the entries of an earlier map. `merge` makes of its value, and of the new one where there is one, what is
/// to be put in that one's place.
fn each<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    earlier: &Generation,
    name: &'static str,
    merge: impl Fn(V, Option<&V>) -> Option<V>,
) -> Result<(), KernelError> {
    let failed = |source| KernelError::Map { name, source };
    let old: HashMap<_, K, V> = earlier.map(name).and_then(HashMap::try_from).map_err(failed)?;
    let mut new: HashMap<_, K, V> = open(ebpf, name)?;
    // An entry that has just gone has made room for another.
    for (key, value) in old.iter().flatten() {
        let known = match new.get(&key, 0) {
            Ok(known) => Some(known),
            Err(MapError::KeyNotFound) => None,
            Err(error) => return Err(failed(error)),
        };
        if let Some(value) = merge(value, known.as_ref()) {
            new.insert(key, value, 0).map_err(failed)?;
        }
    }
    Ok(())
}

/// What the new programs know stands.
fn newer<V>(old: V, new: Option<&V>) -> Option<V> {
    new.is_none().then_some(old)
}

/// The counter with the earlier start includes the other.
fn more(old: Volume, new: Option<&Volume>) -> Option<Volume> {
    let knows_all = |new: &Volume| old.since_ns <= new.since_ns && old.bytes > new.bytes;
    new.is_none_or(knows_all).then_some(old)
}

/// The names of both, each for as long as one of them says.
fn named(old: Bound, mut new: Bound) -> Bound {
    for named in old.names.into_iter().filter(|named| named.name != 0) {
        if !new.names.iter().any(|known| known.name == named.name && known.until >= named.until) {
            new.add(named.name, named.until);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use monitor_common::dns::Named;

    use super::*;

    #[test]
    fn the_longer_count_stands_and_one_that_has_begun_anew_is_left_alone() {
        let volume = |since_ns, bytes| Volume { since_ns, bytes };
        assert_eq!(more(volume(5, 100), None), Some(volume(5, 100)));
        assert_eq!(more(volume(5, 100), Some(&volume(5, 60))), Some(volume(5, 100)));
        assert_eq!(more(volume(5, 100), Some(&volume(8, 60))), Some(volume(5, 100)), "both count the same packets");
        assert_eq!(more(volume(5, 60), Some(&volume(5, 100))), None);
        assert_eq!(more(volume(9, 100), Some(&volume(8, 60))), None, "a span of its own");
        assert_eq!((newer(1, None), newer(1, Some(&2))), (Some(1), None));
    }

    #[test]
    fn a_name_counts_for_as_long_as_either_says() {
        let bound = |names: &[(u64, u64)]| {
            let mut bound = Bound::default();
            for &(name, until) in names {
                bound.add(name, until);
            }
            bound
        };
        let names = |bound: Bound| {
            let mut names: Vec<_> = bound.names.map(|Named { name, until }| (name, until)).into();
            names.retain(|&(name, _)| name != 0);
            names.sort_unstable();
            names
        };
        let merged = |old: &[(u64, u64)], new: &[(u64, u64)]| names(named(bound(old), bound(new)));
        assert_eq!(merged(&[(1, 10), (2, 20)], &[]), [(1, 10), (2, 20)]);
        assert_eq!(merged(&[(1, 10), (2, 20)], &[(1, 15), (2, 15), (3, 5)]), [(1, 15), (2, 20), (3, 5)]);
    }
}
