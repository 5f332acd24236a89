//! Bringing home what a host that may not write the archive noted: its chain, and records of drills.

use serde::Serialize;
use walvault_archive::archive::Archive;
use walvault_archive::error::Error;
use walvault_archive::keys::{KeyPurpose, SignedKey};
use walvault_layout::{AUDIT_PREFIX, DRILLS_PREFIX, KEYS_PREFIX, KeyId, ObjectKey};
use walvault_store::{Body, StoreError, list_all};

/// What was brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Batches that the archive did not hold.
    pub batches: u64,
    /// Batches that it held already, byte for byte.
    pub known: u64,
    /// Data keys of theirs.
    pub keys: u64,
    /// Records of drills that the archive did not hold.
    pub drills: u64,
    /// Records of data keys that are not the first of one for the audit trail: they stay where they are.
    pub left_out: u64,
}

/// Whether this is what a host that notes its own acts makes, and nothing that data could be sealed under, or
/// that could stand above a data key of the archive.
fn is_for_audit(archive: &Archive, id: KeyId, generation: u32, bytes: &[u8]) -> bool {
    let read = SignedKey::read(&archive.id(), id, generation, bytes);
    generation == 1 && read.is_ok_and(|signed| signed.record.purpose == KeyPurpose::Audit)
}

/// Copies every batch, every record of a drill and their data keys from `local` into `archive`, byte
/// for byte: they are bound to the archive and their names already. Data keys go first, so that
/// nothing lies there that could not be opened, and batches last, since they name the records.
///
/// # Errors
/// When a store fails, and [`StoreError::Exists`] when the archive holds something else in a batch's
/// place.
pub async fn import(local: &Archive, archive: &Archive) -> Result<Imported, Error> {
    let mut imported = Imported::default();
    for prefix in [KEYS_PREFIX, DRILLS_PREFIX, AUDIT_PREFIX] {
        for object in list_all(&**local.store(), prefix).await? {
            let Some(key) = ObjectKey::parse(&object.key, archive.segment_size()) else {
                continue;
            };
            let bytes = local.store().get(&object.key, None).await?;
            if let ObjectKey::Key(id, generation) = key
                && !is_for_audit(archive, id, generation, &bytes)
            {
                imported.left_out += 1;
                continue;
            }
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
            match (prefix, known) {
                (AUDIT_PREFIX, true) => imported.known += 1,
                (AUDIT_PREFIX, false) => imported.batches += 1,
                (DRILLS_PREFIX, false) => imported.drills += 1,
                (_, false) => imported.keys += 1,
                (_, true) => {}
            }
        }
    }
    Ok(imported)
}
