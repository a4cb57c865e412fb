//! Healing: keeps a baseline of protected files and restores a file that was modified.
//!
//! Where a sensor cannot deny, a process that truncates or replaces a file is killed, but the file has changed. The file is then
//! compared with its baseline; the tampered copy is kept as evidence before the baseline is restored. A change by an
//! administrator is reported and left in place until it is accepted.
//!
//! A baseline is taken once, when a file has settled. An operation that matched a rule before may have changed the content: it
//! is reported, and only `flowwarden accept` makes it a baseline. A failure to restore is reported once for each cause and
//! retried with backoff.

mod copy;
pub mod event;
mod obstacle;
mod restore;
mod store;
mod target;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::target::Target;
pub use self::{
    copy::{Copy, MAX_BYTES},
    obstacle::Obstacle,
    store::{Listed, Mark, Store, StoreError},
};
use journal::{
    state::{State, StateError},
    stdio::complain,
};
use node_red::change;

/// How long damage is expected after an alert. A sensor that cannot deny reports before the operation takes place, and the
/// kernel completes the operation before the process dies.
const WATCH: Duration = Duration::from_secs(1);
/// A file that is missing for this long is not about to be replaced.
const GONE: Duration = Duration::from_secs(2);
/// Backoff between attempts to restore: the first pause and the longest.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(30)];
/// Most symbolic links that are followed to a file (`ELOOP` of the kernel).
const MAX_LINKS: usize = 40;
/// Most paths of matched operations that are remembered.
const MAX_TOUCHED: usize = 4096;

/// A file that is healed, and its rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Healed {
    /// Name of the instance.
    pub instance: String,
    /// Id of the rule.
    pub rule: String,
    /// The file, as the rule names it.
    pub path: PathBuf,
}

/// State of a healed file at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its copy; `None` if the file was missing.
    pub digest: Option<String>,
}

/// A report about a healed file.
#[derive(Clone, Debug)]
pub struct HealingReport {
    /// The file.
    pub file: Healed,
    /// What was found or done.
    pub outcome: Outcome,
    /// For the console.
    pub message: String,
    /// For the journal.
    pub details: Map<String, Value>,
}

/// What was found or done about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A baseline was taken, or the file matches its baseline again.
    Kept,
    /// The file differs from its baseline, and no enforced rule matched an operation on it.
    Differs,
    /// The file is missing, and no enforced rule matched an operation on it.
    Gone,
    /// The file was restored from its baseline.
    Restored,
    /// The file could not be restored, or has no baseline.
    Failed,
}

/// An operation that matched a rule and was not denied.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    /// Name of the instance whose rule it was.
    pub instance: &'a str,
    /// Ids of the rules that matched: the one that decided, and those that heal.
    pub rules: &'a [String],
    /// The file is not known: every file of the instance may be damaged.
    pub all: bool,
    /// The known paths of the operation. A directory stands for everything below it.
    pub paths: [Option<&'a Path>; 2],
    /// The operation can change a file and was not refused by the system.
    pub changes: bool,
    /// The operation adds a hard link.
    pub links: bool,
    /// The operation removes an existing name.
    pub removes: bool,
    /// The policy only observes.
    pub observed: bool,
}

/// A copy that becomes a baseline unless an operation that could have changed it matched meanwhile.
#[derive(Debug)]
pub struct Candidate {
    place: PathBuf,
    copy: Copy,
}

/// Keeps baselines and restores files from them.
#[derive(Debug)]
pub struct Healer {
    store: Store,
    targets: Vec<Target>,
    listed: Vec<Listed>,
    reports: Vec<HealingReport>,
    /// Paths of matched operations, healed or not: a later policy may heal them.
    touched: BTreeSet<PathBuf>,
    /// The policy is enforced.
    enforce: bool,
}

impl Healer {
    /// Opens the store with the baselines of earlier runs.
    pub fn open(state: &State) -> Result<Self, StateError> {
        let store = Store::open(state)?;
        let listed = store.listed();
        Ok(Self { store, targets: Vec::new(), listed, reports: Vec::new(), touched: BTreeSet::new(), enforce: false })
    }

    /// Sets the files of the policy in force. The state of files that remain is kept.
    ///
    /// Nothing is restored while the policy only observes.
    pub fn guard(&mut self, mut files: Vec<Healed>, enforce: bool) {
        self.enforce = enforce;
        files.sort();
        files.dedup();
        let mut old = std::mem::take(&mut self.targets);
        for file in files {
            for place in self.places(&file) {
                let known = old.iter().position(|target| target.file == file && target.place == place);
                let target = known.map(|at| old.swap_remove(at));
                let mut target = target.unwrap_or_else(|| {
                    let touched = self.touched.contains(&place) || self.touched.contains(&file.path);
                    let untrusted = touched && !self.store.has(&place);
                    Target::new(file.clone(), place, untrusted, &self.store)
                });
                target.recall(&self.store, enforce);
                self.targets.push(target);
            }
            // A pending restore remains pending if the path leads elsewhere meanwhile.
            let left = old.extract_if(.., |target| enforce && target.file == file && target.is_damaged());
            self.targets.extend(left);
        }
        let listed: Vec<_> = self.targets.iter().map(|target| Listed::new(&target.file, &target.place)).collect();
        if self.listed != listed {
            match self.store.list(&listed) {
                Ok(()) => self.listed = listed,
                Err(error) => complain(&error),
            }
        }
    }

