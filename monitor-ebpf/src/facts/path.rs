//! Where a file is: the directories above it.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use monitor_common::{
    decide::{MAX_CLIMB, PathView, TextView},
    event::{PATH_MAX, PENDING_TEXT},
    name::{NAME_LEN, Name},
    opaque::Opaque,
    policy::InodeId,
};

use super::{
    file::{File, Inode, path_at},
    offset, pointer, read, task,
};

/// How many mounts may lie on one directory.
const MAX_STACKED: usize = 2;

/// Climbs from a dentry to the root of the mount namespace.
///
/// Within a file system it follows the dentries and not the mount, so that a file reached through a bind mount is
/// still met by the rules for where it really is.
pub(crate) struct Climb<'a> {
    dentry: u64,
    mount: u64,
    index: usize,
    seen: &'a mut [u64; MAX_CLIMB],
}

impl<'a> Climb<'a> {
    /// From a dentry under a `struct mount`; `seen` is working memory.
    #[inline(always)]
    pub(crate) fn new((dentry, mount): (u64, u64), seen: &'a mut [u64; MAX_CLIMB]) -> Self {
        Self { dentry, mount, index: 0, seen }
    }
}

impl PathView for Climb<'_> {
    #[inline(always)]
    fn climb(&mut self) -> Option<InodeId> {
        let dentry = self.dentry;
        if dentry == 0 {
            return None;
        }
        let id = Inode(pointer(dentry, offset!(dentry_inode))?).id()?;
        let mut named = dentry;
        let mut parent = pointer(dentry, offset!(dentry_parent))?;
        if parent == dentry {
            // The root of a file system: go on where it is mounted, under the mount point's name.
            parent = 0;
            for _ in 0..MAX_STACKED {
                let above = pointer(self.mount, offset!(mount_parent))?;
                if above == self.mount {
                    break;
                }
                named = pointer(self.mount, offset!(mount_mountpoint))?;
                self.mount = above;
                let next = pointer(named, offset!(dentry_parent))?;
                if next != named {
                    parent = next;
                    break;
                }
            }
        }
        self.seen[self.index & (MAX_CLIMB - 1)] = named;
        self.index += 1;
        self.dentry = parent;
        Some(id)
    }

    #[inline(always)]
    fn name(&mut self, index: usize, name: &mut Name) -> bool {
        name_of(self.seen[index & (MAX_CLIMB - 1)], name)
    }
}

/// `AT_FDCWD`
pub(crate) const AT_FDCWD: i32 = -100;

/// Dentry and `struct mount` of the directory that a path starts at.
#[inline(always)]
pub(crate) fn start(dir: i32, absolute: u32) -> Option<(u64, u64)> {
    if absolute == 0 && dir != AT_FDCWD {
        return File::from_fd(dir)?.dentry_and_mount();
    }
    let fs = pointer(task::current(), offset!(task_fs))?;
    path_at(fs + u64::from(if absolute != 0 { offset!(fs_root) } else { offset!(fs_pwd) }))
}

/// One of the texts of a verdict by name.
pub(crate) struct Text<'a>(pub(crate) &'a [u8; PENDING_TEXT]);

impl TextView for Text<'_> {
    #[inline(always)]
    fn at(&self, index: usize) -> u8 {
        self.0[index & (PENDING_TEXT - 1)]
    }
}

/// Fills in the name of a dentry.
#[inline(always)]
pub(crate) fn name_of(dentry: u64, name: &mut Name) -> bool {
    name.clear();
    let Some(text) = pointer(dentry, offset!(dentry_name)) else { return false };
    let Some(len) = read::<u32>(dentry, offset!(dentry_len)) else { return false };
    // SAFETY: the destination is as long as is said.
    let read =
        unsafe { bpf_probe_read_kernel_str(name.bytes_mut().as_mut_ptr().cast(), NAME_LEN as u32, text as *const _) };
    name.set_len(len.min(NAME_LEN as u32));
    read > 0
}

/// Writes the names from a dentry up to the root into `tail`, each ended by a zero byte, as `d_path` would go:
/// across mounts. Leaves the length in `len`; false when something is missing.
#[inline(always)]
pub(crate) fn write_names((mut dentry, mut mount): (u64, u64), tail: &mut [u8], len: &mut Opaque<u32>) -> bool {
    len.set(0);
    for _ in 0..MAX_CLIMB + MAX_STACKED {
        let Some(root) = pointer(mount, offset!(mount_root)) else { return false };
        let Some(parent) = pointer(dentry, offset!(dentry_parent)) else { return false };
        if dentry == root || dentry == parent {
            let Some(above) = pointer(mount, offset!(mount_parent)) else { return false };
            if above == mount {
                return true;
            }
            let Some(point) = pointer(mount, offset!(mount_mountpoint)) else { return false };
            dentry = point;
            mount = above;
            continue;
        }
        let Some(text) = pointer(dentry, offset!(dentry_name)) else { return false };
        let at = len.get();
        if at >= PATH_MAX as u32 - 256 {
            return false;
        }
        // SAFETY: `at` is below PATH_MAX and the memory goes on for 256 bytes after that.
        let read =
            unsafe { bpf_probe_read_kernel_str(tail.as_mut_ptr().add(at as usize).cast(), 256, text as *const _) };
        if read <= 0 {
            return false;
        }
        len.set(at + (read as u32 & 0x1ff));
        dentry = parent;
    }
    false
}
