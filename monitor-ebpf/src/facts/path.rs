//! Where a file is: the directories above it.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use monitor_common::{
    decide::{Locate, Lookups, MAX_CLIMB, PathView, Subject, TextView, Walk, Work},
    event::{FLAG_CUT, FLAG_FS_PATH, FLAG_NO_PLACE, PATH_MAX, PENDING_TEXT, TEXT_MAX},
    name::{NAME_LEN, Name},
    opaque::Opaque,
    policy::InodeId,
};

use super::{
    file::{File, path_at},
    offset, pointer, task, word,
};
use crate::{global, maps::Scratch};

/// Room for names: a path, a text, and one more name past the end.
pub(crate) const NAMES_BUFFER: usize = PATH_MAX + TEXT_MAX + 256;

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
    /// From a dentry under a `struct mount`, or 0 to end at the root of the file system; `seen` is working memory.
    #[inline(always)]
    pub(crate) fn new((dentry, mount): (u64, u64), seen: &'a mut [u64; MAX_CLIMB]) -> Self {
        Self { dentry, mount, index: 0, seen }
    }
}

impl PathView for Climb<'_> {
    #[inline(never)]
    fn climb(&mut self, id: &mut InodeId) -> bool {
        self.step(id).is_some()
    }

    #[inline(always)]
    fn name(&mut self, index: usize, name: &mut Name) -> bool {
        name_of(self.seen[index & (MAX_CLIMB - 1)], name)
    }
}

/// A dentry under a `struct mount` or 0, for a decision in a program's scratch memory.
pub(crate) struct Location {
    buffer: u32,
}

impl Location {
    #[inline(always)]
    pub(crate) fn new(place: (u64, u64), scratch: &mut Scratch) -> Self {
        scratch.set_location(place);
        Self { buffer: scratch.buffer.get() }
    }
}

impl Locate for Location {
    #[inline(always)]
    fn locate<L: Lookups>(&mut self, _: &L, subject: &Subject<'_>, _: &mut Work) {
        global::fw_locate(self.buffer, subject.epoch, subject.slot.into());
    }
}

impl Climb<'_> {
    #[inline(always)]
    fn step(&mut self, id: &mut InodeId) -> Option<()> {
        let dentry = self.dentry;
        if dentry == 0 {
            return None;
        }
        // A name that is about to be given to a file has no inode yet, and so an identity that no rule has.
        let inode: u64 = word(dentry, offset!(dentry_inode));
        let sb: u64 = word(inode, offset!(inode_sb));
        *id = InodeId {
            ino: word(inode, offset!(inode_ino)),
            dev: word(sb, offset!(sb_dev)),
            generation: word(inode, offset!(inode_generation)),
        };
        let mut named = dentry;
        let mut parent: u64 = word(dentry, offset!(dentry_parent));
        if parent == dentry {
            // The root of a file system: go on where it is mounted, under the mount point's name.
            parent = 0;
            for _ in 0..MAX_STACKED {
                if self.mount == 0 {
                    break;
                }
                let above = word(self.mount, offset!(mount_parent));
                if above == self.mount {
                    break;
                }
                named = word(self.mount, offset!(mount_mountpoint));
                self.mount = above;
                let next = word(named, offset!(dentry_parent));
                if next != named {
                    parent = next;
                    break;
                }
            }
        }
        self.seen[self.index & (MAX_CLIMB - 1)] = named;
        self.index += 1;
        self.dentry = parent;
        Some(())
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

/// Bytes of a text of a verdict by name.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8; PENDING_TEXT]);

impl TextView for Bytes<'_> {
    #[inline(always)]
    fn at(&self, index: usize) -> u8 {
        self.0[index & (PENDING_TEXT - 1)]
    }
}

/// One of the two texts of a verdict by name, in a program's scratch memory.
pub(crate) struct Text {
    buffer: u32,
    which: u32,
}

impl Text {
    #[inline(always)]
    pub(crate) fn new(which: u32, scratch: &Scratch) -> Self {
        Self { buffer: scratch.buffer.get(), which }
    }
}

impl Walk for Text {
    #[inline(always)]
    fn step<L: Lookups>(&self, _: &L, subject: &Subject<'_>, _: &mut Work) -> bool {
        global::fw_step(self.buffer, subject.epoch, subject.slot.into(), self.which) != 0
    }
}

/// Fills in the name of a dentry.
#[inline(never)]
pub(crate) fn name_of(dentry: u64, name: &mut Name) -> bool {
    name.clear();
    let text: u64 = word(dentry, offset!(dentry_name));
    let len: u32 = word(dentry, offset!(dentry_len));
    // SAFETY: the destination is as long as is said.
    let read =
        unsafe { bpf_probe_read_kernel_str(name.bytes_mut().as_mut_ptr().cast(), NAME_LEN as u32, text as *const _) };
    name.set_len(len.min(NAME_LEN as u32));
    read > 0
}

/// The most likely mount of a dentry, for hooks without a mount argument: that of the task's root or working
/// directory when it is of the same file system; 0 otherwise.
#[inline(always)]
pub(crate) fn likely_mount(dentry: u64) -> u64 {
    let sb: u64 = word(dentry, offset!(dentry_sb));
    let Some(fs) = pointer(task::current(), offset!(task_fs)) else { return 0 };
    for path in [offset!(fs_root), offset!(fs_pwd)] {
        if let Some((_, mount)) = path_at(fs + u64::from(path))
            && sb == word(mount, offset!(mount_sb))
        {
            return mount;
        }
    }
    0
}

/// Writes the names from a dentry up to the root into `tail` from `from` on, each ended by a zero byte, as `d_path`
/// would go: across mounts. Leaves the end in `len`, which may be [`PATH_MAX`] at the most, and answers with
/// [`FLAG_CUT`] when something is missing, [`FLAG_FS_PATH`] when the way up is not known beyond the file system, and
/// [`FLAG_NO_PLACE`] for a file that is in no directory.
#[inline(always)]
pub(crate) fn write_names(
    mut dentry: u64,
    mut mount: u64,
    tail: &mut [u8; NAMES_BUFFER],
    len: &mut Opaque<u32>,
    from: u32,
) -> u32 {
    len.set(from);
    for _ in 0..MAX_CLIMB + MAX_STACKED {
        let parent: u64 = word(dentry, offset!(dentry_parent));
        // No dentry is at address 0, which a mount that is not known would have as its root.
        if dentry == word(mount, offset!(mount_root)) {
            let above = word(mount, offset!(mount_parent));
            if above == mount {
                return 0;
            }
            dentry = word(mount, offset!(mount_mountpoint));
            mount = above;
            continue;
        }
        let text: u64 = word(dentry, offset!(dentry_name));
        let at = len.get();
        if at >= PATH_MAX as u32 - 256 {
            return FLAG_CUT;
        }
        // SAFETY: `at` is below PATH_MAX and the memory goes on for 256 bytes after that.
        let read =
            unsafe { bpf_probe_read_kernel_str(tail.as_mut_ptr().add(at as usize).cast(), 256, text as *const _) };
        if read <= 0 {
            return FLAG_CUT;
        }
        if dentry == parent {
            // The root of a file system is called `/`. What is in no directory, such as anonymous memory, has a name.
            if at != from || tail[at as usize] == b'/' {
                return FLAG_FS_PATH;
            }
            len.set(at + (read as u32 & 0x1ff));
            return FLAG_NO_PLACE;
        }
        len.set(at + (read as u32 & 0x1ff));
        dentry = parent;
    }
    FLAG_CUT
}
