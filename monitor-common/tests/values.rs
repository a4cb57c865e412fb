//! Numbers, names and sets that the kernel programs, records and policies share.

use std::collections::BTreeSet;

use monitor_common::{
    Access, Verdict,
    event::{
        FLAG_AFTER, FLAG_BY_NAME, FLAG_COMPAT, FLAG_CONFIRMED, FLAG_CREATED, FLAG_CUT, FLAG_DAMAGED, FLAG_FAILED,
        FLAG_FS_PATH, FLAG_IO_URING, FLAG_MAINTENANCE, FLAG_OBSERVED, FLAG_TEXT_PATH, FLAG_UNLINKED, Hook,
    },
    name::{NAME_LEN, Name},
    policy::{Class, Executable, MAX_INSTANCES, Maintenance, Rule},
    scope::Origin,
    security::SecurityHook,
    verdict::Sensor,
};

#[test]
fn each_access_is_a_bit_of_its_own_with_a_name() {
    let bits = Access::NAMES.map(|(_, access)| access.bits());
    assert_eq!(bits, [1, 2, 4, 8, 16, 32, 64, 128]);
    for (name, access) in Access::NAMES {
        assert_eq!(Access::by_name(name), Some(access));
        assert_eq!(access.names().collect::<Vec<_>>(), [name]);
        assert!(!access.is_empty() && Access::ALL.contains(access) && !Access::NONE.contains(access));
    }
    assert!(Access::by_name("Read").is_none() && Access::by_name("").is_none());
    assert!(Access::NONE.is_empty() && Access::NONE.names().next().is_none());
}

#[test]
fn sets_of_accesses_are_sets() {
    for a in 0..=u8::MAX {
        for b in 0..=u8::MAX {
            let [x, y] = [a, b].map(Access::from_bits);
            assert_eq!(x.union(y).bits(), a | b);
            assert_eq!(x.contains(y), a & b == b);
        }
    }
}

#[test]
fn verdicts_and_sensors_have_one_number_and_one_name_each() {
    let verdicts = [Verdict::Unset, Verdict::Allow, Verdict::Log, Verdict::Deny, Verdict::Kill];
    for (number, verdict) in (0..).zip(verdicts) {
        assert_eq!((Verdict::from_raw(number), verdict as u8), (verdict, number));
        assert_eq!(Verdict::by_name(verdict.name()), Some(verdict).filter(|_| number != 0));
    }
    assert_eq!(verdicts.map(Verdict::name), ["unset", "allow", "log", "deny", "kill"]);
    assert!([5, 77, 255].into_iter().all(|raw| Verdict::from_raw(raw) == Verdict::Unset));
    let sensors = [Sensor::Tracepoint, Sensor::Cgroup, Sensor::Lsm, Sensor::Fentry, Sensor::Kprobe];
    assert_eq!(sensors.map(Sensor::name), ["tracepoint", "cgroup", "lsm", "fentry", "kprobe"]);
    assert_eq!([1, 2, 3, 4, 5].map(Sensor::from_raw), sensors.map(Some));
    assert!([0, 6, 255].into_iter().all(|raw| Sensor::from_raw(raw).is_none()));
    assert_eq!(sensors.map(Sensor::can_deny), [false, true, true, false, false]);
}

/// Every sensor, for every verdict that a policy may want.
#[test]
fn what_is_done_is_what_is_wanted_as_far_as_the_sensor_can() {
    let verdicts = [Verdict::Unset, Verdict::Allow, Verdict::Log, Verdict::Deny, Verdict::Kill];
    for sensor in [Sensor::Tracepoint, Sensor::Cgroup, Sensor::Lsm, Sensor::Fentry, Sensor::Kprobe] {
        for wanted in verdicts {
            for fallback in verdicts {
                let observed = if wanted > Verdict::Log { Verdict::Log } else { wanted };
                assert_eq!(sensor.apply(wanted, fallback, false), observed);
                let done = match wanted {
                    Verdict::Deny if !sensor.can_deny() && fallback == Verdict::Kill => Verdict::Kill,
                    Verdict::Deny if !sensor.can_deny() => Verdict::Log,
                    wanted => wanted,
                };
                assert_eq!(sensor.apply(wanted, fallback, true), done, "{sensor:?} {wanted:?} {fallback:?}");
            }
        }
    }
}

#[test]
fn a_name_takes_what_fits_and_says_what_does_not() {
    assert!(Name::new(b"").is_none() && Name::new(&[b'x'; NAME_LEN]).is_none());
    let long = Name::new(&[b'x'; NAME_LEN - 1]).unwrap_or_default();
    assert!(long.len() as usize == NAME_LEN - 1 && !long.is_truncated());
    let mut name = Name::new(b"ab").unwrap_or_default();
    assert!(!name.is_empty() && (name.len(), name.at(0), name.at(1), name.at(2)) == (2, b'a', b'b', 0));
    assert_eq!(name.at(u32::try_from(NAME_LEN).unwrap_or_default()), b'a', "an index wraps");
    assert_eq!((name.bytes().len(), &name.bytes()[..3]), (NAME_LEN, &b"ab\0"[..]));
    name.bytes_mut()[2] = b'c';
    name.set_len(3);
    assert_eq!(Some(name), Name::new(b"abc"));
    name.clear();
    assert!(name.is_empty() && name == Name::EMPTY && name == Name::default());
    // Beyond its room it counts on, and the last byte stays free.
    for count in 1..=NAME_LEN + 2 {
        name.push(b'z');
        assert_eq!((name.len() as usize, name.is_truncated()), (count, count >= NAME_LEN));
    }
    assert_eq!((name.bytes()[NAME_LEN - 2], name.bytes()[NAME_LEN - 1]), (b'z', 0));
}

