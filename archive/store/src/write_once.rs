//! The one place that knows of stores which ignore the condition of a PUT.
//!
//! walvault writes an object once: its PUT has the condition that there be none (`If-None-Match`).
//! Some stores accept the condition and ignore it (Garage does), some do not know it. The first PUT
//! finds out. On such a store this decorator looks before it writes, and that leaves a race: of two
//! writers that both look before either has written, the later one's object stays.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;
use walvault_layout::CONDITIONAL_PROBE;

use super::{
    Body, Capabilities, ListPage, Naming, ObjectMeta, ObjectStore, Overwrites, StoreError,
};

/// How a store answered a PUT whose condition was that there be no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditional {
    /// The store took the object.
    Stored,
    /// The key has an object already.
    Exists,
    /// The store does not know the condition.
    NotImplemented,
}

/// A store whose PUTs may or may not have a condition; [`WriteOnce`] chooses.
#[async_trait]
pub trait ConditionalPuts: ObjectStore {
    /// Stores an object under the condition that the key has none.
    ///
    /// # Errors
    /// When the store cannot be asked, or refuses.
    async fn put_if_absent(&self, key: &str, body: Body) -> Result<Conditional, StoreError>;

    /// Stores an object without a condition, in the place of any other.
    ///
    /// # Errors
    /// When the store cannot be asked, or refuses.
    async fn put_over(&self, key: &str, body: Body) -> Result<(), StoreError>;
}

/// A store whose objects are written once.
#[derive(Debug)]
pub struct WriteOnce<S> {
    inner: S,
    ignores: OnceCell<bool>,
}

impl<S: ConditionalPuts> WriteOnce<S> {
    /// Writes once to `inner`. The first PUT asks it whether it enforces conditions.
    #[must_use]
    pub fn new(inner: S) -> WriteOnce<S> {
        WriteOnce {
            inner,
            ignores: OnceCell::new(),
        }
    }

    /// Whether the store ignores conditions. An empty object, `probe/conditional`, is put under the
    /// condition that there be none, until the store refuses it or has overwritten it. The object
    /// stays. The probe needs no right but to write.
    async fn probe(&self) -> Result<bool, StoreError> {
        for _ in 0..2 {
            let probe = Body::new(Bytes::new());
            match self.inner.put_if_absent(CONDITIONAL_PROBE, probe).await? {
                Conditional::Stored => {}
                Conditional::Exists => return Ok(false),
                Conditional::NotImplemented => break,
            }
        }
        tracing::warn!(
            store = self.url(),
            "this store does not refuse to overwrite objects (it ignores If-None-Match); \
             walvault looks before it writes, so let one walvault write to an archive"
        );
        Ok(true)
    }

    async fn ignores(&self) -> Result<bool, StoreError> {
        let ignores = self.ignores.get_or_try_init(|| self.probe()).await;
        ignores.copied()
    }

    async fn put_where_conditions_are_ignored(
        &self,
        key: &str,
        body: Body,
    ) -> Result<(), StoreError> {
        let naming = body.naming;
        if naming != Naming::Fresh && self.inner.head(key).await?.is_some() {
            return Err(StoreError::exists(self.url(), key));
        }
        self.inner.put_over(key, body.clone()).await?;
        // Another writer may have looked in the same moment, and have written later.
        match naming {
            Naming::Contested => self.is_last(key, &body).await,
            Naming::Shared | Naming::Fresh => Ok(()),
        }
    }

    /// Whether the object that stays is ours: another writer may have looked in the same moment, and
    /// have written later.
    async fn is_last(&self, key: &str, body: &Body) -> Result<(), StoreError> {
        match self.inner.get(key, None).await {
            Ok(stays) if stays == body.bytes => Ok(()),
            Ok(_) => Err(StoreError::exists(self.url(), key)),
            Err(StoreError::Missing { .. }) => {
                let reason = "it does not show what it has just stored";
                Err(StoreError::unavailable(self.url(), "put", key, reason))
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl<S: ConditionalPuts> ObjectStore for WriteOnce<S> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        match self.ignores().await? {
            true => self.put_where_conditions_are_ignored(key, body).await,
            false => self.inner.put(key, body).await,
        }
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

    fn capabilities(&self) -> Capabilities<'_> {
        let overwrites: Box<dyn Overwrites + '_> = Box::new(Repeated(self));
        Capabilities {
            overwrites: Some(overwrites),
            ..self.inner.capabilities()
        }
    }
}

/// PUTs over what is there already.
struct Repeated<'a, S>(&'a WriteOnce<S>);

#[async_trait]
impl<S: ConditionalPuts> Overwrites for Repeated<'_, S> {
    async fn ignores_conditions(&self) -> Result<bool, StoreError> {
        self.0.ignores().await
    }

    async fn put_again(&self, key: &str, body: Body) -> Result<(), StoreError> {
        match self.0.ignores().await? {
            true => self.0.inner.put_over(key, body).await,
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
