//! The table of system calls: what each one does to which argument.
//!
//! Written by name; the numbers of the running architecture and of its 32-bit callers come from the `syscalls` crate.

use std::str::FromStr as _;

use monitor_common::{
    Access,
    event::Hook,
    syscall::{COMPAT_BASE, Handler, NO_ARG, SYSCALL_FLAGS_IN_STRUCT, SYSCALL_TRUNCATES, Syscall},
};

const fn open(flags: u8, traits: u8, dir: u8, arg: u8) -> Syscall {
    Syscall { flags, traits, dir, ..Syscall::on_exit(Handler::Open, Hook::Open, arg) }
}

/// All calls of interest. A name that an architecture does not have is left out there.
pub const CALLS: &[(&str, Syscall)] = &[
    ("open", open(1, 0, NO_ARG, 0)),
    ("openat", open(2, 0, 0, 1)),
    ("openat2", open(2, SYSCALL_FLAGS_IN_STRUCT, 0, 1)),
    ("creat", open(NO_ARG, SYSCALL_TRUNCATES, NO_ARG, 0)),
    ("open_by_handle_at", open(2, 0, NO_ARG, NO_ARG)),
];

/// Index in the kernel's table, name and description of each call that this machine has.
pub fn entries() -> Vec<(u32, &'static str, Syscall)> {
    let mut entries = Vec::new();
    for &(name, syscall) in CALLS {
        if let Some(number) = native(name) {
            entries.push((number, name, syscall));
        }
        if let Some(number) = compat(name) {
            entries.push((COMPAT_BASE + number, name, syscall));
        }
    }
    entries.retain(|&(index, _, _)| index < 2 * COMPAT_BASE);
    entries
}

#[cfg(target_arch = "x86_64")]
use syscalls::{x86::Sysno as CompatSysno, x86_64::Sysno as NativeSysno};
#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64::Sysno as NativeSysno, arm::Sysno as CompatSysno};

fn native(name: &str) -> Option<u32> {
    NativeSysno::from_str(name).ok().and_then(|sysno| u32::try_from(sysno.id()).ok()).filter(|&number| number < COMPAT_BASE)
}

fn compat(name: &str) -> Option<u32> {
    CompatSysno::from_str(name).ok().and_then(|sysno| u32::try_from(sysno.id()).ok()).filter(|&number| number < COMPAT_BASE)
}

/// The name of a system call as the running architecture numbers it.
#[must_use]
pub fn name(number: u32, is_compat: bool) -> Option<&'static str> {
    if is_compat { CompatSysno::new(number as usize).map(|sysno| sysno.name()) } else { NativeSysno::new(number as usize).map(|sysno| sysno.name()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_running_architecture() {
        assert_eq!(native("openat"), u32::try_from(libc::SYS_openat).ok());
        assert_eq!(name(libc::SYS_openat as u32, false), Some("openat"));
    }

    #[test]
    fn every_call_is_known_somewhere_and_none_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, _) in CALLS {
            assert!(native(name).is_some() || compat(name).is_some(), "{name}");
            assert!(seen.insert(name), "{name}");
        }
    }
}
