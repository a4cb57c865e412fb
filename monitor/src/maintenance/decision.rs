//! Decisions on maintenance reports: the changes of a window are accepted or reverted, once.
//!
//! Reports are kept in the state directory by id, with the healed files that differed from their baselines when the window closed.

use std::{fs, path::PathBuf};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::heal::{self, Left, StoreError};
use journal::state::{State, StateError};

/// Directory of reports, in the state directory.
const KEPT: &str = "reports";
/// Most reports that are kept. The oldest are removed.
const MOST: usize = 64;

/// Why a decision failed. Nothing was changed, or the error names what was.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// No report has this id.
    #[error("no report {0} is kept: `flowwarden maintenance report` tells the id of the last one")]
    NoReport(String),
    /// The report was decided before.
    #[error(
        "the changes of report {id} were {decided} before; `flowwarden accept FILE` and `flowwarden restore FILE` still work"
    )]
    Decided {
        /// The report.
        id: String,
        /// The decision.
        decided: String,
    },
    /// A file has changed since the report.
    #[error(
        "{path} has changed since the window of report {id} was closed: look at it, and `flowwarden accept {path}` if it is \
         right. Nothing was accepted"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// The report.
        id: String,
    },
    /// A baseline cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A report and its decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// Name of the instance.
    pub instance: String,
    /// Its user directory.
    pub user_dir: PathBuf,
    /// Healed files that differed from their baselines.
    pub files: Vec<Left>,
    /// The command that reverts packages.
    pub packages: Option<String>,
    /// The decision.
    pub decided: Option<String>,
}

/// Id of a report of an instance at a time in milliseconds since 1970.
#[must_use]
pub fn id(instance: &str, class: &str, now_ms: i64) -> String {
    let hash = digest(&SHA256, format!("{instance}\0{class}\0{now_ms}").as_bytes());
    HEXLOWER.encode(hash.as_ref().get(..4).unwrap_or_default())
}

/// Stores a report.
pub fn keep(state: &State, report: &Kept) -> Result<(), StateError> {
    let kept = state.within(KEPT)?;
    let entries = fs::read_dir(kept.path()).into_iter().flatten().flatten();
    let mut old: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    old.sort();
    for (_, path) in old.iter().rev().skip(MOST - 1) {
        let _ = fs::remove_file(path);
    }
    kept.write(&name(&report.id), &serde_json::to_vec(report).unwrap_or_default())
}

/// Accepts the changes of a window: its files become baselines. Files that have changed since are refused.
pub fn accept(state: &State, id: &str) -> Result<Kept, DecisionError> {
    let mut report = find(state, id)?;
    for Left { path, digest } in &report.files {
        if heal::digest_of(path) != *digest {
            return Err(DecisionError::Changed { path: path.clone(), id: report.id });
        }
    }
    for Left { path, .. } in report.files.iter().filter(|file| file.digest.is_some()) {
        heal::accept(state, path)?;
    }
    decide(state, &mut report, "accepted")?;
    Ok(report)
}

/// Restores baselines. Packages are not changed, since npm must not run as root.
pub fn revert(state: &State, id: &str) -> Result<Kept, DecisionError> {
    let mut report = find(state, id)?;
    for Left { path, .. } in &report.files {
        heal::restore(state, path)?;
    }
    decide(state, &mut report, "reverted")?;
    Ok(report)
}

fn find(state: &State, id: &str) -> Result<Kept, DecisionError> {
    let missing = || DecisionError::NoReport(journal::text::terminal::shown(id.as_bytes()));
    // An id must not be a path.
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(missing());
    }
    let text = state.within(KEPT)?.read(&name(id))?.ok_or_else(missing)?;
    let report: Kept = serde_json::from_slice(&text).map_err(|_| missing())?;
    match report.decided {
        Some(decided) => Err(DecisionError::Decided { id: report.id, decided }),
        None => Ok(report),
    }
}

fn decide(state: &State, report: &mut Kept, decided: &str) -> Result<(), StateError> {
    report.decided = Some(decided.to_owned());
    state.within(KEPT)?.write(&name(&report.id), &serde_json::to_vec(report).unwrap_or_default())
}

fn name(id: &str) -> String {
    format!("{id}.json")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::heal::{Healed, Healer};

    struct Scene {
        _directory: tempfile::TempDir,
        state: State,
        path: PathBuf,
    }

    /// A window that has changed settings.js, and closed.
    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        let path = fs::canonicalize(directory.path()).unwrap().join("settings.js");
        fs::write(&path, "before").unwrap();
        let mut healer = Healer::open(&state).unwrap();
        healer.guard(vec![Healed { instance: "a".to_owned(), rule: "r".to_owned(), path: path.clone() }], true);
        let candidates = healer.candidates(|_, _| true, 0);
        healer.keep(candidates, 0, Instant::now());
        fs::write(&path, "after").unwrap();
        let files = heal::differing(&state, [path.as_path()]);
        assert_eq!(files.len(), 1);
        keep(&state, &Kept { id: "0a1b".to_owned(), files, ..Kept::default() }).unwrap();
        Scene { _directory: directory, state, path }
    }

    #[test]
    fn what_is_accepted_is_the_good_copy_and_is_decided_once() {
        let scene = scene();
        accept(&scene.state, "0a1b").unwrap();
        assert!(heal::differing(&scene.state, [scene.path.as_path()]).is_empty());
        let again = revert(&scene.state, "0a1b").unwrap_err().to_string();
        assert!(again.contains("were accepted before"), "{again}");
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "after");
    }

    #[test]
    fn what_is_reverted_is_as_it_was_before_the_window() {
        let scene = scene();
        revert(&scene.state, "0a1b").unwrap();
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "before");
    }

    #[test]
    fn what_has_changed_since_the_window_closed_is_not_accepted_unseen() {
        let scene = scene();
        fs::write(&scene.path, "tampered").unwrap();
        let error = accept(&scene.state, "0a1b").unwrap_err().to_string();
        assert!(error.contains("has changed since") && error.contains("Nothing was accepted"), "{error}");
        revert(&scene.state, "0a1b").unwrap();
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "before");
    }

    #[test]
    fn what_is_no_id_is_an_error_and_old_reports_go() {
        let scene = scene();
        for id in ["", "ffff", "../../x", "0a1b.json"] {
            assert!(matches!(accept(&scene.state, id), Err(DecisionError::NoReport(_))), "{id}");
        }
        for number in 0..2 * MOST {
            keep(&scene.state, &Kept { id: format!("{number:x}"), ..Kept::default() }).unwrap();
        }
        assert_eq!(fs::read_dir(scene.state.path().join(KEPT)).unwrap().count(), MOST);
    }
}
