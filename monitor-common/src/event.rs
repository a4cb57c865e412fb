//! The record that a kernel program hands to userspace through the ring buffer.
//!
//! A record is an [`Event`] followed by `path_len` bytes of path and `text_len` bytes of text. The path is a list of
//! names, each ended by a zero byte, from the file up to the root; the text depends on the hook (arguments, a path as
//! the program gave it).

use crate::{
    Access, Verdict,
    decide::{Decision, Work},
    policy::{Class, Executable, InodeId, MAX_WATCHES},
    shared, socket,
};

/// How many ancestors of a process a record names.
pub const ANCESTORS: usize = 6;
/// Length of a command name, `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;
/// Most bytes of path in a record.
pub const PATH_MAX: usize = 2048;
/// Most bytes of text in a record.
pub const TEXT_MAX: usize = 1024;

/// The operation that a record is about.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// A file was opened.
    Open = 1,
    /// The first write through an open file.
    Write = 2,
    /// An open file that was written to is closed; `bytes` and `count` are its totals.
    WriteTotals = 3,
    /// A file was cut or extended.
    Truncate = 4,
    /// A file was mapped shared and writable.
    Mmap = 5,
    /// A name was moved; the text is the other name.
    Rename = 6,
    /// A name of a file was removed.
    Unlink = 7,
    /// A directory was removed.
    Rmdir = 8,
    /// A directory was made.
    Mkdir = 9,
    /// A device, FIFO or socket was made.
    Mknod = 10,
    /// A hard link was made.
    Link = 11,
    /// A symbolic link was made; the text is its target.
    Symlink = 12,
    /// The mode was changed.
    Chmod = 13,
    /// The owner was changed.
    Chown = 14,
    /// The times were changed.
    Utimes = 15,
    /// An extended attribute was changed.
    Xattr = 16,
    /// A request was handed to an `io_uring`; `detail` is the opcode.
    IoUring = 17,
    /// A connection was asked for.
    Connect = 18,
    /// A datagram was sent to an address.
    Send = 19,
    /// A socket was bound to an address.
    Bind = 20,
    /// A socket began to listen.
    Listen = 21,
    /// A connection was accepted; the address is the peer's.
    Accept = 22,
    /// A socket was made; `detail` is family << 32 | type << 16 | protocol.
    Socket = 23,
    /// A UNIX socket was connected to.
    UnixConnect = 24,
    /// A program was executed; the text is its arguments, `detail` the [`Executable`] whose class decided.
    Exec = 25,
    /// A process ended.
    Exit = 26,
    /// A process was made; `detail` is the child's tgid.
    Fork = 27,
    /// uid, gid or capabilities changed; `detail` is the new effective capabilities.
    Privilege = 28,
    /// Another process was traced or its memory accessed; `detail` is its pid.
    Ptrace = 29,
    /// A signal was sent to a process outside the instance; `detail` is its pid, that of a group as a negative number,
    /// or -1 for every process.
    Signal = 30,
    /// The first read through a file that was opened before the guard came, or by somebody else.
    Read = 31,
    /// A descriptor was taken from another process.
    Receive = 32,
    /// Something was mounted; the path is where. `detail` is 1 for what was moved there, 2 for a new root.
    Mount = 33,
    /// Something was unmounted.
    Unmount = 34,
    /// A namespace was made or entered; `detail` is the `CLONE_NEW*` flags, 0 when they are not known.
    Namespace = 35,
    /// The `bpf` system call; `detail` is the command.
    Bpf = 36,
    /// A kernel module was loaded; the text is its name where one was asked for by name.
    Module = 37,
    /// A command was handed to a driver by `io_uring`.
    UringCommand = 38,
    /// A question to a resolver, or the answer; the text is the message, the address the resolver's. `detail` is 1 for an
    /// answer. It is reported to userspace and not journaled as such.
    Dns = 39,
    /// More has left for an address than a rule lets out: `bytes` in the `count` hours since the first of them, `detail` is
    /// the bound.
    Volume = 40,
    /// A command was given to an open file that changes it (`ioctl`): its flags, its generation, its content; `detail` is the
    /// command.
    Ioctl = 41,
    /// The flags of a file were changed (`file_setattr`).
    FileAttr = 42,
}

