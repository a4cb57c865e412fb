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
