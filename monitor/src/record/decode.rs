//! Decodes the bytes of the ring buffer to a [`Record`].

use monitor_common::{
    Verdict,
    event::{Event, FLAG_BY_NAME, FLAG_NO_PLACE, FLAG_TEXT_PATH, Hook},
    verdict::Sensor,
};
use zerocopy::FromBytes as _;

/// Bytes that are not a valid record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the fixed part.
    #[error("{0} bytes are less than a record has")]
    Short(usize),
    /// The lengths in the record do not match the number of bytes.
    #[error("{actual} bytes where the record says {said}")]
    Length {
        /// Number of bytes.
        actual: usize,
        /// Length by the record.
        said: usize,
    },
    /// Unknown hook.
    #[error("hook {0} is not known")]
    Hook(u8),
    /// Unknown sensor.
    #[error("sensor {0} is not known")]
    Sensor(u8),
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The fixed part as the kernel wrote it.
    pub event: Event,
    /// The operation.
    pub hook: Hook,
    /// The sensor.
    pub sensor: Sensor,
    /// The verdict that was carried out.
    pub verdict: Verdict,
    /// The verdict of the policy.
    pub wanted: Verdict,
    /// Absolute path of the file, as bytes; empty if the record has none.
    pub path: Vec<u8>,
    /// The other path of a rename or a link.
    pub other: Option<Vec<u8>>,
    /// Arguments of a program, each ended by a zero byte.
    pub text: Vec<u8>,
}

impl Record {
    /// Whether an exec record names the file that becomes the process: not for a refused exec, and not for a script, whose process is
    /// the interpreter.
    #[must_use]
    pub fn has_become_the_process(&self) -> bool {
        self.hook == Hook::Exec && self.sensor == Sensor::Tracepoint && self.event.flags & FLAG_BY_NAME == 0
    }
}

/// Decodes a record.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let (event, tail) = Event::read_from_prefix(bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
    let (path_len, text_len) = (usize::from(event.path_len), usize::from(event.text_len));
    if tail.len() != path_len + text_len {
        return Err(DecodeError::Length { actual: bytes.len(), said: size_of::<Event>() + path_len + text_len });
    }
    let hook = Hook::from_raw(event.hook).ok_or(DecodeError::Hook(event.hook))?;
    let sensor = Sensor::from_raw(event.sensor).ok_or(DecodeError::Sensor(event.sensor))?;
    let (names, text) = tail.split_at(path_len);
    let mut record = Record {
        event,
        hook,
        sensor,
        verdict: Verdict::from_raw(event.verdict),
        wanted: Verdict::from_raw(event.wanted),
        path: path(names, is_about_a_path(hook, &event)),
        other: None,
        text: text.to_owned(),
    };
    if event.flags & FLAG_NO_PLACE != 0 && record.path.len() > 1 {
        // A name without a directory.
        record.path.remove(0);
    }
    if event.flags & FLAG_BY_NAME != 0 {
        resolve(&mut record);
    } else if event.flags & FLAG_TEXT_PATH != 0 {
        record.other = Some(path(&std::mem::take(&mut record.text), true));
    }
    Ok(record)
}

/// Whether an empty list of names means the root directory, not a missing path.
fn is_about_a_path(hook: Hook, event: &Event) -> bool {
    match hook {
        // The file may be unknown.
        Hook::IoUring | Hook::Write => event.ino != 0 || event.flags & FLAG_BY_NAME != 0,
        Hook::Connect
        | Hook::Send
        | Hook::Bind
        | Hook::Listen
        | Hook::Accept
        | Hook::Socket
        | Hook::Exit
        | Hook::Fork
        | Hook::Privilege
        | Hook::Ptrace
        | Hook::Signal
        | Hook::Namespace
        | Hook::Bpf
        | Hook::Module
        | Hook::UringCommand
        | Hook::Dns
        | Hook::Volume => false,
        _ => true,
    }
}

