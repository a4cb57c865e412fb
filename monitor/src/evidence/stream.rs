//! Iterates over the events of a journal from a start time. Invalid lines are reported with their position.

use std::{
    fmt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::line::Line;
use journal::{
    JournalError, query,
    reader::{Position, Reader},
};

/// Most faults that are kept word for word; the others are counted.
const MAX_FAULTS: usize = 20;

/// A line that is no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it begins; none for what the reader itself says.
    pub at: Option<Position>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(Position { segment, offset }) => {
                write!(to, "journal-{segment:08}, byte {offset}: {}; skipped", self.what)
            }
            None => write!(to, "{}; skipped", self.what),
        }
    }
}

/// What could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The first ones.
    pub first: Vec<Fault>,
    /// How many there are in all.
    pub count: u64,
}

impl Faults {
    fn add(&mut self, at: Option<Position>, what: String) {
        self.count += 1;
        if self.first.len() < MAX_FAULTS {
            self.first.push(Fault { at, what });
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.first {
            writeln!(to, "{fault}")?;
        }
        match self.count - self.first.len() as u64 {
            0 => Ok(()),
            more => writeln!(to, "and {more} more lines that are no events; see flowwarden journal verify"),
        }
    }
}

/// Gives every event from `since` on to `take`, in order, with the bytes of its line. Memory does not grow with the journal.
pub fn events(
    journal: &Path,
    since: Option<SystemTime>,
    mut take: impl FnMut(&Line<'_>, &[u8]),
) -> Result<Faults, JournalError> {
    let mut faults = Faults::default();
    let earliest = since.map_or(i64::MIN, |since| {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    });
    let mut reader = Reader::new(journal, query::start(journal, since)?);
    let mut bytes = Vec::new();
    loop {
        let next = reader.next(&mut bytes)?;
        if let Some(damage) = reader.damage() {
            faults.add(None, damage);
        }
        let Some(at) = next else { return Ok(faults) };
        match Line::read(&bytes) {
            Ok(line) if line.time >= earliest => take(&line, &bytes),
            Ok(_) => {}
            Err(error) => faults.add(Some(at), format!("no event ({error})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use journal::segment;

    #[test]
    fn a_line_that_is_no_event_is_told_with_its_place_and_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let lines = "{\"time\":1000,\"message\":\"a\"}\nnonsense\n{\"time\":2000,\"message\":\"b\"}\n";
        fs::write(segment::plain(directory.path(), 3), lines).unwrap();
        let mut seen = Vec::new();
        let faults = events(directory.path(), None, |line, _| seen.push(line.message.to_string())).unwrap();
        assert_eq!(seen, ["a", "b"]);
        let text = faults.to_string();
        assert!(
            text.starts_with("journal-00000003, byte 28: no event (expected") && text.ends_with("skipped\n"),
            "{text}"
        );
        let mut late = Vec::new();
        let since = UNIX_EPOCH + Duration::from_millis(1500);
        events(directory.path(), Some(since), |line, _| late.push(line.time)).unwrap();
        assert_eq!(late, [2000]);
    }

    #[test]
    fn a_journal_that_is_nothing_but_damage_takes_no_memory() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(segment::plain(directory.path(), 1), "x\n".repeat(1000)).unwrap();
        let faults = events(directory.path(), None, |_, _| ()).unwrap();
        assert_eq!((faults.count, faults.first.len()), (1000, MAX_FAULTS));
        assert!(faults.to_string().contains("and 980 more"));
    }
}
