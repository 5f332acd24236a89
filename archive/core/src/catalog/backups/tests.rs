use std::sync::Arc;

use bytes::Bytes;
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::MemoryStore;

use super::*;
use crate::Catalog;
use crate::catalog::tests::backup;
use crate::keys::{KeyFile, Secret};

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
    let mut ids = Vec::new();
    for record in (1..=4).map(backup) {
        let key = ObjectKey::BackupRecord(record.id.clone());
        archive.put_record(&key, &record).await.expect("stored");
        ids.push(record.id);
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
