//! WAL on its way into the archive, and the receipt for it.

use walvault_protocol::{LsnRange, TimelineId};

use super::Archive;
use crate::error::Error;
use crate::layout::{ObjectKey, WalObject};
use crate::seal::SealedObject;
use crate::store::StoreError;

/// A run of WAL on its way into the archive.
pub struct WalPut {
    /// The timeline.
    pub timeline: TimelineId,
    /// What it holds.
    pub range: LsnRange,
    /// Whether it is a whole unit, to be kept under `wal/`, or a chunk under `tail/`.
    pub whole: bool,
    /// Sealed.
    pub sealed: SealedObject,
}

impl WalPut {
    /// The key it is stored under.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        wal_key(self.timeline, self.range, self.whole)
    }
}

/// The key of a run of WAL: of a whole unit, or of a chunk.
#[must_use]
pub fn wal_key(timeline: TimelineId, range: LsnRange, whole: bool) -> ObjectKey {
    if whole {
        ObjectKey::Wal(WalObject { timeline, range })
    } else {
        ObjectKey::Tail(timeline, range)
    }
}

/// Proof that a run of WAL is in the archive. Only [`Archive::put_wal`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct StoredWal {
    timeline: TimelineId,
    range: LsnRange,
}

impl StoredWal {
    /// The timeline of what was stored.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// What was stored.
    #[must_use]
    pub fn range(&self) -> LsnRange {
        self.range
    }
}

impl Archive {
    /// Stores a run of WAL. When the name is taken, the object that has it is opened and compared:
    /// the same bytes are as good as ours. Where it cannot be opened here, its size has to be ours.
    ///
    /// # Errors
    /// [`Error::Diverged`] when other bytes are archived for this WAL, [`Error::Unconfirmed`] when
    /// that is not known.
    pub async fn put_wal(&self, object: &WalPut) -> Result<StoredWal, Error> {
        let stored = StoredWal {
            timeline: object.timeline,
            range: object.range,
        };
        let key = object.key();
        let (name, body) = (self.name(&key), object.sealed.body.clone());
        let put = if object.whole {
            self.inner.store.put(&name, body).await
        } else {
            // A chunk's name says where it was cut, to the byte. Only this writer cuts there: where
            // streaming resumes, the listing was read first, and another writer cuts elsewhere.
            self.inner.store.put_fresh(&name, body).await
        };
        match put.map_err(Error::from) {
            Ok(()) => Ok(stored),
            Err(Error::Store(StoreError::Exists { .. })) => {
                self.compare(object, &key).await.map(|()| stored)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the object that is there holds the same WAL. A host that cannot open it has nothing to
    /// go by but its size, which the same WAL, sealed alike, always has.
    async fn compare(&self, object: &WalPut, key: &ObjectKey) -> Result<(), Error> {
        let held = match self.get(key).await {
            Err(withheld) if withheld.is_withheld() => {
                let ours = object.sealed.body.bytes.len() as u64;
                let held = self.size_of(key).await?.unwrap_or_default();
                if held == ours {
                    return Ok(());
                }
                return Err(Error::Unconfirmed {
                    url: self.url().to_owned(),
                    key: self.name(key),
                    held,
                    ours,
                    reason: withheld.to_string(),
                });
            }
            held => held?,
        };
        let ours = self.unseal(key, object.sealed.body.bytes.clone()).await?;
        if held.payload == ours.payload {
            return Ok(());
        }
        Err(Error::Diverged {
            url: self.url().to_owned(),
            key: self.name(key),
            timeline: object.timeline,
            range: object.range,
        })
    }
}
