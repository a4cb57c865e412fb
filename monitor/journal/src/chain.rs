//! The hash chain: every line names the SHA-256 of the line before it.
//!
//! A line's hash is taken over its raw bytes, line feed included, so that `sed -n 7p SEGMENT | sha256sum` gives what line 8
//! names. The first line of a segment names the last one of the segment before; the very first line of a journal names
//! the SHA-256 of the public key that the journal began with.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use data_encoding::HEXLOWER;
use ring::digest;
use serde::{Deserialize, Serialize, de};
use serde_json::{Map, Value};

use crate::text::terminal::is_hidden;

/// Longest line that is written or read, in bytes with its line feed.
pub const MAX_LINE: usize = 1 << 20;
/// So long are most lines at most.
const LIKELY: usize = 2048;

/// A SHA-256; 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no SHA-256: 64 digits of 0-9 and a-f"))
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// The id that an event gets when it is written, for events behind it that name it.
#[derive(Clone, Debug, Default)]
pub struct Mark(Arc<OnceLock<String>>);

/// An event as JSON, up to what only the writer knows of its line: its link, and its number.
#[derive(Debug)]
pub struct Body {
    json: Vec<u8>,
    /// Where the link goes, at the end of `unmapped`.
    link_at: usize,
}

impl Body {
    /// From three objects: the event without `unmapped` and `metadata`, and these two.
    pub fn new(event: &impl Serialize, unmapped: &impl Serialize, metadata: &impl Serialize) -> Self {
        let mut json = Vec::with_capacity(LIKELY);
        open(&mut json, event);
        json.extend_from_slice(b"\"unmapped\":");
        open(&mut json, unmapped);
        let link_at = json.len();
        json.extend_from_slice(b",\"metadata\":");
        open(&mut json, metadata);
        // It may wait in a queue with thousands of others.
        json.shrink_to_fit();
        Self { json, link_at }
    }
}

impl From<Value> for Body {
    /// `unmapped` and `metadata` are made when they are not there.
    fn from(event: Value) -> Self {
        let mut event = match event {
            Value::Object(map) => map,
            other => Map::from_iter([("message".to_owned(), other)]),
        };
        let mut part = |key: &str| match event.remove(key) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let (unmapped, metadata) = (part("unmapped"), part("metadata"));
        Self::new(&event, &unmapped, &metadata)
    }
}

/// An event on its way to the journal.
#[derive(Debug)]
pub struct Entry {
    body: Body,
    /// Where its id is noted.
    noted: Option<Mark>,
    /// Whose id it names, as `unmapped.example`.
    named: Option<Mark>,
    /// How soon it has to be on the disk.
    pub(super) urgent: bool,
}

impl Entry {
    /// Which waits for others, or is `urgent`.
    #[must_use]
    pub fn new(event: impl Into<Body>, urgent: bool) -> Self {
        Self { body: event.into(), noted: None, named: None, urgent }
    }

    /// Its id is noted for others.
    #[must_use]
    pub fn noted(self, mark: Mark) -> Self {
        Self { noted: Some(mark), ..self }
    }

    /// It names another event, if that has been written by then.
    #[must_use]
    pub fn naming(self, mark: Mark) -> Self {
        Self { named: Some(mark), ..self }
    }

    /// How long its line will be at most, in bytes.
    #[must_use]
    pub fn line_len(&self) -> usize {
        self.body.json.len() + if self.named.is_some() { 384 } else { 256 }
    }

    /// The line.
    pub(super) fn write(&self, out: &mut Vec<u8>, number: &Number<'_>) {
        let Body { json, link_at } = &self.body;
        let (before, after) = json.split_at_checked(*link_at).unwrap_or((json, &[]));
        let Number { run, sequence, segment, prev } = number;
        out.extend_from_slice(before);
        if let Some(mark) = &self.noted {
            // A line is written once.
            let _ = mark.0.set(format!("{run}-{sequence}"));
        }
        if let Some(example) = self.named.as_ref().and_then(|mark| mark.0.get()) {
            out.extend_from_slice(format!("\"example\":\"{example}\",").as_bytes());
        }
        out.extend_from_slice(format!("\"chain\":{{\"seg\":{segment},\"prev\":\"{prev}\"}}}}").as_bytes());
        out.extend_from_slice(after);
        out.extend_from_slice(format!("\"sequence\":{sequence},\"uid\":\"{run}-{sequence}\"}}}}\n").as_bytes());
    }
}

/// Writes an object up to its last member, with the comma behind it: there is more to come.
fn open(to: &mut Vec<u8>, object: &impl Serialize) {
    let start = to.len();
    write_json(to, object);
    to.pop();
    if to.len() > start + 1 {
        to.push(b',');
    }
}

/// A value as one line of JSON that a terminal can be shown; without a line feed.
#[must_use]
pub fn to_line(value: &Value) -> String {
    let mut line = Vec::with_capacity(LIKELY);
    write_json(&mut line, value);
    // It is made of texts and of ASCII.
    String::from_utf8(line).unwrap_or_default()
}

