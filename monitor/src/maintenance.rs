//! Maintenance windows as they are asked for: between `flowwarden maintenance` and the running guard.
//!
//! A socket in the guard's state directory, which only its own user can enter and no watched process can connect to. One
//! line of JSON each way.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    thread,
    time::Duration,
};

use monitor_common::policy::Maintenance;
use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{
    durable,
    state::{self, State, StateError},
    stdio::complain,
};

/// Name of the socket in the state directory.
const SOCKET: &str = "control";
/// Longest request or answer, in bytes.
const MAX_LINE: u64 = 64 << 10;
/// How long the other end may take over its line.
const PATIENCE: Duration = Duration::from_secs(5);

/// A window that is longer is a policy.
pub const LONGEST: Duration = Duration::from_hours(24);
/// The shortest.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// Why the running guard could not be asked, or what it did not do.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// Nobody listens.
    #[error(
        "{0}: no guard runs with this state directory: start one, or name another with --state. Windows that are open \
         close at their time, guard or no guard"
    )]
    NoGuard(PathBuf),
    /// Somebody else asks.
    #[error("maintenance windows are root's to open, to close and to know of. Try: sudo flowwarden maintenance")]
    NotRoot,
    /// Something failed on the way.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The guard has another version.
    #[error("the running guard's answer cannot be read ({0}); is it of another version?")]
    Answer(serde_json::Error),
    /// The guard refused.
    #[error("{0}")]
    Refused(String),
}

/// What is asked of the guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Open a window, or move the end of one that is open.
    Open {
        /// Name of the instance; may be left out when there is one only.
        instance: Option<String>,
        /// Name of the [`Maintenance`].
        class: String,
        /// How long from now on.
        seconds: u64,
    },
    /// Close windows.
    Close {
        /// Those of this instance only.
        instance: Option<String>,
        /// Those for this [`Maintenance`] only.
        class: Option<String>,
    },
    /// Say which are open.
    Status,
}

/// A window that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Name of the instance.
    pub instance: String,
    /// Name of the [`Maintenance`].
    pub class: String,
    /// `CLOCK_BOOTTIME` at its end, in nanoseconds.
    pub until_ns: u64,
    /// Who has opened it.
    pub by: String,
}

impl Window {
    /// What is worked on; `None` when the name was written by another version.
    #[must_use]
    pub fn maintenance(&self) -> Option<Maintenance> {
        Maintenance::by_name(&self.class)
    }

    /// How long it stays open.
    #[must_use]
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.until_ns.saturating_sub(boot_ns()))
    }
}

/// What the guard answers: the windows in question, or why nothing was done.
pub type Answer = Result<Vec<Window>, String>;

/// `CLOCK_BOOTTIME` in nanoseconds.
#[must_use]
pub fn boot_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let nanoseconds = time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or_default()
}

/// A length of time as people write it: `15m`, `2h 30m`.
pub fn length(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|error| format!("{error}; a time is like 15m or 2h"))?;
    if (SHORTEST..=LONGEST).contains(&length) {
        Ok(Duration::from_secs(length.as_secs()))
    } else {
        Err("a window is open for 1s to 24h: what is to stay open is a rule of the policy".to_owned())
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub by: String,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// The guard's end of the socket, which goes away with it.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    requests: mpsc::Receiver<Asked>,
    /// The state directory, locked: whoever else took the socket away would be asked instead.
    _lock: File,
}

impl Listener {
    /// Begins to listen. The socket of an earlier run that was killed is replaced, that of one that runs is not.
    pub fn open(state: &State) -> Result<Self, StateError> {
        let lock = state.lock(durable::PATIENCE)?;
        let path = state.path().join(SOCKET);
        Self::listen(path.clone(), lock).map_err(state::io(&path))
    }

