//! The watermark: the LSN below which every byte is durable in the archive, without a hole.
//!
//! Objects complete in any order; the watermark moves only over contiguous completions. Its
//! [`Durable`] is the only type that can fill a status update's flush field, and nothing but
//! [`StoredWal`], the archive's own receipt, moves it: acknowledging WAL that is not stored does
//! not compile.
//!
//! ```compile_fail,E0599
//! # use walvault_protocol::{Lsn, PgTimestamp, replication::StandbyStatus};
//! # let mut out = bytes::BytesMut::new();
//! // A plain position is no proof: `encode` wants a `DurablePosition`, and `Lsn` is none.
//! let flush = Lsn(1);
//! let status = StandbyStatus { write: flush, flush: &flush, now: PgTimestamp(0), reply_requested: false };
//! status.encode(&mut out);
//! ```
//!
//! ```compile_fail,E0423
//! // And nobody but the watermark makes one.
//! let flush = walvault_daemon::pipeline::Durable(walvault_protocol::Lsn(1));
//! ```

use walvault_archive::{Catalog, Coverage, StoredWal};
use walvault_protocol::replication::DurablePosition;
use walvault_protocol::{Lsn, LsnRange, TimelineId};

/// A position below which every byte of the stream is durable in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable(Lsn);

impl Durable {
    /// Nothing is durable.
    pub(super) const NOTHING: Durable = Durable(Lsn::INVALID);

    /// The position; `0/0` while nothing is durable.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

impl DurablePosition for Durable {
    fn durable(&self) -> Lsn {
        self.0
    }
}

/// The frontier of what is stored on one timeline.
#[derive(Debug)]
pub struct Watermark {
    timeline: TimelineId,
    /// Where this stream began; what lies before it was settled earlier.
    start: Lsn,
    stored: Coverage,
    durable: Durable,
}

impl Watermark {
    /// Begins where streaming begins: at `start`, or further on where the archive already holds the WAL
    /// from `start` without a hole, as this timeline's. What an ancestor's objects hold of the segment in
    /// which the timeline began is stored again as its own: a prune that was planned before the timeline
    /// was known may be about to remove those.
    ///
    /// Where the archive holds the WAL right before `start`, streaming goes on there because all before it
    /// was stored, and `start` is durable. At the beginning of an archive, and after a gap, nothing is:
    /// PostgreSQL takes whoever reports no position for an asynchronous standby
    /// (`pg_stat_get_wal_senders` in `walsender.c`).
    #[must_use]
    pub fn resume(catalog: &Catalog, timeline: TimelineId, start: Lsn) -> Watermark {
        let held = start > Lsn::INVALID
            && catalog.reach(&catalog.history(timeline), Lsn(start.0 - 1)) >= start;
        let mut watermark = Watermark {
            timeline,
            start,
            stored: Coverage::default(),
            durable: if held {
                Durable(start)
            } else {
                Durable::NOTHING
            },
        };
        watermark.learn(catalog);
        watermark
    }

    /// What may be reported as flushed.
    #[must_use]
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// Takes in a receipt; whether the watermark moved.
    pub fn advance(&mut self, stored: &StoredWal) -> bool {
        debug_assert_eq!(stored.timeline(), self.timeline);
        self.stored.insert(stored.range());
        self.settle()
    }

    /// Takes in what the archive was brought besides what it gave receipts for; whether the
    /// watermark moved.
    pub fn learn(&mut self, catalog: &Catalog) -> bool {
        let held = catalog.wal(self.timeline).map(|wal| &wal.coverage);
        let reached = held.map_or(self.start, |held| held.unbroken_to(self.start));
        self.stored.insert(LsnRange::new(self.start, reached));
        self.settle()
    }

