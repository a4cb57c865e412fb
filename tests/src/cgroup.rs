//! A cgroup (version 2) of our own.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::{own, wait};

/// A cgroup; when it is dropped, what still runs in it is killed and the cgroup is removed.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Keeps the parent until the children are gone.
    _parent: Option<Arc<Self>>,
}

impl Cgroup {
    /// A new cgroup at the top of the tree.
    pub fn new() -> Result<Arc<Self>> {
        Self::create(mount()?.join(own::name()), None)
    }

    /// A new cgroup inside this one.
    pub fn child(self: &Arc<Self>, name: &str) -> Result<Arc<Self>> {
        Self::create(self.path.join(name), Some(Arc::clone(self)))
    }

    fn create(path: PathBuf, parent: Option<Arc<Self>>) -> Result<Arc<Self>> {
        fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Arc::new(Self { path, _parent: parent }))
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that takes the pids of those who join; a process that writes "0" joins itself.
    pub fn entrance(&self) -> Result<OwnedFd> {
        let file = fs::File::options().write(true).open(self.path.join("cgroup.procs"));
        Ok(file.with_context(|| format!("{} takes no processes", self.path.display()))?.into())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Where cgroup v2 is mounted: alone, or beside version 1.
pub fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc is not mounted")?;
    let place = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    place.context("no cgroup v2 is mounted: type `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

/// Removes the cgroups at the top of the tree whose name `is_ours`.
pub(crate) fn remove_where(is_ours: impl Fn(&str) -> bool) {
    let Some(top) = mount().ok().and_then(|mount| fs::read_dir(mount).ok()) else { return };
    for entry in top.flatten().filter(|entry| is_ours(&entry.file_name().to_string_lossy())) {
        remove(&entry.path());
    }
}

/// Kills what runs in the cgroup and below it, and removes both. Nothing here may fail loudly: it runs while a test panics.
fn remove(path: &Path) {
    let children = fs::read_dir(path).into_iter().flatten().flatten();
    for child in children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&child.path());
    }
    // A cgroup can be removed a moment after its last process has ended, when that has been reaped.
    wait::while_cleaning_up(Duration::from_secs(10), || {
        for pid in pids(path) {
            let _ = kill_process(pid, Signal::KILL);
        }
        fs::remove_dir(path).is_ok() || !path.exists()
    });
}

fn pids(path: &Path) -> Vec<Pid> {
    let list = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}
