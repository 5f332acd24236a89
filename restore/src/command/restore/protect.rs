//! A hold on the backup that is being restored, so that no prune takes it away halfway.
//!
//! The newest backup stays in any case. An older one, and the WAL behind it, may leave the window of
//! retention while it is fetched and replayed. The hold ends by itself: replay goes on after this
//! process, and nothing tells when it is over.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use walvault_archive::keep::{self, Keeps};
use walvault_archive::record::{BackupRecord, KeepChange};
use walvault_archive::{Archive, Catalog, Error};
use walvault_layout::{BackupId, ObjectKey};
use walvault_store::clock;
use walvault_upkeep::lock::{LOOK_EVERY, Lock};

use crate::access;
use crate::estimate::Estimate;
use crate::exit::Failure;

/// How long a hold lasts at least.
const LEAST: Duration = Duration::from_secs(24 * 3600);
/// How many times as long as the estimate it lasts.
const MARGIN: f64 = 4.0;
/// How many times as long one that is there already has to last.
const ENOUGH: f64 = 2.0;
/// How long a prune that is under way is waited for.
const WAIT: Duration = Duration::from_secs(60);

/// A hold of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Protection {
    /// Its number, by which it can be released.
    pub(super) hold: u32,
    /// When it ends.
    pub(super) until: Timestamp,
}

/// Holds `backup` for as long as its restore into `pgdata` may take, unless it is the newest. A host
/// that may not write the archive is warned.
///
/// # Errors
/// When a prune has removed the backup meanwhile.
pub(super) async fn protect(
    archive: &Archive,
    catalog: &Catalog,
    backup: &BackupRecord,
    pgdata: &Path,
    estimate: &Estimate,
) -> Result<Option<Protection>, Failure> {
    if catalog.backups().last().map(|newest| &newest.id) == Some(&backup.id) {
        return Ok(None);
    }
    let estimated = estimate.restore_seconds + estimate.replay_seconds;
    let protection = match hold(archive, backup, pgdata, estimated).await {
        Ok(protection) => protection,
        Err(error) => {
            tracing::warn!(
                "backup {} is not held while it is restored, and a prune may remove it ({error}); \
                 place a hold where the archive may be written: walvault hold {} --reason restore \
                 --until TIME",
                backup.id,
                backup.id
            );
            return Ok(None);
        }
    };
    outlive_prune(archive, &backup.id).await?;
    Ok(protection)
}

async fn hold(
    archive: &Archive,
    backup: &BackupRecord,
    pgdata: &Path,
    estimated: f64,
) -> Result<Option<Protection>, Error> {
    let now = clock::now();
    let after = |time: Duration| {
        let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        now.checked_add(time).unwrap_or(Timestamp::MAX)
    };
    let times = |factor| Duration::try_from_secs_f64(estimated * factor).unwrap_or(Duration::MAX);
    let keeps = Keeps::load(archive, &backup.id, backup.kept).await?;
    let is_held = keeps
        .active(now)
        .any(|hold| hold.until.is_none_or(|until| until >= after(times(ENOUGH))));
    if is_held || keeps.kept {
        return Ok(None);
    }
    let until = after(times(MARGIN).max(LEAST));
    let change = KeepChange::Hold {
        reason: format!("restore into {}", pgdata.display()),
        until: Some(until),
    };
    let hold = keep::say(archive, &backup.id, &access::whoami(), change).await?;
    Ok(Some(Protection { hold, until }))
}

/// Waits for the end of a prune that may have decided before the hold was placed.
async fn outlive_prune(archive: &Archive, id: &BackupId) -> Result<(), Failure> {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < WAIT && Lock::is_held(archive).await.unwrap_or(false) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let key = ObjectKey::BackupRecord(id.clone());
    match archive.get_record::<BackupRecord>(&key).await {
        Err(error) if error.is_missing() => Err(Failure::refused(format!(
            "backup {id} was pruned while its restore was planned; run the command again, which \
             plans with the backups that are left"
        ))),
        // Whatever else is wrong with it, the restore tells.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use walvault_protocol::{Lsn, LsnRange, SegmentSize};

    use super::*;
    use crate::testing;

    /// An archive with two backups, and the older of them.
    async fn two_backups() -> (Archive, BackupRecord) {
        let archive = testing::archive(SegmentSize::DEFAULT).await;
        let backup = |number, start| {
            let range = LsnRange::new(Lsn(start), Lsn(start + 0x100));
            testing::backup(number, testing::tli(1), range, Timestamp::UNIX_EPOCH)
        };
        let (older, newer) = (backup(1, 0x100_0028), backup(2, 0x200_0028));
        testing::put_backup(&archive, &older).await;
        testing::put_backup(&archive, &newer).await;
        (archive, older)
    }

    const ESTIMATE: Estimate = Estimate {
        fetch_rate: None,
        restore_seconds: 36_000.0,
        replay_seconds: 0.0,
    };

    #[tokio::test]
    async fn an_older_backup_is_held_once_for_as_long_as_it_may_take() {
        let (archive, older) = two_backups().await;
        let catalog = Catalog::load(&archive).await.expect("a catalog");
        let hold = async |backup: &BackupRecord| {
            let held = protect(&archive, &catalog, backup, Path::new("/data"), &ESTIMATE).await;
            held.expect("held")
        };
        let held = hold(&older).await.expect("a hold");
        let hours = held.until.duration_since(Timestamp::now()).as_hours();
        assert!((39..=40).contains(&hours), "{hours}");
        let keeps = Keeps::load(&archive, &older.id, false).await.expect("read");
        assert!(keeps.keeps(Timestamp::now()));
        assert!(keeps.holds[0].reason.contains("/data"));
        assert_eq!(hold(&older).await, None, "it is held long enough");
        let newest = catalog.backups().last().expect("two");
        assert_eq!(hold(newest).await, None);
    }

    #[tokio::test]
    async fn a_backup_that_was_pruned_meanwhile_is_not_restored() {
        let (archive, older) = two_backups().await;
        let catalog = Catalog::load(&archive).await.expect("a catalog");
        let key = ObjectKey::BackupRecord(older.id.clone());
        archive.delete(&key).await.expect("deleted");
        let held = protect(&archive, &catalog, &older, Path::new("/data"), &ESTIMATE).await;
        assert!(
            held.expect_err("it is gone")
                .to_string()
                .contains("run the command again")
        );
    }
}
