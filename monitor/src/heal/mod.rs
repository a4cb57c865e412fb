//! Healing: a good copy of protected files is kept, and put back when one came to harm.
//!
//! Where a sensor cannot deny, the process that cut a file or moved another over it is killed, and the harm is done all the
//! same. The file is then compared with its good copy; the evil version is kept as evidence before the good one takes its
//! place. What an administrator changes is told, and left alone until it is accepted.

mod copy;
mod restore;
mod store;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

pub use self::{
    copy::{Copy, MAX_BYTES},
    store::{Store, StoreError},
};
use crate::{
    change::{self, decision::Left},
    state::{State, StateError},
    stdio::complain,
};

/// How long after the last alert a file is looked at again. A sensor that cannot deny speaks before the operation takes
/// place, and the kernel finishes what it is at before the process dies.
const WATCH: Duration = Duration::from_secs(1);

/// A file that is healed, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Healed {
    /// Name of the instance.
    pub instance: String,
    /// Id of the rule.
    pub rule: String,
    /// The file, as the rule names it.
    pub path: PathBuf,
}

/// What is told.
#[derive(Clone, Debug)]
pub struct Told {
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
    /// A first good copy was taken, or a wanted change was accepted.
    Kept,
    /// It is not what it should be, and no rule that is enforced has met anybody at it.
    Differs,
    /// The good copy is in its place again.
    Restored,
    /// It could not be put back.
    Failed,
}

/// How a file was when it was looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Unknown,
    Good,
    Differs,
}

#[derive(Debug)]
struct Ward {
    file: Healed,
    /// Where it really is, its own name aside.
    place: PathBuf,
    /// Until when it is suspected.
    suspected: Option<Instant>,
    /// Somebody was about to give it a second name, which goes on to lead to the same file.
    linked: bool,
    seen: Seen,
    /// Why no copy could be taken, when that was told.
    refused: Option<String>,
}

/// Keeps good copies and puts them back.
#[derive(Debug)]
pub struct Healer {
    store: Store,
    wards: Vec<Ward>,
}

impl Healer {
    /// With what was kept in earlier runs.
    pub fn open(state: &State) -> Result<Self, StateError> {
        Ok(Self { store: Store::open(state)?, wards: Vec::new() })
    }

    /// The files of the policy in force. What is known about those that stay is kept.
    pub fn guard(&mut self, mut files: Vec<Healed>) {
        files.sort();
        files.dedup();
        let mut old = std::mem::take(&mut self.wards);
        for file in files {
            let places = places(&file.path);
            for place in places {
                let known = old.iter().position(|ward| ward.file == file && ward.place == place);
                self.wards.push(known.map_or_else(
                    || Ward {
                        file: file.clone(),
                        place,
                        suspected: None,
                        linked: false,
                        seen: Seen::Unknown,
                        refused: None,
                    },
                    |at| old.swap_remove(at),
                ));
            }
        }
    }

    /// Takes the first copies of files that are there and complete, and tells which are not what they should be. To be
    /// called now and then.
    pub fn look(&mut self, is_made: impl Fn(&Path) -> bool) -> Vec<Told> {
        let mut told = Vec::new();
        for ward in self.wards.iter_mut().filter(|ward| ward.suspected.is_none() && is_made(&ward.file.path)) {
            look(&self.store, ward, &mut told);
        }
        told
    }

    /// A rule has met somebody: its files may have come to harm, or be about to.
    pub fn suspect(&mut self, instance: &str, rule: &str, linked: bool, now: Instant) {
        for ward in self.wards.iter_mut().filter(|ward| ward.file.instance == instance && ward.file.rule == rule) {
            ward.suspected = Some(now + WATCH);
            ward.linked |= linked;
        }
    }

    /// Whether any file is suspected.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.wards.iter().any(|ward| ward.suspected.is_some())
    }

    /// Looks at the files that are suspected, and puts back those that came to harm.
    pub fn heal(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        for ward in &mut self.wards {
            let Some(until) = ward.suspected else { continue };
            heal(&self.store, ward, &mut told);
            if now >= until {
                ward.suspected = None;
                ward.linked = false;
            }
        }
        told
    }
}

/// Where a file really is, and, for a symbolic link, where it leads: both are healed.
fn places(path: &Path) -> Vec<PathBuf> {
    let real = |path: &Path| Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    let Some(own) = real(path) else { return vec![path.to_owned()] };
    let target = fs::canonicalize(&own).ok().filter(|target| *target != own);
    [Some(own), target].into_iter().flatten().collect()
}

