//! What the sidecar counts and measures, for Prometheus.
//!
//! Each metric is one row of `declared`. Gauges of what is known at the moment are filled when somebody asks: see
//! [`Metrics::render`].

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Encoder, Registry, TextEncoder};
use walvault_archive::WalCut;
use walvault_archive::inventory::Backup;
use walvault_store::StoreError;
use walvault_store::clock;
use walvault_store::metered::{Observer, Operation};
use walvault_upkeep::verify::FindingKind;

use crate::observed::{Interruption, StreamState, Survey};

mod declare;
mod declared;
mod drills;
pub mod live;
pub mod rpo;
pub mod series;
mod upkeep;

pub use declare::Declaration;
pub use declared::Declared;
pub use live::Live;
pub use rpo::Rpo;

/// The states of a data key, as `walvault_data_keys` tells them.
pub const KEY_STATES: [&str; 5] = ["opens", "closed", "unreachable", "damaged", "foreign"];

/// Every metric, by its handle, and what is known at the moment.
pub struct Metrics {
    registry: Registry,
    declared: Declared,
    /// What is known at the moment, beside the metrics it fills.
    pub live: Live,
}

impl Deref for Metrics {
    type Target = Declared;

    fn deref(&self) -> &Declared {
        &self.declared
    }
}

impl Metrics {
    /// All of them, at zero.
    #[must_use]
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let declared = Declared::new(&registry);
        let build = declared
            .build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")]);
        build.set(1);
        declared.start_time_seconds.set(seconds(clock::now()));
        // What counts states says 0 of each, not nothing.
        for state in KEY_STATES {
            declared.data_keys.with_label_values(&[state]).set(0);
        }
        for kind in FindingKind::ALL {
            let gauge = declared.verify_findings.with_label_values(&[kind.as_str()]);
            gauge.set(0);
        }
        Metrics {
            registry,
            declared,
            live: Live::default(),
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

    /// Takes in that the newest data key was made at `at`.
    pub fn data_key_made(&self, at: jiff::Timestamp) {
        self.data_key_created_timestamp_seconds.set(seconds(at));
    }

    /// Takes in what the archive holds.
    pub fn surveyed(&self, survey: &Survey) {
        self.survey_timestamp_seconds.set(seconds(survey.at));
        self.drilled(&survey.drills);
        let held = &survey.inventory;
        self.gaps.set(count(held.gaps.len()));
        self.backups
            .set(count(held.backups.len() + held.withheld_backups.len()));
        let stored_at = held.withheld_backups.iter().map(|backup| backup.stored_at);
        if let Some(last) = stored_at.max() {
            self.backup_last_timestamp_seconds.set(seconds(last));
        }
        let window = held.windows.last();
        let begin = window.map_or(0.0, |window| seconds(window.start_time));
        self.recovery_window_start_timestamp_seconds.set(begin);
        let end = window.map_or(0.0, |window| {
            seconds(window.end_time.unwrap_or(window.start_time))
        });
        self.recovery_window_end_timestamp_seconds.set(end);
        if let Some(last) = held.backups.last() {
            let took = last.stop_time.duration_since(last.start_time);
            self.backup_last_timestamp_seconds
                .set(seconds(last.stop_time));
            self.backup_last_duration_seconds.set(took.as_secs_f64());
            self.backup_last_size_bytes.set(last.size as f64);
            self.backup_last_stored_bytes.set(last.stored_size as f64);
        }
        self.backup_last_size_ratio
            .set(size_ratio(&held.backups).unwrap_or(1.0));
        let restore = window.zip(held.backups.last()).map(|(window, backup)| {
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
        self.store_request_seconds
            .with_label_values(&[operation.name()])
            .observe(took.as_secs_f64());
        let kind = match error {
            None
            | Some(
                StoreError::Missing { .. }
                | StoreError::Exists { .. }
                | StoreError::TooLarge { .. },
            ) => {
                self.live.store_answered(store, operation);
                return;
            }
            Some(StoreError::Unavailable { .. }) => "unavailable",
            Some(_) => "refused",
        };
        self.store_request_errors_total
            .with_label_values(&[operation.name(), kind])
            .inc();
        if let Some(error) = error {
            self.live.store_failed(store, operation, error);
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

/// Seconds since 1970, to the millisecond.
fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
