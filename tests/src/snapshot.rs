//! A file as it was before an attack.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What has become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not one byte has changed, and it is the same file.
    Intact,
    /// The same file with nothing in it.
    Emptied,
    /// The same file with other bytes.
    Changed,
    /// Another file under its name.
    Replaced,
    /// No file under its name.
    Missing,
}

/// A copy of a file, to compare with and to put back.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    bytes: Vec<u8>,
    metadata: fs::Metadata,
}

impl Snapshot {
    /// Remembers the file at `path`.
    pub fn take(path: &Path) -> Result<Self> {
        let read = || -> io::Result<Self> {
            Ok(Self { path: path.to_owned(), bytes: fs::read(path)?, metadata: fs::metadata(path)? })
        };
        read().with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Compares the file with what it was.
    pub fn state(&self) -> Result<State> {
        let now = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Missing),
            now => now?,
        };
        let bytes = fs::read(&self.path)?;
        Ok(if (now.dev(), now.ino()) != (self.metadata.dev(), self.metadata.ino()) {
            State::Replaced
        } else if bytes == self.bytes {
            State::Intact
        } else if bytes.is_empty() {
            State::Emptied
        } else {
            State::Changed
        })
    }

    /// Whether it is the same file, and nothing about it has changed. A new file may have the number of one that is gone.
    pub fn is_untouched(&self) -> Result<bool> {
        let facts = |meta: &fs::Metadata| (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec());
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            now => Ok(facts(&now?) == facts(&self.metadata)),
        }
    }

    /// Whether a file with the same bytes, mode and owner has the name; it may be another one.
    pub fn is_restored(&self) -> Result<bool> {
        let facts = |meta: &fs::Metadata| (meta.is_file(), meta.mode() & 0o7777, meta.uid(), meta.gid());
        let look = || io::Result::Ok((facts(&fs::symlink_metadata(&self.path)?), fs::read(&self.path)?));
        match look() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", self.path.display())),
            Ok((now, bytes)) => Ok(now == facts(&self.metadata) && bytes == self.bytes),
        }
    }

    /// Puts the file back as it was.
    pub fn restore(&mut self) -> Result<()> {
        match self.state()? {
            State::Intact => return Ok(()),
            State::Emptied | State::Changed => fs::write(&self.path, &self.bytes)?,
            State::Replaced | State::Missing => {
                let _ = fs::remove_file(&self.path);
                fs::write(&self.path, &self.bytes)?;
                fs::set_permissions(&self.path, fs::Permissions::from_mode(self.metadata.mode() & 0o7777))?;
                chown(&self.path, Some(self.metadata.uid()), Some(self.metadata.gid()))?;
                self.metadata = fs::metadata(&self.path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_file_has_the_bytes_and_the_mode_and_may_be_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("settings.js"), directory.path().join("other"));
        fs::write(&path, "good").unwrap();
        let snapshot = Snapshot::take(&path).unwrap();
        assert!(snapshot.is_restored().unwrap() && snapshot.is_untouched().unwrap());
        fs::write(&path, "").unwrap();
        assert!(!snapshot.is_restored().unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!snapshot.is_restored().unwrap());
        fs::write(&other, "good").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(snapshot.is_restored().unwrap() && !snapshot.is_untouched().unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!snapshot.is_restored().unwrap());
    }
}
