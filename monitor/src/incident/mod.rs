//! Incidents: related events are counted and reported once, and again while they continue.
//!
//! Every event with a verdict belongs to exactly one incident and names it, so the counts of all incidents add up to the
//! number of events. Events are grouped by rule, or by the accessed object where a class default decided. Denied, observed and
//! exempted operations are separate incidents.

pub mod finding;
pub mod remediation;

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

/// Most open incidents. Further events are counted in one incident, [`OVERFLOW`].
pub const MAX_OPEN: usize = 512;
/// Most open incidents of one class default. Further events are counted in one incident without an object.
const MAX_OPEN_PER_DEFAULT: usize = 8;
/// Most objects that an incident names.
const MAX_OBJECTS: usize = 8;
/// An incident is closed after this time without an event.
pub const QUIET: Duration = Duration::from_mins(5);
/// Time to the first update of an incident that continues. It doubles with each update
const FIRST_UPDATE: Duration = Duration::from_secs(10);
/// up to this time.
const LAST_UPDATE: Duration = Duration::from_hours(1);
/// Rule id of the incident that counts the events beyond [`MAX_OPEN`].
pub const OVERFLOW: &str = "(overflow)";

/// Outcome of the operations of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// They were denied, or the process was killed.
    Stopped,
    /// They were only logged; the policy wants them denied.
    Alert,
    /// They were logged, as the policy wants.
    Logged,
    /// A maintenance window exempted them from the rule.
    Exempted,
}

impl Outcome {
    fn of(record: &Record) -> Self {
        if record.verdict >= Verdict::Deny {
            Self::Stopped
        } else if record.event.flags & FLAG_MAINTENANCE != 0 {
            Self::Exempted
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
            Self::Exempted => "exempted",
        }
    }
}

/// Phase of an incident that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was opened.
    Create,
    /// It continues, or a stricter verdict was reached.
    Update,
    /// It is closed: no event for [`QUIET`].
    Close,
    /// The guard stops.
    Stop,
}

/// Events of one incident share a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    instance: String,
    rule: String,
    outcome: Outcome,
    /// The accessed object where a class default decided. Empty for rules and beyond the bound.
    object: String,
}

/// An incident.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Its identifier while it is open.
    pub uid: Arc<str>,
    /// Name of the instance; empty for [`OVERFLOW`].
    pub instance: String,
    /// Id of the rule, or [`OVERFLOW`].
    pub rule: String,
    /// Text of the rule.
    pub rule_text: String,
    /// ATT&CK techniques of the rule.
    pub techniques: Vec<String>,
    /// The kind of maintenance window in which the rule only logs.
    pub maintenance: Option<Maintenance>,
    /// Class of the first operation.
    pub class: Option<Class>,
    /// Outcome of the operations.
    pub outcome: Outcome,
    /// The strictest verdict.
    pub verdict: Verdict,
    /// Number of events by verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Number of events.
    pub count: u64,
    /// Number of events since the last report.
    pub new: u64,
    /// Time of the first event, in milliseconds since 1970.
    pub first_ms: i64,
    /// Time of the last event.
    pub last_ms: i64,
    /// The first files, programs and addresses.
    pub objects: BTreeSet<String>,
    /// There are more objects than are named.
    pub more_objects: bool,
    /// Message of the first event.
    pub example: String,
    /// Mark of the first event in the journal.
    pub mark: Mark,
    /// Process and object of the first event.
    pub evidence: Value,
    seen: Instant,
    due: Instant,
    wait: Duration,
}

/// The incident of an event.
#[derive(Debug)]
pub struct Noted<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// The phase to report now.
    pub phase: Option<Phase>,
}

/// The open incidents.
#[derive(Debug, Default)]
pub struct Incidents {
    open: BTreeMap<Key, Incident>,
}

