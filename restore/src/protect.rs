//! A lease on the backup that is restored, so that no prune takes it away halfway.
//!
//! Any backup, and the WAL behind it, may leave retention while it is fetched and replayed: the newest
//! as well, once another is taken. A lease ends by itself.

use std::time::Duration;

use walvault_archive::Archive;
use walvault_archive::record::BackupRecord;
use walvault_layout::{BackupId, ObjectKey};
use walvault_upkeep::lease::Lease;
use walvault_upkeep::lock::{LOOK_EVERY, Lock};

use crate::access;
use crate::exit::{CommandError, REFUSED};

/// How long a prune that is under way is waited for.
const WAIT: Duration = Duration::from_secs(60);

/// A prune was faster.
#[derive(Debug, thiserror::Error)]
#[error(
    "backup {0} was pruned meanwhile; run the command again, which plans with the backups that are left"
)]
pub struct Pruned(BackupId);

impl CommandError for Pruned {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

/// Takes a lease on a backup for as long as `lasts`, for `command`. A host that may not write the archive
/// is warned, and gets none.
///
/// # Errors
/// When a prune has removed the backup meanwhile.
pub async fn protect(
    archive: &Archive,
    id: &BackupId,
    command: &str,
    lasts: Duration,
) -> Result<Option<Lease>, Pruned> {
    let lease = match Lease::take(archive, id, &access::holder(command), lasts).await {
        Ok(lease) => lease,
        Err(error) => {
            tracing::warn!(
                "backup {id} has no lease, and a prune may remove it while it is read ({error}); let this \
                 host write locks/read/*, or place a hold where the archive may be written: walvault hold \
                 {id} --reason restore --until TIME"
            );
            return Ok(None);
        }
    };
    outlive_prune(archive, id).await?;
    Ok(Some(lease))
}

/// Gives a lease back. Where that fails it ends by itself.
pub async fn release(lease: Lease) {
    let object = lease.object();
    if let Err(error) = lease.release().await {
        tracing::warn!(object, %error, "the lease is not given back; it ends by itself");
    }
}

/// Waits for the end of a prune that may have decided before the lease was taken.
async fn outlive_prune(archive: &Archive, id: &BackupId) -> Result<(), Pruned> {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < WAIT && Lock::is_held(archive).await.unwrap_or(false) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let key = ObjectKey::BackupRecord(id.clone());
    match archive.get_record::<BackupRecord>(&key).await {
        Err(error) if error.is_missing() => Err(Pruned(id.clone())),
        // Whatever else is wrong with it, the restore tells.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use walvault_protocol::{Lsn, LsnRange, SegmentSize};

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_backup_that_was_pruned_meanwhile_is_not_restored() {
        let archive = testing::archive(SegmentSize::DEFAULT).await;
        let range = LsnRange::new(Lsn(0x100_0028), Lsn(0x100_0128));
        let backup = testing::backup(1, testing::tli(1), range, Timestamp::UNIX_EPOCH);
        testing::put_backup(&archive, &backup).await;
        let lasts = Duration::from_secs(3600);
        let lease = protect(&archive, &backup.id, "a test", lasts).await;
        let lease = lease.expect("it is there").expect("a lease");
        let left = lease.until().duration_since(Timestamp::now()).as_secs();
        assert!((3590..=3600).contains(&left), "{left}");
        release(lease).await;
        let key = ObjectKey::BackupRecord(backup.id.clone());
        archive.delete(&key).await.expect("deleted");
        let refused = protect(&archive, &backup.id, "a test", lasts).await;
        let refused = refused.expect_err("it is gone").to_string();
        assert!(refused.contains("run the command again"), "{refused}");
    }
}
