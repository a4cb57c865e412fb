//! The journal's directory: root's alone, and one writer's at a time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::JournalError;
use crate::durable::{self, Forbidden};

const LOCK: &str = "lock";

/// A directory that this process alone writes to, until it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory when it is not there, refuses one that others can write to, and waits for its lock.
    pub(super) fn open(path: &Path, patience: Duration) -> Result<Self, JournalError> {
        durable::make(path).map_err(JournalError::io(path))?;
        let meta = fs::metadata(path).map_err(JournalError::io(path))?;
        durable::check(path, &meta, Forbidden::Write).map_err(|found| JournalError::Unsafe {
            path: path.to_owned(),
            why: found.why,
            fix: found.fix,
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock(&path.join(LOCK), patience)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the lock; the holder's pid stands in the file.
fn lock(path: &Path, patience: Duration) -> Result<File, JournalError> {
    let mut file = open_write(path).map_err(JournalError::io(path))?;
    match durable::lock(&file, patience) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(JournalError::Locked { path: path.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(error) => return Err(JournalError::io(path)(error)),
    }
    // Only said in an error message: nothing rests on it.
    let _ = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    Ok(file)
}

/// Whether somebody writes to the journal in `directory` just now.
#[must_use]
pub(super) fn is_in_use(directory: &Path) -> bool {
    let Ok(file) = durable::open(&directory.join(LOCK)) else { return false };
    matches!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
}

/// Puts what happened to the names in a directory on the disk.
pub(super) fn sync(path: &Path) -> Result<(), JournalError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(JournalError::io(path))
}

/// Opens a file of the journal's own to be read and written anywhere; makes it when it is not there.
pub(super) fn open_write(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Opens a file of the journal for adding to it.
pub(super) fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Longest file of checkpoints or keys that is read, in bytes: a key every hour for a hundred years.
pub(super) const LONGEST: u64 = 512 << 20;

/// Removes the line at the end of a file that a crash cut short.
pub(super) fn cut_torn(path: &Path) -> io::Result<()> {
    let text = match durable::read(path, LONGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        let file = File::options().write(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, thread};

    use super::*;

    const NOT_LONG: Duration = Duration::from_millis(50);

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Directory::open(directory.path(), NOT_LONG).unwrap_err().to_string();
        assert!(error.contains("chmod 0700"), "{error}");
    }

    #[test]
    fn two_agents_never_write_one_journal_and_the_second_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let first = Directory::open(&path, NOT_LONG).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let error = Directory::open(&path, NOT_LONG).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        let second = thread::spawn(move || Directory::open(&path, durable::PATIENCE).map(drop));
        thread::sleep(NOT_LONG);
        drop(first);
        second.join().unwrap().unwrap();
    }
}
