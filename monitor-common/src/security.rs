//! The kernel's security hooks that the LSM, fentry and kprobe sensors sit on.
//!
//! Each is one function, `security_NAME`, which the LSM list knows as `NAME` (`include/linux/lsm_hook_defs.h`). One body
//! serves all three sensors; userspace chooses for each hook the best one that the running kernel truly runs.

use crate::shared;

/// Declares [`SecurityHook`] together with the list of all of them.
macro_rules! hooks {
    ($($(#[$doc:meta])* $hook:ident = $name:literal),+ $(,)?) => {
        /// A security hook; the number is its index in the map of proofs.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum SecurityHook { $($(#[$doc])* $hook),+ }

        impl SecurityHook {
            /// All hooks with their names in the kernel's LSM list.
            pub const NAMES: &'static [(&'static str, Self)] = &[$(($name, Self::$hook)),+];
        }
    };
}

hooks! {
    /// `(file)`
    FileOpen = "file_open",
    /// `(file, mask)`
    FilePermission = "file_permission",
    /// `(file, reqprot, prot, flags)`
    MmapFile = "mmap_file",
    /// `(vma, reqprot, prot)`
    FileMprotect = "file_mprotect",
    /// `(dir, dentry, mode)`
    InodeCreate = "inode_create",
    /// `(old_dentry, dir, new_dentry)`
    InodeLink = "inode_link",
    /// `(dir, dentry)`
    InodeUnlink = "inode_unlink",
    /// `(dir, dentry, old_name)`
    InodeSymlink = "inode_symlink",
    /// `(dir, dentry, mode)`
    InodeMkdir = "inode_mkdir",
    /// `(dir, dentry)`
    InodeRmdir = "inode_rmdir",
    /// `(dir, dentry, mode, dev)`
    InodeMknod = "inode_mknod",
    /// `(old_dir, old_dentry, new_dir, new_dentry)`
    InodeRename = "inode_rename",
    /// `([idmap,] dentry, attr)`
    InodeSetattr = "inode_setattr",
    /// `([idmap,] dentry, name, ...)`
    InodeSetxattr = "inode_setxattr",
    /// `([idmap,] dentry, name)`
    InodeRemovexattr = "inode_removexattr",
    /// `([idmap,] dentry, name, list)`; since 6.2
    InodeSetAcl = "inode_set_acl",
    /// `([idmap,] dentry, name)`; since 6.2
    InodeRemoveAcl = "inode_remove_acl",
    /// `(dentry, flags)`; since 6.17
    InodeFileSetattr = "inode_file_setattr",
    /// `(file, command, argument)`
    FileIoctl = "file_ioctl",
    /// The same for a 32-bit program; since 6.8, before that it came by the other
    FileIoctlCompat = "file_ioctl_compat",
    /// `(bprm)`
    BprmCheck = "bprm_check_security",
    /// `(sock, other, newsk)`
    UnixStreamConnect = "unix_stream_connect",
    /// `(socket, other)`
    UnixMaySend = "unix_may_send",
    /// `(task, info, signal, cred)`
    TaskKill = "task_kill",
    /// `(file, command, argument)`
    FileFcntl = "file_fcntl",
    /// `(task, owner, signal)`
    FileSendSigiotask = "file_send_sigiotask",
    /// `(task, resource, limits)`
    TaskSetrlimit = "task_setrlimit",
    /// `(task, nice)`
    TaskSetnice = "task_setnice",
    /// `(task)`
    TaskSetscheduler = "task_setscheduler",
    /// `(child, mode)`
    PtraceAccessCheck = "ptrace_access_check",
    /// `(file)`
    FileReceive = "file_receive",
    /// `(dev_name, path, type, flags, data)`
    SbMount = "sb_mount",
    /// `(mnt, flags)`
    SbUmount = "sb_umount",
    /// `(from_path, to_path)`
    MoveMount = "move_mount",
    /// `(old_path, new_path)`
    SbPivotroot = "sb_pivotroot",
    /// `(cred)`; since 6.1
    UsernsCreate = "userns_create",
    /// `(cmd, attr, size, ...)`
    Bpf = "bpf",
    /// `(kmod_name)`
    KernelModuleRequest = "kernel_module_request",
    /// `(file, id, contents)`
    KernelReadFile = "kernel_read_file",
    /// `(id, contents)`
    KernelLoadData = "kernel_load_data",
    /// `(ioucmd)`; since 6.0
    UringCmd = "uring_cmd",
    /// `(new, old, flags)`
    TaskFixSetuid = "task_fix_setuid",
    /// `(new, old, ...)`
    Capset = "capset",
    /// `(bprm, file)`
    BprmCredsFromFile = "bprm_creds_from_file",
    /// `(family, type, protocol, kern)`
    SocketCreate = "socket_create",
    /// `(sock, address, addrlen)`
    SocketBind = "socket_bind",
    /// `(sock, address, addrlen)`
    SocketConnect = "socket_connect",
    /// `(sock, backlog)`
    SocketListen = "socket_listen",
}

impl SecurityHook {
    /// How many there are.
    pub const COUNT: usize = Self::NAMES.len();

    /// The name in the kernel's LSM list.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }
}

/// Which argument of a hook is the dentry. It moved when the kernel learned idmapped mounts, at another time in the LSM
/// list than in the functions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DentryArgs {
    /// `inode_setattr`; 0 or 1.
    pub setattr: u32,
    /// `inode_setxattr`; 0 or 1.
    pub setxattr: u32,
    /// `inode_removexattr`; 0 or 1.
    pub removexattr: u32,
}

/// The places of arguments on the running kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signatures {
    /// As the LSM list has them.
    pub lsm: DentryArgs,
    /// As the `security_*` functions have them.
    pub function: DentryArgs,
}

impl Signatures {
    /// Nothing known.
    pub const NONE: Self = Self {
        lsm: DentryArgs { setattr: 0, setxattr: 0, removexattr: 0 },
        function: DentryArgs { setattr: 0, setxattr: 0, removexattr: 0 },
    };
}

/// An open file that was judged, and for what: the same file is not judged again at each read and write.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Address of its dentry: a `struct file` is used again when it is free.
    pub dentry: u64,
    /// `f_mode`, for the same reason.
    pub mode: u32,
    /// The policy's epoch.
    pub epoch: u32,
    /// Slot of the instance.
    pub instance: u16,
    /// The maintenance window on which the judgement rests, which is good for as long as that is open; 0 for none.
    pub window: u16,
    /// [`crate::Access`] that was judged.
    pub access: u32,
    /// `CLOCK_BOOTTIME` in nanoseconds, of the judgement. A file that takes a protected name is judged anew.
    pub at: u64,
}

/// Judgements of open files that are not older than this, in nanoseconds, when a file takes a protected name are made
/// anew, and so are those that come no later than this after it: the name is given after the hook.
pub const NAMING: u64 = 2_000_000_000;

shared!(DentryArgs = 12, Signatures = 24, Judged = 32);
