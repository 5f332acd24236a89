//! Pruning: what may go, as a value that can be printed, and then its removal.
//!
//! [`plan`] decides and touches nothing; [`apply`] removes what the plan names, records first:
//! whenever it is cut off, what is still listed can be restored, and what is left over is garbage
//! that the next run collects. Keys and histories of timelines are never removed. Where the store
//! locks objects, those that stay are locked for longer first, and those that go and are still
//! locked are counted.

use serde::Serialize;
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::{Lsn, TimelineId};
use walvault_store::Leftover;

use crate::retention::{RetentionPolicy, Rule};

mod apply;
mod certify;
mod error;
mod extend;
mod fates;
mod need;
mod orphans;
mod plan;
mod under_way;

pub use apply::{PruneReport, apply};
pub use certify::{Certificate, Held, certify};
pub use error::PruneError;
pub use plan::{Asked, plan};

/// What goes and what stays, and why.
#[derive(Debug, Clone, Serialize)]
pub struct PrunePlan {
    /// The time it was made for.
    pub made_at: jiff::Timestamp,
    /// The policy it follows.
    pub policy: RetentionPolicy,
    /// Every complete backup, oldest first.
    pub backups: Vec<BackupFate>,
    /// The WAL of every timeline, in runs that share a fate.
    pub wal: Vec<WalFate>,
    /// What no backup owns and goes.
    pub orphans: Vec<Orphan>,
    /// What is removed, in order.
    #[serde(skip)]
    pub removals: Removals,
}

/// What becomes of a backup.
#[derive(Debug, Clone, Serialize)]
pub struct BackupFate {
    /// Its name.
    pub id: BackupId,
    /// When its data had been read.
    pub stop_time: jiff::Timestamp,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Bytes of its objects.
    pub stored_size: u64,
    /// Whether it goes.
    pub goes: bool,
    /// The rules that keep it.
    pub kept_by: Vec<Rule>,
    /// Why no rule keeps it.
    pub freed_by: Option<String>,
}

/// What becomes of a run of WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalFate {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its first byte.
    pub start_lsn: Lsn,
    /// The byte after its last.
    pub end_lsn: Lsn,
    /// Objects that hold it.
    pub objects: u64,
    /// Their bytes.
    pub stored_size: u64,
    /// Whether it goes.
    pub goes: bool,
    /// Why.
    pub because: WalReason,
}

/// Why WAL goes or stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum WalReason {
    /// This kept backup is restored with it.
    Needed {
        /// The oldest such backup.
        backup: BackupId,
    },
    /// The archive has no complete backup yet.
    NoBackup,
    /// No rule is set.
    NoPolicy,
    /// The newest timeline, of which no backup is complete yet, with the segment that it begins in; or
    /// one whose history is not held.
    Unfounded,
    /// Stored within the grace time.
    Recent,
    /// A backup is being taken that may need it.
    BackupUnderWay,
    /// It is sealed under a data key that no trusted writer signed.
    Foreign,
    /// It ends before the first kept backup on its way begins.
    BeforeFirstBackup,
    /// No kept backup leads to it.
    NoBackupLeadsHere,
    /// It lies between backups that `wal_window` trims.
    OutsideWalWindow,
}

/// What no backup owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// What it is.
    pub kind: OrphanKind,
    /// Where it lies.
    pub key: String,
    /// Its bytes.
    pub size: u64,
}

/// What an orphan is left over from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrphanKind {
    /// A backup that never became complete, or one whose removal was cut off.
    UnfinishedBackup,
    /// A chunk whose segment is stored whole.
    SupersededChunk,
    /// A file or an upload that was never finished.
    UnfinishedWrite,
    /// A lease whose time is over.
    ExpiredLease,
}

/// Objects to remove, with the sizes that were listed. Each field goes before the next.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    /// Records of backups.
    pub records: Vec<(BackupId, Removal)>,
    /// What those backups were made of.
    pub data: Vec<(BackupId, Removal)>,
    /// WAL, oldest first on each timeline.
    pub wal: Vec<Removal>,
    /// Records of gaps in WAL that is gone.
    pub gaps: Vec<Removal>,
    /// Objects that no backup owns.
    pub orphans: Vec<Removal>,
    /// Writes that were never finished.
    pub leftovers: Vec<Leftover>,
    /// Whole units, which stay, for whose sake chunks go.
    pub superseding: Vec<ObjectKey>,
}

/// An object to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its key.
    pub key: ObjectKey,
    /// Its bytes.
    pub size: u64,
}

impl Removals {
    /// Whether nothing is to be removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// How many objects go.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records.len()
            + self.data.len()
            + self.wal.len()
            + self.gaps.len()
            + self.orphans.len()
            + self.leftovers.len()
    }

    /// How many bytes go.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let owned = self.records.iter().chain(&self.data).map(|(_, r)| r.size);
        let others = [&self.wal, &self.gaps, &self.orphans];
        let others = others.into_iter().flatten().map(|removal| removal.size);
        let leftovers = self.leftovers.iter().map(|leftover| leftover.size);
        owned.chain(others).chain(leftovers).sum()
    }
}

#[cfg(test)]
mod tests;
