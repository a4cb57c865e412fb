//! Open files and inodes.

use aya_ebpf::cty::c_int;
use monitor_common::{
    Access,
    policy::{Executable, InodeId},
};

use super::{offset, pointer, read, task, word};

/// `FMODE_READ`, `FMODE_WRITE`, `FMODE_EXEC`, `FMODE_PATH` and `FMODE_CREATED` of include/linux/fs.h; the first two
/// are the kernel's side of the open flags, the others have been where they are since 4.19.
const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 1 << 1;
const FMODE_PATH: u32 = 1 << 14;
const FMODE_CREATED: u32 = 1 << 20;

const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFBLK: u16 = 0o060_000;
/// Write permission of the group and of others.
const S_IWGRP: u16 = 0o020;
const S_IWOTH: u16 = 0o002;

/// Address of a `struct file`.
#[derive(Clone, Copy)]
pub(crate) struct File(pub(crate) u64);

impl File {
    /// The file behind a descriptor of the current task.
    #[inline(always)]
    pub(crate) fn from_fd(fd: c_int) -> Option<Self> {
        if fd < 0 {
            return None;
        }
        let files = pointer(task::current(), offset!(task_files))?;
        let table = pointer(files, offset!(files_fdt))?;
        if fd as u32 >= read::<u32>(table, offset!(fdt_max))? {
            return None;
        }
        let array = pointer(table, offset!(fdt_fd))?;
        pointer(array + fd as u64 * 8, 0).map(Self)
    }

    /// `f_mode`
    #[inline(always)]
    pub(crate) fn mode(self) -> Option<u32> {
        read(self.0, offset!(file_mode))
    }

    /// `f_flags`
    #[inline(always)]
    pub(crate) fn flags(self) -> Option<u32> {
        read(self.0, offset!(file_flags))
    }

    /// The accesses that the open asked for, and whether it made the file.
    ///
    /// Content that goes into a file that did not exist before is part of its creation.
    #[inline(always)]
    pub(crate) fn opened_for(self) -> Option<(Access, bool)> {
        let mode = self.mode()?;
        if mode & FMODE_PATH != 0 {
            return Some((Access::NONE, false));
        }
        let created = mode & FMODE_CREATED != 0;
        let mut access = Access::NONE;
        if mode & FMODE_READ != 0 && !created {
            access = access.union(Access::READ);
        }
        if created {
            access = access.union(Access::CREATE);
        } else if mode & FMODE_WRITE != 0 {
            access = access.union(Access::WRITE);
        }
        Some((access, created))
    }

    /// Whether it can be written through.
    #[inline(always)]
    pub(crate) fn is_writable(self) -> bool {
        self.mode().is_some_and(|mode| mode & FMODE_WRITE != 0)
    }

    /// Its inode.
    #[inline(always)]
    pub(crate) fn inode(self) -> Option<Inode> {
        pointer(self.0, offset!(file_inode)).map(Inode)
    }

    /// Addresses of its dentry and of the `struct mount`.
    #[inline(always)]
    pub(crate) fn dentry_and_mount(self) -> Option<(u64, u64)> {
        path_at(self.0 + u64::from(offset!(file_path)))
    }
}

/// Dentry and `struct mount` of a `struct path`.
#[inline(always)]
pub(crate) fn path_at(path: u64) -> Option<(u64, u64)> {
    let dentry = pointer(path, offset!(path_dentry))?;
    let mount = pointer(path, offset!(path_mnt))?;
    Some((dentry, mount - u64::from(offset!(mount_mnt))))
}

/// The inode of a dentry.
#[inline(always)]
pub(crate) fn inode_at(dentry: u64) -> Option<Inode> {
    pointer(dentry, offset!(dentry_inode)).map(Inode)
}

/// Address of a `struct inode`.
#[derive(Clone, Copy)]
pub(crate) struct Inode(pub(crate) u64);

impl Inode {
    /// Its identity.
    #[inline(always)]
    pub(crate) fn id(self) -> Option<InodeId> {
        let sb = pointer(self.0, offset!(inode_sb))?;
        Some(InodeId {
            ino: word(self.0, offset!(inode_ino)),
            dev: word(sb, offset!(sb_dev)),
            generation: word(self.0, offset!(inode_generation)),
        })
    }

    /// `i_mode`
    #[inline(always)]
    pub(crate) fn mode(self) -> u16 {
        word(self.0, offset!(inode_mode))
    }

    /// `i_nlink`
    #[inline(always)]
    pub(crate) fn links(self) -> u32 {
        word(self.0, offset!(inode_nlink))
    }

    /// Whether it may have other names than the one that it was reached by. A directory has one.
    #[inline(always)]
    pub(crate) fn has_names(self) -> bool {
        self.links() > 1 && !self.is_directory()
    }

    /// The device behind a block device's file; 0 for every other.
    #[inline(always)]
    pub(crate) fn block_device(self) -> u32 {
        if self.mode() & S_IFMT == S_IFBLK { word(self.0, offset!(inode_rdev)) } else { 0 }
    }

    /// What kind of program it is for the current task, an [`Executable`], under the name that `dentry` is. Root could write every file: for it only those
    /// count that others can write too.
    #[inline(always)]
    pub(crate) fn executable(self, dentry: u64) -> u64 {
        // A name that was removed is in no table of names any more, even if the file has others.
        if self.links() == 0 || word::<u64>(dentry, offset!(dentry_hash)) == 0 {
            return Executable::Unnamed as u64;
        }
        let cred: u64 = word(task::current(), offset!(task_cred));
        let (uid, gid): (u32, u32) = (word(cred, offset!(cred_uid)), word(cred, offset!(cred_gid)));
        let mode = self.mode();
        let owned = uid != 0 && uid == word::<u32>(self.0, offset!(inode_uid));
        let grouped = gid != 0 && mode & S_IWGRP != 0 && gid == word::<u32>(self.0, offset!(inode_gid));
        if owned || grouped || mode & S_IWOTH != 0 { Executable::Writable as u64 } else { Executable::Plain as u64 }
    }

    /// Whether it is a directory.
    #[inline(always)]
    pub(crate) fn is_directory(self) -> bool {
        self.mode() & S_IFMT == S_IFDIR
    }

    /// Whether it is a regular file.
    #[inline(always)]
    pub(crate) fn is_regular(self) -> bool {
        self.mode() & S_IFMT == S_IFREG
    }
}
