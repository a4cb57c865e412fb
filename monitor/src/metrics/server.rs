//! The page at `http://ADDRESS/metrics`: one request at a time, each with a deadline, so that nobody can hold more than a
//! moment of one thread.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
};

use super::Counts;
use crate::journal::Spool;

/// How long a client may take to ask, and again to take the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest head of a request, in bytes.
const LONGEST: usize = 8 << 10;
/// How long the thread rests when the system gives it no connection.
const REST: Duration = Duration::from_millis(100);

/// The running page. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// An event on it ends the wait for connections.
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens, and answers from now on.
    pub fn start(address: SocketAddr, counts: Arc<Counts>, spool: Spool) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        // Whoever was there may be gone again when it is asked who it was.
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let work = move || {
            while is_asked(&listener, &stopped) {
                match listener.accept() {
                    // A client that goes away or talks nonsense is its own matter.
                    Ok((stream, _)) => drop(answer(stream, &counts, &spool)),
                    Err(_) => thread::sleep(REST),
                }
            }
        };
        let thread = thread::Builder::new().name("metrics".to_owned()).spawn(work)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without an event the thread would never end: it is left alone then.
        if rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).is_ok() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}

/// Waits for a connection; false when there is to be none any more.
fn is_asked(listener: &TcpListener, stop: &OwnedFd) -> bool {
    let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    loop {
        match poll(&mut both, None) {
            Err(Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => return both[1].revents().is_empty(),
        }
    }
}

fn answer(mut stream: TcpStream, counts: &Counts, spool: &Spool) -> io::Result<()> {
    let head = head(&mut stream)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", counts.page(spool)),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "the figures are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
    );
    let body = if method == "HEAD" { "" } else { &body };
    stream.write_all(format!("{head}{body}").as_bytes())
}

/// What a client says up to the empty line.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let (mut head, mut part) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > LONGEST {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let length = stream.read(&mut part)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(part.get(..length).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, Limits};

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    #[test]
    fn the_page_is_given_and_nothing_else_and_a_silent_client_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let server = Server::start(loopback, Arc::default(), journal.spool()).unwrap();
        let address = server.address();
        let _silent = TcpStream::connect(address).unwrap();
        let page = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("\nflowwarden_enforcing 0\n"), "{page}");
        assert!(ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        // What never ends is given up.
        assert_eq!(ask(address, &"x".repeat(LONGEST * 2)), "");
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
