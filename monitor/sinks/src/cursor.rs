//! How far a sink has come: one small file for each, replaced as a whole after the receiver has taken a batch.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use journal::{JournalError, durable, reader::Position};

/// Where cursors and dead letters are, below the journal's directory.
const DIRECTORY: &str = "sinks";
/// Longest cursor, in bytes.
const LONGEST: u64 = 1 << 20;

/// A sink's place in the journal, and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Before the first line that was not delivered.
    pub position: Position,
    /// Number of the line before that.
    pub sequence: u64,
    /// Events that the receiver has taken.
    pub delivered: u64,
    /// Events that the receiver will never take, and that were put aside.
    pub dead: u64,
    /// When the receiver took something last, in milliseconds since 1970.
    pub delivered_at: Option<i64>,
    /// What went wrong last; none when all is well.
    pub error: Option<String>,
}

/// The file of a sink's cursor.
#[must_use]
pub fn path(journal: &Path, sink: &str) -> PathBuf {
    journal.join(DIRECTORY).join(format!("{sink}.cursor"))
}

/// The file of events that a receiver will never take.
#[must_use]
pub fn dead_letters(journal: &Path, sink: &str) -> PathBuf {
    journal.join(DIRECTORY).join(format!("{sink}.dead.jsonl"))
}

impl Cursor {
    /// Reads the cursor of a sink; none when it has none yet.
    pub fn load(journal: &Path, sink: &str) -> Result<Option<Self>, JournalError> {
        let path = path(journal, sink);
        match durable::read(&path, LONGEST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => {
                let text = text.map_err(JournalError::io(&path))?;
                serde_json::from_slice(&text).map(Some).map_err(|error| JournalError::io(&path)(error.into()))
            }
        }
    }

    /// Puts it on the disk.
    pub(super) fn store(&self, journal: &Path, sink: &str) -> Result<(), JournalError> {
        let path = path(journal, sink);
        let write = || -> io::Result<()> {
            durable::make(&journal.join(DIRECTORY))?;
            durable::replace(&path, &serde_json::to_vec(self)?)
        };
        write().map_err(JournalError::io(&path))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Cursor::load(directory.path(), "a").unwrap(), None);
        let cursor = Cursor { position: Position { segment: 3, offset: 7 }, sequence: 9, ..Cursor::default() };
        cursor.store(directory.path(), "a").unwrap();
        assert_eq!(Cursor::load(directory.path(), "a").unwrap(), Some(cursor));
        fs::write(path(directory.path(), "a"), "{").unwrap();
        assert!(Cursor::load(directory.path(), "a").unwrap_err().to_string().contains("a.cursor"));
    }
}
