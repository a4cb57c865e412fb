//! Tells userspace the identity of a file as this kernel holds it.
//!
//! `stat` reports other numbers than `struct inode` holds on overlayfs and btrfs, and no generation at all. The loader
//! runs this program by hand, in its own context, on one of its own descriptors.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::policy::InodeId;

use crate::{
    facts::file::{File, Inode},
    maps::IDENTITY,
};

#[raw_tracepoint]
fn identify(ctx: RawTracePointContext) -> i32 {
    let id = File::from_fd(ctx.arg::<u64>(0) as i32).and_then(File::inode).and_then(Inode::id);
    i32::from(IDENTITY.set(0, id.unwrap_or(InodeId { ino: 0, dev: 0, generation: 0 }), 0).is_err())
}
