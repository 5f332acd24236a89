//! What a prune leaves behind: a record of what it set out to remove.

use serde::{Deserialize, Serialize};
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::{LsnRange, TimelineId};

/// `pruned/<number>`: written before the first object is removed, so that nothing that walvault
/// removed is ever missed without an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// When.
    pub at: jiff::Timestamp,
    /// Who, such as `walvault prune (process 71 of user 26 on db1)`.
    pub by: String,
    /// Backups.
    pub backups: Vec<BackupId>,
    /// WAL: runs of objects, and gaps in them.
    pub wal: Vec<PrunedWal>,
    /// Keys of orphans.
    pub orphans: Vec<String>,
}

/// A run of WAL that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedWal {
    /// Its timeline.
    pub timeline: TimelineId,
    /// From the start of its first object to the end of its last.
    pub range: LsnRange,
}

impl PruneRecord {
    /// Whether it explains that an object is gone.
    #[must_use]
    pub fn explains(&self, key: &ObjectKey, name: &str) -> bool {
        let wal = |timeline: TimelineId, range: LsnRange| {
            self.wal
                .iter()
                .any(|pruned| pruned.timeline == timeline && pruned.range.covers(&range))
        };
        let backup = |id: &BackupId| self.backups.contains(id);
        self.orphans.iter().any(|orphan| orphan == name)
            || match key {
                ObjectKey::Wal(object) => wal(object.timeline, object.range),
                ObjectKey::Tail(timeline, range) | ObjectKey::Gap(timeline, range) => {
                    wal(*timeline, *range)
                }
                ObjectKey::BackupPart(id, _)
                | ObjectKey::BackupManifest(id)
                | ObjectKey::BackupFiles(id)
                | ObjectKey::BackupRecord(id)
                | ObjectKey::Keep(id, _) => backup(id),
                _ => false,
            }
    }
}
