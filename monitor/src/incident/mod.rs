//! Incidents: what belongs together among what was met is told once, counted, and told again while it goes on.
//!
//! Every event with a verdict belongs to exactly one incident and names it, so the counts of all incidents add up to the
//! events. A rule says what belongs together; where no rule has spoken, what was reached does. What was stopped, what was
//! only watched, and what a maintenance window let through are incidents of their own.

pub mod finding;
pub mod mend;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use monitor_common::{
    Verdict,
    event::FLAG_MAINTENANCE,
    policy::{Class, Maintenance},
};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::record::{activity::Activity, decode::Record, enrich::Enriched};
use journal::{chain::Mark, ocsf::address, text::terminal::shown};

/// Most incidents that are open at once; what comes beyond is counted in one.
pub const MOST_OPEN: usize = 512;
/// Most incidents for what one class default has met; what comes beyond is counted in one.
const MOST_OF_A_DEFAULT: usize = 8;
/// Most things that an incident names.
const MOST_NAMED: usize = 8;
/// An incident is over when nothing more has come for this long.
pub const QUIET: Duration = Duration::from_mins(5);
/// How soon one that goes on is told again; each time it takes twice as long,
const FIRST_UPDATE: Duration = Duration::from_secs(10);
/// up to this.
const LAST_UPDATE: Duration = Duration::from_hours(1);
/// Id of the rule that stands for all others when there are too many incidents.
pub const OVERFLOW: &str = "(overflow)";

/// What became of the operations of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// They were denied, or who tried was killed.
    Stopped,
    /// The policy wants them stopped, and they were only logged.
    Alert,
    /// They were logged, as the policy wants.
    Logged,
    /// A maintenance window has let them through.
    Lifted,
}

impl Outcome {
    fn of(record: &Record) -> Self {
        if record.verdict >= Verdict::Deny {
            Self::Stopped
        } else if record.event.flags & FLAG_MAINTENANCE != 0 {
            Self::Lifted
        } else if record.wanted >= Verdict::Deny {
            Self::Alert
        } else {
            Self::Logged
        }
    }

    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Alert => "alert",
            Self::Logged => "logged",
            Self::Lifted => "lifted",
        }
    }
}

/// What is told of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has begun.
    Create,
    /// It goes on, or has become graver.
    Update,
    /// It is over: nothing more has come for a while.
    Close,
    /// The guard ends, and counts no more.
    Stop,
}

/// What events of one incident have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    instance: String,
    rule: String,
    outcome: Outcome,
    /// Where no rule has spoken: what was reached. Empty for what is beyond the bound.
    object: String,
}

/// An incident.
#[derive(Clone, Debug)]
pub struct Incident {
    /// The same for as long as it is open.
    pub uid: Arc<str>,
    /// Name of the instance; empty for the one that stands for many.
    pub instance: String,
    /// Id of the rule, or [`OVERFLOW`].
    pub rule: String,
    /// What the rule says.
    pub rule_text: String,
    /// ATT&CK techniques that the rule is about.
    pub techniques: Vec<String>,
    /// The window in which the rule only logs.
    pub maintenance: Option<Maintenance>,
    /// What kind of operation began it.
    pub class: Option<Class>,
    /// What became of them.
    pub outcome: Outcome,
    /// The gravest verdict.
    pub verdict: Verdict,
    /// How many events there were with each verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// How many there were.
    pub count: u64,
    /// How many of them came since it was told last.
    pub new: u64,
    /// When the first one was, in milliseconds since 1970.
    pub first_ms: i64,
    /// When the last one was.
    pub last_ms: i64,
    /// Files, programs and addresses, the first of them.
    pub objects: BTreeSet<String>,
    /// There were more of them.
    pub more_objects: bool,
    /// The first event as a sentence.
    pub example: String,
    /// Where the first event's id is noted.
    pub mark: Mark,
    /// Who it was and what was reached, of the first event.
    pub evidence: Value,
    seen: Instant,
    due: Instant,
    wait: Duration,
}

/// Which incident an event belongs to.
#[derive(Debug)]
pub struct Noted<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// What is to be told of it right away.
    pub phase: Option<Phase>,
}

/// The incidents that are open.
#[derive(Debug, Default)]
pub struct Incidents {
    open: BTreeMap<Key, Incident>,
}

