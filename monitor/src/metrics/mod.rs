//! Figures for Prometheus: what was counted since the start, and what is looked up when somebody asks.
//!
//! Off unless the policy has `[metrics]`. There are kept libraries for such pages; they want to own every figure, while most
//! of these belong to the journal and to cursors and are read at the moment of the question. What remains is to write lines
//! (`exposition`), which `promtool check metrics` judges in the tests.

pub(crate) mod config;
mod exposition;
mod server;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    journal::{Spool, segment},
    sinks::cursor::Cursor,
};
use exposition::{Kind, Page};
pub use server::Server;

/// Most combinations of instance, rule and verdict that are told apart: whoever collects them keeps each for ever.
const MOST: usize = 1000;
/// What stands for those beyond.
const OTHER: &str = "(other)";

/// Every figure's name, without labels.
pub const NAMES: [&str; 16] = [
    "flowwarden_build_info",
    "flowwarden_start_time_seconds",
    "flowwarden_enforcing",
    "flowwarden_events_total",
    "flowwarden_kernel_lost_records_total",
    "flowwarden_unjudged_operations_total",
    "flowwarden_journal_lost_events_total",
    "flowwarden_journal_lines_total",
    "flowwarden_journal_size_bytes",
    "flowwarden_journal_segments",
    "flowwarden_sink_lag_events",
    "flowwarden_sink_delivered_events_total",
    "flowwarden_sink_put_aside_events_total",
    "flowwarden_sink_failing",
    "flowwarden_sink_last_delivery_timestamp_seconds",
    "flowwarden_sink_has_run",
];

/// What is counted while the guard runs.
#[derive(Debug)]
pub struct Counts {
    started: SystemTime,
    enforcing: AtomicBool,
    /// By instance, rule and verdict.
    events: Mutex<BTreeMap<[String; 3], u64>>,
    lost: AtomicU64,
    unjudged: AtomicU64,
    sinks: Mutex<Vec<String>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            enforcing: AtomicBool::default(),
            events: Mutex::default(),
            lost: AtomicU64::default(),
            unjudged: AtomicU64::default(),
            sinks: Mutex::default(),
        }
    }
}

