//! Just enough of HTTP to talk to Node-RED: one request, one connection.
//!
//! HTTP/1.0, so that the server neither chunks its answer nor keeps the connection.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};

const TIMEOUT: Duration = Duration::from_mins(2);

/// What the server said.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Response {
    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Sends one request. `headers` are whole lines.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: impl AsRef<[u8]>,
) -> Result<Response> {
    let body = body.as_ref();
    let mut stream =
        TcpStream::connect_timeout(&server, TIMEOUT).with_context(|| format!("{server} is not reached"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut message = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        message.push_str(header);
        message.push_str("\r\n");
    }
    message.push_str("\r\n");
    stream.write_all(message.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("{server} did not finish its answer to {method} {path}"))?;
    parse(&String::from_utf8_lossy(&answer)).with_context(|| format!("{server} does not speak HTTP"))
}

fn parse(answer: &str) -> Option<Response> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let response = parse("HTTP/1.1 204 No Content\r\nA: b\r\n\r\n").unwrap();
        assert_eq!((response.status, response.body.as_str()), (204, ""));
        assert!(parse("HTTP/1.1 200 OK").is_none());
    }
}
