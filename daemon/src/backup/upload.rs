//! Sealed parts on their way to the store, several at once.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use walvault_archive::record::PartRecord;
use walvault_archive::{Archive, Error as ArchiveError};
use walvault_layout::{BackupId, ObjectKey};
use walvault_store::compute::unfinished;

use super::BackupError;
use super::seal::SealedPart;

/// Uploads at once. Memory usually allows fewer; this bounds requests when parts compress well.
const UPLOADS: usize = 8;

/// How long uploads of a backup that failed may go on. Each ends at its own `[backup] store_timeout`.
const PATIENCE: Duration = Duration::from_secs(30);

/// The uploads under way; dropped, they are given up.
pub(super) type Uploads = JoinSet<Result<PartRecord, ArchiveError>>;

/// Stores parts until there are no more; their records, in order. When one fails, or this is
/// dropped, the others stay in `uploads`.
pub(super) async fn store(
    archive: &Archive,
    id: &BackupId,
    mut sealed: mpsc::UnboundedReceiver<SealedPart>,
    uploads: &mut Uploads,
) -> Result<Vec<PartRecord>, BackupError> {
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

/// Lets the uploads of a failed backup end, so that whoever removes what it stored finds all of it: a
/// PUT that is broken off may arrive later.
pub(super) async fn settle(mut uploads: Uploads) {
    let ended = async { while uploads.join_next().await.is_some() {} };
    // Those that do not end are given up.
    let _ = timeout(PATIENCE, ended).await;
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
