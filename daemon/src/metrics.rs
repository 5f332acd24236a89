//! What the sidecar counts and measures, for Prometheus.
//!
//! One struct with a typed handle for each metric; `docs/metrics.md` says what each means, and a test compares the two.
//! Names and units follow Prometheus' own rules (its documentation, "Metric and label naming"). Every label has a fixed
//! set of values, so that the number of series does not grow. Gauges of what is known at the moment are filled when
//! somebody asks: see [`Metrics::render`].

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use walvault_archive::WalCut;
use walvault_store::StoreError;
use walvault_store::clock;
use walvault_store::metered::{Observer, Operation};

use crate::observed::{Backup, Interruption, StreamState, Survey};

pub mod drills;
pub mod live;
pub mod rpo;
pub mod series;
pub mod upkeep;

pub use live::Live;
pub use rpo::Rpo;

/// Upper bounds in seconds, from a request within a rack to one that is about to be given up.
const LATENCIES: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// Every metric.
pub struct Metrics {
    registry: Registry,
    /// What is known at the moment, beside the metrics it fills.
    pub live: Live,
    /// 1 while WAL is streamed.
    pub streaming: IntGauge,
    /// 1 while nothing is archived until somebody decides which side of a conflict is right.
    pub conflict: IntGauge,
    /// Age of the oldest commit that may not be in the archive.
    pub rpo_seconds: Gauge,
    /// Bytes of the server's WAL beyond the watermark.
    pub wal_unarchived_bytes: Gauge,
    /// The end of the server's WAL.
    pub wal_server_lsn_bytes: Gauge,
    /// The end of what was received.
    pub wal_received_lsn_bytes: Gauge,
    /// The watermark.
    pub wal_archived_lsn_bytes: Gauge,
    /// How far each archive is behind the server's WAL, by its URL.
    pub archive_lag_bytes: GaugeVec,
    /// 1 while an archive is away or lacks something, by its URL; where there are several.
    pub archive_behind: IntGaugeVec,
    /// Objects that an archive was brought later than they were stored elsewhere.
    pub archive_copied_objects_total: IntCounter,
    /// The timeline that is streamed.
    pub timeline: IntGauge,
    /// Bytes of WAL in memory.
    pub memory_in_flight_bytes: IntGauge,
    /// From the receipt of a commit until it is durable.
    pub ack_seconds: Histogram,
    /// Requests to the store, by operation.
    pub store_request_seconds: HistogramVec,
    /// Requests to the store that failed, by operation and kind.
    pub store_request_errors_total: IntCounterVec,
    /// Bytes of WAL that were received.
    pub wal_received_bytes_total: IntCounter,
    /// Objects of WAL that were stored.
    pub wal_objects_stored_total: IntCounterVec,
    /// Bytes of objects of WAL that were stored.
    pub wal_stored_bytes_total: IntCounter,
    /// Ends of a stream that were not asked for, by kind.
    pub stream_errors_total: IntCounterVec,
    /// Connections to the server after the first.
    pub reconnects_total: IntCounter,
    /// Whether commits wait for the archive.
    pub commits_wait: IntGauge,
    /// WAL that the server keeps for the slot.
    pub slot_retained_bytes: Gauge,
    /// WAL that can still be written before the slot is lost; absent (NaN) without a limit.
    pub slot_headroom_bytes: Gauge,
    /// Bytes free on the disk of `pg_wal`; `+Inf` where that cannot be seen.
    pub wal_disk_free_bytes: Gauge,
    /// Seconds until the slot's or the disk's limit at the present rate; `+Inf` when none is near.
    pub slot_exhaustion_seconds: Gauge,
    /// 1 when the server no longer promises to keep what the archive lacks.
    pub slot_lost: IntGauge,
    /// Data keys by how they stood at the last check.
    pub data_keys: IntGaugeVec,
    /// When data keys were last checked.
    pub data_keys_checked_timestamp_seconds: Gauge,
    /// Events that are not in the audit trail yet.
    pub audit_events_waiting: IntGauge,
    /// When the newest data key was made.
    pub data_key_created_timestamp_seconds: Gauge,
    /// 1 while a data key that is due cannot be made.
    pub data_key_rotation_failing: IntGauge,
    /// 0 when KMS, being a recipient, cannot be asked.
    pub kms_reachable: IntGauge,
    /// 1 while the archive's keys cannot be used.
    pub key_trouble: IntGauge,
    /// `[objectives] rpo`.
    pub rpo_objective_seconds: Gauge,
    /// When the archive was last surveyed.
    pub survey_timestamp_seconds: Gauge,
    /// Gaps in the archive.
    pub gaps: IntGauge,
    /// Where the newest recovery window begins.
    pub recovery_window_start_timestamp_seconds: Gauge,
    /// The newest commit in it.
    pub recovery_window_end_timestamp_seconds: Gauge,
    /// Complete backups in the archive.
    pub backups: IntGauge,
    /// When the newest was complete.
    pub backup_last_timestamp_seconds: Gauge,
    /// How long it took.
    pub backup_last_duration_seconds: Gauge,
    /// Bytes of its files.
    pub backup_last_size_bytes: Gauge,
    /// Bytes of its objects.
    pub backup_last_stored_bytes: Gauge,
    /// Its size over the median of up to seven before it.
    pub backup_last_size_ratio: Gauge,
    /// Backups that this process took or tried to take, by result.
    pub backups_taken_total: IntCounterVec,
    /// How long a restore of the newest instant may take.
    pub estimated_restore_seconds: Gauge,
    /// What verifying and pruning by schedule count.
    pub upkeep: upkeep::UpkeepMetrics,
    /// Those of drills.
    pub drills: drills::DrillMetrics,
}

