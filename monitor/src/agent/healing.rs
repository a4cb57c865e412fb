//! Drives healing: when baselines are taken, which operations matched meanwhile, and what is reported.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

use monitor_common::{
    Access, Verdict,
    event::{Event, FLAG_FAILED, FLAG_FS_PATH, FLAG_OBSERVED, HEALS_ALL, Hook},
};

use super::{Agent, apply::Cause, say::say, trouble::Task};
use crate::{
    heal::{self, Act, Candidate, Healer},
    kernel::enforcer::Enforcer,
    pipeline::Matched,
    record::enrich::Names,
};
use journal::{ocsf::Stage, text::terminal};
use policy::{
    compile::Watched,
    settle::{Ages, MADE, Settling},
};

/// Size of the ring buffer, as in the `maps.rs` of the kernel programs.
const RING_BYTES: usize = 2 << 20;
/// Reading this many records empties the ring buffer of all records that were waiting.
const WAITING: usize = RING_BYTES / size_of::<Event>();

/// The announcement of a file whose rules are in force.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) stage: Stage,
    pub(super) path: PathBuf,
    /// Text before [`MADE`].
    pub(super) message: String,
}

/// Passes a matched operation to the healer. Denied operations change no file.
pub(super) fn note(healer: &mut Healer, names: &impl Names, matched: &Matched) {
    let Matched { record, instance, rule, .. } = matched;
    if record.wanted < Verdict::Deny || record.verdict == Verdict::Deny {
        return;
    }
    let (flags, access) = (record.event.flags, Access::from_bits(record.event.access));
    // A path that counts from the root of another file system is another file here.
    let known = |path: &&Vec<u8>| flags & FLAG_FS_PATH == 0 && path.starts_with(b"/");
    let path = |path: Option<&Vec<u8>>| path.filter(known).map(|path| PathBuf::from(OsStr::from_bytes(path)));
    let (first, second) = (path(Some(&record.path)), path(record.other.as_ref()));
    let event = &record.event;
    let healing = event.healing.iter().filter(|&&index| index != 0 && index != HEALS_ALL);
    let rules: Vec<_> = healing.map(|&index| names.rule(event.epoch, index).id).chain([rule.clone()]).collect();
    let act = Act {
        instance,
        rules: &rules,
        all: event.healing.contains(&HEALS_ALL),
        paths: [first.as_deref(), second.as_deref()],
        changes: access.bits() & Access::CHANGES.bits() != 0 && flags & FLAG_FAILED == 0,
        links: record.hook == Hook::Link,
        removes: access.bits() & (Access::DELETE.union(Access::RENAME)).bits() != 0,
        observed: flags & FLAG_OBSERVED != 0,
    };
    healer.met(&act, Instant::now());
}

impl<E: Enforcer> Agent<E> {
    /// Takes baselines of settled files, then announces their protection. Their rules are in force.
    ///
    /// Records until after a file was copied are read before the copy becomes a baseline.
    pub(super) fn settle(&mut self) {
        if self.events.is_none() {
            return;
        }
        // Without the count of lost records no copy becomes a baseline and no file is announced; the next tick retries.
        let Some(lost) = self.lost() else { return };
        let candidates = self.candidates(lost);
        if !candidates.is_empty() {
            self.take_records(WAITING);
            let Some(lost) = self.lost() else { return };
            self.healer.keep(candidates, lost, Instant::now());
        }
        self.report_healing();
        for Made { stage, path, message } in std::mem::take(&mut self.made) {
            let lacks =
                if self.healer.lacks_baseline(&path) { ", and has no baseline to be restored from" } else { "" };
            self.tell_of(stage, &path, &format!("{message}{lacks}: {MADE}"));
        }
    }

    fn candidates(&mut self, lost: u64) -> Vec<Candidate> {
        let (watched, settling) = (&self.in_force.watched, &mut self.settling);
        self.healer.candidates(|path, place| is_made(watched, settling, path, place), lost)
    }

    /// Number of lost records; `None` if it cannot be read.
    fn lost(&mut self) -> Option<u64> {
        let counters = self.kernel.counters();
        self.note(Task::Counters, &counters.as_ref().map(drop));
        counters.ok().map(|counters| counters.iter().map(|it| it.lost).sum())
    }

    /// Takes baselines, and reports files that differ from theirs.
    pub(super) fn look_at_healed(&mut self) {
        self.settle();
        let (watched, settling) = (&self.in_force.watched, &mut self.settling);
        self.healer.look(|path, place| is_made(watched, settling, path, place), Instant::now());
        self.report_healing();
    }

    /// Restores modified files.
    pub(super) fn heal(&mut self) {
        let now = Instant::now();
        if !self.healer.is_busy(now) {
            return;
        }
        self.close(now);
        self.healer.heal(now);
        let reports = self.healer.reports();
        let restored = reports.iter().filter(|report| report.outcome == heal::Outcome::Restored);
        let mut restored: Vec<_> = restored.map(|report| report.file.path.clone()).collect();
        let healer = &self.healer;
        restored.extend(self.host.expected.extract_if(.., |path| !healer.is_damaged(path)));
        for path in &restored {
            self.settling.put_back(path);
        }
        // A file is reported as restored when its rules are in force for the new file.
        if !restored.is_empty() {
            self.keep_up();
        }
        self.report(&reports);
    }

