//! Capabilities of a decorated store: each request goes the way of the decorator's own.

use std::time::Duration;

use async_trait::async_trait;

use super::operation::Operation;
use super::{Batches, Versions};
use super::{Body, Capabilities, Leftover, Leftovers, Locks, Overwrites, SharedStore, StoreError};

/// What a decorator does around a request.
pub(super) trait Around: Send + Sync {
    /// Makes the request as often as the decorator wants. A question that mostly costs the store no
    /// request has no `operation`.
    fn around<T, F>(
        &self,
        operation: Option<Operation>,
        attempt: impl FnMut() -> F + Send,
    ) -> impl Future<Output = Result<T, StoreError>> + Send
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send;
}

/// A capability behind a decorator.
struct Through<'a, A, C: ?Sized> {
    by: &'a A,
    to: Box<C>,
}

/// The capabilities `of` the inner store, behind the decorator `by`. A decorated store of several
/// has their decorated `replicas`.
pub(super) fn through<'a, A: Around>(
    by: &'a A,
    of: Capabilities<'a>,
    decorated: impl Fn(SharedStore) -> SharedStore,
) -> Capabilities<'a> {
    let Capabilities {
        locks,
        versions,
        leftovers,
        overwrites,
        batches,
        replicas,
    } = of;
    Capabilities {
        locks: locks.map(|to| -> Box<dyn Locks + 'a> { Box::new(Through { by, to }) }),
        versions: versions.map(|to| -> Box<dyn Versions + 'a> { Box::new(Through { by, to }) }),
        leftovers: leftovers.map(|to| -> Box<dyn Leftovers + 'a> { Box::new(Through { by, to }) }),
        overwrites: overwrites
            .map(|to| -> Box<dyn Overwrites + 'a> { Box::new(Through { by, to }) }),
        batches: batches.map(|to| -> Box<dyn Batches + 'a> { Box::new(Through { by, to }) }),
        replicas: replicas.into_iter().map(decorated).collect(),
    }
}

#[async_trait]
impl<'a, A: Around> Locks for Through<'a, A, dyn Locks + 'a> {
    async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        let attempt = || self.to.locked_until(key);
        self.by.around(Some(Operation::Head), attempt).await
    }

    fn retention(&self, key: &str) -> Option<Duration> {
        self.to.retention(key)
    }

    async fn retain(&self, key: &str, until: jiff::Timestamp) -> Result<(), StoreError> {
        let attempt = || self.to.retain(key, until);
        self.by.around(Some(Operation::Put), attempt).await
    }
}

#[async_trait]
impl<'a, A: Around> Versions for Through<'a, A, dyn Versions + 'a> {
    async fn erase(&self, key: &str) -> Result<(), StoreError> {
        let attempt = || self.to.erase(key);
        self.by.around(Some(Operation::Delete), attempt).await
    }

    async fn remains(&self, key: &str) -> Result<bool, StoreError> {
        let attempt = || self.to.remains(key);
        self.by.around(Some(Operation::Head), attempt).await
    }
}

#[async_trait]
impl<'a, A: Around> Leftovers for Through<'a, A, dyn Leftovers + 'a> {
    async fn find(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        let attempt = || self.to.find(before);
        self.by.around(Some(Operation::List), attempt).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let attempt = || self.to.remove(leftover);
        self.by.around(Some(Operation::Delete), attempt).await
    }
}

#[async_trait]
impl<'a, A: Around> Batches for Through<'a, A, dyn Batches + 'a> {
    async fn delete_batch(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        let attempt = || self.to.delete_batch(keys);
        self.by.around(Some(Operation::Delete), attempt).await
    }
}

#[async_trait]
impl<'a, A: Around> Overwrites for Through<'a, A, dyn Overwrites + 'a> {
    async fn ignores_conditions(&self) -> Result<bool, StoreError> {
        let attempt = || self.to.ignores_conditions();
        self.by.around(None, attempt).await
    }

    async fn put_again(&self, key: &str, body: Body) -> Result<(), StoreError> {
        let attempt = || self.to.put_again(key, body.clone());
        self.by.around(Some(Operation::Put), attempt).await
    }
}
