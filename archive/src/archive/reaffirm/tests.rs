use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use walvault_protocol::{SegmentSize, SystemId};

use super::*;
use crate::format::Codec;
use crate::keys::{KeyFile, Secret};
use crate::layout::BackupId;
use crate::store::{
    Body, ListPage, MemoryStore, ObjectMeta, ObjectStore, RetryPolicy, Retrying, list_all,
};

/// A store of several nodes that ignores conditions. While it is short of nodes, one takes what is
/// put, and nobody hears of it.
#[derive(Debug, Default)]
struct Nodes {
    inner: MemoryStore,
    /// What the names begin with that too few nodes are there for.
    short_for: Mutex<Option<&'static str>>,
    partial: Mutex<BTreeSet<String>>,
}

impl Nodes {
    fn is_short_for(&self, prefix: Option<&'static str>) {
        *self.short_for() = prefix;
    }

    fn short_for(&self) -> MutexGuard<'_, Option<&'static str>> {
        let short_for = self.short_for.lock();
        short_for.unwrap_or_else(PoisonError::into_inner)
    }

    async fn lose_node(&self) {
        let partial = std::mem::take(&mut *self.partial());
        for name in partial {
            self.inner.delete(&name).await.expect("deleted");
        }
    }

    fn partial(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ObjectStore for Nodes {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.inner.put(key, body).await?;
        if self
            .short_for()
            .is_some_and(|prefix| key.starts_with(prefix))
        {
            self.partial().insert(key.to_owned());
            return Err(StoreError::unavailable(self.url(), "put", key, "503"));
        }
        Ok(())
    }

    async fn put_again(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.inner.delete(key).await?;
        self.put(key, body).await?;
        self.partial().remove(key);
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
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

    async fn conditional_put(&self) -> Result<ConditionalPut, StoreError> {
        Ok(ConditionalPut::Ignored)
    }
}

/// A process that opens the archive, or begins it, and seals.
async fn process(nodes: &Arc<Nodes>) -> Result<Archive, Error> {
    let secret = Secret::from_bytes(&zeroize::Zeroizing::new([7; 32]));
    let key = KeyFile::from_secret(secret);
    let store: SharedStore = nodes.clone();
    let archive =
        Archive::open_or_begin(store, vec![key], SystemId(1), SegmentSize::DEFAULT).await?;
    archive.sealer(Codec::None).await?;
    Ok(archive)
}

#[tokio::test(start_paused = true)]
async fn a_put_that_only_one_node_took_is_repeated_until_it_is_answered() {
    let nodes = Arc::new(Nodes::default());
    nodes.is_short_for(Some("tail/"));
    let store = Retrying::new(nodes.clone(), RetryPolicy::default());
    let put = tokio::spawn(async move {
        let body = Body::new(Bytes::from_static(b"one"));
        store.put("tail/one", body).await
    });
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    // Everybody sees it by now.
    assert!(nodes.head("tail/one").await.expect("asked").is_some());
    assert!(!put.is_finished());
    nodes.is_short_for(None);
    put.await.expect("no panic").expect("stored");
    nodes.lose_node().await;
    assert!(nodes.head("tail/one").await.expect("asked").is_some());
}

/// Whatever the first process was killed over, the next one has the store answer for it.
#[tokio::test(start_paused = true)]
async fn what_a_killed_process_began_an_archive_with_outlives_a_node() {
    let nodes = Arc::new(Nodes::default());
    for begun in ["archive.json", "keys/"] {
        nodes.is_short_for(Some(begun));
        assert!(process(&nodes).await.is_err());
        assert_eq!(nodes.partial().len(), 1);
        nodes.is_short_for(None);
    }
    let before = list_all(&*nodes, "").await.expect("listed");
    process(&nodes).await.expect("an archive");
    nodes.lose_node().await;
    let after = list_all(&*nodes, "").await.expect("listed");
    let names = |objects: &[ObjectMeta]| -> Vec<String> {
        let keys = objects.iter().map(|object| object.key.clone());
        keys.collect()
    };
    assert_eq!(names(&after), names(&before));
}

#[tokio::test]
async fn what_is_gone_is_to_be_looked_for_again() {
    let nodes = Arc::new(Nodes::default());
    let archive = process(&nodes).await.expect("an archive");
    let id = BackupId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    let gone = archive.reaffirm(&ObjectKey::BackupRecord(id)).await;
    assert!(gone.expect_err("gone").is_transient());
}

#[tokio::test]
async fn what_is_damaged_is_not_put_again() {
    let nodes = Arc::new(Nodes::default());
    let archive = process(&nodes).await.expect("an archive");
    let key = ObjectKey::Gap(
        walvault_protocol::TimelineId::FIRST,
        walvault_protocol::LsnRange::new(walvault_protocol::Lsn(0), walvault_protocol::Lsn(1)),
    );
    let name = archive.name(&key);
    nodes.is_short_for(Some(""));
    let damaged = Body::new(Bytes::from_static(b"no object"));
    assert!(nodes.put(&name, damaged).await.is_err());
    nodes.is_short_for(None);
    archive.reaffirm(&key).await.expect("left alone");
    assert!(nodes.partial().contains(&name));
}