fn look(store: &Store, ward: &mut Ward, told: &mut Vec<Told>) {
    let now = match Copy::take(&ward.place) {
        Ok(Some(now)) => now,
        // A file that is gone may be on its way to be replaced.
        Ok(None) => return,
        Err(error) => {
            let why = error.to_string();
            if ward.refused.as_ref() != Some(&why) {
                let message = format!("{} cannot be healed: {why}", ward.place.display());
                told.push(ward.tell(Outcome::Failed, message, [("error", why.as_str().into())]));
                ward.refused = Some(why);
            }
            return;
        }
    };
    ward.refused = None;
    let path = ward.place.display();
    let seen = match store.good(&ward.place) {
        Ok(Some(good)) if good == now => Seen::Good,
        Ok(Some(good)) => {
            if ward.seen != Seen::Differs {
                let message = format!(
                    "{path} differs from its good copy: `flowwarden accept {path}` makes it the good copy, `flowwarden restore \
                     {path}` takes the change back"
                );
                let mut details = vec![("sha256", now.digest().into()), ("good_sha256", good.digest().into())];
                details.extend(diff(&ward.place, &good, &now));
                told.push(ward.tell(Outcome::Differs, message, details));
            }
            Seen::Differs
        }
        Ok(None) => match store.keep(&ward.place, &now) {
            Ok(()) => {
                let message = format!("a good copy of {path} is kept");
                told.push(ward.tell(Outcome::Kept, message, [("sha256", now.digest().into())]));
                Seen::Good
            }
            Err(error) => {
                complain(&error);
                Seen::Unknown
            }
        },
        Err(error) => {
            complain(&error);
            Seen::Unknown
        }
    };
    if (ward.seen, seen) == (Seen::Differs, Seen::Good) {
        let message = format!("{path} is as its good copy again");
        told.push(ward.tell(Outcome::Kept, message, [("sha256", now.digest().into())]));
    }
    ward.seen = seen;
}

fn heal(store: &Store, ward: &mut Ward, told: &mut Vec<Told>) {
    let good = match store.good(&ward.place) {
        Ok(Some(good)) => good,
        Ok(None) => return,
        Err(error) => {
            complain(&error);
            return;
        }
    };
    let start = Instant::now();
    let found = Copy::take(&ward.place);
    let aliased = ward.linked && fs::symlink_metadata(&ward.place).is_ok_and(|meta| links(&meta) > 1);
    if !aliased && matches!(&found, Ok(Some(now)) if *now == good) {
        return;
    }
    let evidence = match &found {
        Ok(Some(now)) => store.evidence(&ward.place, now).map_err(|error| error.to_string()),
        Ok(None) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let restored = restore::restore(&ward.place, &good);
    let path = ward.place.display();
    let mut details = vec![("good_sha256", Value::from(good.digest()))];
    if let Ok(Some(now)) = &found {
        details.push(("evil_sha256", now.digest().into()));
    }
    match &evidence {
        Ok(kept) => details.extend(kept.iter().map(|kept| ("evidence", kept.display().to_string().into()))),
        Err(why) => details.push(("evidence_error", why.as_str().into())),
    }
    let outcome = match restored {
        Ok(aside) => {
            details.extend(aside.iter().map(|aside| ("aside", aside.display().to_string().into())));
            details.push(("heal_us", u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).into()));
            // Its second name leads to a file that is nobody's any more.
            ward.linked = false;
            ward.seen = Seen::Good;
            let message = match evidence {
                Ok(Some(kept)) => {
                    format!("{path} came to harm and is healed; what it had become is kept in {}", kept.display())
                }
                _ => format!("{path} came to harm and is healed"),
            };
            (Outcome::Restored, message)
        }
        Err(error) => {
            details.push(("error", error.to_string().into()));
            (Outcome::Failed, format!("{path} came to harm and cannot be healed: {error}; `flowwarden restore {path}`"))
        }
    };
    // Last: nothing waits for it.
    if let Ok(Some(now)) = &found {
        details.extend(diff(&ward.place, &good, now));
    }
    let already = ward.refused.as_ref() == Some(&outcome.1);
    ward.refused = (outcome.0 == Outcome::Failed).then(|| outcome.1.clone());
    if !already {
        told.push(ward.tell(outcome.0, outcome.1, details));
    }
}

/// What a file had become, against its good copy: for settings and flows, secrets masked.
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

fn links(meta: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(meta)
}

impl Ward {
    fn tell(
        &self,
        outcome: Outcome,
        message: String,
        details: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Told {
        let mut details: Map<_, _> = details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.insert("instance".to_owned(), json!(self.file.instance));
        details.insert("rule".to_owned(), json!(self.file.rule));
        Told { file: Healed { path: self.place.clone(), ..self.file.clone() }, outcome, message, details }
    }
}

/// Makes what a file is now its good copy, as an administrator wants it.
pub fn accept(state: &State, path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    by_hand(state, path, |store, place| {
        let now = Copy::take(place).and_then(|now| now.ok_or_else(|| std::io::ErrorKind::NotFound.into()));
        store.keep(place, &now.map_err(|source| StoreError::File { path: place.to_owned(), source })?)
    })
}

/// Puts the good copy of a file back; what it was is kept as evidence.
pub fn restore(state: &State, path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    by_hand(state, path, |store, place| {
        let good = store.good(place)?.ok_or_else(|| StoreError::NoCopy(place.to_owned()))?;
        if let Ok(Some(now)) = Copy::take(place) {
            if now == good {
                return Ok(());
            }
            store.evidence(place, &now)?;
        }
        restore::restore(place, &good).map(drop).map_err(|source| StoreError::File { path: place.to_owned(), source })
    })
}

/// Those of these files that differ from their good copies.
#[must_use]
pub fn differing<'a>(state: &State, paths: impl IntoIterator<Item = &'a Path>) -> Vec<Left> {
    let Ok(store) = Store::open(state) else { return Vec::new() };
    let differs = |place: PathBuf| {
        let good = store.good(&place).ok().flatten()?;
        let now = Copy::take(&place).ok()?;
        (now.as_ref() != Some(&good)).then(|| Left { digest: now.map(|now| now.digest()), path: place })
    };
    paths.into_iter().flat_map(places).filter_map(differs).collect()
}

