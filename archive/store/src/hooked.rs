//! The one store of tests: another store, with hooks around its requests.
//!
//! A test names what goes wrong, or what is to be counted, in its own [`Hooks`]. Every hook passes
//! the request on unless the test says otherwise.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::operation::Operation;
use super::through::{Around, through};
use super::write_once::{Conditional, ConditionalPuts};
use super::{
    Body, Capabilities, ListPage, MemoryStore, ObjectMeta, ObjectStore, SharedStore, StoreError,
};

/// What a test does to the requests of a store. `store` is always the one that holds the objects.
#[async_trait]
pub trait Hooks: fmt::Debug + Send + Sync {
    /// Runs before every request. `key` is the object's key, or the prefix of a listing; requests
    /// of capabilities have none.
    ///
    /// # Errors
    /// An error takes the place of the store's answer.
    async fn asked(
        &self,
        _store: &dyn ObjectStore,
        _operation: Operation,
        _key: &str,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// A PUT of a key that the store does not have yet, as far as its client knows.
    ///
    /// # Errors
    /// As [`ObjectStore::put`].
    async fn put(&self, store: &dyn ObjectStore, key: &str, body: Body) -> Result<(), StoreError> {
        store.put(key, body).await
    }

    /// A PUT to a store that ignores conditions, below [`WriteOnce`](super::WriteOnce).
    ///
    /// # Errors
    /// As [`ConditionalPuts::put_over`].
    async fn put_over(
        &self,
        store: &dyn ObjectStore,
        key: &str,
        body: Body,
    ) -> Result<(), StoreError> {
        store.delete(key).await?;
        self.put(store, key, body).await
    }

    /// A GET.
    ///
    /// # Errors
    /// As [`ObjectStore::get`].
    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        store.get(key, range).await
    }
}

/// A store with hooks, which the test reaches through it. Clones share both.
///
/// Below [`WriteOnce`](super::WriteOnce) it is a store that ignores conditions.
#[derive(Debug, Default)]
pub struct Hooked<H> {
    held: Held,
    hooks: Arc<H>,
}

/// The store that holds the objects: an empty one in memory, unless a test gives another.
#[derive(Debug, Clone)]
struct Held(SharedStore);

impl Default for Held {
    fn default() -> Held {
        Held(Arc::new(MemoryStore::new()))
    }
}

impl<H> Hooked<H> {
    /// An empty store with `hooks`.
    #[must_use]
    pub fn new(hooks: H) -> Hooked<H> {
        Hooked {
            held: Held::default(),
            hooks: Arc::new(hooks),
        }
    }

    /// `store` with `hooks`.
    #[must_use]
    pub fn over(store: SharedStore, hooks: H) -> Hooked<H> {
        Hooked {
            held: Held(store),
            hooks: Arc::new(hooks),
        }
    }

    /// The store without hooks.
    #[must_use]
    pub fn unhooked(&self) -> &SharedStore {
        &self.held.0
    }
}

impl<H> Clone for Hooked<H> {
    fn clone(&self) -> Hooked<H> {
        Hooked {
            held: self.held.clone(),
            hooks: self.hooks.clone(),
        }
    }
}

impl<H> Deref for Hooked<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.hooks
    }
}

impl<H: Hooks> Hooked<H> {
    async fn asked(&self, operation: Operation, key: &str) -> Result<(), StoreError> {
        self.hooks.asked(&*self.held.0, operation, key).await
    }
}

#[async_trait]
impl<H: Hooks + 'static> ObjectStore for Hooked<H> {
    fn url(&self) -> &str {
        self.held.0.url()
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.asked(Operation::Put, key).await?;
        self.hooks.put(&*self.held.0, key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.asked(Operation::Get, key).await?;
        self.hooks.get(&*self.held.0, key, range).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.asked(Operation::Head, key).await?;
        self.held.0.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        self.asked(Operation::List, prefix).await?;
        self.held.0.list(prefix, after).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.asked(Operation::Delete, key).await?;
        self.held.0.delete(key).await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        let hooked = |replica| -> SharedStore {
            Arc::new(Hooked {
                held: Held(replica),
                hooks: self.hooks.clone(),
            })
        };
        through(self, self.held.0.capabilities(), hooked)
    }
}

#[async_trait]
impl<H: Hooks + 'static> ConditionalPuts for Hooked<H> {
    async fn put_if_absent(&self, key: &str, body: Body) -> Result<Conditional, StoreError> {
        self.put_over(key, body).await?;
        Ok(Conditional::Stored)
    }

    async fn put_over(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.asked(Operation::Put, key).await?;
        self.hooks.put_over(&*self.held.0, key, body).await
    }
}

impl<H: Hooks> Around for Hooked<H> {
    async fn around<T, F>(
        &self,
        operation: Option<Operation>,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        if let Some(operation) = operation {
            self.asked(operation, "").await?;
        }
        attempt().await
    }
}
