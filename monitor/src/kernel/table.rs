//! The table of system calls: what each one does to which argument.
//!
//! Written by name; the numbers of the running architecture and of its 32-bit callers come from the `syscalls` crate.

use std::str::FromStr as _;

use monitor_common::{
    Access,
    event::Hook,
    syscall::{
        COMPAT_BASE, Handler, NO_ARG, SYSCALL_FLAGS_IN_STRUCT, SYSCALL_GROUPS, SYSCALL_OWNER, SYSCALL_PIDFD,
        SYSCALL_PRIORITY, SYSCALL_REQUEST, SYSCALL_SIGNAL_IN_FLAGS, SYSCALL_TRUNCATES, Syscall,
    },
};

const fn open(flags: u8, traits: u8, dir: u8, arg: u8) -> Syscall {
    Syscall { flags, traits, dir, ..Syscall::on_exit(Handler::Open, Hook::Open, arg) }
}

/// A call that writes through the descriptor in argument `arg`.
const fn write(arg: u8) -> Syscall {
    Syscall { exit: Handler::Descriptor as u8, ..Syscall::on_fd(Handler::Descriptor, Hook::Write, Access::WRITE, arg) }
}

/// A call that changes an attribute through the descriptor in the first argument.
const fn attr_fd(hook: Hook) -> Syscall {
    Syscall::on_fd(Handler::Descriptor, hook, Access::ATTR, 0)
}

const fn path(hook: Hook, access: Access, dir: u8, arg: u8) -> Syscall {
    Syscall::on_path(hook, access, dir, arg)
}

/// A rename replaces what is at the new name, or makes it.
const RENAMED_TO: Access = Access::RENAME.union(Access::CREATE);

/// A call that sends the signal in argument `signal` to the process in argument `arg`.
const fn signal(traits: u8, arg: u8, signal: u8) -> Syscall {
    Syscall { flags: signal, traits, ..Syscall::on_fd(Handler::Process, Hook::Signal, Access::NONE, arg) }
}

/// A call that reaches into the process in argument `arg`.
const fn intrusion(traits: u8, arg: u8) -> Syscall {
    Syscall { traits, ..Syscall::on_fd(Handler::Process, Hook::Ptrace, Access::NONE, arg) }
}

/// A call that makes or enters namespaces; `flags` is the argument that says which.
const fn namespaces(traits: u8, flags: u8) -> Syscall {
    Syscall { flags, traits, ..Syscall::on_fd(Handler::System, Hook::Namespace, Access::NONE, NO_ARG) }
}

/// A call that changes the kernel; `command` is the argument that says how.
const fn kernel(hook: Hook, command: u8) -> Syscall {
    Syscall { flags: command, ..Syscall::on_fd(Handler::System, hook, Access::NONE, NO_ARG) }
}

/// A call that changes what is mounted at a path.
const fn mount(hook: Hook, dir: u8, path: u8) -> Syscall {
    Syscall { dir, ..Syscall::on_fd(Handler::System, hook, Access::NONE, path) }
}

