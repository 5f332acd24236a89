//! The backups that an archive holds.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_layout::{BACKUPS_PREFIX, BackupId, KeyId, ObjectKey, PRUNED_PREFIX};
use walvault_store::next_page;

use super::BackupNotes;
use crate::archive::Archive;
use crate::damage::Damage;
use crate::error::Error;
use crate::keep::Keeps;
use crate::record::{BackupRecord, PruneRecord};

/// How many small objects are read at once.
const READS_AT_ONCE: usize = 16;

/// A backup's name, and the numbers of what was said about keeping it; `None` where the listing
/// was cut before it came to them.
pub(super) struct Named {
    pub(super) id: BackupId,
    /// Whether its list of files is there, which is stored before its record and removed after it.
    has_files: bool,
    keeps: Option<Vec<u32>>,
}

/// The names of backups, complete or not. It skips from one to the next, so that the number of
/// parts does not matter.
pub(super) async fn name_backups(archive: &Archive) -> Result<Vec<Named>, Error> {
    let mut named: Vec<Named> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = archive
            .store()
            .list(BACKUPS_PREFIX, after.as_deref())
            .await?;
        let mut last = None;
        for object in &page.objects {
            // A name that is no backup's, with no backup before it in the listing to go back to.
            let Some((id, _)) = object.key[BACKUPS_PREFIX.len()..].split_once('/') else {
                continue;
            };
            if last.as_deref() != Some(id) {
                last = Some(id.to_owned());
                named.extend(BackupId::parse(id).map(|id| Named {
                    id,
                    has_files: false,
                    keeps: Some(Vec::new()),
                }));
            }
            // Names that are none may stand between those of backups.
            let Some(named) = named.last_mut() else {
                continue;
            };
            match ObjectKey::parse(&object.key, archive.segment_size()) {
                Some(ObjectKey::BackupFiles(id)) if id == named.id => named.has_files = true,
                Some(ObjectKey::Keep(id, number)) if id == named.id => {
                    named.keeps.get_or_insert_default().push(number);
                }
                _ => {}
            }
        }
        // Within a backup, keys go on up to `record`; '~' sorts after them all.
        let Some(mut next) = page.next else {
            return Ok(named);
        };
        if let Some(id) = last {
            let prefix = format!("{BACKUPS_PREFIX}{id}/");
            let cut = next.as_str() < format!("{prefix}keep/~").as_str();
            if let Some(Named { keeps, .. }) = named.last_mut().filter(|_| cut) {
                *keeps = None;
            }
            next = next.max(format!("{prefix}~"));
        }
        let store = &**archive.store();
        after = next_page(store, BACKUPS_PREFIX, after.as_deref(), Some(next))?;
    }
}

/// The backups that an archive names.
pub(super) struct Backups {
    /// Oldest first.
    pub(super) complete: Vec<(BackupRecord, BackupNotes)>,
    /// Those without a record, or with one that is all there is.
    pub(super) unfinished: Vec<BackupId>,
}

pub(super) async fn load_backups(archive: &Archive, damage: &Damage) -> Result<Backups, Error> {
    let load = |named: Named| async move {
        let (id, has_files) = (named.id.clone(), named.has_files);
        match load_backup(archive, named, damage).await {
            Ok(backup) => Ok(Some(Ok((backup, has_files)))),
            Err(error) if error.is_missing() => Ok(Some(Err(id))),
            Err(error) => {
                let name = archive.name(&ObjectKey::BackupRecord(id));
                damage.collect(name, error).map(|()| None)
            }
        }
    };
    let named = stream::iter(name_backups(archive).await?);
    let loaded: Vec<Option<Result<_, BackupId>>> = named
        .map(load)
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let loaded: Vec<Result<_, BackupId>> = loaded.into_iter().flatten().collect();
    let alone = |backup: &Result<(_, bool), _>| matches!(backup, Ok((_, false)));
    let pruned = match loaded.iter().any(alone) {
        true => pruned(archive).await?,
        false => BTreeSet::new(),
    };
    let (mut complete, mut unfinished) = (Vec::new(), Vec::new());
    for backup in loaded {
        match backup {
            Ok(((record, _), false)) if pruned.contains(&record.id) => unfinished.push(record.id),
            Ok((backup, _)) => complete.push(backup),
            Err(id) => unfinished.push(id),
        }
    }
    complete.sort_by(|(a, _): &(BackupRecord, _), (b, _)| {
        (a.started_at, &a.id).cmp(&(b.started_at, &b.id))
    });
    Ok(Backups {
        complete,
        unfinished,
    })
}

async fn load_backup(
    archive: &Archive,
    named: Named,
    damage: &Damage,
) -> Result<(BackupRecord, BackupNotes), Error> {
    let Named { id, keeps, .. } = named;
    let (mut record, key_id): (BackupRecord, KeyId) = archive
        .get_record_and_key(&ObjectKey::BackupRecord(id.clone()))
        .await?;
    let keeps = match keeps {
        None => Keeps::list(archive, &id, record.kept, damage).await?,
        Some(numbers) => Keeps::read(archive, &id, record.kept, numbers, damage).await?,
    };
    record.kept = keeps.kept;
    Ok((record, BackupNotes { keeps, key_id }))
}

/// The backups that prunes removed, complete or not. A PUT of a record that went unanswered is repeated, and may
/// arrive when all else of the backup is gone.
async fn pruned(archive: &Archive) -> Result<BTreeSet<BackupId>, Error> {
    let mut pruned = BTreeSet::new();
    for object in archive.list(PRUNED_PREFIX).await? {
        match archive.get_record::<PruneRecord>(&object.key).await {
            Ok(record) => {
                let orphans = record.orphans.iter();
                pruned.extend(orphans.filter_map(|name| id_in(name)));
                pruned.extend(record.backups);
            }
            Err(error) if error.is_transient() => return Err(error),
            // What is not known to have been removed counts.
            Err(_) => {}
        }
    }
    Ok(pruned)
}

/// The backup that an object of this name belongs to.
fn id_in(name: &str) -> Option<BackupId> {
    let (id, _) = name.strip_prefix(BACKUPS_PREFIX)?.split_once('/')?;
    BackupId::parse(id)
}

#[cfg(test)]
mod tests;
