//! How much leaves for one address in a span of time, where a rule sets a bound to it.
//!
//! Packets leave in anybody's context, so a socket is noted with its owner when the instance connects it or sends from it,
//! and the program on packets counts what goes out of such sockets.

use crate::shared;

/// Most rules of a policy that set a bound.
pub const MAX_LIMITS: usize = 1_024;

/// Nanoseconds of an hour.
const HOUR_NS: u64 = 3_600 * 1_000_000_000;

/// Finds the bound that a rule sets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// The policy's epoch.
    pub epoch: u32,
    /// Index of the rule.
    pub rule: u32,
}

/// A bound to what leaves for each address that a rule is about.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Most bytes, with the headers of IP and of what it carries.
    pub bytes: u64,
    /// The span of time, in hours.
    pub hours: u32,
    /// What is done beyond: a [`crate::Verdict`] as a number.
    pub beyond: u32,
}

/// Finds what has left for an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VolumeKey {
    /// Network byte order, IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// Slot of the instance.
    pub instance: u16,
    /// The span of time, in hours.
    pub hours: u16,
}

/// What has left for an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// When the span began, `CLOCK_BOOTTIME` in nanoseconds.
    pub since_ns: u64,
    /// Bytes since then.
    pub bytes: u64,
}

impl Volume {
    /// Whether a span of that many hours is over.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(since_ns: u64, now_ns: u64, hours: u16) -> bool {
        now_ns.saturating_sub(since_ns) >= hours as u64 * HOUR_NS
    }
}

/// An exceeded bound that was reported: once in a span.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PassedKey {
    /// Network byte order, IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// When the span began.
    pub since_ns: u64,
    /// Slot of the instance.
    pub instance: u16,
    /// Index of the rule. Another rule or policy is reported again.
    pub rule: u16,
    /// What is done, a [`crate::Verdict`].
    pub verdict: u32,
}

shared!(LimitKey = 8, Limit = 16, VolumeKey = 20, Volume = 16, PassedKey = 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_ends_when_its_hours_are_over_and_a_clock_that_is_read_late_ends_none() {
        let begun = 5 * HOUR_NS;
        for (now, hours, over) in [
            (begun, 1, false),
            (begun + HOUR_NS - 1, 1, false),
            (begun + HOUR_NS, 1, true),
            (begun + HOUR_NS, 24, false),
            (begun + 24 * HOUR_NS, 24, true),
            (begun - 1, 1, false),
        ] {
            assert_eq!(Volume::is_over(begun, now, hours), over, "{now} {hours}");
        }
    }
}