#[test]
fn a_rule_keeps_its_fallback_and_its_maintenance_apart() {
    for fallback in [Verdict::Unset, Verdict::Log, Verdict::Kill] {
        for maintenance in 0..=3 {
            let rule = Rule { id: 7, verdict: Verdict::Deny as u8, fallback: fallback as u8 };
            // A second time takes the place of the first.
            for rule in [rule.lifted_by(maintenance), rule.lifted_by(3).lifted_by(maintenance)] {
                assert_eq!((rule.fallback_verdict(), rule.maintenance()), (fallback as u8, maintenance));
                assert_eq!((rule.id, rule.verdict, rule.is_set()), (7, Verdict::Deny as u8, true));
            }
        }
    }
    assert!(!Rule::NONE.is_set());
}

#[test]
fn each_window_has_a_place_of_its_own() {
    let slots = u16::try_from(MAX_INSTANCES).unwrap_or_default();
    let mut places = BTreeSet::new();
    for slot in 0..slots {
        for (name, maintenance) in Maintenance::NAMES {
            assert_eq!((Maintenance::by_name(name), maintenance.name()), (Some(maintenance), name));
            let place = Maintenance::place(slot, maintenance as u8);
            assert!(places.insert(place) && place as usize / Maintenance::PLACES == usize::from(slot));
            assert_ne!(place, Maintenance::place(slot, 0), "the place that is never open");
        }
    }
    // The verifier wants to see that no number leads out of the array.
    assert_eq!(Maintenance::place(slots, 0), Maintenance::place(0, 0));
    assert_eq!(Maintenance::place(1, 5), Maintenance::place(1, 1));
    assert!(Maintenance::by_name("none").is_none());
}

#[test]
fn hooks_have_names_numbers_and_classes() {
    let mut numbers = BTreeSet::new();
    for (name, hook) in Hook::NAMES {
        assert_eq!((Hook::from_raw(hook as u8), hook.name()), (Some(hook), name));
        assert!(numbers.insert(hook as u8), "{name}");
    }
    assert!(Hook::from_raw(0).is_none() && Hook::from_raw(u8::MAX).is_none());
    let packet = (17 << 32) | (3 << 16);
    for (hook, detail, class) in [
        (Hook::Open, 0, Some(Class::Files)),
        (Hook::UnixConnect, 0, Some(Class::Files)),
        (Hook::Connect, 0, Some(Class::Egress)),
        (Hook::Send, 0, Some(Class::Egress)),
        (Hook::Volume, 0, Some(Class::Egress)),
        (Hook::Bind, 0, Some(Class::Ingress)),
        (Hook::Listen, 0, Some(Class::Ingress)),
        (Hook::Accept, 0, Some(Class::Ingress)),
        (Hook::Socket, packet, Some(Class::RawSocket)),
        (Hook::Socket, (2 << 32) | (3 << 16) | 1, Some(Class::RawSocket)),
        (Hook::Socket, (2 << 32) | (1 << 16) | 6, None),
        (Hook::Exec, 0, Some(Class::Exec)),
        (Hook::Exec, Executable::Unnamed as u64, Some(Class::ExecUnnamed)),
        (Hook::Exec, Executable::Writable as u64, Some(Class::ExecWritable)),
        (Hook::Exec, 99, Some(Class::Exec)),
        (Hook::Privilege, 0, Some(Class::Privilege)),
        (Hook::Ptrace, 0, Some(Class::Ptrace)),
        (Hook::Signal, 0, Some(Class::Signal)),
        (Hook::Mount, 0, Some(Class::Mount)),
        (Hook::Unmount, 0, Some(Class::Mount)),
        (Hook::Namespace, 0, Some(Class::Namespace)),
        (Hook::Bpf, 0, Some(Class::Kernel)),
        (Hook::Module, 0, Some(Class::Kernel)),
        (Hook::UringCommand, 0, Some(Class::Kernel)),
        (Hook::Exit, 0, None),
        (Hook::Fork, 0, None),
        (Hook::Dns, 0, None),
    ] {
        assert_eq!(hook.class(detail), class, "{}, {detail}", hook.name());
    }
}

#[test]
fn each_flag_of_a_record_is_a_bit_of_its_own() {
    let flags = [
        FLAG_CUT,
        FLAG_BY_NAME,
        FLAG_CONFIRMED,
        FLAG_FAILED,
        FLAG_DAMAGED,
        FLAG_AFTER,
        FLAG_COMPAT,
        FLAG_UNLINKED,
        FLAG_CREATED,
        FLAG_IO_URING,
        FLAG_OBSERVED,
        FLAG_FS_PATH,
        FLAG_TEXT_PATH,
        FLAG_MAINTENANCE,
    ];
    assert!(flags.iter().all(|flag| flag.is_power_of_two()), "{flags:?}");
    assert_eq!(flags.iter().collect::<BTreeSet<_>>().len(), flags.len());
}

#[test]
fn numbers_of_records_are_read_as_names() {
    assert_eq!([1, 2, 3].map(Origin::name), ["selected", "inherited", "scanned"]);
    assert_eq!([0, 4].map(Origin::name), ["unknown"; 2]);
    for &(name, hook) in SecurityHook::NAMES {
        assert_eq!(hook.name(), name);
    }
}
