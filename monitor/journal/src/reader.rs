//! Reading lines, one after the other, across segments; never more than one line in memory.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    JournalError,
    chain::MAX_LINE,
    segment::{self, Segment},
};

/// A place in the journal: before the byte `offset` of a segment's plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// What [`read_line`] met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// A line with its line feed.
    Line,
    /// Bytes at the end without a line feed.
    Torn,
    /// A line that is longer than a line can be; its beginning is given.
    TooLong,
    /// Nothing more.
    End,
}

/// Reads one line into `line`; answers what it was, and how many bytes it takes in the file.
pub fn read_line(from: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<(Met, u64)> {
    line.clear();
    let mut taken = 0;
    loop {
        let bytes = match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        if bytes.is_empty() {
            let met = if taken == 0 { Met::End } else { Met::Torn };
            return Ok((met, taken));
        }
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        let length = end.unwrap_or(bytes.len());
        let room = MAX_LINE.saturating_sub(line.len()).min(length);
        line.extend_from_slice(bytes.get(..room).unwrap_or_default());
        from.consume(length);
        taken += length as u64;
        if end.is_some() {
            return Ok((if taken <= MAX_LINE as u64 { Met::Line } else { Met::TooLong }, taken));
        }
    }
}

/// Lines of a journal from a position on.
pub struct Reader {
    directory: PathBuf,
    /// Before the next line.
    position: Position,
    source: Option<BufReader<Box<dyn Read + Send>>>,
    /// Why the rest of a segment was passed over.
    damage: Option<String>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Reader")
            .field("directory", &self.directory)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads from `position` on; from the oldest segment when that one is gone.
    #[must_use]
    pub fn new(directory: &Path, position: Position) -> Self {
        Self { directory: directory.to_owned(), position, source: None, damage: None }
    }

    /// Where the next line begins.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Why the rest of a segment was passed over, when that happened since the last time.
    pub fn damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// The next whole line, and where it begins; none at the end of what is there, for now. What is no whole line is
    /// passed over: `flowwarden journal verify` speaks of it.
    pub fn next(&mut self, line: &mut Vec<u8>) -> Result<Option<Position>, JournalError> {
        loop {
            let Some(source) = self.source()? else { return Ok(None) };
            let read = read_line(source, line);
            let at = self.position;
            let (met, taken) = read.unwrap_or_else(|error| {
                self.damage =
                    Some(format!("segment {} cannot be read from byte {} on: {error}", at.segment, at.offset));
                (Met::End, 0)
            });
            match met {
                Met::Line => {
                    self.position.offset += taken;
                    return Ok(Some(at));
                }
                Met::TooLong => self.position.offset += taken,
                Met::End | Met::Torn => {
                    // The end of the last segment may still be growing: it is opened again the next time.
                    self.source = None;
                    match self.first_from(at.segment.saturating_add(1))?.filter(|next| next.number > at.segment) {
                        Some(next) => self.position = Position { segment: next.number, offset: 0 },
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    /// The open segment, at the position.
    fn source(&mut self) -> Result<Option<&mut BufReader<Box<dyn Read + Send>>>, JournalError> {
        while self.source.is_none() {
            let Some(segment) = self.first_from(self.position.segment)? else { return Ok(None) };
            if segment.number != self.position.segment {
                self.position = Position { segment: segment.number, offset: 0 };
            }
            match open_at(&segment, self.position.offset) {
                // It was removed in this moment.
                Err(JournalError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
                source => self.source = Some(source?),
            }
        }
        Ok(self.source.as_mut())
    }

    /// The first segment of this number or a higher one. All are looked through where there is a gap only, or the end.
    fn first_from(&self, number: u64) -> Result<Option<Segment>, JournalError> {
        if let Some(found) = segment::find(&self.directory, number) {
            return Ok(Some(found));
        }
        Ok(segment::list(&self.directory)?.into_iter().find(|found| found.number >= number))
    }
}

/// Whether a position is behind the end of a line, or at the beginning of a segment; and where its segment is gone, or
/// cannot be read that far, it may be.
pub fn is_between_lines(directory: &Path, position: Position) -> Result<bool, JournalError> {
    let Some(before) = position.offset.checked_sub(1) else { return Ok(true) };
    let Some(segment) = segment::find(directory, position.segment) else { return Ok(true) };
    let mut last = [0];
    match open_at(&segment, before) {
        // It was removed in this moment.
        Err(JournalError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(true),
        source => Ok(match source?.read_exact(&mut last) {
            Ok(()) => last == *b"\n",
            Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
        }),
    }
}

/// Opens a segment behind its first `offset` bytes.
pub(super) fn open_at(segment: &Segment, offset: u64) -> Result<BufReader<Box<dyn Read + Send>>, JournalError> {
    let mut source = segment.open()?;
    if offset > 0 {
        // What cannot be read shows at the next line.
        let _ = io::copy(&mut source.by_ref().take(offset), &mut io::sink());
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn all(directory: &Path, position: Position) -> Vec<(u64, u64, String)> {
        let mut reader = Reader::new(directory, position);
        let (mut line, mut out) = (Vec::new(), Vec::new());
        while let Some(at) = reader.next(&mut line).unwrap() {
            out.push((at.segment, at.offset, String::from_utf8(line.clone()).unwrap()));
        }
        out
    }

    #[test]
    fn lines_are_read_across_segments_from_any_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(segment::compressed(path, 2), zstd::encode_all(&b"a\nbb\n"[..], 3).unwrap()).unwrap();
        fs::write(segment::plain(path, 3), "").unwrap();
        fs::write(segment::plain(path, 5), "c\nhalf").unwrap();
        let whole = [(2, 0, "a\n".to_owned()), (2, 2, "bb\n".to_owned()), (5, 0, "c\n".to_owned())];
        assert_eq!(all(path, Position::default()), whole);
        assert_eq!(all(path, Position { segment: 2, offset: 2 }), whole[1..]);
        assert_eq!(all(path, Position { segment: 4, offset: 99 }), whole[2..]);
        assert_eq!(all(path, Position { segment: 6, offset: 0 }), []);
    }

    #[test]
    fn a_line_that_grows_is_given_once_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = segment::plain(directory.path(), 1);
        fs::write(&file, "a\nhal").unwrap();
        let mut reader = Reader::new(directory.path(), Position::default());
        let mut line = Vec::new();
        assert!(reader.next(&mut line).unwrap().is_some());
        assert!(reader.next(&mut line).unwrap().is_none());
        fs::write(&file, "a\nhalf\n").unwrap();
        assert_eq!(reader.next(&mut line).unwrap(), Some(Position { segment: 1, offset: 2 }));
        assert_eq!(line, b"half\n");
    }

    #[test]
    fn a_segment_that_cannot_be_decompressed_is_passed_over_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut bytes = zstd::encode_all(&b"a\n".repeat(100_000)[..], 3).unwrap();
        bytes.truncate(bytes.len() / 2);
        fs::write(segment::compressed(path, 1), bytes).unwrap();
        fs::write(segment::plain(path, 2), "c\n").unwrap();
        let mut reader = Reader::new(path, Position::default());
        let (mut line, mut last) = (Vec::new(), Vec::new());
        while reader.next(&mut line).unwrap().is_some() {
            last.clone_from(&line);
        }
        assert_eq!(last, b"c\n");
        assert!(reader.damage().unwrap().contains("segment 1"));
    }

    #[test]
    fn an_endless_line_takes_no_more_memory_than_the_longest() {
        let text = [vec![b'x'; 3 * MAX_LINE], b"\nb\n".to_vec()].concat();
        let mut line = Vec::new();
        let mut from = BufReader::new(&text[..]);
        assert_eq!(read_line(&mut from, &mut line).unwrap(), (Met::TooLong, 3 * MAX_LINE as u64 + 1));
        assert!(line.len() <= MAX_LINE);
        assert_eq!(read_line(&mut from, &mut line).unwrap(), (Met::Line, 2));
    }
}