/// Writes JSON in which every character that a terminal may obey is an escape, so that `cat` and `tail -f` are safe.
fn write_json(to: &mut Vec<u8>, value: &impl Serialize) {
    let start = to.len();
    // Memory refuses nothing, and every key is a text: it cannot fail.
    let _ = serde_json::to_writer(&mut *to, value);
    let json = to.get(start..).unwrap_or_default();
    // JSON itself escapes what is below a space; these can only stand within strings.
    if json.is_ascii() && !json.contains(&0x7f) {
        return;
    }
    let json = String::from_utf8_lossy(&to.split_off(start)).into_owned();
    for char in json.chars() {
        if is_hidden(char) {
            to.extend(char.encode_utf16(&mut [0; 2]).iter().flat_map(|unit| format!("\\u{unit:04x}").into_bytes()));
        } else {
            to.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// What the writer knows of a line.
#[derive(Debug)]
pub(super) struct Number<'a> {
    /// Id of this run of the guard.
    pub(super) run: &'a str,
    /// The line's number in the journal.
    pub(super) sequence: u64,
    /// The segment's number.
    pub(super) segment: u64,
    /// Hash of the line before.
    pub(super) prev: Hash,
}

/// What a line says about its place in the journal.
#[derive(Debug, Deserialize)]
pub struct Place {
    metadata: MetadataPart,
    unmapped: UnmappedPart,
}

#[derive(Debug, Deserialize)]
struct MetadataPart {
    sequence: u64,
}

#[derive(Debug, Deserialize)]
struct UnmappedPart {
    chain: Link,
    removed: Option<Removed>,
}

#[derive(Debug, Deserialize)]
struct Link {
    seg: u64,
    prev: Hash,
}

/// Segments that the journal itself took away, as a record of that names them under `unmapped.removed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The first of them.
    pub first_segment: u64,
    /// The last of them.
    pub last_segment: u64,
    /// Whether some sink had not delivered everything of them.
    pub unacknowledged: bool,
}

impl Place {
    /// Reads it from a line; an error says what is wrong with the line.
    pub fn of(line: &[u8]) -> Result<Self, String> {
        if !line.ends_with(b"\n") {
            return Err("the line is cut short".to_owned());
        }
        // What is skipped over while reading JSON is not looked at: bytes in it could be anything.
        let text = std::str::from_utf8(line).map_err(|error| format!("no line of a journal: {error}"))?;
        serde_json::from_str(text).map_err(|error| format!("no line of a journal: {error}"))
    }

    /// Number of the line in the journal, from 1.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.metadata.sequence
    }

    /// Number of the segment that it was written to.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.unmapped.chain.seg
    }

    /// Hash of the line before.
    #[must_use]
    pub fn prev(&self) -> Hash {
        self.unmapped.chain.prev
    }

    /// The segments that this line tells the end of.
    #[must_use]
    pub fn removed(&self) -> Option<Removed> {
        self.unmapped.removed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn line(event: Value) -> Vec<u8> {
        let mut out = Vec::new();
        let prev = Hash::of(b"before");
        Entry::new(event, false).write(&mut out, &Number { run: "run", sequence: 7, segment: 3, prev });
        out
    }

    #[test]
    fn a_line_is_the_event_with_its_place() {
        let line = line(json!({"a": 1, "metadata": {"version": "x"}, "unmapped": {"k": [1]}}));
        let event: Value = serde_json::from_slice(&line).unwrap();
        let prev = Hash::of(b"before").to_string();
        assert_eq!(
            event,
            json!({"a": 1, "metadata": {"version": "x", "sequence": 7, "uid": "run-7"},
                "unmapped": {"k": [1], "chain": {"seg": 3, "prev": prev}}})
        );
        let place = Place::of(&line).unwrap();
        assert_eq!((place.sequence(), place.segment(), place.prev()), (7, 3, Hash::of(b"before")));
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out_among_plain_letters_and_others() {
        for hidden in ['\u{7f}', '\u{9b}', '\u{202e}', '\u{e0001}'] {
            for rest in ["plain", "gr\u{f6}\u{df}e"] {
                let text = format!("{rest}{hidden}");
                let line = line(json!({ "a": text }));
                assert!(!std::str::from_utf8(&line).unwrap().contains(hidden), "{hidden:?}");
                assert_eq!(serde_json::from_slice::<Value>(&line).unwrap()["a"], *text);
            }
        }
    }

    #[test]
    fn an_event_without_the_parts_gets_them() {
        for event in [json!({}), json!({"a": null}), json!("text"), json!({"unmapped": 3, "metadata": []})] {
            let place = Place::of(&line(event)).unwrap();
            assert_eq!(place.sequence(), 7);
        }
    }

    #[test]
    fn a_cut_line_is_told_from_a_whole_one() {
        let line = line(json!({}));
        assert!(Place::of(&line[..line.len() - 1]).unwrap_err().contains("cut short"));
        assert!(Place::of(&line[1..]).unwrap_err().contains("no line of a journal"));
    }

    #[test]
    fn bytes_that_are_no_text_make_no_line() {
        let mut line = line(json!({"a": "xyz"}));
        let at = line.windows(3).position(|bytes| bytes == b"xyz").unwrap();
        line[at] = 0xff;
        assert!(Place::of(&line).unwrap_err().contains("utf-8"));
    }

    #[test]
    fn a_hash_is_what_sha256sum_prints() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Hash::of(b"").to_string(), empty);
        assert_eq!(empty.parse::<Hash>().unwrap(), Hash::of(b""));
        assert!("E3".parse::<Hash>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_a_name_holds_it_stays_in_its_line(name in prop::collection::vec(any::<u8>(), 0..255), key in "\\PC{0,20}") {
            let text = String::from_utf8_lossy(&name).into_owned();
            let line = line(json!({ "file": { "path": text }, "unmapped": { key: text } }));
            let (inner, end) = line.split_at(line.len() - 1);
            prop_assert!(!std::str::from_utf8(inner).unwrap().contains(is_hidden));
            prop_assert_eq!(end, b"\n");
            let event: Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(event["file"]["path"].as_str(), Some(text.as_str()));
        }
    }
}
