//! Syslog, RFC 5424: over UDP, TCP (octet counting, RFC 6587) or TLS (RFC 5425).
//!
//! Syslog has no acknowledgement. Over TCP and TLS a batch counts as taken when the server's kernel has it and the
//! connection still stands. Every few seconds, when something was sent, the guard ends the connection and waits until the
//! server ends its side too (RFC 5425, 4.4): then the server has read everything. Whatever breaks before that, or a few
//! seconds after the sending, has everything sent again (`sent`): some events arrive twice (`metadata.uid`).

mod sent;

use std::{
    io::{self, Write as _},
    net::{TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Failure, Message, Receiver,
    config::{SyslogTarget, Transport},
    connection::{Connection, PATIENCE},
    later,
};
use journal::{format::rfc3339, ocsf::Severity, text::terminal::is_hidden};
use sent::Sent;

/// Most events that are handed over at once.
const MOST: usize = 100;
/// What was sent so recently may be lost with a server that is killed.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a server may take to end its side of a connection.
const END: Duration = Duration::from_secs(30);
/// The same for one that has shown that it does not.
const SILENT_END: Duration = Duration::from_millis(100);
/// A server that has not answered so often in a row is not believed to do so any more.
const SILENT: u32 = 2;
/// Log audit.
const FACILITY: u8 = 13;
/// Longest event that is sent, in bytes: with its header it fits in a datagram, and in the 64 KiB that syslog-ng takes. That
/// ends a connection over a longer one, as often as it comes.
const LARGEST: usize = 65_000;

/// A syslog server.
pub(super) struct Syslog {
    target: SyslogTarget,
    open: Option<Open>,
    sent: Sent,
    /// How often in a row the server did not end its side of the connection.
    unanswered: u32,
}

enum Open {
    Udp(UdpSocket),
    Stream(Connection),
}

impl Syslog {
    pub(super) fn new(target: SyslogTarget) -> Self {
        Self { target, open: None, sent: Sent::new(WINDOW), unanswered: 0 }
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
        for address in self.target.server.addresses()? {
            let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
            match socket.and_then(|socket| socket.connect(address).map(|()| socket)) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects if need be, and sends again what may have been lost.
    fn open(&mut self) -> io::Result<()> {
        if self.open.is_none() {
            let mut open = self.connect()?;
            if let Open::Stream(connection) = &mut open {
                for frame in self.sent.unread() {
                    connection.write_all(frame)?;
                }
                settle(connection)?;
                self.sent.again();
            }
            self.open = Some(open);
        }
        Ok(())
    }

    fn send(&mut self, batch: &[Message]) -> io::Result<()> {
        if self.sent.is_due() {
            self.confirm()?;
        }
        self.open()?;
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
                self.sent.add(frames);
            }
            None => {}
        }
        Ok(())
    }

    /// Ends the connection to learn whether the server has read everything.
    fn confirm(&mut self) -> io::Result<()> {
        let Some(Open::Stream(connection)) = self.open.take() else { return Ok(()) };
        let answered = connection.close(if self.unanswered < SILENT { END } else { SILENT_END })?;
        self.unanswered = if answered { 0 } else { self.unanswered.saturating_add(1) };
        if !answered && self.unanswered < SILENT {
            let why = "the server does not end its side of a connection: what it has read is sent again";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        self.sent.confirm();
        Ok(())
    }

    /// What an error means for what was sent.
    fn broken(&mut self, error: &io::Error) -> Failure {
        self.open = None;
        self.sent.doubt();
        later(0, &self.target.server.to_string(), error)
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        if let Some(Open::Stream(connection)) = self.open.take() {
            // A new connection has no messages to confirm.
            let _ = connection.close(Duration::ZERO);
        }
    }
}

/// Waits until the server's kernel has everything, and looks whether the connection still stands.
fn settle(connection: &mut Connection) -> io::Result<()> {
    connection.flush()?;
    let start = Instant::now();
    while unsent(&connection.socket)? > 0 {
        if let Some(error) = connection.socket.take_error()? {
            return Err(error);
        }
        if start.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server takes nothing any more"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    stands(connection)
}

/// Looks whether the connection still stands. A syslog server has nothing to say.
fn stands(connection: &mut Connection) -> io::Result<()> {
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

    fn longest(&self) -> Option<usize> {
        Some(LARGEST)
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        if let Some(taken) = batch.iter().position(|message| message.text.len() > LARGEST) {
            if taken > 0 {
                self.deliver(batch.get(..taken).unwrap_or_default())?;
            }
            return Err(Failure::Never { taken, why: format!("the event has more than {LARGEST} bytes") });
        }
        self.send(batch).map_err(|error| self.broken(&error))
    }

    fn idle(&mut self) -> Option<Result<(), String>> {
        let done = match &mut self.open {
            None if self.sent.unread().next().is_some() => self.open(),
            Some(Open::Stream(connection)) => match stands(connection) {
                Ok(()) if self.sent.is_due() => self.confirm(),
                Ok(()) => return None,
                broken => broken,
            },
            None | Some(Open::Udp(_)) => return None,
        };
        Some(done.map_err(|error| match self.broken(&error) {
            Failure::Later { why, .. } | Failure::Never { why, .. } => why,
        }))
    }
}

/// An event as a message of RFC 5424.
fn frame(event: &Value, text: &[u8]) -> Vec<u8> {
    let severity = Severity::of(event).syslog();
    let time = rfc3339(event["time"].as_i64().unwrap_or_default());
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
        Syslog::new(SyslogTarget { server: address.to_string().as_str().into(), transport: Transport::Tcp })
    }

    /// What a server reads until the other end is silent.
    fn read(stream: &mut TcpStream) -> String {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn what_a_server_had_no_time_to_read_before_it_died_is_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sink = sink(listener.local_addr().unwrap());
        sink.sent = Sent::new(SHORT);
        sink.deliver(&[message("one")]).unwrap();
        let (first, _) = listener.accept().unwrap();
        // It is stuck, and its kernel takes what comes.
        thread::sleep(2 * SHORT);
        let server = thread::spawn(move || {
            thread::sleep(SHORT);
            reset(first);
            listener
        });
        let stuck = sink.deliver(&[message("two")]);
        let listener = server.join().unwrap();
        assert!(stuck.is_err(), "delivery was not confirmed");
        sink.deliver(&[message("two")]).unwrap();
        let text = read(&mut listener.accept().unwrap().0);
        assert!(text.contains("- one") && text.contains("- two"), "{text}");
    }

    /// Ends a connection as the kernel does for a process that had not read everything.
    fn reset(stream: TcpStream) {
        let linger = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        linger.unwrap();
        drop(stream);
    }

    #[test]
    fn a_server_that_dies_again_has_everything_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sink = sink(listener.local_addr().unwrap());
        sink.sent = Sent::new(SHORT);
        let fails = |sink: &mut Syslog| {
            let start = Instant::now();
            while sink.deliver(&[message("more")]).is_ok() {
                assert!(start.elapsed() < Duration::from_secs(5), "not noticed");
            }
        };
        sink.deliver(&[message("one")]).unwrap();
        reset(listener.accept().unwrap().0);
        fails(&mut sink);
        thread::sleep(2 * SHORT);
        // The second server dies before it has read anything.
        sink.deliver(&[message("two")]).unwrap();
        reset(listener.accept().unwrap().0);
        fails(&mut sink);
        sink.deliver(&[message("three")]).unwrap();
        let text = read(&mut listener.accept().unwrap().0);
        for what in ["one", "two", "three"] {
            assert!(text.contains(&format!("- {what}")), "{what}: {text}");
        }
    }

    #[test]
    fn a_server_that_has_read_everything_is_asked_once_and_gets_nothing_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sink = sink(listener.local_addr().unwrap());
        sink.sent = Sent::new(SHORT);
        sink.deliver(&[message("one")]).unwrap();
        assert_eq!(sink.idle(), None);
        let (mut first, _) = listener.accept().unwrap();
        let server = thread::spawn(move || {
            let mut text = String::new();
            first.read_to_string(&mut text).unwrap();
            text
        });
        thread::sleep(2 * SHORT);
        assert_eq!(sink.idle(), Some(Ok(())));
        assert!(server.join().unwrap().ends_with("- one"));
        assert_eq!(sink.idle(), None);
        sink.deliver(&[message("two")]).unwrap();
        let text = read(&mut listener.accept().unwrap().0);
        assert!(text.contains("- two") && !text.contains("one"), "{text}");
    }

    #[test]
    fn a_server_that_dies_while_nothing_happens_has_everything_without_a_new_event() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sink = sink(listener.local_addr().unwrap());
        sink.deliver(&[message("one")]).unwrap();
        reset(listener.accept().unwrap().0);
        let failed = sink.idle().unwrap().unwrap_err();
        assert!(failed.contains("reset"), "{failed}");
        assert_eq!(sink.idle(), Some(Ok(())));
        assert!(read(&mut listener.accept().unwrap().0).ends_with("- one"));
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
            assert!(start.elapsed() < Duration::from_secs(5), "not noticed");
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
        let server = socket.local_addr().unwrap().to_string().as_str().into();
        let mut sink = Syslog::new(SyslogTarget { server, transport: Transport::Udp });
        let large = "x".repeat(LARGEST + 1);
        let failure = sink.deliver(&[message("one"), message(&large)]).unwrap_err();
        assert!(matches!(failure, Failure::Never { taken: 1, .. }), "{failure:?}");
        let mut buffer = [0; 1000];
        let length = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..length].ends_with(b"- one"));
    }
}
