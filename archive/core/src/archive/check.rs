//! Looking at objects to verify them, not to use them.

use bytes::Bytes;
use walvault_layout::ObjectKey;
use walvault_store::compute;

use crate::archive::again::again;
use crate::archive::{Archive, kind_of};
use crate::error::Error;
use crate::format::{FOOTER_LEN, HEADER_LEN, Header};
use crate::seal::{Digests, OpenError, Opened, SealedMeta, check_digest};

impl Archive {
    /// Reads an object whole, and checks its SHA-256 and that its end was sealed for this name in
    /// this archive, without opening what is in it. Returns the SHA-256 of the object.
    ///
    /// # Errors
    /// When it is not there, or is not what was stored under this name.
    pub async fn check_stored(&self, key: &ObjectKey) -> Result<[u8; 32], Error> {
        let name = self.name(key);
        again(&name, || self.check_stored_once(key, &name)).await
    }

    async fn check_stored_once(&self, key: &ObjectKey, name: &str) -> Result<[u8; 32], Error> {
        let corrupt = |source| self.corrupt(name, source);
        let (bytes, digests) = self.get_hashed(name).await?;
        let meta = SealedMeta::new(&bytes, &bytes).map_err(corrupt)?;
        let data_key = self.inner.keyring.get(meta.key_id()).await?;
        let meta = meta.open(&data_key, &self.inner.id, kind_of(key), name);
        let frames = meta.map_err(corrupt)?.stored_len();
        let rest = (HEADER_LEN + FOOTER_LEN) as u64 + u64::from(digests.footer.meta_len);
        let (expected, actual) = (frames + rest, bytes.len() as u64);
        if expected != actual {
            return Err(corrupt(OpenError::Length { expected, actual }));
        }
        Ok(digests.object)
    }

    /// Reads an object whole and checks its own SHA-256 alone, as is possible without its data key.
    /// Returns the SHA-256 of the object.
    ///
    /// # Errors
    /// When it is not there, or was cut or altered.
    pub async fn check_bytes(&self, key: &ObjectKey) -> Result<[u8; 32], Error> {
        let name = self.name(key);
        let (bytes, digests) = again(&name, || self.get_hashed(&name)).await?;
        let found = Header::decode(&bytes).map(|header| header.kind);
        let found = found.map_err(|error| self.corrupt(&name, error.into()))?;
        let expected = kind_of(key);
        match found == expected {
            true => Ok(digests.object),
            false => Err(self.corrupt(&name, OpenError::Kind { expected, found })),
        }
    }

    /// As [`Archive::get`], with the SHA-256 of the object.
    ///
    /// # Errors
    /// As [`Archive::get`].
    pub async fn get_with_digest(&self, key: &ObjectKey) -> Result<(Opened, [u8; 32]), Error> {
        let name = self.name(key);
        let read = || async {
            let (bytes, digests) = self.get_hashed(&name).await?;
            Ok((self.unseal(key, bytes).await?, digests.object))
        };
        again(&name, read).await
    }

    /// The digest comes first: an altered header names a data key that never was.
    async fn get_hashed(&self, name: &str) -> Result<(Bytes, Digests), Error> {
        let bytes = self.inner.store.get(name, None).await?;
        let hashed = bytes.clone();
        let digests = compute::elsewhere(move || check_digest(&hashed)).await;
        Ok((bytes, digests.map_err(|error| self.corrupt(name, error))?))
    }
}
