//! A stream of NATS `JetStream`: each event is published under its id, which the stream drops when it comes twice, and counts
//! as taken when the stream has said so.
//!
//! The client that there is for NATS wants a runtime and brings sixty crates; what is needed of the protocol is five verbs.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Failure, Message, Receiver,
    config::{Access, NatsTarget},
    connection::{Connection, PATIENCE},
    later, secret, unique,
};

/// Most events on their way at once.
const MOST: usize = 250;
/// Longest line that a server may send, and longest message, in bytes.
const LONGEST: usize = 1 << 20;
/// What a server says when no stream takes a subject.
const NO_RESPONDERS: &str = "503";
/// `JetStream`'s number for a message that is larger than the stream takes.
const TOO_LARGE: u64 = 10054;

/// A NATS server.
pub(super) struct Nats {
    target: NatsTarget,
    open: Option<Session>,
}

/// A connection that is subscribed to its own inbox.
struct Session {
    connection: Connection,
    bytes: Vec<u8>,
    inbox: String,
    /// Largest message that the server takes.
    largest: usize,
    /// Number of the next message, which its answer goes by.
    next: u64,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Info(Value),
    Ping,
    Pong,
    Ok,
    Error(String),
    /// A message to a subject: the status of its headers, if any, and what it says.
    Message {
        subject: String,
        status: Option<String>,
        text: Vec<u8>,
    },
}

impl Nats {
    pub(super) fn new(target: NatsTarget) -> Self {
        Self { target, open: None }
    }

    fn session(&mut self) -> io::Result<&mut Session> {
        match &mut self.open {
            Some(session) => Ok(session),
            none => Ok(none.insert(Session::open(&self.target)?)),
        }
    }

    fn send(&mut self, batch: &[Message]) -> Result<(), Failure> {
        let place = self.target.server.to_string();
        let subject = self.target.subject.clone();
        let session = self.session().map_err(|error| later(0, &place, &error))?;
        let broken = |error: &io::Error| later(0, &place, error);
        let size = |message: &Message| headers(message).len() + message.text.len();
        if let Some(taken) = batch.iter().position(|message| size(message) > session.largest) {
            return match batch.get(..taken) {
                None | Some([]) => Err(Failure::Never { taken: 0, why: format!("{place}: larger than `max_payload`") }),
                Some(before) => {
                    self.send(before)?;
                    Err(Failure::Never { taken, why: format!("{place}: larger than `max_payload`") })
                }
            };
        }
        let first = session.next;
        session.publish(&subject, batch).map_err(|error| broken(&error))?;
        let answers = session.answers(first, batch.len()).map_err(|error| broken(&error))?;
        for (taken, (status, text)) in answers.iter().enumerate() {
            if status.as_deref() == Some(NO_RESPONDERS) {
                let why = format!("{place}: no stream takes {subject}: make one (`nats stream add`)");
                return Err(Failure::Later { taken, why });
            }
            let said: Value = serde_json::from_slice(text).unwrap_or_default();
            let error = &said["error"];
            let why = || format!("{place}: {}", error["description"].as_str().unwrap_or("no answer of a stream"));
            if error["err_code"] == TOO_LARGE {
                return Err(Failure::Never { taken, why: why() });
            }
            if !error.is_null() || said["stream"].is_null() {
                return Err(Failure::Later { taken, why: why() });
            }
        }
        Ok(())
    }
}

