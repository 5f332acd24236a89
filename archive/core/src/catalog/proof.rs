//! What a name claims, proved by opening the object.
//!
//! Whoever may write to the store can put any name. A name makes no chunk superfluous and no timeline
//! exist: an object that opens under it does.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_layout::{ObjectKey, unit_containing};
use walvault_protocol::{Lsn, TimelineId};

use super::{Catalog, WalHeld};
use crate::archive::{Archive, wal_key};
use crate::error::Error;

/// How many whole units are opened at once.
const AT_ONCE: usize = 4;

/// Of a timeline without a history, so many of the objects stored first, and as many of those stored
/// last, are opened to see whether it exists.
const SAMPLE: usize = 16;

impl Catalog {
    /// The whole units of `timeline` of which chunks are held as well, by their first byte.
    pub fn superseding(
        &self,
        timeline: TimelineId,
    ) -> impl Iterator<Item = (Lsn, ObjectKey)> + use<> {
        let size = self.segment_size;
        let objects = self.wal(timeline).map(|wal| wal.objects.as_slice());
        let objects = objects.unwrap_or_default();
        let chunked: BTreeSet<Lsn> = objects
            .iter()
            .filter(|held| !held.whole)
            .map(|held| unit_containing(held.range.start, size).start)
            .collect();
        let units: Vec<(Lsn, ObjectKey)> = objects
            .iter()
            .filter(|held| held.whole && chunked.contains(&held.range.start))
            .map(|held| (held.range.start, wal_key(timeline, held.range, true)))
            .collect();
        units.into_iter()
    }

    /// Those of [`Catalog::superseding`] that open in `archive`: their chunks may go there. Units that
    /// end at `known` or before were proved by this process already.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn proven_units(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        known: Lsn,
    ) -> Result<BTreeSet<Lsn>, Error> {
        let is_known = |unit: Lsn| unit_containing(unit, self.segment_size).end <= known;
        let units = self.superseding(timeline);
        let (known, units): (Vec<_>, Vec<_>) = units.partition(|(unit, _)| is_known(*unit));
        let (starts, keys): (Vec<Lsn>, Vec<ObjectKey>) = units.into_iter().unzip();
        let opened = open_all(archive, keys).await?;
        let proven = starts.into_iter().zip(opened);
        let proven = proven.filter_map(|(unit, opens)| opens.then_some(unit));
        Ok(known
            .into_iter()
            .map(|(unit, _)| unit)
            .chain(proven)
            .collect())
    }

    /// Whether WAL of `timeline` opens, so that the timeline exists.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn proves(&self, archive: &Archive, timeline: TimelineId) -> Result<bool, Error> {
        let objects = self.wal(timeline).map(|wal| wal.objects.as_slice());
        // By the store's clock, which nobody forges: names that were planted since are not the first.
        let mut by_age: Vec<&WalHeld> = objects.unwrap_or_default().iter().collect();
        by_age.sort_by_key(|held| held.modified);
        let newest = by_age.len().saturating_sub(SAMPLE).max(SAMPLE);
        let sample = by_age.iter().take(SAMPLE).chain(by_age.iter().skip(newest));
        for held in sample {
            match held.meta(archive, timeline).await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_transient() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(false)
    }
}

/// Whether each of these objects opens under its name.
///
/// # Errors
/// When the store cannot be reached.
pub async fn open_all(archive: &Archive, keys: Vec<ObjectKey>) -> Result<Vec<bool>, Error> {
    // Collected, so that whoever waits for it may do so on any thread.
    let opening: Vec<_> = keys
        .into_iter()
        .map(|key| async move { opens(archive, &key).await })
        .collect();
    stream::iter(opening).buffered(AT_ONCE).try_collect().await
}

/// Whether an object opens under its name, all of it.
///
/// # Errors
/// When the store cannot be reached.
pub async fn opens(archive: &Archive, key: &ObjectKey) -> Result<bool, Error> {
    match archive.read::<Error>(key, |_| Ok(())).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_transient() => Err(error),
        Err(error) => {
            let (object, archive) = (archive.name(key), archive.url());
            tracing::warn!(object, archive, %error, "an object does not open, so that nothing gives way to it");
            Ok(false)
        }
    }
}
