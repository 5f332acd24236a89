//! A store that is only read: whatever would change it is refused before it is asked.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Body, Capabilities, Leftover, Leftovers, ListPage, Locks, ObjectMeta, ObjectStore, SharedStore,
    StoreError, Versions,
};

/// Passes reads on, and nothing else.
#[derive(Debug)]
pub struct ReadOnly {
    inner: SharedStore,
}

impl ReadOnly {
    /// Over `inner`.
    #[must_use]
    pub fn new(inner: SharedStore) -> ReadOnly {
        ReadOnly { inner }
    }

    fn refused(&self, action: &'static str, key: &str) -> StoreError {
        StoreError::refused(
            self.url(),
            action,
            key,
            "an archive that --archive names is only read",
            "configure it as [archive] url to change it",
        )
    }
}

#[async_trait]
impl ObjectStore for ReadOnly {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &str, _body: Body) -> Result<(), StoreError> {
        Err(self.refused("put", key))
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
        Err(self.refused("delete", key))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        let Capabilities {
            locks,
            versions,
            leftovers,
            // What is never put need not be put again, and nothing is removed.
            overwrites: _,
            batches: _,
            replicas,
        } = self.inner.capabilities();
        let store = self;
        Capabilities {
            locks: locks.map(|to| -> Box<dyn Locks + '_> { Box::new(Read { store, to }) }),
            versions: versions.map(|to| -> Box<dyn Versions + '_> { Box::new(Read { store, to }) }),
            leftovers: leftovers
                .map(|to| -> Box<dyn Leftovers + '_> { Box::new(Read { store, to }) }),
            overwrites: None,
            batches: None,
            replicas: replicas
                .into_iter()
                .map(|inner| -> SharedStore { Arc::new(ReadOnly::new(inner)) })
                .collect(),
        }
    }
}

/// A capability of which nothing is used that changes the store.
struct Read<'a, C: ?Sized> {
    store: &'a ReadOnly,
    to: Box<C>,
}

#[async_trait]
impl<'a> Locks for Read<'a, dyn Locks + 'a> {
    async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        self.to.locked_until(key).await
    }

    fn retention(&self, key: &str) -> Option<Duration> {
        self.to.retention(key)
    }

    async fn retain(&self, key: &str, _until: jiff::Timestamp) -> Result<(), StoreError> {
        Err(self.store.refused("lock", key))
    }
}

#[async_trait]
impl<'a> Versions for Read<'a, dyn Versions + 'a> {
    async fn erase(&self, key: &str) -> Result<(), StoreError> {
        Err(self.store.refused("erase", key))
    }

    async fn remains(&self, key: &str) -> Result<bool, StoreError> {
        self.to.remains(key).await
    }
}

#[async_trait]
impl<'a> Leftovers for Read<'a, dyn Leftovers + 'a> {
    async fn find(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        self.to.find(before).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), StoreError> {
        Err(self.store.refused("delete", &leftover.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStore, Naming};

    #[tokio::test]
    async fn it_is_read_and_not_changed() {
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let body = || Body::new(Bytes::from_static(b"x"));
        inner.put("wal/1", body()).await.expect("stored");
        let store: SharedStore = Arc::new(ReadOnly::new(inner.clone()));
        assert_eq!(store.get("wal/1", None).await.expect("read"), "x");
        for refused in [
            store.put("wal/2", body()).await,
            store.put("wal/2", body().named(Naming::Fresh)).await,
            store.delete("wal/1").await,
            store.erase("wal/1").await,
            store.retain("wal/1", jiff::Timestamp::MAX).await,
        ] {
            assert!(matches!(refused, Err(StoreError::Refused { .. })));
        }
        assert!(inner.head("wal/1").await.expect("asked").is_some());
    }
}