/// Joins names, from the file up to the root, to an absolute path.
fn path(names: &[u8], or_root: bool) -> Vec<u8> {
    let names: Vec<_> = names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    if names.is_empty() && or_root {
        return b"/".to_vec();
    }
    let mut path = Vec::new();
    for name in names.into_iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

/// Resolves the texts of a record by name against its directory.
fn resolve(record: &mut Record) {
    let texts: Vec<_> =
        record.text.split(|&byte| byte == 0).filter(|text| !text.is_empty()).map(<[u8]>::to_owned).collect();
    let directory = std::mem::take(&mut record.path);
    let which = usize::from(record.event.detail == 2 && record.hook != Hook::IoUring);
    record.path = texts.get(which).map_or_else(|| directory.clone(), |text| join(&directory, text));
    record.other = texts.get(1 - which).map(|text| join(&directory, text));
    record.text.clear();
}

/// `text` relative to `directory`, without `.`, `..` and repeated slashes.
fn join(directory: &[u8], text: &[u8]) -> Vec<u8> {
    let base: &[u8] = if text.starts_with(b"/") { b"" } else { directory };
    let mut names: Vec<&[u8]> = Vec::new();
    for name in base.split(|&byte| byte == b'/').chain(text.split(|&byte| byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let mut path = Vec::new();
    for name in names {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes as _;

    use super::*;

    /// The bytes of a record as the kernel lays them out.
    pub(crate) fn bytes(mut event: Event, path: &[u8], text: &[u8]) -> Vec<u8> {
        event.path_len = u16::try_from(path.len()).unwrap();
        event.text_len = u16::try_from(text.len()).unwrap();
        let mut bytes = event.as_bytes().to_owned();
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(text);
        bytes
    }

    fn event(hook: Hook) -> Event {
        Event { hook: hook as u8, sensor: 1, verdict: 2, wanted: 4, ..Event::ZERO }
    }

    #[test]
    fn names_become_a_path() {
        let record = decode(&bytes(event(Hook::Open), b"settings.js\0ud\0home\0", b"")).unwrap();
        assert_eq!(record.path, b"/home/ud/settings.js");
        assert_eq!(decode(&bytes(event(Hook::Open), b"", b"")).unwrap().path, b"/");
        assert_eq!(decode(&bytes(event(Hook::Connect), b"", b"")).unwrap().path, b"");
    }

    #[test]
    fn what_is_in_no_directory_has_a_name_only() {
        let event = Event { flags: FLAG_NO_PLACE, ..event(Hook::Exec) };
        assert_eq!(decode(&bytes(event, b"memfd:program\0", b"")).unwrap().path, b"memfd:program");
        assert_eq!(decode(&bytes(event, b"", b"")).unwrap().path, b"/");
    }

    #[test]
    fn a_match_by_name_is_joined_to_its_directory() {
        let by_name = |which| Event { flags: FLAG_BY_NAME, detail: which, ..event(Hook::Rename) };
        let record = decode(&bytes(by_name(2), b"ud\0home\0", b"a.tmp\0./x/../settings.js\0")).unwrap();
        assert_eq!(record.path, b"/home/ud/settings.js");
        assert_eq!(record.other.as_deref(), Some(&b"/home/ud/a.tmp"[..]));
        let record = decode(&bytes(by_name(1), b"ud\0home\0", b"/etc//passwd\0b\0")).unwrap();
        assert_eq!(record.path, b"/etc/passwd");
    }

    #[test]
    fn the_other_path_comes_as_names_too() {
        let event = Event { flags: FLAG_TEXT_PATH, ..event(Hook::Rename) };
        let record = decode(&bytes(event, b"settings.js\0ud\0", b"b\0tmp\0")).unwrap();
        assert_eq!(record.path, b"/ud/settings.js");
        assert_eq!(record.other.as_deref(), Some(&b"/tmp/b"[..]));
        assert!(record.text.is_empty());
    }

    #[test]
    fn what_is_no_record_is_refused_with_the_value() {
        assert_eq!(decode(&[0; 10]), Err(DecodeError::Short(10)));
        assert_eq!(decode(&bytes(Event { hook: 99, ..event(Hook::Open) }, b"", b"")), Err(DecodeError::Hook(99)));
        assert_eq!(decode(&bytes(Event { sensor: 0, ..event(Hook::Open) }, b"", b"")), Err(DecodeError::Sensor(0)));
        let mut cut = bytes(event(Hook::Open), b"a\0", b"");
        cut.pop();
        assert!(matches!(decode(&cut), Err(DecodeError::Length { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_tail_makes_it_panic(hook in 1..32_u8, flags: u32, detail in 0..4_u64, path in prop::collection::vec(any::<u8>(), 0..80), text in prop::collection::vec(any::<u8>(), 0..80)) {
            let event = Event { hook, sensor: 1, flags, detail, ..Event::ZERO };
            let record = decode(&bytes(event, &path, &text)).unwrap();
            let no_place = flags & FLAG_NO_PLACE != 0;
            prop_assert!(record.path.is_empty() || record.path.starts_with(b"/") || no_place);
        }
    }
}