/// SHA-256 of a file with what a copy of it has beside the content; `None` when there is none, or it cannot be copied.
#[must_use]
pub fn digest_of(place: &Path) -> Option<String> {
    Copy::take(place).ok().flatten().map(|copy| copy.digest())
}

/// Does something with each place of a file; all of them must be under a rule that heals, which shows in a good copy.
fn by_hand(
    state: &State,
    path: &Path,
    act: impl Fn(&Store, &Path) -> Result<(), StoreError>,
) -> Result<Vec<PathBuf>, StoreError> {
    let store = Store::open(state)?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut done = Vec::new();
    for place in places(&path) {
        if store.good(&place)?.is_some() {
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
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap().join("settings.js");
        fs::write(&path, "good").unwrap();
        let mut healer = Healer::open(&state(&directory)).unwrap();
        healer.guard(vec![Healed { instance: "a".to_owned(), rule: "r".to_owned(), path: path.clone() }]);
        Scene { directory, path, healer, now: Instant::now() }
    }

    fn state(directory: &tempfile::TempDir) -> State {
        State::open(&directory.path().join("state")).unwrap()
    }

    impl Scene {
        fn outcomes(told: &[Told]) -> Vec<Outcome> {
            told.iter().map(|told| told.outcome).collect()
        }

        fn look(&mut self) -> Vec<Outcome> {
            Self::outcomes(&self.healer.look(|_| true))
        }

        fn heal(&mut self) -> Vec<Outcome> {
            Self::outcomes(&self.healer.heal(self.now))
        }
    }

    #[test]
    fn what_was_harmed_comes_back_and_the_evil_version_is_kept() {
        let mut scene = scene();
        assert_eq!(scene.look(), [Outcome::Kept]);
        assert_eq!(scene.look(), []);
        fs::write(&scene.path, "evil").unwrap();
        assert_eq!(scene.heal(), [], "nobody is suspected");
        scene.healer.suspect("a", "other", false, scene.now);
        assert_eq!(scene.heal(), []);
        scene.healer.suspect("a", "r", false, scene.now);
        let told = scene.healer.heal(scene.now);
        assert_eq!(Scene::outcomes(&told), [Outcome::Restored]);
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "good");
        let evidence = told[0].details["evidence"].as_str().unwrap();
        assert!(fs::read(evidence).unwrap().ends_with(b"\nevil"), "{evidence}");
        assert!(told[0].details["diff"].as_str().unwrap().contains("-good\n+evil\n"), "{:?}", told[0].details);
        assert_eq!(scene.look(), [], "healed is good");
    }

    #[test]
    fn harm_that_comes_a_moment_after_the_alert_is_healed_too() {
        let mut scene = scene();
        scene.look();
        scene.healer.suspect("a", "r", false, scene.now);
        assert_eq!(scene.heal(), []);
        fs::remove_file(&scene.path).unwrap();
        scene.now += WATCH;
        assert_eq!(scene.heal(), [Outcome::Restored]);
        assert!(!scene.healer.is_busy());
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
        fs::write(&scene.path, "evil").unwrap();
        scene.healer.suspect("a", "r", false, scene.now);
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
        scene.healer.suspect("a", "r", true, scene.now);
        assert_eq!(scene.heal(), [Outcome::Restored]);
        assert_eq!(scene.heal(), []);
        fs::write(&alias, "evil").unwrap();
        assert_eq!(fs::read_to_string(&scene.path).unwrap(), "good");
    }

    #[test]
    fn a_link_is_healed_with_what_it_leads_to() {
        let mut scene = scene();
        let link = scene.path.with_file_name("link.js");
        std::os::unix::fs::symlink("settings.js", &link).unwrap();
        scene.healer.guard(vec![Healed { instance: "a".to_owned(), rule: "r".to_owned(), path: link.clone() }]);
        assert_eq!(scene.look(), [Outcome::Kept, Outcome::Kept]);
        fs::remove_file(&link).unwrap();
        fs::write(&scene.path, "evil").unwrap();
        scene.healer.suspect("a", "r", false, scene.now);
        assert_eq!(scene.heal(), [Outcome::Restored, Outcome::Restored]);
        assert_eq!(fs::read_to_string(&link).unwrap(), "good");
    }

    #[test]
    fn what_has_no_copy_is_an_error_with_the_mend() {
        let scene = scene();
        let error = accept(&state(&scene.directory), Path::new("/etc/hostname")).unwrap_err().to_string();
        assert!(error.contains("heal = true"), "{error}");
    }
}
