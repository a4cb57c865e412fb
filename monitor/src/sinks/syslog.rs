//! Syslog, RFC 5424: over UDP, TCP (octet counting, RFC 6587) or TLS (RFC 5425).
//!
//! Syslog has no acknowledgement. Over TCP and TLS a batch counts as taken when the server's kernel has it and the
//! connection still stands; what was sent in the last seconds before a connection broke is sent again. So a server that is
//! killed loses nothing unless this guard ends in the same seconds, and may get some events twice (`metadata.uid`).

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use serde_json::Value;

use super::{
    Failure, Message, Receiver,
    config::{SyslogTarget, Transport},
    connection::{Connection, PATIENCE},
    later,
};
use crate::journal::terminal::is_hidden;

/// Most events that are handed over at once.
const MOST: usize = 100;
/// What was sent so recently may have been lost with the connection.
const RECENT: Duration = Duration::from_secs(5);
/// Most bytes that are kept to be sent again.
const MOST_RECENT: usize = 4 << 20;
/// Log audit.
const FACILITY: u8 = 13;
/// Largest datagram that is tried, in bytes.
const LARGEST: usize = 65_000;

/// A syslog server.
pub(super) struct Syslog {
    target: SyslogTarget,
    open: Option<Open>,
    recent: VecDeque<(Instant, Vec<u8>)>,
    recent_bytes: usize,
}

enum Open {
    Udp(UdpSocket),
    Stream(Connection),
}

impl Syslog {
    pub(super) fn new(target: SyslogTarget) -> Self {
        Self { target, open: None, recent: VecDeque::new(), recent_bytes: 0 }
    }

    fn connect(&self) -> io::Result<Open> {
        let files = match &self.target.transport {
            Transport::Udp => return Ok(Open::Udp(self.socket()?)),
            Transport::Tcp => None,
            Transport::Tls(files) => Some(files),
        };
        Connection::open(&self.target.server, files).map(Open::Stream)
    }

    fn socket(&self) -> io::Result<UdpSocket> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.target.server.to_socket_addrs()? {
            let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
            match socket.and_then(|socket| socket.connect(address).map(|()| socket)) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn send(&mut self, batch: &[Message]) -> io::Result<()> {
        if self.open.is_none() {
            let mut open = self.connect()?;
            if let Open::Stream(connection) = &mut open {
                for (_, frame) in &self.recent {
                    connection.write_all(frame)?;
                }
                settle(connection)?;
            }
            self.open = Some(open);
        }
        let frames: Vec<_> = batch.iter().map(|message| frame(&message.event, &message.text)).collect();
        match &mut self.open {
            Some(Open::Udp(socket)) => {
                for frame in &frames {
                    socket.send(frame)?;
                }
            }
            Some(Open::Stream(connection)) => {
                let frames: Vec<_> = frames
                    .into_iter()
                    .map(|frame| [format!("{} ", frame.len()).into_bytes(), frame].concat())
                    .collect();
                connection.write_all(&frames.concat())?;
                settle(connection)?;
                self.remember(frames);
            }
            None => {}
        }
        Ok(())
    }

    fn remember(&mut self, frames: Vec<Vec<u8>>) {
        let now = Instant::now();
        for frame in frames {
            self.recent_bytes += frame.len();
            self.recent.push_back((now, frame));
        }
        while let Some((since, frame)) = self.recent.front()
            && (now.duration_since(*since) > RECENT || self.recent_bytes > MOST_RECENT)
        {
            self.recent_bytes -= frame.len();
            self.recent.pop_front();
        }
    }
}

/// Waits until the server's kernel has everything, and looks whether the connection still stands.
fn settle(connection: &mut Connection) -> io::Result<()> {
    connection.flush()?;
    let start = Instant::now();
    while unsent(&connection.socket)? > 0 {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server takes nothing any more"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    // A syslog server has nothing to say.
    connection.socket.set_nonblocking(true)?;
    let read = connection.read_within(&mut [0; 64], PATIENCE);
    connection.socket.set_nonblocking(false)?;
    read.map(drop)
}

/// Bytes that the peer has not acknowledged.
fn unsent(socket: &TcpStream) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the request writes one `int` to where the pointer shows.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

impl Receiver for Syslog {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        if self.target.transport == Transport::Udp
            && let Some(taken) = batch.iter().position(|message| message.text.len() > LARGEST)
        {
            return match taken {
                0 => Err(Failure::Never { taken: 0, why: "the event does not fit in a datagram".to_owned() }),
                _ => self
                    .deliver(batch.get(..taken).unwrap_or_default())
                    .and(Err(Failure::Never { taken, why: "the event does not fit in a datagram".to_owned() })),
            };
        }
        self.send(batch).map_err(|error| {
            self.open = None;
            later(0, &self.target.server, &error)
        })
    }
}

/// An event as a message of RFC 5424.
fn frame(event: &Value, text: &[u8]) -> Vec<u8> {
    let severity = match event["severity_id"].as_i64() {
        Some(2) => 5,
        Some(3) => 4,
        Some(4) => 3,
        Some(5..) => 2,
        _ => 6,
    };
    let millis = u64::try_from(event["time"].as_i64().unwrap_or_default()).unwrap_or_default();
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis));
    let host = field(event["device"]["hostname"].as_str().unwrap_or_default(), 255);
    let pid = std::process::id();
    let id = field(event["unmapped"]["hook"].as_str().or(event["activity_name"].as_str()).unwrap_or_default(), 32);
    let head = format!("<{}>1 {time} {host} flowwarden {pid} {id} - ", FACILITY * 8 + severity);
    [head.as_bytes(), text].concat()
}

