//! What only some stores have, each behind a trait of its own.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::{Body, ObjectStore, SharedStore, StoreError};

/// What a store has beyond objects. There is no default: whoever passes a store on says what
/// becomes of each.
pub struct Capabilities<'a> {
    /// Locks that keep an object from being removed.
    pub locks: Option<Box<dyn Locks + 'a>>,
    /// Earlier versions of an object.
    pub versions: Option<Box<dyn Versions + 'a>>,
    /// Writes that were never finished and take up room.
    pub leftovers: Option<Box<dyn Leftovers + 'a>>,
    /// Objects that may be overwritten. `None` where the store itself enforces write-once.
    pub overwrites: Option<Box<dyn Overwrites + 'a>>,
    /// Removing many objects in one request.
    pub batches: Option<Box<dyn Batches + 'a>>,
    /// The stores that this one is made of, each with the whole archive; none for a plain one.
    pub replicas: Vec<SharedStore>,
}

impl Capabilities<'_> {
    /// Of a store that holds objects, enforces write-once, and no more.
    #[must_use]
    pub fn none() -> Self {
        Capabilities {
            locks: None,
            versions: None,
            leftovers: None,
            overwrites: None,
            batches: None,
            replicas: Vec::new(),
        }
    }
}

/// A store that keeps objects from being removed for a time.
#[async_trait]
pub trait Locks: Send + Sync {
    /// Until when the store does not let an object go; `None` when it does, or has none.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError>;

    /// For how long an object is locked that is put under `key`; `None` where none is.
    fn retention(&self, key: &str) -> Option<Duration>;

    /// Locks an object until `until`, or for longer where it is locked for longer.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none, and when the store does not lock.
    async fn retain(&self, key: &str, until: jiff::Timestamp) -> Result<(), StoreError>;
}

/// A store that may keep earlier versions of an object.
#[async_trait]
pub trait Versions: Send + Sync {
    /// Removes an object with all its earlier versions. Removing what is not there succeeds.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when a version is locked, [`StoreError::Refused`] when one may not be
    /// removed.
    async fn erase(&self, key: &str) -> Result<(), StoreError>;

    /// Whether anything of an object is there, be it an earlier version or the mark that it was
    /// deleted.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn remains(&self, key: &str) -> Result<bool, StoreError>;
}

/// A write that was never finished and takes up room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Where it was to lie, or lies.
    pub key: String,
    /// A multipart upload's name; `None` for a file.
    pub upload: Option<String>,
    /// Bytes, where they are known.
    pub size: u64,
    /// When it was begun.
    pub begun: jiff::Timestamp,
}

/// A store in which a write that was cut off leaves something behind.
#[async_trait]
pub trait Leftovers: Send + Sync {
    /// Writes begun before `before` that were never finished.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn find(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError>;

    /// Removes one. Removing what is not there succeeds.
    ///
    /// # Errors
    /// When the store cannot be asked, or refuses.
    async fn remove(&self, leftover: &Leftover) -> Result<(), StoreError>;
}

/// A store that may let an object be overwritten: it takes the condition of a PUT and may ignore
/// it. Such stores are of several nodes, and may show an object that one node took before the
/// PUT failed, and lose it with that node.
#[async_trait]
pub trait Overwrites: Send + Sync {
    /// Whether it does ignore conditions; asked of the store at most once.
    ///
    /// # Errors
    /// When the store cannot be asked, or does not let us write.
    async fn ignores_conditions(&self) -> Result<bool, StoreError>;

    /// Puts once more what was found in the store and is not known to have been answered for,
    /// `body` being what was read of it. Where conditions are enforced there is nothing to do.
    ///
    /// # Errors
    /// When the store cannot be asked, or does not let us write.
    async fn put_again(&self, key: &str, body: Body) -> Result<(), StoreError>;
}

/// A store that removes many objects in one request.
#[async_trait]
pub trait Batches: Send + Sync {
    /// Removes up to [`BATCH`] objects; returns the keys of those of which the store says that they
    /// are gone. Why another one is not, removing it alone tells.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the store takes no such request.
    async fn delete_batch(&self, keys: &[String]) -> Result<Vec<String>, StoreError>;
}

/// The most objects that one request removes: S3's limit.
pub const BATCH: usize = 1000;

/// How many objects are removed at once where each is a request. At 30 ms each, 16 remove 500 a
/// second, more than a stream stores.
const DELETES_AT_ONCE: usize = 16;

