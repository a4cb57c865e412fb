//! Segments: the journal's files by number, plain while they are written, compressed later.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::JournalError;
use crate::durable;

const PREFIX: &str = "journal-";
const PLAIN: &str = ".jsonl";
const COMPRESSED: &str = ".jsonl.zst";
const CHECKPOINTS: &str = ".checkpoints";
/// The highest number that a segment can have: one in a millisecond comes to it after thirty years.
const LAST: u64 = 999_999_999_999;
/// How much is read at once, in bytes.
const BUFFER: usize = 64 << 10;
/// Longest plain text of a segment that is read, in bytes: twice what `[journal]` lets one have.
const LONGEST: u64 = 128 << 20;
/// Largest window that is made room for when a segment is read, as a power of two in bytes.
const MAX_WINDOW: u32 = 23;

/// The file of a segment that is written, or that is not compressed yet.
#[must_use]
pub fn plain(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{number:08}{PLAIN}"))
}

/// The file of a compressed segment.
#[must_use]
pub fn compressed(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{number:08}{COMPRESSED}"))
}

/// The file with the checkpoints of a segment.
#[must_use]
pub fn checkpoints(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{number:08}{CHECKPOINTS}"))
}

/// A segment that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number, from 1.
    pub number: u64,
    /// Its file.
    pub path: PathBuf,
    /// Whether the file is compressed.
    pub compressed: bool,
}

/// The segments in a directory, the oldest first.
pub fn list(directory: &Path) -> Result<Vec<Segment>, JournalError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(JournalError::io(directory))? {
        let entry = entry.map_err(JournalError::io(directory))?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let number = |ending| rest.strip_suffix(ending).and_then(numbered);
        let path = entry.path();
        if let Some(number) = number(COMPRESSED) {
            found.entry(number).or_insert(Segment { number, path, compressed: true });
        } else if let Some(number) = number(PLAIN) {
            // Where both are there, a crash came between the making of the one and the end of the other.
            found.insert(number, Segment { number, path, compressed: false });
        }
    }
    Ok(found.into_values().collect())
}

/// A segment by its number, if it is there.
#[must_use]
pub fn find(directory: &Path, number: u64) -> Option<Segment> {
    let found = |path: PathBuf, compressed| {
        let there = fs::symlink_metadata(&path).is_ok();
        there.then_some(Segment { number, path, compressed })
    };
    // Between the two looks it may be compressed, but not the other way round.
    found(plain(directory, number), false).or_else(|| found(compressed(directory, number), true))
}

/// The number that a segment's name has in it, as [`plain`] writes it.
fn numbered(digits: &str) -> Option<u64> {
    let number = digits.parse().ok().filter(|&number| number <= LAST)?;
    (format!("{number:08}") == digits).then_some(number)
}

impl Segment {
    /// Opens it for reading from its beginning. One that is compressed or removed in this moment is looked for again.
    pub fn open(&self) -> Result<BufReader<Box<dyn Read + Send>>, JournalError> {
        let io = |path: &Path, error| JournalError::io(path)(error);
        let (path, file) = match durable::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.compressed => {
                let path = compressed(self.path.parent().unwrap_or(Path::new(".")), self.number);
                let file = durable::open(&path).map_err(|error| io(&path, error))?;
                return decoder(&path, file);
            }
            // What is no file is met at the first read, as what is damaged.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(buffered(Broken(error.to_string()))),
            file => (&self.path, file.map_err(|error| io(&self.path, error))?),
        };
        if self.compressed { decoder(path, file) } else { Ok(buffered(file)) }
    }

    /// Size on the disk in bytes, and when it was written last.
    pub fn size_and_time(&self) -> Result<(u64, SystemTime), JournalError> {
        let meta = fs::metadata(&self.path).map_err(JournalError::io(&self.path))?;
        Ok((meta.size(), meta.modified().map_err(JournalError::io(&self.path))?))
    }
}

fn decoder(path: &Path, file: File) -> Result<BufReader<Box<dyn Read + Send>>, JournalError> {
    let mut decoder = zstd::Decoder::new(file).map_err(JournalError::io(path))?;
    // A file that somebody else made must not ask for gigabytes.
    decoder.window_log_max(MAX_WINDOW).map_err(JournalError::io(path))?;
    Ok(buffered(decoder))
}

fn buffered(source: impl Read + Send + 'static) -> BufReader<Box<dyn Read + Send>> {
    BufReader::with_capacity(BUFFER, Box::new(bounded(source)))
}

/// What is read of it is no more than a segment can have.
pub(super) fn bounded<S: Read>(source: S) -> Bounded<S> {
    Bounded { source, left: LONGEST }
}

/// A source that cannot be read.
struct Broken(String);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::InvalidData, self.0.as_str()))
    }
}

/// A source that is damaged behind what a segment can have: a file that somebody else made may go on for ever.
pub(super) struct Bounded<S> {
    source: S,
    left: u64,
}

impl<S: Read> Read for Bounded<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(bytes)?;
        let Some(left) = self.left.checked_sub(length as u64) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than a segment can be"));
        };
        self.left = left;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_listed_by_number_and_each_once() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["journal-00000002.jsonl", "journal-00000002.jsonl.zst", "journal-00000001.jsonl.zst", "lock"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        for name in [
            "journal-00000003.jsonl.zst.tmp",
            "journal-x.jsonl",
            "journal-4.jsonl",
            "journal-+0000004.jsonl",
            "journal-18446744073709551615.jsonl",
            "journal-00000001.checkpoints",
        ] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let found = list(directory.path()).unwrap();
        let found: Vec<_> = found.iter().map(|segment| (segment.number, segment.compressed)).collect();
        assert_eq!(found, [(1, true), (2, false)]);
    }
}
