//! What a failed backup stored, removed again.
//!
//! Owns the objects below one backup's id, and looks at no other's. What stays here is left to a
//! prune, which removes it once it is older than `[retention] grace`.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use walvault_archive::{Archive, Error as ArchiveError};
use walvault_layout::{BackupId, ObjectKey, backup_prefix};
use walvault_store::StoreError;

use super::BackupError;

/// How many objects are removed at once.
const AT_ONCE: usize = 16;
/// How many are removed within [`PATIENCE`].
const BATCH: usize = 256;
/// How long a batch may take. The failure is not told before that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes the objects of backup `id`, which has no record and never gets one, because of `error`.
/// The first object that does not go ends it: this host may not delete, or the store is away.
pub(super) async fn remove(archive: &Archive, id: &BackupId, error: &BackupError) {
    if is_left_alone(error) {
        return;
    }
    match remove_all(archive, id).await {
        Ok(0) => {}
        Ok(removed) => {
            tracing::info!(backup = %id, removed, "what the failed backup stored is removed");
        }
        Err(reason) => tracing::info!(
            backup = %id, %reason,
            "what the failed backup stored stays until a prune removes it, after [retention] grace"
        ),
    }
}

/// Whether nothing is to be removed: the store does not answer, or somebody else takes a backup of the
/// same name, which an object in the place of ours tells.
fn is_left_alone(error: &BackupError) -> bool {
    match error {
        BackupError::Archive(ArchiveError::Store(StoreError::Exists { .. })) => true,
        BackupError::Archive(error) => error.is_transient(),
        _ => false,
    }
}

/// Why an object stays.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the store did not remove it within {} s", PATIENCE.as_secs())]
    Slow,
}

async fn remove_all(archive: &Archive, id: &BackupId) -> Result<usize, Stays> {
    let prefix = backup_prefix(id);
    let listed = timeout(PATIENCE, archive.list(&prefix))
        .await
        .map_err(|_| Stays::Slow)??;
    let keys: Vec<ObjectKey> = listed.into_iter().map(|object| object.key).collect();
    let Some((first, rest)) = keys.split_first() else {
        return Ok(0);
    };
    // Alone: where one may not be removed, the others are not asked for.
    remove_some(archive, std::slice::from_ref(first)).await?;
    for batch in rest.chunks(BATCH) {
        remove_some(archive, batch).await?;
    }
    Ok(keys.len())
}

async fn remove_some(archive: &Archive, keys: &[ObjectKey]) -> Result<(), Stays> {
    // With all versions: nothing would find an earlier one again.
    let removing = keys.iter().map(|key| archive.erase(key));
    // Collected, so that whoever waits for it may do so on any thread.
    let removing: Vec<_> = removing.collect();
    let mut removing = stream::iter(removing).buffer_unordered(AT_ONCE);
    let all = async {
        while let Some(removed) = removing.next().await {
            removed?;
        }
        Ok::<(), Stays>(())
    };
    timeout(PATIENCE, all).await.map_err(|_| Stays::Slow)?
}
