//! The data keys an archive holds, each with its newest generation.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_layout::{KEYS_PREFIX, KeyId, ObjectKey, numbers};
use walvault_store::{ObjectStore, StoreError, list_all, read_alike};

use super::wrap::KeyRecord;

/// How often a record is read alike that has to open anyway.
pub(super) const ONCE: u32 = 1;

/// How many records are read at once.
const READS: usize = 16;

/// A data key as stored: everything sealed between two rotations is sealed under one.
#[derive(Debug)]
pub struct KeyEpoch {
    /// The data key's name.
    pub id: KeyId,
    /// Its generations, in order; the highest one counts.
    pub generations: Vec<u32>,
    /// The newest generation's record, or what is wrong with it in words that follow "data key … ".
    pub record: Result<KeyRecord, String>,
}

impl KeyEpoch {
    /// The generation that counts.
    #[must_use]
    pub fn generation(&self) -> u32 {
        newest(&self.generations).unwrap_or_default()
    }

    /// When the data key was made, if its record tells.
    #[must_use]
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.record.as_ref().ok().map(|record| record.created_at)
    }
}

/// Every data key that `store` holds, oldest first; those whose record does not read come first. Each
/// record has to be read alike so many `times`.
///
/// # Errors
/// When the store cannot be asked.
pub async fn load(store: &dyn ObjectStore, times: u32) -> Result<Vec<KeyEpoch>, StoreError> {
    let mut found: Vec<(KeyId, Vec<u32>)> = Vec::new();
    for (id, generation) in list(store, KEYS_PREFIX).await? {
        match found.last_mut() {
            Some((last, generations)) if *last == id => generations.push(generation),
            _ => found.push((id, vec![generation])),
        }
    }
    let read = |(id, generations): (KeyId, Vec<u32>)| async move {
        let newest = newest(&generations).unwrap_or_default();
        Ok::<_, StoreError>(KeyEpoch {
            record: read(store, id, newest, times).await?,
            id,
            generations,
        })
    };
    let mut epochs: Vec<KeyEpoch> = stream::iter(found.into_iter().map(read))
        .buffer_unordered(READS)
        .try_collect()
        .await?;
    epochs.sort_by_key(|epoch| (epoch.created_at(), epoch.id));
    Ok(epochs)
}

/// The data key `id`; `None` when the store does not hold it.
///
/// # Errors
/// When the store cannot be asked.
pub async fn load_one(store: &dyn ObjectStore, id: KeyId) -> Result<Option<KeyEpoch>, StoreError> {
    let generations: Vec<u32> = list(store, &format!("{KEYS_PREFIX}{id}/"))
        .await?
        .into_iter()
        .map(|(_, generation)| generation)
        .collect();
    let Some(newest) = newest(&generations) else {
        return Ok(None);
    };
    Ok(Some(KeyEpoch {
        record: read(store, id, newest, ONCE).await?,
        id,
        generations,
    }))
}

/// One generation of the data key `id`.
///
/// # Errors
/// When the store cannot be asked.
pub(super) async fn at_generation(
    store: &dyn ObjectStore,
    id: KeyId,
    generation: u32,
) -> Result<KeyEpoch, StoreError> {
    Ok(KeyEpoch {
        record: read(store, id, generation, ONCE).await?,
        id,
        generations: vec![generation],
    })
}

/// The generation that counts. One far above the others was not written by walvault.
fn newest(generations: &[u32]) -> Option<u32> {
    let highest = numbers::highest(generations.iter().map(|number| u64::from(*number)))?;
    u32::try_from(highest).ok()
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

async fn read(
    store: &dyn ObjectStore,
    id: KeyId,
    generation: u32,
    times: u32,
) -> Result<Result<KeyRecord, String>, StoreError> {
    let check = move |json: Bytes| KeyRecord::read(id, &json).map(drop);
    match read_alike(store, &name(id, generation), times, check).await {
        Ok(read) => Ok(read.and_then(|json| KeyRecord::read(id, &json))),
        // Destroyed between the listing and now.
        Err(StoreError::Missing { .. }) => Ok(Err("has just been destroyed".to_owned())),
        Err(error @ StoreError::TooLarge { .. }) => Ok(Err(format!("does not read: {error}"))),
        Err(error) => Err(error),
    }
}
