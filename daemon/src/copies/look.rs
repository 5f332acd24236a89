//! What the archive holds of the WAL that a stream goes on from, and how each replica stands.
//!
//! Owns how long a replica may take to tell, and which count from the beginning. All are asked at once, each
//! for what it holds itself: one that hangs holds up nobody for long.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use walvault_archive::{Archive, Catalog, Error};
use walvault_config::Ack;
use walvault_protocol::{Lsn, LsnRange, TimelineHistory, TimelineId};
use walvault_store::{Replicas, StoreError};

use crate::pipeline::{CatchUp, Destination};

/// How long a place may take to say what it holds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long others are waited for once one has said it, where one is enough and they are left behind
/// for the moment.
const HASTE: Duration = Duration::from_millis(500);
/// How long a replica that was not compared yet may take to list all that it holds. It is compared later
/// otherwise, and counts from then on.
const LISTING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// A place that holds the archive, or is to.
pub struct Place {
    archive: Archive,
    /// What it holds; `None` when it does not say, or holds nothing yet.
    seen: Option<Seen>,
    /// Whether it holds all that any place does.
    whole: bool,
}

/// What a replica says that it holds.
struct Seen {
    catalog: Catalog,
    /// What it holds from here on was listed.
    from: Lsn,
    /// Whether it is known to hold what lies before that.
    sound: bool,
}

impl Place {
    /// As the stream sees it.
    #[must_use]
    pub fn destination(&self) -> Destination<'_> {
        Destination {
            archive: self.archive.clone(),
            catalog: self.seen.as_ref().map(|seen| &seen.catalog),
            whole: self.whole,
            only: false,
        }
    }
}

/// Looks at an archive before a stream begins.
pub struct Look<'a> {
    /// The archive, of one store or of several.
    pub archive: &'a Archive,
    /// Who brings one of several what it missed.
    pub copies: &'a CatchUp,
    /// The way to the server's timeline.
    pub history: &'a TimelineHistory,
    /// Which of several replicas is waited for.
    pub ack: Ack,
    /// Whether the archive's WAL was this process's to write since it compared the replicas.
    pub writes: bool,
    /// Replicas that did not answer.
    silent: BTreeSet<usize>,
}

impl<'a> Look<'a> {
    /// A look for whoever does not write yet.
    #[must_use]
    pub fn new(
        archive: &'a Archive,
        copies: &'a CatchUp,
        history: &'a TimelineHistory,
    ) -> Look<'a> {
        Look {
            archive,
            copies,
            history,
            ack: Ack::All,
            writes: false,
            silent: BTreeSet::new(),
        }
    }

    /// What all replicas hold together from the segment before `first` on, and how each of them stands;
    /// none where there is only one store.
    ///
    /// # Errors
    /// When a replica holds another archive, or none answers.
    pub async fn see(&mut self, first: Lsn) -> Result<(Catalog, Vec<Place>), Error> {
        let Some(replicas) = self.copies.replicas() else {
            let catalog = Catalog::load_recent(self.archive, self.history, first).await?;
            return Ok((catalog, Vec::new()));
        };
        let answered = CancellationToken::new();
        let each = self.archive.each().into_iter().enumerate();
        // Collected, so that whoever waits for it may do so on any thread.
        let looks: Vec<_> = each
            .map(|(place, one)| self.at(replicas, place, one, first, &answered))
            .collect();
        let mut places = try_join_all(looks).await?;
        let silent = places.iter().enumerate();
        let silent = silent.filter_map(|(place, one)| one.seen.is_none().then_some(place));
        self.silent = silent.collect();
        let mut catalogs = places.iter().filter_map(|place| place.seen.as_ref());
        let Some(one) = catalogs.next() else {
            let reason = "none of the places that hold the archive says what it holds";
            return Err(StoreError::unavailable(self.archive.url(), "list", "", reason).into());
        };
        let mut union = one.catalog.clone();
        for other in catalogs {
            union.join(&other.catalog);
        }
        for place in &mut places {
            let seen = place.seen.as_ref();
            place.whole = seen.is_some_and(|seen| seen.sound && is_whole(seen, &union));
        }
        Ok((union, places))
    }

    async fn at(
        &self,
        replicas: &Replicas,
        place: usize,
        one: Archive,
        first: Lsn,
        answered: &CancellationToken,
    ) -> Result<Place, Error> {
        let nothing = |archive| Place {
            archive,
            seen: None,
            whole: false,
        };
        if self.silent.contains(&place) {
            return Ok(nothing(one));
        }
        let sound = self.writes && self.copies.is_sound(place);
        let reading = async {
            match replicas.admits(place).await {
                Ok(()) => Ok(self.read(&one, first, sound).await),
                Err(refused @ StoreError::Refused { .. }) => Err(Error::from(refused)),
                Err(error) => Ok(Err(error.into())),
            }
        };
        let too_late = async {
            if sound && self.ack == Ack::First {
                let _ = timeout(PATIENCE, answered.cancelled()).await;
                sleep(HASTE).await;
            } else {
                sleep(PATIENCE).await;
            }
            let reason = "it does not say in time what it holds";
            Error::from(StoreError::unavailable(one.url(), "list", "", reason))
        };
        let read = tokio::select! {
            biased;
            read = reading => read?,
            late = too_late => Err(late),
        };
        match read {
            Ok(seen) => {
                answered.cancel();
                Ok(Place {
                    seen: Some(seen),
                    ..nothing(one)
                })
            }
            Err(error) => {
                tracing::warn!(archive = one.url(), %error, "streaming without this copy of the archive for now");
                Ok(nothing(one))
            }
        }
    }

    /// What a replica holds: all of it where it is not known to be `sound` and that is soon told.
    async fn read(&self, one: &Archive, first: Lsn, sound: bool) -> Result<Seen, Error> {
        if !sound {
            let patience = match self.ack {
                Ack::First => LISTING.0,
                Ack::All => LISTING.1,
            };
            if let Ok(listed) = timeout(patience, Catalog::load_wal(one)).await {
                return Ok(Seen {
                    catalog: listed?,
                    from: Lsn::INVALID,
                    sound: true,
                });
            }
        }
        Ok(Seen {
            catalog: Catalog::load_recent(one, self.history, first).await?,
            from: first,
            sound,
        })
    }
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

/// Whether a replica has all the WAL that `union` has, from where it was listed on.
fn is_whole(seen: &Seen, union: &Catalog) -> bool {
    union.timelines().all(|(timeline, wal)| {
        let held = seen.catalog.wal(timeline).map(|held| &held.coverage);
        let ranges = wal.coverage.ranges().iter();
        let mut ranges = ranges.filter(|range| range.end > seen.from);
        ranges.all(|range| {
            let listed = LsnRange::new(range.start.max(seen.from), range.end);
            held.is_some_and(|held| held.covers(&listed))
        })
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
