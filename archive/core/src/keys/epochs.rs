//! The data keys an archive holds, each with its newest generation.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_layout::{KEYS_PREFIX, KeyId, ObjectKey};
use walvault_store::{ObjectStore, StoreError, list_all, read_alike};

use super::{KeyAccess, KeyPurpose, KeyRecord, PublicKey, SignedKey};

/// How often a record is read alike that has to open anyway.
pub(super) const ONCE: u32 = 1;

/// How many records are read at once.
const READS: usize = 16;

/// How many generations of a data key are read at once where the newest is not a trusted writer's. There
/// are many only where somebody put them there.
const GENERATIONS_AT_ONCE: usize = 8;

/// A data key as stored: everything sealed between two rotations is sealed under one.
#[derive(Debug)]
pub struct KeyEpoch {
    /// The data key's name.
    pub id: KeyId,
    /// Its generations, in order.
    pub generations: Vec<u32>,
    /// The generation that counts: the newest that a trusted writer signed, or else the newest.
    pub generation: u32,
    /// The record of that generation, or what is wrong with it in words that follow "data key … ".
    pub record: Result<KeyRecord, String>,
    /// Who signed it.
    pub writers: Vec<PublicKey>,
    /// Whether one of those is trusted here.
    pub trusted: bool,
}

impl KeyEpoch {
    /// When the data key was made, if its record tells.
    #[must_use]
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.record.as_ref().ok().map(|record| record.created_at)
    }

    /// Whether what it sealed is nobody's that this host knows. Whose the data keys of the audit trail are
    /// does not matter: what they seal is signed itself.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        let is_data = |record: &KeyRecord| record.purpose == KeyPurpose::Data;
        !self.trusted && self.record.as_ref().is_ok_and(is_data)
    }
}

/// The data keys of one archive in one store, to be read and judged.
#[derive(Clone, Copy)]
pub(super) struct Shelf<'a> {
    /// Where they are stored.
    pub(super) store: &'a dyn ObjectStore,
    /// The archive's id.
    pub(super) archive: &'a [u8; 16],
    /// Who is trusted.
    pub(super) access: &'a KeyAccess,
    /// How often a record has to be read alike.
    pub(super) times: u32,
}

impl Shelf<'_> {
    /// Every data key, oldest first; those that are not a trusted writer's come first, and before them those
    /// whose record does not read.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(super) async fn load(self) -> Result<Vec<KeyEpoch>, StoreError> {
        let mut found: Vec<(KeyId, Vec<u32>)> = Vec::new();
        for (id, generation) in list(self.store, KEYS_PREFIX).await? {
            match found.last_mut() {
                Some((last, generations)) if *last == id => generations.push(generation),
                _ => found.push((id, vec![generation])),
            }
        }
        let read = |(id, generations)| async move { self.judge(id, generations).await };
        let mut epochs: Vec<KeyEpoch> = stream::iter(found.into_iter().map(read))
            .buffer_unordered(READS)
            .try_collect()
            .await?;
        epochs.sort_by_key(|epoch| (epoch.trusted, epoch.created_at(), epoch.id));
        Ok(epochs)
    }

    /// The data key `id`; `None` when the store does not hold it.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(super) async fn load_one(self, id: KeyId) -> Result<Option<KeyEpoch>, StoreError> {
        let listed = list(self.store, &format!("{KEYS_PREFIX}{id}/")).await?;
        let generations: Vec<u32> = listed
            .into_iter()
            .map(|(_, generation)| generation)
            .collect();
        if generations.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.judge(id, generations).await?))
    }

    /// Reads generations from the newest until one is signed by a trusted writer. Whoever may write to the
    /// store may have put any number above it, so no count ends the search: that would let names decide.
    async fn judge(self, id: KeyId, generations: Vec<u32>) -> Result<KeyEpoch, StoreError> {
        let mut newest_first = generations.clone().into_iter().rev();
        let Some(newest) = newest_first.next() else {
            let nothing = Look {
                generation: 0,
                record: Err("has no generation".to_owned()),
                writers: Vec::new(),
                trusted: false,
            };
            return Ok(nothing.into_epoch(id, generations));
        };
        // Nearly always it is a trusted writer's, and nothing else is read beside it.
        let mut best = self.look(id, newest).await?;
        if best.trusted {
            return Ok(best.into_epoch(id, generations));
        }
        let earlier = newest_first.map(move |generation| self.look(id, generation));
        let mut earlier = stream::iter(earlier).buffered(GENERATIONS_AT_ONCE);
        let mut passed = 1;
        while let Some(look) = earlier.try_next().await? {
            if look.trusted {
                warn_of(id, look.generation, newest, passed);
                return Ok(look.into_epoch(id, generations));
            }
            passed += 1;
            if best.record.is_err() && look.record.is_ok() {
                best = look;
            }
        }
        Ok(best.into_epoch(id, generations))
    }

    /// Reads one generation, and says whether a trusted writer signed it.
    async fn look(self, id: KeyId, generation: u32) -> Result<Look, StoreError> {
        let (record, writers) = match self.read(id, generation).await? {
            Ok(signed) => (Ok(signed.record), signed.writers),
            Err(reason) => (Err(reason), Vec::new()),
        };
        Ok(Look {
            generation,
            trusted: record.is_ok() && self.access.trusts(&writers),
            record,
            writers,
        })
    }

    async fn read(
        self,
        id: KeyId,
        generation: u32,
    ) -> Result<Result<SignedKey, String>, StoreError> {
        let archive = *self.archive;
        let read = move |json: &[u8]| SignedKey::read(&archive, id, generation, json);
        let check = move |json: Bytes| read(&json).map(drop);
        match read_alike(self.store, &name(id, generation), self.times, check).await {
            Ok(found) => Ok(found.and_then(|json| read(&json))),
            // Destroyed between the listing and now.
            Err(StoreError::Missing { .. }) => Ok(Err("has just been destroyed".to_owned())),
            Err(error @ StoreError::TooLarge { .. }) => Ok(Err(format!("does not read: {error}"))),
            Err(error) => Err(error),
        }
    }
}

/// One generation that was read.
struct Look {
    generation: u32,
    record: Result<KeyRecord, String>,
    writers: Vec<PublicKey>,
    trusted: bool,
}

impl Look {
    fn into_epoch(self, id: KeyId, generations: Vec<u32>) -> KeyEpoch {
        KeyEpoch {
            id,
            generations,
            generation: self.generation,
            record: self.record,
            writers: self.writers,
            trusted: self.trusted,
        }
    }
}

/// Names what was put above the generation that counts: each costs a read when the data key is opened.
fn warn_of(id: KeyId, counts: u32, newest: u32, passed: usize) {
    let (counts, newest) = (name(id, counts), name(id, newest));
    tracing::warn!(
        counts,
        newest,
        passed,
        "no trusted writer signed the newest generations of a data key, and an earlier one counts; delete them, and look who may write to the archive"
    );
}

/// The name of a generation's object, which does not depend on a cluster's segments.
pub(super) fn name(id: KeyId, generation: u32) -> String {
    ObjectKey::Key(id, generation).spell(walvault_protocol::SegmentSize::DEFAULT)
}

async fn list(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<(KeyId, u32)>, StoreError> {
    let size = walvault_protocol::SegmentSize::DEFAULT;
    let objects = list_all(store, prefix).await?;
    let parsed = objects
        .iter()
        .filter_map(|object| match ObjectKey::parse(&object.key, size) {
            Some(ObjectKey::Key(id, generation)) => Some((id, generation)),
            _ => None,
        });
    Ok(parsed.collect())
}