/// Conveniences over capabilities.
impl<'s> dyn ObjectStore + 's {
    /// Until when the store does not let an object go; `None` when it does, or has none.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        match self.capabilities().locks {
            Some(locks) => locks.locked_until(key).await,
            None => Ok(None),
        }
    }

    /// For how long an object is locked that is put under `key`; `None` where none is.
    #[must_use]
    pub fn retention(&self, key: &str) -> Option<Duration> {
        self.capabilities().locks?.retention(key)
    }

    /// Locks an object until `until`, or for longer where it is locked for longer.
    ///
    /// # Errors
    /// As [`Locks::retain`].
    pub async fn retain(&self, key: &str, until: jiff::Timestamp) -> Result<(), StoreError> {
        match self.capabilities().locks {
            Some(locks) => locks.retain(key, until).await,
            None => Err(StoreError::refused(
                self.url(),
                "lock",
                key,
                "this store locks nothing",
                "configure no lock for it, or use a store that has locks",
            )),
        }
    }

    /// Removes objects, in batches where the store takes them. All that can be removed are, unless the
    /// store refuses one: it would refuse the others as well. Removing what is not there succeeds.
    ///
    /// # Errors
    /// That of one object that is not removed, as [`ObjectStore::delete`].
    pub async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut failed = None;
        for batch in keys.chunks(BATCH) {
            let gone = self.delete_together(batch).await?;
            let left = batch.iter().filter(|key| !gone.contains(*key));
            let singly = left.map(|key| self.delete(key));
            // Collected, so that whoever waits for it may do so on any thread.
            let singly: Vec<_> = singly.collect();
            let mut singly = stream::iter(singly).buffer_unordered(DELETES_AT_ONCE);
            while let Some(deleted) = singly.next().await {
                match deleted {
                    Ok(()) => {}
                    Err(refused @ StoreError::Refused { .. }) => return Err(refused),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes what one request can; none where the store takes no such request.
    async fn delete_together(&self, keys: &[String]) -> Result<HashSet<String>, StoreError> {
        let Some(batches) = self.capabilities().batches.filter(|_| keys.len() > 1) else {
            return Ok(HashSet::new());
        };
        match batches.delete_batch(keys).await {
            Ok(gone) => Ok(gone.into_iter().collect()),
            // Requests for single objects may be allowed all the same.
            Err(StoreError::Refused { .. }) => Ok(HashSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Removes an object with all its earlier versions, where the store keeps them.
    ///
    /// # Errors
    /// As [`Versions::erase`].
    pub async fn erase(&self, key: &str) -> Result<(), StoreError> {
        match self.capabilities().versions {
            Some(versions) => versions.erase(key).await,
            None => self.delete(key).await,
        }
    }

    /// Whether anything of an object is there, be it an earlier version or the mark that it was
    /// deleted.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn remains(&self, key: &str) -> Result<bool, StoreError> {
        match self.capabilities().versions {
            Some(versions) => versions.remains(key).await,
            None => Ok(self.head(key).await?.is_some()),
        }
    }

    /// Writes begun before `before` that were never finished.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn leftovers(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        match self.capabilities().leftovers {
            Some(leftovers) => leftovers.find(before).await,
            None => Ok(Vec::new()),
        }
    }

    /// Removes a write that was never finished.
    ///
    /// # Errors
    /// When the store cannot be asked, or refuses.
    pub async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        match self.capabilities().leftovers {
            Some(leftovers) => leftovers.remove(leftover).await,
            None => Ok(()),
        }
    }

    /// Whether the store lets objects be overwritten.
    ///
    /// # Errors
    /// When the store cannot be asked, or does not let us write.
    pub async fn ignores_conditions(&self) -> Result<bool, StoreError> {
        match self.capabilities().overwrites {
            Some(overwrites) => overwrites.ignores_conditions().await,
            None => Ok(false),
        }
    }

    /// Puts once more what was found in the store; see [`Overwrites::put_again`].
    ///
    /// # Errors
    /// When the store cannot be asked, or does not let us write.
    pub async fn put_again(&self, key: &str, body: Body) -> Result<(), StoreError> {
        match self.capabilities().overwrites {
            Some(overwrites) => overwrites.put_again(key, body).await,
            None => Ok(()),
        }
    }

    /// The stores that this one is made of; none for a plain one.
    #[must_use]
    pub fn replicas(&self) -> Vec<SharedStore> {
        self.capabilities().replicas
    }
}
