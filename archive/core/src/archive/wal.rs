//! WAL on its way into the archive, the receipt for it, and what is there of a timeline.

use walvault_layout::{
    ObjectKey, TAIL_PREFIX, WAL_PREFIX, WalObject, unit_containing, wal_prefix, wal_unit,
};
use walvault_protocol::{Lsn, LsnRange, TimelineHistory, TimelineId};
use walvault_store::{Naming, StoreError, next_page};

use super::{Archive, Listed};
use crate::error::Error;
use crate::seal::SealedObject;

/// How often WAL is put whose name is taken by an object that is gone when it is read.
const PUTS: u32 = 4;

/// What an object of WAL is of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalCut {
    /// WAL that no other object holds, under `tail/`. A commit may be waiting for it.
    Chunk,
    /// The WAL of several chunks as one, under `tail/`.
    Merged,
    /// The whole unit, under `wal/`.
    Unit,
}

impl WalCut {
    /// Whether it is kept under `wal/`.
    #[must_use]
    pub fn is_unit(self) -> bool {
        self == WalCut::Unit
    }
}

/// A run of WAL on its way into the archive.
pub struct WalPut {
    /// The timeline.
    pub timeline: TimelineId,
    /// What it holds.
    pub range: LsnRange,
    /// What it is of its unit, and so where it is kept.
    pub cut: WalCut,
    /// Sealed.
    pub sealed: SealedObject,
}

impl WalPut {
    /// The key it is stored under.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        wal_key(self.timeline, self.range, self.cut.is_unit())
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
        let body = match object.cut {
            // A chunk's name says where it was cut, to the byte. Only this writer cuts there: where
            // streaming resumes, the listing was read first, and another writer cuts elsewhere.
            WalCut::Chunk => body.named(Naming::Fresh),
            WalCut::Merged | WalCut::Unit => body,
        };
        for _ in 0..PUTS {
            match self.inner.store.put(&name, body.clone()).await {
                Ok(()) => return Ok(stored),
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            match self.compare(object, &key).await {
                // What had the name went before it was read: the name is free.
                Err(error) if error.is_missing() => {}
                compared => {
                    compared?;
                    // Who stored it may never have had an answer.
                    self.reaffirm(&key).await?;
                    return Ok(stored);
                }
            }
        }
        Err(StoreError::unavailable(
            self.url(),
            "put",
            &name,
            "the object in its place comes and goes",
        )
        .into())
    }

    /// How `timeline` came to be, by its history file.
    ///
    /// # Errors
    /// When the history file is not there, or cannot be read.
    pub async fn history(&self, timeline: TimelineId) -> Result<TimelineHistory, Error> {
        Ok(self.read_history(timeline).await?.0)
    }

    /// The history file of `timeline`, once it is known to be one.
    ///
    /// # Errors
    /// As [`Archive::history`].
    pub async fn history_file(&self, timeline: TimelineId) -> Result<Vec<u8>, Error> {
        Ok(self.read_history(timeline).await?.1)
    }

    async fn read_history(
        &self,
        timeline: TimelineId,
    ) -> Result<(TimelineHistory, Vec<u8>), Error> {
        let key = ObjectKey::History(timeline);
        let content = self.get(&key).await?.payload;
        match TimelineHistory::parse(timeline, &content) {
            Ok(history) => Ok((history, content)),
            Err(error) => Err(Error::Record {
                url: self.url().to_owned(),
                key: self.name(&key),
                reason: error.to_string(),
            }),
        }
    }

    /// The whole units of `timeline` that hold some of `range`. Only names from there on are listed,
    /// since an archive may hold years of WAL.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn list_units(
        &self,
        timeline: TimelineId,
        range: LsnRange,
    ) -> Result<Vec<Listed>, Error> {
        let size = self.segment_size();
        let prefix = wal_prefix(timeline);
        let first = unit_containing(range.start, size);
        // The name before the first one that matters, if there is one.
        let mut after = first.start.0.checked_sub(wal_unit(size)).map(|before| {
            let range = unit_containing(Lsn(before), size);
            self.name(&wal_key(timeline, range, true))
        });
        let mut units = Vec::new();
        loop {
            let page = self.inner.store.list(&prefix, after.as_deref()).await?;
            for object in page.objects {
                let Some(object) = self.listed(object) else {
                    continue;
                };
                match object.key {
                    ObjectKey::Wal(unit) if unit.range.start >= range.end => return Ok(units),
                    ObjectKey::Wal(unit) if unit.range.end > range.start => units.push(object),
                    _ => {}
                }
            }
            after = next_page(&*self.inner.store, &prefix, after.as_deref(), page.next)?;
            if after.is_none() {
                return Ok(units);
            }
        }
    }

    /// How many bytes of WAL were stored since `instant`, by the store's clock. All of it is listed.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn wal_stored_since(&self, instant: jiff::Timestamp) -> Result<u64, Error> {
        let mut bytes = 0;
        for prefix in [TAIL_PREFIX, WAL_PREFIX] {
            let mut after = None;
            loop {
                let page = self.inner.store.list(prefix, after.as_deref()).await?;
                let objects = page.objects.into_iter();
                let listed = objects.filter_map(|object| self.listed(object));
                let since = listed.filter(|object| object.modified >= instant);
                bytes += since.map(|object| object.size).sum::<u64>();
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(bytes)
    }

    /// Whether the object that is there holds the same WAL. A host that cannot open it has nothing to
    /// go by but its size, which the same WAL, sealed alike, always has.
    async fn compare(&self, object: &WalPut, key: &ObjectKey) -> Result<(), Error> {
        let held = match self.get(key).await {
            Err(withheld) if withheld.is_withheld() => {
                let ours = object.sealed.body.bytes.len() as u64;
                let held = self.size_of(key).await?;
                let held = held.ok_or_else(|| StoreError::missing(self.url(), &self.name(key)))?;
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
