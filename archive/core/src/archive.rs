//! One archive, open: identity, keys and store together.
//!
//! Everything that enters or leaves goes through here, so that nothing is stored unsealed and
//! nothing is read unverified. Which object holds what is the catalog's knowledge.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use walvault_layout::{KeyId, ObjectKey};
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::{Naming, ObjectMeta, SharedStore, compute, next_page};

use crate::error::Error;
use crate::format::{Codec, Header, Kind, footer_digest};
use crate::keys::{DataKey, KeyAccess, Keyring};
use crate::record::{ARCHIVE_FORMAT, ArchiveRecord};
use crate::seal::{FrameError, OpenError, Opened, Sealed, SealedObject, Sealer, check_digest};

pub mod again;
mod begin;
mod check;
mod partial;
mod reaffirm;
mod wal;

use again::{Again, again};
use begin::{find_or_begin, read_record};

pub use crate::seal::kind_of;
pub use wal::{StoredWal, WalCut, WalPut, wal_key};

/// What a first read of an object's end asks for: most meta frames fit.
const META_GUESS: u64 = 16 << 10;

/// An archive that was found, or begun.
#[derive(Clone)]
pub struct Archive {
    inner: Arc<Inner>,
}

struct Inner {
    record: ArchiveRecord,
    id: [u8; 16],
    store: SharedStore,
    keyring: Keyring,
}

/// An object that was read and is not believed yet.
pub struct Fetched {
    archive: Archive,
    name: String,
    kind: Kind,
    bytes: Bytes,
    data_key: Arc<DataKey>,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key, parsed.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: jiff::Timestamp,
}

impl Archive {
    /// Opens the archive that `store` holds.
    ///
    /// # Errors
    /// [`Error::NotAnArchive`] when there is none.
    pub async fn open(store: SharedStore, keys: impl Into<KeyAccess>) -> Result<Archive, Error> {
        match read_record(&store).await? {
            Some(record) => Archive::assemble(record, store, keys.into()),
            None => Err(Error::NotAnArchive {
                url: store.url().to_owned(),
            }),
        }
    }

