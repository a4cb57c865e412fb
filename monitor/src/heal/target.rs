//! A file that is healed, at one path: its state, and what was reported about it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::{
    GONE, Healed, HealingReport, Outcome, RETRY, WATCH,
    copy::Copy,
    diff,
    obstacle::{self, Obstacle, quoted},
    restore,
    store::{Mark, Store, StoreError},
};
use journal::{state::StateError, stdio::complain};

/// State of a file at the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastState {
    Unknown,
    Baseline,
    Differs,
    Gone,
}

/// A file that has to be restored and could not be restored yet.
#[derive(Clone, Copy, Debug)]
struct Damage {
    /// A rule matched the operation; otherwise the file was missing when the guard started.
    matched: bool,
    /// Number of failed attempts.
    tries: u32,
    next: Instant,
    pause: Duration,
}

/// A rule matched an operation on a file that has no baseline yet.
#[derive(Clone, Copy, Debug)]
struct EarlyMatch {
    until: Instant,
    /// The operation removed a name, so the file existed.
    removes: bool,
    /// Earliest time of the next report.
    report: Instant,
}

/// A file that is healed, at one path.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: Healed,
    /// The path without symbolic links in its directories.
    pub(super) place: PathBuf,
    /// Number of lost records when the file was first found without a baseline; `None` if it was not found.
    pub(super) lost_before: Option<u64>,
    /// The content may come from an attacker. Also set where the mark could not be stored.
    pub(super) untrusted: bool,
    /// End of the time in which damage is expected.
    suspected: Option<Instant>,
    /// The file is about to get another hard link, through which it can still be written.
    linked: bool,
    early_match: Option<EarlyMatch>,
    damage: Option<Damage>,
    seen: LastState,
    missing: Option<Instant>,
    /// Key of the failure that was reported last; cleared when the file matches its baseline.
    reported: Option<String>,
}

impl Target {
    /// A target is `untrusted` if a rule matched an operation on it earlier.
    pub(super) fn new(file: Healed, place: PathBuf, untrusted: bool, store: &Store) -> Self {
        let target = Self {
            file,
            place,
            lost_before: None,
            untrusted,
            suspected: None,
            linked: false,
            early_match: None,
            damage: None,
            seen: LastState::Unknown,
            missing: None,
            reported: None,
        };
        if untrusted {
            target.mark(store, Mark::Unaccepted);
        }
        target
    }

    /// Resumes a restore that an earlier run could not complete, unless the policy only observes.
    pub(super) fn recall(&mut self, store: &Store, enforce: bool) {
        if !enforce {
            (self.damage, self.suspected) = (None, None);
        } else if self.damage.is_none() && store.has(&self.place) && store.is_marked(&self.place, Mark::Damaged) {
            self.damage = Some(Damage { matched: true, tries: 0, next: Instant::now(), pause: RETRY[0] });
        }
    }

    /// Ends the time in which damage is expected.
    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        self.suspected = None;
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// Schedules the restore of a file that has a baseline and is missing when the guard starts.
    pub(super) fn begin(&mut self, store: &Store, now: Instant) {
        let gone = matches!(fs::symlink_metadata(&self.place), Err(error) if error.kind() == io::ErrorKind::NotFound
            || error.kind() == io::ErrorKind::NotADirectory);
        if gone && self.damage.is_none() && store.has(&self.place) {
            let matched = self.suspected.is_some();
            self.damage = Some(Damage { matched, tries: 0, next: now, pause: RETRY[0] });
        }
    }

    pub(super) fn suspect(&mut self, links: bool, now: Instant) {
        self.suspected = Some(now + WATCH);
        self.linked |= links;
        if let Some(damage) = &mut self.damage {
            (damage.matched, damage.next, damage.pause) = (true, now, RETRY[0]);
        }
    }

    /// Records an operation that may have changed the file before its baseline is taken.
    pub(super) fn note_early_match(&mut self, store: &Store, removes: bool, now: Instant) {
        if store.has(&self.place) {
            return;
        }
        let early = self.early_match.get_or_insert(EarlyMatch { until: now, removes, report: now });
        early.until = now + WATCH;
        early.removes |= removes;
    }

    /// Whether an operation or a restore is pending, so that [`Target::check`] has to wait.
    pub(super) fn is_busy(&self) -> bool {
        self.suspected.is_some() || self.early_match.is_some() || self.damage.is_some()
    }

    pub(super) fn is_due_within(&self, now: Instant, time: Duration) -> bool {
        self.suspected.is_some()
            || self.early_match.is_some()
            || self.damage.is_some_and(|damage| damage.next <= now + time)
    }

