//! The data keys of one archive: fetched when first needed, unwrapped, kept in memory that is wiped.
//!
//! Owns which one is sealed under, and whose are believed. Whoever can write to the store can put a
//! data key there that opens; nothing is sealed under one, or opened, that no trusted writer signed.
//! Sealed under is the newest one that these identities open, or, where there is none, a new one: a
//! host that has public keys alone begins one each time its process starts.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tracing::{info, warn};
use walvault_layout::KeyId;
use walvault_store::{ALIKE, Body, SharedStore, StoreError, clock, reaffirm};

use super::access::{KeyAccess, Opened, Unwrapped};
use super::epochs::{self, KeyEpoch, ONCE, Shelf};
use super::kms::KmsError;
use super::sealing_key::SealingKey;
use super::{DataKey, KeyPurpose, KeyRecord, PublicKey, Recipient, SignedKey};

/// Why a data key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// None of the identities given opens it, or it was altered.
    #[error(
        "data key {id} {reason}; give an identity that opens it in [encryption] identities, or its key file as key_file"
    )]
    CannotUnwrap {
        /// The data key.
        id: KeyId,
        /// What is wrong.
        reason: String,
    },
    /// No writer that is trusted here signed it.
    #[error(
        "data key {id} is foreign: it is signed by {}, and not by a writer that is trusted here; if that is the archive's writer, name it in [trust] writers, else somebody planted what it sealed", names(.writers)
    )]
    Foreign {
        /// The data key.
        id: KeyId,
        /// Who signed it.
        writers: Vec<PublicKey>,
    },
    /// Nothing to sign a new data key with.
    #[error(
        "there is nothing to sign data keys with, and nobody would believe what is sealed; make a key with 'walvault keys generate --signing --out FILE', set [trust] signing_key_file, and name its public key in [trust] writers wherever the archive is read"
    )]
    NoWriter,
    /// It cannot be wrapped for a recipient.
    #[error(
        "a data key cannot be wrapped for {recipient}: {reason}; correct [encryption] recipients"
    )]
    CannotWrap {
        /// The recipient's name.
        recipient: String,
        /// What is wrong.
        reason: String,
    },
    /// KMS did not do its part.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// Nobody to wrap a new data key for.
    #[error(
        "there is no recipient to seal for; set [encryption] recipients, or key_file (see 'walvault keys generate')"
    )]
    NoRecipient,
    /// An object names a data key the archive does not hold.
    #[error(
        "the archive holds no data key {0}: what it sealed cannot be read, unless keys/{0}/ is restored from a copy of the archive"
    )]
    Missing(KeyId),
    /// No random bits.
    #[error("the operating system gave no random bits: {0}; check /dev/urandom")]
    Random(#[from] getrandom::Error),
}

impl KeyError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            KeyError::Store(error) => error.is_transient(),
            KeyError::Kms(error) => error.transient,
            _ => false,
        }
    }
}

/// Public keys, for messages.
fn names(writers: &[PublicKey]) -> String {
    let names: Vec<String> = writers.iter().map(PublicKey::to_string).collect();
    names.join(", ")
}

/// The data keys of one archive.
pub struct Keyring {
    archive: [u8; 16],
    store: SharedStore,
    access: KeyAccess,
    opened: Arc<Opened>,
}

impl Keyring {
    /// A keyring that wraps and unwraps as `access` can.
    #[must_use]
    pub fn new(archive: [u8; 16], store: SharedStore, access: KeyAccess) -> Keyring {
        Keyring {
            archive,
            store,
            opened: access.opened(archive),
            access,
        }
    }

    /// What it wraps for and unwraps with.
    #[must_use]
    pub fn access(&self) -> &KeyAccess {
        &self.access
    }

    /// The data key `id`, from memory or unwrapped.
    ///
    /// # Errors
    /// When the archive does not hold it, it is foreign, or no identity opens it.
    pub async fn get(&self, id: KeyId) -> Result<Arc<DataKey>, KeyError> {
        if let Some(key) = self.remembered(id) {
            return Ok(key);
        }
        let epoch = self.epoch(id).await?;
        self.open(&epoch.ok_or(KeyError::Missing(id))?).await
    }

