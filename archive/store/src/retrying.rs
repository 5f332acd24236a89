//! A store that waits outages out, and resolves a PUT whose answer was lost.
//!
//! Owns how long to wait and when to give up. Only [`StoreError::Unavailable`] is retried; what is
//! refused, missing or there already is the caller's to act on.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::operation::Operation;
use crate::through::{Around, through};
use crate::{
    Body, Capabilities, ListPage, Naming, ObjectMeta, ObjectStore, SharedStore, StoreError,
};

/// How long to wait between attempts, and for how long to go on.
///
/// The wait before attempt `n + 1` is drawn evenly from nothing to `initial * 2^(n - 1)`, at most
/// `max`, so that many clients do not come back all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Give up when the next attempt would begin later than this after the first; `None` for
    /// never. It does not cut an attempt short.
    pub deadline: Option<Duration>,
}

impl Default for RetryPolicy {
    /// Waits of up to 100 ms growing to 10 s, for ever.
    fn default() -> RetryPolicy {
        RetryPolicy {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(10),
            deadline: None,
        }
    }
}

/// Told of every attempt that failed and will be repeated: why, which attempt it was (from 1), and
/// how long the wait is.
pub type OnRetry = Arc<dyn Fn(&StoreError, u32, Duration) + Send + Sync>;

/// A store that retries another.
#[derive(Clone)]
pub struct Retrying {
    inner: SharedStore,
    policy: RetryPolicy,
    on_retry: Option<OnRetry>,
}

impl fmt::Debug for Retrying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Retrying {
    /// Retries `inner`.
    #[must_use]
    pub fn new(inner: SharedStore, policy: RetryPolicy) -> Retrying {
        Retrying {
            inner,
            policy,
            on_retry: None,
        }
    }

    /// Has `on_retry` told of every wait.
    #[must_use]
    pub fn with_on_retry(mut self, on_retry: OnRetry) -> Retrying {
        self.on_retry = Some(on_retry);
        self
    }

    async fn retry<T, F>(&self, mut attempt: impl FnMut() -> F + Send) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut waits = Waits::begin(self);
        loop {
            match attempt().await {
                Err(error) if error.is_transient() => waits.wait(error).await?,
                result => return result,
            }
        }
    }

    /// Goes on after the first attempt of a PUT until it is settled.
    async fn settle_put(
        &self,
        first: Result<(), StoreError>,
        key: &str,
        body: Body,
    ) -> Result<(), StoreError> {
        let mut waits = Waits::begin(self);
        let again = match body.naming {
            Naming::Fresh => Naming::Shared,
            naming => naming,
        };
        let mut unanswered = false;
        let mut attempt = Some(first);
        loop {
            let answer = match attempt.take() {
                Some(first) => first,
                None => self.inner.put(key, body.clone().named(again)).await,
            };
            let outcome = match answer {
                Err(exists @ StoreError::Exists { .. }) if unanswered => {
                    match self.is_ours(key, &body).await {
                        // That it is seen is no answer yet.
                        Ok(true) => match self.inner.put_again(key, body.clone()).await {
                            Ok(()) => {
                                info!(store = self.url(), key, "an unanswered PUT had succeeded");
                                Ok(())
                            }
                            failed => failed,
                        },
                        Ok(false) => Err(exists),
                        Err(error) => Err(error),
                    }
                }
                outcome => outcome,
            };
            match outcome {
                Err(error) if error.is_transient() => {
                    unanswered = true;
                    waits.wait(error).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Whether the object that is there is the one whose PUT went unanswered. One attempt.
    async fn is_ours(&self, key: &str, body: &Body) -> Result<bool, StoreError> {
        let size = body.bytes.len() as u64;
        // The size may be all that can be learnt, and spares reading what cannot be ours.
        match self.size(key).await? {
            Some(found) if found == size => {}
            _ => return Ok(false),
        }
        match self.inner.get(key, None).await {
            Ok(stored) => Ok(stored == body.bytes),
            Err(StoreError::Missing { .. }) => Ok(false),
            Err(refused @ StoreError::Refused { .. }) => {
                warn!(
                    store = self.inner.url(), key, error = %refused,
                    "a PUT went unanswered and its object may not be read back; \
                     it is taken for ours because its size of {size} bytes is right"
                );
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// The size of an object, from a listing where asking for the object is refused.
    async fn size(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let found = match self.inner.head(key).await {
            Err(StoreError::Refused { .. }) => {
                // The key itself is the first that begins with it.
                let page = self.inner.list(key, None).await?;
                page.objects.into_iter().find(|object| object.key == key)
            }
            found => found?,
        };
        Ok(found.map(|object| object.size))
    }
}

#[async_trait]
impl ObjectStore for Retrying {
    fn url(&self) -> &str {
        self.inner.url()
    }

    /// As the inner store's, except that [`StoreError::Exists`] after an attempt that went
    /// unanswered succeeds when the object there holds the same bytes and the store answers for
    /// them ([`Overwrites::put_again`](super::Overwrites::put_again)). An attempt after an
    /// unanswered one looks first, however fresh the name was.
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        let first = self.inner.put(key, body.clone()).await;
        self.settle_put(first, key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.retry(|| self.inner.get(key, range.clone())).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.retry(|| self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        self.retry(|| self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.retry(|| self.inner.delete(key)).await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        let retried = |inner| -> SharedStore {
            Arc::new(Retrying {
                inner,
                ..self.clone()
            })
        };
        through(self, self.inner.capabilities(), retried)
    }
}

impl Around for Retrying {
    async fn around<T, F>(
        &self,
        _operation: Option<Operation>,
        attempt: impl FnMut() -> F + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        self.retry(attempt).await
    }
}

/// The waits of one call.
struct Waits<'a> {
    store: &'a Retrying,
    begun: Instant,
    backoff: Backoff,
}

impl<'a> Waits<'a> {
    fn begin(store: &'a Retrying) -> Waits<'a> {
        Waits {
            store,
            begun: Instant::now(),
            backoff: Backoff::with_full_jitter(store.policy.initial, store.policy.max),
        }
    }

    /// Waits after a failed attempt, or returns its error when there is no time left for another.
    async fn wait(&mut self, error: StoreError) -> Result<(), StoreError> {
        let delay = self.backoff.pause();
        let deadline = self.store.policy.deadline;
        if deadline.is_some_and(|deadline| self.begun.elapsed().saturating_add(delay) > deadline) {
            return Err(error);
        }
        if let Some(on_retry) = &self.store.on_retry {
            on_retry(&error, self.backoff.failed(), delay);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
