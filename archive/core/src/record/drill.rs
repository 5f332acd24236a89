//! How a drill went.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walvault_layout::{BackupId, DrillId};
use walvault_protocol::Lsn;

/// `drills/<id>`: a restore that was started, checked and thrown away. Durations are those of a clock
/// that nobody sets; instants are by the clock of the host, but for those that WAL tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// The drill's name.
    pub id: DrillId,
    /// What was drilled: `system-failure`, `data-corruption`, `key-loss`, `site-loss`.
    pub scenario: String,
    /// Whether everything was as it should be, the objectives included.
    pub outcome: DrillOutcome,
    /// Why not, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was begun.
    pub started: Timestamp,
    /// When it was done, its files removed.
    pub ended: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// Where it ran.
    pub host: String,
    /// Who ran it.
    pub operator: String,
    /// Why, as the operator says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The walvault that ran it.
    pub program: String,
    /// The version of PostgreSQL that was started, such as `15.18`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<String>,
    /// Where it was restored from.
    pub archive: String,
    /// The name of the recipient whose identity opened the data key of the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// The backup that was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    /// Where it was to stop.
    pub target: DrillTarget,
    /// Where it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<DrillReached>,
    /// What was done, in order.
    #[serde(default)]
    pub steps: Vec<DrillStep>,
    /// What was looked at.
    #[serde(default)]
    pub checks: Vec<DrillCheck>,
    /// The newest canary before the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// What it took.
    #[serde(default)]
    pub measured: DrillMeasures,
    /// The objectives then in force.
    pub objectives: DrillObjectives,
}

/// How a drill, a step or a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillOutcome {
    /// As it should.
    Passed,
    /// Otherwise.
    Failed,
    /// It could not be tried here; that alone fails no drill.
    Skipped,
}

impl DrillOutcome {
    /// As it is stored and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DrillOutcome::Passed => "passed",
            DrillOutcome::Failed => "failed",
            DrillOutcome::Skipped => "skipped",
        }
    }

    /// [`DrillOutcome::Passed`] or [`DrillOutcome::Failed`].
    #[must_use]
    pub fn of(passed: bool) -> DrillOutcome {
        match passed {
            true => DrillOutcome::Passed,
            false => DrillOutcome::Failed,
        }
    }
}

/// Where a drill was to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillTarget {
    /// As it was asked for, such as `a random instant`.
    pub asked: String,
    /// As it was restored to, such as `time 2026-11-21 06:30:00+00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// The instant, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The LSN at which replay was to stop, as was said before anything was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
}

/// Where a drill stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillReached {
    /// The end of the last record that was replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// The time of the last transaction that was replayed, by the clock of the server that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The timeline that was followed to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillStep {
    /// `plan`, `space`, `restore`, `consistent`, `target`, `checks`, `stop`, `page-checksums`, `remove`.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// How it went.
    pub outcome: DrillOutcome,
    /// What there is to say of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// `target`, `amcheck`, `page-checksums`, `canary`, `rto`, `rpo`, or `assert: ` and the name of an
    /// assertion.
    pub name: String,
    /// How it went.
    pub outcome: DrillOutcome,
    /// What should have been.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expected: String,
    /// What was, or why it was not looked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub found: String,
}

/// A message that walvaultd wrote into WAL to be found again (`pg_logical_emit_message`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Where its record begins.
    pub lsn: Lsn,
    /// When it was written, by the clock of the server.
    pub time: Timestamp,
}

/// What a drill took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillMeasures {
    /// Bytes of backup that were fetched, as they are stored.
    #[serde(default)]
    pub backup_bytes: u64,
    /// Bytes of WAL that replay needed, as they are stored.
    #[serde(default)]
    pub wal_bytes: u64,
    /// The objects that hold that WAL.
    #[serde(default)]
    pub wal_objects: u64,
    /// From the beginning of the drill until the cluster was consistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_consistent_seconds: Option<f64>,
    /// From the beginning of the drill until the cluster was at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_seconds: Option<f64>,
    /// The most that would have been lost: from the newest commit or canary that was restored to the
    /// beginning of the drill, or to the instant that was the target. Where nothing was committed for a
    /// while it is an upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<f64>,
}

/// Objectives, and whether they were kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillObjectives {
    /// `[objectives] rto`, where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_seconds: Option<f64>,
    /// `[objectives] rpo`.
    pub rpo_seconds: f64,
    /// Whether the target was reached in time; `None` where nothing was asked for, or reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_kept: Option<bool>,
    /// Whether no more would have been lost; `None` where it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_kept: Option<bool>,
}
