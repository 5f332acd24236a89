//! The plan of a restore: which backup, which WAL, and where recovery will stop.
//!
//! A plan is a value that can be printed, and is made before anything is touched. It follows
//! PostgreSQL's own rules (`recoveryStopsBefore` and `recoveryStopsAfter` in
//! `src/backend/access/transam/xlogrecovery.c`) on the archive's commit indexes, so that a target
//! that recovery would not reach is refused, with the reason and the nearest that can be reached.

use std::ffi::OsString;

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::record::BackupRecord;
use walvault_layout::BackupId;
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, TimelineId};

use crate::target::{Point, Target};

mod candidate;
mod choose;
mod error;
mod way;

pub use choose::{Request, plan};
pub use error::{Nearest, PlanError};
pub use way::{ChangedSetting, NeededSetting, NewDatabase, NewTablespace, named};

/// What a restore is going to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestorePlan {
    /// The backup that is materialised.
    pub backup: PlannedBackup,
    /// Where to stop, as asked for.
    pub target: String,
    /// The timeline that recovery follows to its end.
    pub timeline: TimelineId,
    /// The timelines that WAL is replayed of, in order.
    pub timelines: Vec<TimelineId>,
    /// The WAL that is replayed.
    pub replay: Replay,
    /// Where recovery stops, and what it has then recovered.
    pub stop: Stop,
    /// Tablespaces that replay creates on its way, in the order of the WAL.
    pub tablespaces: Vec<NewTablespace>,
    /// Databases that replay creates on its way, in the order of the WAL.
    pub databases: Vec<NewDatabase>,
    /// Settings that replay needs, where they were changed on its way.
    pub settings: Vec<NeededSetting>,
    /// Settings of the server that wrote the WAL, where they changed on the way, in the order of the
    /// WAL.
    pub changed: Vec<ChangedSetting>,
    /// What the operator should know before.
    pub warnings: Vec<String>,
}

impl RestorePlan {
    /// What `wal-fetch` is told of the end: a hole from there on is no error. It may have been planned, or be
    /// WAL that is on its way to the archive while what follows it is there. A recovery to a target
    /// fails by itself where it has not reached it.
    #[must_use]
    pub fn fetch_arguments(&self) -> Vec<OsString> {
        vec!["--ends-at".into(), self.stop.lsn.to_string().into()]
    }

    /// What PostgreSQL is given as the target, where `asked` was asked for. It fails to reach the time
    /// of the last transaction of the archive, as nothing that is later tells that it was reached.
    #[must_use]
    pub fn recovery_target(&self, asked: &Target) -> Target {
        match (&asked.point, self.stop.reason, &self.stop.at) {
            (Point::Time(_), StopReason::AfterRecord, Some(last)) => {
                Target::inclusive(Point::Lsn(last.lsn))
            }
            // Nothing ended after the backup either.
            (Point::Time(_), StopReason::Consistent, _) => Target::inclusive(Point::Immediate),
            _ => asked.clone(),
        }
    }
}

/// The backup of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedBackup {
    /// Its name.
    pub id: BackupId,
    /// What the operator called it.
    pub label: String,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where the restored cluster is first consistent.
    pub stop_lsn: Lsn,
    /// When its data had been read.
    pub stopped_at: Timestamp,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its objects.
    pub stored_size: u64,
    /// How many files it has.
    pub file_count: u64,
}

/// A run of WAL to be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Its first byte.
    pub from: Lsn,
    /// The byte after the last.
    pub to: Lsn,
    /// Its length.
    pub bytes: u64,
    /// The objects that hold it.
    pub objects: u64,
    /// Their bytes, as they are stored.
    pub stored_bytes: u64,
}

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Replay goes up to here; with `--target-lsn`, to the first record boundary that fits.
    pub lsn: Lsn,
    /// Why there.
    pub reason: StopReason,
    /// The transaction end or restore point that PostgreSQL stops at, where there is one.
    pub at: Option<StopMark>,
    /// The last commit that is recovered, where the replayed WAL holds one.
    pub last_commit: Option<StopMark>,
    /// The first commit that is not recovered, where the archive holds one on this line.
    pub next_commit: Option<StopMark>,
}

/// Why recovery stops where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Before the record the target names, or the first one past it.
    BeforeRecord,
    /// After the record that the target names.
    AfterRecord,
    /// The cluster is consistent.
    Consistent,
    /// There is no more WAL.
    EndOfWal,
}

/// A transaction end or restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StopMark {
    /// The record's first byte.
    pub lsn: Lsn,
    /// When, by the server's clock.
    pub time: Option<Timestamp>,
    /// The transaction.
    pub xid: Option<u32>,
    /// The restore point's name.
    pub name: Option<String>,
}

impl From<&WalMark> for StopMark {
    fn from(mark: &WalMark) -> StopMark {
        let (xid, name) = match &mark.kind {
            MarkKind::Commit { xid } | MarkKind::Abort { xid } => (Some(*xid), None),
            MarkKind::RestorePoint { name } => (None, Some(name.clone())),
            // No target names them.
            MarkKind::Tablespace { .. }
            | MarkKind::Parameters(_)
            | MarkKind::Database(_)
            | MarkKind::FullPageWrites { .. } => (None, None),
        };
        StopMark {
            lsn: mark.start,
            time: Timestamp::from_microsecond(mark.time.unix_micros())
                .ok()
                .filter(|_| mark.kind.has_time()),
            xid,
            name,
        }
    }
}

impl From<&BackupRecord> for PlannedBackup {
    fn from(record: &BackupRecord) -> PlannedBackup {
        PlannedBackup {
            id: record.id.clone(),
            label: record.label.clone(),
            timeline: record.timeline,
            start_lsn: record.start_lsn,
            stop_lsn: record.stop_lsn,
            stopped_at: record.stopped_at,
            size: record.size,
            stored_size: record.stored_size,
            file_count: record.file_count,
        }
    }
}

#[cfg(test)]
mod tests;