    /// Where no archive opens: [`Error::RecordLost`] if `store` holds objects of one all the same.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn lost(
        store: &SharedStore,
        segment_size: SegmentSize,
    ) -> Result<Option<Error>, Error> {
        begin::lost(store, segment_size).await
    }

    /// Whether `store` holds nothing of an archive, so that [`Archive::open_or_begin`] would begin one.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn is_absent(store: &SharedStore, segment_size: SegmentSize) -> Result<bool, Error> {
        begin::is_absent(store, segment_size).await
    }

    /// Opens the archive of the cluster `system_id`, beginning it when there is none.
    ///
    /// # Errors
    /// When the archive belongs to another cluster.
    pub async fn open_or_begin(
        store: SharedStore,
        keys: impl Into<KeyAccess>,
        system_id: SystemId,
        segment_size: SegmentSize,
    ) -> Result<Archive, Error> {
        let record = find_or_begin(&store, system_id, segment_size).await?;
        let archive = Archive::assemble(record, store, keys.into())?;
        archive.belongs_to(system_id, segment_size)?;
        Ok(archive)
    }

    /// Checks that a cluster may write here.
    ///
    /// # Errors
    /// When the archive belongs to another cluster, or its segments have another size.
    pub fn belongs_to(&self, system_id: SystemId, segment_size: SegmentSize) -> Result<(), Error> {
        let record = self.record();
        if record.system_id != system_id {
            return Err(Error::OtherSystem {
                url: self.url().to_owned(),
                archive: record.system_id,
                server: system_id,
            });
        }
        if record.segment_size != segment_size {
            return Err(Error::OtherSegmentSize {
                url: self.url().to_owned(),
                archive: record.segment_size.bytes(),
                server: segment_size.bytes(),
            });
        }
        Ok(())
    }

    fn assemble(
        record: ArchiveRecord,
        store: SharedStore,
        keys: KeyAccess,
    ) -> Result<Archive, Error> {
        if record.format > ARCHIVE_FORMAT {
            return Err(Error::NewerFormat {
                url: store.url().to_owned(),
                found: record.format,
                supported: ARCHIVE_FORMAT,
            });
        }
        let id = record.id_bytes().ok_or_else(|| Error::Record {
            url: store.url().to_owned(),
            key: ObjectKey::Archive.spell(record.segment_size),
            reason: "archive_id is not 32 hexadecimal digits".to_owned(),
        })?;
        let keyring = Keyring::new(id, store.clone(), keys);
        Ok(Archive {
            inner: Arc::new(Inner {
                record,
                id,
                store,
                keyring,
            }),
        })
    }

    /// The same archive in `store`, which need not hold anything of it yet, with other keys.
    #[must_use]
    pub fn within(&self, store: SharedStore, keys: KeyAccess) -> Archive {
        let keyring = Keyring::new(self.inner.id, store.clone(), keys);
        Archive {
            inner: Arc::new(Inner {
                record: self.inner.record.clone(),
                id: self.inner.id,
                store,
                keyring,
            }),
        }
    }

    /// Its id, as objects are bound to it.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.inner.id
    }

    /// Whose archive this is.
    #[must_use]
    pub fn record(&self) -> &ArchiveRecord {
        &self.inner.record
    }

    /// The cluster's segment size.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.inner.record.segment_size
    }

    /// Its URL, for messages.
    #[must_use]
    pub fn url(&self) -> &str {
        self.inner.store.url()
    }

    /// The store under it, for what is not about sealed objects.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    /// Its data keys.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.inner.keyring
    }

    /// Seals for this archive under its current data key, making one when there is none. A rotation
    /// takes effect in every sealer at once.
    ///
    /// # Errors
    /// When no data key can be opened or made.
    pub async fn sealer(&self, codec: Codec) -> Result<Sealer, Error> {
        let key = self.inner.keyring.for_sealing().await?;
        Ok(Sealer::following(self.inner.id, key, codec))
    }

    /// The same archive as `store` alone holds it; keys still come from wherever they are found.
    #[must_use]
    pub fn at(&self, store: SharedStore) -> Archive {
        let Inner { record, id, .. } = &*self.inner;
        let access = self.inner.keyring.access().clone();
        Archive {
            inner: Arc::new(Inner {
                record: record.clone(),
                id: *id,
                keyring: Keyring::new(*id, self.inner.store.clone(), access),
                store,
            }),
        }
    }

    /// Each place that holds the archive, by itself: this one, where there is no other.
    #[must_use]
    pub fn each(&self) -> Vec<Archive> {
        let stores = self.inner.store.replicas();
        if stores.is_empty() {
            return vec![self.clone()];
        }
        stores.into_iter().map(|store| self.at(store)).collect()
    }

    /// The name that `key` is stored and sealed under.
    #[must_use]
    pub fn name(&self, key: &ObjectKey) -> String {
        key.spell(self.segment_size())
    }

    /// Stores a sealed object.
    ///
    /// # Errors
    /// [`StoreError::Exists`](walvault_store::StoreError::Exists) when the name is taken.
    pub async fn put(&self, key: &ObjectKey, object: SealedObject) -> Result<(), Error> {
        let body = match key {
            // Sidecars compete for an epoch, and one may have it.
            ObjectKey::Writer(_) => object.body.named(Naming::Contested),
            _ => object.body,
        };
        Ok(self.inner.store.put(&self.name(key), body).await?)
    }

    /// Reads and verifies a whole object.
    ///
    /// # Errors
    /// When it is not there, or is not what was stored under this name.
    pub async fn get(&self, key: &ObjectKey) -> Result<Opened, Error> {
        let name = self.name(key);
        let read = || async {
            let bytes = self.inner.store.get(&name, None).await?;
            self.unseal(key, bytes).await
        };
        again(&name, read).await
    }

    /// Reads and verifies a whole object, handing its payload to `take` frame by frame, in order,
    /// each as soon as it is authentic. That nothing is missing is known only when this succeeds:
    /// whatever `take` made of it is to be thrown away otherwise. `take` may block; it is not
    /// called before the whole object has arrived, so that memory holds the object as it is stored.
    ///
    /// # Errors
    /// As [`Archive::get`], and what `take` returns.
    pub async fn read<E: From<Error> + Send + 'static>(
        &self,
        key: &ObjectKey,
        mut take: impl FnMut(&[u8]) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        let fetched = self.fetch(key).await?;
        fetched.open((), move |(), bytes| take(bytes)).await
    }

    /// Reads a whole object, to be opened when there is time for it.
    ///
    /// # Errors
    /// When it is not there or cannot be read, or its data key is not to be had.
    pub async fn fetch(&self, key: &ObjectKey) -> Result<Fetched, Error> {
        let name = self.name(key);
        let read = || async {
            let bytes = self.inner.store.get(&name, None).await?;
            let data_key = self.data_key(&name, &bytes).await?;
            Ok((bytes, data_key))
        };
        let (bytes, data_key) = again(&name, read).await?;
        Ok(Fetched {
            archive: self.clone(),
            name,
            kind: kind_of(key),
            bytes,
            data_key,
        })
    }

    /// What opens an object that was read whole. Where there is no such data key, it is told whether
    /// that is because the object is damaged.
    async fn data_key(&self, name: &str, bytes: &Bytes) -> Result<Arc<DataKey>, Error> {
        let corrupt = |source| self.corrupt(name, source);
        let header = Header::decode(bytes).map_err(|error| corrupt(error.into()))?;
        match self.inner.keyring.get(header.key_id).await {
            Ok(key) => Ok(key),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => match check_digest(bytes) {
                Ok(_) => Err(error.into()),
                Err(damage) => Err(corrupt(damage)),
            },
        }
    }

    /// The size of an object, from its listing, for which no right to read it is needed; `None` when
    /// it is not there.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn size_of(&self, key: &ObjectKey) -> Result<Option<u64>, Error> {
        let name = self.name(key);
        // The name itself is the first that begins with it.
        let page = self.inner.store.list(&name, None).await?;
        let found = page.objects.into_iter().find(|object| object.key == name);
        Ok(found.map(|object| object.size))
    }

    /// Verifies an object that was read.
    async fn unseal(&self, key: &ObjectKey, bytes: Bytes) -> Result<Opened, Error> {
        let name = self.name(key);
        let data_key = self.data_key(&name, &bytes).await?;
        let (id, kind) = (self.inner.id, kind_of(key));
        let sealed_name = name.clone();
        let open = move || Sealed::parse(bytes)?.open(&data_key, &id, kind, &sealed_name);
        compute::elsewhere(open)
            .await
            .map_err(|source| self.corrupt(&name, source))
    }

    /// Reads a JSON record that is stored sealed.
    ///
    /// # Errors
    /// As [`Archive::get`], and when it does not read.
    pub async fn get_record<T: serde::de::DeserializeOwned>(
        &self,
        key: &ObjectKey,
    ) -> Result<T, Error> {
        Ok(self.get_record_and_key(key).await?.0)
    }

    /// As [`Archive::get_record`], with the data key that the record is sealed under.
    ///
    /// # Errors
    /// As [`Archive::get_record`].
    pub async fn get_record_and_key<T: serde::de::DeserializeOwned>(
        &self,
        key: &ObjectKey,
    ) -> Result<(T, KeyId), Error> {
        let opened = self.get(key).await?;
        let record = serde_json::from_slice(&opened.payload).map_err(|error| Error::Record {
            url: self.url().to_owned(),
            key: self.name(key),
            reason: error.to_string(),
        })?;
        Ok((record, opened.key_id))
    }

    /// Seals and stores a JSON record; returns the size of the object.
    ///
    /// # Errors
    /// As [`Archive::put`].
    pub async fn put_record<T: serde::Serialize>(
        &self,
        key: &ObjectKey,
        record: &T,
    ) -> Result<u64, Error> {
        let json = serde_json::to_vec(record).expect("records are plain JSON");
        self.put_payload(key, Bytes::from(json)).await
    }

    /// Seals and stores `payload`; returns the size of the object.
    ///
    /// # Errors
    /// As [`Archive::put`].
    pub async fn put_payload(&self, key: &ObjectKey, payload: Bytes) -> Result<u64, Error> {
        let sealer = self.sealer(Codec::Lz4).await?;
        let object = sealer.seal(kind_of(key), &self.name(key), &[payload], b"")?;
        let size = object.body.bytes.len() as u64;
        self.put(key, object).await?;
        Ok(size)
    }

    /// The sizes that objects of this payload have, however they are compressed.
    ///
    /// # Errors
    /// As [`Archive::sealer`].
    pub async fn sealed_sizes(&self, key: &ObjectKey, payload: &Bytes) -> Result<Vec<u64>, Error> {
        let mut sizes = Vec::new();
        for codec in [Codec::Lz4, Codec::None] {
            let sealer = self.sealer(codec).await?;
            let pieces = std::slice::from_ref(payload);
            let object = sealer.seal(kind_of(key), &self.name(key), pieces, b"")?;
            sizes.push(object.body.bytes.len() as u64);
        }
        Ok(sizes)
    }

    /// The objects under `prefix` that walvault wrote, in order of their keys.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        let (mut objects, mut after) = (Vec::new(), None);
        loop {
            let page = self.inner.store.list(prefix, after.as_deref()).await?;
            objects.extend(
                page.objects
                    .into_iter()
                    .filter_map(|object| self.listed(object)),
            );
            after = next_page(&*self.inner.store, prefix, after.as_deref(), page.next)?;
            if after.is_none() {
                return Ok(objects);
            }
        }
    }

    fn listed(&self, object: ObjectMeta) -> Option<Listed> {
        Some(Listed {
            key: ObjectKey::parse(&object.key, self.segment_size())?,
            size: object.size,
            modified: object.modified,
        })
    }

    /// Removes an object.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        Ok(self.inner.store.delete(&self.name(key)).await?)
    }

    /// Removes objects; see `delete_many` of the store.
    ///
    /// # Errors
    /// That of one object that is not removed.
    pub async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), Error> {
        let names: Vec<String> = keys.iter().map(|key| self.name(key)).collect();
        Ok(self.inner.store.delete_many(&names).await?)
    }

    /// Removes an object with all its versions.
    ///
    /// # Errors
    /// [`StoreError::Locked`](walvault_store::StoreError::Locked) when the store does not let it go yet.
    pub async fn erase(&self, key: &ObjectKey) -> Result<(), Error> {
        Ok(self.inner.store.erase(&self.name(key)).await?)
    }

    fn corrupt(&self, name: &str, source: OpenError) -> Error {
        Error::Corrupt {
            url: self.url().to_owned(),
            key: name.to_owned(),
            source,
        }
    }
}

