//! The errors that end a running guard. No other error does.

use std::io;

use journal::JournalError;

/// Why a running guard ended with an error. The exit code is [`Fatal::EXIT_CODE`].
///
/// Every other failure is a failure of a `Task`: it is reported, and the guard continues. Pinned programs keep enforcing in
/// any case.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The ring buffer cannot be polled, so no record would be journaled. The next run takes over.
    #[error("records cannot be read from the kernel any more, start the guard again: {0}")]
    Records(io::Error),
    /// The guard stopped on request, and the journal could not write its last events.
    #[error("stopped, but {0}")]
    Unwritten(#[from] JournalError),
}

impl Fatal {
    /// Exit code of these errors. Code 2, an invalid policy, would keep systemd from restarting the guard.
    pub const EXIT_CODE: u8 = 1;
}
