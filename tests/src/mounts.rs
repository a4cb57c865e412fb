//! Mounts that only one thread and its children see.

use anyhow::Result;
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Parts this thread's view of mounts from the others': what it mounts from now on is gone when it ends. To be called by
/// a thread that was made for this.
pub fn part() -> Result<()> {
    // SAFETY: only this thread's view of mounts and working directory is parted from the others'.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?)
}