impl Metrics {
    /// All of them, at zero.
    #[must_use]
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let build = GaugeVec::new(
            Opts::new(
                "walvault_build_info",
                "Always 1; the label says which version runs.",
            ),
            &["version"],
        );
        let build = registered(&registry, build);
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        let new = New(&registry);
        let start = new.gauge(
            "walvault_start_time_seconds",
            "When this process began, in Unix time.",
        );
        start.set(clock::now().as_microsecond() as f64 / 1e6);
        Metrics {
            live: Live::default(),
            streaming: new.integer("walvault_streaming", "1 while WAL is streamed."),
            conflict: new.integer(
                "walvault_conflict",
                "1 while server and archive contradict each other, and nothing is archived.",
            ),
            rpo_seconds: new.gauge(
                "walvault_rpo_seconds",
                "Age of the oldest commit that may not be in the archive; 0 when there is none.",
            ),
            wal_unarchived_bytes: new.gauge(
                "walvault_wal_unarchived_bytes",
                "Bytes of the server's WAL beyond the watermark.",
            ),
            wal_server_lsn_bytes: new.gauge(
                "walvault_wal_server_lsn_bytes",
                "The end of the server's WAL, as it last said.",
            ),
            wal_received_lsn_bytes: new.gauge(
                "walvault_wal_received_lsn_bytes",
                "The end of the WAL that was received.",
            ),
            wal_archived_lsn_bytes: new.gauge(
                "walvault_wal_archived_lsn_bytes",
                "The watermark: all WAL before it is durable in the archive.",
            ),
            archive_lag_bytes: registered(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "walvault_archive_lag_bytes",
                        "Bytes of the server's WAL that an archive does not hold yet.",
                    ),
                    &["archive"],
                ),
            ),
            archive_behind: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "walvault_archive_behind",
                        "1 while one of several archives is away or lacks something.",
                    ),
                    &["archive"],
                ),
            ),
            archive_copied_objects_total: new.counter(
                "walvault_archive_copied_objects_total",
                "Objects that one of several archives was brought later than others had them.",
            ),
            timeline: new.integer("walvault_timeline", "The timeline that is streamed."),
            memory_in_flight_bytes: new.integer(
                "walvault_memory_in_flight_bytes",
                "Bytes of WAL in memory, on their way to the archive.",
            ),
            ack_seconds: new.histogram(
                "walvault_ack_seconds",
                "From the receipt of WAL with a commit until it is durable in the archive.",
            ),
            store_request_seconds: new.histograms(
                "walvault_store_request_seconds",
                "How long the store took to answer, by operation; each attempt counts.",
                &["operation"],
            ),
            store_request_errors_total: new.counters(
                "walvault_store_request_errors_total",
                "Requests that the store failed or refused, by operation and kind; each attempt counts.",
                &["operation", "kind"],
            ),
            wal_received_bytes_total: new.counter(
                "walvault_wal_received_bytes_total",
                "Bytes of WAL that were received.",
            ),
            wal_objects_stored_total: new.counters(
                "walvault_wal_objects_stored_total",
                "Objects of WAL that were stored, by object: whole segments, chunks, and chunks merged into one.",
                &["object"],
            ),
            wal_stored_bytes_total: new.counter(
                "walvault_wal_stored_bytes_total",
                "Bytes of the objects of WAL that were stored.",
            ),
            stream_errors_total: new.counters(
                "walvault_stream_errors_total",
                "Times that streaming ended or did not begin, by what went wrong.",
                &["kind"],
            ),
            reconnects_total: new.counter(
                "walvault_reconnects_total",
                "Times that streaming began again after it had ended.",
            ),
            commits_wait: new.integer(
                "walvault_commits_wait",
                "1 while commits wait for the archive (synchronous mode).",
            ),
            slot_retained_bytes: new.gauge(
                "walvault_slot_retained_bytes",
                "WAL that the server keeps for the slot.",
            ),
            slot_headroom_bytes: new.gauge(
                "walvault_slot_headroom_bytes",
                "WAL that can still be written before max_slot_wal_keep_size ends it; +Inf without a limit.",
            ),
            wal_disk_free_bytes: new.gauge(
                "walvault_wal_disk_free_bytes",
                "Bytes free on the disk of the server's pg_wal; +Inf where [postgres] wal_dir does not say where it is.",
            ),
            slot_exhaustion_seconds: new.gauge(
                "walvault_slot_exhaustion_seconds",
                "Seconds until the slot's headroom or the disk is used up at the present rate; +Inf when neither is.",
            ),
            slot_lost: new.integer(
                "walvault_slot_lost",
                "1 when the server no longer promises to keep what the archive lacks.",
            ),
            data_keys: new.states(
                "walvault_data_keys",
                "Data keys of the archive at the last check, by how they stood.",
                &["opens", "closed", "unreachable", "damaged", "foreign"],
            ),
            data_keys_checked_timestamp_seconds: new.gauge(
                "walvault_data_keys_checked_timestamp_seconds",
                "When data keys were last checked, in seconds since 1970; 0 before the first check.",
            ),
            audit_events_waiting: new.integer(
                "walvault_audit_events_waiting",
                "Events that are not in the audit trail yet.",
            ),
            data_key_created_timestamp_seconds: new.gauge(
                "walvault_data_key_created_timestamp_seconds",
                "When the newest data key, which is sealed under, was made, in seconds since 1970; 0 before the first check.",
            ),
            data_key_rotation_failing: new.integer(
                "walvault_data_key_rotation_failing",
                "1 while it cannot be seen whether a data key is due, or it cannot be made.",
            ),
            kms_reachable: new.integer(
                "walvault_kms_reachable",
                "0 when KMS is a recipient and could not be asked at the last check.",
            ),
            key_trouble: new.integer(
                "walvault_key_trouble",
                "1 while the archive's keys cannot be used.",
            ),
            rpo_objective_seconds: new.gauge(
                "walvault_rpo_objective_seconds",
                "What [objectives] rpo says.",
            ),
            survey_timestamp_seconds: new.gauge(
                "walvault_survey_timestamp_seconds",
                "When the archive was last looked at, in seconds since 1970; 0 before the first time.",
            ),
            gaps: new.integer(
                "walvault_gaps",
                "Runs of WAL that the archive lacks between what it holds.",
            ),
            recovery_window_start_timestamp_seconds: new.gauge(
                "walvault_recovery_window_start_timestamp_seconds",
                "The first instant of the newest recovery window, in seconds since 1970; 0 without one.",
            ),
            recovery_window_end_timestamp_seconds: new.gauge(
                "walvault_recovery_window_end_timestamp_seconds",
                "The newest commit in the newest recovery window, in seconds since 1970; 0 without one.",
            ),
            backups: new.integer("walvault_backups", "Complete base backups in the archive."),
            backup_last_timestamp_seconds: new.gauge(
                "walvault_backup_last_timestamp_seconds",
                "When the data of the newest base backup had been read, in seconds since 1970; 0 without one.",
            ),
            backup_last_duration_seconds: new.gauge(
                "walvault_backup_last_duration_seconds",
                "How long the newest base backup took to read.",
            ),
            backup_last_size_bytes: new.gauge(
                "walvault_backup_last_size_bytes",
                "Bytes of the files of the newest base backup.",
            ),
            backup_last_stored_bytes: new.gauge(
                "walvault_backup_last_stored_bytes",
                "Bytes of the objects of the newest base backup.",
            ),
            backup_last_size_ratio: new.gauge(
                "walvault_backup_last_size_ratio",
                "Size of the newest base backup over the median of up to seven before it; 1 for the first.",
            ),
            backups_taken_total: new.counters(
                "walvault_backups_taken_total",
                "Base backups that this process ended, by result: success or failure.",
                &["result"],
            ),
            estimated_restore_seconds: new.gauge(
                "walvault_estimated_restore_seconds",
                "How long a restore of the newest instant may take: backup and WAL at 100 MiB/s; 0 when nothing can be restored.",
            ),
            upkeep: upkeep::UpkeepMetrics::new(&new),
            drills: drills::DrillMetrics::new(&new),
            registry,
        }
    }

    /// Fills in what is known at the moment and writes everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        self.live.fill(self);
        let mut text = Vec::new();
        let families = self.registry.gather();
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("writing to memory, of families that have metrics");
        text
    }

    /// Requests to the stores so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let of = |operation: &Operation| {
            let operation = operation.name();
            let histogram = self.store_request_seconds.with_label_values(&[operation]);
            histogram.get_sample_count()
        };
        Operation::ALL.iter().map(of).sum()
    }

    /// The metrics' names, with what each is for.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let described = |family: &prometheus::proto::MetricFamily| family.name().to_owned();
        self.registry.gather().iter().map(described).collect()
    }

    /// Takes in that the newest data key was made at `at`.
    pub fn data_key_made(&self, at: jiff::Timestamp) {
        self.data_key_created_timestamp_seconds
            .set(at.as_millisecond() as f64 / 1000.0);
    }

    /// Takes in what the archive holds.
    pub fn surveyed(&self, survey: &Survey) {
        let seconds = |at: jiff::Timestamp| at.as_millisecond() as f64 / 1000.0;
        self.survey_timestamp_seconds.set(seconds(survey.at));
        self.drilled(&survey.drills);
        self.gaps.set(count(survey.gaps.len()));
        self.backups
            .set(count(survey.backups.len() + survey.withheld_backups.len()));
        let stored_at = survey
            .withheld_backups
            .iter()
            .map(|backup| backup.stored_at);
        if let Some(last) = stored_at.max() {
            self.backup_last_timestamp_seconds.set(seconds(last));
        }
        let window = survey.windows.last();
        let begin = window.map_or(0.0, |window| seconds(window.start_time));
        self.recovery_window_start_timestamp_seconds.set(begin);
        let end = window.map_or(0.0, |window| {
            seconds(window.end_time.unwrap_or(window.start_time))
        });
        self.recovery_window_end_timestamp_seconds.set(end);
        if let Some(last) = survey.backups.last() {
            let took = last.stop_time.duration_since(last.start_time);
            self.backup_last_timestamp_seconds
                .set(seconds(last.stop_time));
            self.backup_last_duration_seconds.set(took.as_secs_f64());
            self.backup_last_size_bytes.set(last.size as f64);
            self.backup_last_stored_bytes.set(last.stored_size as f64);
        }
        self.backup_last_size_ratio
            .set(size_ratio(&survey.backups).unwrap_or(1.0));
        let restore = window.zip(survey.backups.last()).map(|(window, backup)| {
            let wal = window.end_lsn.saturating_sub(backup.start_lsn);
            (backup.size + wal) as f64 / RESTORED_A_SECOND
        });
        self.estimated_restore_seconds.set(restore.unwrap_or(0.0));
    }

    /// Counts a base backup that this process ended.
    pub fn backup_ended(&self, success: bool) {
        let result = if success { "success" } else { "failure" };
        self.backups_taken_total.with_label_values(&[result]).inc();
    }

    /// Counts an object of WAL that was stored.
    pub fn wal_stored(&self, kind: WalCut, size: u64) {
        let object = match kind {
            WalCut::Chunk => "chunk",
            WalCut::Merged => "merged",
            WalCut::Unit => "segment",
        };
        self.wal_objects_stored_total
            .with_label_values(&[object])
            .inc();
        self.wal_stored_bytes_total.inc_by(size);
    }

    /// Takes in where the stream is.
    pub fn progressed(&self, state: StreamState) {
        for waited in self.live.progressed(state) {
            self.ack_seconds.observe(waited.as_secs_f64());
        }
    }

    /// Counts the end of a stream.
    pub fn stream_ended(&self, why: &Interruption) {
        self.stream_errors_total
            .with_label_values(&[why.kind])
            .inc();
        self.live.stream_ended(why);
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// Takes in what is asked of one of the stores that hold the archive.
pub struct StoreMetrics {
    metrics: Arc<Metrics>,
    store: usize,
}

impl StoreMetrics {
    /// Of the store at this place.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, store: usize) -> StoreMetrics {
        StoreMetrics { metrics, store }
    }
}

