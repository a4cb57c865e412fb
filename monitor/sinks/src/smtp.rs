//! A conversation with a mail server (RFC 5321), as much of it as a mail needs.
//!
//! The client of the library that writes the mails shows a server one certificate where it should show a chain, and panics at
//! a line of blanks.

use std::{
    fmt,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use data_encoding::BASE64;

use super::{
    config::{EmailTransport, Server},
    connection::{Connection, PATIENCE},
};
use journal::text::terminal::is_hidden;

/// Longest answer, in bytes.
const LONGEST: usize = 64 << 10;
/// What is shown of an answer, in characters.
const SHOWN: usize = 200;
/// The server waits for more of a login, and knows now who we are.
const MORE: u16 = 334;
const KNOWN: u16 = 235;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum SmtpError {
    /// The connection failed or the peer does not speak SMTP. Part of the message, so it is not the error source.
    #[error("{0}")]
    Broken(io::Error),
    /// The server does not want to.
    #[error("{0}")]
    Refused(Reply),
}

impl From<io::Error> for SmtpError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl SmtpError {
    /// Whether the server will never do it.
    pub(super) fn is_for_good(&self) -> bool {
        matches!(self, Self::Refused(reply) if reply.code >= 500)
    }
}

/// What a server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl fmt::Display for Reply {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.lines.join(" ");
        let shown: String = text.chars().filter(|&letter| !is_hidden(letter)).take(SHOWN).collect();
        write!(to, "{} {shown}", self.code)
    }
}

impl Reply {
    /// What a server that was greeted says of `keyword`: the words behind it.
    fn capability(&self, keyword: &str) -> Option<Vec<&str>> {
        self.lines.iter().skip(1).find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next().filter(|first| first.eq_ignore_ascii_case(keyword))?;
            Some(words.collect())
        })
    }
}

/// A server that has been greeted.
pub(super) struct Session {
    connection: Connection,
    bytes: Vec<u8>,
    greeted: Reply,
}

impl Session {
    /// Connects as `us`, and goes as far as the server may ask who we are.
    pub(super) fn open(server: &Server, transport: &EmailTransport, us: &str) -> Result<Self, SmtpError> {
        let at_once = match transport {
            EmailTransport::Tls(files) => Some(files),
            EmailTransport::StartTls(_) | EmailTransport::Tcp => None,
        };
        let connection = Connection::open(server, at_once)?;
        let mut session = Self { connection, bytes: Vec::new(), greeted: Reply::default() };
        session.reply(PATIENCE)?;
        session.greet(us)?;
        if let EmailTransport::StartTls(files) = transport {
            if session.greeted.capability("STARTTLS").is_none() {
                return Err(invalid("the server has no STARTTLS").into());
            }
            session.command("STARTTLS")?;
            // Answers before TLS are not authenticated.
            if !session.bytes.is_empty() {
                return Err(invalid("the server says more before TLS has begun").into());
            }
            session.connection = session.connection.secure(server, files)?;
            session.greet(us)?;
        }
        Ok(session)
    }

    fn greet(&mut self, us: &str) -> Result<(), SmtpError> {
        self.greeted = self.command(&format!("EHLO {us}"))?;
        Ok(())
    }

    /// Proves who we are, by PLAIN or else LOGIN.
    pub(super) fn login(&mut self, user: &str, password: &str) -> Result<(), SmtpError> {
        let known = self.greeted.capability("AUTH").unwrap_or_default();
        let has = |name: &str| known.iter().any(|known| known.eq_ignore_ascii_case(name));
        let (plain, login) = (has("PLAIN"), has("LOGIN"));
        let mut reply;
        if plain {
            reply =
                self.command(&format!("AUTH PLAIN {}", BASE64.encode(format!("\0{user}\0{password}").as_bytes())))?;
        } else if login {
            reply = self.command("AUTH LOGIN")?;
            for secret in [user, password] {
                if reply.code != MORE {
                    break;
                }
                reply = self.command(&BASE64.encode(secret.as_bytes()))?;
            }
        } else {
            return Err(invalid("the server offers neither AUTH PLAIN nor AUTH LOGIN").into());
        }
        if reply.code == KNOWN { Ok(()) } else { Err(SmtpError::Refused(reply)) }
    }

