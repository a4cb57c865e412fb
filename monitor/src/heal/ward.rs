//! One place of a file that is healed, and what is known about it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::{
    GONE, Healed, Outcome, RETRY, Told, WATCH,
    copy::Copy,
    diff,
    obstacle::{self, Obstacle, quoted},
    restore,
    store::{Mark, Store, StoreError},
};
use journal::{state::StateError, stdio::complain};

/// How a file was when it was looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Unknown,
    Good,
    Differs,
    Gone,
}

/// A file that has to be restored, and could not be yet.
#[derive(Clone, Copy, Debug)]
struct Damage {
    /// A rule has met what did it; otherwise the file was gone at the guard's start.
    met: bool,
    /// How often it was tried.
    tries: u32,
    next: Instant,
    pause: Duration,
}

/// Something was met at a file that has no baseline.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    until: Instant,
    /// A name was taken away, so there was a file.
    removes: bool,
    /// When the change that has come of it is reported at the earliest.
    report: Instant,
}

#[derive(Debug)]
pub(super) struct Ward {
    pub(super) file: Healed,
    /// Where it really is, its own name aside.
    pub(super) place: PathBuf,
    /// How many records were lost when it was first seen, without a baseline; `None` when it was not.
    pub(super) lost_before: Option<u64>,
    /// What is there may be an attacker's, also where that could not be marked.
    pub(super) doubtful: bool,
    /// Until when it is suspected.
    suspected: Option<Instant>,
    /// It is about to get a second name, which goes on to lead to the same file.
    linked: bool,
    doubt: Option<Doubt>,
    damage: Option<Damage>,
    seen: Seen,
    missing: Option<Instant>,
    /// What was reported as failed, until it is right again.
    reported: Option<String>,
}

impl Ward {
    /// What is there is `doubtful` when something was met at it before.
    pub(super) fn new(file: Healed, place: PathBuf, doubtful: bool, store: &Store) -> Self {
        let ward = Self {
            file,
            place,
            lost_before: None,
            doubtful,
            suspected: None,
            linked: false,
            doubt: None,
            damage: None,
            seen: Seen::Unknown,
            missing: None,
            reported: None,
        };
        if doubtful {
            ward.mark(store, Mark::Unaccepted);
        }
        ward
    }

    /// What an earlier run could not restore is tried again, unless the policy only observes.
    pub(super) fn recall(&mut self, store: &Store, enforce: bool) {
        if !enforce {
            (self.damage, self.suspected) = (None, None);
        } else if self.damage.is_none() && store.has(&self.place) && store.is_marked(&self.place, Mark::Damaged) {
            self.damage = Some(Damage { met: true, tries: 0, next: Instant::now(), pause: RETRY[0] });
        }
    }

    /// What was met is long ago.
    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        self.suspected = None;
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// A file with a baseline that is not there when the guard starts is restored.
    pub(super) fn begin(&mut self, store: &Store, now: Instant) {
        let gone = matches!(fs::symlink_metadata(&self.place), Err(error) if error.kind() == io::ErrorKind::NotFound
            || error.kind() == io::ErrorKind::NotADirectory);
        if gone && self.damage.is_none() && store.has(&self.place) {
            let met = self.suspected.is_some();
            self.damage = Some(Damage { met, tries: 0, next: now, pause: RETRY[0] });
        }
    }

    pub(super) fn suspect(&mut self, links: bool, now: Instant) {
        self.suspected = Some(now + WATCH);
        self.linked |= links;
        if let Some(damage) = &mut self.damage {
            (damage.met, damage.next, damage.pause) = (true, now, RETRY[0]);
        }
    }

    pub(super) fn doubts(&mut self, store: &Store, removes: bool, now: Instant) {
        if store.has(&self.place) {
            return;
        }
        let doubt = self.doubt.get_or_insert(Doubt { until: now, removes, report: now });
        doubt.until = now + WATCH;
        doubt.removes |= removes;
    }

    /// Whether something is going on that a look must not get in the way of.
    pub(super) fn is_busy(&self) -> bool {
        self.suspected.is_some() || self.doubt.is_some() || self.damage.is_some()
    }

    pub(super) fn is_due_within(&self, now: Instant, time: Duration) -> bool {
        self.suspected.is_some() || self.doubt.is_some() || self.damage.is_some_and(|damage| damage.next <= now + time)
    }

    /// Whether it is to be looked at now, by what was met and by when it was tried last.
    fn is_due(&self, now: Instant) -> bool {
        match self.damage {
            Some(damage) => damage.next <= now,
            None => self.suspected.is_some(),
        }
    }

