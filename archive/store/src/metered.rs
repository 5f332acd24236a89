//! A store whose requests are timed and counted.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::through::{Around, through};

pub use super::operation::Operation;
use super::{Body, Capabilities, ListPage, ObjectMeta, ObjectStore, SharedStore, StoreError};

/// Is told of every request.
pub trait Observer: Send + Sync {
    /// A request was answered, or given up, after `took`.
    fn request(&self, operation: Operation, took: Duration, error: Option<&StoreError>);
}

/// A store that tells an observer of every request. Under [`super::Retrying`] it tells of each attempt.
pub struct Metered {
    inner: SharedStore,
    observer: Arc<dyn Observer>,
}

impl Metered {
    /// Tells `observer` of what is asked of `inner`.
    #[must_use]
    pub fn new(inner: SharedStore, observer: Arc<dyn Observer>) -> Metered {
        Metered { inner, observer }
    }

    async fn timed<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let result = request.await;
        let error = result.as_ref().err();
        self.observer.request(operation, begun.elapsed(), error);
        result
    }
}

impl std::fmt::Debug for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Metered").field(&self.inner).finish()
    }
}

#[async_trait]
impl ObjectStore for Metered {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.timed(Operation::Put, self.inner.put(key, body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let request = self.inner.get(key, range);
        self.timed(Operation::Get, request).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.timed(Operation::Head, self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        let request = self.inner.list(prefix, after);
        self.timed(Operation::List, request).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let request = self.inner.delete(key);
        self.timed(Operation::Delete, request).await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        let metered = |inner| -> SharedStore {
            Arc::new(Metered {
                inner,
                observer: self.observer.clone(),
            })
        };
        through(self, self.inner.capabilities(), metered)
    }
}

impl Around for Metered {
    async fn around<T, F>(
        &self,
        operation: Option<Operation>,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        match operation {
            Some(operation) => self.timed(operation, attempt()).await,
            None => attempt().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::MemoryStore;

    #[derive(Default)]
    struct Log(Mutex<Vec<(Operation, bool)>>);

    impl Observer for Log {
        fn request(&self, operation: Operation, _: Duration, error: Option<&StoreError>) {
            self.0.lock().unwrap().push((operation, error.is_some()));
        }
    }

    #[tokio::test]
    async fn tells_of_every_request_and_changes_no_answer() -> Result<(), StoreError> {
        let log = Arc::new(Log::default());
        let store = Metered::new(Arc::new(MemoryStore::new()), log.clone());
        store.put("a", Body::new(Bytes::from_static(b"1"))).await?;
        assert_eq!(store.get("a", None).await?, "1");
        assert!(store.head("b").await?.is_none());
        assert!(matches!(
            store.get("b", None).await,
            Err(StoreError::Missing { .. })
        ));
        assert_eq!(store.list("", None).await?.objects.len(), 1);
        store.delete("a").await?;
        let told = log.0.lock().unwrap().clone();
        use Operation::{Delete, Get, Head, List, Put};
        let expected = [
            (Put, false),
            (Get, false),
            (Head, false),
            (Get, true),
            (List, false),
            (Delete, false),
        ];
        assert_eq!(told, expected);
        Ok(())
    }
}
