//! An archive of a million objects, 30 ms away: tokio's clock, which passes over whatever does not sleep, counts the
//! requests that wait for each other.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use walvault_archive::archive::wal_key;
use walvault_archive::fence::Epoch;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_archive::record::WriterRecord;
use walvault_archive::seal::reads_whole;
use walvault_archive::{Archive, Catalog};
use walvault_config::Ack;
use walvault_layout::{ObjectKey, WAL_PREFIX, unit_containing};
use walvault_protocol::{Lsn, LsnRange, SegmentSize, SystemId, TimelineHistory, TimelineId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{
    Body, Capabilities, ListPage, MemoryStore, ObjectMeta, ObjectStore, Quorum, Replicas,
    SharedStore, StoreError,
};

use super::*;
use crate::pipeline::{Brought, CatchUp};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const TIMELINES: u32 = 100;
const UNITS_EACH: u64 = 10_000;
const UNITS: u64 = TIMELINES as u64 * UNITS_EACH;
/// Chunks of the newest segments that wait to be removed.
const CHUNKS: u64 = 10_000;
const CHUNKS_EACH: u64 = 250;
/// Milliseconds.
const EACH: u64 = 30;

/// A store in memory, whose WAL is names alone.
#[derive(Debug)]
struct Years {
    wal: Arc<Vec<String>>,
    rest: MemoryStore,
}

#[async_trait]
impl ObjectStore for Years {
    fn url(&self) -> &str {
        self.rest.url()
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.rest.put(key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.rest.get(key, range).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.rest.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        if !prefix.starts_with(WAL_PREFIX) {
            return self.rest.list(prefix, after).await;
        }
        let is_before = |name: &String| {
            let name = name.as_str();
            name < prefix || after.is_some_and(|after| name <= after)
        };
        let rest = &self.wal[self.wal.partition_point(is_before)..];
        let mut rest = rest.iter().filter(|name| name.starts_with(prefix));
        let objects: Vec<ObjectMeta> = rest
            .by_ref()
            .take(1000)
            .map(|name| ObjectMeta {
                key: name.clone(),
                size: 1,
                modified: jiff::Timestamp::UNIX_EPOCH,
            })
            .collect();
        let last = objects.last().map(|last| last.key.clone());
        let next = last.filter(|last| {
            let at = self.wal.partition_point(|name| name <= last);
            self.wal
                .get(at)
                .is_some_and(|name| name.starts_with(prefix))
        });
        Ok(ListPage { objects, next })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.rest.delete(key).await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        self.rest.capabilities()
    }
}

/// How many milliseconds each request takes.
#[derive(Debug, Clone)]
struct Far(Arc<AtomicU64>);

#[async_trait]
impl Hooks for Far {
    async fn asked(&self, _: &dyn ObjectStore, _: Operation, _: &str) -> Result<(), StoreError> {
        sleep(Duration::from_millis(self.0.load(Ordering::Relaxed))).await;
        Ok(())
    }
}

fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).expect("not zero")
}

fn unit(number: u64) -> LsnRange {
    unit_containing(Lsn(number << 24), SIZE)
}

/// The way over all timelines, each left where the next one's WAL begins.
fn history() -> TimelineHistory {
    let line = |id: u32| {
        format!(
            "{id}\t{}\tpromoted\n",
            unit(u64::from(id) * UNITS_EACH).start
        )
    };
    let lines: String = (1..TIMELINES).map(line).collect();
    TimelineHistory::parse(tli(TIMELINES), lines.as_bytes()).expect("a history")
}

fn names(archive: &Archive) -> Arc<Vec<String>> {
    let timeline = |number: u64| tli((number / UNITS_EACH) as u32 + 1);
    let units = (1..UNITS).map(|number| wal_key(timeline(number), unit(number), true));
    let histories = (2..=TIMELINES).map(|id| ObjectKey::History(tli(id)));
    let mut names: Vec<String> = units
        .chain(histories)
        .map(|key| archive.name(&key))
        .collect();
    names.sort_unstable();
    Arc::new(names)
}

/// An archive in stores that are far away.
struct World {
    archive: Archive,
    copies: CatchUp,
    history: TimelineHistory,
    far: Vec<Far>,
}

