//! A store that is only read: whatever would change it is refused before it is asked.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Body, ConditionalPut, Leftover, ListPage, ObjectMeta, ObjectStore, SharedStore, StoreError,
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

    async fn put_again(&self, key: &str, _body: Body) -> Result<(), StoreError> {
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

    async fn remains(&self, key: &str) -> Result<bool, StoreError> {
        self.inner.remains(key).await
    }

    async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        self.inner.locked_until(key).await
    }

    async fn leftovers(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        self.inner.leftovers(before).await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        Err(self.refused("delete", &leftover.key))
    }

    fn replicas(&self) -> Vec<SharedStore> {
        self.inner.replicas()
    }

    async fn conditional_put(&self) -> Result<ConditionalPut, StoreError> {
        Err(self.refused("put", ""))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn it_is_read_and_not_changed() {
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let body = || Body::new(Bytes::from_static(b"x"));
        inner.put("wal/1", body()).await.expect("stored");
        let store = ReadOnly::new(inner.clone());
        assert_eq!(store.get("wal/1", None).await.expect("read"), "x");
        for refused in [
            store.put("wal/2", body()).await,
            store.put_fresh("wal/2", body()).await,
            store.delete("wal/1").await,
            store.erase("wal/1").await,
            store.retain("wal/1", jiff::Timestamp::MAX).await,
        ] {
            assert!(matches!(refused, Err(StoreError::Refused { .. })));
        }
        assert!(inner.head("wal/1").await.expect("asked").is_some());
    }
}