    /// The paths of a file without symbolic links. While its directory is missing, the last known ones.
    fn places(&mut self, file: &Healed) -> Vec<PathBuf> {
        let Some(places) = places(&file.path) else {
            let listed = self.listed.iter().filter(|listed| listed.path == file.path);
            let mut known: Vec<_> = listed.map(|listed| listed.place.clone()).collect();
            known.dedup();
            return if known.is_empty() { vec![file.path.clone()] } else { known };
        };
        // A path that leads elsewhere than before may lead to a file of an attacker.
        let before: Vec<_> = self.listed.iter().filter(|listed| listed.path == file.path).collect();
        for place in &places {
            let moved = !before.is_empty()
                && before.iter().all(|listed| listed.place != *place)
                && before.iter().any(|listed| self.store.has(&listed.place) && !places.contains(&listed.place));
            if moved
                && !self.store.has(place)
                && let Err(error) = self.store.mark(place, Mark::Unaccepted)
            {
                complain(&error);
            }
        }
        places
    }

    /// Copies the files that have settled and have no baseline. `lost` is the number of records lost so far.
    ///
    /// Operations that matched until then have to be passed to [`Healer::met`] before [`Healer::keep`].
    pub fn candidates(&mut self, mut is_made: impl FnMut(&Path, &Path) -> bool, lost: u64) -> Vec<Candidate> {
        let mut found: Vec<Candidate> = Vec::new();
        for target in &mut self.targets {
            if self.store.has(&target.place) {
                target.untrusted = false;
                continue;
            }
            if fs::symlink_metadata(&target.place).is_ok() {
                target.lost_before.get_or_insert(lost);
            }
            let known = found.iter().any(|candidate| candidate.place == target.place);
            if known || !is_made(&target.file.path, &target.place) {
                continue;
            }
            match Copy::take(&target.place) {
                Ok(Some(_)) if target.untrusted || self.store.is_marked(&target.place, Mark::Unaccepted) => {
                    target.report_unaccepted(&self.store, &mut self.reports);
                }
                Ok(Some(copy)) => found.push(Candidate { place: target.place.clone(), copy }),
                Ok(None) => {}
                Err(error) => target.report_uncopyable(&error, &mut self.reports),
            }
        }
        found
    }

    /// Stores copies as baselines, on disk on return, unless an attacker may have changed the file.
    pub fn keep(&mut self, candidates: Vec<Candidate>, lost: u64, now: Instant) {
        for target in &mut self.targets {
            target.check_early_match(&self.store, now, &mut self.reports);
        }
        for Candidate { place, copy } in candidates {
            let of = |target: &&mut Target| target.place == place;
            if self
                .targets
                .iter()
                .any(|target| target.place == place && target.lost_before.is_some_and(|before| before < lost))
            {
                self.targets
                    .iter_mut()
                    .filter(of)
                    .take(1)
                    .for_each(|target| target.report_lost_records(&self.store, &mut self.reports));
            }
            let untrusted = self.targets.iter().any(|target| target.place == place && target.untrusted);
            if untrusted || self.store.is_marked(&place, Mark::Unaccepted) {
                continue;
            }
            let Some(target) = self.targets.iter_mut().find(of) else { continue };
            target.keep(&self.store, &copy, &mut self.reports);
        }
    }

    /// Reports files that differ from their baseline. Called periodically.
    pub fn look(&mut self, mut is_made: impl FnMut(&Path, &Path) -> bool, now: Instant) {
        for target in &mut self.targets {
            if !target.is_busy()
                && (is_made(&target.file.path, &target.place) || fs::symlink_metadata(&target.place).is_err())
            {
                target.check(&self.store, now, &mut self.reports);
            }
        }
    }

    /// Schedules, at the start, the restore of files that were removed while no guard ran or that an earlier run could not restore.
    pub fn begin(&mut self, now: Instant) {
        for target in self.targets.iter_mut().filter(|_| self.enforce) {
            target.begin(&self.store, now);
        }
    }

