//! How each place stands when a stream begins.

use std::collections::BTreeSet;
use std::time::Duration;

use walvault_archive::{Archive, Catalog, Error};
use walvault_protocol::{Lsn, TimelineId};
use walvault_store::StoreError;

use crate::pipeline::{CatchUp, Destination};

/// How long a place may take to say what it holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A place that holds the archive, or is to.
pub struct Place {
    archive: Archive,
    /// What it holds; `None` when it does not say, or holds nothing yet.
    catalog: Option<Catalog>,
    /// Whether it holds all that any place does.
    whole: bool,
    /// The whole units that open there, of which it holds chunks as well.
    units: BTreeSet<(TimelineId, Lsn)>,
}

impl Place {
    /// As the stream sees it.
    #[must_use]
    pub fn destination(&self) -> Destination<'_> {
        Destination {
            archive: self.archive.clone(),
            catalog: self.catalog.as_ref(),
            whole: self.whole,
            units: Some(&self.units),
        }
    }
}

/// Looks at every place of `archive`, where there are several; `union` is what all of them hold
/// together.
///
/// # Errors
/// When a place holds another archive, or none answers.
pub async fn look(
    archive: &Archive,
    union: &Catalog,
    copies: &CatchUp,
) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    let Some(replicas) = copies.replicas() else {
        return Ok(places);
    };
    for (place, one) in archive.each().into_iter().enumerate() {
        let catalog = match replicas.admits(place).await {
            Ok(()) => read(&one).await,
            Err(refused @ StoreError::Refused { .. }) => return Err(refused.into()),
            Err(error) => {
                tracing::warn!(%error, "streaming without this copy of the archive for now");
                None
            }
        };
        // Chunks that stay for want of a proof are a prune's to remove.
        let units = async {
            let catalog = catalog.as_ref()?;
            proven(&one, catalog).await.ok()
        };
        let units = tokio::time::timeout(PATIENCE, units).await;
        places.push(Place {
            units: units.ok().flatten().unwrap_or_default(),
            whole: catalog.as_ref().is_some_and(|own| is_whole(own, union)),
            archive: one,
            catalog,
        });
    }
    if places.iter().all(|place| place.catalog.is_none()) {
        let reason = "none of the places that hold the archive says what it holds";
        return Err(StoreError::unavailable(archive.url(), "list", "", reason).into());
    }
    Ok(places)
}

/// The whole units of the newest timeline that open in a replica, of which it holds chunks as well.
pub(super) async fn proven(
    one: &Archive,
    catalog: &Catalog,
) -> Result<BTreeSet<(TimelineId, Lsn)>, Error> {
    let Some(timeline) = catalog.latest_timeline() else {
        return Ok(BTreeSet::new());
    };
    let units = catalog.proven_units(one, timeline, Lsn::INVALID).await?;
    Ok(units.into_iter().map(|unit| (timeline, unit)).collect())
}

async fn read(one: &Archive) -> Option<Catalog> {
    match tokio::time::timeout(PATIENCE, Catalog::load_wal(one)).await {
        Ok(Ok(catalog)) => Some(catalog),
        Ok(Err(error)) => {
            tracing::warn!(archive = one.url(), %error, "streaming without this copy of the archive for now");
            None
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            tracing::warn!(
                archive = one.url(),
                seconds,
                "streaming without this copy of the archive, which does not say what it holds"
            );
            None
        }
    }
}

/// Whether `own` has all the WAL that `union` has.
fn is_whole(own: &Catalog, union: &Catalog) -> bool {
    union.timelines().all(|(timeline, wal)| {
        let held = own.wal(timeline).map(|held| &held.coverage);
        let mut ranges = wal.coverage.ranges().iter();
        ranges.all(|range| held.is_some_and(|held| held.covers(range)))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use walvault_archive::archive::wal_key;
    use walvault_archive::keys::{KeyFile, Secret};
    use walvault_archive::seal::reads_whole;
    use walvault_layout::unit_containing;
    use walvault_protocol::{LsnRange, SegmentSize, SystemId};
    use walvault_store::{Body, MemoryStore, ObjectStore, Quorum, Replicas};

    use super::*;
    use crate::pipeline::Proven;
    use crate::pipeline::tail_ledger::TailLedger;

    /// The segment is whole in one replica, and in the other no more than a name.
    #[tokio::test]
    async fn a_segment_that_opens_in_one_replica_frees_no_chunk_of_another() {
        let stores = [(); 2].map(|()| Arc::new(MemoryStore::new()));
        let joined = stores.iter().map(|store| store.clone() as _).collect();
        let joined = Arc::new(Replicas::new(joined, Quorum::All, reads_whole));
        let key = KeyFile::from_secret(Secret::from_bytes(&zeroize::Zeroizing::new([7; 32])));
        let size = SegmentSize::DEFAULT;
        let archive = Archive::open_or_begin(joined, vec![key], SystemId(1), size);
        let archive = archive.await.unwrap();
        let first = TimelineId::FIRST;
        let unit = unit_containing(Lsn(0x300_0000), size);
        let chunk = LsnRange::new(unit.start, unit.start + 100);
        for key in [wal_key(first, unit, true), wal_key(first, chunk, false)] {
            let payload = Bytes::from_static(b"wal");
            archive.put_payload(&key, payload).await.unwrap();
        }
        let name = archive.name(&wal_key(first, unit, true));
        stores[1].delete(&name).await.unwrap();
        let planted = Body::new(Bytes::from_static(b"planted"));
        stores[1].put(&name, planted).await.unwrap();
        let mut freed = Vec::new();
        for one in archive.each() {
            let catalog = Catalog::load_wal(&one).await.unwrap();
            let units = proven(&one, &catalog).await.unwrap();
            let here = Proven::default().in_replica(&units, first);
            freed.push(TailLedger::open(&catalog, first, &here).1);
        }
        assert_eq!(freed, [vec![chunk], Vec::new()]);
    }
}