impl Observer for StoreMetrics {
    fn request(&self, operation: Operation, took: Duration, error: Option<&StoreError>) {
        self.metrics.request(self.store, operation, took, error);
    }
}

impl Observer for Metrics {
    fn request(&self, operation: Operation, took: Duration, error: Option<&StoreError>) {
        Metrics::request(self, 0, operation, took, error);
    }
}

impl Metrics {
    fn request(
        &self,
        store: usize,
        operation: Operation,
        took: Duration,
        error: Option<&StoreError>,
    ) {
        let operation = operation.name();
        self.store_request_seconds
            .with_label_values(&[operation])
            .observe(took.as_secs_f64());
        let kind = match error {
            None
            | Some(
                StoreError::Missing { .. }
                | StoreError::Exists { .. }
                | StoreError::TooLarge { .. },
            ) => {
                self.live.store_answered(store);
                return;
            }
            Some(StoreError::Unavailable { .. }) => "unavailable",
            Some(_) => "refused",
        };
        self.store_request_errors_total
            .with_label_values(&[operation, kind])
            .inc();
        if let Some(error) = error {
            self.live.store_failed(store, error);
        }
    }
}

/// Bytes that a restore writes or replays in a second: less than two cores do.
const RESTORED_A_SECOND: f64 = 100.0 * 1024.0 * 1024.0;