    /// Takes an operation that matched a rule: its files may be modified, or about to be.
    pub fn met(&mut self, act: &Act<'_>, now: Instant) {
        let room = MAX_TOUCHED.saturating_sub(self.touched.len());
        let paths = act.paths.iter().flatten().filter(|_| act.changes).take(room);
        self.touched.extend(paths.map(|&path| path.to_owned()));
        let is_named =
            |target: &Target| act.paths.iter().flatten().any(|&path| path == target.place || path == target.file.path);
        let is_below = |target: &Target| {
            act.paths.iter().flatten().any(|path| target.place.starts_with(path) || target.file.path.starts_with(path))
        };
        let is_ruled = |target: &Target| {
            target.file.instance == act.instance && (act.all || act.rules.contains(&target.file.rule))
        };
        let known = self.targets.iter().any(|target| is_ruled(target) && is_named(target));
        for target in &mut self.targets {
            let (named, below, ruled) = (is_named(target), is_below(target), is_ruled(target));
            if !act.observed && (ruled || below && act.changes) {
                target.suspect(act.links, now);
            }
            // If the record names a file, it is about no other file of the rule.
            if act.changes && (named || below && act.removes || ruled && !known) {
                target.note_early_match(&self.store, act.removes, now);
            }
        }
    }

    /// Takes a loss of records: any file may be modified. Records lost `before` the guard started may also be about files without a
    /// baseline; later losses are counted by [`Healer::keep`].
    pub fn lost(&mut self, before: bool, now: Instant) {
        for target in &mut self.targets {
            target.suspect(false, now);
            if before {
                target.note_early_match(&self.store, false, now);
            }
        }
    }

    /// Takes a file that was removed before it settled.
    pub fn gone_young(&mut self, path: &Path) {
        for target in
            self.targets.iter_mut().filter(|target| target.file.path == path && !self.store.has(&target.place))
        {
            target.report_removed_unsettled(&mut self.reports);
        }
    }

    /// Whether a file is healed and has no baseline.
    #[must_use]
    pub fn lacks_baseline(&self, path: &Path) -> bool {
        self.targets.iter().any(|target| target.file.path == path && !self.store.has(&target.place))
    }

    /// Whether a check is due within the time in which damage is expected.
    #[must_use]
    pub fn is_busy(&self, now: Instant) -> bool {
        self.targets.iter().any(|target| target.is_due_within(now, WATCH))
    }

    /// Files that [`Healer::heal`] will restore now, as rules name them.
    #[must_use]
    pub fn due(&self, now: Instant, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let targets = self.targets.iter().filter(|target| self.enforce && wanted(&target.file.path));
        let due = targets.filter(|target| target.is_to_be_restored(&self.store, now));
        due.map(|target| target.file.path.clone()).collect()
    }

    /// Whether the restore of a file is pending.
    #[must_use]
    pub fn is_damaged(&self, path: &Path) -> bool {
        self.targets.iter().any(|target| target.file.path == path && target.is_damaged())
    }

    /// Checks the files at which damage is expected, and restores those that differ from their baseline.
    pub fn heal(&mut self, now: Instant) {
        for target in &mut self.targets {
            target.check_early_match(&self.store, now, &mut self.reports);
            if self.enforce {
                target.heal(&self.store, now, &mut self.reports);
            }
        }
    }

    /// Takes the reports since the last call.
    pub fn reports(&mut self) -> Vec<HealingReport> {
        std::mem::take(&mut self.reports)
    }
}

/// The path of a file without symbolic links in its directories and, for a symbolic link, the path that it leads to, existing or
/// not: both are healed. `None` if the directory is missing.
fn places(path: &Path) -> Option<Vec<PathBuf>> {
    let real = |path: &Path| Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    let own = real(path)?;
    let (mut last, mut links) = (own.clone(), 0);
    while let Ok(target) = fs::read_link(&last)
        && links < MAX_LINKS
        && let Some(next) = last.parent().and_then(|parent| real(&parent.join(target)))
    {
        (last, links) = (next, links + 1);
    }
    let target = (last != own && links < MAX_LINKS).then_some(last);
    Some([Some(own), target].into_iter().flatten().collect())
}

/// Diff from the baseline to the tampered copy, for settings and flows, with secrets masked.
fn diff(place: &Path, good: &Copy, now: &Copy) -> Option<(&'static str, Value)> {
    let (Copy::File(good), Copy::File(now)) = (good, now) else { return None };
    let most = usize::try_from(change::MAX_BYTES).unwrap_or(usize::MAX);
    if !change::is_shown(place) || good.content.len().max(now.content.len()) > most {
        return None;
    }
    let (good, now) = (std::str::from_utf8(&good.content).ok()?, std::str::from_utf8(&now.content).ok()?);
    let text = change::diff::diff(good, now).text;
    (!text.is_empty()).then(|| ("diff", text.into()))
}

