//! Object stores: the few operations an archive needs, and decorators that each add one concern.
//!
//! A store holds bytes under keys and knows nothing of what they mean. Keys are relative to the
//! archive's URL and use `/`.
//!
//! The seams to the world lie here too, below everything that uses them: the clock, chance, work
//! that would block, and the pause between attempts.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use walvault_layout::{ObjectKey, stored_limit};

pub mod aws;
pub mod backoff;
pub mod chance;
pub mod clock;
pub mod compute;
pub mod endpoint;
pub mod hangup;
pub mod simulated;

mod alike;
mod archive_url;
mod backends;
mod capabilities;
mod key;

pub mod directory;
#[cfg(any(test, feature = "testing"))]
pub mod hooked;
pub mod memory;
pub mod metered;
#[cfg(any(test, feature = "testing"))]
pub mod on_the_way;
mod operation;
pub mod read_only;
mod reaffirm;
pub mod replicas;
pub mod retrying;
pub mod s3;
mod through;
pub mod write_once;

pub use alike::{ALIKE, read_alike};
pub use archive_url::{ArchiveUrl, open_at};
pub use backends::{BACKENDS, Backend, StoreOptions};
pub use backoff::Backoff;
pub use capabilities::{
    BATCH, Batches, Capabilities, Leftover, Leftovers, Locks, Overwrites, Versions,
};
pub use directory::DirectoryStore;
pub use memory::MemoryStore;
pub use metered::Metered;
pub use read_only::ReadOnly;
pub use reaffirm::{put_again, reaffirm};
pub use replicas::{IsWhole, Quorum, Replicas, Unopened};
pub use retrying::{RetryPolicy, Retrying};
pub use s3::{S3Settings, S3Store};
pub use write_once::WriteOnce;

/// A store that parts of the program share.
pub type SharedStore = Arc<dyn ObjectStore>;

/// One store out of all that hold the archive: the first itself, where it is the only one.
/// `is_whole` as in [`Replicas::new`]; absence is proven as [`Replicas::strict`] says.
#[must_use]
pub fn joined(mut stores: Vec<SharedStore>, quorum: Quorum, is_whole: IsWhole) -> SharedStore {
    match stores.len() {
        1 => stores.remove(0),
        _ => Arc::new(Replicas::new(stores, quorum, is_whole).strict()),
    }
}

/// Which other writers may put an object under the same key. A store that enforces write-once
/// needs no answer; the decorator for the others ([`WriteOnce`]) looks first, or afterwards, by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Another writer may have put an object there before.
    Shared,
    /// Only this process could have given the key: a look first would cost as much time as the PUT.
    Fresh,
    /// Writers compete for the key, each with its own bytes, and one may succeed.
    Contested,
}

/// A body to store, hashed once.
#[derive(Debug, Clone)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    /// SHA-256 of all of `bytes`: sent along, so that the store refuses a body altered on the way.
    pub sha256: [u8; 32],
    /// Who else may put under its key.
    pub naming: Naming,
}

impl Body {
    /// Hashes `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes) -> Body {
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let sha256 = digest.as_ref().try_into().expect("SHA-256 is 32 bytes");
        Body {
            bytes,
            sha256,
            naming: Naming::Shared,
        }
    }

    /// The same, under a key of this naming.
    #[must_use]
    pub fn named(self, naming: Naming) -> Body {
        Body { naming, ..self }
    }
}

/// What a listing tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: jiff::Timestamp,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// In ascending order of their keys' bytes.
    pub objects: Vec<ObjectMeta>,
    /// Where the next page begins: pass it as `after`. `None` at the end.
    pub next: Option<String>,
}

/// Why a store did not do what it was asked, sorted by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It may work later: unreachable, slow, throttling, failing. Retry.
    #[error("{store}: {action} '{key}' failed: {reason}")]
    Unavailable {
        /// Which store.
        store: String,
        /// What was asked of it, as a verb.
        action: &'static str,
        /// The object or prefix.
        key: String,
        /// What it said.
        reason: String,
    },
    /// There is no such object.
    #[error("{store} has no object '{key}'")]
    Missing {
        /// Which store.
        store: String,
        /// The object.
        key: String,
    },
    /// The object is there already, and objects are written once.
    #[error("{store} already has an object '{key}'; walvault never overwrites one")]
    Exists {
        /// Which store.
        store: String,
        /// The object.
        key: String,
    },
    /// The store keeps the object from being removed.
    #[error("{store} does not let '{key}' go {}", end_of_lock(.until))]
    Locked {
        /// Which store.
        store: String,
        /// The object.
        key: String,
        /// When the lock ends; the end of time for a legal hold.
        until: jiff::Timestamp,
    },
    /// The object is larger than walvault ever writes under its name. Nothing of it was read.
    #[error(
        "{store}: '{key}' has {size} bytes, and walvault writes no more than {limit} there: it was not read; delete it if walvault did not write it, or bring it back from a copy"
    )]
    TooLarge {
        /// Which store.
        store: String,
        /// The object.
        key: String,
        /// Its bytes.
        size: u64,
        /// The most there may be ([`stored_limit`]).
        limit: u64,
    },
    /// It will not work until somebody changes something: no such bucket, access denied, a
    /// directory that cannot be written.
    #[error("{store}: {action} '{key}' was refused: {reason}; {remedy}")]
    Refused {
        /// Which store.
        store: String,
        /// What was asked of it, as a verb.
        action: &'static str,
        /// The object or prefix.
        key: String,
        /// What it said.
        reason: String,
        /// What the operator can do.
        remedy: String,
    },
}