impl Counts {
    /// Counts an event.
    pub fn event(&self, instance: &str, rule: &str, verdict: &str) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let full = events.len() >= MOST;
        let mut key = [instance, rule, verdict].map(str::to_owned);
        if full && !events.contains_key(&key) {
            key = [OTHER, OTHER, verdict].map(str::to_owned);
        }
        *events.entry(key).or_default() += 1;
    }

    /// What the kernel has counted so far: records that found no room, operations that were refused unjudged.
    pub fn kernel(&self, lost: u64, unjudged: u64) {
        self.lost.store(lost, Ordering::Relaxed);
        self.unjudged.store(unjudged, Ordering::Relaxed);
    }

    /// What the policy in force says.
    pub fn policy(&self, enforcing: bool, sinks: Vec<String>) {
        self.enforcing.store(enforcing, Ordering::Relaxed);
        *self.sinks.lock().unwrap_or_else(PoisonError::into_inner) = sinks;
    }

    /// The page as it is now.
    fn page(&self, spool: &Spool) -> String {
        let mut page = Page::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.figure("flowwarden_build_info", Kind::Gauge, "The running version.").sample(&version, 1.0);
        page.figure("flowwarden_start_time_seconds", Kind::Gauge, "When the guard started, since 1970.")
            .sample(&[], seconds(self.started));
        page.figure("flowwarden_enforcing", Kind::Gauge, "1 when verdicts are carried out, 0 when only observed.")
            .sample(&[], f64::from(u8::from(self.enforcing.load(Ordering::Relaxed))));
        // Not `instance`, which is Prometheus' own word for who was asked.
        let mut events = page.figure(
            "flowwarden_events_total",
            Kind::Counter,
            "Events since the start by instance, rule and what was done.",
        );
        for ([instance, rule, verdict], count) in &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            events.sample(&[("node_red", instance), ("rule", rule), ("verdict", verdict)], float(*count));
        }
        let mut counter = |name, help, value| page.figure(name, Kind::Counter, help).sample(&[], float(value));
        counter(
            "flowwarden_kernel_lost_records_total",
            "Records that found the kernel's ring buffer full.",
            self.lost.load(Ordering::Relaxed),
        );
        counter(
            "flowwarden_unjudged_operations_total",
            "Operations that were refused unjudged: too many at once on one CPU.",
            self.unjudged.load(Ordering::Relaxed),
        );
        counter("flowwarden_journal_lost_events_total", "Events that the journal could not take.", spool.lost());
        counter("flowwarden_journal_lines_total", "Lines of the journal since it was made.", spool.tail.sequence());
        let (bytes, segments) = journal(spool);
        page.figure("flowwarden_journal_size_bytes", Kind::Gauge, "What the journal's segments take on the disk.")
            .sample(&[], float(bytes));
        page.figure("flowwarden_journal_segments", Kind::Gauge, "How many segments the journal has.")
            .sample(&[], float(segments));
        self.sinks(&mut page, spool);
        page.text()
    }

    fn sinks(&self, page: &mut Page, spool: &Spool) {
        let names = self.sinks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let end = spool.tail.sequence();
        let cursors: Vec<_> =
            names.iter().filter_map(|name| Some((name.as_str(), Cursor::load(&spool.path, name).ok()??))).collect();
        let mut each = |name, kind, help, value: &dyn Fn(&Cursor) -> f64| {
            let mut figure = page.figure(name, kind, help);
            for (sink, cursor) in &cursors {
                figure.sample(&[("sink", sink)], value(cursor));
            }
        };
        let lag = |cursor: &Cursor| float(end.saturating_sub(cursor.sequence));
        each("flowwarden_sink_lag_events", Kind::Gauge, "Lines of the journal that the sink has not passed.", &lag);
        each(
            "flowwarden_sink_delivered_events_total",
            Kind::Counter,
            "Events that the receiver has taken.",
            &|cursor| float(cursor.delivered),
        );
        each(
            "flowwarden_sink_put_aside_events_total",
            Kind::Counter,
            "Events that the receiver will never take.",
            &|cursor| float(cursor.dead),
        );
        each(
            "flowwarden_sink_failing",
            Kind::Gauge,
            "1 while the receiver does not take what it is sent.",
            &|cursor| f64::from(u8::from(cursor.error.is_some())),
        );
        each(
            "flowwarden_sink_last_delivery_timestamp_seconds",
            Kind::Gauge,
            "When the receiver took something last, since 1970; 0 for never.",
            &|cursor| cursor.delivered_at.and_then(|at| u64::try_from(at).ok()).map_or(0.0, |at| float(at) / 1000.0),
        );
        let mut has_run =
            page.figure("flowwarden_sink_has_run", Kind::Gauge, "1 when the sink has a place in the journal.");
        for name in &names {
            let run = cursors.iter().any(|(known, _)| known == name);
            has_run.sample(&[("sink", name)], f64::from(u8::from(run)));
        }
    }
}

/// Bytes on the disk, and the number of segments.
fn journal(spool: &Spool) -> (u64, u64) {
    let segments = segment::list(&spool.path).unwrap_or_default();
    // One that is compressed or removed in this moment is left out.
    let bytes = segments.iter().filter_map(|segment| Some(segment.size_and_time().ok()?.0)).sum();
    (bytes, segments.len() as u64)
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Exact up to 2^53, as far as Prometheus goes itself.
#[expect(clippy::cast_precision_loss, reason = "the format knows nothing but such numbers")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, Limits};

    #[test]
    fn the_page_has_every_figure_and_no_more_series_than_it_promises() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
        let counts = Counts::default();
        for rule in 0..MOST + 500 {
            counts.event("a", &format!("rule-{rule}"), "deny");
            counts.event("a", "rule-0", "deny");
        }
        counts.policy(true, vec!["siem".to_owned()]);
        counts.kernel(7, 0);
        let page = counts.page(&journal.spool());
        for name in NAMES {
            assert!(page.contains(&format!("# TYPE {name} ")), "{name} in {page}");
        }
        assert_eq!(page.matches("# TYPE ").count(), NAMES.len());
        assert_eq!(page.matches("flowwarden_events_total{").count(), MOST + 1);
        for line in [
            "flowwarden_events_total{node_red=\"(other)\",rule=\"(other)\",verdict=\"deny\"} 500",
            "flowwarden_events_total{node_red=\"a\",rule=\"rule-0\",verdict=\"deny\"} 1501",
            "flowwarden_kernel_lost_records_total 7",
            "flowwarden_enforcing 1",
            "flowwarden_sink_has_run{sink=\"siem\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
    }
}