    /// Puts rules in force for files that are about to be restored, without a settling time: no process of the instance creates
    /// them.
    fn close(&mut self, now: Instant) {
        let waits = |path: &Path| self.in_force.watched.iter().any(|watched| watched.waits && watched.path == path);
        let due = self.healer.due(now, waits);
        // A failure is not retried at each tick.
        if due.iter().all(|path| self.host.expected.contains(path)) {
            return;
        }
        self.host.expected.extend(due);
        let closed = self.apply(self.in_force.config.clone(), Cause::Changed);
        self.note(Task::Renew, &closed);
    }

    fn report_healing(&mut self) {
        let reports = self.healer.reports();
        self.report(&reports);
    }

    fn report(&mut self, all: &[heal::HealingReport]) {
        for report in all {
            say(&terminal::plain(report.message.as_bytes()));
            self.pipeline.response(heal::event::healing(report));
        }
    }
}

/// Whether a file exists, has settled, and its rules are in force; for a symbolic link, also its target.
fn is_made(watched: &[Watched], settling: &mut Settling, path: &Path, place: &Path) -> bool {
    let holds = watched.iter().any(|it| it.path == path && it.id.is_some() && !it.waits);
    let identity = |path: &Path| fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let own = identity(path);
    let place = if own.is_some() && identity(place) == own { path } else { place };
    settling.is_made(place, Ages::of(place), Instant::now()) && holds
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use monitor_common::verdict::Sensor;
    use zerocopy::FromBytes as _;

    use super::*;
    use crate::{
        heal::Healed,
        record::{decode::Record, enrich::tests::Plain},
    };
    use journal::state::State;

    /// A record of a write that was to be denied, and was met by killing.
    fn matched(path: &Path, change: impl FnOnce(&mut Record)) -> Matched {
        let mut event = Event::read_from_bytes(&[0; size_of::<Event>()]).unwrap();
        event.access = Access::WRITE.bits();
        let mut record = Record {
            event,
            hook: Hook::Open,
            sensor: Sensor::Tracepoint,
            verdict: Verdict::Kill,
            wanted: Verdict::Deny,
            path: path.as_os_str().as_bytes().to_owned(),
            other: None,
            text: Vec::new(),
        };
        change(&mut record);
        let (instance, rule, sentence, uid) = ("a".to_owned(), "r".to_owned(), String::new(), Arc::from(""));
        Matched { record, instance, rule, sentence, uid, nth: 1, incident: None }
    }

    /// Whether the record keeps the file from having a baseline, and whether it is suspected once it has one.
    fn noted(change: impl Fn(&mut Record)) -> (bool, bool) {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap().join("settings.js");
        fs::write(&path, "good").unwrap();
        let mut healer = Healer::open(&State::open(&directory.path().join("state")).unwrap()).unwrap();
        let file = Healed { instance: "a".to_owned(), rule: "r".to_owned(), path: path.clone() };
        healer.guard(vec![file], true);
        let now = Instant::now();
        let candidates = healer.candidates(|_, _| true, 0);
        note(&mut healer, &Plain, &matched(&path, &change));
        healer.keep(candidates, 0, now);
        let doubted = healer.lacks_baseline(&path);
        heal::accept(&State::open(&directory.path().join("state")).unwrap(), &path).unwrap();
        fs::write(&path, "tampered").unwrap();
        note(&mut healer, &Plain, &matched(&path, &change));
        healer.heal(Instant::now());
        (doubted, fs::read_to_string(&path).unwrap() == "good")
    }

    #[test]
    fn what_was_not_denied_and_can_change_a_file_is_noted() {
        assert_eq!(noted(|_| {}), (true, true));
        assert_eq!(noted(|record| record.verdict = Verdict::Log), (true, true), "a fallback");
        assert_eq!(noted(|record| record.verdict = Verdict::Deny), (false, false));
        assert_eq!(noted(|record| record.wanted = Verdict::Log), (false, false), "a window, or a rule that only logs");
        assert_eq!(noted(|record| record.event.flags |= FLAG_OBSERVED), (true, false));
        assert_eq!(noted(|record| record.event.flags |= FLAG_FAILED), (false, true), "the system has refused it");
        assert_eq!(noted(|record| record.event.access = Access::READ.bits()), (false, true));
        for access in [Access::CREATE, Access::DELETE, Access::RENAME, Access::LINK, Access::ATTR] {
            assert_eq!(noted(|record| record.event.access = access.bits()), (true, true), "{access:?}");
        }
    }

    #[test]
    fn a_path_of_another_file_system_is_no_other_file_of_the_rule() {
        assert_eq!(noted(|record| (record.event.flags, record.path) = (FLAG_FS_PATH, b"/x".to_vec())), (true, true));
        assert_eq!(noted(|record| record.path = b"/another/name".to_vec()), (true, true));
    }
}
