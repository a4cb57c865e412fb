//! The page at `http://ADDRESS/metrics`.
//!
//! A few connections at a time, each with a deadline, so that a client that says nothing keeps the page from no other.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::prometheus_text;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Counts, Figures};
use journal::Spool;

/// Timeout of one connection, from its first byte to the last of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of a request's head, in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Maximum number of connections at a time.
const MAX_CONNECTIONS: usize = 8;
/// Pause after an `accept` that failed, for want of descriptors for one.
const RETRY: Duration = Duration::from_millis(100);

/// The running page. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens, and answers from now on.
    pub fn start(address: SocketAddr, counts: Arc<Counts>, spool: Spool) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (stopped, figures) = (stop.clone(), Arc::new(Figures { counts, spool }));
        // A runtime of its own: to read the figures means to read files, which the guard's loop does not wait for.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            runtime.block_on(async { stopped.run_until_cancelled(serve(listener, figures)).await });
            // What is under way is not waited for.
            runtime.shutdown_background();
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
        self.stop.cancel();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(listener: TcpListener, figures: Arc<Figures>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let figures = Arc::clone(&figures);
                tokio::spawn(async move {
                    // A client that goes away or sends no HTTP gets no answer.
                    let _ = timeout(TIMEOUT, connection(stream, figures)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn connection(stream: TcpStream, figures: Arc<Figures>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let answer = answer(&request, &figures);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).max_buf_size(MAX_HEAD).keep_alive(false);
    server.serve_connection(TokioIo::new(stream), service).await
}

fn answer(request: &Request<Incoming>, figures: &Arc<Figures>) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = if ![Method::GET, Method::HEAD].contains(request.method()) {
        (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "use GET\n".to_owned())
    } else if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, PLAIN, "the figures are at /metrics\n".to_owned())
    } else {
        match figures.page() {
            Ok(page) => (StatusCode::OK, prometheus_text::CONTENT_TYPE, page),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
        }
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;
    use journal::{Journal, Limits};

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
        let _silent: Vec<_> = (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        let page = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("\nflowwarden_enforcing 0\n"), "{page}");
        assert!(ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(ask(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        let too_long = ask(address, &format!("GET /metrics HTTP/1.1\r\nx: {}", "x".repeat(MAX_HEAD * 2)));
        assert!(too_long.is_empty() || too_long.starts_with("HTTP/1.1 431 "), "{too_long}");
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
