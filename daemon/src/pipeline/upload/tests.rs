use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;
use walvault_archive::format::Codec;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_layout::unit_containing;
use walvault_protocol::{Lsn, SegmentSize, SystemId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::{Body, ObjectStore, StoreError};

use super::*;

/// A store that never ends to take chunks, and counts those that it takes at a time.
#[derive(Debug, Default)]
struct Slow {
    chunks: AtomicUsize,
}

#[async_trait]
impl Hooks for Slow {
    async fn put(&self, store: &dyn ObjectStore, key: &str, body: Body) -> Result<(), StoreError> {
        if key.starts_with("tail/") {
            self.chunks.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        store.put(key, body).await
    }
}

fn cut(range: LsnRange, kind: WalCut) -> Cut {
    Cut {
        timeline: TimelineId::FIRST,
        range,
        kind,
        pieces: vec![Bytes::from(vec![7; range.len() as usize])],
        marks: Vec::new(),
    }
}

/// Nobody waits for a merge, so that it takes the place of nothing that is waited for.
#[tokio::test]
async fn merges_hold_up_nothing_and_run_one_at_a_time() {
    let store = Arc::new(Hooked::<Slow>::default());
    let key = KeyFile::from_secret(Secret::from_bytes(&zeroize::Zeroizing::new([7; 32])));
    let size = SegmentSize::new(1 << 20).unwrap();
    let archive = Archive::open_or_begin(store.clone(), vec![key], SystemId(1), size);
    let archive = archive.await.unwrap();
    let sealer = archive.sealer(Codec::None).await.unwrap();
    let (mut uploader, mut events) = Uploader::new([(archive, true)], Ack::First, sealer, 2);
    for merge in 0..6 {
        let start = Lsn(merge << 20);
        uploader.submit(cut(LsnRange::new(start, start + 1000), WalCut::Merged));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let unit = unit_containing(Lsn(9 << 20), size);
    uploader.submit(cut(unit, WalCut::Unit));
    let stored = async {
        loop {
            match events.recv().await {
                Some(Uploaded::Stored { stored, .. }) => return stored.range(),
                Some(_) => {}
                None => panic!("the uploads ended"),
            }
        }
    };
    let stored = timeout(Duration::from_secs(10), stored).await;
    assert_eq!(stored.expect("it waits for merges"), unit);
    assert_eq!(store.chunks.load(Ordering::SeqCst), 1);
}