    fn listen(path: PathBuf, lock: File) -> io::Result<Self> {
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let (asked, requests) = mpsc::channel(1);
        // Ends with the process: it holds nothing that has to be put away.
        thread::Builder::new().name("control".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = serve(&stream, &asked) {
                    complain(&format_args!("a request could not be answered: {error}"));
                }
                if asked.is_closed() {
                    break;
                }
            }
        })?;
        Ok(Self { path, requests, _lock: lock })
    }

    /// The next request.
    pub async fn next(&mut self) -> Option<Asked> {
        self.requests.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes one request, and answers it.
fn serve(mut stream: &UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = socket_peercred(stream)?;
    let answer: Answer = if peer.uid.is_root() {
        let mut line = String::new();
        BufReader::new(stream).take(MAX_LINE).read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Ok(request) => ask(request, caller(peer.pid), asked),
            Err(error) => Err(format!("the request cannot be read ({error}); is the guard of another version?")),
        }
    } else {
        Err("only root opens and closes maintenance windows".to_owned())
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn ask(request: Request, by: String, asked: &mpsc::Sender<Asked>) -> Answer {
    let stopping = || "the guard is about to stop".to_owned();
    let (answer, answered) = oneshot::channel();
    asked.blocking_send(Asked { request, by, answer }).map_err(|_| stopping())?;
    answered.blocking_recv().map_err(|_| stopping())?
}

/// A process as records name it. Root's own word: it is told, and nothing rests on it.
fn caller(pid: rustix::process::Pid) -> String {
    let pid = pid.as_raw_nonzero();
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default().trim().to_owned();
    match read("loginuid").parse::<u32>() {
        Ok(uid) if uid != u32::MAX => format!("{} (pid {pid}, login uid {uid})", read("comm")),
        _ => format!("{} (pid {pid})", read("comm")),
    }
}

/// Asks the guard that runs with this state directory.
pub fn request(state: &State, request: &Request) -> Result<Vec<Window>, MaintenanceError> {
    let path = state.path().join(SOCKET);
    let failed = |source| MaintenanceError::Io { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            MaintenanceError::NoGuard(state.path().to_owned())
        }
        _ => failed(source),
    })?;
    // The guard may be reading a policy at this moment.
    stream.set_read_timeout(Some(6 * PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(MaintenanceError::Answer)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut text = String::new();
    BufReader::new(stream).take(MAX_LINE).read_line(&mut text).map_err(failed)?;
    let answer: Answer = serde_json::from_str(&text).map_err(MaintenanceError::Answer)?;
    answer.map_err(MaintenanceError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_a_length_that_fits() {
        assert_eq!(length("15m"), Ok(Duration::from_mins(15)));
        assert_eq!(length("24h"), Ok(LONGEST));
        for text in ["0s", "999ms", "24h 1s", "9999999days", "-3m", "soon", ""] {
            assert!(length(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_request_is_answered_and_nonsense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        let missing = request(&state, &Request::Status).unwrap_err().to_string();
        assert!(missing.contains("no guard runs"), "{missing}");
        // What a run that was killed has left behind.
        drop(UnixListener::bind(state.path().join(SOCKET)).unwrap());
        let missing = request(&state, &Request::Status).unwrap_err().to_string();
        assert!(missing.contains("no guard runs"), "{missing}");

        let mut listener = Listener::open(&state).unwrap();
        thread::spawn(move || {
            while let Some(Asked { request, by, answer }) = listener.requests.blocking_recv() {
                let window = Window { instance: "a".into(), class: "palette".into(), until_ns: 1, by };
                let _ = answer.send(match request {
                    Request::Status => Ok(vec![window]),
                    _ => Err("no".to_owned()),
                });
            }
        });
        let open = Request::Open { instance: None, class: "palette".into(), seconds: 3 };
        if rustix::process::geteuid().is_root() {
            let windows = request(&state, &Request::Status).unwrap();
            assert!(windows[0].by.contains(&format!("pid {}", std::process::id())), "{windows:?}");
            assert_eq!(request(&state, &open).unwrap_err().to_string(), "no");
            let mut stream = UnixStream::connect(state.path().join(SOCKET)).unwrap();
            stream.write_all(b"{\"open\":7}\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains("cannot be read"), "{answer}");
        } else {
            let refused = request(&state, &open).unwrap_err().to_string();
            assert!(refused.contains("only root"), "{refused}");
        }
    }
}
