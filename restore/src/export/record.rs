//! What is noted of a copy: in the directory while it is written, and on each volume for good.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walvault_archive::catalog::RecoveryWindow;
use walvault_archive::record::BackupRecord;
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, TimelineId};

/// An object, as it lies in the archive and in the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
}

/// What a copy is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// The archive.
    pub archive_id: String,
    /// The PostgreSQL system.
    pub system_id: String,
    /// When it was begun; nothing else here depends on the time.
    pub begun_at: Timestamp,
    /// The walvault that wrote it.
    pub made_by: String,
    /// What was asked for, as on the command line.
    pub choice: String,
    /// The backups in it; `None` where it was written without an identity.
    pub backups: Option<Vec<ExportedBackup>>,
    /// What can be restored from it; `None` where it was written without an identity.
    pub windows: Option<Vec<ExportedWindow>>,
    /// Who can open it: the recipients of each data key.
    pub keys: BTreeMap<String, Vec<String>>,
    /// What whoever restores should know.
    pub notes: Vec<String>,
}

/// A backup that was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedBackup {
    /// Its name.
    pub id: BackupId,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When its data had been read.
    pub stopped_at: Timestamp,
    /// The timeline it was taken on.
    pub timeline: u32,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// Bytes of its files.
    pub size: u64,
    /// `server_version_num` of the server.
    pub server_version: u32,
}

/// A span in which every instant can be restored from the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedWindow {
    /// The backup that begins it.
    pub backup: BackupId,
    /// The timeline that its end is on.
    pub timeline: u32,
    /// From here.
    pub start_lsn: Lsn,
    /// Up to here.
    pub end_lsn: Lsn,
    /// When the backup had been read.
    pub start_time: Timestamp,
    /// The newest commit in it.
    pub end_time: Option<Timestamp>,
}

/// One volume, as `EXPORT.json` on it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeRecord<'a> {
    /// The copy that it is of.
    #[serde(flatten)]
    pub export: &'a ExportRecord,
    /// Which volume, from 1.
    pub volume: usize,
    /// Of how many.
    pub volumes: usize,
    /// What is on it, in order of the names.
    pub objects: Vec<&'a Exported>,
}

/// An export under way, in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// What it is of.
    pub export: ExportRecord,
    /// Bytes of a volume; `None` for one copy in one directory.
    pub volume_size: Option<u64>,
    /// The objects of each volume.
    pub volumes: Vec<Vec<Exported>>,
    /// Finished volumes, counted from 0, with the SHA-256 of their `SHA256SUMS`.
    pub done: BTreeMap<usize, String>,
}

impl From<&BackupRecord> for ExportedBackup {
    fn from(record: &BackupRecord) -> ExportedBackup {
        ExportedBackup {
            id: record.id.clone(),
            started_at: record.started_at,
            stopped_at: record.stopped_at,
            timeline: record.timeline.get(),
            start_lsn: record.start_lsn,
            stop_lsn: record.stop_lsn,
            size: record.size,
            server_version: record.server_version.0,
        }
    }
}

impl From<RecoveryWindow> for ExportedWindow {
    fn from(window: RecoveryWindow) -> ExportedWindow {
        ExportedWindow {
            backup: window.backup,
            timeline: TimelineId::get(window.timeline),
            start_lsn: window.start_lsn,
            end_lsn: window.end_lsn,
            start_time: window.start_time,
            end_time: window.end_time,
        }
    }
}