/// Makes the present content of a file its baseline, at an administrator's request. Drops the baseline of a missing file.
pub fn accept(state: &State, path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    by_hand(state, path, |store, place| {
        match Copy::take(place) {
            Ok(Some(now)) => store.keep(place, &now)?,
            Ok(None) if store.has(place) => store.forget(place)?,
            Ok(None) => {
                return Err(StoreError::File { path: place.to_owned(), source: std::io::ErrorKind::NotFound.into() });
            }
            Err(error) => {
                let obstacle = Obstacle::of_copying(place, "", &error);
                return Err(StoreError::Obstacle { path: place.to_owned(), obstacle });
            }
        }
        store.unmark(place, Mark::Unaccepted)?;
        Ok(store.unmark(place, Mark::Damaged)?)
    })
}

/// Restores a file from its baseline. The replaced content is kept as evidence.
pub fn restore(state: &State, path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    by_hand(state, path, |store, place| {
        let good = store.good(place)?.ok_or_else(|| StoreError::NoBaseline(place.to_owned()))?;
        if let Ok(Some(now)) = Copy::take(place) {
            if now == good {
                return Ok(());
            }
            store.evidence(place, &now)?;
        }
        restore::restore(place, &good).map_err(|error| {
            let obstacle = Obstacle::of_restoring(place, &good, &error);
            StoreError::Obstacle { path: place.to_owned(), obstacle }
        })?;
        Ok(store.unmark(place, Mark::Damaged)?)
    })
}

/// The files of a list that differ from their baselines.
#[must_use]
pub fn differing<'a>(state: &State, paths: impl IntoIterator<Item = &'a Path>) -> Vec<Left> {
    let Ok(store) = Store::open(state) else { return Vec::new() };
    let differs = |place: PathBuf| {
        let good = store.good(&place).ok().flatten()?;
        let now = Copy::take(&place).ok()?;
        (now.as_ref() != Some(&good)).then(|| Left { digest: now.map(|now| now.digest()), path: place })
    };
    let places = |path: &Path| places(path).unwrap_or_else(|| vec![path.to_owned()]);
    paths.into_iter().flat_map(places).filter_map(differs).collect()
}

/// SHA-256 of a file's content and attributes, as a copy has them; `None` if it is missing or cannot be copied.
#[must_use]
pub fn digest_of(place: &Path) -> Option<String> {
    Copy::take(place).ok().flatten().map(|copy| copy.digest())
}

