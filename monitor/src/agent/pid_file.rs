//! The file with the agent's pid, for `flowwarden reload`.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::AgentError;
use crate::durable;

/// The file, locked for as long as the guard runs; it is gone when this is dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    _lock: File,
}

impl PidFile {
    /// Writes this process's pid.
    pub(super) fn write(path: &Path, patience: Duration) -> Result<Self, AgentError> {
        let failed = |source| AgentError::PidFile { path: path.to_owned(), source };
        let mut file = loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
            durable::lock(&file, patience).map_err(|source| match source.kind() {
                ErrorKind::WouldBlock => AgentError::PidFileInUse(path.to_owned()),
                _ => failed(source),
            })?;
            // The guard that was waited for has removed its file: what is locked then is nobody's any more.
            let (ours, named) = (file.metadata().map_err(failed)?, fs::metadata(path));
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
                break file;
            }
        };
        // What a guard that was killed has left. A pipe has nothing to cut.
        let _ = file.set_len(0);
        file.write_all(std::process::id().to_string().as_bytes()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // One that stays names a process that is not flowwarden any more, and `reload` says so.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_file_is_one_guards_and_what_one_that_was_killed_has_left_is_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "4194304 and more").unwrap();
        let first = PidFile::write(&path, Duration::ZERO).unwrap();
        let own = std::process::id().to_string();
        let second = PidFile::write(&path, Duration::ZERO).unwrap_err();
        assert!(matches!(second, AgentError::PidFileInUse(_)), "{second}");
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
        drop(first);
        assert!(!path.exists());
        PidFile::write(&path, Duration::ZERO).unwrap();
    }
    #[test]
    fn whoever_waited_for_another_guard_to_end_has_a_file_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let first = PidFile::write(&path, Duration::ZERO).unwrap();
        let second = thread::spawn({
            let path = path.clone();
            move || PidFile::write(&path, Duration::from_mins(1)).unwrap()
        });
        thread::sleep(Duration::from_millis(300));
        drop(first);
        let _second = second.join().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), std::process::id().to_string());
    }
}
