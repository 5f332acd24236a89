//! A store that could not be opened, such as a disk that is not mounted: it is away.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ArchiveUrl, Body, Capabilities, ListPage, ObjectMeta, ObjectStore, StoreError};

/// Stands for a store that did not open, so that nothing counts as absent that only it may hold.
#[derive(Debug)]
pub struct Unopened {
    url: String,
    reason: String,
}

impl Unopened {
    /// The store at `url`, which failed to open with `error`.
    #[must_use]
    pub fn new(url: &ArchiveUrl, error: &StoreError) -> Unopened {
        let why = match error {
            StoreError::Refused { reason, remedy, .. } => format!("{reason}; {remedy}"),
            other => other.to_string(),
        };
        Unopened {
            url: url.to_string(),
            reason: format!(
                "it could not be opened: {why}; if it is lost for good, take it out of the configuration"
            ),
        }
    }

    fn away(&self, action: &'static str, key: &str) -> StoreError {
        StoreError::unavailable(&self.url, action, key, &self.reason)
    }
}

#[async_trait]
impl ObjectStore for Unopened {
    fn url(&self) -> &str {
        &self.url
    }

    async fn put(&self, key: &str, _body: Body) -> Result<(), StoreError> {
        Err(self.away("put", key))
    }

    async fn get(&self, key: &str, _range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        Err(self.away("get", key))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        Err(self.away("head", key))
    }

    async fn list(&self, prefix: &str, _after: Option<&str>) -> Result<ListPage, StoreError> {
        Err(self.away("list", prefix))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        Err(self.away("delete", key))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities::none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{MemoryStore, Quorum, Replicas, SharedStore, identity_key, joined};

    fn body(text: &'static str) -> Body {
        Body::new(Bytes::from_static(text.as_bytes()))
    }

    /// A store that holds an archive.
    async fn begun() -> SharedStore {
        let store: SharedStore = Arc::new(MemoryStore::new());
        store
            .put(&identity_key(), body("{}"))
            .await
            .expect("stored");
        store.put("keys/a/1", body("1")).await.expect("stored");
        store
    }

    fn unopened() -> SharedStore {
        let url = ArchiveUrl::parse("file:///not/mounted").expect("a URL");
        let error = StoreError::refused(&url.to_string(), "open", "", "gone", "mount it");
        Arc::new(Unopened::new(&url, &error))
    }

    /// What is read of something that the first holds, and of something that it does not.
    async fn read(stores: Vec<SharedStore>) -> (Bytes, StoreError) {
        let store = joined(stores, Quorum::Any, |_, _| true);
        let held = store.get("keys/a/1", None).await.expect("held");
        let absent = store.get("keys/a/2", None).await.expect_err("not held");
        (held, absent)
    }

    #[tokio::test]
    async fn nothing_is_absent_while_one_did_not_open() {
        let (held, absent) = read(vec![begun().await, unopened()]).await;
        assert_eq!(held, "1");
        assert!(absent.is_transient(), "{absent}");
        assert!(absent.to_string().contains("gone; mount it"), "{absent}");
    }

    #[tokio::test]
    async fn an_empty_mount_point_proves_nothing_absent() {
        let empty: SharedStore = Arc::new(MemoryStore::new());
        let (_, absent) = read(vec![begun().await, empty.clone()]).await;
        assert!(absent.is_transient(), "{absent}");
        assert!(absent.to_string().contains("archive.json"), "{absent}");
        // Who brings it what it lacks has to hear that it lacks it.
        let filled = Replicas::new(vec![begun().await, empty], Quorum::Any, |_, _| true);
        let absent = filled.get("keys/a/2", None).await.expect_err("not held");
        assert!(matches!(absent, StoreError::Missing { .. }), "{absent}");
    }

    #[tokio::test]
    async fn what_each_archive_lacks_is_absent() {
        let (_, absent) = read(vec![begun().await, begun().await]).await;
        assert!(matches!(absent, StoreError::Missing { .. }), "{absent}");
    }
}