    /// Says one line, which must hold no line feed, and gives back an answer that is no refusal.
    pub(super) fn command(&mut self, line: &str) -> Result<Reply, SmtpError> {
        self.connection.write_all(format!("{line}\r\n").as_bytes())?;
        self.connection.flush()?;
        self.reply(PATIENCE)
    }

    /// Hands a mail over, after DATA; the server may take `patience` to look at it.
    pub(super) fn message(&mut self, mail: &[u8], patience: Duration) -> Result<(), SmtpError> {
        self.connection.write_all(&stuffed(mail))?;
        self.connection.flush()?;
        self.reply(patience).map(drop)
    }

    fn reply(&mut self, patience: Duration) -> Result<Reply, SmtpError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(reply) = next(&mut self.bytes).map_err(invalid)? {
                return if reply.code < 400 { Ok(reply) } else { Err(SmtpError::Refused(reply)) };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer").into());
            }
            let mut part = [0; 4096];
            if let Some(length) = self.connection.read_within(&mut part, left)? {
                self.bytes.extend_from_slice(part.get(..length).unwrap_or_default());
            }
        }
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Takes the next answer off the front of what has come; nothing while it is not whole.
fn next(bytes: &mut Vec<u8>) -> Result<Option<Reply>, String> {
    let (mut reply, mut end) = (Reply::default(), 0);
    loop {
        let rest = bytes.get(end..).unwrap_or_default();
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return if bytes.len() > LONGEST { Err("the server's answer has no end".to_owned()) } else { Ok(None) };
        };
        let line = String::from_utf8_lossy(rest.get(..length).unwrap_or_default()).trim_end().to_owned();
        end += length + 1;
        let wrong = || format!("the server says {:?}", line.chars().take(80).collect::<String>());
        let (code, text) = line.split_at_checked(3).ok_or_else(wrong)?;
        let code = code.parse().ok().filter(|code| (200..600).contains(code)).ok_or_else(wrong)?;
        if !reply.lines.is_empty() && code != reply.code {
            return Err(wrong());
        }
        reply.code = code;
        reply.lines.push(text.get(1..).unwrap_or_default().to_owned());
        match text.bytes().next() {
            Some(b'-') => {}
            None | Some(b' ') => {
                bytes.drain(..end);
                return Ok(Some(reply));
            }
            Some(_) => return Err(wrong()),
        }
    }
}

/// A mail with its end. A line of it that is a dot would be that end.
fn stuffed(mail: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(mail.len() + 5);
    for line in mail.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_understood_in_whatever_pieces_they_come() {
        let said = b"250-mail.test\r\n250-AUTH LOGIN plain\r\n250   \r\n354 go on\r\n250\r\n";
        let reply = |code, lines: &[&str]| Reply { code, lines: lines.iter().map(|&line| line.to_owned()).collect() };
        let whole = [reply(250, &["mail.test", "AUTH LOGIN plain", ""]), reply(354, &["go on"]), reply(250, &[""])];
        let (mut bytes, mut found) = (Vec::new(), Vec::new());
        for &byte in said {
            bytes.push(byte);
            found.extend(next(&mut bytes).unwrap());
        }
        assert_eq!((found.as_slice(), bytes.len()), (&whole[..], 0));
        assert_eq!(whole[0].capability("auth"), Some(vec!["LOGIN", "plain"]));
        assert_eq!(whole[0].capability("mail.test"), None);
        for wrong in
            ["HTTP/1.1 400\r\n", "25\r\n", "250+x\r\n", "250-a\r\n251 b\r\n", "-12 x\r\n", "\u{e9}\u{e9} x\r\n"]
        {
            assert!(next(&mut wrong.as_bytes().to_vec()).is_err(), "{wrong}");
        }
        assert!(next(&mut vec![b'2'; LONGEST + 1]).is_err());
    }

    #[test]
    fn no_line_of_a_mail_ends_it() {
        assert_eq!(stuffed(b".\r\na.\r\n..b\r\n"), b"..\r\na.\r\n...b\r\n.\r\n");
        assert_eq!(stuffed(b"a"), b"a\r\n.\r\n");
    }

    proptest! {
        #[test]
        fn no_server_makes_the_guard_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = [b"250-".to_vec(), bytes].concat();
            while let Ok(Some(_)) = next(&mut bytes) {}
        }
    }
}
