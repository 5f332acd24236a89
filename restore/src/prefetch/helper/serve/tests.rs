use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use walvault_archive::store::{Body, ListPage, MemoryStore, ObjectMeta, ObjectStore, StoreError};
use walvault_protocol::SegmentSize;

use super::*;
use crate::testing::{archive_in, put_wal, range, tli};

const MIB: u64 = 1 << 20;

/// Counts what is read of each object, and takes its time.
#[derive(Debug, Default)]
struct Counting {
    inner: MemoryStore,
    reads: Mutex<BTreeMap<String, u32>>,
}

#[async_trait]
impl ObjectStore for Counting {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        *self
            .reads
            .lock()
            .expect("unpoisoned")
            .entry(key.to_owned())
            .or_default() += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
}

struct Served {
    dir: TempDir,
    store: Arc<Counting>,
    archive: Archive,
    server: Arc<Server>,
}

impl Served {
    /// An archive of segments `0..whole`, of which `ahead` are kept ahead.
    async fn new(whole: u64, ahead: u64) -> Served {
        let store = Arc::new(Counting::default());
        let size = SegmentSize::new(MIB).expect("a size");
        let archive = archive_in(store.clone(), size).await;
        let dir = tempfile::tempdir().expect("a directory");
        let site = Site::at(dir.path().to_owned());
        let server = Arc::new(Server::new(archive.clone(), site, ahead, 2));
        let served = Served {
            dir,
            store,
            archive,
            server,
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

    /// Asks as a client does, and takes what it is given.
    async fn ask(&self, number: u64) -> (Answer, Option<Vec<u8>>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let conversation = tokio::spawn(self.server.clone().converse(theirs));
        let mut stream = BufReader::new(ours);
        let request = format!("{}\n", name(number));
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("answered");
        let answer = Answer::parse(&line).expect("an answer");
        let content = match &answer {
            Answer::Take(file) => {
                let taken = self.dir.path().join(format!("taken by {number}"));
                fs::rename(self.dir.path().join(file), &taken).expect("taken");
                let content = fs::read(&taken).expect("content");
                fs::remove_file(taken).expect("removed");
                Some(content)
            }
            Answer::Copy(file) => Some(fs::read(self.dir.path().join(file)).expect("content")),
            _ => None,
        };
        drop(stream);
        conversation.await.expect("served");
        (answer, content)
    }

    /// Takes a segment that waits, as a client does, and tells of it.
    async fn take(&self, number: u64) -> Vec<u8> {
        let taken = self.dir.path().join(format!("taken by {number}"));
        fs::rename(self.dir.path().join(name(number)), &taken).expect("it waits");
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let told = Request::Taken(name(number)).to_line();
        ours.write_all(told.as_bytes()).await.expect("told");
        drop(ours);
        self.server.clone().converse(theirs).await;
        let content = fs::read(&taken).expect("content");
        fs::remove_file(taken).expect("removed");
        content
    }

    fn reads(&self, number: u64) -> u32 {
        let key = format!("wal/00000001/{}", name(number));
        let reads = self.store.reads.lock().expect("unpoisoned");
        reads.get(&key).copied().unwrap_or(0)
    }

    async fn wait_for(&self, files: &[u64]) {
        let expected: Vec<PathBuf> = files
            .iter()
            .map(|number| self.dir.path().join(name(*number)))
            .collect();
        let there = || {
            let mut there: Vec<PathBuf> = fs::read_dir(self.dir.path())
                .expect("the directory")
                .map(|entry| entry.expect("an entry").path())
                .collect();
            there.sort();
            there
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while there() != expected {
            assert!(
                Instant::now() < deadline,
                "{:?} instead of {expected:?}",
                there()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
    for number in 0..8 {
        let (answer, found) = served.ask(number).await;
        assert_eq!(answer, Answer::Take(format!("{}.aside", name(number))));
        assert_eq!(found, Some(content(number)));
        let ahead: Vec<u64> = (number + 1..8).take(3).collect();
        served.wait_for(&ahead).await;
    }
    for number in 0..8 {
        assert_eq!(served.reads(number), 1, "segment {number}");
    }
    assert!(served.server.is_empty());
    assert!(served.server.quiet_since().is_some());
}

#[tokio::test]
async fn what_waits_is_taken_unasked_and_those_to_come_follow() {
    let served = Served::new(8, 3).await;
    served.ask(0).await;
    for number in 1..8 {
        let ahead: Vec<u64> = (number..8).take(3).collect();
        served.wait_for(&ahead).await;
        assert_eq!(served.take(number).await, content(number));
    }
    served.wait_for(&[]).await;
    for number in 0..8 {
        assert_eq!(served.reads(number), 1, "segment {number}");
    }
}

#[tokio::test]
async fn what_was_taken_without_a_word_is_fetched_again() {
    let served = Served::new(3, 2).await;
    served.ask(0).await;
    served.wait_for(&[1, 2]).await;
    fs::remove_file(served.dir.path().join(name(1))).expect("it waits");
    assert_eq!(served.ask(1).await.1, Some(content(1)));
    assert_eq!(served.reads(1), 2);
    assert_eq!(served.take(2).await, content(2));
    served.wait_for(&[]).await;
}

#[tokio::test]
async fn two_who_want_the_same_get_it_from_one_download() {
    let served = Served::new(1, 1).await;
    let (one, two) = tokio::join!(served.ask(0), served.ask(0));
    assert_eq!((one.1, two.1), (Some(content(0)), Some(content(0))));
    assert_eq!(served.reads(0), 1);
    served.wait_for(&[]).await;
}

#[tokio::test]
async fn what_was_absent_is_looked_for_anew_each_time() {
    let served = Served::new(2, 4).await;
    served.ask(1).await;
    for _ in 0..2 {
        assert_eq!(served.ask(2).await, (Answer::Absent, None));
    }
    served.put(2).await;
    assert_eq!(served.ask(2).await.1, Some(content(2)));
    assert_eq!(served.ask(3).await, (Answer::Absent, None));
    // A tail grows: it is never kept, and each time put together from what there is.
    for held in [1000, 3000] {
        let start = 3 * MIB + if held == 1000 { 0 } else { 1000 };
        let wal = range(start, 3 * MIB + held);
        let bytes = &content(3)[(start - 3 * MIB) as usize..held as usize];
        put_wal(&served.archive, tli(1), wal, false, bytes, &[]).await;
        let found = served.ask(3).await.1.expect("a tail");
        assert_eq!(found.len() as u64, MIB);
        assert_eq!(found[..held as usize], content(3)[..held as usize]);
        assert!(found[held as usize..].iter().all(|byte| *byte == 0));
    }
    served.wait_for(&[]).await;
}

#[tokio::test]
async fn a_target_elsewhere_frees_what_waits() {
    let served = Served::new(12, 2).await;
    served.ask(0).await;
    served.wait_for(&[1, 2]).await;
    assert_eq!(served.ask(8).await.1, Some(content(8)));
    served.wait_for(&[9, 10]).await;
    // Back again, as after the checkpoint's record PostgreSQL reads from the redo point on.
    assert_eq!(served.ask(1).await.1, Some(content(1)));
    served.wait_for(&[2, 3]).await;
}

#[tokio::test]
async fn a_client_that_dies_before_it_takes_costs_nobody_anything() {
    let served = Served::new(3, 1).await;
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let conversation = tokio::spawn(served.server.clone().converse(theirs));
    let mut stream = BufReader::new(ours);
    stream
        .write_all(format!("{}\n", name(0)).as_bytes())
        .await
        .expect("asked");
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("answered");
    drop(stream);
    conversation.await.expect("served");
    assert_eq!(served.ask(0).await.1, Some(content(0)));
    served.wait_for(&[1]).await;
}

#[tokio::test]
async fn what_is_damaged_is_never_handed_over() {
    let served = Served::new(2, 1).await;
    let key = format!("wal/00000001/{}", name(1));
    let mut bytes = served
        .store
        .inner
        .get(&key, None)
        .await
        .expect("an object")
        .to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    served.store.inner.delete(&key).await.expect("deleted");
    served
        .store
        .inner
        .put(&key, Body::new(Bytes::from(bytes)))
        .await
        .expect("stored");
    served.ask(0).await;
    let (answer, _) = served.ask(1).await;
    assert!(
        matches!(&answer, Answer::Failed(reason) if reason.contains("damaged")),
        "{answer:?}"
    );
    served.wait_for(&[]).await;
}
