//! Object stores: the few operations an archive needs, and decorators that each add one concern.
//!
//! A store holds bytes under keys and knows nothing of what they mean. Keys are relative to the
//! archive's URL and use `/`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

mod alike;
mod archive_url;
mod key;

pub mod directory;
pub mod memory;
pub mod metered;
#[cfg(test)]
pub(crate) mod on_the_way;
pub mod read_only;
mod reaffirm;
pub mod replicas;
pub mod retrying;
pub mod s3;

pub(crate) use alike::{ALIKE, read_alike};
pub use archive_url::ArchiveUrl;
pub use directory::DirectoryStore;
pub use memory::MemoryStore;
pub use metered::Metered;
pub use read_only::ReadOnly;
pub(crate) use reaffirm::{put_again, reaffirm};
pub use replicas::{IsWhole, Quorum, Replicas};
pub use retrying::{RetryPolicy, Retrying};
pub use s3::{S3Settings, S3Store};

/// A store that parts of the program share.
pub type SharedStore = Arc<dyn ObjectStore>;

/// Opens the store at `url`. Nothing is asked of it yet, and nothing is retried:
/// wrap it in [`Retrying`].
///
/// # Errors
/// [`StoreError::Refused`] when the settings cannot work: a directory that is not there, an
/// endpoint without TLS, an unreadable CA file.
pub async fn open_at(url: &ArchiveUrl, s3: &S3Settings) -> Result<SharedStore, StoreError> {
    Ok(match url {
        ArchiveUrl::Directory(path) => Arc::new(DirectoryStore::open(path)?),
        ArchiveUrl::S3 { bucket, prefix } => Arc::new(S3Store::open(bucket, prefix, s3).await?),
    })
}

/// One store out of all that hold the archive: the first itself, where it is the only one.
/// `is_whole` as in [`Replicas::new`].
#[must_use]
pub fn joined(mut stores: Vec<SharedStore>, quorum: Quorum, is_whole: IsWhole) -> SharedStore {
    match stores.len() {
        1 => stores.remove(0),
        _ => Arc::new(Replicas::new(stores, quorum, is_whole)),
    }
}

/// A body to store, hashed once.
#[derive(Debug, Clone)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    /// SHA-256 of all of `bytes`: sent along, so that the store refuses a body altered on the way.
    pub sha256: [u8; 32],
}

impl Body {
    /// Hashes `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes) -> Body {
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let sha256 = digest.as_ref().try_into().expect("SHA-256 is 32 bytes");
        Body { bytes, sha256 }
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

/// Whether a store itself keeps an object from being overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionalPut {
    /// It does: of two writers of one key, exactly one succeeds.
    Enforced,
    /// It takes the condition and ignores it, or does not know it. walvault looks before it
    /// writes, which leaves a race: two writers that both look before either has written both
    /// succeed, and the later one's object stays.
    Ignored,
}

/// Where an archive's objects are kept.
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

    /// As [`ObjectStore::put`], for a key that only we could have given: a store that enforces
    /// write-once does so here as well, but one that does not is not looked at first, which would
    /// cost as much time as the PUT itself.
    ///
    /// # Errors
    /// As [`ObjectStore::put`].
    async fn put_fresh(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.put(key, body).await
    }

    /// Puts once more what was found in the store and is not known to have been answered for, `body`
    /// being what was read of it. A store of several nodes may show an object that one of them took
    /// before the PUT failed, and lose it with that node; an answered PUT is what makes it durable.
    ///
    /// A store that enforces write-once has nothing to do: it refuses what it has itself. A decorator
    /// passes it on.
    ///
    /// # Errors
    /// When the store cannot be asked, or does not let us write.
    async fn put_again(&self, _key: &str, _body: Body) -> Result<(), StoreError> {
        Ok(())
    }

    /// Reads an object, or the bytes `range` of it (cut to its size).
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none.
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

    /// Removes an object with all its earlier versions, where the store keeps them. Removing what is
    /// not there succeeds.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when a version is locked, [`StoreError::Refused`] when one may not be
    /// removed.
    async fn erase(&self, key: &str) -> Result<(), StoreError> {
        self.delete(key).await
    }

    /// Whether anything of an object is there, be it an earlier version or the mark that it was
    /// deleted.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn remains(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.head(key).await?.is_some())
    }

    /// Until when the store does not let an object go; `None` when it does, or has none.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn locked_until(&self, _key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        Ok(None)
    }

    /// For how long an object is locked that is put under `key`; `None` where none is.
    fn retention(&self, _key: &str) -> Option<Duration> {
        None
    }

    /// Locks an object until `until`, or for longer where it is locked for longer.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none, and when the store does not lock.
    async fn retain(&self, key: &str, _until: jiff::Timestamp) -> Result<(), StoreError> {
        Err(StoreError::refused(
            self.url(),
            "lock",
            key,
            "this store locks nothing",
            "leave archive.s3.object_lock out, or use a bucket with Object Lock",
        ))
    }

    /// Writes begun before `before` that were never finished.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn leftovers(&self, _before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes what [`ObjectStore::leftovers`] told. Removing what is not there succeeds.
    ///
    /// # Errors
    /// When the store cannot be asked, or refuses.
    async fn remove_leftover(&self, _leftover: &Leftover) -> Result<(), StoreError> {
        Ok(())
    }

    /// The stores that this one is made of, each with the whole archive; none for a plain one.
    fn replicas(&self) -> Vec<SharedStore> {
        Vec::new()
    }

    /// Whether the store enforces that objects are written once; asked of it at most once. A
    /// decorator passes the question on.
    ///
    /// # Errors
    /// When the store cannot be asked, or does not let us write.
    async fn conditional_put(&self) -> Result<ConditionalPut, StoreError> {
        Ok(ConditionalPut::Enforced)
    }
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
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(objects),
        }
    }
}