impl Incidents {
    /// Counts an event, which the journal has as `activity`.
    pub fn note(&mut self, enriched: &Enriched, activity: &Activity<'_>, now: Instant) -> Noted<'_> {
        let record = &enriched.record;
        let key = self.key(enriched);
        let many = key.rule == OVERFLOW;
        let entry = self.open.entry(key);
        let created = matches!(entry, std::collections::btree_map::Entry::Vacant(_));
        let incident = entry.or_insert_with_key(|key| Incident {
            uid: uid(key, enriched.time_ms),
            instance: key.instance.clone(),
            rule: key.rule.clone(),
            rule_text: if many { String::new() } else { enriched.sentence.clone() },
            techniques: if many { Vec::new() } else { enriched.techniques.clone() },
            maintenance: if many { None } else { enriched.maintenance },
            class: record.hook.class(record.event.detail).filter(|_| !many),
            outcome: key.outcome,
            verdict: record.verdict,
            verdicts: BTreeMap::new(),
            count: 0,
            new: 0,
            first_ms: enriched.time_ms,
            last_ms: enriched.time_ms,
            objects: BTreeSet::new(),
            more_objects: false,
            example: activity.message().to_owned(),
            mark: Mark::default(),
            evidence: activity.evidence(),
            seen: now,
            due: now + FIRST_UPDATE,
            wait: FIRST_UPDATE,
        });
        let graver = record.verdict > incident.verdict;
        incident.count += 1;
        incident.new += 1;
        *incident.verdicts.entry(record.verdict.name()).or_default() += 1;
        incident.verdict = incident.verdict.max(record.verdict);
        incident.first_ms = incident.first_ms.min(enriched.time_ms);
        incident.last_ms = incident.last_ms.max(enriched.time_ms);
        incident.seen = now;
        let object = enriched.tunnel.as_ref().map_or_else(|| object(record), |tunnel| shown(tunnel.domain.as_bytes()));
        if !object.is_empty() && !incident.objects.contains(&object) {
            incident.more_objects |= incident.objects.len() >= MOST_NAMED;
            if !incident.more_objects {
                incident.objects.insert(object);
            }
        }
        let phase = match (created, graver) {
            (true, _) => Some(Phase::Create),
            (_, true) => Some(Phase::Update),
            _ => None,
        };
        Noted { incident, phase }
    }

    /// The incident that was told has nothing new now.
    pub fn told(&mut self, uid: &str) {
        if let Some(incident) = self.open.values_mut().find(|incident| *incident.uid == *uid) {
            incident.new = 0;
        }
    }

    /// What there is to tell of incidents that go on, and of those that are over, which are open no more.
    pub fn tick(&mut self, now: Instant) -> Vec<(Phase, Incident)> {
        let over = self.open.extract_if(.., |_, incident| now.saturating_duration_since(incident.seen) >= QUIET);
        let mut told: Vec<_> = over.map(|(_, incident)| (Phase::Close, incident)).collect();
        for incident in self.open.values_mut().filter(|incident| incident.due <= now) {
            incident.wait = LAST_UPDATE.min(incident.wait * 2);
            incident.due = now + incident.wait;
            if incident.new > 0 {
                told.push((Phase::Update, incident.clone()));
                incident.new = 0;
            }
        }
        told
    }

    /// All that are open, which are open no more: the guard ends.
    pub fn close(&mut self) -> Vec<(Phase, Incident)> {
        std::mem::take(&mut self.open).into_values().map(|incident| (Phase::Stop, incident)).collect()
    }

    /// Which incident an event belongs to; within the bounds, it need not be there yet.
    fn key(&self, enriched: &Enriched) -> Key {
        let record = &enriched.record;
        let of_rule = record.event.rule != 0;
        let mut key = Key {
            instance: enriched.instance.clone(),
            rule: enriched.rule.clone(),
            outcome: Outcome::of(record),
            object: match &enriched.tunnel {
                Some(tunnel) => tunnel.domain.clone(),
                None if of_rule => String::new(),
                None => place(record),
            },
        };
        if self.open.contains_key(&key) {
            return key;
        }
        if !key.object.is_empty() {
            let from = Key { object: String::new(), ..key.clone() };
            let same = |it: &Key| (&it.instance, &it.rule, it.outcome) == (&key.instance, &key.rule, key.outcome);
            if self.open.range(&from..).take_while(|(it, _)| same(it)).count() >= MOST_OF_A_DEFAULT {
                key = from;
            }
        }
        if self.open.len() >= MOST_OPEN && !self.open.contains_key(&key) {
            let (instance, object) = (String::new(), String::new());
            return Key { instance, rule: OVERFLOW.to_owned(), outcome: key.outcome, object };
        }
        key
    }
}

/// What was reached, for people.
fn object(record: &Record) -> String {
    let place = place(record);
    let port =
        if record.event.endpoint.port == 0 { record.event.endpoint.local_port } else { record.event.endpoint.port };
    match record.hook.class(record.event.detail) {
        Some(Class::Egress | Class::Ingress) if place.contains(':') => format!("[{place}]:{port}"),
        Some(Class::Egress | Class::Ingress) => format!("{place}:{port}"),
        _ => place,
    }
}

/// What was reached, as far as events without a rule are told apart by it.
fn place(record: &Record) -> String {
    match record.hook.class(record.event.detail) {
        Some(Class::Egress | Class::Ingress) => address(record.event.endpoint.address),
        _ => shown(&record.path),
    }
}

/// The first half is the same for the same thing in every run.
fn uid(key: &Key, first_ms: i64) -> Arc<str> {
    let Key { instance, rule, outcome, object } = key;
    let text = format!("{instance}\0{rule}\0{}\0{object}", outcome.name());
    let hash = digest(&SHA256, text.as_bytes());
    let hash = HEXLOWER.encode(hash.as_ref().get(..8).unwrap_or_default());
    format!("{hash}-{first_ms:x}").into()
}

#[cfg(test)]
pub(crate) mod tests {
    use monitor_common::event::{Endpoint, Event, Hook};
    use proptest::prelude::*;

