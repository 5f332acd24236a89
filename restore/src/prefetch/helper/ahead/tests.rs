use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use walvault_protocol::SegmentSize;
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{Body, ObjectStore, StoreError};

use super::*;
use crate::prefetch::site::Site;
use crate::testing::{archive_in, put_wal, range, tli};

const MIB: u64 = 1 << 20;

/// Counts what is read of each object, and takes its time.
#[derive(Debug, Default)]
struct Counting {
    reads: Mutex<BTreeMap<String, u32>>,
}

#[async_trait]
impl Hooks for Counting {
    async fn asked(
        &self,
        _store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        if operation == Operation::Get {
            *self
                .reads
                .lock()
                .expect("unpoisoned")
                .entry(key.to_owned())
                .or_default() += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

struct Served {
    dir: TempDir,
    store: Arc<Hooked<Counting>>,
    archive: Archive,
    spool: Arc<Spool>,
    ahead: Arc<Ahead>,
}

impl Served {
    /// An archive of segments `0..whole`, of which `segments` are kept ahead.
    async fn new(whole: u64, segments: u64) -> Served {
        let store = Arc::new(Hooked::<Counting>::default());
        let size = SegmentSize::new(MIB).expect("a size");
        let archive = archive_in(store.clone(), size).await;
        let dir = tempfile::tempdir().expect("a directory");
        let (spool, _) = Site::at(dir.path().join("site")).enter().expect("a site");
        let spool = Arc::new(spool);
        let ahead = Arc::new(Ahead::new(archive.clone(), spool.clone(), segments, 2));
        let served = Served {
            dir,
            store,
            archive,
            spool,
            ahead,
        };
        for number in 0..whole {
            served.put(number).await;
        }
        served
    }

    async fn put(&self, number: u64) {
        let wal = range(number * MIB, (number + 1) * MIB);
        put_wal(&self.archive, tli(1), wal, true, &content(number), &[]).await;
    }

    /// Asks as `wal-fetch` does, which then takes the segment or fetches it itself.
    fn ask(&self, number: u64) {
        self.spool.ask(&name(number)).expect("asked");
        self.ahead.follow();
    }

    /// Asks for a segment that waits, and takes it.
    fn take(&self, number: u64) -> Vec<u8> {
        self.ask(number);
        let taken = self.dir.path().join("taken");
        fs::rename(self.spool.file(&name(number)), &taken).expect("it waits");
        fs::read(taken).expect("content")
    }

    fn reads(&self, number: u64) -> u32 {
        let key = format!("wal/00000001/{}", name(number));
        let reads = self.store.reads.lock().expect("unpoisoned");
        reads.get(&key).copied().unwrap_or(0)
    }

    async fn wait_for(&self, files: &[u64]) {
        let expected: Vec<String> = files.iter().map(|number| name(*number)).collect();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let there = self.segments();
            if there == expected {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{there:?} instead of {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.ahead.follow();
        }
    }

    /// Waits until no segment waits or is under way.
    async fn wait_until_empty(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.ahead.is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.segments());
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.ahead.follow();
        }
        assert_eq!(self.segments(), [""; 0]);
    }

    /// What lies in the spool for segments, complete or not.
    fn segments(&self) -> Vec<String> {
        let mut there: Vec<String> = fs::read_dir(self.spool.file("."))
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("UTF-8"))
            .filter(|name| name.len() >= 24)
            .collect();
        there.sort();
        there
    }
}

fn name(number: u64) -> String {
    let size = SegmentSize::new(MIB).expect("a size");
    segment_name(tli(1), walvault_protocol::SegmentNumber(number), size)
}

fn content(number: u64) -> Vec<u8> {
    (0..MIB)
        .map(|at| (at ^ (at >> 9) ^ (number * 37)) as u8)
        .collect()
}

#[tokio::test]
async fn each_segment_is_read_once_and_those_to_come_are_there_before() {
    let served = Served::new(8, 3).await;
    served.ask(0);
    for number in 1..8 {
        let waiting: Vec<u64> = (number..8).take(3).collect();
        served.wait_for(&waiting).await;
        assert_eq!(served.take(number), content(number));
    }
    served.wait_until_empty().await;
    assert_eq!(served.reads(0), 0, "whoever asks fetches the first");
    for number in 1..8 {
        assert_eq!(served.reads(number), 1, "segment {number}");
    }
}

#[tokio::test]
async fn a_segment_that_is_asked_for_while_it_is_under_way_is_published() {
    let served = Served::new(2, 1).await;
    served.ask(0);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(served.spool.is_under_way(&name(1)));
    assert!(!served.spool.file(&name(1)).exists());
    served.ask(1);
    served.wait_for(&[1]).await;
    assert!(!served.spool.is_under_way(&name(1)));
    assert_eq!(served.take(1), content(1));
    assert_eq!(served.reads(1), 1);
}

#[tokio::test]
async fn what_was_absent_is_looked_for_anew_when_another_is_asked_for() {
    let served = Served::new(2, 4).await;
    served.ask(0);
    served.wait_for(&[1]).await;
    assert_eq!(served.take(1), content(1));
    served.wait_until_empty().await;
    let look = served.reads(2);
    for _ in 0..2 {
        served.ask(2);
    }
    served.put(2).await;
    served.put(3).await;
    served.wait_until_empty().await;
    assert_eq!(served.reads(2), look, "it is fetched by whoever asks");
    served.ask(3);
    served.put(4).await;
    served.ask(3);
    served.wait_for(&[4]).await;
    // A tail grows: it is never kept.
    put_wal(
        &served.archive,
        tli(1),
        range(5 * MIB, 5 * MIB + 1000),
        false,
        &content(5)[..1000],
        &[],
    )
    .await;
    assert_eq!(served.take(4), content(4));
    served.wait_for(&[]).await;
}

#[tokio::test]
async fn a_target_elsewhere_frees_what_waits() {
    let served = Served::new(12, 2).await;
    served.ask(0);
    served.wait_for(&[1, 2]).await;
    served.ask(8);
    served.wait_for(&[9, 10]).await;
    // Back again, as after the checkpoint's record PostgreSQL reads from the redo point on.
    served.ask(1);
    served.wait_for(&[2, 3]).await;
}

#[tokio::test]
async fn a_segment_that_nobody_takes_goes_when_the_next_is_asked_for() {
    let served = Served::new(4, 1).await;
    served.ask(0);
    served.wait_for(&[1]).await;
    served.ask(1);
    served.wait_for(&[1, 2]).await;
    assert!(!served.ahead.is_empty());
    served.ask(2);
    served.wait_for(&[2, 3]).await;
    // Removed by somebody, it is not missed.
    fs::remove_file(served.spool.file(&name(3))).expect("removed");
    served.ask(3);
    served.wait_until_empty().await;
}

#[tokio::test]
async fn the_same_request_again_counts_as_one() {
    let served = Served::new(1, 1).await;
    served.ask(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(served.ahead.follow() >= Duration::from_millis(300));
    served.spool.ask(&name(0)).expect("asked");
    assert_eq!(served.ahead.follow(), Duration::ZERO);
}

#[tokio::test]
async fn what_is_damaged_is_never_handed_over() {
    let served = Served::new(3, 2).await;
    let key = format!("wal/00000001/{}", name(1));
    let mut bytes = served
        .store
        .unhooked()
        .get(&key, None)
        .await
        .expect("an object")
        .to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    served.store.unhooked().delete(&key).await.expect("deleted");
    served
        .store
        .unhooked()
        .put(&key, Body::new(Bytes::from(bytes)))
        .await
        .expect("stored");
    served.ask(0);
    served.wait_for(&[2]).await;
    let reads = served.reads(1);
    served.ask(1);
    served.wait_for(&[2]).await;
    assert_eq!(served.reads(1), reads, "it is fetched by whoever asks");
}
