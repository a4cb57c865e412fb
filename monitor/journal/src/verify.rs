//! Verifying a journal: is every line what was written, are all there, and who vouches for it.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use super::{
    JournalError,
    chain::{Hash, Place, Removed},
    checkpoint::{self, Checkpoint},
    directory::is_in_use,
    key::{KeyChain, PublicKey},
    reader::{Met, Position, read_line},
    segment::{self, Segment},
};

/// What is asked beside the journal's own consistency.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The public key that the journal has to have begun with.
    pub public_key: Option<PublicKey>,
    /// A checkpoint that was kept elsewhere.
    pub against: Option<Checkpoint>,
}

/// What kind of thing is wrong; the later ones are graver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Lines at the end that no checkpoint covers.
    Unsigned,
    /// Lines or segments are missing.
    Missing,
    /// Something is not what was written.
    Damaged,
    /// A signature is invalid, or its key is unknown.
    Signature,
}

impl Kind {
    /// Exit code of `flowwarden journal verify`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Damaged => 3,
            Self::Missing => 4,
            Self::Unsigned => 5,
            Self::Signature => 6,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Signature => "signature",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: Kind,
    /// The file that it is about.
    pub path: PathBuf,
    /// The line in it, from 1; 0 when it is about the whole file.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.kind.name(), self.path.display())?;
        if self.line > 0 {
            write!(to, ":{}", self.line)?;
        }
        write!(to, ": {}", self.what)
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whole lines that were read.
    pub lines: u64,
    /// Segments that were read.
    pub segments: usize,
    /// Number of the last line, and of the last one under a good checkpoint.
    pub last: u64,
    /// Number of the last line that a good checkpoint covers.
    pub signed: u64,
    /// A guard writes to the journal just now: it signs what is new within a second.
    pub in_use: bool,
    /// The key that the journal began with.
    pub first_key: Option<PublicKey>,
    /// The checkpoint to compare with is about a segment that the journal removed: nothing was compared.
    pub against_is_gone: bool,
    /// Segments before the first existing one, all recorded as removed.
    pub removed: u64,
    /// The first [`MOST_FAULTS`] things that are wrong, in order of the journal.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more: u64,
    worst: Option<Kind>,
}

/// Most faults that are listed.
pub const MOST_FAULTS: usize = 50;

impl Report {
    /// The gravest kind of thing that is wrong; none in a journal that is whole and signed to its end.
    #[must_use]
    pub fn worst(&self) -> Option<Kind> {
        self.worst
    }

    fn add(&mut self, kind: Kind, path: &Path, line: u64, what: impl Into<String>) {
        self.worst = self.worst.max(Some(kind));
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { kind, path: path.to_owned(), line, what: what.into() });
        } else {
            self.more += 1;
        }
    }
}

/// A statement about a line of the journal that somebody signed.
#[derive(Clone, Debug)]
struct Claim {
    sequence: u64,
    head: Hash,
    /// Where the segment ends behind the line; not known to keys.
    at: Option<Position>,
    /// Who says so.
    source: String,
    path: PathBuf,
}

/// Verifies the journal in `directory`.
pub fn verify(directory: &Path, request: &Request) -> Result<Report, JournalError> {
    let mut report = Report { in_use: is_in_use(directory), ..Report::default() };
    let segments = segment::list(directory)?;
    let keys = KeyChain::read(directory)?;
    let mut check =
        Check { directory, keys: &keys, claims: BTreeMap::new(), last: None, removed: Vec::new(), report: &mut report };
    check.keys(request);
    if let Some(against) = &request.against {
        check.claim(against, "the checkpoint to compare with", Path::new("--against"));
    }
    for found in &segments {
        check.checkpoints(found.number)?;
    }
    for (index, found) in segments.iter().enumerate() {
        check.segment(found, segments.get(index + 1).is_some())?;
    }
    check.ends(&segments, request);
    Ok(report)
}

struct Check<'a> {
    directory: &'a Path,
    keys: &'a KeyChain,
    /// By the number of the line that they are about.
    claims: BTreeMap<u64, Vec<Claim>>,
    /// Number and hash of the line before.
    last: Option<(u64, Hash)>,
    removed: Vec<Removed>,
    report: &'a mut Report,
}

