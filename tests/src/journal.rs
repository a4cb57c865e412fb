//! A guard's journal, read as it is on the disk: every line of every segment, and whether it is what it has to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

#[cfg(feature = "judges")]
use crate::cef;
use crate::{ecs, needs, record::Record};

/// Of events of a kind so many are looked at: those of a flood are alike.
const ENOUGH: usize = 1000;

/// Every finished line, from the oldest segment on.
pub fn text(directory: &Path) -> Result<String> {
    let mut text = String::new();
    for segment in segments(directory)? {
        text.push_str(&read(&segment, 0).with_context(|| format!("{} cannot be read", segment.display()))?);
    }
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Ok(text)
}

/// Paths of the segments without what tells plain from compressed ones, in order.
fn segments(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        // The guard has not come that far.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.display().to_string();
        if path.file_name().is_none_or(|name| !name.as_encoded_bytes().starts_with(b"journal-")) {
            continue;
        }
        found.extend(name.strip_suffix(".zst").unwrap_or(&name).strip_suffix(".jsonl").map(PathBuf::from));
    }
    Ok(found)
}

/// What a segment has from `start` on. It may be compressed in the moment that it is read.
fn read(segment: &Path, start: usize) -> io::Result<String> {
    let text = match fs::File::open(segment.with_extension("jsonl")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = zstd::decode_all(fs::File::open(segment.with_extension("jsonl.zst"))?)?;
            text.get(start..).unwrap_or_default().to_vec()
        }
        file => {
            let (mut file, mut text) = (file?, Vec::new());
            file.seek(SeekFrom::Start(start as u64))?;
            file.read_to_end(&mut text)?;
            text
        }
    };
    String::from_utf8(text).map_err(io::Error::other)
}

/// Every finished line as a record.
pub fn records(directory: &Path) -> Result<Vec<Record>> {
    text(directory)?.lines().map(parse).collect()
}

fn parse(line: &str) -> Result<Record> {
    Record::parse(line).with_context(|| format!("the journal has a line that is not JSON: {line}"))
}

/// A journal that grows meanwhile: a finished line is read once. An emulated processor that read all of them again and
/// again would have no time for the guard.
#[derive(Debug, Default)]
pub struct Following {
    records: Vec<Record>,
    /// How many bytes of each segment are in `records`.
    taken: BTreeMap<PathBuf, usize>,
    /// Segments that were read to their end.
    closed: BTreeSet<PathBuf>,
}

impl Following {
    /// Every line that is finished by now.
    pub fn catch_up(&mut self, directory: &Path) -> Result<&[Record]> {
        // What has lines now was begun after everything before it was finished.
        let newest = self.taken.iter().rfind(|(_, taken)| **taken > 0).map(|(segment, _)| segment.clone());
        for segment in segments(directory)? {
            if self.closed.contains(&segment) {
                continue;
            }
            let taken = self.taken.entry(segment.clone()).or_default();
            let text = read(&segment, *taken).with_context(|| format!("{} cannot be read", segment.display()))?;
            let end = text.rfind('\n').map_or(0, |end| end + 1);
            *taken += end;
            let lines = text.get(..end).unwrap_or_default().lines();
            self.records.extend(lines.map(parse).collect::<Result<Vec<_>>>()?);
            if newest.as_ref().is_some_and(|newest| *newest > segment) {
                self.closed.insert(segment);
            }
        }
        Ok(&self.records)
    }
}

/// Fails when a line is not valid OCSF, or is exported as what is no ECS or CEF, or when the journal is not whole and signed
/// to its end.
pub fn check(directory: &Path, records: &[Record]) -> Result<()> {
    #[cfg(feature = "judges")]
    first_of_each_kind(records).into_iter().try_for_each(|(_, record)| crate::ocsf::valid(record))?;
    let output = Command::new(needs::flowwarden()?).args(["journal", "verify", "--journal"]).arg(directory).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the journal is not whole ({}):\n{said}", output.status);
    check_ecs(directory, records)?;
    // The programs of a bare machine are the guard's: what happens there happens on the host too, where CEF is looked at.
    #[cfg(feature = "judges")]
    if !needs::is_bare() {
        check_cef(directory, records)?;
    }
    Ok(())
}

/// Events with what they are exported as.
fn exported<'r>(directory: &Path, records: &'r [Record], format: &str) -> Result<Vec<(&'r Record, String)>> {
    let mut export = Command::new(needs::flowwarden()?);
    let text = needs::run(export.args(["journal", "export", "--format", format, "--journal"]).arg(directory))?;
    let lines: Vec<_> = text.lines().collect();
    ensure!(lines.len() == records.len(), "{} lines of {format} for {} events", lines.len(), records.len());
    Ok(first_of_each_kind(records).into_iter().map(|(at, record)| (record, lines[at].to_owned())).collect())
}