impl Hook {
    /// All hooks with the names that journals use.
    pub const NAMES: [(&'static str, Self); 42] = [
        ("open", Self::Open),
        ("write", Self::Write),
        ("write_totals", Self::WriteTotals),
        ("truncate", Self::Truncate),
        ("mmap", Self::Mmap),
        ("rename", Self::Rename),
        ("unlink", Self::Unlink),
        ("rmdir", Self::Rmdir),
        ("mkdir", Self::Mkdir),
        ("mknod", Self::Mknod),
        ("link", Self::Link),
        ("symlink", Self::Symlink),
        ("chmod", Self::Chmod),
        ("chown", Self::Chown),
        ("utimes", Self::Utimes),
        ("xattr", Self::Xattr),
        ("io_uring", Self::IoUring),
        ("connect", Self::Connect),
        ("send", Self::Send),
        ("bind", Self::Bind),
        ("listen", Self::Listen),
        ("accept", Self::Accept),
        ("socket", Self::Socket),
        ("unix_connect", Self::UnixConnect),
        ("exec", Self::Exec),
        ("exit", Self::Exit),
        ("fork", Self::Fork),
        ("privilege", Self::Privilege),
        ("ptrace", Self::Ptrace),
        ("signal", Self::Signal),
        ("read", Self::Read),
        ("receive", Self::Receive),
        ("mount", Self::Mount),
        ("unmount", Self::Unmount),
        ("namespace", Self::Namespace),
        ("bpf", Self::Bpf),
        ("module", Self::Module),
        ("uring_cmd", Self::UringCommand),
        ("dns", Self::Dns),
        ("volume", Self::Volume),
        ("ioctl", Self::Ioctl),
        ("file_attr", Self::FileAttr),
    ];

    /// The hook with this number.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::NAMES.iter().map(|&(_, hook)| hook).find(|&hook| hook as u8 == raw)
    }

    /// The name that journals use.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|&&(_, hook)| hook == self).map_or("unknown", |&(name, _)| name)
    }

    /// The class whose default decides where no rule matches; `None` for records that are only reported. `detail` is that of the
    /// record.
    #[must_use]
    pub fn class(self, detail: u64) -> Option<Class> {
        Some(match self {
            Self::Connect | Self::Send | Self::Volume => Class::Egress,
            Self::Bind | Self::Listen | Self::Accept => Class::Ingress,
            Self::Socket => socket::class((detail >> 32) as u32, (detail >> 16) as u16, detail as u16)?,
            Self::Exec => Executable::class(detail),
            Self::Privilege => Class::Privilege,
            Self::Ptrace => Class::Ptrace,
            Self::Signal => Class::Signal,
            Self::Mount | Self::Unmount => Class::Mount,
            Self::Namespace => Class::Namespace,
            Self::Bpf | Self::Module | Self::UringCommand => Class::Kernel,
            Self::Exit | Self::Fork | Self::Dns => return None,
            _ => Class::Files,
        })
    }
}

/// The path or the text did not fit.
pub const FLAG_CUT: u32 = 1;
/// The match was made on a name at entry, before the kernel had looked the path up.
pub const FLAG_BY_NAME: u32 = 1 << 1;
/// A match by name, or by no name at all, that the state of the protected file confirmed at the exit.
pub const FLAG_CONFIRMED: u32 = 1 << 2;
/// The system call failed; `ret` says how. Nothing was changed, so nothing was done beyond this record.
pub const FLAG_FAILED: u32 = 1 << 3;
/// The content had been cut by the open itself (`O_TRUNC`) before this sensor could act.
pub const FLAG_DAMAGED: u32 = 1 << 4;
/// The operation had taken place before this sensor could act.
pub const FLAG_AFTER: u32 = 1 << 5;
/// A 32-bit system call.
pub const FLAG_COMPAT: u32 = 1 << 6;
/// The file has no name any more.
pub const FLAG_UNLINKED: u32 = 1 << 7;
/// The open made the file.
pub const FLAG_CREATED: u32 = 1 << 9;
/// It came through an `io_uring`.
pub const FLAG_IO_URING: u32 = 1 << 10;
/// The instance only observes; without that the verdict would have been `wanted`.
pub const FLAG_OBSERVED: u32 = 1 << 11;
/// The path counts from the root of its file system: no mount was at hand to climb on from there.
pub const FLAG_FS_PATH: u32 = 1 << 12;
/// The text is the other path of a rename or a link, as a list of names like the path itself.
pub const FLAG_TEXT_PATH: u32 = 1 << 13;

/// The file is in no directory: the path is the name that the kernel has for it, such as `memfd:x`.
pub const FLAG_NO_PLACE: u32 = 1 << 15;
/// The rule would have forbidden it, but was lifted by a maintenance window.
pub const FLAG_MAINTENANCE: u32 = 1 << 14;

/// A process above the one that acted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Ancestor {
    /// Its tgid; 0 when there is none.
    pub tgid: u32,
    /// Its command name, padded with zeros.
    pub comm: [u8; COMM_LEN],
}