async fn world(stores: usize) -> World {
    let key = || KeyFile::from_secret(Secret::from_bytes(&zeroize::Zeroizing::new([7; 32])));
    let begun: SharedStore = Arc::new(MemoryStore::new());
    let archive = Archive::open_or_begin(begun.clone(), vec![key()], SystemId(1), SIZE);
    let archive = archive.await.expect("an archive");
    let wal = names(&archive);
    let (mut far, mut several): (Vec<Far>, Vec<SharedStore>) = (Vec::new(), Vec::new());
    for _ in 0..stores {
        let rest = MemoryStore::new();
        for object in begun.list("", None).await.expect("a listing").objects {
            let bytes = begun.get(&object.key, None).await.expect("read");
            rest.put(&object.key, Body::new(bytes)).await.expect("put");
        }
        for number in 0..CHUNKS {
            let start = unit(UNITS - 1 - number / CHUNKS_EACH).start + number % CHUNKS_EACH * 1000;
            let chunk = wal_key(tli(TIMELINES), LsnRange::new(start, start + 1000), false);
            let body = Body::new(Bytes::from_static(b"sealed"));
            rest.put(&archive.name(&chunk), body).await.expect("put");
        }
        let wal = wal.clone();
        far.push(Far(Arc::new(AtomicU64::new(EACH))));
        let years = Arc::new(Years { wal, rest });
        let delay = far.last().expect("pushed").clone();
        several.push(Arc::new(Hooked::over(years, delay)));
    }
    let (store, copies): (SharedStore, CatchUp) = match stores {
        1 => (several.remove(0), CatchUp::default()),
        _ => {
            let replicas = Arc::new(Replicas::new(several, Quorum::Any, reads_whole));
            (replicas.clone(), CatchUp::new(replicas, stores))
        }
    };
    let archive = Archive::open_or_begin(store, vec![key()], SystemId(1), SIZE);
    let archive = archive.await.expect("an archive");
    for place in 0..archive.store().replicas().len() {
        copies.begin_pass(place);
        copies.compared(place);
        let catalog = Catalog::from_listing(SIZE, []);
        let units = BTreeSet::new();
        copies.brought(place, Brought { catalog, units });
    }
    World {
        archive,
        copies,
        history: history(),
        far,
    }
}

impl World {
    fn look(&self, ack: Ack, writes: bool) -> Look<'_> {
        let mut look = Look::new(&self.archive, &self.copies, &self.history);
        (look.ack, look.writes) = (ack, writes);
        look
    }
}

async fn epoch(archive: &Archive) -> Epoch {
    let writer = WriterRecord {
        version: 1,
        host: "node".to_owned(),
        pid: 1,
        server: "localhost:5432".to_owned(),
        timeline: tli(TIMELINES),
        taken_at: jiff::Timestamp::UNIX_EPOCH,
        token: "1".to_owned(),
    };
    Epoch::take(archive, &writer).await.expect("an epoch")
}

fn whole(places: &[Place]) -> Vec<bool> {
    places
        .iter()
        .map(|place| place.destination().whole)
        .collect()
}

const END: Lsn = Lsn(UNITS << 24);

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_within_a_second_whatever_the_archive_holds() {
    for replicas in 1..=2 {
        let world = world(replicas).await;
        let epoch = epoch(&world.archive).await;
        let begun = Instant::now();
        let slot = unit(UNITS - 4).start;
        let (seen, checked) = tokio::join!(
            held(world.look(Ack::All, true), Some(slot), END),
            epoch.check()
        );
        let ((catalog, places), took) = (seen.expect("a catalog"), begun.elapsed());
        checked.expect("nobody else writes");
        println!(
            "{UNITS} objects, {TIMELINES} timelines, {CHUNKS} chunks, replicas: {replicas}: {took:?}"
        );
        assert!(took <= Duration::from_secs(1), "{took:?}");
        assert_eq!(catalog.reach(&world.history, slot), END);
        assert_eq!(
            whole(&places),
            vec![true; if replicas == 1 { 0 } else { replicas }]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_is_not_waited_for_where_one_is_enough() {
    let world = world(2).await;
    world.far[1].0.store(3_600_000, Ordering::Relaxed);
    let begun = Instant::now();
    let slot = unit(UNITS - 4).start;
    let seen = held(world.look(Ack::First, true), Some(slot), END).await;
    let ((catalog, places), took) = (seen.expect("a catalog"), begun.elapsed());
    assert!(took <= Duration::from_secs(1), "{took:?}");
    assert_eq!(catalog.reach(&world.history, slot), END);
    assert_eq!(whole(&places), [true, false]);
}

/// After a promotion the new primary's slot begins behind what is archived.
#[tokio::test(start_paused = true)]
async fn the_end_of_an_archive_before_the_slot_is_found_from_the_slot_back() {
    let world = world(1).await;
    for behind in [1, 100, 20_000] {
        let slot = unit(UNITS + behind).start;
        let begun = Instant::now();
        let seen = held(world.look(Ack::All, true), Some(slot), slot).await;
        let (catalog, took) = (seen.expect("a catalog").0, begun.elapsed());
        println!("{behind} segments behind the archive's end: {took:?}");
        assert!(took <= Duration::from_secs(3), "{took:?}");
        assert_eq!(archived_end(&catalog, &world.history, slot), Some(END));
    }
}

/// A process that begins has compared nothing yet: it does not list years before it streams.
#[tokio::test(start_paused = true)]
async fn a_process_that_begins_lists_for_seconds_at_most() {
    let world = world(2).await;
    for (ack, limit) in [(Ack::First, 2), (Ack::All, 6)] {
        let begun = Instant::now();
        let slot = unit(UNITS - 4).start;
        let seen = held(world.look(ack, false), Some(slot), END).await;
        let ((catalog, places), took) = (seen.expect("a catalog"), begun.elapsed());
        println!("{ack:?}: {took:?}");
        assert!(took <= Duration::from_secs(limit), "{took:?}");
        assert_eq!(catalog.reach(&world.history, slot), END);
        // They are compared in the background.
        assert_eq!(whole(&places), [false, false]);
    }
}
