//! A BPF file system of our own, so that nothing is pinned where others look.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A mounted BPF file system; what is pinned in it goes away with it.
#[derive(Debug)]
pub struct BpfFs {
    directory: TempDir,
}

impl BpfFs {
    /// Mounts one in a directory that only root can enter.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("fwbpf-").tempdir()?;
        mount("bpf", directory.path(), "bpf", MountFlags::empty(), c"mode=0700").context("bpf cannot be mounted")?;
        Ok(Self { directory })
    }

    /// A directory for pins, which is not there yet.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.directory.path().join("pins")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}
