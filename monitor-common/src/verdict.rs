//! What is done with an access, and what a sensor is able to do.

/// The outcome of a decision, ordered from the mildest to the strictest.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// No rule spoke.
    #[default]
    Unset = 0,
    /// Let it happen, leave no record.
    Allow = 1,
    /// Let it happen, leave a record.
    Log = 2,
    /// The operation fails with `EPERM` (`EACCES` for an exec).
    Deny = 3,
    /// The process gets SIGKILL before it returns to user mode.
    Kill = 4,
}

impl Verdict {
    /// The verdict with this number, [`Verdict::Unset`] for a number that is none.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Allow,
            2 => Self::Log,
            3 => Self::Deny,
            4 => Self::Kill,
            _ => Self::Unset,
        }
    }

    /// The name that policies and journals use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Allow => "allow",
            Self::Log => "log",
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }

    /// The verdict with this name in a policy; `unset` is not one.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Allow, Self::Log, Self::Deny, Self::Kill].into_iter().find(|verdict| verdict.name() == name)
    }
}

/// What produced a record and carried out the verdict.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sensor {
    /// Raw tracepoints on system calls and the scheduler: log and kill.
    Tracepoint = 1,
    /// cgroup programs on sockets: log and deny.
    Cgroup = 2,
    /// BPF LSM programs.
    Lsm = 3,
    /// fentry programs on the security hooks.
    Fentry = 4,
    /// kprobes on the security hooks.
    Kprobe = 5,
}

impl Sensor {
    /// The sensor with this number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Tracepoint,
            2 => Self::Cgroup,
            3 => Self::Lsm,
            4 => Self::Fentry,
            5 => Self::Kprobe,
            _ => return None,
        })
    }

    /// The name that journals use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Cgroup => "cgroup",
            Self::Lsm => "lsm",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }

    /// Whether a hook of this sensor can make the operation fail.
    #[inline(always)]
    #[must_use]
    pub const fn can_deny(self) -> bool {
        matches!(self, Self::Cgroup | Self::Lsm)
    }

    /// What is done where the policy wants `wanted`.
    ///
    /// An instance that only observes never gets more than a record; a sensor that cannot deny does what
    /// the rule's `fallback` says, and logs when the rule says nothing.
    #[inline(always)]
    #[must_use]
    pub fn apply(self, wanted: Verdict, fallback: Verdict, enforce: bool) -> Verdict {
        if wanted <= Verdict::Log {
            return wanted;
        }
        if !enforce {
            return Verdict::Log;
        }
        if matches!(wanted, Verdict::Deny) && !self.can_deny() {
            return if matches!(fallback, Verdict::Kill) { Verdict::Kill } else { Verdict::Log };
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observing_never_does_more_than_log() {
        for wanted in [Verdict::Deny, Verdict::Kill] {
            assert_eq!(Sensor::Cgroup.apply(wanted, Verdict::Kill, false), Verdict::Log);
        }
    }

    #[test]
    fn a_sensor_that_cannot_deny_takes_the_fallback() {
        assert_eq!(Sensor::Tracepoint.apply(Verdict::Deny, Verdict::Kill, true), Verdict::Kill);
        assert_eq!(Sensor::Tracepoint.apply(Verdict::Deny, Verdict::Unset, true), Verdict::Log);
        assert_eq!(Sensor::Cgroup.apply(Verdict::Deny, Verdict::Kill, true), Verdict::Deny);
    }
}
