//! A home directory for a Node-RED.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::place::Place;

/// File systems that live in memory, by the magic numbers of tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A directory on a disk that belongs to one uid, removed when it is dropped.
#[derive(Debug)]
pub struct Home {
    uid: u32,
    path: PathBuf,
    /// Root's; the home is inside, so that its owner can move what is in it and even its userDir.
    _place: Place,
}

impl Home {
    /// A home for `uid` in a [`Place`] on a disk: what is protected in earnest lies there, not in memory.
    pub fn new(uid: u32) -> Result<Self> {
        let place = Place::new()?;
        let path = place.path();
        let kind = rustix::fs::statfs(path).with_context(|| format!("{} cannot be looked at", path.display()))?.f_type;
        if IN_MEMORY.contains(&kind) {
            bail!("{} is in memory: name a directory on a disk in FLOWWARDEN_TMP", path.display());
        }
        let home = Self { uid, path: path.join("home"), _place: place };
        home.directory("")?;
        home.directory(".node-red")?;
        Ok(home)
    }

    /// The home directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Node-RED's userDir.
    #[must_use]
    pub fn user_dir(&self) -> PathBuf {
        self.path.join(".node-red")
    }

    /// A directory in the home, made when it is not there, that belongs to the uid.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        chown(&path, Some(self.uid), Some(self.uid))?;
        Ok(path)
    }

    /// A file in the home that belongs to the uid.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, content).with_context(|| format!("{} cannot be written", path.display()))?;
        chown(&path, Some(self.uid), Some(self.uid))?;
        Ok(path)
    }
}
