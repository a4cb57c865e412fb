//! Baselines and evidence in the state directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{
    Healed,
    copy::Copy,
    obstacle::{Obstacle, quoted},
};
use journal::state::{State, StateError};

/// List of healed files, for commands that run beside the guard.
const LIST: &str = "healed.json";
/// Most tampered copies that are kept, and their most bytes. The oldest are evicted.
const MAX_EVIDENCE: usize = 256;
const MAX_EVIDENCE_BYTES: u64 = 64 << 20;

/// Why a copy cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file cannot be restored, or no baseline of it can be taken.
    #[error("{path}: {obstacle}")]
    Obstacle {
        /// The file.
        path: PathBuf,
        /// The obstacle.
        obstacle: Obstacle,
    },
    /// No rule heals the file.
    #[error("{0} has no baseline: the guard keeps one while it runs with a rule for the file that has `heal = true`")]
    NoCopy(PathBuf),
    /// A rule heals the file, and its content has not been accepted.
    #[error("{0} has no accepted baseline: review the file, then `flowwarden accept {path}`", path = quoted(.0))]
    NoBaseline(PathBuf),
    /// The copy was changed or cut.
    #[error("the baseline of {0} cannot be read: review the file, then run `flowwarden accept` for it again")]
    Broken(PathBuf),
}

/// What is known about a place beside its baseline. It outlives the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It has no baseline, and what is there may be an attacker's: only `flowwarden accept` makes it one.
    Unaccepted,
    /// A rule has met what damaged it, and it has not been restored.
    Damaged,
}

impl Mark {
    fn name(self, place: &Path) -> String {
        let kind = match self {
            Self::Unaccepted => "unaccepted",
            Self::Damaged => "damaged",
        };
        format!("{}.{kind}", name(place))
    }
}

/// A path of a healed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The file, as the rule names it.
    pub path: PathBuf,
    /// Where it really is, or what it leads to.
    pub place: PathBuf,
    /// Name of the instance.
    pub instance: String,
    /// Id of the rule.
    pub rule: String,
}

impl Listed {
    pub(super) fn new(file: &Healed, place: &Path) -> Self {
        let Healed { instance, rule, path } = file.clone();
        Self { path, place: place.to_owned(), instance, rule }
    }
}

/// The directories `good`, `marks` and `evidence`, and the list of what is healed.
#[derive(Debug)]
pub struct Store {
    state: State,
    good: State,
    marks: State,
    evidence: State,
}

impl Store {
    /// Opens them, and makes them when they are not there.
    pub fn open(state: &State) -> Result<Self, StateError> {
        Ok(Self {
            state: state.clone(),
            good: state.within("good")?,
            marks: state.within("marks")?,
            evidence: state.within("evidence")?,
        })
    }

    /// Where baselines are kept.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.good.path()
    }

    /// Which files were healed by the policy that was in force last.
    #[must_use]
    pub fn listed(&self) -> Vec<Listed> {
        let text = self.state.read(LIST).ok().flatten().unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Lets commands know which files are healed.
    pub fn list(&self, files: &[Listed]) -> Result<(), StateError> {
        self.state.write(LIST, &serde_json::to_vec(files).unwrap_or_default())
    }

    /// Whether a place has a mark.
    #[must_use]
    pub fn is_marked(&self, place: &Path, mark: Mark) -> bool {
        // What cannot be read is no permission.
        self.marks.read(&mark.name(place)).map_or(true, |mark| mark.is_some())
    }

    /// Gives a place a mark.
    pub fn mark(&self, place: &Path, mark: Mark) -> Result<(), StateError> {
        if self.is_marked(place, mark) {
            return Ok(());
        }
        self.marks.write(&mark.name(place), place.as_os_str().as_encoded_bytes())
    }

    /// Takes a mark away.
    pub fn unmark(&self, place: &Path, mark: Mark) -> Result<(), StateError> {
        self.marks.remove(&mark.name(place))
    }

    /// Whether a baseline is kept, readable or not.
    #[must_use]
    pub fn has(&self, place: &Path) -> bool {
        fs::symlink_metadata(self.good.path().join(name(place))).is_ok()
    }

    /// Drops a baseline: the file need not be there any more.
    pub fn forget(&self, place: &Path) -> Result<(), StateError> {
        self.good.remove(&name(place))
    }

    /// The baseline of a path; `None` if none was taken.
    pub fn good(&self, place: &Path) -> Result<Option<Copy>, StoreError> {
        let Some(bytes) = self.good.read(&name(place))? else { return Ok(None) };
        Copy::from_bytes(&bytes).map(Some).ok_or_else(|| StoreError::Broken(place.to_owned()))
    }

    /// Makes a copy the good one.
    pub fn keep(&self, place: &Path, copy: &Copy) -> Result<(), StoreError> {
        Ok(self.good.write(&name(place), &copy.to_bytes())?)
    }

    /// Keeps what was found at a place, and answers where. The same version is kept once.
    pub fn evidence(&self, place: &Path, copy: &Copy) -> Result<Option<PathBuf>, StoreError> {
        self.make_room();
        let own = place.file_name().unwrap_or_default().to_string_lossy();
        let own: String =
            own.chars().filter(|letter| letter.is_ascii_alphanumeric() || "._-".contains(*letter)).take(64).collect();
        let digest = copy.digest();
        let known = self.entries().into_iter().find(|path| path.to_string_lossy().ends_with(&digest[..16]));
        if known.is_some() {
            return Ok(known);
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("{seconds}-{own}-{}", &digest[..16]);
        self.evidence.write(&name, &copy.to_bytes())?;
        Ok(Some(self.evidence.path().join(name)))
    }

    /// The evidence, the oldest first.
    fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.evidence.path()).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }

    fn make_room(&self) {
        let (mut count, mut bytes) = (0, 0);
        for path in self.entries().iter().rev() {
            count += 1;
            bytes += fs::symlink_metadata(path).map_or(0, |meta| meta.len());
            if count >= MAX_EVIDENCE || bytes > MAX_EVIDENCE_BYTES {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn name(place: &Path) -> String {
    HEXLOWER.encode(digest(&SHA256, place.as_os_str().as_encoded_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_kept_once_and_not_without_bound() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&State::open(&directory.path().join("s")).unwrap()).unwrap();
        let place = Path::new("/u/settings.js");
        for number in 0..MAX_EVIDENCE + 10 {
            store.evidence(place, &Copy::Link(number.to_string().into_bytes())).unwrap();
        }
        assert_eq!(store.entries().len(), MAX_EVIDENCE);
        let again = Copy::Link((MAX_EVIDENCE + 9).to_string().into_bytes());
        let first = store.evidence(place, &again).unwrap();
        assert_eq!(store.evidence(place, &again).unwrap(), first);
    }

    #[test]
    fn a_broken_copy_is_told_and_not_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&State::open(&directory.path().join("s")).unwrap()).unwrap();
        let place = Path::new("/u/settings.js");
        store.good.write(&name(place), b"nonsense").unwrap();
        assert!(store.good(place).unwrap_err().to_string().contains("flowwarden accept"));
    }
}