    pub(super) fn is_to_be_restored(&self, store: &Store, now: Instant) -> bool {
        let differs = |good: &Copy| !matches!(Copy::take(&self.place), Ok(Some(found)) if found == *good);
        self.is_due(now) && store.good(&self.place).is_ok_and(|good| good.as_ref().is_some_and(differs))
    }

    /// Finds out what has come of an operation that was met before there was a baseline.
    pub(super) fn doubt(&mut self, store: &Store, now: Instant, told: &mut Vec<Told>) {
        let Some(doubt) = self.doubt else { return };
        if store.has(&self.place) {
            self.doubt = None;
            return;
        }
        let found = Copy::take(&self.place);
        let there = !matches!(found, Ok(None));
        // An attempt to make what is not there, which came to nothing, is none at the file.
        let touched = there || self.lost_before.is_some() || doubt.removes;
        if touched {
            self.doubtful = true;
            self.mark(store, Mark::Unaccepted);
            if now >= doubt.report || now >= doubt.until {
                self.doubt = Some(Doubt { report: now + WATCH, ..doubt });
                let why = format!(
                    "rule {} met an operation that may have changed it before its baseline was taken",
                    self.file.rule
                );
                self.has_no_baseline(store, &why, &found, told);
            }
        }
        if now >= doubt.until {
            self.doubt = None;
        }
    }

    /// Records were lost since it came to be: what they were about is not known.
    pub(super) fn unseen(&mut self, store: &Store, told: &mut Vec<Told>) {
        self.doubtful = true;
        self.mark(store, Mark::Unaccepted);
        let why = "records were lost before its baseline was taken, and may have been about it";
        self.has_no_baseline(store, why, &Copy::take(&self.place), told);
    }

    /// It was met before, in this run or in an earlier one.
    pub(super) fn not_accepted(&mut self, store: &Store, told: &mut Vec<Told>) {
        if self.reported.is_none() {
            let why = "its content may be an attacker's, and was not accepted";
            self.has_no_baseline(store, why, &Copy::take(&self.place), told);
        }
    }

    fn has_no_baseline(&mut self, store: &Store, why: &str, found: &io::Result<Option<Copy>>, told: &mut Vec<Told>) {
        let (path, command) = (self.place.display(), quoted(&self.place));
        let mut details = Vec::new();
        let (message, fix) = match found {
            Ok(None) => {
                let fix = format!("put the file back by hand, then `flowwarden accept {command}`");
                (format!("{path} is not there and cannot be restored: {why}"), fix)
            }
            found => {
                if let Ok(Some(now)) = found {
                    details.push(("sha256", now.digest().into()));
                    details.push(evidence(store.evidence(&self.place, now)));
                }
                let fix = format!("look at the file, put it right, then `flowwarden accept {command}`");
                (format!("{path} has no baseline and cannot be restored when it is damaged: {why}"), fix)
            }
        };
        let key =
            format!("{}{}", found.as_ref().ok().and_then(Option::as_ref).map_or_else(String::new, Copy::digest), fix);
        self.fail(key, &message, &Obstacle::new(why, fix), details, told);
    }

    pub(super) fn gone_young(&mut self, told: &mut Vec<Told>) {
        let command = quoted(&self.place);
        let why = "it was removed before it had settled, so there is no baseline";
        let fix = format!("put the file back by hand if it is missed: `ls -l {command}`");
        let message = format!("{} is gone and cannot be restored: {why}", self.place.display());
        self.fail("gone young".to_owned(), &message, &Obstacle::new(why, fix), Vec::new(), told);
        // The next one of this name is another file.
        self.reported = None;
    }

    pub(super) fn cannot_be_copied(&mut self, error: &io::Error, told: &mut Vec<Told>) {
        let obstacle = Obstacle::of_copying(&self.place, &self.file.rule, error);
        let message = format!("{} cannot be healed: {}", self.place.display(), obstacle.why);
        self.fail(obstacle.why.clone(), &message, &obstacle, Vec::new(), told);
    }

    /// Makes a copy the baseline.
    pub(super) fn keep(&mut self, store: &Store, copy: &Copy, told: &mut Vec<Told>) {
        let path = self.place.display();
        match store.keep(&self.place, copy) {
            Ok(()) => {
                let message = format!("a good copy of {path} is kept");
                told.push(self.tell(Outcome::Kept, message, vec![("sha256", copy.digest().into())]));
                (self.seen, self.reported) = (Seen::Good, None);
            }
            Err(error) => self.state_fails(store, &error, told),
        }
    }