    /// Whether a check is due now, by the matched operations and the time of the last attempt.
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

    /// Checks what an operation that matched before the baseline has done, and reports it.
    pub(super) fn check_early_match(&mut self, store: &Store, now: Instant, reports: &mut Vec<HealingReport>) {
        let Some(early) = self.early_match else { return };
        if store.has(&self.place) {
            self.early_match = None;
            return;
        }
        let found = Copy::take(&self.place);
        let there = !matches!(found, Ok(None));
        // A failed attempt to create the file does not touch it.
        let touched = there || self.lost_before.is_some() || early.removes;
        if touched {
            self.untrusted = true;
            self.mark(store, Mark::Unaccepted);
            if now >= early.report || now >= early.until {
                self.early_match = Some(EarlyMatch { report: now + WATCH, ..early });
                let why = format!(
                    "rule {} matched an operation that may have changed it before its baseline was taken",
                    self.file.rule
                );
                self.has_no_baseline(store, &why, &found, reports);
            }
        }
        if now >= early.until {
            self.early_match = None;
        }
    }

    /// Reports that records were lost since the file was created. They may have been about it.
    pub(super) fn report_lost_records(&mut self, store: &Store, reports: &mut Vec<HealingReport>) {
        self.untrusted = true;
        self.mark(store, Mark::Unaccepted);
        let why = "records were lost before its baseline was taken, and may have been about it";
        self.has_no_baseline(store, why, &Copy::take(&self.place), reports);
    }

    /// Reports content that an operation may have changed before, in this run or in an earlier one.
    pub(super) fn report_unaccepted(&mut self, store: &Store, reports: &mut Vec<HealingReport>) {
        if self.reported.is_none() {
            let why = "its content may come from an attacker and has not been accepted";
            self.has_no_baseline(store, why, &Copy::take(&self.place), reports);
        }
    }

    fn has_no_baseline(
        &mut self,
        store: &Store,
        why: &str,
        found: &io::Result<Option<Copy>>,
        reports: &mut Vec<HealingReport>,
    ) {
        let (path, command) = (self.place.display(), quoted(&self.place));
        let mut details = Vec::new();
        let (message, fix) = match found {
            Ok(None) => {
                let fix = format!("restore the file by hand, then `flowwarden accept {command}`");
                (format!("{path} is missing and cannot be restored: {why}"), fix)
            }
            found => {
                if let Ok(Some(now)) = found {
                    details.push(("sha256", now.digest().into()));
                    details.push(evidence(store.evidence(&self.place, now)));
                }
                let fix = format!("review the file, correct it, then `flowwarden accept {command}`");
                (format!("{path} has no baseline and cannot be restored when it is damaged: {why}"), fix)
            }
        };
        let key =
            format!("{}{}", found.as_ref().ok().and_then(Option::as_ref).map_or_else(String::new, Copy::digest), fix);
        self.fail(key, &message, &Obstacle::new(why, fix), details, reports);
    }

    /// Reports that the file was removed before it settled.
    pub(super) fn report_removed_unsettled(&mut self, reports: &mut Vec<HealingReport>) {
        let command = quoted(&self.place);
        let why = "it was removed before its baseline was taken";
        let fix = format!("restore the file by hand if it is needed: `ls -l {command}`");
        let message = format!("{} is missing and cannot be restored: {why}", self.place.display());
        self.fail("removed before it settled".to_owned(), &message, &Obstacle::new(why, fix), Vec::new(), reports);
        // The next file of this name is another one.
        self.reported = None;
    }

    /// Reports why no copy of the file can be taken.
    pub(super) fn report_uncopyable(&mut self, error: &io::Error, reports: &mut Vec<HealingReport>) {
        let obstacle = Obstacle::of_copying(&self.place, &self.file.rule, error);
        let message = format!("{} cannot be healed: {}", self.place.display(), obstacle.why);
        self.fail(obstacle.why.clone(), &message, &obstacle, Vec::new(), reports);
    }

    /// Stores a copy as the baseline.
    pub(super) fn keep(&mut self, store: &Store, copy: &Copy, reports: &mut Vec<HealingReport>) {
        let path = self.place.display();
        match store.keep(&self.place, copy) {
            Ok(()) => {
                let message = format!("baseline of {path} stored");
                reports.push(self.report(Outcome::Kept, message, vec![("sha256", copy.digest().into())]));
                (self.seen, self.reported) = (LastState::Baseline, None);
            }
            Err(error) => self.state_fails(store, &error, reports),
        }
    }

