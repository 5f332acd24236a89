//! Bringing home the chain of a host that may not write the archive.

use serde::Serialize;

use crate::archive::Archive;
use crate::error::Error;
use crate::layout::{AUDIT_PREFIX, KEYS_PREFIX, ObjectKey};
use crate::store::{Body, StoreError, list_all};

/// What was brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Batches that the archive did not hold.
    pub batches: u64,
    /// Batches that it held already, byte for byte.
    pub known: u64,
    /// Data keys of theirs.
    pub keys: u64,
}

/// Copies every batch and its data keys from `local` into `archive`, byte for byte: they are bound to
/// the archive and their names already. Data keys go first, so that nothing lies there that could
/// not be opened.
///
/// # Errors
/// When a store fails, and [`StoreError::Exists`] when the archive holds something else in a batch's
/// place.
pub async fn import(local: &Archive, archive: &Archive) -> Result<Imported, Error> {
    let mut imported = Imported::default();
    for (prefix, of_keys) in [(KEYS_PREFIX, true), (AUDIT_PREFIX, false)] {
        for object in list_all(&**local.store(), prefix).await? {
            if ObjectKey::parse(&object.key, archive.segment_size()).is_none() {
                continue;
            }
            let bytes = local.store().get(&object.key, None).await?;
            let put = archive.store().put(&object.key, Body::new(bytes.clone()));
            let known = match put.await {
                Ok(()) => false,
                Err(exists @ StoreError::Exists { .. }) => {
                    if archive.store().get(&object.key, None).await? != bytes {
                        return Err(exists.into());
                    }
                    true
                }
                Err(error) => return Err(error.into()),
            };
            match (of_keys, known) {
                (true, _) => imported.keys += u64::from(!known),
                (false, true) => imported.known += 1,
                (false, false) => imported.batches += 1,
            }
        }
    }
    Ok(imported)
}