/// Applies an action to each path of a file that a rule heals: it has a baseline, or is listed as healed.
fn by_hand(
    state: &State,
    path: &Path,
    act: impl Fn(&Store, &Path) -> Result<(), StoreError>,
) -> Result<Vec<PathBuf>, StoreError> {
    let store = Store::open(state)?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let listed = store.listed();
    let mut all = places(&path).unwrap_or_default();
    // The guard's list alone knows where a removed link led, and what was below a removed directory.
    for place in listed.iter().filter(|listed| listed.path == path || listed.place == path).map(|listed| &listed.place)
    {
        if !all.contains(place) {
            all.push(place.clone());
        }
    }
    let mut done = Vec::new();
    for place in all {
        if store.has(&place) || listed.iter().any(|listed| listed.place == place) {
            act(&store, &place)?;
            done.push(place);
        }
    }
    if done.is_empty() { Err(StoreError::NoCopy(path)) } else { Ok(done) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        path: PathBuf,
        healer: Healer,
        now: Instant,
        lost: u64,
    }

    fn healed(path: &Path) -> Vec<Healed> {
        vec![Healed { instance: "a".to_owned(), rule: "r".to_owned(), path: path.to_owned() }]
    }

    /// An operation that matches a rule.
    fn act(rule: &str) -> Act<'static> {
        rules([rule])
    }

    /// An operation that matches several rules.
    fn rules<const N: usize>(ids: [&str; N]) -> Act<'static> {
        Act {
            instance: "a",
            rules: Vec::leak(ids.map(str::to_owned).to_vec()),
            all: false,
            paths: [None; 2],
            changes: true,
            links: false,
            removes: false,
            observed: false,
        }
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap().join("settings.js");
        fs::write(&path, "good").unwrap();
        let mut healer = Healer::open(&state(&directory)).unwrap();
        healer.guard(healed(&path), true);
        Scene { directory, path, healer, now: Instant::now(), lost: 0 }
    }

    fn state(directory: &tempfile::TempDir) -> State {
        State::open(&directory.path().join("state")).unwrap()
    }

    impl Scene {
        fn outcomes(reports: &[HealingReport]) -> Vec<Outcome> {
            reports.iter().map(|report| report.outcome).collect()
        }

        fn look(&mut self) -> Vec<Outcome> {
            Self::outcomes(&self.looks())
        }

        fn looks(&mut self) -> Vec<HealingReport> {
            let candidates = self.healer.candidates(|_, _| true, self.lost);
            self.healer.keep(candidates, self.lost, self.now);
            self.healer.look(|_, _| true, self.now);
            self.healer.reports()
        }

        fn heal(&mut self) -> Vec<Outcome> {
            Self::outcomes(&self.heals())
        }

        fn heals(&mut self) -> Vec<HealingReport> {
            self.healer.heal(self.now);
            self.healer.reports()
        }

        fn meets(&mut self, act: Act<'_>) {
            self.healer.met(&act, self.now);
        }

        /// The guard ends, and another begins.
        fn again(&mut self, enforce: bool) {
            self.healer = Healer::open(&state(&self.directory)).unwrap();
            self.healer.guard(healed(&self.path), enforce);
            self.healer.begin(self.now);
        }

        fn content(&self) -> String {
            fs::read_to_string(&self.path).unwrap()
        }
    }

    #[test]
    fn what_another_rule_decided_about_is_healed_too() {
        let mut scene = scene();
        scene.look();
        let (path, directory) = (scene.path.clone(), scene.path.parent().unwrap().to_owned());
        let other = path.with_file_name("other.js");
        let met = [
            (rules(["other", "r"]), true),
            (Act { paths: [Some(&other), Some(&path)], ..act("other") }, true),
            (Act { paths: [Some(&directory), None], ..act("other") }, true),
            (Act { all: true, ..rules([]) }, true),
            (Act { all: true, instance: "b", ..rules([]) }, false),
            (Act { instance: "b", ..act("r") }, false),
            (Act { paths: [Some(&other), None], ..act("other") }, false),
        ];
        for (act, heals) in met {
            scene.now += 2 * WATCH;
            scene.heal();
            fs::write(&path, "tampered").unwrap();
            scene.meets(act);
            assert_eq!(!scene.heal().is_empty(), heals, "{act:?}");
            fs::write(&path, "good").unwrap();
        }
    }

    #[test]
    fn a_modified_file_is_restored_and_the_tampered_copy_is_kept() {
        let mut scene = scene();
        assert_eq!(scene.look(), [Outcome::Kept]);
        assert_eq!(scene.look(), []);
        fs::write(&scene.path, "tampered").unwrap();
        assert_eq!(scene.heal(), [], "no operation matched");
        scene.meets(act("other"));
        assert_eq!(scene.heal(), []);
        scene.meets(act("r"));
        let reports = scene.heals();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Restored]);
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "good");
        let evidence = reports[0].details["evidence"].as_str().unwrap();
        assert!(fs::read(evidence).unwrap().ends_with(b"\ntampered"), "{evidence}");
        assert!(
            reports[0].details["diff"].as_str().unwrap().contains("-good\n+tampered\n"),
            "{:?}",
            reports[0].details
        );
        assert_eq!(scene.look(), [], "healed is good");
    }

    #[test]
    fn harm_that_comes_a_moment_after_the_alert_is_healed_too() {
        let mut scene = scene();
        scene.look();
        scene.meets(act("r"));
        assert_eq!(scene.heal(), []);
        fs::remove_file(&scene.path).unwrap();
        scene.now += WATCH;
        assert_eq!(scene.heal(), [Outcome::Restored]);
        assert!(!scene.healer.is_busy(scene.now));
        fs::remove_file(&scene.path).unwrap();
        scene.now += WATCH;
        assert_eq!(scene.heal(), []);
    }

    #[test]
    fn what_an_administrator_changes_is_told_once_and_left_alone() {
        let mut scene = scene();
        scene.look();
        fs::write(&scene.path, "wanted").unwrap();
        assert_eq!(scene.look(), [Outcome::Differs]);
        assert_eq!(scene.look(), []);
        accept(&state(&scene.directory), &scene.path).unwrap();
        assert_eq!(scene.look(), [Outcome::Kept]);
        fs::write(&scene.path, "tampered").unwrap();
        scene.meets(act("r"));
        assert_eq!(scene.heal(), [Outcome::Restored]);
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "wanted");
    }

    #[test]
    fn restoring_by_hand_takes_a_change_back() {
        let mut scene = scene();
        scene.look();
        fs::write(&scene.path, "unwanted").unwrap();
        restore(&state(&scene.directory), &scene.path).unwrap();
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "good");
    }

    #[test]
    fn a_second_name_is_left_with_nothing() {
        let mut scene = scene();
        scene.look();
        let alias = scene.path.with_file_name("alias.js");
        fs::hard_link(&scene.path, &alias).unwrap();
        scene.meets(Act { links: true, ..act("r") });
        assert_eq!(scene.heal(), [Outcome::Restored]);
        assert_eq!(scene.heal(), []);
        fs::write(&alias, "tampered").unwrap();
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "good");
    }

    #[test]
    fn a_link_is_healed_with_what_it_leads_to() {
        let mut scene = scene();
        let link = scene.path.with_file_name("link.js");
        std::os::unix::fs::symlink("settings.js", &link).unwrap();
        scene.healer.guard(healed(&link), true);
        assert_eq!(scene.look(), [Outcome::Kept, Outcome::Kept]);
        fs::remove_file(&link).unwrap();
        fs::write(&scene.path, "tampered").unwrap();
        scene.meets(act("r"));
        assert_eq!(scene.heal(), [Outcome::Restored, Outcome::Restored]);
        assert_eq!(fs::read_to_string(&link).unwrap(), "good");
    }

    #[test]
    fn what_has_no_copy_is_an_error_with_the_mend() {
        let scene = scene();
        let error = accept(&state(&scene.directory), Path::new("/etc/hostname")).unwrap_err().to_string();
        assert!(error.contains("heal = true"), "{error}");
    }

    #[test]
    fn what_was_met_before_there_is_a_baseline_is_no_baseline_until_it_is_accepted() {
        let mut scene = scene();
        scene.meets(act("r"));
        let reports = scene.looks();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Failed]);
        let (message, details) = (&reports[0].message, &reports[0].details);
        assert!(message.contains("has no baseline") && message.contains("rule r"), "{message}");
        assert!(details["fix"].as_str().unwrap().contains("`flowwarden accept "), "{details:?}");
        assert!(fs::read(details["evidence"].as_str().unwrap()).unwrap().ends_with(b"\ngood"), "{details:?}");
        // The emptied file of the next attack is none either, in this run and in the next.
        fs::write(&scene.path, "").unwrap();
        scene.meets(act("r"));
        scene.now += WATCH;
        assert_eq!(scene.heal(), [Outcome::Failed], "another content is another report");
        assert_eq!((scene.look(), scene.look()), (vec![], vec![]));
        scene.again(true);
        assert_eq!((scene.look(), scene.look()), (vec![Outcome::Failed], vec![]));
        let by_hand = restore(&state(&scene.directory), &scene.path).unwrap_err().to_string();
        assert!(by_hand.contains("flowwarden accept"), "{by_hand}");
        fs::write(&scene.path, "good").unwrap();
        accept(&state(&scene.directory), &scene.path).unwrap();
        assert_eq!(scene.look(), []);
        fs::write(&scene.path, "tampered").unwrap();
        scene.meets(act("r"));
        assert_eq!(scene.heal(), [Outcome::Restored]);
        assert_eq!(scene.content(), "good");
    }

    #[test]
    fn what_was_met_after_the_copy_and_before_it_counts_is_no_baseline() {
        for observed in [false, true] {
            let mut scene = scene();
            let candidates = scene.healer.candidates(|_, _| true, 0);
            scene.meets(Act { observed, ..act("r") });
            scene.healer.keep(candidates, 0, scene.now);
            assert_eq!(Scene::outcomes(&scene.healer.reports()), [Outcome::Failed]);
            assert!(scene.healer.lacks_baseline(&scene.path));
        }
    }

    #[test]
    fn where_records_were_lost_since_a_file_came_there_is_no_baseline() {
        let mut scene = scene();
        (scene.lost, _) = (7, scene.healer.candidates(|_, _| false, 3));
        assert_eq!((scene.look(), scene.look()), (vec![Outcome::Failed], vec![]));
        let mut fresh = self::scene();
        fresh.lost = 7;
        assert_eq!(fresh.look(), [Outcome::Kept], "what was lost earlier is about other files");
    }

    #[test]
    fn harm_whose_record_was_lost_is_healed() {
        let mut scene = scene();
        scene.look();
        fs::write(&scene.path, "tampered").unwrap();
        scene.healer.lost(false, scene.now);
        assert_eq!(scene.heal(), [Outcome::Restored]);
        let mut scene = self::scene();
        scene.healer.lost(true, scene.now);
        assert_eq!(scene.look(), [Outcome::Failed], "what an earlier run has lost");
    }

    #[test]
    fn what_changes_nothing_or_another_file_is_no_doubt() {
        let mut scene = scene();
        let other = scene.path.with_file_name("other.js");
        fs::write(&other, "x").unwrap();
        scene.healer.guard([healed(&scene.path), healed(&other)].concat(), true);
        scene.meets(Act { changes: false, ..act("r") });
        scene.meets(Act { paths: [Some(&other), None], ..act("r") });
        let mut found: Vec<_> = scene.looks().into_iter().map(|report| (report.file.path, report.outcome)).collect();
        found.sort_by_key(|(path, _)| path == &scene.path);
        assert_eq!(found, [(other, Outcome::Failed), (scene.path.clone(), Outcome::Kept)]);
    }

    #[test]
    fn an_act_under_another_rule_at_the_same_path_counts() {
        let mut scene = scene();
        let path = scene.path.clone();
        scene.meets(Act { paths: [Some(&path), None], ..act("other") });
        assert_eq!(scene.look(), [Outcome::Failed]);
    }

    #[test]
    fn what_was_met_before_a_policy_heals_the_file_counts() {
        let mut scene = scene();
        let path = scene.path.clone();
        scene.healer.guard(Vec::new(), true);
        scene.meets(Act { paths: [Some(&path), None], ..act("other") });
        scene.healer.guard(healed(&path), true);
        assert_eq!((scene.look(), scene.look()), (vec![Outcome::Failed], vec![]));
        accept(&state(&scene.directory), &path).unwrap();
        assert!(!scene.healer.lacks_baseline(&path));
    }

    #[test]
    fn an_attempt_to_make_a_file_that_comes_to_nothing_is_no_doubt() {
        let mut scene = scene();
        fs::remove_file(&scene.path).unwrap();
        scene.meets(act("r"));
        assert_eq!(scene.heal(), []);
        scene.now += WATCH;
        assert_eq!(scene.heal(), []);
        fs::write(&scene.path, "good").unwrap();
        assert_eq!(scene.look(), [Outcome::Kept]);
        // One that was there is missed.
        let mut scene = self::scene();
        fs::remove_file(&scene.path).unwrap();
        scene.meets(Act { removes: true, ..act("r") });
        let reports = scene.heals();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Failed]);
        assert!(reports[0].message.contains("is missing and cannot be restored"), "{}", reports[0].message);
        fs::write(&scene.path, "tampered").unwrap();
        scene.now += WATCH;
        assert_eq!(scene.heal(), [Outcome::Failed]);
        assert_eq!(scene.look(), []);
        assert!(scene.healer.lacks_baseline(&scene.path));
    }

    #[test]
    fn what_cannot_be_restored_is_reported_once_for_each_cause_and_retried_until_it_is() {
        let mut scene = scene();
        scene.look();
        let directory = fs::canonicalize(scene.directory.path()).unwrap().join("ud");
        fs::create_dir(&directory).unwrap();
        let path = directory.join("settings.js");
        fs::rename(&scene.path, &path).unwrap();
        scene.path = path;
        scene.healer.guard(healed(&scene.path), true);
        assert_eq!(scene.look(), [Outcome::Kept]);
        fs::remove_dir_all(&directory).unwrap();
        scene.meets(act("r"));
        let reports = scene.heals();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Failed]);
        let message = &reports[0].message;
        assert!(
            message.contains("/ud is gone") && message.contains("; fix: ") && message.contains("mkdir -p"),
            "{message}"
        );
        assert!(!message.contains('\n'));
        // The pauses grow, and end at half a minute.
        let mut tries = Vec::new();
        let mut last = scene.now;
        for _ in 0..9000 {
            scene.now += RETRY[0];
            if scene.healer.targets.iter().any(|target| !target.is_due_within(scene.now, Duration::ZERO)) {
                continue;
            }
            assert_eq!(scene.heal(), []);
            tries.push(scene.now - last);
            last = scene.now;
            scene.healer.targets[0].expire();
        }
        assert!(tries.len() > 10 && tries.is_sorted(), "{tries:?}");
        assert!(tries[0] <= 2 * RETRY[0] && tries[tries.len() - 1] <= RETRY[1] + RETRY[0], "{tries:?}");
        // The guard that begins meanwhile goes on with it.
        scene.again(true);
        assert_eq!(scene.heal(), [Outcome::Failed]);
        fs::write(&directory, "no directory").unwrap();
        scene.now += RETRY[1];
        let reports = scene.heals();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Failed]);
        assert!(reports[0].message.contains("is no directory now"), "{}", reports[0].message);
        let by_hand = restore(&state(&scene.directory), &scene.path).unwrap_err().to_string();
        assert!(by_hand.contains("is no directory now"), "{by_hand}");
        fs::remove_file(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        scene.now += RETRY[1];
        let reports = scene.heals();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Restored]);
        assert_eq!(reports[0].details["tries"], 3);
        assert_eq!(scene.content(), "good");
        scene.now += WATCH;
        assert_eq!(scene.heal(), []);
        assert!(!scene.healer.is_busy(scene.now));
    }

    #[test]
    fn a_file_that_went_while_no_guard_ran_is_restored_at_the_start() {
        let mut scene = scene();
        scene.look();
        fs::remove_file(&scene.path).unwrap();
        scene.again(false);
        assert_eq!((scene.heal(), scene.look()), (vec![], vec![]), "a policy that only observes");
        scene.now += GONE;
        let reports = scene.looks();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Gone]);
        assert!(reports[0].message.contains("`flowwarden restore "), "{}", reports[0].message);
        assert_eq!(scene.look(), []);
        scene.again(true);
        let reports = scene.heals();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Restored]);
        assert!(
            reports[0].message.contains("was missing when the guard started and has been restored"),
            "{}",
            reports[0].message
        );
        assert_eq!(scene.content(), "good");
        // Whose end was wanted does not come back.
        fs::remove_file(&scene.path).unwrap();
        accept(&state(&scene.directory), &scene.path).unwrap();
        scene.again(true);
        assert_eq!((scene.heal(), scene.look()), (vec![], vec![]));
        assert!(!scene.path.exists());
    }

    #[test]
    fn what_an_administrator_makes_where_a_file_was_gone_at_the_start_is_left_alone() {
        let mut scene = scene();
        let directory = scene.path.with_file_name("user");
        fs::create_dir(&directory).unwrap();
        scene.path = directory.join("settings.js");
        fs::write(&scene.path, "good").unwrap();
        scene.again(true);
        assert_eq!(scene.look(), [Outcome::Kept]);
        fs::remove_dir_all(&directory).unwrap();
        scene.again(true);
        assert_eq!(scene.heal(), [Outcome::Failed], "there is no directory to restore it to");
        fs::create_dir(&directory).unwrap();
        fs::write(&scene.path, "wanted").unwrap();
        scene.now += RETRY[1];
        assert_eq!((scene.heal(), scene.look()), (vec![], vec![Outcome::Differs]));
        assert_eq!(scene.content(), "wanted");
    }

    #[test]
    fn what_a_link_leads_to_is_restored_at_the_start_too() {
        let mut scene = scene();
        let link = scene.path.with_file_name("link.js");
        std::os::unix::fs::symlink("settings.js", &link).unwrap();
        let file = std::mem::replace(&mut scene.path, link);
        scene.again(true);
        assert_eq!(scene.look(), [Outcome::Kept, Outcome::Kept]);
        fs::remove_file(&file).unwrap();
        scene.again(true);
        assert_eq!(scene.heal(), [Outcome::Restored]);
        assert_eq!(scene.content(), "good");
    }

    #[test]
    fn a_path_that_leads_elsewhere_than_it_did_has_no_baseline_there() {
        let mut scene = scene();
        let top = fs::canonicalize(scene.directory.path()).unwrap();
        for name in ["one", "two"] {
            fs::create_dir(top.join(name)).unwrap();
            fs::write(top.join(name).join("settings.js"), name).unwrap();
        }
        std::os::unix::fs::symlink("one", top.join("ud")).unwrap();
        scene.path = top.join("ud/settings.js");
        scene.again(true);
        assert_eq!(scene.look(), [Outcome::Kept]);
        fs::remove_file(top.join("ud")).unwrap();
        std::os::unix::fs::symlink("two", top.join("ud")).unwrap();
        scene.healer.guard(healed(&scene.path), true);
        assert_eq!(scene.look(), [Outcome::Failed]);
        accept(&state(&scene.directory), &scene.path).unwrap();
        assert!(!scene.healer.lacks_baseline(&scene.path));
    }

    #[test]
    fn what_is_too_large_or_no_file_is_reported_once_with_its_fix() {
        let mut scene = scene();
        fs::File::create(&scene.path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let reports = scene.looks();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Failed]);
        let message = &reports[0].message;
        assert!(message.contains("larger than 8 MiB") && message.contains("`heal = true` out of rule r"), "{message}");
        assert_eq!(scene.look(), []);
        fs::remove_file(&scene.path).unwrap();
        fs::create_dir(&scene.path).unwrap();
        let reports = scene.looks();
        assert!(
            reports[0].message.contains("no regular file") && reports[0].message.contains("mv "),
            "{}",
            reports[0].message
        );
        assert_eq!(scene.look(), []);
    }

    #[test]
    fn a_baseline_that_cannot_be_kept_or_read_is_reported_once_with_its_fix() {
        let mut scene = scene();
        let good = scene.directory.path().join("state/good");
        fs::remove_dir(&good).unwrap();
        let reports = scene.looks();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Failed]);
        assert!(reports[0].message.contains("cannot be healed: state "), "{}", reports[0].message);
        assert_eq!(scene.look(), []);
        scene.again(true);
        assert_eq!(scene.look(), [Outcome::Kept]);
        let kept = fs::read_dir(&good).unwrap().next().unwrap().unwrap().path();
        fs::write(kept, "nonsense").unwrap();
        let reports = scene.looks();
        assert_eq!(Scene::outcomes(&reports), [Outcome::Failed]);
        assert!(reports[0].message.contains("`flowwarden accept "), "{}", reports[0].message);
        scene.meets(act("r"));
        assert_eq!((scene.heal(), scene.look()), (vec![], vec![]));
    }

    #[test]
    fn a_file_that_goes_before_it_has_settled_is_reported() {
        let mut scene = scene();
        scene.healer.candidates(|_, _| false, 0);
        fs::remove_file(&scene.path).unwrap();
        scene.healer.gone_young(&scene.path);
        assert_eq!(Scene::outcomes(&scene.healer.reports()), [Outcome::Failed]);
        fs::write(&scene.path, "good").unwrap();
        assert_eq!(scene.look(), [Outcome::Kept]);
    }
}