impl Check<'_> {
    /// The chain of keys, which speaks of lines too.
    fn keys(&mut self, request: &Request) {
        let path = self.directory.join("keys.jsonl");
        for fault in &self.keys.faults {
            self.report.add(Kind::Signature, &path, 0, fault.clone());
        }
        self.report.first_key = self.keys.first();
        if let Some(wanted) = request.public_key
            && self.keys.first() != Some(wanted)
        {
            let found = self.keys.first().map_or_else(|| "no key".to_owned(), |key| key.to_string());
            self.report.add(
                Kind::Signature,
                &path,
                1,
                format!("the journal began with {found}, and not with the key that was given"),
            );
        }
        for (index, record) in self.keys.records.iter().enumerate() {
            let source = format!("key {}", index + 1);
            if index > 0 && record.signed_by.is_none() {
                self.report.add(
                    Kind::Signature,
                    &path,
                    index as u64 + 1,
                    "this key is not signed by the previous key: its signatures are not trusted",
                );
            }
            let claim = Claim { sequence: record.sequence, head: record.head, at: None, source, path: path.clone() };
            self.claims.entry(record.sequence).or_default().push(claim);
        }
    }

    /// Takes a checkpoint as a claim, if its signature holds.
    fn claim(&mut self, checkpoint: &Checkpoint, source: &str, path: &Path) {
        let sequence = checkpoint.sequence;
        let refuse = |check: &mut Self, why: String| {
            check.report.add(Kind::Signature, path, 0, format!("{source} about line {sequence}: {why}"));
        };
        let Some((place, key)) = self.keys.get(&checkpoint.key_id) else {
            return refuse(self, format!("key {} is not among the journal's keys", checkpoint.key_id));
        };
        if !checkpoint.is_signed_by(&key) {
            return refuse(self, format!("the signature is not that of key {}", checkpoint.key_id));
        }
        if self.keys.first().is_some_and(|first| first.id() != checkpoint.chain) {
            return refuse(self, "it is about another journal".to_owned());
        }
        let next = self.keys.records.get(place + 1);
        if next.is_some_and(|next| next.signed_by.is_some() && sequence > next.sequence) {
            return refuse(self, format!("key {} was out of use by then", checkpoint.key_id));
        }
        self.report.signed = self.report.signed.max(sequence);
        self.claims.entry(sequence).or_default().push(Claim {
            sequence,
            head: checkpoint.head,
            at: Some(checkpoint.position()),
            source: source.to_owned(),
            path: path.to_owned(),
        });
    }

    fn checkpoints(&mut self, number: u64) -> Result<(), JournalError> {
        let path = segment::checkpoints(self.directory, number);
        for found in checkpoint::read(self.directory, number)? {
            match found {
                Ok(checkpoint) => self.claim(&checkpoint, "the checkpoint", &path),
                Err(why) => self.report.add(Kind::Signature, &path, 0, why),
            }
        }
        Ok(())
    }

    fn segment(&mut self, segment: &Segment, followed: bool) -> Result<(), JournalError> {
        self.report.segments += 1;
        let mut source = match segment.open() {
            Err(JournalError::Io { cause, .. }) if segment.compressed => {
                self.report.add(Kind::Damaged, &segment.path, 0, cause.to_string());
                return Ok(());
            }
            source => source?,
        };
        let (mut line, mut number, mut offset) = (Vec::new(), 0, 0);
        loop {
            let (met, taken) = match read_line(&mut source, &mut line) {
                // Not a fault of the disk: the bytes are no compressed text.
                Err(error) if segment.compressed || error.kind() == io::ErrorKind::InvalidData => {
                    self.report.add(Kind::Damaged, &segment.path, number + 1, error.to_string());
                    return Ok(());
                }
                read => read.map_err(JournalError::io(&segment.path))?,
            };
            number += 1;
            offset += taken;
            match met {
                Met::End => return Ok(()),
                Met::Torn if followed || segment.compressed => {
                    self.report.add(Kind::Damaged, &segment.path, number, "the line is cut short");
                }
                Met::Torn if self.report.in_use => {}
                Met::Torn => self.report.add(Kind::Unsigned, &segment.path, number, "the last line is cut short"),
                Met::TooLong => {
                    self.report.add(Kind::Damaged, &segment.path, number, "longer than a line can be");
                    self.last = None;
                }
                Met::Line => self.line(segment, number, offset, &line),
            }
        }
    }

    fn line(&mut self, segment: &Segment, number: u64, end: u64, line: &[u8]) {
        self.report.lines += 1;
        let hash = Hash::of(line);
        let place = match Place::of(line) {
            Ok(place) => place,
            Err(why) => {
                self.report.add(Kind::Damaged, &segment.path, number, why);
                // The number is unknown; the hash still binds the line to the next.
                self.last = self.last.map(|(sequence, _)| (sequence.saturating_add(1), hash));
                return;
            }
        };
        let sequence = place.sequence();
        if place.segment() != segment.number {
            let what = format!("written to segment {}", place.segment());
            self.report.add(Kind::Damaged, &segment.path, number, what);
        }
        match self.last {
            Some((last, _)) if sequence > last.saturating_add(1) => {
                let what = format!("{} lines are missing before line {sequence}", sequence - last - 1);
                self.report.add(Kind::Missing, &segment.path, number, what);
            }
            Some((last, _)) if sequence <= last => {
                let what = format!("line {sequence} comes after line {last}");
                self.report.add(Kind::Damaged, &segment.path, number, what);
            }
            Some((_, head)) if place.prev() != head => {
                let what = format!("line {sequence} does not name the line before: one of the two was changed");
                self.report.add(Kind::Damaged, &segment.path, number, what);
            }
            None if sequence == 1 && self.keys.first().is_some_and(|first| first.genesis() != place.prev()) => {
                self.report.add(Kind::Damaged, &segment.path, number, "the first line names another journal's key");
            }
            _ => {}
        }
        self.removed.extend(place.removed());
        self.last = Some((sequence, hash));
        self.report.last = self.report.last.max(sequence);
        for claim in self.claims.remove(&sequence).unwrap_or_default() {
            let place = Position { segment: segment.number, offset: end };
            let why = if claim.head != hash {
                "the line is not the one that was signed"
            } else if claim.at.is_some_and(|at| at != place) {
                "the line is not where it was when it was signed"
            } else {
                continue;
            };
            self.report.add(Kind::Damaged, &segment.path, number, format!("{why}, says {}", claim.source));
        }
    }

    /// What is missing at the beginning and at the end.
    fn ends(&mut self, segments: &[Segment], request: &Request) {
        let first = segments.first().map(|segment| segment.number);
        let before = first.unwrap_or(u64::MAX).saturating_sub(1);
        let recorded = self.removed.iter().map(|removed| removed.last_segment).max().unwrap_or_default();
        if let Some(first) = first
            && before > recorded
        {
            let what = format!(
                "segments {} to {before} are missing, and the journal does not record their removal",
                recorded.saturating_add(1)
            );
            self.report.add(Kind::Missing, &segment::plain(self.directory, first), 0, what);
        } else if first.is_some() {
            self.report.removed = before;
            self.report.against_is_gone = request.against.as_ref().is_some_and(|against| against.segment <= before);
        }
        for pair in segments.windows(2) {
            let [before, after] = pair else { continue };
            let (from, to) = (before.number.saturating_add(1), after.number.saturating_sub(1));
            // Their lines are reported as missing too, unless they had none.
            let what = match to.checked_sub(from) {
                None => continue,
                Some(0) => "the segment is gone".to_owned(),
                Some(_) => format!("segments {from} to {to} are gone"),
            };
            self.report.add(Kind::Missing, &segment::plain(self.directory, from), 0, what);
        }
        let last = self.report.last;
        // Keys without lines after them speak of nothing; those of lines that were removed with their segment neither.
        for claim in std::mem::take(&mut self.claims).into_values().flatten() {
            if claim.sequence > last {
                let what = format!(
                    "{} is about line {}, and the journal ends with line {last}: it was cut off",
                    claim.source, claim.sequence
                );
                self.report.add(Kind::Missing, &claim.path, 0, what);
            } else if claim.at.is_some_and(|at| at.segment > before) {
                let what = format!("line {}, which {} is about, is missing", claim.sequence, claim.source);
                self.report.add(Kind::Missing, &claim.path, 0, what);
            }
        }
        if segments.is_empty() && request.against.is_none() {
            self.report.add(Kind::Missing, self.directory, 0, "there is no segment");
        }
        let signed = self.report.signed;
        if last > signed && !self.report.in_use {
            let what = format!("lines {} to {last} have no checkpoint yet", signed.saturating_add(1));
            let path = segments.last().map_or_else(|| self.directory.to_owned(), |segment| segment.path.clone());
            self.report.add(Kind::Unsigned, &path, 0, what);
        }
    }
}
