//! A backup as `list` and `show` print it.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::Catalog;
use walvault_archive::keep::Hold;
use walvault_archive::record::BackupRecord;
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, TimelineId};

/// A base backup.
#[derive(Debug, Serialize)]
pub struct Backup {
    /// Its name.
    pub id: BackupId,
    /// `full`, or how else it was taken.
    pub kind: String,
    /// What the operator called it.
    pub label: String,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// When it was begun.
    pub start_time: Timestamp,
    /// When its data had been read.
    pub stop_time: Timestamp,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its objects.
    pub stored_size: u64,
    /// Whether something keeps it from retention: `keep`, or a hold.
    pub kept: bool,
    /// `server_version_num` of the server it was taken from.
    pub server_version: u32,
    /// The data keys it is sealed under.
    pub keys: Vec<String>,
    /// Legal holds on it.
    pub holds: Vec<Hold>,
}

impl Backup {
    /// What `catalog` knows of it.
    #[must_use]
    pub fn of(catalog: &Catalog, record: &BackupRecord, now: Timestamp) -> Backup {
        let notes = catalog.notes(&record.id);
        Backup {
            id: record.id.clone(),
            kind: record.kind.clone(),
            label: record.label.clone(),
            start_lsn: record.start_lsn,
            stop_lsn: record.stop_lsn,
            start_time: record.started_at,
            stop_time: record.stopped_at,
            timeline: record.timeline,
            size: record.size,
            stored_size: record.stored_size,
            kept: record.kept || notes.is_some_and(|notes| notes.keeps.keeps(now)),
            server_version: record.server_version.0,
            keys: notes
                .map(|notes| notes.key_id.to_string())
                .into_iter()
                .collect(),
            holds: notes.map_or_else(Vec::new, |notes| notes.keeps.holds.clone()),
        }
    }

    /// Why it is kept, in a word.
    #[must_use]
    pub fn kept_word(&self, now: Timestamp) -> &'static str {
        match self.holds.iter().any(|hold| hold.is_active(now)) {
            true => "hold",
            false if self.kept => "yes",
            false => "no",
        }
    }
}

/// A server's version as people say it: `15.18`.
#[must_use]
pub fn server_version(number: u32) -> String {
    // Since 10, the number is major * 10000 + minor.
    format!("{}.{}", number / 10_000, number % 10_000)
}
