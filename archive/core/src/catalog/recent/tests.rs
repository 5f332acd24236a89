use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{Body, ObjectStore, StoreError};

use super::*;
use crate::keys::{KeyFile, Secret};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// Counts the pages of listings.
#[derive(Debug, Default)]
struct Pages(AtomicUsize);

#[async_trait]
impl Hooks for Pages {
    async fn asked(
        &self,
        _: &dyn ObjectStore,
        operation: Operation,
        _: &str,
    ) -> Result<(), StoreError> {
        if operation == Operation::List {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).expect("not zero")
}

async fn archive(store: &Hooked<Pages>) -> Archive {
    let key = KeyFile::from_secret(Secret::generate().expect("random bits"));
    let archive = Archive::open_or_begin(Arc::new(store.clone()), vec![key], SystemId(1), SIZE);
    archive.await.expect("an archive")
}

/// Puts a name; nothing here opens it.
async fn name(archive: &Archive, key: ObjectKey) {
    let body = Body::new(Bytes::from_static(b"sealed"));
    let put = archive.store().put(&archive.name(&key), body).await;
    put.expect("stored");
}

async fn unit(archive: &Archive, timeline: u32, number: u64) {
    let range = unit_containing(Lsn(number << 24), SIZE);
    name(archive, wal_key(tli(timeline), range, true)).await;
}

async fn chunk(archive: &Archive, timeline: u32, start: u64, end: u64) {
    let range = LsnRange::new(Lsn(start), Lsn(end));
    name(archive, wal_key(tli(timeline), range, false)).await;
}

#[tokio::test]
async fn years_of_wal_are_not_listed_and_the_end_is_the_same() {
    let store = Hooked::new(Pages::default());
    let archive = archive(&store).await;
    for number in 1..5_000 {
        unit(&archive, 1, number).await;
    }
    // Left over from long ago; and the tail.
    chunk(&archive, 1, 7 << 24, (7 << 24) + 100).await;
    chunk(&archive, 1, 5_000 << 24, (5_000 << 24) + 100).await;
    let history = TimelineHistory::root(tli(1));
    let whole = Catalog::load_wal(&archive).await.expect("a catalog");
    let pages = |store: &Hooked<Pages>| store.0.swap(0, Ordering::Relaxed);
    assert!(pages(&store) > 5);

    let from = Lsn(4_990 << 24);
    let recent = Catalog::load_recent(&archive, &history, from).await;
    let recent = recent.expect("a catalog");
    assert!(pages(&store) <= 5);
    assert_eq!(recent.reach(&history, from), whole.reach(&history, from));
    let held = &recent.wal(tli(1)).expect("WAL").objects;
    // The segment before is there to be compared, and the unit of the old chunk to remove that.
    let starts: Vec<u64> = held.iter().map(|held| held.range.start.0 >> 24).collect();
    let expected = [7, 7].into_iter().chain(4_989..=5_000);
    assert_eq!(starts, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn another_server_that_was_promoted_since_is_seen() {
    let store = Hooked::new(Pages::default());
    let archive = archive(&store).await;
    unit(&archive, 1, 3).await;
    let history = TimelineHistory::root(tli(1));
    let latest = async || {
        let recent = Catalog::load_recent(&archive, &history, Lsn(3 << 24)).await;
        recent.expect("a catalog").latest_timeline()
    };
    assert_eq!(latest().await, Some(tli(1)));
    // WAL without a history, and a history that does not open, make no timeline.
    unit(&archive, 2, 4).await;
    name(&archive, ObjectKey::History(tli(9))).await;
    assert_eq!(latest().await, Some(tli(1)));
    let content = Bytes::from_static(b"1\t0/3000000\tpromoted\n");
    let key = ObjectKey::History(tli(5));
    let stored = archive.put_payload(&key, content).await;
    stored.expect("stored");
    assert_eq!(latest().await, Some(tli(5)));
}

#[tokio::test]
async fn ancestors_are_listed_where_the_way_leads_over_them() {
    let store = Hooked::new(Pages::default());
    let archive = archive(&store).await;
    let history = TimelineHistory::parse(tli(2), b"1\t0/4400000\tfork\n").expect("a history");
    for number in 1..=4 {
        unit(&archive, 1, number).await;
    }
    chunk(&archive, 2, 0x440_0000, 0x440_0100).await;
    let whole = Catalog::load_wal(&archive).await.expect("a catalog");
    for from in [Lsn(0x300_0000), Lsn(0x400_0100), Lsn(0x440_0050)] {
        let recent = Catalog::load_recent(&archive, &history, from).await;
        let recent = recent.expect("a catalog");
        let unit = unit_containing(from, SIZE).start;
        assert_eq!(recent.reach(&history, unit), Lsn(0x440_0100));
        assert_eq!(recent.reach(&history, unit), whole.reach(&history, unit));
    }
}
