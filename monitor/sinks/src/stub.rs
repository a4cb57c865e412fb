//! A web server for tests with scripted answers.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    thread,
};

use tempfile::NamedTempFile;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// With the query.
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A header by its name in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A server on loopback. Its threads end with the test program.
pub(crate) struct Server {
    address: SocketAddr,
    /// Each connection has a share.
    open: Arc<()>,
}

impl Server {
    /// Answers every request with a status and a body.
    pub(crate) fn start(answer: impl FnMut(&Request) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, open, answer) = (listener.local_addr().unwrap(), Arc::new(()), Arc::new(Mutex::new(answer)));
        let shares = Arc::clone(&open);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, share, answer) = (stream.unwrap(), Arc::clone(&shares), Arc::clone(&answer));
                thread::spawn(move || {
                    serve(&mut BufReader::new(stream), &answer);
                    drop(share);
                });
            }
        });
        Self { address, open }
    }

    /// The same with something that changes from request to request, to be looked at from outside.
    pub(crate) fn with<S: Send + 'static>(
        state: S,
        mut answer: impl FnMut(&mut S, &Request) -> (u16, String) + Send + 'static,
    ) -> (Self, Arc<Mutex<S>>) {
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        (Self::start(move |request| answer(&mut shared.lock().unwrap(), request)), state)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where requests to a path go.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        // One share is here, one with who accepts.
        Arc::strong_count(&self.open) - 2
    }
}

fn serve(stream: &mut BufReader<TcpStream>, answer: &Mutex<impl FnMut(&Request) -> (u16, String)>) {
    while let Some(request) = read(stream) {
        let (status, body) = (*answer.lock().unwrap())(&request);
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.get_mut().write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let path = lines.first()?.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let pairs = lines.iter().skip(1).filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> = pairs.map(|(key, value)| (key.to_lowercase(), value.to_owned())).collect();
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    Some(Request { path, headers, body })
}

/// A file with a secret that only its owner can read.
pub(crate) fn secret(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}
