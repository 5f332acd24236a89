//! Locks that last as long as something kept depends on what they lock.
//!
//! An object is locked for a fixed time when it is put. As soon as half of that is over, or when it
//! was put without a lock, a prune that lets it stay locks it for the whole time anew. So what stays
//! is locked for at least half of that time after a prune. Each prune asks after every object that
//! stays; a listing tells nothing of locks.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::archive::{Archive, Listed};
use walvault_archive::error::Error;
use walvault_layout::ObjectKey;

use super::PrunePlan;
use crate::lock::Lock;

/// How many objects are looked at at once.
const AT_ONCE: usize = 16;

/// How many objects are looked at between two looks at the upkeep lock.
const BATCH: usize = 1024;

/// Extends the locks of what `plan` lets stay; how many.
pub(super) async fn extend(
    archive: &Archive,
    plan: &PrunePlan,
    lock: &mut Lock,
) -> Result<u64, Error> {
    if archive
        .store()
        .retention(&archive.name(&ObjectKey::Archive))
        .is_none()
    {
        return Ok(0);
    }
    let going = going(archive, plan);
    let mut due: Vec<(String, Duration)> = Vec::new();
    for Listed { key, .. } in archive.list("").await? {
        let name = archive.name(&key);
        let Some(length) = archive.store().retention(&name) else {
            continue;
        };
        let lasts = !matches!(
            key,
            // The trail is locked for years when it is written, and no longer.
            ObjectKey::Writer(_)
                | ObjectKey::Pruned(_)
                | ObjectKey::Verified(_)
                | ObjectKey::Audit(..)
        );
        if lasts && !going.contains(&name) {
            due.push((name, length));
        }
    }
    let mut extended = 0;
    for batch in due.chunks(BATCH) {
        lock.renew().await?;
        // Collected, so that whoever waits for it may do so on any thread.
        let looking: Vec<_> = batch
            .iter()
            .map(|(name, length)| extend_one(archive, name, *length, plan.made_at))
            .collect();
        let looked = stream::iter(looking).buffer_unordered(AT_ONCE);
        extended += looked
            .try_fold(0, |sum, longer| async move { Ok(sum + u64::from(longer)) })
            .await?;
    }
    Ok(extended)
}

/// The names of what goes.
fn going(archive: &Archive, plan: &PrunePlan) -> BTreeSet<String> {
    let removals = &plan.removals;
    let owned = removals.records.iter().chain(&removals.data);
    let owned = owned.map(|(_, removal)| removal);
    let others = [&removals.wal, &removals.gaps, &removals.orphans];
    owned
        .chain(others.into_iter().flatten())
        .map(|removal| archive.name(&removal.key))
        .collect()
}

/// Locks an object for `length` from `now` on, if it is locked for less than half of that.
async fn extend_one(
    archive: &Archive,
    name: &str,
    length: Duration,
    now: jiff::Timestamp,
) -> Result<bool, Error> {
    let store = archive.store();
    let enough = now.checked_add(length / 2).unwrap_or(jiff::Timestamp::MAX);
    let until = now.checked_add(length).unwrap_or(jiff::Timestamp::MAX);
    if store
        .locked_until(name)
        .await?
        .is_some_and(|held| held > enough)
    {
        return Ok(false);
    }
    match store.retain(name, until).await {
        Ok(()) => Ok(true),
        // A chunk that its sidecar removed meanwhile.
        Err(walvault_store::StoreError::Missing { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
