use std::sync::Arc;

use bytes::Bytes;
use walvault_protocol::{Lsn, SegmentSize, ServerVersion, SystemId, TimelineId};

use super::*;
use crate::Catalog;
use crate::keys::{KeyFile, Secret};
use crate::store::MemoryStore;

fn record(id: &BackupId) -> BackupRecord {
    BackupRecord {
        version: 1,
        id: id.clone(),
        kind: "full".to_owned(),
        label: String::new(),
        system_id: SystemId(1),
        server_version: ServerVersion(150_000),
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(0x500_0028),
        stop_lsn: Lsn(0x500_0100),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        stopped_at: jiff::Timestamp::UNIX_EPOCH,
        size: 1,
        stored_size: 1,
        file_count: 0,
        tablespaces: Vec::new(),
        part_count: 1,
        kept: false,
    }
}

/// A PUT that was repeated until it was answered brings the record of a pruned backup back. One whose
/// list of files was lost otherwise is a damaged backup, and has to be seen.
#[tokio::test]
async fn a_record_that_came_back_after_a_prune_is_no_backup() {
    let key = KeyFile::from_secret(Secret::generate().expect("bits"));
    let store = Arc::new(MemoryStore::new());
    let size = SegmentSize::DEFAULT;
    let archive = Archive::open_or_begin(store, vec![key], SystemId(1), size)
        .await
        .expect("an archive");
    let ids: Vec<BackupId> = (1..=4)
        .map(|random| BackupId::new(jiff::Timestamp::UNIX_EPOCH, random))
        .collect();
    for id in &ids {
        let record_key = ObjectKey::BackupRecord(id.clone());
        archive
            .put_record(&record_key, &record(id))
            .await
            .expect("stored");
    }
    let [whole, damaged, pruned, left] = &ids[..] else {
        panic!("four");
    };
    for id in [whole, pruned, left] {
        let files = ObjectKey::BackupFiles(id.clone());
        let payload = Bytes::from_static(b"{}");
        archive.put_payload(&files, payload).await.expect("stored");
    }
    let listed = || async {
        let catalog = Catalog::load(&archive).await.expect("loaded");
        let complete = catalog.backups().iter().map(|backup| backup.id.clone());
        (complete.collect::<Vec<_>>(), catalog.unfinished().to_vec())
    };
    let prune = PruneRecord {
        version: 1,
        at: jiff::Timestamp::UNIX_EPOCH,
        by: "a prune".to_owned(),
        backups: vec![pruned.clone()],
        wal: Vec::new(),
        orphans: vec![archive.name(&ObjectKey::BackupPart(left.clone(), 1))],
    };
    archive
        .put_record(&ObjectKey::Pruned(1), &prune)
        .await
        .expect("stored");
    assert_eq!(listed().await, (ids.clone(), Vec::new()));
    for id in [pruned, left] {
        let files = ObjectKey::BackupFiles(id.clone());
        archive.delete(&files).await.expect("removed");
    }
    let complete = vec![whole.clone(), damaged.clone()];
    let gone = vec![pruned.clone(), left.clone()];
    assert_eq!(listed().await, (complete, gone));
}
