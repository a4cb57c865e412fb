//! Data that the programs on security hooks share with userspace. The hooks themselves are in [`crate::hooks`].

use crate::shared;

pub use crate::hooks::SecurityHook;

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
