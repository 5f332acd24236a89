//! What no backup owns: leftovers of backups, of chunks and of writes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use walvault_archive::archive::{Archive, Listed, wal_key};
use walvault_archive::catalog::{Catalog, TimelineWal, WalHeld, open_all};
use walvault_archive::coverage::Coverage;
use walvault_archive::error::Error;
use walvault_archive::record::PartRecord;
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::{LsnRange, TimelineId};

use super::{Orphan, OrphanKind, Removal, Removals};

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
        let chunks = wal.objects.iter().filter(|held| !held.whole);
        let chunks = chunks.filter(|held| {
            let name = archive.name(&ObjectKey::Tail(timeline, held.range));
            held.modified < before && !going.contains(&name)
        });
        let (chunks, units) = superseded(archive, timeline, wal, chunks.collect()).await?;
        for held in chunks {
            let key = ObjectKey::Tail(timeline, held.range);
            orphans.push(Orphan {
                kind: OrphanKind::SupersededChunk,
                key: archive.name(&key),
                size: held.size,
            });
            removals.orphans.push(Removal {
                key,
                size: held.size,
            });
        }
        removals.superseding.extend(units);
    }
    removals.leftovers = archive.store().leftovers(before).await?;
    orphans.extend(removals.leftovers.iter().map(|leftover| Orphan {
        kind: OrphanKind::UnfinishedWrite,
        key: leftover.key.clone(),
        size: leftover.size,
    }));
    Ok(orphans)
}

/// Collects leases that are over.
pub(super) fn expired(
    archive: &Archive,
    leases: Vec<Listed>,
    removals: &mut Removals,
) -> Vec<Orphan> {
    let collected = leases
        .iter()
        .map(|lease| orphan(archive, OrphanKind::ExpiredLease, lease))
        .collect();
    removals
        .orphans
        .extend(leases.into_iter().map(|lease| Removal {
            key: lease.key,
            size: lease.size,
        }));
    collected
}

/// Those of `chunks` that whole units hold which open, and these units. A name supersedes nothing, and a
/// chunk goes from every replica: so its units have to open in each.
async fn superseded<'a>(
    archive: &Archive,
    timeline: TimelineId,
    wal: &'a TimelineWal,
    chunks: Vec<&'a WalHeld>,
) -> Result<(Vec<&'a WalHeld>, Vec<ObjectKey>), Error> {
    let around = |unit: &&WalHeld, chunks: &[&WalHeld]| {
        unit.whole && chunks.iter().any(|held| overlap(unit.range, held.range))
    };
    let units = wal.objects.iter();
    let mut units: Vec<&WalHeld> = units.filter(|unit| around(unit, &chunks)).collect();
    for replica in archive.each() {
        let keys = units.iter().map(|unit| wal_key(timeline, unit.range, true));
        let mut opened = match open_all(&replica, keys.collect()).await {
            Ok(opened) => opened.into_iter(),
            Err(error) => {
                tracing::warn!(%error, archive = replica.url(), "superseded chunks stay for now");
                return Ok((Vec::new(), Vec::new()));
            }
        };
        units.retain(|_| opened.next().unwrap_or(false));
    }
    let whole: Coverage = units.iter().map(|unit| unit.range).collect();
    let mut superseded = chunks;
    superseded.retain(|held| whole.covers(&held.range));
    units.retain(|unit| around(unit, &superseded));
    let units = units.into_iter();
    let units = units.map(|unit| wal_key(timeline, unit.range, true));
    Ok((superseded, units.collect()))
}

fn overlap(one: LsnRange, other: LsnRange) -> bool {
    one.start < other.end && one.end > other.start
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
