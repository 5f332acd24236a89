//! What a proxy, or a faulty machine, does to answers: for tests.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, ListPage, MemoryStore, ObjectMeta, ObjectStore, StoreError};

/// A store the way to which alters a bit of each object a number of times.
#[derive(Debug, Default)]
pub(crate) struct OnTheWay {
    memory: MemoryStore,
    /// How many answers are still altered.
    pub(crate) damaging: AtomicU32,
    /// Only answers that are larger.
    pub(crate) spared: AtomicUsize,
}

#[async_trait]
impl ObjectStore for OnTheWay {
    fn url(&self) -> &str {
        self.memory.url()
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.memory.put(key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let mut bytes = self.memory.get(key, range).await?.to_vec();
        let left = self.damaging.load(Ordering::Relaxed);
        if left > 0 && bytes.len() > self.spared.load(Ordering::Relaxed) {
            self.damaging.store(left - 1, Ordering::Relaxed);
            let place = bytes.len() * 2 / 3;
            bytes[place] ^= 1;
        }
        Ok(bytes.into())
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.memory.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        self.memory.list(prefix, after).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.memory.delete(key).await
    }
}
