//! What names, sizes and records tell, before any object is read.

use std::collections::HashMap;

use serde::Deserialize;
use walvault_archive::archive::Listed;
use walvault_archive::catalog::Catalog;
use walvault_archive::coverage::Coverage;
use walvault_archive::error::Error;
use walvault_archive::record::{BackupRecord, PartRecord, PruneRecord};
use walvault_layout::{BackupId, ObjectKey, wal_prefix};
use walvault_protocol::{LsnRange, TimelineId};

use super::{Digest, FindingKind, Run};

/// As much of a backup's file list as says which parts it is made of.
#[derive(Deserialize)]
struct PartsOnly {
    parts: Vec<PartRecord>,
}

/// Checks coverage, and that every backup has its objects.
pub(super) async fn check(
    run: &mut Run,
    catalog: &Catalog,
    listing: &[Listed],
    pruned: &[PruneRecord],
) -> Result<(), Error> {
    if run.scope.backup.is_none() {
        holes(run, catalog, pruned).await?;
        histories(run, catalog);
    }
    let sizes: HashMap<&ObjectKey, u64> = listing
        .iter()
        .filter(|object| {
            matches!(
                object.key,
                ObjectKey::BackupPart(..) | ObjectKey::BackupManifest(_)
            )
        })
        .map(|object| (&object.key, object.size))
        .collect();
    for record in catalog.backups() {
        if run.includes(&record.id) {
            backup(run, catalog, record, &sizes).await?;
        }
    }
    Ok(())
}

/// Whether an object is stored under a backup's name, or is WAL that makes it consistent.
pub(super) fn belongs_to(catalog: &Catalog, id: &BackupId, key: &ObjectKey) -> bool {
    let record = catalog.backups().iter().find(|record| record.id == *id);
    let needed = |timeline: TimelineId, range: LsnRange| {
        record.is_some_and(|record| {
            let wal = record.wal_needed(catalog.segment_size());
            timeline == record.timeline && range.start < wal.end && range.end > wal.start
        })
    };
    match key {
        ObjectKey::BackupPart(of, _)
        | ObjectKey::BackupManifest(of)
        | ObjectKey::BackupFiles(of)
        | ObjectKey::BackupRecord(of)
        | ObjectKey::Keep(of, _) => of == id,
        ObjectKey::Wal(object) => needed(object.timeline, object.range),
        ObjectKey::Tail(timeline, range) => needed(*timeline, *range),
        _ => false,
    }
}

/// Holes in what is held that neither a gap nor a prune explains.
async fn holes(run: &mut Run, catalog: &Catalog, pruned: &[PruneRecord]) -> Result<(), Error> {
    let removed = |timeline: TimelineId| -> Coverage {
        let removed = pruned.iter().flat_map(|record| &record.wal);
        removed
            .filter(|wal| wal.timeline == timeline)
            .map(|wal| wal.range)
            .collect()
    };
    let holes = catalog.holes_beyond(removed);
    for hole in catalog.lasting(&run.archive, holes).await? {
        run.find(
            FindingKind::Missing,
            wal_prefix(hole.timeline),
            format!(
                "WAL from {} to {} is not there, and no gap was recorded; restore it from a copy of the archive, or take a backup",
                hole.range.start, hole.range.end
            ),
        );
    }
    Ok(())
}

/// Timelines that were branched off, and nobody knows where.
fn histories(run: &mut Run, catalog: &Catalog) {
    for (timeline, _) in catalog.timelines() {
        if timeline != TimelineId::FIRST && !catalog.histories().contains_key(&timeline) {
            let name = run.archive.name(&ObjectKey::History(timeline));
            let detail = "there is WAL of this timeline, but no history that reads: no restore leads to it from an earlier one";
            run.find(FindingKind::Missing, name, detail.to_owned());
        }
    }
}

async fn backup(
    run: &mut Run,
    catalog: &Catalog,
    record: &BackupRecord,
    sizes: &HashMap<&ObjectKey, u64>,
) -> Result<(), Error> {
    let id = &record.id;
    let mut missing: Vec<(FindingKind, String, String)> = Vec::new();
    let mut lacks = |kind, object, detail| missing.push((kind, object, detail));
    let reach = catalog
        .tips_from(record.timeline, record.stop_lsn)
        .into_iter()
        .map(|timeline| catalog.reach_from(&catalog.history(timeline), record))
        .max();
    if let Some(reach) = reach.filter(|reach| *reach < record.stop_lsn) {
        let stop = record.stop_lsn;
        let detail = format!("backup {id} needs WAL up to {stop}, which is there up to {reach}");
        lacks(FindingKind::Missing, wal_prefix(record.timeline), detail);
    }
    let notes = catalog.notes(id);
    for hole in notes.iter().flat_map(|notes| &notes.keeps.missing) {
        let name = |number: &u32| run.archive.name(&ObjectKey::Keep(id.clone(), *number));
        let more = match hole.start() == hole.end() {
            true => String::new(),
            false => format!(", nor can anything up to '{}'", name(hole.end())),
        };
        let detail = format!(
            "what was said about keeping the backup cannot be read any more{more}; the backup counts as kept"
        );
        lacks(FindingKind::Missing, name(hole.start()), detail);
    }
    let manifest = ObjectKey::BackupManifest(id.clone());
    if !sizes.contains_key(&manifest) {
        let detail = format!("backup {id} lacks PostgreSQL's manifest");
        lacks(FindingKind::Missing, run.archive.name(&manifest), detail);
    }
    let key = ObjectKey::BackupFiles(id.clone());
    match run.archive.get_record::<PartsOnly>(&key).await {
        Err(error) if error.is_missing() => {
            let detail = format!("backup {id} lacks its list of files");
            lacks(FindingKind::Missing, run.archive.name(&key), detail);
        }
        files => {
            let files = run.unless_damaged(&key, files)?;
            for part in files.into_iter().flat_map(|files| files.parts) {
                let owner = part.backup.unwrap_or_else(|| id.clone());
                let key = ObjectKey::BackupPart(owner, part.number);
                let name = run.archive.name(&key);
                match sizes.get(&key) {
                    Some(size) if *size == part.stored => {}
                    Some(size) => {
                        let detail = format!("it is {size} bytes long, not {}", part.stored);
                        lacks(FindingKind::Cut, name.clone(), detail);
                    }
                    None => {
                        let detail = format!("backup {id} needs it");
                        lacks(FindingKind::Missing, name.clone(), detail);
                    }
                }
                if let Some(digest) = Digest::parse(&part.sha256) {
                    run.parts.insert(name, digest);
                }
            }
        }
    }
    // A backup that is being pruned, or was complete only after its objects were listed, lacks nothing.
    if missing.is_empty() || !still_lacks(run, id, &missing).await? {
        return Ok(());
    }
    for (kind, object, detail) in missing {
        run.find(kind, object, detail);
    }
    Ok(())
}

/// Looks again, object by object, at what a backup seemed to lack.
async fn still_lacks(
    run: &Run,
    id: &BackupId,
    missing: &[(FindingKind, String, String)],
) -> Result<bool, Error> {
    let record = run.archive.name(&ObjectKey::BackupRecord(id.clone()));
    let store = run.archive.store();
    if store.head(&record).await?.is_none() {
        return Ok(false);
    }
    for (kind, object, _) in missing {
        // Coverage was read after the records, and is no single object.
        let is_object = *kind == FindingKind::Missing && !object.ends_with('/');
        let is_there = is_object && store.head(object).await?.is_some();
        if !is_there {
            return Ok(true);
        }
    }
    Ok(false)
}
