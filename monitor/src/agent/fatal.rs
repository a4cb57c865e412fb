//! What ends a running guard with an error: this list, and nothing else.

use std::io;

use journal::JournalError;

/// Why a guard that was running has ended with an error. Its exit code is [`Fatal::EXIT_CODE`].
///
/// Every other failure is a `Task`: it is reported, and the guard goes on. Pinned programs go on to
/// enforce in any case.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The kernel's records cannot be waited for: nothing would be journaled any more. The next run takes over.
    #[error("records cannot be read from the kernel any more, start the guard again: {0}")]
    Records(io::Error),
    /// The guard was asked to stop, and has stopped, but the journal could not take its last events.
    #[error("stopped, but {0}")]
    Unwritten(#[from] JournalError),
}

impl Fatal {
    /// The exit code of all of them: code 2, a wrong policy, would keep systemd from starting the guard again.
    pub const EXIT_CODE: u8 = 1;
}
