//! What the tracepoint sensor knows about a system call.
//!
//! The numbers differ from one architecture to the next and for 32-bit callers, so userspace fills a table from this
//! description at start, and the kernel programs hold no number at all.

use crate::{Access, event::Hook, shared};

/// Index of the 32-bit half of the table.
pub const COMPAT_BASE: u32 = 1024;
/// Entries in the table.
pub const TABLE_LEN: u32 = 2 * COMPAT_BASE;
/// No such argument.
pub const NO_ARG: u8 = 0xff;

/// Which program handles a system call; the index of a tail call.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    /// Not of interest.
    None = 0,
    /// Exit: a file descriptor came to be.
    Open = 1,
    /// Entry: something is done to a file through a descriptor. Exit: it was written to.
    Descriptor = 2,
    /// Entry and exit: a path is named.
    Path = 3,
    /// Entry: the second path of such a call; reached from [`Handler::PathWalk`].
    SecondPath = 4,
    /// Entry: a mapping is made.
    Mmap = 5,
    /// Entry: a descriptor is closed.
    Close = 6,
    /// Exit: a socket was connected.
    Connect = 7,
    /// Exit: a connection was accepted.
    Accept = 8,
    /// Exit: a socket listens.
    Listen = 9,
    /// Exit: a socket was made.
    Socket = 10,
    /// Exit: credentials may have changed.
    Credentials = 11,
    /// Entry: another process is signalled or traced.
    Process = 12,
    /// The walk along a path as text; reached from [`Handler::Path`] and [`Handler::SecondPath`].
    PathWalk = 13,
    /// The same for an `io_uring` request.
    UringWalk = 14,
    /// Entry: the machine itself is changed: mounts, namespaces, BPF, modules.
    System = 15,
    /// Entry: requests are handed in that write by themselves.
    Requests = 16,
    /// The walk along the name of a script; reached when it is executed.
    ScriptWalk = 17,
    /// Entry: a command is given to a descriptor.
    Control = 18,
}

/// How many handlers there may be at entry; those at exit come after them.
pub const HANDLERS_HALF: u32 = 32;

/// One system call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syscall {
    /// Handler at entry.
    pub enter: u8,
    /// Handler at exit.
    pub exit: u8,
    /// A [`Hook`], what a record calls it.
    pub hook: u8,
    /// [`Access`] to the first path or descriptor.
    pub access: u8,
    /// Argument that holds the first path's directory descriptor.
    pub dir: u8,
    /// Argument that holds the first path, or the descriptor.
    pub arg: u8,
    /// Access to the second path.
    pub access2: u8,
    /// Argument that holds the second path's directory descriptor.
    pub dir2: u8,
    /// Argument that holds the second path.
    pub arg2: u8,
    /// Argument that holds the flags.
    pub flags: u8,
    /// `SYSCALL_*`
    pub traits: u8,
    /// Zero.
    pub pad: u8,
}

/// The first argument is a request, and only some of them begin to trace somebody (`ptrace`).
pub const SYSCALL_REQUEST: u8 = 1;
/// The flags argument points to a structure that begins with 64 bits of flags (`openat2`).
pub const SYSCALL_FLAGS_IN_STRUCT: u8 = 1 << 1;
/// The call has no flags argument and always truncates (`creat`).
pub const SYSCALL_TRUNCATES: u8 = 1 << 2;
/// The process is named by a descriptor (`pidfd_open`).
pub const SYSCALL_PIDFD: u8 = 1 << 3;
/// A number that is not positive names a group of processes, or all (`kill`).
pub const SYSCALL_GROUPS: u8 = 1 << 4;
/// The lowest byte of the flags is a signal (`clone`).
pub const SYSCALL_SIGNAL_IN_FLAGS: u8 = 1 << 5;
/// The first argument says whose priority is meant: one process's, a group's or a user's (`setpriority`).
pub const SYSCALL_PRIORITY: u8 = 1 << 6;
/// The second argument is a command, and only some of them choose who is signalled (`fcntl`).
pub const SYSCALL_OWNER: u8 = 1 << 7;

shared!(Syscall = 12);

impl Syscall {
    /// A system call that is of no interest.
    pub const NONE: Self = Self {
        enter: 0,
        exit: 0,
        hook: 0,
        access: 0,
        dir: NO_ARG,
        arg: NO_ARG,
        access2: 0,
        dir2: NO_ARG,
        arg2: NO_ARG,
        flags: NO_ARG,
        traits: 0,
        pad: 0,
    };

    /// A call handled at entry by descriptor `arg`.
    #[must_use]
    pub const fn on_fd(handler: Handler, hook: Hook, access: Access, arg: u8) -> Self {
        Self { enter: handler as u8, hook: hook as u8, access: access.bits(), arg, ..Self::NONE }
    }

    /// A call handled at exit.
    #[must_use]
    pub const fn on_exit(handler: Handler, hook: Hook, arg: u8) -> Self {
        Self { exit: handler as u8, hook: hook as u8, arg, ..Self::NONE }
    }

    /// A call that names a path, handled at entry and exit.
    #[must_use]
    pub const fn on_path(hook: Hook, access: Access, dir: u8, arg: u8) -> Self {
        Self {
            enter: Handler::Path as u8,
            exit: Handler::Path as u8,
            hook: hook as u8,
            access: access.bits(),
            dir,
            arg,
            ..Self::NONE
        }
    }

    /// The same with a second path.
    #[must_use]
    pub const fn and_path(self, access: Access, dir: u8, arg: u8) -> Self {
        Self { access2: access.bits(), dir2: dir, arg2: arg, ..self }
    }
}
