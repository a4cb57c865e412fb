//! What the journal does at its start: find its end, and set right what a crash left.
//!
//! Only the last segment is read, so that a long backlog costs nothing. What lies behind the last checkpoint and is no
//! whole line of the chain was cut short by a crash: it is moved to `quarantine/`. Damage in the signed part stays where it
//! is, as evidence, and the journal goes on in a new segment.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{
    JournalError,
    chain::{Hash, Place},
    checkpoint,
    directory::{self, open_append},
    reader::{Met, read_line},
    segment::{self, Segment},
};

/// Where damaged bytes are kept.
const QUARANTINE: &str = "quarantine";

/// A finding that has to be journaled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    /// As a sentence.
    pub(super) message: String,
    /// Numbers and places.
    pub(super) details: Map<String, Value>,
}

/// Where a journal ends.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Number of the segment to write to; one that is new when `offset` is 0.
    pub(super) segment: u64,
    /// Its length in bytes.
    pub(super) offset: u64,
    /// Number and hash of the last line; none in a new journal.
    pub(super) last: Option<(u64, Hash)>,
    /// Number of the last line under a checkpoint.
    pub(super) signed: u64,
    /// Events that the journal could not take so far.
    pub(super) dropped_total: u64,
    /// What was found.
    pub(super) findings: Vec<Finding>,
}

/// Finds the end of the journal in `directory`, and repairs it.
pub(super) fn recover(directory: &Path) -> Result<End, JournalError> {
    clean(directory)?;
    let segments = segment::list(directory)?;
    let mut end = End { segment: 1, ..End::default() };
    let Some(last) = segments.last() else { return Ok(end) };
    end.segment = last.number;
    checkpoint::cut_torn(directory, last.number)?;
    let checkpoints: Vec<_> = checkpoint::read(directory, last.number)?.into_iter().flatten().collect();
    let signed = checkpoints.last();
    let tail = scan(last)?;
    end.last = tail.last;
    if let Some(damage) = &tail.damage {
        if last.compressed || !last.path.is_file() || signed.is_some_and(|signed| damage.offset < signed.offset) {
            end.findings.push(keep_damaged(last, damage));
            (end.segment, end.offset) = (last.number.saturating_add(1), 0);
            end.last = tail.raw_last.or(tail.last);
        } else {
            end.findings.push(quarantine(directory, last, damage)?);
            end.offset = damage.offset;
        }
    } else if last.compressed {
        end.segment = last.number.saturating_add(1);
    } else {
        end.offset = tail.length;
    }
    // A segment without a line: the one before names the last line.
    let earlier = segments.len().checked_sub(2).and_then(|index| segments.get(index));
    if end.last.is_none()
        && let Some(earlier) = earlier
    {
        let tail = scan(earlier)?;
        end.last = tail.raw_last.or(tail.last);
    }
    let known = signed.cloned().or_else(|| {
        let checkpoints = checkpoint::read(directory, earlier?.number).ok()?;
        checkpoints.into_iter().flatten().last()
    });
    if let Some(known) = known {
        end.signed = known.sequence;
        end.dropped_total = known.dropped_total;
        let found = end.last.map_or(0, |(sequence, _)| sequence);
        if known.sequence > found {
            end.findings.push(Finding {
                message: format!(
                    "The journal ends with line {found}, and had {} lines when it was signed last: the end is missing",
                    known.sequence
                ),
                details: Map::from_iter([
                    ("found_sequence".to_owned(), found.into()),
                    ("signed_sequence".to_owned(), known.sequence.into()),
                ]),
            });
            // Numbers are never given twice.
            let head = end.last.map_or(known.head, |(_, head)| head);
            end.last = Some((known.sequence, head));
        }
    }
    Ok(end)
}

/// Removes what a crash left of unfinished work.
fn clean(directory: &Path) -> Result<(), JournalError> {
    for entry in fs::read_dir(directory).map_err(JournalError::io(directory))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
    for segment in segment::list(directory)?.iter().filter(|segment| !segment.compressed) {
        // The plain one was not removed yet: it is compressed again.
        let _ = fs::remove_file(segment::compressed(directory, segment.number));
    }
    Ok(())
}

/// Bytes that are no part of the chain.
#[derive(Debug)]
struct Damage {
    /// Where they begin.
    offset: u64,
    /// Why.
    why: String,
}

/// What a segment holds.
#[derive(Debug)]
struct Tail {
    /// Number and hash of the last line before the first damage.
    last: Option<(u64, Hash)>,
    /// Number and hash of the last line that can be read at all.
    raw_last: Option<(u64, Hash)>,
    damage: Option<Damage>,
    length: u64,
}

