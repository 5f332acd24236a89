//! What a prune can prove once it is done.

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::archive::Archive;
use walvault_archive::catalog::Catalog;
use walvault_archive::error::Error;
use walvault_layout::{BackupId, ObjectKey};

use super::{PrunePlan, Removal};

/// How many objects are looked for at once.
const AT_ONCE: usize = 16;

/// An object that the store does not let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Its name.
    pub key: String,
    /// Until when; `null` where nothing is locked, or the store does not tell.
    pub until: Option<Timestamp>,
}

/// That what was to go is gone, and that what stays restores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Objects that were looked for and are not there, in no version.
    pub gone: u64,
    /// Objects that are there still.
    pub held: Vec<Held>,
    /// Multipart uploads that were removed and are not there.
    pub uploads_gone: u64,
    /// Multipart uploads that are there still.
    pub uploads_held: Vec<String>,
    /// Backups that stay and have all the WAL that makes them consistent.
    pub restorable: Vec<BackupId>,
    /// Backups that stay and lack some.
    pub lacking: Vec<BackupId>,
}

/// Looks for everything that `plan` removed, and whether what stays has what it needs.
///
/// # Errors
/// When the archive cannot be read.
pub async fn certify(archive: &Archive, plan: &PrunePlan) -> Result<Certificate, Error> {
    let mut certificate = Certificate::default();
    let removals = &plan.removals;
    let records = removals.records.iter().map(|(_, removal)| removal);
    let data = removals.data.iter().map(|(_, removal)| removal);
    let rest = removals
        .wal
        .iter()
        .chain(&removals.gaps)
        .chain(&removals.orphans);
    // Collected, so that whoever waits for it may do so on any thread.
    let looking: Vec<_> = records
        .chain(data)
        .chain(rest)
        .map(|removal| look(archive, removal))
        .collect();
    let mut looked = stream::iter(looking).buffered(AT_ONCE);
    while let Some(held) = looked.try_next().await? {
        match held {
            None => certificate.gone += 1,
            Some(held) => certificate.held.push(held),
        }
    }
    if !removals.leftovers.is_empty() {
        let there = archive.store().leftovers(plan.made_at).await?;
        for leftover in &removals.leftovers {
            match there.iter().any(|other| other.upload == leftover.upload) {
                true => certificate.uploads_held.push(leftover.key.clone()),
                false => certificate.uploads_gone += 1,
            }
        }
    }
    let catalog = Catalog::load(archive).await?;
    let goes = |id: &BackupId| plan.backups.iter().any(|fate| fate.goes && fate.id == *id);
    for backup in catalog.backups() {
        // Its record was removed, and is there again or still: it does not stay, and is not gone.
        if goes(&backup.id) {
            let key = archive.name(&ObjectKey::BackupRecord(backup.id.clone()));
            if !certificate.held.iter().any(|held| held.key == key) {
                certificate.gone = certificate.gone.saturating_sub(1);
                let until = archive.store().locked_until(&key).await?;
                certificate.held.push(Held { key, until });
            }
            continue;
        }
        let history = catalog.history(backup.timeline);
        match catalog.reach_from(&history, backup) >= backup.stop_lsn {
            true => certificate.restorable.push(backup.id.clone()),
            false => certificate.lacking.push(backup.id.clone()),
        }
    }
    Ok(certificate)
}

async fn look(archive: &Archive, removal: &Removal) -> Result<Option<Held>, Error> {
    let key = archive.name(&removal.key);
    if !archive.store().remains(&key).await? {
        return Ok(None);
    }
    let until = archive.store().locked_until(&key).await?;
    Ok(Some(Held { key, until }))
}
