//! What the guard keeps from one run to the next, in a directory that only its own user can enter.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::durable::{self, Forbidden};

/// Where it is kept unless another place is named.
pub const DIRECTORY: &str = "/var/lib/flowwarden";

/// Why the state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Something failed in the file system.
    #[error("state {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Others could change what is kept.
    #[error("state {path}: {why}; {fix}")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do.
        fix: String,
    },
    /// Another guard uses the directory.
    #[error("a guard runs already with the state in {}: stop it first, or name another directory with --state", .0.display())]
    InUse(PathBuf),
}

type Result<T> = std::result::Result<T, StateError>;

/// An error about a path.
pub fn io(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

impl State {
    /// Opens the directory; creates it if it is missing. Only its owner may write to it.
    pub fn open(directory: &Path) -> Result<Self> {
        durable::make(directory).map_err(io(directory))?;
        let meta = fs::symlink_metadata(directory).map_err(io(directory))?;
        let refuse = |why: String, fix: String| StateError::Unsafe { path: directory.to_owned(), why, fix };
        if !meta.is_dir() {
            return Err(refuse("it is no directory".to_owned(), "name another with --state".to_owned()));
        }
        durable::check(directory, &meta, Forbidden::Enter).map_err(|found| refuse(found.why, found.fix))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// A directory inside, made when it is not there.
    pub fn within(&self, name: &str) -> Result<Self> {
        Self::open(&self.directory.join(name))
    }

    /// Keeps other guards out of it for as long as the file is open.
    pub fn lock(&self, patience: Duration) -> Result<File> {
        let lock = File::open(&self.directory).map_err(io(&self.directory))?;
        match durable::lock(&lock, patience) {
            Ok(()) => Ok(lock),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(StateError::InUse(self.directory.clone())),
            Err(error) => Err(io(&self.directory)(error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// What was kept under a name; `None` when nothing was.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(&path)(error)),
        }
    }

    /// Removes what was kept under a name, if anything was.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(&path)(error)),
            _ => File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(io(&self.directory)),
        }
    }

    /// Keeps something under a name: after a crash there is either what was there before or all of the new.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        durable::replace(&path, content).map_err(io(&path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("a/b")).unwrap();
        assert_eq!(state.read("x").unwrap(), None);
        state.write("x", b"1").unwrap();
        state.write("x", b"2").unwrap();
        assert_eq!(state.read("x").unwrap().as_deref(), Some(&b"2"[..]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(state.path()), mode(&state.path().join("x"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = State::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 0700"), "{error}");
    }

    #[test]
    fn it_is_one_guards() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("a")).unwrap();
        let lock = state.lock(Duration::ZERO).unwrap();
        let refused = state.lock(Duration::ZERO).unwrap_err().to_string();
        assert!(refused.starts_with("a guard runs already") && refused.ends_with("with --state"), "{refused}");
        drop(lock);
        state.lock(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(State::open(&link).is_err());
    }
}
