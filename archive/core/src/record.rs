//! What is stored, apart from the code that moves it.

use serde::{Deserialize, Serialize};
use walvault_protocol::{LsnRange, SegmentSize, SystemId, TimelineId};

pub mod backup;
pub mod commit_index;
mod digest;
pub mod drill;
pub mod keep;
mod lock;
mod prune;
pub mod rpo;
mod verified;

pub use backup::{
    BackupFiles, BackupRecord, Extent, FileKind, FilePath, FileRecord, PartRecord, TablespaceRecord,
};
pub use digest::Digest;
pub use drill::{
    Canary, DrillCheck, DrillMeasures, DrillObjectives, DrillOutcome, DrillReached, DrillRecord,
    DrillStep, DrillTarget,
};
pub use keep::{KeepChange, KeepRecord};
pub use lock::LockRecord;
pub use prune::{PruneRecord, PrunedWal};
pub use rpo::{ClockStep, RpoBreach, RpoSample, RpoSeries};
pub use verified::{Depth, Finding, FindingKind, Seen, VerifiedRecord};

/// The archive format this build writes, and the newest it reads.
pub const ARCHIVE_FORMAT: u32 = 1;

/// `archive.json`: whose archive this is. The only object that is neither sealed nor a wrapped
/// key: it holds nothing that the names of the other objects do not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecord {
    /// The archive format.
    pub format: u32,
    /// 128 random bits, hexadecimal. Every object is bound to it.
    pub archive_id: String,
    /// The PostgreSQL system whose WAL and backups these are.
    pub system_id: SystemId,
    /// Its segment size in bytes.
    pub segment_size: SegmentSize,
    /// When the archive was begun.
    pub created_at: jiff::Timestamp,
    /// The walvault that began it.
    pub created_by: String,
}

impl ArchiveRecord {
    /// The 128 bits of `archive_id`.
    #[must_use]
    pub fn id_bytes(&self) -> Option<[u8; 16]> {
        let mut id = [0; 16];
        hex::decode_to_slice(&self.archive_id, &mut id).ok()?;
        Some(id)
    }
}

/// `gaps/…`: WAL that was gone from the server before it could be archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// The version of this structure.
    pub version: u32,
    /// The timeline.
    pub timeline: TimelineId,
    /// What is not archived.
    pub range: LsnRange,
    /// Why, in words.
    pub cause: String,
    /// When it was found.
    pub noticed_at: jiff::Timestamp,
}

/// `writers/<epoch>`: who took the right to write WAL. The highest epoch has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// The server whose WAL it writes, as it reaches it.
    pub server: String,
    /// The timeline it began on.
    pub timeline: TimelineId,
    /// When.
    pub taken_at: jiff::Timestamp,
    /// 64 random bits, hexadecimal, so that no two records are alike.
    pub token: String,
}