impl Fetched {
    /// The SHA-256 that its footer has, in hexadecimal; opening it checks that.
    pub fn footer_digest(&self) -> String {
        footer_digest(&self.bytes)
    }

    /// Verifies it, handing its payload and `state` to `take` frame by frame, as [`Archive::read`]
    /// does. Returns the state.
    ///
    /// # Errors
    /// When it is not what was stored under its name, and what `take` returns.
    pub async fn open<T: Send + 'static, E: From<Error> + Send + 'static>(
        self,
        mut state: T,
        mut take: impl FnMut(&mut T, &[u8]) -> Result<(), E> + Send + 'static,
    ) -> Result<T, E> {
        let Fetched {
            archive,
            name,
            kind,
            mut bytes,
            mut data_key,
        } = self;
        let id = archive.inner.id;
        let mut again = Again::new();
        loop {
            let (sealed_name, mut begun) = (name.clone(), false);
            let open = move || {
                let opened = Sealed::parse(bytes).map_err(FrameError::Open);
                let opened = opened.and_then(|sealed| {
                    sealed.open_frames(&data_key, &id, kind, &sealed_name, |frame| {
                        begun = true;
                        take(&mut state, frame)
                    })
                });
                (opened, begun, state, take)
            };
            let opened;
            (opened, begun, state, take) = compute::elsewhere(open).await;
            match opened {
                Ok(_) => return Ok(state),
                Err(FrameError::Take(error)) => return Err(error),
                // What the way did to it shows in its SHA-256 or its name, before the first frame.
                Err(FrameError::Open(source)) if begun => {
                    return Err(archive.corrupt(&name, source).into());
                }
                Err(FrameError::Open(source)) => {
                    again.after(&name, archive.corrupt(&name, source))?;
                }
            }
            bytes = archive
                .inner
                .store
                .get(&name, None)
                .await
                .map_err(Error::from)?;
            data_key = archive.data_key(&name, &bytes).await?;
        }
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Archive").field(&self.url()).finish()
    }
}

#[cfg(test)]
mod tests;