impl Session {
    fn open(target: &NatsTarget) -> io::Result<Self> {
        let connection = Connection::open(&target.server, None)?;
        let inbox = format!("_INBOX.{}", unique());
        let mut session = Self { connection, bytes: Vec::new(), inbox, largest: 0, next: 0 };
        let deadline = Instant::now() + PATIENCE;
        let Said::Info(info) = session.said(deadline)? else { return Err(invalid("this is no NATS server")) };
        let has = |key: &str| info[key] == true;
        if let Some(files) = &target.tls {
            if !(has("tls_required") || has("tls_available")) {
                return Err(invalid("the server has no TLS"));
            }
            session.connection = session.connection.secure(&target.server, files)?;
        } else if has("tls_required") {
            return Err(invalid("the server wants TLS: give `ca`, and leave `transport` out"));
        }
        if !has("headers") || !has("jetstream") {
            return Err(invalid("the server has no JetStream: start it with `jetstream` in its configuration"));
        }
        session.largest = info["max_payload"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(LONGEST);
        let mut connect = json!({
            "verbose": false, "pedantic": false, "echo": false, "headers": true, "no_responders": true, "protocol": 1,
            "tls_required": target.tls.is_some(), "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "name": "flowwarden",
        });
        match &target.access {
            None => {}
            Some(Access::Key(token)) => connect["auth_token"] = super::token(token).map_err(invalid)?.into(),
            Some(Access::Login(login)) => {
                connect["user"] = login.user.as_str().into();
                connect["pass"] = secret(&login.password).map_err(invalid)?.into();
            }
        }
        write!(session.connection, "CONNECT {connect}\r\nSUB {}.* 1\r\nPING\r\n", session.inbox)?;
        session.connection.flush()?;
        while session.said(deadline)? != Said::Pong {}
        Ok(session)
    }

    fn publish(&mut self, subject: &str, batch: &[Message]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in batch {
            let headers = headers(message);
            let total = headers.len() + message.text.len();
            write!(bytes, "HPUB {subject} {}.{} {} {total}\r\n{headers}", self.inbox, self.next, headers.len())?;
            bytes.extend_from_slice(&message.text);
            bytes.extend_from_slice(b"\r\n");
            self.next += 1;
        }
        self.connection.write_all(&bytes)?;
        self.connection.flush()
    }

    /// What the stream says of so many messages from `first` on.
    fn answers(&mut self, first: u64, count: usize) -> io::Result<Vec<(Option<String>, Vec<u8>)>> {
        let mut found = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        while found.len() < count {
            let Said::Message { subject, status, text } = self.said(deadline)? else { continue };
            let number = subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
            if let Some(number) = number.filter(|&number| number >= first && number < self.next) {
                found.insert(number, (status, text));
            }
        }
        Ok(found.into_values().collect())
    }

    /// The next thing that the server says; its pings are answered, and its errors are errors.
    fn said(&mut self, deadline: Instant) -> io::Result<Said> {
        loop {
            match next(&mut self.bytes).map_err(invalid)? {
                Some(Said::Ping) => {
                    self.connection.write_all(b"PONG\r\n")?;
                    self.connection.flush()?;
                }
                Some(Said::Error(why)) => return Err(invalid(why)),
                Some(said) => return Ok(said),
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"));
                    }
                    self.read(left)?;
                }
            }
        }
    }

    fn read(&mut self, patience: Duration) -> io::Result<()> {
        let mut part = [0; 16 << 10];
        if let Some(length) = self.connection.read_within(&mut part, patience)? {
            self.bytes.extend_from_slice(part.get(..length).unwrap_or_default());
        }
        Ok(())
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// The headers of a message: its id, by which the stream knows what it has already.
fn headers(message: &Message) -> String {
    let id = message.event["metadata"]["uid"].as_str().unwrap_or_default();
    let id: String = id.chars().filter(char::is_ascii_graphic).collect();
    format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n")
}

/// Takes the next thing off the front of what has come; nothing while it is not whole.
fn next(bytes: &mut Vec<u8>) -> Result<Option<Said>, String> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > LONGEST { Err("the server sends a line without an end".to_owned()) } else { Ok(None) };
    };
    let line = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
    let wrong = || format!("the server says {:?}", line.chars().take(80).collect::<String>());
    let mut taken = end + 2;
    let said = match verb.to_ascii_uppercase().as_str() {
        "INFO" => Said::Info(serde_json::from_str(rest).map_err(|_| wrong())?),
        "PING" => Said::Ping,
        "PONG" => Said::Pong,
        "+OK" => Said::Ok,
        "-ERR" => Said::Error(rest.trim_matches('\'').to_owned()),
        verb @ ("MSG" | "HMSG") => {
            let words: Vec<_> = rest.split_ascii_whitespace().collect();
            let number = |from_end: usize| {
                let word = words.len().checked_sub(from_end).and_then(|at| words.get(at));
                word.and_then(|word| word.parse::<usize>().ok()).filter(|&number| number <= LONGEST).ok_or_else(wrong)
            };
            let total = number(1)?;
            let head = if verb == "HMSG" { number(2)? } else { 0 };
            let subject = (*words.first().ok_or_else(wrong)?).to_owned();
            let Some(body) = bytes.get(taken..taken + total) else { return Ok(None) };
            if bytes.len() < taken + total + 2 {
                return Ok(None);
            }
            let head = String::from_utf8_lossy(body.get(..head).ok_or_else(wrong)?).into_owned();
            let status = head.lines().next().and_then(|line| line.split(' ').nth(1)).map(str::to_owned);
            let text = body.get(head.len()..).unwrap_or_default().to_vec();
            taken += total + 2;
            Said::Message { subject, status, text }
        }
        _ => return Err(wrong()),
    };
    bytes.drain(..taken);
    Ok(Some(said))
}

