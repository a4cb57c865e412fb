//! A home directory for a Node-RED.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::own;

/// File systems that live in memory, by the magic numbers of tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A directory on a disk that belongs to one uid, removed when it is dropped.
#[derive(Debug)]
pub struct Home {
    uid: u32,
    /// Ours; the home is inside, so that its owner can move what is in it and even its userDir.
    top: PathBuf,
    path: PathBuf,
}

impl Home {
    /// A home for `uid`, under `FLOWWARDEN_TMP` or `/var/tmp`: what is protected in earnest lies on a disk, not in memory.
    pub fn new(uid: u32) -> Result<Self> {
        let place = place();
        let kind =
            rustix::fs::statfs(&place).with_context(|| format!("{} cannot be looked at", place.display()))?.f_type;
        if IN_MEMORY.contains(&kind) {
            bail!("{} is in memory: name a directory on a disk in FLOWWARDEN_TMP", place.display());
        }
        let top = place.join(own::name());
        let home = Self { uid, path: top.join("home"), top };
        fs::create_dir(&home.top).with_context(|| format!("{} cannot be made", home.top.display()))?;
        fs::set_permissions(&home.top, fs::Permissions::from_mode(0o755))?;
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

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}

/// Removes the homes whose name `is_ours`.
pub(crate) fn remove_where(is_ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(place()).into_iter().flatten().flatten() {
        if is_ours(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Where homes are made, and what else is to lie on a disk.
pub(crate) fn place() -> PathBuf {
    env::var_os("FLOWWARDEN_TMP").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}
