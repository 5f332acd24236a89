//! What verifying and pruning by schedule count.

use jiff::Timestamp;
use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec};
use walvault_store::clock;
use walvault_upkeep::prune::PruneReport;
use walvault_upkeep::verify::{Finding, FindingKind, Verification};

use super::{Metrics, New, count};

/// Metrics of `[verify]` and `[retention]`.
pub struct UpkeepMetrics {
    /// When a verification by schedule last ended.
    pub verify_last_timestamp_seconds: Gauge,
    /// What it found, by kind.
    pub verify_findings: IntGaugeVec,
    /// 1 when the last one could not look.
    pub verify_failing: IntGauge,
    /// Objects that were read.
    pub verify_objects_total: IntCounter,
    /// Their bytes.
    pub verify_bytes_total: IntCounter,
    /// When a prune by schedule last succeeded.
    pub prune_last_timestamp_seconds: Gauge,
    /// 1 when the last one failed.
    pub prune_failing: IntGauge,
    /// Backups that were removed.
    pub prune_removed_backups_total: IntCounter,
    /// Objects that were removed.
    pub prune_removed_objects_total: IntCounter,
    /// Their bytes.
    pub prune_removed_bytes_total: IntCounter,
    /// Objects that the last prune could not remove because they are locked.
    pub prune_locked_objects: IntGauge,
}

impl UpkeepMetrics {
    pub(super) fn new(new: &New<'_>) -> UpkeepMetrics {
        let kinds = FindingKind::ALL.map(FindingKind::as_str);
        UpkeepMetrics {
            verify_last_timestamp_seconds: new.gauge(
                "walvault_verify_last_timestamp_seconds",
                "When a verification by schedule last ended, in seconds since 1970; 0 before the first.",
            ),
            verify_findings: new.gauges(
                "walvault_verify_findings",
                "What the last verification by schedule found, by kind.",
                "kind",
                &kinds,
            ),
            verify_failing: new.integer(
                "walvault_verify_failing",
                "1 when the last verification by schedule could not look.",
            ),
            verify_objects_total: new.counter(
                "walvault_verify_objects_total",
                "Objects that verifications by schedule read.",
            ),
            verify_bytes_total: new.counter(
                "walvault_verify_bytes_total",
                "Bytes of the objects that verifications by schedule read.",
            ),
            prune_last_timestamp_seconds: new.gauge(
                "walvault_prune_last_timestamp_seconds",
                "When a prune by schedule last succeeded, in seconds since 1970; 0 before the first.",
            ),
            prune_failing: new.integer(
                "walvault_prune_failing",
                "1 when the last prune by schedule failed.",
            ),
            prune_removed_backups_total: new.counter(
                "walvault_prune_removed_backups_total",
                "Backups that prunes by schedule removed.",
            ),
            prune_removed_objects_total: new.counter(
                "walvault_prune_removed_objects_total",
                "Objects that prunes by schedule removed.",
            ),
            prune_removed_bytes_total: new.counter(
                "walvault_prune_removed_bytes_total",
                "Bytes of the objects that prunes by schedule removed.",
            ),
            prune_locked_objects: new.integer(
                "walvault_prune_locked_objects",
                "Objects that the last prune by schedule could not remove yet because they are locked.",
            ),
        }
    }
}

impl Metrics {
    /// Takes in what a verification found, this process's or an earlier one's.
    pub fn found(&self, at: Timestamp, findings: &[Finding]) {
        let upkeep = &self.upkeep;
        upkeep.verify_last_timestamp_seconds.set(seconds(at));
        for kind in FindingKind::ALL {
            let of_kind = findings.iter().filter(|finding| finding.kind == kind);
            let gauge = upkeep.verify_findings.with_label_values(&[kind.as_str()]);
            gauge.set(count(of_kind.count()));
        }
    }

    /// Counts a verification; `None` when it could not look.
    pub fn verified(&self, done: Option<&Verification>) {
        self.upkeep.verify_failing.set(done.is_none().into());
        if let Some(done) = done {
            self.found(clock::now(), &done.findings);
            self.upkeep.verify_objects_total.inc_by(done.read);
            self.upkeep.verify_bytes_total.inc_by(done.bytes);
        }
    }

    /// Counts a prune; `None` when it failed.
    pub fn pruned(&self, report: Option<&PruneReport>) {
        let upkeep = &self.upkeep;
        upkeep.prune_failing.set(report.is_none().into());
        if let Some(report) = report {
            let now = seconds(clock::now());
            upkeep.prune_last_timestamp_seconds.set(now);
            upkeep.prune_removed_backups_total.inc_by(report.backups);
            upkeep.prune_removed_objects_total.inc_by(report.objects);
            upkeep.prune_removed_bytes_total.inc_by(report.bytes);
            let locked = i64::try_from(report.locked).unwrap_or(i64::MAX);
            upkeep.prune_locked_objects.set(locked);
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