/// Reads a segment to its end, and checks the chain within it.
fn scan(segment: &Segment) -> Result<Tail, JournalError> {
    let mut source = segment.open()?;
    let (mut line, mut offset) = (Vec::new(), 0);
    let mut tail = Tail { last: None, raw_last: None, damage: None, length: 0 };
    loop {
        let read = read_line(&mut source, &mut line);
        let (met, taken) = match read {
            // What cannot be decompressed, or goes on for ever, has no end that could be found.
            Err(error) if segment.compressed || error.kind() == io::ErrorKind::InvalidData => {
                tail.damage.get_or_insert(Damage { offset, why: error.to_string() });
                return Ok(tail);
            }
            read => read.map_err(JournalError::io(&segment.path))?,
        };
        let place = match met {
            Met::End => break,
            Met::Torn => Err("the line is cut short".to_owned()),
            Met::TooLong => Err("the line is longer than a line can be".to_owned()),
            Met::Line => Place::of(&line).and_then(|place| follows(&place, tail.last, segment.number).map(|()| place)),
        };
        let hash = Hash::of(&line);
        match place {
            Ok(place) if tail.damage.is_none() => {
                tail.last = Some((place.sequence(), hash));
            }
            Err(why) if tail.damage.is_none() => tail.damage = Some(Damage { offset, why }),
            _ => {}
        }
        if tail.damage.is_some()
            && met == Met::Line
            && let Ok(place) = Place::of(&line)
        {
            tail.raw_last = Some((place.sequence(), hash));
        }
        offset += taken;
        tail.length = offset;
    }
    Ok(tail)
}

/// Whether a line is the one that comes next.
fn follows(place: &Place, last: Option<(u64, Hash)>, segment: u64) -> Result<(), String> {
    if place.segment() != segment {
        return Err(format!("the line was written to segment {}", place.segment()));
    }
    match last {
        Some((sequence, _)) if place.sequence() != sequence.saturating_add(1) => {
            Err(format!("line {} comes after line {sequence}", place.sequence()))
        }
        Some((_, head)) if place.prev() != head => Err("the line does not name the one before".to_owned()),
        _ => Ok(()),
    }
}

/// Damage in the signed part, or no file at all: it stays.
fn keep_damaged(segment: &Segment, damage: &Damage) -> Finding {
    Finding {
        message: format!(
            "The journal is damaged in segment {} at byte {}: {}; what is there stays, and it goes on in a new segment",
            segment.number, damage.offset, damage.why
        ),
        details: Map::from_iter([(
            "damaged".to_owned(),
            json!({ "segment": segment.number, "offset": damage.offset }),
        )]),
    }
}

/// Moves everything from the damage on out of the segment.
fn quarantine(directory: &Path, segment: &Segment, damage: &Damage) -> Result<Finding, JournalError> {
    let (bytes, kept) = cut(directory, &segment.path, segment.number, damage.offset)?;
    let message = format!(
        "The journal's end was damaged in segment {} at byte {}: {}; {bytes} bytes {kept}",
        segment.number, damage.offset, damage.why
    );
    let details = json!({ "segment": segment.number, "offset": damage.offset, "bytes": bytes });
    Ok(Finding { message, details: Map::from_iter([("repaired".to_owned(), details)]) })
}

/// Cuts a file at `offset`; answers how many bytes that were, and what became of them.
pub(super) fn cut(directory: &Path, path: &Path, number: u64, offset: u64) -> Result<(u64, String), JournalError> {
    let mut file = File::options().read(true).write(true).open(path).map_err(JournalError::io(path))?;
    let length = file.metadata().map_err(JournalError::io(path))?.len();
    let place = directory.join(QUARANTINE);
    let kept = place.join(format!("segment-{number:08}-at-{offset}"));
    let copied = copy(&mut file, offset, &place, &kept);
    file.set_len(offset).and_then(|()| file.sync_all()).map_err(JournalError::io(path))?;
    let kept = match copied {
        Ok(()) => format!("were moved to {}", kept.display()),
        // On a full disk a whole journal is worth more than its debris.
        Err(error) => {
            let _ = fs::remove_file(&kept);
            format!("were dropped, since {} cannot be written: {error}", kept.display())
        }
    };
    Ok((length.saturating_sub(offset), kept))
}

fn copy(from: &mut File, offset: u64, place: &PathBuf, to: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    from.seek(SeekFrom::Start(offset))?;
    let mut out = open_append(to)?;
    out.set_len(0)?;
    io::copy(&mut from.take(64 << 20), &mut out)?;
    out.sync_all()?;
    directory::sync(place).map_err(io::Error::other)
}