/// The other end of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Endpoint {
    /// Network byte order; IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// Host byte order.
    pub port: u16,
    /// Our own port, host byte order; 0 when not known.
    pub local_port: u16,
    /// `AF_*` as the program asked for; 0 when the record is not about the network.
    pub family: u16,
    /// An `IPPROTO_*` number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Everything about one operation, from the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct Event {
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub time_ns: u64,
    /// Running number on this CPU of all records, lost ones included. Two have the same where one came in the middle of the
    /// other.
    pub sequence: u64,
    /// cgroup v2 id of the task.
    pub cgroup: u64,
    /// `CLOCK_BOOTTIME` of the process's start, nanoseconds: with the tgid, its identity.
    pub start_ns: u64,
    /// Meaning depends on the hook.
    pub detail: u64,
    /// Bytes written, for totals.
    pub bytes: u64,
    /// How many writes, for totals.
    pub count: u64,
    /// Identity of the file, zero where there is none: `i_ino`.
    pub ino: u64,
    /// `s_dev` in the kernel's encoding.
    pub dev: u32,
    /// `i_generation`
    pub generation: u32,
    /// CPU on which the record was made.
    pub cpu: u32,
    /// Slot of the instance.
    pub instance: u16,
    /// Index of the rule, 0 for the class default.
    pub rule: u16,
    /// Epoch of the policy that `rule` belongs to.
    pub epoch: u32,
    /// `FLAG_*`
    pub flags: u32,
    /// Result of the system call, or 0 where the record was made before it.
    pub ret: i32,
    /// Number of the system call, -1 where there is none.
    pub syscall: i32,
    /// A [`Hook`].
    pub hook: u8,
    /// A [`crate::verdict::Sensor`].
    pub sensor: u8,
    /// What was done: a [`crate::Verdict`].
    pub verdict: u8,
    /// What the policy wants: a [`crate::Verdict`].
    pub wanted: u8,
    /// The accesses on which the verdict rests.
    pub access: u8,
    /// A [`crate::scope::Origin`].
    pub origin: u8,
    /// Bytes of path after this struct.
    pub path_len: u16,
    /// Bytes of text after the path.
    pub text_len: u16,
    /// File mode (`S_IFMT` and permission bits) of the file.
    pub mode: u16,
    /// Open flags (`O_*`) for opens.
    pub open_flags: u32,
    /// Thread.
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// Real uid.
    pub uid: u32,
    /// Real gid.
    pub gid: u32,
    /// Effective uid.
    pub euid: u32,
    /// Audit login uid, `u32::MAX` when not set.
    pub loginuid: u32,
    /// Command name of the thread.
    pub comm: [u8; COMM_LEN],
    /// From the parent up.
    pub ancestors: [Ancestor; ANCESTORS],
    /// The other end.
    pub endpoint: Endpoint,
    /// Rules of which this operation may have damaged the files that they heal, one for each file; 0 for none and
    /// [`HEALS_ALL`] where it is not known which file it was. The rule of the record need not be among them.
    pub healing: [u16; MAX_HEALING],
}

/// How many files one operation can damage: both ends of a rename, each under the name that was given and under the one
/// that it turned out to be.
pub const MAX_HEALING: usize = 4;
/// Stands for every rule that heals.
pub const HEALS_ALL: u16 = u16::MAX;

shared!(Ancestor = 20, Endpoint = 24, Event = 304);

impl Event {
    /// All zero.
    pub const ZERO: Self = Self {
        time_ns: 0,
        sequence: 0,
        cgroup: 0,
        start_ns: 0,
        detail: 0,
        bytes: 0,
        count: 0,
        ino: 0,
        dev: 0,
        generation: 0,
        cpu: 0,
        instance: 0,
        rule: 0,
        epoch: 0,
        flags: 0,
        ret: 0,
        syscall: 0,
        hook: 0,
        sensor: 0,
        verdict: 0,
        wanted: 0,
        access: 0,
        origin: 0,
        path_len: 0,
        text_len: 0,
        mode: 0,
        open_flags: 0,
        tid: 0,
        tgid: 0,
        uid: 0,
        gid: 0,
        euid: 0,
        loginuid: 0,
        comm: [0; COMM_LEN],
        ancestors: [Ancestor { tgid: 0, comm: [0; COMM_LEN] }; ANCESTORS],
        endpoint: Endpoint { address: [0; 16], port: 0, local_port: 0, family: 0, protocol: 0, pad: 0 },
        healing: [0; MAX_HEALING],
    };

    /// The identity of the file.
    #[must_use]
    pub const fn inode(&self) -> InodeId {
        InodeId { ino: self.ino, dev: self.dev, generation: self.generation }
    }
}