/// A field of the header: printable ASCII without spaces, `-` when there is nothing.
fn field(text: &str, most: usize) -> String {
    let plain: String = text
        .chars()
        .take(most)
        .map(|char| if char.is_ascii_graphic() && !is_hidden(char) { char } else { '_' })
        .collect();
    if plain.is_empty() { "-".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{SocketAddr, TcpListener},
    };

    use serde_json::json;

    use super::*;

    fn message(text: &str) -> Message {
        let event = json!({ "severity_id": 5, "time": 1_700_000_000_123_i64, "device": { "hostname": "a b\n" },
            "unmapped": { "hook": "write" } });
        Message { event, text: text.as_bytes().to_vec() }
    }

    #[test]
    fn a_message_is_as_rfc_5424_has_it() {
        let Message { event, text } = message("{}");
        let frame = String::from_utf8(frame(&event, &text)).unwrap();
        let pid = std::process::id();
        assert_eq!(frame, format!("<106>1 2023-11-14T22:13:20.123Z a_b_ flowwarden {pid} write - {{}}"));
    }

    fn sink(address: SocketAddr) -> Syslog {
        Syslog::new(SyslogTarget { server: address.to_string(), transport: Transport::Tcp })
    }

    #[test]
    fn what_was_sent_before_a_connection_broke_is_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sink = sink(listener.local_addr().unwrap());
        sink.deliver(&[message("one")]).unwrap();
        let (first, _) = listener.accept().unwrap();
        drop(first);
        // The next one goes into the closed connection, which shows at once or a moment later.
        let start = Instant::now();
        while sink.deliver(&[message("two")]).is_ok() {
            assert!(start.elapsed() < Duration::from_secs(5), "nobody noticed");
        }
        sink.deliver(&[message("three")]).unwrap();
        let (mut second, _) = listener.accept().unwrap();
        drop(sink);
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert!(text.contains(" one") || text.contains("- one"), "{text}");
        assert!(text.contains("- three"), "{text}");
        // Every frame begins with its length.
        let mut rest = text.as_str();
        while let Some((length, after)) = rest.split_once(' ') {
            let (frame, next) = after.split_at(length.parse().unwrap());
            assert!(frame.starts_with("<106>1 "), "{frame}");
            rest = next;
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_told_by_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let Err(Failure::Later { taken: 0, why }) = sink(address).deliver(&[message("one")]) else { panic!() };
        assert!(why.contains(&address.to_string()) && why.contains("refused"), "{why}");
    }

    #[test]
    fn what_does_not_fit_in_a_datagram_is_put_aside_and_the_rest_goes() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = socket.local_addr().unwrap().to_string();
        let mut sink = Syslog::new(SyslogTarget { server, transport: Transport::Udp });
        let large = "x".repeat(LARGEST + 1);
        let failure = sink.deliver(&[message("one"), message(&large)]).unwrap_err();
        assert!(matches!(failure, Failure::Never { taken: 1, .. }), "{failure:?}");
        let mut buffer = [0; 1000];
        let length = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..length].ends_with(b"- one"));
    }
}
