//! systemd's journal, by its native protocol: fields of its own, so that `journalctl FLOWWARDEN_VERDICT=deny` finds them.
//!
//! An entry is a datagram; one that is too large for that is a sealed file in memory, whose descriptor is sent. The system
//! holds the socket open while journald starts anew, so what was sent is not lost with it.

use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use serde_json::Value;

use super::{Failure, Message, Receiver, config::JournaldTarget, later};
use journal::ocsf::Severity;

/// Most events that are handed over at once.
const MOST: usize = 100;
/// How long journald may take to make room.
const PATIENCE: Duration = Duration::from_secs(10);
/// Log audit.
const FACILITY: &str = "13";
/// What tells these entries from all others.
const MESSAGE_ID: &str = "5f0c4d0ea8c94e0c8a3c1b6b8a8d8a51";

/// The journal of this machine.
pub(super) struct Journald {
    target: JournaldTarget,
    open: Option<UnixDatagram>,
}

impl Journald {
    pub(super) fn new(target: JournaldTarget) -> Self {
        Self { target, open: None }
    }

    fn socket(&mut self) -> io::Result<&UnixDatagram> {
        if self.open.is_none() {
            let socket = UnixDatagram::unbound()?;
            socket.connect(&self.target.socket)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            self.open = Some(socket);
        }
        self.open.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn send(&mut self, entry: &[u8]) -> io::Result<()> {
        let socket = self.socket()?;
        match socket.send(entry) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => send_file(socket, entry),
            sent => sent.map(drop),
        }
    }
}

/// Sends an entry as a sealed memfd.
fn send_file(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    let memory = memfd_create("flowwarden", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(entry)?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    let descriptors = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&[])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One field: by its length when it holds a line feed.
fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// An event as an entry.
fn entry(message: &Message) -> Vec<u8> {
    let event = &message.event;
    let priority = Severity::of(event).syslog().to_string();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = |key: &str| text(&event["unmapped"][key]);
    let mut out = Vec::new();
    for (name, value) in [
        ("MESSAGE", text(&event["message"])),
        ("MESSAGE_ID", MESSAGE_ID.to_owned()),
        ("PRIORITY", priority),
        ("SYSLOG_FACILITY", FACILITY.to_owned()),
        ("SYSLOG_IDENTIFIER", "flowwarden".to_owned()),
        ("FLOWWARDEN_UID", text(&event["metadata"]["uid"])),
        ("FLOWWARDEN_INSTANCE", own("instance")),
        ("FLOWWARDEN_RULE", own("rule")),
        ("FLOWWARDEN_VERDICT", own("verdict")),
        ("FLOWWARDEN_HOOK", own("hook")),
        ("FLOWWARDEN_PATH", text(&event["file"]["path"])),
    ] {
        if !value.is_empty() {
            field(&mut out, name, value.as_bytes());
        }
    }
    field(&mut out, "FLOWWARDEN_EVENT", &message.text);
    out
}

impl Receiver for Journald {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        for (taken, message) in batch.iter().enumerate() {
            self.send(&entry(message)).map_err(|error| {
                self.open = None;
                later(taken, &self.target.socket.display().to_string(), &error)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use serde_json::json;

    use super::*;

    fn message(text: &str) -> Message {
        let event = json!({ "severity_id": 5, "message": "a\nb", "metadata": { "uid": "u" }, "file": { "path": "/p" },
            "unmapped": { "verdict": "kill" } });
        Message { event, text: text.as_bytes().to_vec() }
    }

    #[test]
    fn a_line_feed_in_a_value_makes_no_field() {
        let entry = entry(&message("{}\nPRIORITY=0"));
        let text = String::from_utf8_lossy(&entry).into_owned();
        assert!(text.starts_with("MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nMESSAGE_ID="), "{text:?}");
        assert!(text.contains("\nPRIORITY=2\n") && text.contains("\nFLOWWARDEN_VERDICT=kill\n"), "{text:?}");
        assert!(text.ends_with("\nFLOWWARDEN_EVENT\n\x0d\0\0\0\0\0\0\0{}\nPRIORITY=0\n"), "{text:?}");
    }

    #[test]
    fn what_is_too_large_for_a_datagram_goes_as_a_sealed_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut sink = Journald::new(JournaldTarget { socket: path });
        let large = format!("\"{}\"", "x".repeat(4 << 20));
        sink.deliver(&[message("{}"), message(&large)]).unwrap();
        let mut bytes = [0; 4096];
        let length = server.recv(&mut bytes).unwrap();
        assert_eq!(bytes[..length], entry(&message("{}")));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&server, &mut [], &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(received.bytes, 0);
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let file = file.unwrap();
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE));
        let mut text = Vec::new();
        let mut file = File::from(file);
        file.rewind().unwrap();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(text, entry(&message(&large)));
    }
}
