//! A mount namespace with something in it that can be unmounted, or be made the root.

use std::{
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use flowwarden_tests::mounts;
use rustix::{
    mount::{MountFlags, mount},
    thread::gettid,
};

/// The namespace of a thread, which waits until this goes away.
pub(crate) struct Room {
    namespace: String,
    directory: PathBuf,
    /// Dropped first: the thread waits for that.
    close: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Room {
    /// Mounts something at `directory`, and something else in it, visible to processes that enter only.
    pub(crate) fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let (close, closed) = channel();
        let (ready, is_ready) = channel();
        let place = directory.clone();
        let thread = thread::spawn(move || furnish(&place, &ready, &closed));
        let mut room = Self { namespace: String::new(), directory, close: Some(close), thread: Some(thread) };
        // When it does not become ready, the thread tells why as it is joined.
        match is_ready.recv() {
            Ok(tid) => room.namespace = format!("/proc/{}/task/{tid}/ns/mnt", std::process::id()),
            Err(_) => room.leave()?,
        }
        Ok(room)
    }

    /// Namespace and directory, as operations of `actor` take them.
    pub(crate) fn words(&self) -> String {
        format!("{} {}", self.namespace, self.directory.display())
    }

    fn leave(&mut self) -> Result<()> {
        drop(self.close.take());
        let ended = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        ended.map_err(|_| anyhow::anyhow!("the thread with the mounts has panicked"))?
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Errors were reported at creation.
        let _ = self.leave();
        let _ = fs::remove_dir(&self.directory);
    }
}

fn furnish(directory: &Path, ready: &Sender<i32>, closed: &Receiver<()>) -> Result<()> {
    mounts::part()?;
    let new = directory.join("new");
    for place in [directory, &new] {
        mount("none", place, "tmpfs", MountFlags::empty(), None::<&CStr>)?;
        fs::create_dir(place.join(if place == directory { "new" } else { "old" }))?;
    }
    ready.send(gettid().as_raw_nonzero().get())?;
    // An error ends the process at the other side.
    let _ = closed.recv();
    Ok(())
}
