//! Tells userspace the identity of a file as this kernel holds it.
//!
//! `stat` reports other numbers than `struct inode` holds on overlayfs and btrfs, and no generation at all. The loader
//! runs this program by hand, in its own context, on one of its own descriptors.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::policy::{Identity, InodeId};

use crate::{facts::file::File, maps::IDENTITY};

#[raw_tracepoint]
fn identify(ctx: RawTracePointContext) -> i32 {
    let identity = read(ctx.arg::<u64>(0) as i32);
    let none = Identity { id: InodeId { ino: 0, dev: 0, generation: 0 }, dentry: 0, inode: 0 };
    i32::from(IDENTITY.set(0, identity.unwrap_or(none), 0).is_err())
}

#[inline(always)]
fn read(fd: i32) -> Option<Identity> {
    let file = File::from_fd(fd)?;
    let inode = file.inode()?;
    Some(Identity { id: inode.id()?, dentry: file.dentry_and_mount()?.0, inode: inode.0 })
}
