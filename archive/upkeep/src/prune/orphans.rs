//! What no backup owns: leftovers of backups, of chunks and of writes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;

use super::{Orphan, OrphanKind, Removal, Removals};
use walvault_archive::archive::{Archive, Listed, wal_key};
use walvault_archive::catalog::Catalog;
use walvault_archive::error::Error;
use walvault_archive::record::PartRecord;
use walvault_layout::{BackupId, ObjectKey};

/// Parts by the backup under whose name they are stored.
pub(super) type Parts = BTreeSet<(BackupId, u32)>;

/// As much of a backup's file list as says which parts it refers to.
#[derive(Deserialize)]
struct PartsOnly {
    parts: Vec<PartRecord>,
}

/// The parts stored under other backups' names that `kept` backups refer to.
pub(super) async fn borrowed<'a>(
    archive: &Archive,
    kept: impl IntoIterator<Item = &'a BackupId>,
) -> Result<Parts, Error> {
    let mut parts = Parts::new();
    for id in kept {
        let key = ObjectKey::BackupFiles(id.clone());
        let files: PartsOnly = archive.get_record(&key).await?;
        let borrowed = files.parts.into_iter();
        parts.extend(borrowed.filter_map(|part| Some((part.backup?, part.number))));
    }
    Ok(parts)
}

/// Collects what is `left` of backups, and whatever else is older than `before`.
pub(super) async fn collect(
    archive: &Archive,
    catalog: &Catalog,
    left: Vec<Listed>,
    borrowed: &Parts,
    before: Timestamp,
    removals: &mut Removals,
) -> Result<Vec<Orphan>, Error> {
    let mut orphans = Vec::new();
    for object in left {
        if is_borrowed(&object.key, borrowed) {
            continue;
        }
        orphans.push(orphan(archive, OrphanKind::UnfinishedBackup, &object));
        removals.orphans.push(Removal {
            key: object.key,
            size: object.size,
        });
    }
    let going: BTreeSet<String> = removals
        .wal
        .iter()
        .map(|removal| archive.name(&removal.key))
        .collect();
    for (timeline, wal) in catalog.timelines() {
        let units = wal.objects.iter().filter(|held| held.whole);
        let whole: walvault_archive::Coverage = units.clone().map(|held| held.range).collect();
        for held in wal.objects.iter().filter(|held| !held.whole) {
            let key = ObjectKey::Tail(timeline, held.range);
            let name = archive.name(&key);
            let superseded = held.modified < before && whole.covers(&held.range);
            if superseded && !going.contains(&name) {
                orphans.push(Orphan {
                    kind: OrphanKind::SupersededChunk,
                    key: name,
                    size: held.size,
                });
                removals.orphans.push(Removal {
                    key,
                    size: held.size,
                });
                let around = units.clone().filter(|unit| {
                    unit.range.start < held.range.end && unit.range.end > held.range.start
                });
                let around = around.map(|unit| wal_key(timeline, unit.range, true));
                removals.superseding.extend(around);
                removals.superseding.dedup();
            }
        }
    }
    removals.leftovers = archive.store().leftovers(before).await?;
    orphans.extend(removals.leftovers.iter().map(|leftover| Orphan {
        kind: OrphanKind::UnfinishedWrite,
        key: leftover.key.clone(),
        size: leftover.size,
    }));
    Ok(orphans)
}

/// Whether an object is a part that a kept backup refers to.
pub(super) fn is_borrowed(key: &ObjectKey, borrowed: &Parts) -> bool {
    match key {
        ObjectKey::BackupPart(id, number) => borrowed.contains(&(id.clone(), *number)),
        _ => false,
    }
}

fn orphan(archive: &Archive, kind: OrphanKind, object: &Listed) -> Orphan {
    Orphan {
        kind,
        key: archive.name(&object.key),
        size: object.size,
    }
}
