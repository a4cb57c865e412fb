//! The command line's end of the socket.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Answer, MAX_ANSWER, Outcome, Refusal, Request, SOCKET};
use journal::state::{State, StateError};

/// How long the guard may take: it answers in turn, may be starting, and may be compiling a long policy on a small board.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Why the running guard could not be asked, or what it did not do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing listens.
    #[error("{0}: no guard runs with this state directory: start one, or name another directory with --state")]
    NoGuard(PathBuf),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Something failed on the way.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The guard does not answer.
    #[error("{0}: the guard has not answered for {secs} s; it may still do what was asked: see its journal", secs = TIMEOUT.as_secs())]
    Timeout(PathBuf),
    /// The guard has ended before it answered.
    #[error("{0}: the guard has ended without an answer")]
    Ended(PathBuf),
    /// The guard has another version.
    #[error("the running guard's answer cannot be read ({0}); is it of another version?")]
    Answer(serde_json::Error),
    /// The guard refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks the guard that runs with this state directory, and waits for its answer.
pub fn ask(directory: &Path, request: &Request) -> Result<Answer, ControlError> {
    // A directory that is not there is not made for a question.
    if !directory.is_dir() {
        return Err(ControlError::NoGuard(directory.to_owned()));
    }
    let path = State::open(directory)?.path().join(SOCKET);
    let failed = |source| ControlError::Io { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NoGuard(directory.to_owned()),
        _ => failed(source),
    })?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(ControlError::Answer)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut text = String::new();
    let read = BufReader::new(stream).take(MAX_ANSWER).read_line(&mut text);
    match read {
        Ok(0) => return Err(ControlError::Ended(path)),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(ControlError::Timeout(path)),
        Err(error) => return Err(failed(error)),
    }
    let outcome: Outcome = serde_json::from_str(&text).map_err(ControlError::Answer)?;
    Ok(outcome?)
}