/// All calls of interest. A name that an architecture does not have is left out there.
pub const CALLS: &[(&str, Syscall)] = &[
    // A descriptor comes to be.
    ("open", open(1, 0, NO_ARG, 0)),
    ("openat", open(2, 0, 0, 1)),
    ("openat2", open(2, SYSCALL_FLAGS_IN_STRUCT, 0, 1)),
    ("creat", open(NO_ARG, SYSCALL_TRUNCATES, NO_ARG, 0)),
    ("open_by_handle_at", open(2, 0, NO_ARG, NO_ARG)),
    // Something is done through one.
    ("write", write(0)),
    ("pwrite64", write(0)),
    ("writev", write(0)),
    ("pwritev", write(0)),
    ("pwritev2", write(0)),
    ("sendfile", write(0)),
    ("sendfile64", write(0)),
    ("splice", write(2)),
    ("copy_file_range", write(2)),
    ("ftruncate", Syscall::on_fd(Handler::Descriptor, Hook::Truncate, Access::WRITE, 0)),
    ("ftruncate64", Syscall::on_fd(Handler::Descriptor, Hook::Truncate, Access::WRITE, 0)),
    ("fallocate", Syscall::on_fd(Handler::Descriptor, Hook::Truncate, Access::WRITE, 0)),
    ("fchmod", attr_fd(Hook::Chmod)),
    ("fchown", attr_fd(Hook::Chown)),
    ("fchown32", attr_fd(Hook::Chown)),
    ("io_submit", Syscall::on_fd(Handler::Requests, Hook::Write, Access::WRITE, 2)),
    ("fsetxattr", attr_fd(Hook::Xattr)),
    ("fremovexattr", attr_fd(Hook::Xattr)),
    ("ioctl", Syscall { flags: 1, ..Syscall::on_fd(Handler::Control, Hook::Ioctl, Access::NONE, 0) }),
    ("mmap", Syscall::on_fd(Handler::Mmap, Hook::Mmap, Access::WRITE, 4)),
    ("mmap2", Syscall::on_fd(Handler::Mmap, Hook::Mmap, Access::WRITE, 4)),
    ("close", Syscall::on_fd(Handler::Close, Hook::WriteTotals, Access::NONE, 0)),
    // A path is named.
    ("truncate", path(Hook::Truncate, Access::WRITE, NO_ARG, 0)),
    ("truncate64", path(Hook::Truncate, Access::WRITE, NO_ARG, 0)),
    ("rename", path(Hook::Rename, Access::RENAME, NO_ARG, 0).and_path(RENAMED_TO, NO_ARG, 1)),
    ("renameat", path(Hook::Rename, Access::RENAME, 0, 1).and_path(RENAMED_TO, 2, 3)),
    ("renameat2", path(Hook::Rename, Access::RENAME, 0, 1).and_path(RENAMED_TO, 2, 3)),
    ("unlink", path(Hook::Unlink, Access::DELETE, NO_ARG, 0)),
    ("unlinkat", path(Hook::Unlink, Access::DELETE, 0, 1)),
    ("rmdir", path(Hook::Rmdir, Access::DELETE, NO_ARG, 0)),
    ("mkdir", path(Hook::Mkdir, Access::CREATE, NO_ARG, 0)),
    ("mkdirat", path(Hook::Mkdir, Access::CREATE, 0, 1)),
    ("mknod", path(Hook::Mknod, Access::CREATE, NO_ARG, 0)),
    ("mknodat", path(Hook::Mknod, Access::CREATE, 0, 1)),
    ("link", path(Hook::Link, Access::LINK, NO_ARG, 0).and_path(Access::CREATE, NO_ARG, 1)),
    ("linkat", path(Hook::Link, Access::LINK, 0, 1).and_path(Access::CREATE, 2, 3)),
    ("symlink", path(Hook::Symlink, Access::CREATE, NO_ARG, 1)),
    ("symlinkat", path(Hook::Symlink, Access::CREATE, 1, 2)),
    ("chmod", path(Hook::Chmod, Access::ATTR, NO_ARG, 0)),
    ("fchmodat", path(Hook::Chmod, Access::ATTR, 0, 1)),
    ("fchmodat2", path(Hook::Chmod, Access::ATTR, 0, 1)),
    ("chown", path(Hook::Chown, Access::ATTR, NO_ARG, 0)),
    ("lchown", path(Hook::Chown, Access::ATTR, NO_ARG, 0)),
    ("chown32", path(Hook::Chown, Access::ATTR, NO_ARG, 0)),
    ("lchown32", path(Hook::Chown, Access::ATTR, NO_ARG, 0)),
    ("fchownat", path(Hook::Chown, Access::ATTR, 0, 1)),
    ("utime", path(Hook::Utimes, Access::ATTR, NO_ARG, 0)),
    ("utimes", path(Hook::Utimes, Access::ATTR, NO_ARG, 0)),
    ("futimesat", path(Hook::Utimes, Access::ATTR, 0, 1)),
    ("utimensat", path(Hook::Utimes, Access::ATTR, 0, 1)),
    ("utimensat_time64", path(Hook::Utimes, Access::ATTR, 0, 1)),
    ("setxattr", path(Hook::Xattr, Access::ATTR, NO_ARG, 0)),
    ("lsetxattr", path(Hook::Xattr, Access::ATTR, NO_ARG, 0)),
    ("removexattr", path(Hook::Xattr, Access::ATTR, NO_ARG, 0)),
    ("lremovexattr", path(Hook::Xattr, Access::ATTR, NO_ARG, 0)),
    ("setxattrat", path(Hook::Xattr, Access::ATTR, 0, 1)),
    ("removexattrat", path(Hook::Xattr, Access::ATTR, 0, 1)),
    ("file_setattr", path(Hook::FileAttr, Access::ATTR, 0, 1)),
    // The kernel opens the file by itself, to write to it from then on.
    ("acct", path(Hook::Open, Access::WRITE, NO_ARG, 0)),
    ("swapon", path(Hook::Open, Access::WRITE, NO_ARG, 0)),
    // Sockets. The cgroup programs see what these cannot stop.
    ("connect", Syscall::on_exit(Handler::Connect, Hook::Connect, 0)),
    ("bind", Syscall::on_exit(Handler::Connect, Hook::Bind, 0)),
    ("accept", Syscall::on_exit(Handler::Accept, Hook::Accept, 0)),
    ("accept4", Syscall::on_exit(Handler::Accept, Hook::Accept, 0)),
    ("listen", Syscall::on_exit(Handler::Listen, Hook::Listen, 0)),
    ("socket", Syscall::on_exit(Handler::Socket, Hook::Socket, 0)),
    // Credentials.
    ("setuid", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    ("setreuid", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    ("setresuid", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    ("setfsuid", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    ("setuid32", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    ("setreuid32", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    ("setresuid32", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    ("capset", Syscall::on_exit(Handler::Credentials, Hook::Privilege, 0)),
    // The machine itself. A process gains capabilities in a user namespace that it creates.
    ("unshare", Syscall { exit: Handler::Credentials as u8, ..namespaces(0, 0) }),
    ("setns", namespaces(0, NO_ARG)),
    ("clone", namespaces(SYSCALL_SIGNAL_IN_FLAGS, 0)),
    ("clone3", namespaces(SYSCALL_FLAGS_IN_STRUCT, 0)),
    ("mount", mount(Hook::Mount, NO_ARG, 1)),
    ("move_mount", mount(Hook::Mount, 2, 3)),
    ("pivot_root", mount(Hook::Mount, NO_ARG, 0)),
    ("umount", mount(Hook::Unmount, NO_ARG, 0)),
    ("umount2", mount(Hook::Unmount, NO_ARG, 0)),
    ("bpf", kernel(Hook::Bpf, 0)),
    ("init_module", kernel(Hook::Module, NO_ARG)),
    ("finit_module", kernel(Hook::Module, NO_ARG)),
    ("kexec_load", kernel(Hook::Module, NO_ARG)),
    ("kexec_file_load", kernel(Hook::Module, NO_ARG)),
    // Other processes.
    ("kill", signal(SYSCALL_GROUPS, 0, 1)),
    ("tkill", signal(0, 0, 1)),
    ("tgkill", signal(0, 1, 2)),
    ("rt_sigqueueinfo", signal(0, 0, 1)),
    ("rt_tgsigqueueinfo", signal(0, 1, 2)),
    ("pidfd_send_signal", signal(SYSCALL_PIDFD, 0, 1)),
    ("ptrace", intrusion(SYSCALL_REQUEST, 1)),
    ("process_vm_readv", intrusion(0, 0)),
    ("process_vm_writev", intrusion(0, 0)),
    ("pidfd_getfd", intrusion(SYSCALL_PIDFD, 0)),
    ("fcntl", signal(SYSCALL_OWNER | SYSCALL_GROUPS, 2, 2)),
    ("fcntl64", signal(SYSCALL_OWNER | SYSCALL_GROUPS, 2, 2)),
    ("prlimit64", Syscall { flags: 2, ..intrusion(0, 0) }),
    ("setpriority", intrusion(SYSCALL_PRIORITY, 1)),
    ("sched_setscheduler", intrusion(0, 0)),
    ("sched_setparam", intrusion(0, 0)),
    ("sched_setattr", intrusion(0, 0)),
    ("sched_setaffinity", intrusion(0, 0)),
];

/// Index in the kernel's table, name and description of each call that this machine has.
#[must_use]
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

#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64::Sysno as NativeSysno, arm::Sysno as CompatSysno};
#[cfg(target_arch = "x86_64")]
use syscalls::{x86::Sysno as CompatSysno, x86_64::Sysno as NativeSysno};

fn native(name: &str) -> Option<u32> {
    NativeSysno::from_str(name)
        .ok()
        .and_then(|sysno| u32::try_from(sysno.id()).ok())
        .filter(|&number| number < COMPAT_BASE)
}

fn compat(name: &str) -> Option<u32> {
    CompatSysno::from_str(name)
        .ok()
        .and_then(|sysno| u32::try_from(sysno.id()).ok())
        .filter(|&number| number < COMPAT_BASE)
}

/// The name of a system call as the running architecture numbers it.
#[must_use]
pub fn name(number: u32, is_compat: bool) -> Option<&'static str> {
    if is_compat {
        CompatSysno::new(number as usize).map(|sysno| sysno.name())
    } else {
        NativeSysno::new(number as usize).map(|sysno| sysno.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_running_architecture() {
        assert_eq!(native("openat"), u32::try_from(libc::SYS_openat).ok());
        assert_eq!(name(native("openat").unwrap(), false), Some("openat"));
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
