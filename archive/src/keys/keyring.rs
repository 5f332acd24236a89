//! The data keys of one archive: fetched when first needed, unwrapped, kept in memory that is wiped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;

use super::wrap::KeyRecord;
use super::{DataKey, KeyFile};
use crate::layout::{KEYS_PREFIX, KeyId, ObjectKey};
use crate::store::{Body, SharedStore, StoreError, list_all};

/// Why a data key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// None of the identities given opens it, or it was altered.
    #[error(
        "data key {id} {reason}; give the key file it was wrapped for as [encryption] key_file"
    )]
    CannotUnwrap {
        /// The data key.
        id: KeyId,
        /// What is wrong.
        reason: String,
    },
    /// An object names a data key the archive does not hold.
    #[error("the archive holds no data key {0}; restore keys/{0}/ from a copy of the archive")]
    Missing(KeyId),
    /// No random bits.
    #[error("the operating system gave no random bits: {0}; check /dev/urandom")]
    Random(#[from] getrandom::Error),
}

/// The data keys of one archive.
pub struct Keyring {
    archive: [u8; 16],
    store: SharedStore,
    identities: Vec<KeyFile>,
    open: Mutex<HashMap<KeyId, Arc<DataKey>>>,
    /// Held while the key for sealing is chosen or made, so that it is made once.
    sealing: AsyncMutex<Option<Arc<DataKey>>>,
}

impl Keyring {
    /// An empty keyring that unwraps with `identities`.
    #[must_use]
    pub fn new(archive: [u8; 16], store: SharedStore, identities: Vec<KeyFile>) -> Keyring {
        Keyring {
            archive,
            store,
            identities,
            open: Mutex::default(),
            sealing: AsyncMutex::default(),
        }
    }

    /// The data key `id`, from memory or unwrapped from its newest generation.
    ///
    /// # Errors
    /// When the archive does not hold it, or no identity opens it.
    pub async fn get(&self, id: KeyId) -> Result<Arc<DataKey>, KeyError> {
        if let Some(key) = self.remembered(id) {
            return Ok(key);
        }
        let generations = list_all(&*self.store, &format!("{KEYS_PREFIX}{id}/")).await?;
        let newest = generations.last().ok_or(KeyError::Missing(id))?;
        let record = self.read(id, &newest.key).await?;
        self.unwrap(id, &record)
    }

    /// The data key that new objects are sealed under: the newest one that the identities open,
    /// or a new one when there is none.
    ///
    /// # Errors
    /// When the store cannot be read or written, or every stored key is for somebody else.
    pub async fn for_sealing(&self) -> Result<Arc<DataKey>, KeyError> {
        let mut sealing = self.sealing.lock().await;
        if let Some(key) = &*sealing {
            return Ok(key.clone());
        }
        let key = match self.newest().await? {
            Some(key) => key,
            None => self.create().await?,
        };
        *sealing = Some(key.clone());
        Ok(key)
    }

    async fn newest(&self) -> Result<Option<Arc<DataKey>>, KeyError> {
        let mut newest: HashMap<KeyId, String> = HashMap::new();
        for object in list_all(&*self.store, KEYS_PREFIX).await? {
            let id = object.key[KEYS_PREFIX.len()..].split('/').next();
            if let Some(id) = id.and_then(KeyId::parse) {
                newest.insert(id, object.key);
            }
        }
        let mut records = Vec::with_capacity(newest.len());
        for (id, key) in newest {
            records.push((id, self.read(id, &key).await?));
        }
        records.sort_by_key(|(id, record)| (record.created_at, *id));
        let mut refusal = None;
        for (id, record) in records.iter().rev() {
            match self.unwrap(*id, record) {
                Ok(key) => return Ok(Some(key)),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        refusal.map_or(Ok(None), Err)
    }

    async fn create(&self) -> Result<Arc<DataKey>, KeyError> {
        let key = Arc::new(DataKey::generate()?);
        let record = KeyRecord::wrap(
            &self.archive,
            &key,
            &self.identities,
            jiff::Timestamp::now(),
        )?;
        let json = serde_json::to_vec_pretty(&record).expect("a key record is plain JSON");
        let name = ObjectKey::Key(key.id, 1).spell(walvault_protocol::SegmentSize::DEFAULT);
        self.store.put(&name, Body::new(Bytes::from(json))).await?;
        self.remember(key.clone());
        Ok(key)
    }

    async fn read(&self, id: KeyId, name: &str) -> Result<KeyRecord, KeyError> {
        let bytes = self.store.get(name, None).await?;
        serde_json::from_slice(&bytes).map_err(|error| KeyError::CannotUnwrap {
            id,
            reason: format!("is not readable at {name}: {error}"),
        })
    }

    fn unwrap(&self, id: KeyId, record: &KeyRecord) -> Result<Arc<DataKey>, KeyError> {
        if let Some(key) = self.remembered(id) {
            return Ok(key);
        }
        let key = record
            .unwrap(&self.archive, id, &self.identities)
            .map_err(|reason| KeyError::CannotUnwrap { id, reason })?;
        let key = Arc::new(key);
        self.remember(key.clone());
        Ok(key)
    }

    fn remembered(&self, id: KeyId) -> Option<Arc<DataKey>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&id).cloned()
    }

    fn remember(&self, key: Arc<DataKey>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(key.id, key);
    }
}