    fn state_fails(&mut self, store: &Store, error: &StoreError, reports: &mut Vec<HealingReport>) {
        let path = self.place.display();
        let obstacle = if let StoreError::Broken(_) = error {
            let fix = format!("review the file, then `flowwarden accept {}`", quoted(&self.place));
            Obstacle::new("its baseline cannot be read", fix)
        } else {
            let source = if let StoreError::State(StateError::Io { source, .. }) = error { Some(source) } else { None };
            Obstacle::of_state(store.directory(), error, source)
        };
        let message = format!("{path} cannot be healed: {}", obstacle.why);
        self.fail(obstacle.why.clone(), &message, &obstacle, vec![("state_error", error.to_string().into())], reports);
    }

    /// Reports a failure once, until its cause changes or the file matches its baseline.
    fn fail(
        &mut self,
        key: String,
        message: &str,
        obstacle: &Obstacle,
        mut details: Vec<(&'static str, Value)>,
        reports: &mut Vec<HealingReport>,
    ) {
        if self.reported.as_ref() == Some(&key) {
            return;
        }
        self.reported = Some(key);
        details.push(("error", obstacle.why.as_str().into()));
        details.push(("fix", obstacle.fix.as_str().into()));
        reports.push(self.report(Outcome::Failed, format!("{message}; fix: {}", obstacle.fix), details));
    }

    /// Compares the file with its baseline and reports a change of state.
    pub(super) fn check(&mut self, store: &Store, now: Instant, reports: &mut Vec<HealingReport>) {
        let good = match store.good(&self.place) {
            Ok(Some(good)) => good,
            Ok(None) => return,
            Err(error) => return self.state_fails(store, &error, reports),
        };
        let (path, command) = (self.place.display(), quoted(&self.place));
        let found = match Copy::take(&self.place) {
            Ok(Some(found)) => found,
            Ok(None) => {
                let since = *self.missing.get_or_insert(now);
                // A missing file may be about to be replaced.
                if self.seen != LastState::Gone && now.saturating_duration_since(since) >= GONE {
                    let message = format!(
                        "{path} is missing; its baseline is kept: `flowwarden restore {command}` restores it, `flowwarden \
                         accept {command}` drops the baseline"
                    );
                    reports.push(self.report(Outcome::Gone, message, vec![("baseline_sha256", good.digest().into())]));
                    self.seen = LastState::Gone;
                }
                return;
            }
            Err(error) => return self.report_uncopyable(&error, reports),
        };
        (self.missing, self.reported) = (None, None);
        let bad = matches!(self.seen, LastState::Differs | LastState::Gone);
        if found == good {
            if bad {
                self.report_match(&found, reports);
            }
            self.seen = LastState::Baseline;
            return;
        }
        if self.seen != LastState::Differs {
            let message = format!(
                "{path} differs from its baseline: `flowwarden accept {command}` makes it the baseline, `flowwarden restore \
                 {command}` reverts the change"
            );
            let mut details = vec![("sha256", found.digest().into()), ("baseline_sha256", good.digest().into())];
            details.extend(diff(&self.place, &good, &found));
            reports.push(self.report(Outcome::Differs, message, details));
        }
        self.seen = LastState::Differs;
    }

    fn report_match(&mut self, found: &Copy, reports: &mut Vec<HealingReport>) {
        let message = format!("{} matches its baseline again", self.place.display());
        reports.push(self.report(Outcome::Kept, message, vec![("sha256", found.digest().into())]));
    }

    /// Compares the file with its baseline if damage is expected, and restores it if it differs.
    pub(super) fn heal(&mut self, store: &Store, now: Instant, reports: &mut Vec<HealingReport>) {
        if self.is_due(now) {
            match store.good(&self.place) {
                Ok(Some(good)) => self.compare(store, &good, now, reports),
                // Reported when the operation matched.
                Ok(None) => self.damage = None,
                Err(error) => {
                    self.state_fails(store, &error, reports);
                    self.retry(store, now);
                }
            }
        }
        if self.suspected.is_some_and(|until| now >= until) {
            (self.suspected, self.linked) = (None, false);
        }
    }

    /// Schedules the next attempt with backoff.
    fn retry(&mut self, store: &Store, now: Instant) {
        let damage = self.damage.get_or_insert(Damage { matched: true, tries: 0, next: now, pause: RETRY[0] });
        damage.tries = damage.tries.saturating_add(1);
        damage.next = now + damage.pause;
        damage.pause = (damage.pause * 2).min(RETRY[1]);
        if damage.matched {
            self.mark(store, Mark::Damaged);
        }
    }

    fn mark_restored(&mut self, store: &Store) {
        if self.damage.take().is_some_and(|damage| damage.matched)
            && let Err(error) = store.unmark(&self.place, Mark::Damaged)
        {
            complain(&error);
        }
        (self.reported, self.missing, self.seen) = (None, None, LastState::Baseline);
    }

    fn compare(&mut self, store: &Store, good: &Copy, now: Instant, reports: &mut Vec<HealingReport>) {
        let start = Instant::now();
        let found = Copy::take(&self.place);
        let aliased = self.linked && fs::symlink_metadata(&self.place).is_ok_and(|meta| meta.nlink() > 1);
        if !aliased
            && let Ok(Some(found)) = &found
            && found == good
        {
            if self.damage.is_some() {
                self.report_match(found, reports);
                self.mark_restored(store);
            }
            return;
        }
        let matched = self.damage.is_none_or(|damage| damage.matched);
        if !matched && matches!(found, Ok(Some(_))) {
            // Missing at the start, and created again by an administrator: `check` reports the difference.
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
        // Only root can set these flags. Without a matched operation an administrator may have set them on purpose.
        if matched && restored.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            unlocked = obstacle::unlock(&self.place);
            if !unlocked.is_empty() {
                restored = restore::restore(&self.place, good);
            }
        }
        let mut details = vec![("baseline_sha256", Value::from(good.digest()))];
        if let Ok(Some(found)) = &found {
            details.push(("tampered_sha256", found.digest().into()));
        }
        if !unlocked.is_empty() {
            details.push(("flags_removed", json!(unlocked)));
        }
        let harm = if matched { "was modified" } else { "was missing when the guard started" };
        let evidence_path = kept.as_ref().and_then(|kept| kept.as_ref().ok()).and_then(Option::as_ref).cloned();
        details.extend(kept.map(evidence));
        let path = self.place.display().to_string();
        match restored {
            Ok(aside) => {
                details.extend(aside.iter().map(|aside| ("aside", aside.display().to_string().into())));
                details.push(("heal_us", u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).into()));
                let mut message = format!("{path} {harm} and has been restored");
                if let Some(damage) = self.damage.filter(|damage| damage.tries > 0) {
                    details.push(("tries", (damage.tries + 1).into()));
                    message = format!("{message} at attempt {}", damage.tries + 1);
                }
                if !unlocked.is_empty() {
                    message = format!("{message} after these flags were removed: {}", unlocked.join(", "));
                }
                if let Some(kept) = evidence_path {
                    message = format!("{message}; the tampered copy is kept in {}", kept.display());
                }
                if !matched {
                    let command = quoted(&self.place);
                    message =
                        format!("{message}; if it is no longer needed, remove it, then `flowwarden accept {command}`");
                }
                // Last, since nothing waits for the diff.
                details.extend(found.ok().flatten().and_then(|found| diff(&self.place, good, &found)));
                // The other hard link leads to the replaced file, which is no longer in use.
                self.linked = false;
                self.mark_restored(store);
                reports.push(self.report(Outcome::Restored, message, details));
            }
            Err(error) => {
                if self.damage.is_none() || matched {
                    self.damage.get_or_insert(Damage { matched, tries: 0, next: now, pause: RETRY[0] });
                }
                let obstacle = Obstacle::of_restoring(&self.place, good, &error);
                details.extend(found.ok().flatten().and_then(|found| diff(&self.place, good, &found)));
                details.push(("os_error", error.to_string().into()));
                let message = format!("{path} {harm} and cannot be restored: {}", obstacle.why);
                self.fail(obstacle.why.clone(), &message, &obstacle, details, reports);
                self.retry(store, now);
            }
        }
    }

    fn mark(&self, store: &Store, mark: Mark) {
        if let Err(error) = store.mark(&self.place, mark) {
            complain(&error);
        }
    }

    fn report(&self, outcome: Outcome, message: String, details: Vec<(&'static str, Value)>) -> HealingReport {
        let mut details: Map<_, _> = details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.insert("instance".to_owned(), json!(self.file.instance));
        details.insert("rule".to_owned(), json!(self.file.rule));
        HealingReport { file: Healed { path: self.place.clone(), ..self.file.clone() }, outcome, message, details }
    }
}

/// The path of a tampered copy, or why it could not be kept.
fn evidence<E: ToString>(kept: Result<Option<PathBuf>, E>) -> (&'static str, Value) {
    match kept {
        Ok(Some(kept)) => ("evidence", kept.display().to_string().into()),
        Ok(None) => ("evidence", Value::Null),
        Err(error) => ("evidence_error", error.to_string().into()),
    }
}
