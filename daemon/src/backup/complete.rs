//! The last step of a backup: what must hold when its record is stored.

use tokio::time::sleep;
use walvault_archive::Archive;
use walvault_archive::record::{BackupFiles, BackupRecord};
use walvault_layout::{BackupId, ObjectKey, backup_prefix};
use walvault_upkeep::lock::{LOOK_EVERY, Lock};

use super::secure::Held;
use super::{BackupError, WalSecured};

/// Stores `files` and `record` of a backup whose parts and manifest are stored, once its WAL is: what
/// `prepare` and `publish` do.
///
/// # Errors
/// When the WAL does not reach the archive, or something that was there is gone.
pub async fn complete(
    archive: &Archive,
    files: &BackupFiles,
    record: BackupRecord,
    wal: &mut dyn WalSecured,
) -> Result<BackupRecord, BackupError> {
    let record = prepare(archive, files, record, wal).await?;
    publish(archive, files, record).await
}

/// Waits for the WAL of a backup and stores `files`, the last object before its record. The size of
/// `files` as stored is added to the record's.
///
/// A prune that was planned before any of the backup could be seen may be about to remove WAL that it
/// needs; it holds the upkeep lock until it is done. One that is planned later sees the backup.
/// So the lock is waited for, and then all is looked at once more, and the store answers for the WAL that
/// whoever streams may not have had an answer for.
///
/// # Errors
/// When the WAL does not reach the archive, or something that was there is gone.
pub(super) async fn prepare(
    archive: &Archive,
    files: &BackupFiles,
    mut record: BackupRecord,
    wal: &mut dyn WalSecured,
) -> Result<BackupRecord, BackupError> {
    let range = record.wal_needed(archive.segment_size());
    wal.secure(record.timeline, range).await?;
    while Lock::is_held(archive).await? {
        sleep(LOOK_EVERY).await;
    }
    let id = record.id.clone();
    // The youngest object of the backup: the grace time of a prune begins anew with it.
    let key = ObjectKey::BackupFiles(id.clone());
    record.stored_size += archive.put_record(&key, files).await?;
    loop {
        let held = Held::load(archive, record.timeline, range).await?;
        let reached = held.reach();
        if reached < range.end {
            let what = format!("WAL from {reached} on");
            return Err(BackupError::Pruned { backup: id, what });
        }
        match held.reaffirm(archive).await {
            Ok(()) => break,
            // A chunk whose unit is whole by now.
            Err(error) if error.is_transient() => sleep(LOOK_EVERY).await,
            Err(error) => return Err(error.into()),
        }
    }
    objects_are_there(archive, &id, files).await?;
    Ok(record)
}

/// Stores the record of a backup of which everything else is stored: with it the backup exists.
///
/// # Errors
/// When it cannot be stored, or something that was there is gone. The record may be there all the same.
pub(super) async fn publish(
    archive: &Archive,
    files: &BackupFiles,
    record: BackupRecord,
) -> Result<BackupRecord, BackupError> {
    let key = ObjectKey::BackupRecord(record.id.clone());
    archive.put_record(&key, &record).await?;
    // A prune without a grace time may have taken them meanwhile; then the record tells of nothing.
    objects_are_there(archive, &record.id, files).await?;
    Ok(record)
}