    fn state_fails(&mut self, store: &Store, error: &StoreError, told: &mut Vec<Told>) {
        let path = self.place.display();
        let obstacle = if let StoreError::Broken(_) = error {
            let fix = format!("look at the file, then `flowwarden accept {}`", quoted(&self.place));
            Obstacle::new("its baseline cannot be read", fix)
        } else {
            let source = if let StoreError::State(StateError::Io { source, .. }) = error { Some(source) } else { None };
            Obstacle::of_state(store.directory(), error, source)
        };
        let message = format!("{path} cannot be healed: {}", obstacle.why);
        self.fail(obstacle.why.clone(), &message, &obstacle, vec![("state_error", error.to_string().into())], told);
    }

    /// Reports a failure once, until there is another cause or it is right again.
    fn fail(
        &mut self,
        key: String,
        message: &str,
        obstacle: &Obstacle,
        mut details: Vec<(&'static str, Value)>,
        told: &mut Vec<Told>,
    ) {
        if self.reported.as_ref() == Some(&key) {
            return;
        }
        self.reported = Some(key);
        details.push(("error", obstacle.why.as_str().into()));
        details.push(("fix", obstacle.fix.as_str().into()));
        told.push(self.tell(Outcome::Failed, format!("{message}; fix: {}", obstacle.fix), details));
    }

    /// Reports whether it is what it should be.
    pub(super) fn look(&mut self, store: &Store, now: Instant, told: &mut Vec<Told>) {
        let good = match store.good(&self.place) {
            Ok(Some(good)) => good,
            Ok(None) => return,
            Err(error) => return self.state_fails(store, &error, told),
        };
        let (path, command) = (self.place.display(), quoted(&self.place));
        let found = match Copy::take(&self.place) {
            Ok(Some(found)) => found,
            Ok(None) => {
                let since = *self.missing.get_or_insert(now);
                // A file that is gone may be on its way to be replaced.
                if self.seen != Seen::Gone && now.saturating_duration_since(since) >= GONE {
                    let message = format!(
                        "{path} is gone, and a good copy is kept: `flowwarden restore {command}` puts it back, `flowwarden \
                         accept {command}` if it is not wanted any more"
                    );
                    told.push(self.tell(Outcome::Gone, message, vec![("good_sha256", good.digest().into())]));
                    self.seen = Seen::Gone;
                }
                return;
            }
            Err(error) => return self.cannot_be_copied(&error, told),
        };
        (self.missing, self.reported) = (None, None);
        let bad = matches!(self.seen, Seen::Differs | Seen::Gone);
        if found == good {
            if bad {
                self.is_right(&found, told);
            }
            self.seen = Seen::Good;
            return;
        }
        if self.seen != Seen::Differs {
            let message = format!(
                "{path} differs from its good copy: `flowwarden accept {command}` makes it the good copy, `flowwarden restore \
                 {command}` takes the change back"
            );
            let mut details = vec![("sha256", found.digest().into()), ("good_sha256", good.digest().into())];
            details.extend(diff(&self.place, &good, &found));
            told.push(self.tell(Outcome::Differs, message, details));
        }
        self.seen = Seen::Differs;
    }

    fn is_right(&mut self, found: &Copy, told: &mut Vec<Told>) {
        let message = format!("{} is as its good copy again", self.place.display());
        told.push(self.tell(Outcome::Kept, message, vec![("sha256", found.digest().into())]));
    }

    /// Looks at it when it is suspected, and restores it when it came to harm.
    pub(super) fn heal(&mut self, store: &Store, now: Instant, told: &mut Vec<Told>) {
        if self.is_due(now) {
            match store.good(&self.place) {
                Ok(Some(good)) => self.compare(store, &good, now, told),
                // What there is to say about that was said when it was met.
                Ok(None) => self.damage = None,
                Err(error) => {
                    self.state_fails(store, &error, told);
                    self.retry(store, now);
                }
            }
        }
        if self.suspected.is_some_and(|until| now >= until) {
            (self.suspected, self.linked) = (None, false);
        }
    }

    /// Tries it again later.
    fn retry(&mut self, store: &Store, now: Instant) {
        let damage = self.damage.get_or_insert(Damage { met: true, tries: 0, next: now, pause: RETRY[0] });
        damage.tries = damage.tries.saturating_add(1);
        damage.next = now + damage.pause;
        damage.pause = (damage.pause * 2).min(RETRY[1]);
        if damage.met {
            self.mark(store, Mark::Damaged);
        }
    }

    fn is_undamaged(&mut self, store: &Store) {
        if self.damage.take().is_some_and(|damage| damage.met)
            && let Err(error) = store.unmark(&self.place, Mark::Damaged)
        {
            complain(&error);
        }
        (self.reported, self.missing, self.seen) = (None, None, Seen::Good);
    }

    fn compare(&mut self, store: &Store, good: &Copy, now: Instant, told: &mut Vec<Told>) {
        let start = Instant::now();
        let found = Copy::take(&self.place);
        let aliased = self.linked && fs::symlink_metadata(&self.place).is_ok_and(|meta| meta.nlink() > 1);
        if !aliased
            && let Ok(Some(found)) = &found
            && found == good
        {
            if self.damage.is_some() {
                self.is_right(found, told);
                self.is_undamaged(store);
            }
            return;
        }
        let met = self.damage.is_none_or(|damage| damage.met);
        if !met && matches!(found, Ok(Some(_))) {
            // It was gone at the start and has been made anew by an administrator, which is reported as a difference.
            (self.damage, self.reported, self.missing) = (None, None, None);
            return;
        }
        let kept = match &found {
            Ok(Some(found)) => Some(store.evidence(&self.place, found).map_err(|error| error.to_string())),
            Ok(None) => None,
            Err(error) => Some(Err(error.to_string())),
        };
        let mut restored = restore::restore(&self.place, good);
        let mut unlocked = Vec::new();
        // Root alone can set these flags. Where nothing was met an administrator may have wanted them.
        if met && restored.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            unlocked = obstacle::unlock(&self.place);
            if !unlocked.is_empty() {
                restored = restore::restore(&self.place, good);
            }
        }
        let mut details = vec![("good_sha256", Value::from(good.digest()))];
        if let Ok(Some(found)) = &found {
            details.push(("evil_sha256", found.digest().into()));
        }
        if !unlocked.is_empty() {
            details.push(("flags_removed", json!(unlocked)));
        }
        let harm = if met { "came to harm" } else { "was gone when the guard started" };
        let evidence_path = kept.as_ref().and_then(|kept| kept.as_ref().ok()).and_then(Option::as_ref).cloned();
        details.extend(kept.map(evidence));
        let path = self.place.display().to_string();
        match restored {
            Ok(aside) => {
                details.extend(aside.iter().map(|aside| ("aside", aside.display().to_string().into())));
                details.push(("heal_us", u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).into()));
                let mut message = format!("{path} {harm} and is healed");
                if let Some(damage) = self.damage.filter(|damage| damage.tries > 0) {
                    details.push(("tries", (damage.tries + 1).into()));
                    message = format!("{message}, at try {}", damage.tries + 1);
                }
                if !unlocked.is_empty() {
                    message = format!(
                        "{message}, after the flags that kept it from that were removed ({})",
                        unlocked.join(", ")
                    );
                }
                if let Some(kept) = evidence_path {
                    message = format!("{message}; what it had become is kept in {}", kept.display());
                }
                if !met {
                    let command = quoted(&self.place);
                    message = format!(
                        "{message}; if it is not wanted any more remove it, then `flowwarden accept {command}`"
                    );
                }
                // Last: nothing waits for it.
                details.extend(found.ok().flatten().and_then(|found| diff(&self.place, good, &found)));
                // Its second name leads to a file that is no longer protected, and no longer used.
                self.linked = false;
                self.is_undamaged(store);
                told.push(self.tell(Outcome::Restored, message, details));
            }
            Err(error) => {
                if self.damage.is_none() || met {
                    self.damage.get_or_insert(Damage { met, tries: 0, next: now, pause: RETRY[0] });
                }
                let obstacle = Obstacle::of_restoring(&self.place, good, &error);
                details.extend(found.ok().flatten().and_then(|found| diff(&self.place, good, &found)));
                details.push(("os_error", error.to_string().into()));
                let message = format!("{path} {harm} and cannot be healed: {}", obstacle.why);
                self.fail(obstacle.why.clone(), &message, &obstacle, details, told);
                self.retry(store, now);
            }
        }
    }

    fn mark(&self, store: &Store, mark: Mark) {
        if let Err(error) = store.mark(&self.place, mark) {
            complain(&error);
        }
    }

    fn tell(&self, outcome: Outcome, message: String, details: Vec<(&'static str, Value)>) -> Told {
        let mut details: Map<_, _> = details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.insert("instance".to_owned(), json!(self.file.instance));
        details.insert("rule".to_owned(), json!(self.file.rule));
        Told { file: Healed { path: self.place.clone(), ..self.file.clone() }, outcome, message, details }
    }
}

/// Where a tampered copy is kept, or why it is not.
fn evidence<E: ToString>(kept: Result<Option<PathBuf>, E>) -> (&'static str, Value) {
    match kept {
        Ok(Some(kept)) => ("evidence", kept.display().to_string().into()),
        Ok(None) => ("evidence", Value::Null),
        Err(error) => ("evidence_error", error.to_string().into()),
    }
}
