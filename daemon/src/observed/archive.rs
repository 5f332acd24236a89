//! The archive's contents at the last survey, as metrics, `/status` and notifications tell them.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::catalog::RecoveryWindow;
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, SystemId, TimelineId};

use crate::drills::DrillSeen;

/// What the archive held.
#[derive(Debug, Clone, Serialize)]
pub struct Survey {
    /// When it was looked at.
    pub at: Timestamp,
    /// How long that took.
    pub seconds: f64,
    /// Whose archive it is.
    pub system_id: SystemId,
    /// Spans in which every instant can be restored, oldest first.
    pub windows: Vec<RecoveryWindow>,
    /// Complete base backups, oldest first.
    pub backups: Vec<Backup>,
    /// Complete base backups whose records this host may not open, oldest first. Then no window is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withheld_backups: Vec<WithheldBackup>,
    /// WAL that is missing, by timeline and position.
    pub gaps: Vec<Gap>,
    /// Timelines, oldest first.
    pub timelines: Vec<Timeline>,
    /// The newest drill of each scenario.
    pub drills: Vec<DrillSeen>,
}

/// A base backup of which the host knows what names and listings tell.
#[derive(Debug, Clone, Serialize)]
pub struct WithheldBackup {
    /// Its name.
    pub id: BackupId,
    /// When its record was stored, by the store's clock.
    pub stored_at: Timestamp,
}

/// A base backup.
#[derive(Debug, Clone, Serialize)]
pub struct Backup {
    /// Its name.
    pub id: BackupId,
    /// `full`.
    pub kind: String,
    /// What it was called.
    pub label: String,
    /// When it was begun.
    pub start_time: Timestamp,
    /// When its data had been read.
    pub stop_time: Timestamp,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its objects.
    pub stored_size: u64,
}

/// WAL that is missing.
#[derive(Debug, Clone, Serialize)]
pub struct Gap {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte that is missing.
    pub start_lsn: Lsn,
    /// The first byte that is not.
    pub end_lsn: Lsn,
    /// Why, where it was noticed when it came about.
    pub cause: Option<String>,
    /// When it was noticed.
    pub noticed_at: Option<Timestamp>,
}

/// The WAL held of a timeline.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// Its number.
    pub timeline: TimelineId,
    /// The one it came from.
    pub parent: Option<TimelineId>,
    /// Where it left that one.
    pub begins_at: Option<Lsn>,
    /// When its first WAL was stored, by the store's clock.
    pub first_stored: Option<Timestamp>,
    /// The end of what is held of it.
    pub end_lsn: Option<Lsn>,
    /// Bytes stored.
    pub stored_size: u64,
}
