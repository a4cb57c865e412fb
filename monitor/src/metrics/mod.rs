//! Figures for Prometheus, in its text format 0.0.4: what was counted since the start, and what is read at the scrape.
//!
//! Off unless the policy has `[metrics]`. Most figures belong to the journal and to cursors, so one collector reads them when
//! Prometheus asks. `promtool check metrics` judges the page in the tests.

mod server;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};

use journal::{Spool, segment};
pub use server::Server;
use sinks::cursor::Cursor;

/// Most combinations of instance, rule and verdict that are distinguished: the collector keeps each forever.
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
}

/// The figures as they are at the moment of a scrape.
#[derive(Debug)]
struct Figures {
    counts: Arc<Counts>,
    spool: Spool,
}

/// A figure without labels: its name, help and value.
type Plain<'a> = (&'a str, &'a str, u64);

impl Figures {
    /// The page.
    fn page(self: &Arc<Self>) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(self)));
        let mut page = String::new();
        prometheus_text::encode(&mut page, &registry)?;
        Ok(page)
    }

    fn guard(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self { counts, spool } = self;
        let mut build =
            encoder.encode_descriptor("flowwarden_build_info", "The running version", None, MetricType::Gauge)?;
        build.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1_u64)?;
        let (bytes, segments) = journal(spool);
        let gauges: [Plain<'_>; 3] = [
            (
                "flowwarden_enforcing",
                "1 when verdicts are enforced, 0 when they are only observed",
                counts.enforcing.load(Ordering::Relaxed).into(),
            ),
            ("flowwarden_journal_size_bytes", "Size of the journal's segments on the disk", bytes),
            ("flowwarden_journal_segments", "Number of segments of the journal", segments),
        ];
        let help = "When the guard started, in seconds since 1970";
        encoder
            .encode_descriptor("flowwarden_start_time_seconds", help, None, MetricType::Gauge)?
            .encode_gauge(&seconds(counts.started))?;
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let counters: [Plain<'_>; 4] = [
            (
                "flowwarden_kernel_lost_records",
                "Records that found the kernel's ring buffer full",
                counts.lost.load(Ordering::Relaxed),
            ),
            (
                "flowwarden_unjudged_operations",
                "Operations that were refused without a decision: too many at once on one CPU",
                counts.unjudged.load(Ordering::Relaxed),
            ),
            ("flowwarden_journal_lost_events", "Events that the journal could not take", spool.lost()),
            ("flowwarden_journal_lines", "Lines of the journal since it was created", spool.tail.sequence()),
        ];
        for (name, help, value) in counters {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn events(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Events since the start, by instance, rule and verdict";
        let mut events = encoder.encode_descriptor("flowwarden_events", help, None, MetricType::Counter)?;
        for ([instance, rule, verdict], count) in &*self.counts.events.lock().unwrap_or_else(PoisonError::into_inner) {
            // Not `instance`, which is Prometheus' own label for the target of a scrape.
            let labels = [("node_red", instance.as_str()), ("rule", rule), ("verdict", verdict)];
            events.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        Ok(())
    }

    fn sinks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let names = self.counts.sinks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let cursor = |name: &String| Some((name.clone(), Cursor::load(&self.spool.path, name).ok()??));
        let cursors: Vec<_> = names.iter().filter_map(cursor).collect();
        let end = self.spool.tail.sequence();
        let mut each = |name: &str, help: &str, kind: MetricType, value: &dyn Fn(&Cursor) -> u64| {
            let mut figure = encoder.encode_descriptor(name, help, None, kind)?;
            for (sink, cursor) in &cursors {
                let labels = [("sink", sink.as_str())];
                let mut sample = figure.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => sample.encode_counter::<NoLabelSet, _, u64>(&value(cursor), None)?,
                    _ => sample.encode_gauge(&value(cursor))?,
                }
            }
            Ok(())
        };
        each(
            "flowwarden_sink_lag_events",
            "Lines of the journal that the sink has not passed",
            MetricType::Gauge,
            &|cursor| end.saturating_sub(cursor.sequence),
        )?;
        each(
            "flowwarden_sink_delivered_events",
            "Events that the receiver has accepted",
            MetricType::Counter,
            &|cursor| cursor.delivered,
        )?;
        each(
            "flowwarden_sink_put_aside_events",
            "Events that the receiver will never accept",
            MetricType::Counter,
            &|cursor| cursor.dead,
        )?;
        each(
            "flowwarden_sink_failing",
            "1 while the receiver does not accept what it is sent",
            MetricType::Gauge,
            &|cursor| cursor.error.is_some().into(),
        )?;
        let (name, help) = (
            "flowwarden_sink_last_delivery_timestamp_seconds",
            "Time of the last delivery, in seconds since 1970; 0 for never",
        );
        let mut last = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (sink, cursor) in &cursors {
            let at = cursor.delivered_at.and_then(|at| u64::try_from(at).ok()).map(Duration::from_millis);
            let at = at.unwrap_or_default().as_secs_f64();
            last.encode_family(&[("sink", sink.as_str())])?.encode_gauge(&at)?;
        }
        let help = "1 when the sink has a position in the journal";
        let mut has_run = encoder.encode_descriptor("flowwarden_sink_has_run", help, None, MetricType::Gauge)?;
        for name in &names {
            let run = cursors.iter().any(|(known, _)| known == name);
            has_run.encode_family(&[("sink", name.as_str())])?.encode_gauge(&u64::from(run))?;
        }
        Ok(())
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.guard(&mut encoder)?;
        self.events(&mut encoder)?;
        self.sinks(&mut encoder)
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

#[cfg(test)]
#[path = "../../tests/bless/mod.rs"]
mod bless;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use journal::{Journal, Limits};

    #[test]
    fn the_page_has_every_figure_and_no_more_series_than_it_promises() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
        let counts = Arc::new(Counts::default());
        for rule in 0..MOST + 500 {
            counts.event("a", &format!("rule-{rule}"), "deny");
            counts.event("a", "rule-0", "deny");
        }
        counts.policy(true, vec!["siem".to_owned()]);
        counts.kernel(7, 0);
        let page = Arc::new(Figures { counts, spool: journal.spool() }).page().unwrap();
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

    const PAGE: &str = "# Metrics\n\n<!-- Generated from the metrics of the guard, see CONTRIBUTING.md. -->\n\n\
        The guard serves Prometheus metrics at `/metrics` if the policy has this table:\n\n\
        ```toml\n[metrics]\nlisten = \"127.0.0.1:9464\"\n```\n\n`listen` is its address; the default is the one above. \
        There is no authentication: for access from another machine, put a reverse proxy in front. \
        `contrib/grafana/flowwarden.json` is a dashboard.\n\n";

    #[test]
    fn the_reference_is_that_of_the_metrics() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("journal"), Limits::default()).unwrap();
        let page = Arc::new(Figures { counts: Arc::default(), spool: journal.spool() }).page().unwrap();
        let about = |what: &str, name: &str| {
            let start = format!("# {what} {name} ");
            page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().trim_end_matches('.').to_owned()
        };
        let mut text = format!("{PAGE}| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for name in NAMES {
            let labels = match name {
                "flowwarden_build_info" => "`version`",
                "flowwarden_events_total" => "`node_red` (the instance), `rule`, `verdict`",
                name if name.starts_with("flowwarden_sink_") => "`sink`",
                _ => "",
            };
            writeln!(text, "| `{name}` | {} | {labels} | {} |", about("TYPE", name), about("HELP", name)).unwrap();
        }
        let most = format!(
            "\nAt most {MOST} combinations of instance, rule and verdict are counted apart; the others are `{OTHER}`.\n"
        );
        bless::compare("reference/metrics.md", &(text + &most));
    }
}