    use super::*;
    use crate::record::{
        decode::{decode, tests::bytes},
        enrich::{Enricher, Names, RuleName},
    };

    struct Plain;

    impl Names for Plain {
        fn rule(&self, _: u32, index: u16) -> RuleName {
            RuleName::new(format!("rule-{index}"), "says so")
        }
        fn instance(&self, slot: u16) -> String {
            format!("plant-{slot}")
        }
    }

    /// An event of rule `rule`, of a default for 0.
    pub(crate) fn event(rule: u16, verdict: Verdict, path: &str, port: u16) -> Enriched {
        let hook = if path.is_empty() { Hook::Connect } else { Hook::Open };
        let address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, port.to_be_bytes()[0], port.to_be_bytes()[1]];
        let event = Event {
            hook: hook as u8,
            sensor: 1,
            verdict: verdict as u8,
            wanted: Verdict::Deny as u8,
            rule,
            tgid: 7,
            endpoint: Endpoint { address, port, protocol: 6, ..Endpoint::default() },
            ..Event::ZERO
        };
        let record = decode(&bytes(event, format!("{path}\0").as_bytes(), b"")).unwrap();
        Enricher::new("/sys/fs/cgroup".into()).enrich(record, &Plain)
    }

    fn note(incidents: &mut Incidents, event: &Enriched, now: Instant) -> (String, Option<Phase>) {
        let noted = incidents.note(event, &Activity::new(event, "x"), now);
        (noted.incident.uid.to_string(), noted.phase)
    }

    #[test]
    fn ten_thousand_equal_events_are_one_incident_with_the_right_count() {
        let (mut incidents, now) = (Incidents::default(), Instant::now());
        let event = event(3, Verdict::Deny, "settings.js", 0);
        let (uid, phase) = note(&mut incidents, &event, now);
        assert_eq!(phase, Some(Phase::Create));
        for _ in 1..10_000 {
            assert_eq!(note(&mut incidents, &event, now), (uid.clone(), None));
        }
        let closed = incidents.close();
        assert_eq!(closed.len(), 1);
        assert_eq!((closed[0].1.count, &*closed[0].1.uid), (10_000, uid.as_str()));
        assert_eq!(closed[0].1.verdicts["deny"], 10_000);
    }

    #[test]
    fn two_rules_are_two_incidents_and_so_are_two_outcomes() {
        let (mut incidents, now) = (Incidents::default(), Instant::now());
        for (rule, verdict) in [(3, Verdict::Deny), (4, Verdict::Deny), (3, Verdict::Log), (3, Verdict::Kill)] {
            note(&mut incidents, &event(rule, verdict, "settings.js", 0), now);
        }
        let closed = incidents.close();
        let found: Vec<_> = closed.iter().map(|(_, it)| (it.rule.as_str(), it.outcome, it.count)).collect();
        let (stopped, alert) = (Outcome::Stopped, Outcome::Alert);
        assert_eq!(found, [("rule-3", stopped, 2), ("rule-3", alert, 1), ("rule-4", stopped, 1)]);
    }

