//! Removing what a plan names.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use serde::Serialize;
use walvault_archive::archive::Archive;
use walvault_archive::error::Error;
use walvault_archive::record::{PruneRecord, PrunedWal};
use walvault_layout::{BackupId, ObjectKey, PRUNED_PREFIX, numbers};
use walvault_protocol::{LsnRange, TimelineId};
use walvault_store::StoreError;

use super::extend::extend;
use super::{PruneError, PrunePlan, Removal};
use crate::lock::Lock;

/// How many objects are removed at once.
const AT_ONCE: usize = 16;

/// How many objects of WAL are removed between two looks at the lock.
const BATCH: usize = 256;

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Backups that are gone.
    pub backups: u64,
    /// Objects that are gone, and writes that were abandoned.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that the store does not let go yet.
    pub locked: u64,
    /// Objects that stay and whose lock was made to last longer.
    pub extended: u64,
}

/// Makes the locks of what stays last, then removes what `plan` names, records first.
///
/// # Errors
/// When the archive cannot be written, or the lock was lost. What was removed until then is gone;
/// the next run takes the rest.
pub async fn apply(
    archive: &Archive,
    plan: &PrunePlan,
    lock: &mut Lock,
    by: &str,
) -> Result<PruneReport, PruneError> {
    let mut report = PruneReport {
        extended: extend(archive, plan, lock).await?,
        ..PruneReport::default()
    };
    let removals = &plan.removals;
    if removals.is_empty() {
        return Ok(report);
    }
    // What goes is not missed for the sake of what stays.
    let kept = plan.backups.iter().filter(|backup| !backup.goes);
    let kept = kept.map(|backup| ObjectKey::BackupRecord(backup.id.clone()));
    for key in kept.chain(removals.superseding.iter().cloned()) {
        lock.renew().await?;
        archive.reaffirm(&key).await?;
    }
    write_down(archive, plan, by).await?;
    let mut stuck: BTreeSet<&BackupId> = BTreeSet::new();
    for (id, record) in &removals.records {
        lock.renew().await?;
        match remove_one(archive, record).await? {
            true => {
                report.backups += 1;
                report.count(record);
            }
            false => {
                report.locked += 1;
                stuck.insert(id);
            }
        }
    }
    let data = removals.data.iter().filter(|(id, _)| !stuck.contains(id));
    let data: Vec<&Removal> = data.map(|(_, removal)| removal).collect();
    remove(archive, &data, lock, &mut report).await?;
    // A backup that is still listed needs its WAL: the next plan knows that it stays.
    if stuck.is_empty() {
        let wal: Vec<&Removal> = removals.wal.iter().chain(&removals.gaps).collect();
        remove(archive, &wal, lock, &mut report).await?;
    }
    let orphans: Vec<&Removal> = removals.orphans.iter().collect();
    remove(archive, &orphans, lock, &mut report).await?;
    for leftover in &removals.leftovers {
        archive
            .store()
            .remove_leftover(leftover)
            .await
            .map_err(Error::from)?;
        report.objects += 1;
        report.bytes += leftover.size;
    }
    Ok(report)
}

impl PruneReport {
    fn count(&mut self, removal: &Removal) {
        self.objects += 1;
        self.bytes += removal.size;
    }
}

/// Removes objects in order, a few at once.
async fn remove(
    archive: &Archive,
    removals: &[&Removal],
    lock: &mut Lock,
    report: &mut PruneReport,
) -> Result<(), PruneError> {
    for batch in removals.chunks(BATCH) {
        lock.renew().await?;
        // Collected, so that whoever waits for it may do so on any thread.
        let removing: Vec<_> = batch
            .iter()
            .map(|removal| async move { (removal, remove_one(archive, removal).await) })
            .collect();
        let mut removed = stream::iter(removing).buffered(AT_ONCE);
        while let Some((removal, outcome)) = removed.next().await {
            match outcome? {
                true => report.count(removal),
                false => report.locked += 1,
            }
        }
    }
    Ok(())
}

/// Removes an object; `false` when the store does not let it go.
async fn remove_one(archive: &Archive, removal: &Removal) -> Result<bool, Error> {
    match archive.erase(&removal.key).await {
        Ok(()) => Ok(true),
        Err(Error::Store(StoreError::Locked { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Stores the record of what is about to be removed.
async fn write_down(archive: &Archive, plan: &PrunePlan, by: &str) -> Result<(), Error> {
    let removals = &plan.removals;
    let wal = removals.wal.iter().chain(&removals.gaps);
    let record = PruneRecord {
        version: 1,
        at: plan.made_at,
        by: by.to_owned(),
        backups: removals.records.iter().map(|(id, _)| id.clone()).collect(),
        wal: runs(wal.filter_map(|removal| place(&removal.key))),
        orphans: plan
            .orphans
            .iter()
            .map(|orphan| orphan.key.clone())
            .collect(),
    };
    loop {
        let before = archive.list(PRUNED_PREFIX).await?;
        let taken = before.iter().filter_map(|listed| match listed.key {
            ObjectKey::Pruned(number) => Some(number),
            _ => None,
        });
        let number = numbers::next(taken).ok_or_else(|| Error::NumbersUsedUp {
            url: archive.url().to_owned(),
            prefix: PRUNED_PREFIX.to_owned(),
        })?;
        match archive
            .put_record(&ObjectKey::Pruned(number), &record)
            .await
        {
            Ok(_) => return Ok(()),
            Err(Error::Store(StoreError::Exists { .. })) => {}
            Err(error) => return Err(error),
        }
    }
}

fn place(key: &ObjectKey) -> Option<(TimelineId, LsnRange)> {
    match key {
        ObjectKey::Wal(object) => Some((object.timeline, object.range)),
        ObjectKey::Tail(timeline, range) | ObjectKey::Gap(timeline, range) => {
            Some((*timeline, *range))
        }
        _ => None,
    }
}

/// Joins what touches.
fn runs(places: impl Iterator<Item = (TimelineId, LsnRange)>) -> Vec<PrunedWal> {
    let mut by_timeline =
        std::collections::BTreeMap::<TimelineId, walvault_archive::Coverage>::new();
    for (timeline, range) in places {
        by_timeline.entry(timeline).or_default().insert(range);
    }
    let pruned = |(timeline, coverage): (TimelineId, walvault_archive::Coverage)| {
        let ranges = coverage.ranges().to_vec();
        ranges
            .into_iter()
            .map(move |range| PrunedWal { timeline, range })
    };
    by_timeline.into_iter().flat_map(pruned).collect()
}
