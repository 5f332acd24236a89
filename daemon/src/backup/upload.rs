//! Sealed parts on their way to the store, several at once.

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use walvault_archive::record::PartRecord;
use walvault_archive::{Archive, Error as ArchiveError};
use walvault_layout::{BackupId, ObjectKey};
use walvault_store::compute::unfinished;

use super::BackupError;
use super::seal::SealedPart;

/// Uploads at once. Memory usually allows fewer; this bounds requests when parts compress well.
const UPLOADS: usize = 8;

/// Stores parts until there are no more; their records, in order. When one fails, or this is
/// dropped, the others are given up.
pub(super) async fn store(
    archive: &Archive,
    id: &BackupId,
    mut sealed: mpsc::UnboundedReceiver<SealedPart>,
) -> Result<Vec<PartRecord>, BackupError> {
    let mut uploads: JoinSet<Result<PartRecord, ArchiveError>> = JoinSet::new();
    let mut parts = Vec::new();
    let mut more = true;
    while more || !uploads.is_empty() {
        tokio::select! {
            part = sealed.recv(), if more && uploads.len() < UPLOADS => match part {
                Some(part) => {
                    uploads.spawn(put(archive.clone(), id.clone(), part));
                }
                None => more = false,
            },
            Some(done) = uploads.join_next(), if !uploads.is_empty() => {
                parts.push(match done {
                    Ok(done) => done?,
                    Err(error) => unfinished(error).await,
                });
            }
        }
    }
    parts.sort_by_key(|part| part.number);
    Ok(parts)
}

async fn put(archive: Archive, id: BackupId, part: SealedPart) -> Result<PartRecord, ArchiveError> {
    let record = PartRecord {
        backup: None,
        number: part.number,
        length: part.object.payload_len,
        stored: part.object.body.bytes.len() as u64,
        sha256: hex::encode(part.object.body.sha256),
    };
    archive
        .put(&ObjectKey::BackupPart(id, part.number), part.object)
        .await?;
    drop(part.memory);
    Ok(record)
}