/// Requires that what the backup has stored so far is still there.
async fn objects_are_there(
    archive: &Archive,
    id: &BackupId,
    files: &BackupFiles,
) -> Result<(), BackupError> {
    let there = archive.list(&backup_prefix(id)).await?;
    let is_there = |key: &ObjectKey| there.iter().any(|object| object.key == *key);
    let own = files.parts.iter().filter(|part| part.backup.is_none());
    let mut needed = own
        .map(|part| ObjectKey::BackupPart(id.clone(), part.number))
        .chain([
            ObjectKey::BackupManifest(id.clone()),
            ObjectKey::BackupFiles(id.clone()),
        ]);
    match needed.find(|key| !is_there(key)) {
        None => Ok(()),
        Some(gone) => Err(BackupError::Pruned {
            backup: id.clone(),
            what: archive.name(&gone),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use walvault_archive::record::PartRecord;
    use walvault_archive::{Catalog, archive::wal_key};
    use walvault_protocol::{Lsn, LsnRange, ServerVersion, SystemId, TimelineId};
    use walvault_store::hooked::{Hooked, Hooks};
    use walvault_store::{Body, ObjectStore, StoreError, WriteOnce};

    use super::*;
    use crate::backup::secure::tests::{MIB, NEEDED, archive, put, watched};

    const FIRST_SEGMENT: LsnRange = LsnRange {
        start: Lsn(5 * MIB),
        end: Lsn(6 * MIB),
    };

    /// An archive that holds all that a backup needs but for its list of files and its record.
    async fn nearly_complete() -> (Archive, BackupFiles, BackupRecord) {
        let archive = archive().await;
        put(&archive, 1, 5 * MIB, 6 * MIB, true).await;
        put(&archive, 1, 6 * MIB, 8 * MIB, false).await;
        let id = BackupId::new(jiff::Timestamp::UNIX_EPOCH, 1);
        for key in [
            ObjectKey::BackupPart(id.clone(), 1),
            ObjectKey::BackupManifest(id.clone()),
        ] {
            let payload = Bytes::from_static(b"x");
            archive.put_payload(&key, payload).await.unwrap();
        }
        let files = BackupFiles {
            version: 1,
            parts: vec![PartRecord {
                backup: None,
                number: 1,
                length: 1,
                stored: 1,
                sha256: String::new(),
            }],
            files: Vec::new(),
        };
        let record = BackupRecord {
            version: 1,
            id,
            kind: "full".to_owned(),
            label: String::new(),
            system_id: SystemId(1),
            server_version: ServerVersion(150_000),
            timeline: TimelineId::FIRST,
            start_lsn: NEEDED.start + 40,
            stop_lsn: NEEDED.end,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            stopped_at: jiff::Timestamp::UNIX_EPOCH,
            size: 1,
            stored_size: 1,
            file_count: 0,
            tablespaces: Vec::new(),
            part_count: 1,
            kept: false,
            warnings: Vec::new(),
        };
        (archive, files, record)
    }

    async fn listed(archive: &Archive) -> Vec<BackupRecord> {
        let catalog = Catalog::load(archive).await.unwrap();
        catalog.backups().to_vec()
    }

    #[tokio::test]
    async fn a_backup_is_listed_as_it_is_returned() {
        let (archive, files, record) = nearly_complete().await;
        let before = record.stored_size;
        let done = complete(&archive, &files, record, &mut watched(&archive)).await;
        let done = done.unwrap();
        assert!(done.stored_size > before);
        assert_eq!(listed(&archive).await, [done]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_prune_takes_at_the_last_moment_is_noticed() {
        let (archive, files, record) = nearly_complete().await;
        let prune = Lock::take(&archive, "a prune", Duration::ZERO).await;
        let mut completing = tokio::spawn({
            let archive = archive.clone();
            async move { complete(&archive, &files, record, &mut watched(&archive)).await }
        });
        tokio::time::timeout(Duration::from_secs(20), &mut completing)
            .await
            .expect_err("waits for the prune");
        let gone = wal_key(TimelineId::FIRST, FIRST_SEGMENT, true);
        archive.delete(&gone).await.unwrap();
        prune.unwrap().release().await.unwrap();
        let error = completing.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("removed WAL from 0/500000 on"), "{error}");
        assert!(listed(&archive).await.is_empty());
    }

    #[tokio::test]
    async fn a_part_that_is_gone_is_noticed() {
        let (archive, files, record) = nearly_complete().await;
        let gone = ObjectKey::BackupPart(record.id.clone(), 1);
        archive.delete(&gone).await.unwrap();
        let lacks = complete(&archive, &files, record, &mut watched(&archive)).await;
        let error = lacks.unwrap_err().to_string();
        assert!(error.contains("part-00000001 while backup"), "{error}");
        assert!(listed(&archive).await.is_empty());
    }

    /// A store that ignores conditions, and what happens in it while a backup is completed.
    #[derive(Debug)]
    struct Busy {
        put_again: Mutex<Vec<String>>,
        /// What a prune removes as soon as there is a record.
        pruned: Option<String>,
    }

    #[async_trait]
    impl Hooks for Busy {
        async fn put(
            &self,
            store: &dyn ObjectStore,
            key: &str,
            body: Body,
        ) -> Result<(), StoreError> {
            store.put(key, body).await?;
            match &self.pruned {
                Some(name) if key.ends_with("/record") => store.delete(name).await,
                _ => Ok(()),
            }
        }

        async fn put_over(
            &self,
            store: &dyn ObjectStore,
            key: &str,
            body: Body,
        ) -> Result<(), StoreError> {
            if store.head(key).await?.is_some() {
                self.put_again.lock().unwrap().push(key.to_owned());
                return Ok(());
            }
            self.put(store, key, body).await
        }
    }

    async fn busy(archive: &Archive, pruned: Option<String>) -> (Hooked<Busy>, Archive) {
        let busy = Busy {
            put_again: Mutex::default(),
            pruned,
        };
        let busy = Hooked::over(archive.store().clone(), busy);
        let archive = archive.at(Arc::new(WriteOnce::new(busy.clone())));
        // The probe is put over itself.
        assert!(archive.store().ignores_conditions().await.unwrap());
        busy.put_again.lock().unwrap().clear();
        (busy, archive)
    }

    /// Its sidecar may have been killed before it had an answer.
    #[tokio::test]
    async fn the_store_answers_for_the_wal_of_a_backup() {
        let (archive, files, record) = nearly_complete().await;
        let (store, archive) = busy(&archive, None).await;
        let done = complete(&archive, &files, record, &mut watched(&archive)).await;
        done.unwrap();
        let wal = [
            (LsnRange::new(Lsn(6 * MIB), Lsn(8 * MIB)), false),
            (FIRST_SEGMENT, true),
        ];
        let wal = wal.map(|(range, whole)| wal_key(TimelineId::FIRST, range, whole));
        let put_again = store.put_again.lock().unwrap().clone();
        assert_eq!(put_again, wal.map(|key| archive.name(&key)));
    }

    #[tokio::test]
    async fn a_backup_that_a_prune_empties_beside_its_record_fails() {
        let (archive, files, record) = nearly_complete().await;
        let gone = archive.name(&ObjectKey::BackupFiles(record.id.clone()));
        let (_, archive) = busy(&archive, Some(gone)).await;
        let lacks = complete(&archive, &files, record, &mut watched(&archive)).await;
        let error = lacks.unwrap_err().to_string();
        assert!(error.contains("/files while backup"), "{error}");
    }
}
