//! Checkpoints: signed statements of how long the journal was, and what its last line was.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    JournalError,
    chain::Hash,
    directory, format,
    key::{PublicKey, Signer},
    reader::Position,
    segment,
};
use crate::durable;

/// Sidecars are thinned when they are longer, in bytes.
const MUCH: u64 = 256 << 10;

/// How deep a checkpoint may be in what a sink has sent: OpenTelemetry has it in a text in an attribute in a record in three
/// lists.
const NESTED: usize = 24;

/// One checkpoint, as it stands in a sidecar and, under `unmapped.checkpoint`, in the journal itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Id of the key that the journal began with.
    pub chain: String,
    /// The segment.
    pub segment: u64,
    /// Length of the segment's plain text in bytes.
    pub offset: u64,
    /// Number of the last line.
    pub sequence: u64,
    /// Hash of the last line.
    pub head: Hash,
    /// Milliseconds since 1970.
    pub time: i64,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Events that the journal could not take, since it began.
    pub dropped_total: u64,
    /// Id of the key that signed.
    pub key_id: String,
    /// Signature over [`Self::message`], in hexadecimal digits.
    pub signature: String,
}

impl Checkpoint {
    /// Signs what is in `self` but for the last two fields.
    #[must_use]
    pub(super) fn signed(mut self, signer: &Signer) -> Self {
        self.key_id = signer.id();
        self.signature = signer.sign(&self.message());
        self
    }

    /// What is signed.
    #[must_use]
    pub fn message(&self) -> String {
        let Self { chain, segment, offset, sequence, head, time, boot_id, dropped_total, key_id, signature: _ } = self;
        format!(
            "flowwarden checkpoint 1\n{chain}\n{segment}\n{offset}\n{sequence}\n{head}\n{time}\n{boot_id}\n\
             {dropped_total}\n{key_id}\n"
        )
    }

    /// Where it speaks of.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }

    /// Whether `key` signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify(&self.message(), &self.signature)
    }

    /// Reads one from a line of a sidecar.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| format!("no checkpoint: {error}"))
    }

    /// The last one in a text whose lines are those of a sidecar, or events in whatever form a sink has sent them. Where in
    /// a line it stands does not matter: it is signed.
    pub fn last_of(text: &str) -> Result<Self, &'static str> {
        // What a collector has stored may be one document of many lines.
        let found =
            text.lines().rev().find_map(|line| Self::within(line, NESTED)).or_else(|| Self::within(text, NESTED));
        found.ok_or("no line in it has a checkpoint")
    }

    /// One in a text: JSON, perhaps behind a header of syslog, or CEF. `depth` bounds texts within texts.
    fn within(text: &str, depth: usize) -> Option<Self> {
        let json = text.find('{').and_then(|start| {
            // What follows the document, as a quote does, is none of it.
            serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>().next()?.ok()
        });
        let found = json.and_then(|value| Self::within_value(&value, depth));
        found.or_else(|| Self::within(&format::cef::checkpoint(text)?, depth.checked_sub(1)?))
    }

    fn within_value(value: &Value, depth: usize) -> Option<Self> {
        let depth = depth.checked_sub(1)?;
        match value {
            Value::Object(map) => Self::deserialize(value)
                .ok()
                .or_else(|| map.values().find_map(|value| Self::within_value(value, depth))),
            Value::Array(items) => items.iter().find_map(|value| Self::within_value(value, depth)),
            Value::String(text) => Self::within(text, depth),
            _ => None,
        }
    }

    /// Adds it to the sidecar of its segment, and puts it on the disk.
    pub(super) fn store(&self, directory: &Path) -> Result<(), JournalError> {
        let path = segment::checkpoints(directory, self.segment);
        let mut line = serde_json::to_vec(self).map_err(|error| JournalError::io(&path)(error.into()))?;
        line.push(b'\n');
        let write = || -> io::Result<()> {
            let mut file = directory::open_append(&path)?;
            let before = file.metadata()?.len();
            file.write_all(&line).and_then(|()| file.sync_data()).inspect_err(|_| drop(file.set_len(before)))
        };
        write().map_err(JournalError::io(&path))?;
        // A quiet segment has a checkpoint for nearly every line: the last ones say it all.
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > MUCH) {
            thin(directory, self.segment)?;
        }
        Ok(())
    }
}

/// The checkpoints of a segment; what is none comes as the reason. A sidecar that is not there has none.
pub fn read(directory: &Path, number: u64) -> Result<Vec<Result<Checkpoint, String>>, JournalError> {
    let path = segment::checkpoints(directory, number);
    let text = match durable::read(&path, directory::LONGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(JournalError::io(&path))?,
    };
    let lines = text.split_inclusive(|&byte| byte == b'\n').enumerate();
    // The last line is half a line after a crash; that is no damage.
    let lines = lines.filter(|(_, line)| line.ends_with(b"\n"));
    let name = path.file_name().unwrap_or_default().display().to_string();
    Ok(lines
        .map(|(index, line)| Checkpoint::parse(line).map_err(|why| format!("{name}, line {}: {why}", index + 1)))
        .collect())
}

/// Ends the sidecar of a segment with a whole line, and keeps of many checkpoints the last one of each key.
pub(super) fn thin(directory: &Path, number: u64) -> Result<(), JournalError> {
    let path = segment::checkpoints(directory, number);
    let mut kept: Vec<Checkpoint> = Vec::new();
    for checkpoint in read(directory, number)?.into_iter().flatten() {
        if kept.last().is_some_and(|last| last.key_id == checkpoint.key_id) {
            kept.pop();
        }
        kept.push(checkpoint);
    }
    if kept.is_empty() {
        return Ok(());
    }
    let lines: Result<Vec<_>, _> = kept.iter().map(serde_json::to_string).collect();
    let text = lines.map_err(|error| JournalError::io(&path)(error.into()))?.join("\n") + "\n";
    durable::replace(&path, text.as_bytes()).map_err(JournalError::io(&path))
}

