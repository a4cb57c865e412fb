//! The file with the agent's pid, for `flowwarden reload`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::AgentError;

/// The file; it is gone when this is dropped.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's pid.
    pub(super) fn write(path: &Path) -> Result<Self, AgentError> {
        let failed = |source| AgentError::PidFile { path: path.to_owned(), source };
        fs::write(path, std::process::id().to_string()).map_err(failed)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // One that stays names a process that is not flowwarden any more, and `reload` says so.
        let _ = fs::remove_file(&self.0);
    }
}
