//! The journal: JSON Lines on disk, one event a line.
//!
//! Everything that writes goes through [`Journal`]; segments, hash chains and cursors will come behind it.

pub mod console;
pub mod ocsf;
pub mod response;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The file in the journal's directory.
pub const FILE: &str = "journal.jsonl";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Something failed on the way to the disk.
    #[error("journal {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Others could change what is written.
    #[error("journal {path}: {why}; {mend}")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do.
        mend: String,
    },
}

/// How soon a line has to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before the call returns.
    Now,
    /// At the next [`Journal::flush`].
    Grouped,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    sequence: u64,
    run: String,
}

impl Journal {
    /// Opens the journal in a directory that nobody but its owner can write to; makes both when they are not there.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io(directory))?;
        let meta = fs::metadata(directory).map_err(io(directory))?;
        let refuse = |why: String, mend: String| Err(JournalError::Unsafe { path: directory.to_owned(), why, mend });
        let own = rustix::process::geteuid().as_raw();
        if meta.uid() != own {
            return refuse(
                format!("the directory belongs to uid {}", meta.uid()),
                format!("chown {own} {}", directory.display()),
            );
        }
        if meta.mode() & 0o022 != 0 {
            return refuse(
                "group or others can write to the directory".to_owned(),
                format!("chmod 0700 {}", directory.display()),
            );
        }
        let path = directory.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(io(&path))?;
        // A line that a crash cut short must not swallow the next one.
        if ends_torn(&mut file).map_err(io(&path))? {
            file.write_all(b"\n").map_err(io(&path))?;
        }
        Ok(Self { path, file, pending: Vec::new(), sequence: 0, run: run_id() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an event as one line, with its sequence number and an id of its own.
    pub fn append(&mut self, mut event: Value, durability: Durability) -> Result<(), JournalError> {
        self.sequence += 1;
        if let Some(metadata) = event.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("sequence".to_owned(), self.sequence.into());
            metadata.insert("uid".to_owned(), format!("{}-{}", self.run, self.sequence).into());
        }
        // Values of JSON always serialise.
        self.pending.extend_from_slice(event.to_string().as_bytes());
        self.pending.push(b'\n');
        if durability == Durability::Now || self.pending.len() > 1 << 20 {
            self.flush()?;
        }
        Ok(())
    }

    /// Puts everything on the disk.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.pending).and_then(|()| self.file.sync_data());
        // What did not reach the disk stays where it is, to be tried again; but not without bound.
        if written.is_ok() || self.pending.len() > 16 << 20 {
            self.pending.clear();
        }
        written.map_err(|source| JournalError::Io { path: self.path.clone(), source })
    }
}

/// Whether the file ends in the middle of a line.
fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Tells the events of one run of the guard from those of another.
fn run_id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    boot.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn lines(directory: &Path) -> Vec<String> {
        fs::read_to_string(directory.join(FILE)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_numbered_and_on_disk_when_they_must_be() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("journal");
        let mut journal = Journal::open(&directory).unwrap();
        journal.append(json!({"metadata": {}, "a": 1}), Durability::Grouped).unwrap();
        assert!(lines(&directory).is_empty());
        journal.append(json!({"metadata": {}, "a": "\n"}), Durability::Now).unwrap();
        let lines = lines(&directory);
        assert_eq!(lines.len(), 2);
        let second: Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(second["metadata"]["sequence"], 2);
        assert_eq!(fs::metadata(directory.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("journal");
        drop(Journal::open(&directory).unwrap());
        fs::write(directory.join(FILE), "{\"half\":").unwrap();
        Journal::open(&directory).unwrap().append(json!({}), Durability::Now).unwrap();
        assert_eq!(lines(&directory), ["{\"half\":", "{}"]);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Journal::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 0700"), "{error}");
    }

    #[test]
    fn a_link_in_place_of_the_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("journal");
        drop(Journal::open(&directory).unwrap());
        fs::remove_file(directory.join(FILE)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", directory.join(FILE)).unwrap();
        assert!(Journal::open(&directory).is_err());
    }
}