impl Receiver for Nats {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        self.send(batch).inspect_err(|failure| {
            if matches!(failure, Failure::Later { .. }) {
                self.open = None;
            }
        })
    }

    /// A server that is not answered hangs up.
    fn idle(&mut self) -> Option<Result<(), String>> {
        let session = self.open.as_mut()?;
        let mut listen = || -> io::Result<()> {
            session.read(Duration::ZERO)?;
            while let Some(said) = next(&mut session.bytes).map_err(invalid)? {
                match said {
                    Said::Ping => {
                        session.connection.write_all(b"PONG\r\n")?;
                        session.connection.flush()?;
                    }
                    Said::Error(why) => return Err(invalid(why)),
                    _ => {}
                }
            }
            Ok(())
        };
        if listen().is_err() {
            // The next event finds out what is wrong, if anything still is.
            self.open = None;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener, thread};

    use proptest::prelude::*;

    use super::{
        super::config::{Login, Secret, TlsFiles},
        *,
    };

    const SAID: &[u8] = b"INFO {\"a\":1}\r\nPING\r\n+OK\r\nMSG _INBOX.x.7 1 4\r\na\r\nb\r\n\
        HMSG _INBOX.x.8 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n-ERR 'no'\r\nPONG\r\n";

    fn all(bytes: &mut Vec<u8>) -> Vec<Said> {
        std::iter::from_fn(|| next(bytes).unwrap()).collect()
    }

    #[test]
    fn what_a_server_says_is_understood_in_whatever_pieces_it_comes() {
        let message = |number: u8, status: Option<&str>, text: &[u8]| Said::Message {
            subject: format!("_INBOX.x.{number}"),
            status: status.map(str::to_owned),
            text: text.to_vec(),
        };
        let whole = [
            Said::Info(json!({ "a": 1 })),
            Said::Ping,
            Said::Ok,
            message(7, None, b"a\r\nb"),
            message(8, Some("503"), b""),
            Said::Error("no".to_owned()),
            Said::Pong,
        ];
        assert_eq!(all(&mut SAID.to_vec()), whole);
        let (mut bytes, mut found) = (Vec::new(), Vec::new());
        for &byte in SAID {
            bytes.push(byte);
            found.extend(all(&mut bytes));
        }
        assert_eq!(found, whole);
        for wrong in ["HTTP/1.1 400 Bad Request\r\n", "MSG a 1 99999999999\r\n", "HMSG a 1 9 4\r\nabcd\r\n", "MSG\r\n"]
        {
            assert!(next(&mut wrong.as_bytes().to_vec()).is_err(), "{wrong}");
        }
    }

    /// What a client does that is greeted with `info`: its error, and all that it has sent.
    fn greeted(info: &str, tls: Option<TlsFiles>) -> (String, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string().as_str().into();
        let info = format!("INFO {info}\r\n");
        let served = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(info.as_bytes()).unwrap();
            let mut sent = Vec::new();
            // Until the client hangs up, in whatever way.
            let _ = client.read_to_end(&mut sent);
            sent
        });
        let access = Some(Access::Login(Login { user: "u".to_owned(), password: Secret::Credential("p".to_owned()) }));
        let target = NatsTarget { server, tls, subject: "s".to_owned(), access };
        let error = Session::open(&target).err().unwrap().to_string();
        (error, served.join().unwrap())
    }

    #[test]
    fn nothing_is_said_to_a_server_without_the_tls_that_was_asked_for() {
        let files = || Some(TlsFiles { ca: "/nowhere".into(), own: None });
        for (info, tls, why) in [
            ("{\"headers\":true,\"jetstream\":true}", files(), "the server has no TLS"),
            ("{\"tls_required\":false,\"tls_available\":false}", files(), "the server has no TLS"),
            ("{\"tls_required\":\"yes\"}", files(), "the server has no TLS"),
            ("{\"tls_required\":true,\"headers\":true,\"jetstream\":true}", None, "the server wants TLS"),
            ("{\"headers\":true}", None, "the server has no JetStream"),
            ("{\"jetstream\":true}", None, "the server has no JetStream"),
        ] {
            let (error, sent) = greeted(info, tls);
            assert!(error.starts_with(why) && sent.is_empty(), "{info}: {error}, {sent:?}");
        }
        // One that has it is asked to show it.
        for info in ["{\"tls_required\":true}", "{\"tls_available\":true}"] {
            let (error, sent) = greeted(info, files());
            assert!(error.contains("/nowhere") && sent.is_empty(), "{info}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_server_makes_the_guard_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = [b"MSG a 1 ".to_vec(), bytes].concat();
            let _ = next(&mut bytes);
        }
    }
}