    fn settle(&mut self) -> bool {
        let reached = self.stored.unbroken_to(self.start);
        let moved = reached > self.start && reached > self.durable.0;
        if moved {
            self.durable = Durable(reached);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use rand::seq::SliceRandom;
    use walvault_archive::archive::{WalPut, kind_of, wal_key};
    use walvault_archive::format::Codec;
    use walvault_archive::keys::{KeyFile, Secret};
    use walvault_archive::{Archive, Error, WalCut};
    use walvault_layout::ObjectKey;
    use walvault_protocol::{SegmentSize, SystemId};
    use walvault_store::memory::MemoryStore;

    use super::*;

    const START: Lsn = Lsn(3 << 24);

    async fn store(archive: &Archive, range: LsnRange) -> Result<StoredWal, Error> {
        let timeline = TimelineId::FIRST;
        let key = wal_key(timeline, range, false);
        let bytes = Bytes::from(vec![1; range.len() as usize]);
        let sealer = archive.sealer(Codec::Lz4).await?;
        let sealed = sealer.seal(kind_of(&key), &archive.name(&key), &[bytes], b"")?;
        archive
            .put_wal(&WalPut {
                timeline,
                range,
                cut: WalCut::Chunk,
                sealed,
            })
            .await
    }

    async fn archive() -> Result<Archive, Error> {
        let key = KeyFile::from_secret(Secret::generate()?);
        let store = Arc::new(MemoryStore::new());
        Archive::open_or_begin(store, vec![key], SystemId(1), SegmentSize::DEFAULT).await
    }

    /// The plain model: the watermark is the first byte that no receipt was taken in for.
    #[tokio::test]
    async fn moves_over_contiguous_receipts_only() -> Result<(), Error> {
        for _ in 0..50 {
            let archive = archive().await?;
            let empty = Catalog::from_listing(SegmentSize::DEFAULT, []);
            let mut watermark = Watermark::resume(&empty, TimelineId::FIRST, START);
            assert_eq!(watermark.durable().lsn(), Lsn::INVALID);
            let mut order: Vec<u64> = (0..20).collect();
            order.shuffle(&mut rand::rng());
            let mut held = [false; 20];
            for index in order {
                let range = LsnRange::new(START + index * 10, START + index * 10 + 10);
                let before = watermark.durable().lsn();
                let moved = watermark.advance(&store(&archive, range).await?);
                held[index as usize] = true;
                let run = held.iter().take_while(|held| **held).count() as u64;
                let expected = if run == 0 {
                    Lsn::INVALID
                } else {
                    START + run * 10
                };
                assert_eq!(watermark.durable().lsn(), expected, "{held:?}");
                assert_eq!(moved, expected > before);
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_an_ancestor_holds_is_not_this_timelines() -> Result<(), Error> {
        let archive = archive().await?;
        store(&archive, LsnRange::new(START, START + 100)).await?;
        let second = TimelineId::new(2).expect("not zero");
        let history = format!("1\t{}\tfork\n", START + 100);
        let key = ObjectKey::History(second);
        archive.put_payload(&key, history.into()).await?;
        let catalog = Catalog::load_wal(&archive).await?;
        let watermark = Watermark::resume(&catalog, second, START);
        assert_eq!(watermark.durable().lsn(), Lsn::INVALID);
        Ok(())
    }

    #[tokio::test]
    async fn what_ends_where_streaming_begins_is_durable() -> Result<(), Error> {
        let archive = archive().await?;
        store(&archive, LsnRange::new(Lsn(START.0 - 100), START)).await?;
        let second = TimelineId::new(2).expect("not zero");
        let history = format!("1\t{}\tfork\n", START + 50);
        let key = ObjectKey::History(second);
        archive.put_payload(&key, history.into()).await?;
        let catalog = Catalog::load_wal(&archive).await?;
        for timeline in [TimelineId::FIRST, second] {
            let mut watermark = Watermark::resume(&catalog, timeline, START);
            assert_eq!(watermark.durable().lsn(), START);
            assert!(!watermark.learn(&catalog));
        }
        let elsewhere = Watermark::resume(&catalog, TimelineId::FIRST, START + 1);
        assert_eq!(elsewhere.durable().lsn(), Lsn::INVALID);
        Ok(())
    }

    #[tokio::test]
    async fn begins_where_the_archive_ends() -> Result<(), Error> {
        let archive = archive().await?;
        store(&archive, LsnRange::new(START, START + 100)).await?;
        store(&archive, LsnRange::new(START + 150, START + 200)).await?;
        let catalog = Catalog::load_wal(&archive).await?;
        let mut watermark = Watermark::resume(&catalog, TimelineId::FIRST, START);
        assert_eq!(watermark.durable().lsn(), START + 100);
        // What lies beyond the hole counts only once it is stored again: a receipt is for now.
        watermark.advance(&store(&archive, LsnRange::new(START + 100, START + 150)).await?);
        assert_eq!(watermark.durable().lsn(), START + 150);
        Ok(())
    }
}