/// The size of the newest backup over the median of up to seven before it.
fn size_ratio(backups: &[Backup]) -> Option<f64> {
    let (last, before) = backups.split_last()?;
    let mut sizes: Vec<u64> = before
        .iter()
        .rev()
        .take(7)
        .map(|backup| backup.size)
        .collect();
    sizes.sort_unstable();
    let median = *sizes.get(sizes.len() / 2)?;
    (median > 0).then(|| last.size as f64 / median as f64)
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Makes metrics in a registry.
struct New<'a>(&'a Registry);

impl New<'_> {
    fn gauge(&self, name: &str, help: &str) -> Gauge {
        registered(self.0, Gauge::new(name, help))
    }

    fn integer(&self, name: &str, help: &str) -> IntGauge {
        registered(self.0, IntGauge::new(name, help))
    }

    /// A gauge for each of `states`, at zero.
    fn states(&self, name: &str, help: &str, states: &[&str]) -> IntGaugeVec {
        self.gauges(name, help, "state", states)
    }

    /// A gauge for each value of a label, at zero.
    fn gauges(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntGaugeVec {
        let gauges = registered(self.0, IntGaugeVec::new(Opts::new(name, help), &[label]));
        for value in values {
            gauges.with_label_values(&[*value]).set(0);
        }
        gauges
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        registered(self.0, IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        registered(self.0, IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(LATENCIES.to_vec());
        registered(self.0, Histogram::with_opts(options))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(LATENCIES.to_vec());
        registered(self.0, HistogramVec::new(options, labels))
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: Result<C, prometheus::Error>,
) -> C {
    let metric = metric.expect("a name and labels that Prometheus allows");
    registry
        .register(Box::new(metric.clone()))
        .expect("a name that is not taken");
    metric
}

#[cfg(test)]
mod tests;