    fn shelf(&self, times: u32) -> Shelf<'_> {
        Shelf {
            store: &*self.store,
            archive: &self.archive,
            access: &self.access,
            times,
        }
    }

    /// The data key of an epoch that was loaded.
    ///
    /// # Errors
    /// When no identity opens it.
    pub async fn open(&self, epoch: &KeyEpoch) -> Result<Arc<DataKey>, KeyError> {
        match self.remembered(epoch.id) {
            Some(key) => Ok(key),
            None => Ok(self.remember(self.unwrap(epoch, false).await?.key)),
        }
    }

    /// The data key of an epoch, opened anew, and the name of the recipient it was opened for.
    ///
    /// # Errors
    /// When no identity opens it.
    pub async fn open_anew(&self, epoch: &KeyEpoch) -> Result<(Arc<DataKey>, String), KeyError> {
        let Unwrapped { key, by } = self.unwrap(epoch, false).await?;
        Ok((self.remember(key), by))
    }

    /// What new objects are sealed under. Where it is chosen already, it is returned as it is;
    /// [`Keyring::rotate_if_due`] replaces what it holds.
    ///
    /// # Errors
    /// When the store cannot be read or written, every stored key is for somebody else, or there is
    /// nobody to wrap a new one for.
    pub async fn for_sealing(&self) -> Result<Arc<SealingKey>, KeyError> {
        let mut sealing = self.opened.sealing.lock().await;
        if let Some(key) = &*sealing {
            return Ok(key.clone());
        }
        let epochs = self.shelf(ONCE).load().await?;
        let key = match self.newest(&epochs, None).await? {
            Newest::None => {
                let why = "the archive has none to seal under here";
                SealingKey::new(self.create(&epochs, why, false).await?)
            }
            Newest::Usable(key, record) => match self.is_due(record, 0) {
                None => SealingKey::resumed(key, record.created_at),
                Some(why) => match self.create(&epochs, why, false).await {
                    Ok(key) => SealingKey::new(key),
                    Err(error) => {
                        warn!(%error, key = %key.id, "no new data key could be made; sealing goes on under the one there is");
                        SealingKey::resumed(key, record.created_at)
                    }
                },
            },
        };
        let key = Arc::new(key);
        *sealing = Some(key.clone());
        Ok(key)
    }

    /// Looks whether another data key is to be sealed under: because the one there is has served
    /// long enough, somebody asked for it, or made one that can be used here. Costs one listing and
    /// a read for each data key. Does nothing before [`Keyring::for_sealing`].
    ///
    /// # Errors
    /// As [`Keyring::for_sealing`]; sealing then goes on under the key there is.
    pub async fn rotate_if_due(&self) -> Result<Option<KeyId>, KeyError> {
        let sealing = self.opened.sealing.lock().await;
        let Some(serving) = &*sealing else {
            return Ok(None);
        };
        let current = serving.current();
        let epochs = self.shelf(ONCE).load().await?;
        if !epochs.iter().any(|epoch| epoch.id == current.id) {
            warn!(key = %current.id, "the data key in use was destroyed in the archive; what was sealed under it cannot be read");
        }
        let next = match self.newest(&epochs, Some(&current)).await? {
            Newest::Usable(key, epoch) => match self.is_due(epoch, serving.sealed()) {
                None => key,
                Some(why) if key.id == current.id => self.create(&epochs, why, false).await?,
                // Another's, which is overdue as well: left to the next look.
                Some(_) => key,
            },
            Newest::None => self.create(&epochs, "another was asked for", false).await?,
        };
        if next.id == current.id {
            return Ok(None);
        }
        info!(from = %current.id, to = %next.id, "sealing under another data key");
        let id = next.id;
        serving.replace(next);
        Ok(Some(id))
    }

    /// Begins a new data key and asks everybody who archives to use it, or one of their own.
    ///
    /// # Errors
    /// When the store cannot be read or written, or there is nobody to wrap it for.
    pub async fn rotate(&self) -> Result<KeyId, KeyError> {
        let epochs = self.shelf(ONCE).load().await?;
        let key = self.create(&epochs, "it was asked for", true).await?;
        Ok(key.id)
    }

    /// The newest epoch that may be sealed under here. `current` is.
    async fn newest<'a>(
        &self,
        epochs: &'a [KeyEpoch],
        current: Option<&Arc<DataKey>>,
    ) -> Result<Newest<'a>, KeyError> {
        let mut refusal = None;
        let mut opened_any = false;
        for epoch in epochs.iter().rev() {
            let Ok(record) = &epoch.record else {
                continue;
            };
            if record.purpose != self.access.purpose() {
                continue;
            }
            // Anybody may have made it: it decides nothing.
            if !epoch.trusted {
                let (id, writers) = (epoch.id, epoch.writers.clone());
                warn!(key = %id, signed_by = names(&writers), "a data key is foreign, and nothing is sealed under it");
                refusal = refusal.or(Some(KeyError::Foreign { id, writers }));
                continue;
            }
            if let Some(current) = current.filter(|current| current.id == epoch.id) {
                return Ok(Newest::Usable(current.clone(), record));
            }
            match self.unwrap(epoch, true).await {
                Ok(unwrapped) => {
                    // Who made it may never have had an answer.
                    let (archive, id, generation) = (self.archive, epoch.id, epoch.generation);
                    let name = epochs::name(id, generation);
                    let is_record = move |json: Bytes| {
                        SignedKey::read(&archive, id, generation, &json).map(drop)
                    };
                    reaffirm(&self.store, &name, is_record).await?;
                    return Ok(Newest::Usable(self.remember(unwrapped.key), record));
                }
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => refusal = refusal.or(Some(error)),
            }
            // Only to see whether the identities are the right ones.
            opened_any |= self.access.has_identities()
                && !opened_any
                && self.unwrap(epoch, false).await.is_ok();
            if record.rotation {
                // Whatever is older must not be used any more.
                opened_any |= current.is_some();
                break;
            }
        }
        match refusal {
            // Identities that open nothing of an archive are the wrong ones. Those of the audit trail
            // need not be: who notes something need not read what others noted.
            Some(error)
                if self.access.has_identities()
                    && !opened_any
                    && self.access.purpose() == KeyPurpose::Data =>
            {
                Err(error)
            }
            _ => Ok(Newest::None),
        }
    }

    /// Why the epoch of `record`, under which `sealed` bytes were stored, has to end.
    fn is_due(&self, record: &KeyRecord, sealed: u64) -> Option<&'static str> {
        let policy = self.access.rotation();
        let age = clock::now().duration_since(record.created_at);
        let old = policy.after.as_secs() > 0 && age.as_secs() >= policy.after.as_secs() as i64;
        let full = policy.after_bytes > 0 && sealed >= policy.after_bytes;
        let names = record.recipient_names();
        let configured: Vec<String> = self
            .access
            .recipients()
            .iter()
            .map(Recipient::name)
            .collect();
        if configured.is_empty() {
            return None;
        }
        if !configured.iter().all(|name| names.contains(name)) {
            return Some("a recipient was added");
        }
        let surplus: Vec<&String> = names
            .iter()
            .filter(|name| !configured.contains(name))
            .collect();
        if !surplus.is_empty() {
            tracing::debug!(
                key = record.key_id,
                ?surplus,
                "the data key is wrapped for more than is configured"
            );
        }
        match (old, full) {
            (true, _) => Some("it has served for as long as rotate_after says"),
            (_, true) => Some("as much was sealed under it as rotate_after_bytes says"),
            _ => None,
        }
    }

    async fn create(
        &self,
        epochs: &[KeyEpoch],
        why: &str,
        rotation: bool,
    ) -> Result<Arc<DataKey>, KeyError> {
        if self.access.recipients().is_empty() {
            return Err(KeyError::NoRecipient);
        }
        if self.access.own_writers().is_empty() {
            return Err(KeyError::NoWriter);
        }
        // Newer than any there is, whatever this machine's clock says.
        let trusted = epochs.iter().filter(|epoch| epoch.trusted);
        let newest = trusted.filter_map(KeyEpoch::created_at).max();
        let tick = jiff::SignedDuration::from_millis(1);
        let after = newest.and_then(|newest| newest.checked_add(tick).ok());
        let created_at = after.map_or_else(clock::now, |after| after.max(clock::now()));
        let key = Arc::new(DataKey::generate()?.serving(self.access.purpose()));
        let recipients = self.access.recipients();
        let wrapped = Box::pin(self.access.wrap(&self.archive, &key, recipients)).await?;
        let record = KeyRecord {
            rotation,
            ..KeyRecord::new(&self.archive, &key, wrapped, created_at)
        };
        self.put(key.id, &record, &[]).await?;
        info!(key = %key.id, why, recipients = record.recipient_names().join(", "), "a new data key");
        self.remember_shared(&key);
        self.access.note_made(key.id);
        Ok(key)
    }

    /// The data keys there are for the purpose of this keyring, and those whose record does not
    /// read: they may be anybody's. Each is read alike several times, since new generations are
    /// written by them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn epochs(&self) -> Result<Vec<KeyEpoch>, StoreError> {
        let mut epochs = self.shelf(ALIKE).load().await?;
        let purpose = self.access.purpose();
        epochs.retain(|epoch| match &epoch.record {
            Ok(record) => record.purpose == purpose,
            Err(_) => true,
        });
        Ok(epochs)
    }

    /// What is stored of the data key `id`; `None` where there is none of that name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn epoch(&self, id: KeyId) -> Result<Option<KeyEpoch>, StoreError> {
        self.shelf(ONCE).load_one(id).await
    }

    /// The data keys that no trusted writer signed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn foreign(&self) -> Result<BTreeSet<KeyId>, StoreError> {
        let epochs = self.shelf(ONCE).load().await?;
        let foreign = epochs.iter().filter(|epoch| epoch.is_foreign());
        Ok(foreign.map(|epoch| epoch.id).collect())
    }

    /// Stores a generation, signed also by `more`, who are recipients.
    pub(super) async fn put(
        &self,
        id: KeyId,
        record: &KeyRecord,
        more: &[Recipient],
    ) -> Result<(), StoreError> {
        let json = self.access.sign(&self.archive, record, more);
        let body = Body::new(Bytes::from(json));
        let name = epochs::name(id, record.generation);
        self.store.put(&name, body).await
    }

    /// Deletes every generation of a data key with all their versions, newest last, so that what is
    /// interrupted can be gone on with. Nothing that it sealed can be read afterwards.
    ///
    /// # Errors
    /// When the store refuses, as it does where an object is locked; later generations are then
    /// still there.
    pub async fn destroy(&self, epoch: &KeyEpoch) -> Result<(), StoreError> {
        for generation in &epoch.generations {
            let name = epochs::name(epoch.id, *generation);
            self.store.erase(&name).await?;
        }
        info!(key = %epoch.id, "a data key was destroyed");
        Ok(())
    }

    pub(super) fn archive(&self) -> &[u8; 16] {
        &self.archive
    }

    pub(super) fn store(&self) -> &SharedStore {
        &self.store
    }

    async fn unwrap(&self, epoch: &KeyEpoch, to_seal: bool) -> Result<Unwrapped, KeyError> {
        let record = epoch.record.as_ref();
        let record = record.map_err(|reason| KeyError::CannotUnwrap {
            id: epoch.id,
            reason: reason.clone(),
        })?;
        if epoch.is_foreign() {
            return Err(KeyError::Foreign {
                id: epoch.id,
                writers: epoch.writers.clone(),
            });
        }
        let unwrapping = self.access.unwrap(&self.archive, epoch.id, record, to_seal);
        Box::pin(unwrapping).await
    }

    fn remembered(&self, id: KeyId) -> Option<Arc<DataKey>> {
        let keys = self.opened.keys.lock();
        let keys = keys.unwrap_or_else(PoisonError::into_inner);
        keys.get(&id).cloned()
    }

    fn remember(&self, key: DataKey) -> Arc<DataKey> {
        let key = Arc::new(key);
        self.remember_shared(&key);
        key
    }

    fn remember_shared(&self, key: &Arc<DataKey>) {
        let keys = self.opened.keys.lock();
        let mut keys = keys.unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.id, key.clone());
    }
}

enum Newest<'a> {
    Usable(Arc<DataKey>, &'a KeyRecord),
    None,
}

#[cfg(test)]
mod tests;