    #[test]
    fn one_that_becomes_graver_is_told_at_once() {
        let (mut incidents, now) = (Incidents::default(), Instant::now());
        note(&mut incidents, &event(3, Verdict::Deny, "a", 0), now);
        assert_eq!(note(&mut incidents, &event(3, Verdict::Kill, "a", 0), now).1, Some(Phase::Update));
        assert_eq!(note(&mut incidents, &event(3, Verdict::Deny, "a", 0), now).1, None);
        assert_eq!(incidents.close()[0].1.verdict, Verdict::Kill);
    }

    #[test]
    fn a_storm_is_told_at_widening_intervals_and_is_over_when_it_is_quiet() {
        let (mut incidents, start) = (Incidents::default(), Instant::now());
        let event = event(3, Verdict::Deny, "a", 0);
        let mut updates = Vec::new();
        for second in 0..4000 {
            let now = start + Duration::from_secs(second);
            note(&mut incidents, &event, now);
            for (phase, incident) in incidents.tick(now) {
                assert_eq!(phase, Phase::Update);
                updates.push((second, incident.count));
            }
        }
        assert_eq!(
            updates.iter().map(|(second, _)| *second).collect::<Vec<_>>(),
            [10, 30, 70, 150, 310, 630, 1270, 2550]
        );
        assert!(updates.iter().all(|(second, count)| count - 1 == *second));
        let end = start + Duration::from_secs(3999);
        assert!(
            incidents
                .tick(end + QUIET.saturating_sub(Duration::from_secs(1)))
                .iter()
                .all(|(phase, _)| *phase == Phase::Update)
        );
        let over = incidents.tick(end + QUIET);
        assert_eq!((over.len(), over[0].0, over[0].1.count), (1, Phase::Close, 4000));
        assert!(incidents.close().is_empty());
    }

    #[test]
    fn one_that_is_quiet_is_not_told_again() {
        let (mut incidents, start) = (Incidents::default(), Instant::now());
        let (uid, _) = note(&mut incidents, &event(3, Verdict::Deny, "a", 0), start);
        incidents.told(&uid);
        assert!(incidents.tick(start + Duration::from_mins(1)).is_empty());
    }

    #[test]
    fn where_no_rule_speaks_what_is_reached_is_told_apart_up_to_a_bound() {
        let (mut incidents, now) = (Incidents::default(), Instant::now());
        for port in 1..=100 {
            note(&mut incidents, &event(0, Verdict::Log, "", port), now);
        }
        let closed = incidents.close();
        assert_eq!(closed.len(), MOST_OF_A_DEFAULT + 1);
        let many = closed.iter().map(|(_, it)| it).find(|it| it.count > 1).unwrap();
        assert_eq!(many.count, 100 - MOST_OF_A_DEFAULT as u64);
        assert!(many.more_objects && many.objects.len() == MOST_NAMED, "{:?}", many.objects);
        assert!(many.objects.contains("203.0.0.9:9"), "{:?}", many.objects);
    }

    #[test]
    fn the_number_of_incidents_is_bounded_and_the_last_one_says_so() {
        let (mut incidents, now) = (Incidents::default(), Instant::now());
        for rule in 1..=2000 {
            note(&mut incidents, &event(rule, Verdict::Deny, "a", 0), now);
        }
        note(&mut incidents, &event(1, Verdict::Deny, "a", 0), now);
        let closed = incidents.close();
        assert_eq!(closed.len(), MOST_OPEN + 1);
        let overflow = closed.iter().map(|(_, it)| it).find(|it| it.rule == OVERFLOW).unwrap();
        assert_eq!(overflow.count, 2000 - MOST_OPEN as u64);
        assert!(overflow.rule_text.is_empty());
        assert_eq!(closed.iter().find(|(_, it)| it.rule == "rule-1").unwrap().1.count, 2);
    }

    proptest! {
        #[test]
        fn no_event_is_counted_twice_or_not_at_all(rules in prop::collection::vec((0..700_u16, 0..40_u16, 0..3_u64), 0..900)) {
            let (mut incidents, mut now) = (Incidents::default(), Instant::now());
            let (mut told, mut all) = (0, 0);
            for (rule, port, pause) in rules {
                now += Duration::from_secs(pause);
                note(&mut incidents, &event(rule, Verdict::Deny, "", port), now);
                all += 1;
                let over = incidents.tick(now).into_iter().filter(|(phase, _)| *phase == Phase::Close);
                told += over.map(|(_, it)| it.count).sum::<u64>();
                prop_assert!(incidents.open.len() <= MOST_OPEN + 1);
            }
            told += incidents.close().into_iter().map(|(_, it)| it.count).sum::<u64>();
            prop_assert_eq!(told, all);
        }
    }
}