fn end_of_lock(until: &jiff::Timestamp) -> String {
    if *until == jiff::Timestamp::MAX {
        return "before its legal hold is released".to_owned();
    }
    format!("before {until}: it is locked until then")
}

impl StoreError {
    /// A [`StoreError::Unavailable`].
    pub fn unavailable(
        store: &str,
        action: &'static str,
        key: &str,
        reason: impl fmt::Display,
    ) -> StoreError {
        StoreError::Unavailable {
            store: store.to_owned(),
            action,
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// A [`StoreError::Missing`].
    #[must_use]
    pub fn missing(store: &str, key: &str) -> StoreError {
        StoreError::Missing {
            store: store.to_owned(),
            key: key.to_owned(),
        }
    }

    /// A [`StoreError::Exists`].
    #[must_use]
    pub fn exists(store: &str, key: &str) -> StoreError {
        StoreError::Exists {
            store: store.to_owned(),
            key: key.to_owned(),
        }
    }

    /// Refuses an object whose size is more than any of its name has, before it is read.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`].
    pub fn check_size(store: &str, key: &str, size: u64) -> Result<(), StoreError> {
        let limit = stored_limit(key);
        if size <= limit {
            return Ok(());
        }
        Err(StoreError::TooLarge {
            store: store.to_owned(),
            key: key.to_owned(),
            size,
            limit,
        })
    }

    /// A [`StoreError::Refused`].
    pub fn refused(
        store: &str,
        action: &'static str,
        key: &str,
        reason: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> StoreError {
        StoreError::Refused {
            store: store.to_owned(),
            action,
            key: key.to_owned(),
            reason: reason.to_string(),
            remedy: remedy.into(),
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }
}

/// Where an archive's objects are kept.
///
/// Every method is required, so that a decorator cannot forget to pass one on. What only some
/// stores have is a capability; conveniences over capabilities are methods of `dyn ObjectStore`,
/// which no store can redefine.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// The URL of the archive, for messages; no secret is in it.
    fn url(&self) -> &str;

    /// Stores a new object, durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when there is one under this key, whatever it holds. On
    /// [`StoreError::Unavailable`] the object may or may not have been stored.
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError>;

    /// Reads an object, or the bytes `range` of it (cut to its size). One that is larger than
    /// [`stored_limit`] allows is refused before it is read.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none, [`StoreError::TooLarge`].
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;

    /// What the store knows of an object; `None` when there is none.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError>;

    /// A page of the objects whose keys begin with `prefix` and come after `after`.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError>;

    /// Removes an object. Removing what is not there succeeds.
    ///
    /// # Errors
    /// When the store cannot be asked, or refuses.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// What the store has beyond objects.
    fn capabilities(&self) -> Capabilities<'_>;
}

/// All objects under `prefix`, in order.
///
/// # Errors
/// As [`ObjectStore::list`].
pub async fn list_all(
    store: &dyn ObjectStore,
    prefix: &str,
) -> Result<Vec<ObjectMeta>, StoreError> {
    let mut objects = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(prefix, after.as_deref()).await?;
        objects.extend(page.objects);
        after = next_page(store, prefix, after.as_deref(), page.next)?;
        if after.is_none() {
            return Ok(objects);
        }
    }
}

/// The name of `archive.json`, which says whose objects are beside it.
fn identity_key() -> String {
    ObjectKey::Archive.spell(walvault_protocol::SegmentSize::DEFAULT)
}

/// Where a listing of `prefix` goes on whose last page began after `after`; `None` at its end. A
/// listing that does not get on would never end.
///
/// # Errors
/// [`StoreError::Unavailable`] when the next page would not begin after the last.
pub fn next_page(
    store: &dyn ObjectStore,
    prefix: &str,
    after: Option<&str>,
    next: Option<String>,
) -> Result<Option<String>, StoreError> {
    match (after, next) {
        (Some(after), Some(next)) if *next <= *after => {
            let reason = format!("the listing does not get on: it goes on after '{next}' again");
            Err(StoreError::unavailable(store.url(), "list", prefix, reason))
        }
        (_, next) => Ok(next),
    }
}