impl Incidents {
    /// Counts an event whose journal entry is `activity`.
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
        let stricter = record.verdict > incident.verdict;
        incident.count += 1;
        incident.new += 1;
        *incident.verdicts.entry(record.verdict.name()).or_default() += 1;
        incident.verdict = incident.verdict.max(record.verdict);
        incident.first_ms = incident.first_ms.min(enriched.time_ms);
        incident.last_ms = incident.last_ms.max(enriched.time_ms);
        incident.seen = now;
        let object = enriched.tunnel.as_ref().map_or_else(|| object(record), |tunnel| shown(tunnel.domain.as_bytes()));
        if !object.is_empty() && !incident.objects.contains(&object) {
            incident.more_objects |= incident.objects.len() >= MAX_OBJECTS;
            if !incident.more_objects {
                incident.objects.insert(object);
            }
        }
        let phase = match (created, stricter) {
            (true, _) => Some(Phase::Create),
            (_, true) => Some(Phase::Update),
            _ => None,
        };
        Noted { incident, phase }
    }

    /// Takes note that an incident was reported.
    pub fn reported(&mut self, uid: &str) {
        if let Some(incident) = self.open.values_mut().find(|incident| *incident.uid == *uid) {
            incident.new = 0;
        }
    }

    /// Reports that are due: updates of incidents that continue, and closed incidents, which are removed.
    pub fn tick(&mut self, now: Instant) -> Vec<(Phase, Incident)> {
        let over = self.open.extract_if(.., |_, incident| now.saturating_duration_since(incident.seen) >= QUIET);
        let mut due: Vec<_> = over.map(|(_, incident)| (Phase::Close, incident)).collect();
        for incident in self.open.values_mut().filter(|incident| incident.due <= now) {
            incident.wait = LAST_UPDATE.min(incident.wait * 2);
            incident.due = now + incident.wait;
            if incident.new > 0 {
                due.push((Phase::Update, incident.clone()));
                incident.new = 0;
            }
        }
        due
    }

    /// Closes all incidents, since the guard stops.
    pub fn close(&mut self) -> Vec<(Phase, Incident)> {
        std::mem::take(&mut self.open).into_values().map(|incident| (Phase::Stop, incident)).collect()
    }

    /// The key of an event, within the bounds. Its incident may not exist yet.
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
            if self.open.range(&from..).take_while(|(it, _)| same(it)).count() >= MAX_OPEN_PER_DEFAULT {
                key = from;
            }
        }
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&key) {
            let (instance, object) = (String::new(), String::new());
            return Key { instance, rule: OVERFLOW.to_owned(), outcome: key.outcome, object };
        }
        key
    }
}

/// The accessed object as text.
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

/// The accessed object, by which events of class defaults are grouped.
fn place(record: &Record) -> String {
    match record.hook.class(record.event.detail) {
        Some(Class::Egress | Class::Ingress) => address(record.event.endpoint.address),
        _ => shown(&record.path),
    }
}

/// Identifier of an incident. The first half is equal for the same key in every run.
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
    fn one_that_becomes_stricter_is_told_at_once() {
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
        incidents.reported(&uid);
        assert!(incidents.tick(start + Duration::from_mins(1)).is_empty());
    }

    #[test]
    fn where_no_rule_speaks_what_is_reached_is_told_apart_up_to_a_bound() {
        let (mut incidents, now) = (Incidents::default(), Instant::now());
        for port in 1..=100 {
            note(&mut incidents, &event(0, Verdict::Log, "", port), now);
        }
        let closed = incidents.close();
        assert_eq!(closed.len(), MAX_OPEN_PER_DEFAULT + 1);
        let many = closed.iter().map(|(_, it)| it).find(|it| it.count > 1).unwrap();
        assert_eq!(many.count, 100 - MAX_OPEN_PER_DEFAULT as u64);
        assert!(many.more_objects && many.objects.len() == MAX_OBJECTS, "{:?}", many.objects);
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
        assert_eq!(closed.len(), MAX_OPEN + 1);
        let overflow = closed.iter().map(|(_, it)| it).find(|it| it.rule == OVERFLOW).unwrap();
        assert_eq!(overflow.count, 2000 - MAX_OPEN as u64);
        assert!(overflow.rule_text.is_empty());
        assert_eq!(closed.iter().find(|(_, it)| it.rule == "rule-1").unwrap().1.count, 2);
    }

    proptest! {
        #[test]
        fn no_event_is_counted_twice_or_not_at_all(rules in prop::collection::vec((0..700_u16, 0..40_u16, 0..3_u64), 0..900)) {
            let (mut incidents, mut now) = (Incidents::default(), Instant::now());
            let (mut reported, mut all) = (0, 0);
            for (rule, port, pause) in rules {
                now += Duration::from_secs(pause);
                note(&mut incidents, &event(rule, Verdict::Deny, "", port), now);
                all += 1;
                let over = incidents.tick(now).into_iter().filter(|(phase, _)| *phase == Phase::Close);
                reported += over.map(|(_, it)| it.count).sum::<u64>();
                prop_assert!(incidents.open.len() <= MAX_OPEN + 1);
            }
            reported += incidents.close().into_iter().map(|(_, it)| it.count).sum::<u64>();
            prop_assert_eq!(reported, all);
        }
    }
}
