//! What verifying and pruning by schedule count.

use jiff::Timestamp;
use walvault_store::clock;
use walvault_upkeep::prune::PruneReport;
use walvault_upkeep::verify::{Finding, FindingKind, Verification};

use super::{Metrics, count, seconds};

impl Metrics {
    /// Takes in what a verification found, this process's or an earlier one's.
    pub fn found(&self, at: Timestamp, findings: &[Finding]) {
        self.verify_last_timestamp_seconds.set(seconds(at));
        for kind in FindingKind::ALL {
            let of_kind = findings.iter().filter(|finding| finding.kind == kind);
            let gauge = self.verify_findings.with_label_values(&[kind.as_str()]);
            gauge.set(count(of_kind.count()));
        }
    }

    /// Counts a verification; `None` when it could not look.
    pub fn verified(&self, done: Option<&Verification>) {
        self.verify_failing.set(done.is_none().into());
        if let Some(done) = done {
            self.found(clock::now(), &done.findings);
            self.verify_objects_total.inc_by(done.read);
            self.verify_bytes_total.inc_by(done.bytes);
        }
    }

    /// Counts a prune; `None` when it failed.
    pub fn pruned(&self, report: Option<&PruneReport>) {
        self.prune_failing.set(report.is_none().into());
        if let Some(report) = report {
            let now = seconds(clock::now());
            self.prune_last_timestamp_seconds.set(now);
            self.prune_removed_backups_total.inc_by(report.backups);
            self.prune_removed_objects_total.inc_by(report.objects);
            self.prune_removed_bytes_total.inc_by(report.bytes);
            let locked = i64::try_from(report.locked).unwrap_or(i64::MAX);
            self.prune_locked_objects.set(locked);
        }
    }
}