/// Ends the sidecar of a segment with a whole line.
pub(super) fn cut_torn(directory: &Path, number: u64) -> Result<(), JournalError> {
    let path = segment::checkpoints(directory, number);
    directory::cut_torn(&path).map_err(JournalError::io(&path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::format::Format;

    fn checkpoint(signer: &Signer, sequence: u64) -> Checkpoint {
        Checkpoint {
            chain: signer.first().id(),
            segment: 1,
            offset: 100 * sequence,
            sequence,
            head: Hash::of(b"x"),
            time: 5,
            boot_id: "boot".into(),
            dropped_total: 0,
            key_id: String::new(),
            signature: String::new(),
        }
        .signed(signer)
    }

    #[test]
    fn every_field_is_under_the_signature() {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::open(directory.path(), || Ok(None)).unwrap();
        let good = checkpoint(&signer, 3);
        let key = signer.first();
        assert!(good.is_signed_by(&key));
        let value = serde_json::to_value(&good).unwrap();
        for (name, old) in value.as_object().unwrap() {
            let mut changed = value.clone();
            changed[name] = match old {
                Value::Number(number) => json!(number.as_i64().unwrap() + 1),
                _ if name == "head" => json!(Hash::of(b"y")),
                Value::String(text) => json!(format!("{text}0")),
                other => panic!("{other}"),
            };
            let changed: Checkpoint = serde_json::from_value(changed).unwrap();
            assert!(!changed.is_signed_by(&key), "{name} can be changed");
        }
    }

    #[test]
    fn it_is_read_from_a_sidecar_and_from_whatever_a_sink_has_sent() {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::open(directory.path(), || Ok(None)).unwrap();
        let one = checkpoint(&signer, 3);
        let line = serde_json::to_string(&one).unwrap();
        assert_eq!(Checkpoint::parse(line.as_bytes()), Ok(one.clone()));
        let event = json!({ "class_uid": 6002, "unmapped": { "checkpoint": one } });
        let (ocsf, ecs, cef) = (event.to_string(), Format::Ecs.render(b"", &event), Format::Cef.render(b"", &event));
        let [ecs, cef] = [ecs, cef].map(|text| String::from_utf8(text).unwrap());
        let syslog = "<134>1 2026-01-31T08:00:00Z h flowwarden - - [a@1 b=\"c\"] ";
        let attribute = json!({ "key": "log.record.original", "value": { "stringValue": &ecs } });
        let records = json!([{ "body": { "stringValue": "x" }, "attributes": [attribute] }]);
        for text in [
            line.clone(),
            ocsf.clone(),
            format!("{ocsf}\n{{\"message\":\"{{ and more\"}}\n\n"),
            format!("{event:#}"),
            ecs.clone(),
            cef.clone(),
            format!("{syslog}{ocsf}"),
            format!("{syslog}{ecs}"),
            format!("{syslog}{cef}"),
            json!({ "time": 1, "event": &event }).to_string(),
            json!({ "_source": serde_json::from_str::<Value>(&ecs).unwrap() }).to_string(),
            json!({ "text": &cef }).to_string(),
            json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": records }] }] }).to_string(),
            format!("{}\n{ocsf}", json!({ "unmapped": { "checkpoint": checkpoint(&signer, 2) } })),
        ] {
            assert_eq!(Checkpoint::last_of(&text), Ok(one.clone()), "{text}");
        }
        let deep = "{\"a\":".repeat(100) + &line + &"}".repeat(100);
        for none in [
            "",
            "{}",
            "{",
            "CEF:0|a|b|c|d|e|1|flexString1=",
            "CEF:0|a|b|c|d|e|1|flexString1=CEF: flexString1={}",
            &deep,
        ] {
            assert!(Checkpoint::last_of(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_sidecar_does_not_grow_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::open(directory.path(), || Ok(None)).unwrap();
        for sequence in 1..=1000 {
            checkpoint(&signer, sequence).store(directory.path()).unwrap();
        }
        let length = fs::metadata(segment::checkpoints(directory.path(), 1)).unwrap().len();
        assert!(length <= MUCH + 1000, "{length}");
        assert_eq!(read(directory.path(), 1).unwrap().pop().unwrap().unwrap(), checkpoint(&signer, 1000));
    }

    #[test]
    fn a_sidecar_survives_half_a_line_and_is_thinned() {
        let directory = tempfile::tempdir().unwrap();
        let mut signer = Signer::open(directory.path(), || Ok(None)).unwrap();
        let mut last = Vec::new();
        for sequence in 1..=6 {
            let one = checkpoint(&signer, sequence);
            one.store(directory.path()).unwrap();
            if sequence == 4 {
                signer.ratchet(4, one.head).unwrap();
            }
            if matches!(sequence, 4 | 6) {
                last.push(one);
            }
        }
        let path = segment::checkpoints(directory.path(), 1);
        let mut file = directory::open_append(&path).unwrap();
        file.write_all(b"{\"chain\":").unwrap();
        assert_eq!(read(directory.path(), 1).unwrap().len(), 6);
        cut_torn(directory.path(), 1).unwrap();
        thin(directory.path(), 1).unwrap();
        let thinned: Vec<_> = read(directory.path(), 1).unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(thinned, last);
    }
}
