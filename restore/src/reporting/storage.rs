//! What is stored, and how it grew.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::archive::Listed;
use walvault_layout::ObjectKey;

use super::acts::Act;
use super::span::Bucket;
use super::{Sources, Span};

/// It.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Storage {
    /// What is held of each kind, when the archive was read.
    pub held: Amounts,
    /// Its objects.
    pub objects: u64,
    /// What was stored within the span and is held still.
    pub stored: Amounts,
    /// What prunes removed within the span.
    pub removed_bytes: u64,
    /// What was stored, less what was removed, in a day.
    pub growth_bytes_per_day: f64,
    /// The same for each part of the span.
    pub chart: Vec<Growth>,
}

/// Bytes of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Segments and chunks.
    pub wal_bytes: u64,
    /// Base backups.
    pub backup_bytes: u64,
    /// Keys, events and records.
    pub other_bytes: u64,
}

/// What came and went in a part of the span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// What came, and is held still.
    #[serde(flatten)]
    pub stored: Amounts,
    /// What prunes removed.
    pub removed_bytes: u64,
}

impl Amounts {
    fn add(&mut self, object: &Listed) {
        let kind = match &object.key {
            ObjectKey::Wal(_) | ObjectKey::Tail(..) | ObjectKey::History(_) => &mut self.wal_bytes,
            ObjectKey::BackupPart(..)
            | ObjectKey::BackupManifest(_)
            | ObjectKey::BackupFiles(_)
            | ObjectKey::BackupRecord(_) => &mut self.backup_bytes,
            _ => &mut self.other_bytes,
        };
        *kind += object.size;
    }

    /// Of all kinds.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.wal_bytes + self.backup_bytes + self.other_bytes
    }
}

impl Storage {
    /// What was read; `prunes` are those of the span.
    #[must_use]
    pub fn of(sources: &Sources, prunes: &[Act], span: &Span, buckets: &[Bucket]) -> Storage {
        let mut storage = Storage {
            chart: vec![Growth::default(); buckets.len()],
            objects: sources.listing.len() as u64,
            ..Storage::default()
        };
        let bucket = |at: Timestamp| {
            let within = |bucket: &Bucket| bucket.from <= at && at < bucket.to;
            buckets.iter().position(within)
        };
        for object in &sources.listing {
            storage.held.add(object);
            if span.holds(object.modified) {
                storage.stored.add(object);
            }
            if let Some(bucket) = bucket(object.modified) {
                storage.chart[bucket].stored.add(object);
            }
        }
        for prune in prunes {
            let removed = prune
                .details
                .get("removed")
                .and_then(|it| it["bytes"].as_u64());
            let removed = removed.unwrap_or(0);
            storage.removed_bytes += removed;
            if let Some(bucket) = bucket(prune.at) {
                storage.chart[bucket].removed_bytes += removed;
            }
        }
        let days = span.seconds() / 86_400.0;
        storage.growth_bytes_per_day =
            (storage.stored.all() as f64 - storage.removed_bytes as f64) / days;
        storage
    }
}
