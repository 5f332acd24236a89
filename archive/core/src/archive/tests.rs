//! What is there already, what vanishes, and what is too large.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, SystemId, TimelineId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{Body, MemoryStore, ObjectStore, StoreError};

use super::*;
use crate::Catalog;
use crate::keys::{KeyFile, Secret};

async fn archive_in(store: SharedStore) -> Archive {
    let key = KeyFile::from_secret(Secret::generate().expect("random bits"));
    Archive::open_or_begin(store, vec![key], SystemId(1), SegmentSize::DEFAULT)
        .await
        .expect("an archive")
}

/// A store from which chunks go before they are read, so many times.
#[derive(Debug)]
struct Vanishing {
    left: AtomicUsize,
}

#[async_trait]
impl Hooks for Vanishing {
    async fn asked(
        &self,
        store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        let vanishes = operation == Operation::Get && key.starts_with("tail/");
        let count = |left: usize| left.checked_sub(1);
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        if vanishes && self.left.fetch_update(set, fetch, count).is_ok() {
            store.delete(key).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn wal_is_put_again_at_once_where_what_had_its_name_is_gone() {
    let vanishing = Vanishing {
        left: AtomicUsize::new(1),
    };
    let store = Hooked::new(vanishing);
    let archive = archive_in(Arc::new(store.clone())).await;
    let range = LsnRange::new(Lsn(0x300_0000), Lsn(0x300_0100));
    let key = wal_key(TimelineId::FIRST, range, false);
    let planted = Body::new(Bytes::from_static(b"another's"));
    store.put(&archive.name(&key), planted).await.expect("put");
    let payload = [Bytes::from_static(b"ours")];
    let sealer = archive.sealer(Codec::Lz4).await.expect("a key");
    let sealed = sealer.seal(kind_of(&key), &archive.name(&key), &payload, b"");
    let put = WalPut {
        timeline: TimelineId::FIRST,
        range,
        cut: WalCut::Chunk,
        sealed: sealed.expect("sealed"),
    };
    let stored = archive.put_wal(&put).await.expect("stored");
    assert_eq!(stored.range(), range);
    let opened = archive.get(&key).await.expect("it is ours");
    assert_eq!(opened.payload, b"ours");
}

/// As much as nothing that walvault writes under these names, and none of it sealed.
#[tokio::test]
async fn what_is_larger_than_its_kind_is_damaged_and_left_out() {
    let store = Arc::new(MemoryStore::new());
    let archive = archive_in(store.clone()).await;
    for planted in [
        "backups/20260101T000000Z-ffff/record",
        "gaps/00000001/0000000000000100-0000000000000200",
        "wal/000000FF.history",
        "keys/0123456789abcdef0123456789abcdef/00000001",
    ] {
        let body = Body::new(Bytes::from(vec![0; 17 << 20]));
        store.put(planted, body).await.expect("put");
    }
    let catalog = Catalog::load(&archive).await.expect("the rest");
    assert!(catalog.backups().is_empty());
    let reasons = catalog.unreadable().iter().map(|it| &it.reason);
    for reason in reasons {
        assert!(reason.contains("17825792 bytes"), "{reason}");
    }
    assert_eq!(catalog.unreadable().len(), 3);
    let key = archive.keyring().epochs().await.expect("read");
    let bad = key.iter().filter(|epoch| epoch.record.is_err()).count();
    assert_eq!(bad, 1);
}

/// Zeros compress to nearly nothing.
#[tokio::test]
async fn what_opens_to_more_than_its_kind_is_not_opened() {
    let archive = archive_in(Arc::new(MemoryStore::new())).await;
    let key = ObjectKey::Writer(7);
    let zeros = Bytes::from(vec![0; 2 << 20]);
    let stored = archive.put_payload(&key, zeros).await.expect("stored");
    assert!(stored < 1 << 20);
    let error = archive.get(&key).await.expect_err("it is too large");
    assert!(error.to_string().contains("2097152 bytes"), "{error}");
    let meta = archive.get_meta(&key, stored).await;
    assert!(matches!(meta, Err(Error::Corrupt { .. })));
}
