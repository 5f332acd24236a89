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

/// How many generations of a data key are read, newest first, until one is a trusted writer's. There are more
/// only where somebody put them there.
const GENERATIONS: usize = 1000;

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

    /// Reads generations from the newest until one is signed by a trusted writer: whoever may write to the
    /// store may have put others above it.
    async fn judge(self, id: KeyId, generations: Vec<u32>) -> Result<KeyEpoch, StoreError> {
        let mut second = None;
        for generation in generations.iter().rev().take(GENERATIONS).copied() {
            let read = self.read(id, generation).await?;
            let trusted = read
                .as_ref()
                .is_ok_and(|signed| self.access.trusts(&signed.writers));
            let (record, writers) = match read {
                Ok(signed) => (Ok(signed.record), signed.writers),
                Err(reason) => (Err(reason), Vec::new()),
            };
            let epoch = KeyEpoch {
                id,
                generations: generations.clone(),
                generation,
                record,
                writers,
                trusted,
            };
            match (&second, epoch.record.is_ok()) {
                _ if trusted => return Ok(epoch),
                (None, _) => second = Some(epoch),
                (Some(KeyEpoch { record: Err(_), .. }), true) => second = Some(epoch),
                _ => {}
            }
        }
        Ok(second.unwrap_or(KeyEpoch {
            id,
            generations,
            generation: 0,
            record: Err("has no generation".to_owned()),
            writers: Vec::new(),
            trusted: false,
        }))
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
