use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use walvault_archive::archive::wal_key;
use walvault_archive::record::BackupFiles;
use walvault_protocol::{LsnRange, SegmentSize};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::{MemoryStore, ObjectStore, StoreError};

use super::*;
use crate::export::choose::Which;
use crate::target::TimelineChoice;
use crate::testing;

const MIB: u64 = 1 << 20;
const BEGIN: u64 = 3 * MIB;

/// A busy archive: whenever a chunk is read whole, it has just been merged into the next one.
#[derive(Debug)]
struct Busy {
    archive: Archive,
    chunks: Vec<LsnRange>,
}

#[async_trait]
impl Hooks for Busy {
    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        let name = |range: &LsnRange| self.archive.name(&wal_key(testing::tli(1), *range, false));
        let at = self.chunks.iter().position(|range| name(range) == key);
        let longer = at.and_then(|at| self.chunks.get(at + 1));
        if let Some(longer) = longer.filter(|_| range.is_none()) {
            put(&self.archive, *longer).await;
            store.delete(key).await?;
        }
        store.get(key, range).await
    }
}

/// Stores a chunk that no codec makes smaller.
async fn put(archive: &Archive, range: LsnRange) {
    let mut state = 1_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let wal: Vec<u8> = (0..range.len()).map(next).collect();
    testing::put_wal(archive, testing::tli(1), range, false, &wal, &[]).await;
}

#[tokio::test]
async fn an_export_of_a_busy_archive_follows_chunks_that_are_merged() {
    let memory = Arc::new(MemoryStore::new());
    let size = SegmentSize::new(MIB).expect("a size");
    let inner = testing::archive_in(memory.clone(), size).await;
    let chunks: Vec<LsnRange> = (2..14)
        .map(|tens| testing::range(BEGIN, BEGIN + 10_000 * tens))
        .collect();
    put(&inner, chunks[0]).await;
    let range = testing::range(BEGIN + 0x28, BEGIN + 10_000);
    let record = testing::backup(1, testing::tli(1), range, jiff::Timestamp::now());
    let files = BackupFiles {
        version: 1,
        parts: Vec::new(),
        files: Vec::new(),
    };
    let key = ObjectKey::BackupFiles(record.id.clone());
    inner.put_record(&key, &files).await.expect("stored");
    testing::put_backup(&inner, &record).await;

    let last = *chunks.last().expect("one");
    let archive = inner.clone();
    let busy = Hooked::over(memory, Busy { archive, chunks });
    let archive = inner.at(Arc::new(busy));
    let dir = tempfile::tempdir().expect("a directory");
    let choice = Choice {
        which: Which::Latest,
        until: None,
        timeline: TimelineChoice::Latest,
        words: "latest".to_owned(),
    };
    let export = Export {
        archive: &archive,
        dir: dir.path(),
        choice: &choice,
        volume_size: None,
        signer: None,
        open: true,
    };
    let report = export.run(&|_| {}).await.expect("exported");
    assert_eq!(report.withheld, 0);
    let name = archive.name(&wal_key(testing::tli(1), last, false));
    let path = dir.path().join(name);
    assert!(path.is_file());
    let folder = fs::read_dir(path.parent().expect("a folder")).expect("read");
    assert_eq!(folder.count(), 1, "what was merged is left out");
}