/// Counters of one CPU: records made, handed over, and lost because the ring buffer was full.
///
/// `produced == emitted + lost`, always.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that a hook wanted to hand over.
    pub produced: u64,
    /// Records that are in the ring buffer.
    pub emitted: u64,
    /// Records that did not fit into the ring buffer.
    pub lost: u64,
    /// Operations that were refused because too many others were being judged on the CPU.
    pub unjudged: u64,
}

/// Key of the totals of an open file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WriteKey {
    /// Address of `struct file`; never leaves the machine.
    pub file: u64,
    /// The process.
    pub tgid: u32,
    /// Zero.
    pub pad: u32,
}

/// What was written through an open file since its first write was recorded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteTotals {
    /// Bytes asked to be written.
    pub bytes: u64,
    /// Calls.
    pub count: u64,
    /// Epoch of the policy that `rule` belongs to.
    pub epoch: u32,
    /// Index of the rule by which the first write was recorded.
    pub rule: u16,
    /// The maintenance window that lifted the rule: the next write after its end is judged anew; 0 for none.
    pub window: u16,
    /// Address of the file's dentry: a `struct file` is used again when it is free.
    pub dentry: u64,
}

/// A verdict by name at the entry of a system call that waits for the exit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Dentry of the directory from which the path is named.
    pub dentry: u64,
    /// `struct mount` of that directory.
    pub mount: u64,
    /// A [`crate::Verdict`] as a number; 0 when nothing was decided yet.
    pub verdict: u8,
    /// A [`crate::Verdict`] as a number.
    pub fallback: u8,
    /// [`crate::Access`]
    pub access: u8,
    /// Which of the paths it is about, 1 or 2.
    pub which: u8,
    /// Index of the rule.
    pub rule: u16,
    /// 1 when `states` are filled in.
    pub watched: u16,
    /// Epoch of the policy at the entry, which `rule` and `states` belong to.
    pub epoch: u32,
    /// The [rank](crate::policy::Rule::rank) of the rule.
    pub rank: u32,
    /// The maintenance window that lifted the rule, see [`crate::decide::Decision`].
    pub window: u16,
    /// For each path a rule about it that heals, see [`crate::decide::Work::healing`]. For each that has changed nevertheless,
    /// once that is known.
    pub healing: [u16; MAX_HEALING],
    /// Zero.
    pub pad: [u16; 3],
    /// State of each [`crate::policy::Watch`] at the entry, 0 for those of other instances: sixteen bits each for its
    /// name and place, its links, its mode and owner, its size.
    pub states: [u64; MAX_WATCHES],
    /// The paths as the program gave them, each ended by a zero byte.
    pub texts: [[u8; PENDING_TEXT]; 2],
}

impl Pending {
    /// Nothing was decided.
    pub const NONE: Self = Self {
        dentry: 0,
        mount: 0,
        verdict: 0,
        fallback: 0,
        access: 0,
        which: 0,
        rule: 0,
        watched: 0,
        epoch: 0,
        rank: 0,
        window: 0,
        healing: [0; MAX_HEALING],
        pad: [0; 3],
        states: [0; MAX_WATCHES],
        texts: [[0; PENDING_TEXT]; 2],
    };

    /// Forgets what was decided.
    #[inline(always)]
    pub fn begin(&mut self) {
        (self.verdict, self.rank) = (0, 0);
        self.healing = [0; MAX_HEALING];
    }

    /// Takes in what was decided about one of the paths, 0 or 1, which starts at this dentry and mount: the stronger of the
    /// two rules decides, and what heals at the other path heals there all the same.
    #[inline(always)]
    pub fn take(&mut self, work: &Work, which: u32, start: (u64, u64)) {
        self.healing[which as usize & 1] = work.healing();
        if work.rank() > self.rank {
            let decision = work.decision();
            self.rank = work.rank();
            self.verdict = decision.verdict as u8;
            self.fallback = decision.fallback as u8;
            self.access = decision.access.bits();
            self.rule = decision.rule;
            self.window = u16::from(decision.window);
            self.which = which as u8 + 1;
            (self.dentry, self.mount) = start;
        }
    }

    /// What was decided.
    #[inline(always)]
    #[must_use]
    pub fn decision(&self) -> Decision {
        Decision {
            verdict: Verdict::from_raw(self.verdict),
            fallback: Verdict::from_raw(self.fallback),
            rule: self.rule,
            access: Access::from_bits(self.access),
            window: self.window as u8,
        }
    }
}

/// Bytes of a path as text that are looked at and kept.
pub const PENDING_TEXT: usize = 512;

shared!(Pending = 1328, Counters = 32, WriteKey = 16, WriteTotals = 32);
