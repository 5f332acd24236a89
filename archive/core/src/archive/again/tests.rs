use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use walvault_layout::ObjectKey;
use walvault_protocol::{SegmentSize, SystemId, TimelineId};
use walvault_store::on_the_way::OnTheWay;

use crate::format::FRAME_SIZE;
use crate::keys::{KeyFile, Secret};
use crate::{Archive, Error};

const KEY: ObjectKey = ObjectKey::History(TimelineId::FIRST);

fn payload() -> Bytes {
    let mut state = 1_u64;
    let next = |_| {
        // Xorshift: what no codec makes smaller.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..5 * FRAME_SIZE + 7)
        .map(next)
        .collect::<Vec<u8>>()
        .into()
}

/// An archive with one object of several frames.
async fn archive() -> (Arc<OnTheWay>, Archive) {
    let store = Arc::new(OnTheWay::default());
    let keys = vec![KeyFile::from_secret(Secret::generate().unwrap())];
    let archive =
        Archive::open_or_begin(store.clone(), keys, SystemId(1), SegmentSize::DEFAULT).await;
    let archive = archive.unwrap();
    archive.put_payload(&KEY, payload()).await.unwrap();
    (store, archive)
}

async fn read(archive: &Archive) -> Result<Vec<u8>, Error> {
    let fetched = archive.fetch(&KEY).await?;
    let take = |taken: &mut Vec<u8>, frame: &[u8]| {
        taken.extend_from_slice(frame);
        Ok::<(), Error>(())
    };
    fetched.open(Vec::new(), take).await
}

async fn read_spans(archive: &Archive) -> Result<Vec<u8>, Error> {
    let size = archive.size_of(&KEY).await?.unwrap();
    let whole = 0..payload().len() as u64;
    let take = |taken: &mut Vec<u8>, at: u64, frame: &[u8]| {
        assert_eq!(taken.len() as u64, at);
        taken.extend_from_slice(frame);
        Ok::<(), Error>(())
    };
    archive
        .read_spans(&KEY, size, &[whole], Vec::new(), take)
        .await
}

#[tokio::test]
async fn what_was_damaged_on_the_way_is_read_again() {
    let (store, archive) = archive().await;
    for damaging in [1, 2] {
        let set = || store.damaging.store(damaging, Ordering::Relaxed);
        set();
        assert!(archive.get(&KEY).await.unwrap().payload == payload());
        set();
        assert!(read(&archive).await.unwrap() == payload());
        set();
        assert!(read_spans(&archive).await.unwrap() == payload());
        set();
        archive.check_stored(&KEY).await.unwrap();
        set();
        archive.check_bytes(&KEY).await.unwrap();
        set();
        archive.get_with_digest(&KEY).await.unwrap();
        assert_eq!(store.damaging.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn what_comes_damaged_every_time_is_damaged() {
    let (store, archive) = archive().await;
    store.damaging.store(u32::MAX, Ordering::Relaxed);
    let failures = [
        archive.get(&KEY).await.map(|_| ()),
        read(&archive).await.map(|_| ()),
        read_spans(&archive).await.map(|_| ()),
        archive.check_stored(&KEY).await.map(|_| ()),
        archive.check_bytes(&KEY).await.map(|_| ()),
    ];
    for failure in failures {
        assert!(matches!(failure, Err(Error::Corrupt { .. })), "{failure:?}");
    }
}

/// An altered byte in the middle: the frames before it are not handed over twice.
#[tokio::test]
async fn frames_that_were_taken_are_not_taken_again() {
    let (store, archive) = archive().await;
    let size = archive.size_of(&KEY).await.unwrap().unwrap();
    let whole = 0..payload().len() as u64;
    store.spared.store(FRAME_SIZE, Ordering::Relaxed);
    store.damaging.store(1, Ordering::Relaxed);
    let take = |taken: &mut Vec<u64>, at: u64, _: &[u8]| {
        taken.push(at);
        Ok::<(), Error>(())
    };
    let spans = [whole];
    let frames = archive.read_spans(&KEY, size, &spans, Vec::new(), take);
    let expected: Vec<u64> = (0..6).map(|frame| frame * FRAME_SIZE as u64).collect();
    assert_eq!(frames.await.unwrap(), expected);
    assert_eq!(store.damaging.load(Ordering::Relaxed), 0);
}
