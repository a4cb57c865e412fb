//! When a new file counts as settled.
//!
//! The process that creates a file writes it and sets its mode and times, as Node-RED does with `settings.js` at its first
//! start. A rule against changes that took hold in the middle of that would kill the maker. So these rules wait until the
//! file has been quiet for [`QUIET`], and never longer than [`GRACE`] from its creation: a process that keeps touching a file to keep
//! it open gains that much and no more. Once they hold they hold for as long as there is a file of that name.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// A file has settled after this time without a change.
pub const QUIET: Duration = Duration::from_secs(2);
/// A file has settled at this age, or this time after it was first found, even if it still changes.
pub const GRACE: Duration = Duration::from_secs(10);

/// Message about a new file, after its path: operations of its creator are exempted.
pub const YOUNG: &str = "was just created";
/// End of the message about a settled file, whose rules are in force.
pub const MADE: &str = "protected from now on";
/// End of the message about a file that was removed before.
pub const GONE: &str = "was removed before it settled";

/// How long ago things happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Its birth (`stx_btime`), where the file system keeps it.
    pub born: Option<Duration>,
    /// Its last change of content, mode, owner or times (`stx_ctime`), which no program can set.
    pub changed: Duration,
}

impl Ages {
    /// Those of a file, not following a link; `None` when it does not exist.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        let seconds = u64::try_from(metadata.ctime()).unwrap_or_default();
        let nanoseconds = u64::try_from(metadata.ctime_nsec()).unwrap_or_default();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
        let now = SystemTime::now();
        // A clock that was set back must not hold a rule off.
        let age = |time| now.duration_since(time).unwrap_or(Duration::MAX);
        Some(Self { born: metadata.created().ok().map(age), changed: age(changed) })
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Young { seen: Instant },
    Made { quiet: bool },
}

/// Which files are still being made.
#[derive(Debug, Default)]
pub struct Settling {
    files: BTreeMap<PathBuf, State>,
}

impl Settling {
    /// Whether the file is made. `ages` are `None` when there is no file: the next one of that name starts anew.
    pub fn is_made(&mut self, path: &Path, ages: Option<Ages>, now: Instant) -> bool {
        let Some(ages) = ages else {
            self.files.remove(path);
            return false;
        };
        let state = self.files.entry(path.to_owned()).or_insert(State::Young { seen: now });
        if let State::Young { seen } = *state {
            let quiet = ages.changed >= QUIET;
            let old = ages.born.is_some_and(|born| born >= GRACE) || now.saturating_duration_since(seen) >= GRACE;
            if quiet || old {
                *state = State::Made { quiet };
            }
        }
        matches!(state, State::Made { .. })
    }

    /// A file was restored: no process is creating it.
    pub fn put_back(&mut self, path: &Path) {
        self.files.insert(path.to_owned(), State::Made { quiet: true });
    }

    /// Whether the file became quiet before it counted as made, and did not just use up its time.
    #[must_use]
    pub fn was_quiet(&self, path: &Path) -> bool {
        !matches!(self.files.get(path), Some(State::Made { quiet: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/ud/settings.js";

    fn ages(born: Option<u64>, changed: u64) -> Ages {
        Ages { born: born.map(Duration::from_secs), changed: Duration::from_secs(changed) }
    }

    /// Asks about a file at these seconds, with these ages.
    fn answers(questions: &[(u64, Ages)]) -> (Vec<bool>, bool) {
        let (start, file) = (Instant::now(), Path::new(FILE));
        let mut settling = Settling::default();
        let answers =
            questions.iter().map(|&(at, ages)| settling.is_made(file, Some(ages), start + Duration::from_secs(at)));
        let answers = answers.collect();
        (answers, settling.was_quiet(file))
    }

    #[test]
    fn a_file_is_made_when_it_is_quiet() {
        let young = [(0, ages(Some(0), 0)), (1, ages(Some(1), 1)), (2, ages(Some(2), 1)), (3, ages(Some(3), 2))];
        assert_eq!(answers(&young), (vec![false, false, false, true], true));
        assert_eq!(
            answers(&[(0, ages(Some(90_000), 80_000))]),
            (vec![true], true),
            "what is old when the guard starts"
        );
        assert_eq!(answers(&[(0, ages(None, 80_000))]), (vec![true], true), "and where births are not kept");
    }

    #[test]
    fn whoever_keeps_touching_a_file_gains_the_grace_and_no_more() {
        assert_eq!(
            answers(&[(0, ages(Some(0), 0)), (9, ages(Some(9), 0)), (10, ages(Some(10), 0))]).0,
            [false, false, true]
        );
        assert_eq!(
            answers(&[(0, ages(None, 0)), (9, ages(None, 0)), (10, ages(None, 0))]),
            (vec![false, false, true], false)
        );
        assert_eq!(answers(&[(0, ages(Some(10), 0))]), (vec![true], false), "the guard's own start gives nothing anew");
    }

    #[test]
    fn what_is_made_stays_made_until_it_is_gone() {
        let touched = [(0, ages(Some(3), 2)), (1, ages(Some(4), 0)), (2, ages(Some(0), 0))];
        assert_eq!(answers(&touched).0, [true, true, true], "not even another file of that name starts anew");
        let (mut settling, file, now) = (Settling::default(), Path::new(FILE), Instant::now());
        let asked = [Some(ages(Some(3), 2)), None, Some(ages(Some(0), 0))];
        assert_eq!(asked.map(|ages| settling.is_made(file, ages, now)), [true, false, false]);
    }

    #[test]
    fn what_is_put_back_is_made_at_once_until_it_is_gone_again() {
        let (mut settling, file, now) = (Settling::default(), Path::new(FILE), Instant::now());
        assert!(!settling.is_made(file, None, now));
        settling.put_back(file);
        let asked = [Some(ages(Some(0), 0)), None, Some(ages(Some(0), 0))];
        assert_eq!(asked.map(|ages| settling.is_made(file, ages, now)), [true, false, false]);
    }

    #[test]
    fn the_file_system_tells_ages() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        assert_eq!(Ages::of(&file), None);
        fs::write(&file, "x").unwrap();
        assert!(Ages::of(&file).unwrap().changed < QUIET);
        // What a program can set does not count.
        fs::File::options().write(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let ages = Ages::of(&file).unwrap();
        assert!(ages.changed < QUIET && ages.born.is_none_or(|born| born < GRACE), "{ages:?}");
    }
}
