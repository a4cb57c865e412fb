//! The guard's end of the socket.

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

use rustix::{net::sockopt::socket_peercred, process::Pid};
use tokio::sync::{mpsc, oneshot};

use super::{MAX_REQUEST, Outcome, Refusal, Request, SOCKET};
use journal::{
    durable,
    state::{self, State, StateError},
    stdio::complain,
};

/// How long a peer may take to send its request, and to take its answer: others wait meanwhile.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long no connection is taken after one that could not be, as when too many files are open.
const BACKOFF: Duration = Duration::from_secs(1);

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What is asked.
    pub(crate) request: Request,
    /// Who asks.
    pub(crate) by: String,
    /// Where the answer goes.
    pub(crate) answer: oneshot::Sender<Outcome>,
}

/// The socket, which goes away with this.
#[derive(Debug)]
pub(crate) struct Listener {
    path: PathBuf,
    requests: mpsc::Receiver<Asked>,
    /// The state directory, locked: another guard that took the socket away would be asked instead.
    _lock: File,
}

impl Listener {
    /// Begins to listen. The socket of an earlier run that was killed is replaced, that of one that runs is not.
    pub(crate) fn open(state: &State) -> Result<Self, StateError> {
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
        thread::Builder::new().name("control".to_owned()).spawn(move || serve_all(&listener, &asked))?;
        Ok(Self { path, requests, _lock: lock })
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Option<Asked> {
        self.requests.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves one connection after the other until the guard ends.
fn serve_all(listener: &UnixListener, asked: &mpsc::Sender<Asked>) {
    let mut failing = false;
    for stream in listener.incoming() {
        let accepted = stream.as_ref().map(drop);
        if let Ok(stream) = &stream
            && let Err(error) = serve(stream, asked)
        {
            complain(&format_args!("a request could not be answered: {error}"));
        }
        if asked.is_closed() {
            break;
        }
        if let Err(error) = accepted {
            if !failing {
                complain(&format_args!("requests cannot be taken: {error}"));
            }
            thread::sleep(BACKOFF);
        }
        failing = stream.is_err();
    }
}

/// Takes one request, and answers it.
fn serve(mut stream: &UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let peer = socket_peercred(stream)?;
    // Read in any case: what is left unread resets the connection, and the answer is lost.
    let mut line = String::new();
    BufReader::new(stream).take(MAX_REQUEST).read_line(&mut line)?;
    let outcome: Outcome = if peer.uid.is_root() {
        match serde_json::from_str(&line) {
            Ok(request) => ask(request, caller(peer.pid), asked),
            Err(error) => Err(Refusal::Unreadable(error.to_string())),
        }
    } else {
        Err(Refusal::NotRoot)
    };
    let mut line = serde_json::to_vec(&outcome.map_err(Refusal::bounded))?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn ask(request: Request, by: String, asked: &mpsc::Sender<Asked>) -> Outcome {
    let (answer, answered) = oneshot::channel();
    asked.blocking_send(Asked { request, by, answer }).map_err(|_| Refusal::Stopping)?;
    answered.blocking_recv().map_err(|_| Refusal::Stopping)?
}

/// A process as records name it. Root's own word: it is reported, and nothing rests on it.
fn caller(pid: Pid) -> String {
    let pid = pid.as_raw_nonzero();
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default().trim().to_owned();
    match read("loginuid").parse::<u32>() {
        Ok(uid) if uid != u32::MAX => format!("{} (pid {pid}, login uid {uid})", read("comm")),
        _ => format!("{} (pid {pid})", read("comm")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Answer, ControlError, client},
        *,
    };
    use crate::maintenance::{self, Window};

    fn status() -> Request {
        Request::Maintenance(maintenance::Request::Status)
    }

    #[test]
    fn a_request_is_answered_and_nonsense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let no_guard = || matches!(client::ask(&path, &status()), Err(ControlError::NoGuard(_)));
        assert!(no_guard() && !path.exists(), "a question makes no directory");
        let state = State::open(&path).unwrap();
        assert!(no_guard());
        // What a run that was killed has left behind.
        drop(UnixListener::bind(path.join(SOCKET)).unwrap());
        assert!(no_guard());

        let mut listener = Listener::open(&state).unwrap();
        let second = state.lock(Duration::ZERO).unwrap_err().to_string();
        assert!(second.starts_with("a guard runs already with the state in"), "{second}");
        let faults = vec!["p.toml:1:2: a".to_owned(), "p.toml:3:4: b".to_owned()];
        let faulty = faults.clone();
        thread::spawn(move || {
            while let Some(Asked { request, by, answer }) = listener.requests.blocking_recv() {
                let window = Window { instance: "a".into(), class: "palette".into(), until_ns: 1, by };
                let _ = answer.send(match request {
                    Request::Maintenance(_) => Ok(Answer::Windows(vec![window])),
                    Request::Reload => Err(Refusal::Policy(faulty.clone())),
                });
            }
        });
        if rustix::process::geteuid().is_root() {
            let Ok(Answer::Windows(windows)) = client::ask(&path, &status()) else { panic!("no windows") };
            assert!(windows[0].by.contains(&format!("pid {}", std::process::id())), "{windows:?}");
            let Err(ControlError::Refused(Refusal::Policy(answer))) = client::ask(&path, &Request::Reload) else {
                panic!("not refused")
            };
            assert_eq!(answer, faults);
            let mut stream = UnixStream::connect(path.join(SOCKET)).unwrap();
            stream.write_all(b"{\"open\":7}\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains("unreadable"), "{answer}");
        } else {
            let refused = client::ask(&path, &Request::Reload).unwrap_err();
            assert!(matches!(refused, ControlError::Refused(Refusal::NotRoot)), "{refused}");
        }
    }

    /// A socket pair whose ends belong to another user than root.
    fn pair_of_another_user() -> (UnixStream, UnixStream) {
        if !rustix::process::geteuid().is_root() {
            return UnixStream::pair().unwrap();
        }
        let make = || {
            // SAFETY: no pointers. The bare call changes this thread alone, which ends after it.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, 61_998, 61_998, 61_998) };
            assert_eq!(changed, 0);
            UnixStream::pair().unwrap()
        };
        thread::spawn(make).join().unwrap()
    }

    #[test]
    fn another_user_is_refused_whatever_is_asked() {
        // Whatever came through would be answered with something else.
        let (asked, requests) = mpsc::channel(1);
        drop(requests);
        let (ours, mut theirs) = pair_of_another_user();
        theirs.write_all(b"\"reload\"\n").unwrap();
        serve(&ours, &asked).unwrap();
        let mut answer = String::new();
        drop(ours);
        theirs.read_to_string(&mut answer).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&answer).unwrap(), Err(Refusal::NotRoot));
    }

    #[test]
    fn a_guard_that_ends_says_so() {
        let (asked, requests) = mpsc::channel(1);
        drop(requests);
        assert_eq!(ask(Request::Reload, "me".to_owned(), &asked), Err(Refusal::Stopping));
    }
}