/// Up to [`ENOUGH`] events of each kind, with their places.
fn first_of_each_kind(records: &[Record]) -> Vec<(usize, &Record)> {
    let mut kinds = BTreeMap::new();
    let mut is_wanted = |record: &Record| {
        let kind = [record.json()["type_uid"].to_string(), record.hook().to_owned(), record.verdict().to_owned()];
        let seen = kinds.entry(kind).or_insert(0);
        *seen += 1;
        *seen <= ENOUGH
    };
    records.iter().enumerate().filter(|(_, record)| is_wanted(record)).collect()
}

/// Fails when an event is exported as something that is not ECS.
fn check_ecs(directory: &Path, records: &[Record]) -> Result<()> {
    for (record, line) in exported(directory, records, "ecs")? {
        let document: Value = serde_json::from_str(&line).with_context(|| format!("no document: {line}"))?;
        let faults = ecs::faults(&document);
        ensure!(faults.is_empty(), "an event is no valid ECS: {faults:#?}\n{document:#}");
        ensure!(document.pointer("/event/id") == record.json().pointer("/metadata/uid"), "another event: {document:#}");
    }
    Ok(())
}

/// Fails when an event is exported as something that others do not read as CEF, or read otherwise.
#[cfg(feature = "judges")]
fn check_cef(directory: &Path, records: &[Record]) -> Result<()> {
    let exported = exported(directory, records, "cef")?;
    let events = cef::parse(exported.iter().map(|(_, line)| line.as_str()))?;
    ensure!(events.len() == exported.len(), "{} of {} lines of CEF are understood", events.len(), exported.len());
    for ((record, line), event) in exported.iter().zip(events) {
        let number = |key: &str| record.json().pointer(key).filter(|it| !it.is_null()).map(ToString::to_string);
        let text = |key: &str| Some(record.pointer_text(key).to_owned()).filter(|text| !text.is_empty());
        for (field, wanted) in [
            ("SignatureID", number("/type_uid")),
            // Not `rt`: of the first key liblognorm 2.0.6 drops a letter.
            ("Extensions/externalId", text("/metadata/uid")),
            ("Extensions/act", text("/unmapped/verdict")),
            ("Extensions/cs1", text("/unmapped/instance")),
            ("Extensions/cs2", text("/unmapped/rule")),
            ("Extensions/dst", text("/dst_endpoint/ip")),
        ] {
            let said = event.pointer(&format!("/f/{field}")).and_then(Value::as_str).filter(|said| !said.is_empty());
            ensure!(said == wanted.as_deref(), "{field} of CEF is {said:?}, not {wanted:?}: {line}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_compressed_segments_are_one_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        fs::write(path("journal-00000001.jsonl.zst"), zstd::encode_all(&b"a\nb\n"[..], 3).unwrap()).unwrap();
        fs::write(path("journal-00000002.jsonl"), "c\nhalf").unwrap();
        fs::write(path("keys.jsonl.tmp"), "x").unwrap();
        assert_eq!(text(directory.path()).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn who_follows_a_journal_sees_each_finished_line_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let mut following = Following::default();
        let mut numbers = || -> Vec<u64> {
            let records = following.catch_up(directory.path()).unwrap();
            records.iter().map(|record| record.json().as_u64().unwrap()).collect()
        };
        fs::write(path("journal-00000001.jsonl"), "1\n2").unwrap();
        assert_eq!(numbers(), [1]);
        fs::write(path("journal-00000001.jsonl"), "1\n2\n3\n").unwrap();
        assert_eq!(numbers(), [1, 2, 3]);
        fs::remove_file(path("journal-00000001.jsonl")).unwrap();
        fs::write(path("journal-00000001.jsonl.zst"), zstd::encode_all(&b"1\n2\n3\n4\n"[..], 3).unwrap()).unwrap();
        fs::write(path("journal-00000002.jsonl"), "5\n").unwrap();
        assert_eq!(numbers(), [1, 2, 3, 4, 5]);
        fs::remove_file(path("journal-00000001.jsonl.zst")).unwrap();
        fs::write(path("journal-00000002.jsonl"), "5\n6\n").unwrap();
        assert_eq!(numbers(), [1, 2, 3, 4, 5, 6]);
    }
}
