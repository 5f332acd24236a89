//! Every metric of the sidecar.
//!
//! Names and units follow Prometheus' own rules (its documentation, "Metric and label naming"). Every label has a
//! fixed set of values, so that the number of series does not grow. The tables of `docs/metrics.md` are written
//! from here: see the tests.

use super::declare::metrics;

metrics! {
    /// A handle for each metric.
    pub struct Declared {
        "How far behind the archive is" => {
            rpo_seconds: Gauge
                = "Age of the oldest commit that may not be in the archive; 0 when there is none";
            rpo_objective_seconds: Gauge
                = "What `[objectives] rpo` asks for";
            wal_unarchived_bytes: Gauge
                = "Bytes of the server's WAL beyond the watermark";
            wal_server_lsn_bytes: Gauge
                = "The end of the server's WAL, as the server last told";
            wal_received_lsn_bytes: Gauge
                = "The end of the WAL that was received";
            wal_archived_lsn_bytes: Gauge
                = "The watermark: all WAL before it is durable in the archive";
            archive_lag_bytes: GaugeVec["archive"]
                = "Bytes of the server's WAL that a replica does not hold without a gap; `archive` is its URL";
            archive_behind: IntGaugeVec["archive"]
                = "1 while one of several replicas is away or lacks something; `archive` is its URL";
            archive_copied_objects_total: IntCounter
                = "Objects that a replica was brought later than others had them";
            ack_seconds: Histogram
                = "From the receipt of WAL with a commit until it is durable in the archive";
            commits_wait: IntGauge
                = "1 while commits wait for the archive (synchronous mode)";
        }
        "The stream" => {
            streaming: IntGauge
                = "1 while WAL is streamed; 0 also beside a standby";
            conflict: IntGauge
                = "1 while server and archive contradict each other, and nothing is archived until the conflict is settled";
            timeline: IntGauge
                = "The timeline that is streamed";
            wal_received_bytes_total: IntCounter
                = "Bytes of WAL that were received";
            wal_stored_bytes_total: IntCounter
                = "Bytes of the objects of WAL that were stored";
            wal_objects_stored_total: IntCounterVec["object"]
                = "Objects of WAL that were stored: `segment`, `chunk`, or `merged` (several chunks as one)";
            memory_in_flight_bytes: IntGauge
                = "Bytes of WAL in memory, on their way to the archive; at most about `[wal] memory`";
            reconnects_total: IntCounter
                = "Times that streaming began again after it had ended";
            stream_errors_total: IntCounterVec["kind"]
                = "Times that streaming ended or did not begin: `connection`, `refused` (by the server), `archive`, `wal`, `gap`, `superseded`, `other`";
        }
        "The slot" => {
            slot_retained_bytes: Gauge
                = "WAL that the server keeps for the slot";
            slot_headroom_bytes: Gauge
                = "WAL that can still be written before `max_slot_wal_keep_size` ends the slot; `+Inf` without a limit";
            wal_disk_free_bytes: Gauge
                = "Bytes free on the disk of the server's `pg_wal`; `+Inf` where `[postgres] wal_dir` does not say where that is";
            slot_exhaustion_seconds: Gauge
                = "Seconds until headroom or disk is used up at the present rate, should nothing be archived any more; `+Inf` when nothing is written";
            slot_lost: IntGauge
                = "1 when the server no longer promises to keep what the archive lacks";
        }
        "The object store" => {
            store_request_seconds: HistogramVec["operation"]
                = "How long the store took to answer: `put`, `get`, `head`, `list`, `delete`; each attempt counts";
            store_request_errors_total: IntCounterVec["operation", "kind"]
                = "Requests that failed (`unavailable`, tried again) or were `refused`; each attempt counts";
        }
        "Data keys" => {
            data_keys: IntGaugeVec["state"]
                = "Data keys by how they stood at the last check: `opens`, `closed` (for others than the identities here: all of them where there are none), `unreachable` (KMS did not open them), `damaged`";
            data_keys_checked_timestamp_seconds: Gauge
                = "When data keys were last checked, in seconds since 1970; 0 before the first check";
            data_key_created_timestamp_seconds: Gauge
                = "When the newest data key, which is sealed under, was made: `time() -` this is its age; 0 before the first check";
            kms_reachable: IntGauge
                = "0 when KMS is a recipient and could not be asked to wrap at the last check";
            audit_events_waiting: IntGauge
                = "Events that are not in the audit trail yet; they are stored when the archive is back";
            data_key_rotation_failing: IntGauge
                = "1 while a data key that is due cannot be made; sealing goes on under the one there is";
        }
        "The archive" => {
            survey_timestamp_seconds: Gauge
                = "When the archive was last surveyed, in seconds since 1970; 0 before the first time";
            gaps: IntGauge
                = "Runs of WAL that the archive lacks between what it holds";
            recovery_window_start_timestamp_seconds: Gauge
                = "The first instant of the newest recovery window, in seconds since 1970; 0 without one";
            recovery_window_end_timestamp_seconds: Gauge
                = "The newest commit in the newest recovery window, in seconds since 1970; 0 without one";
            backups: IntGauge
                = "Complete base backups in the archive";
            backup_last_timestamp_seconds: Gauge
                = "When the data of the newest base backup had been read, in seconds since 1970; 0 without one";
            backup_last_duration_seconds: Gauge
                = "How long the newest base backup took to read";
            backup_last_size_bytes: Gauge
                = "Bytes of the files of the newest base backup";
            backup_last_stored_bytes: Gauge
                = "Bytes of the objects of the newest base backup";
            backup_last_size_ratio: Gauge
                = "Size of the newest base backup over the median of up to seven before it; 1 for the first";
            backups_taken_total: IntCounterVec["result"]
                = "Base backups that this process ended: `success` or `failure`";
            estimated_restore_seconds: Gauge
                = "How long a restore of the newest instant may take: backup and WAL at 100 MiB/s; 0 when nothing can be restored";
            key_trouble: IntGauge
                = "1 while the archive's keys cannot be used";
        }
        "Upkeep" => {
            drill_last_timestamp_seconds: GaugeVec["scenario"]
                = "When the newest drill was begun, wherever it was run, in seconds since 1970; none before the first";
            drill_last_success_timestamp_seconds: GaugeVec["scenario"]
                = "When the newest drill that passed was begun, in seconds since 1970; 0 when none did";
            drill_last_passed: GaugeVec["scenario"]
                = "1 when the newest drill passed, 0 when it failed";
            drill_last_duration_seconds: GaugeVec["scenario"]
                = "How long the newest drill took; like the next two, only where its record is for this host to read";
            drill_last_rto_seconds: GaugeVec["scenario"]
                = "How long the newest drill took until the cluster was at its target";
            drill_last_rpo_seconds: GaugeVec["scenario"]
                = "The most that would have been lost by the newest drill";
            canary_last_timestamp_seconds: Gauge
                = "When the last canary was written into WAL, in seconds since 1970; 0 before the first";
            verify_last_timestamp_seconds: Gauge
                = "When a verification by schedule last ended, in seconds since 1970; 0 before the first";
            verify_findings: IntGaugeVec["kind"]
                = "What the last verification by schedule found: `missing`, `cut`, `altered`, `swapped`, `replayed`, `closed`, `unreadable`, `content`";
            verify_failing: IntGauge
                = "1 when the last verification by schedule could not look";
            verify_objects_total: IntCounter
                = "Objects that verifications by schedule read";
            verify_bytes_total: IntCounter
                = "Bytes of the objects that verifications by schedule read";
            prune_last_timestamp_seconds: Gauge
                = "When a prune by schedule last succeeded, in seconds since 1970; 0 before the first";
            prune_failing: IntGauge
                = "1 when the last prune by schedule failed";
            prune_removed_backups_total: IntCounter
                = "Backups that prunes by schedule removed";
            prune_removed_objects_total: IntCounter
                = "Objects that prunes by schedule removed";
            prune_removed_bytes_total: IntCounter
                = "Bytes of the objects that prunes by schedule removed";
            prune_locked_objects: IntGauge
                = "Objects that the last prune by schedule could not remove yet because they are locked";
        }
        "The program" => {
            build_info: IntGaugeVec["version"]
                = "Always 1; the label says which version runs";
            start_time_seconds: Gauge
                = "When this process began, in seconds since 1970";
        }
    }
}
