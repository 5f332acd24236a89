use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use walvault_archive::archive::wal_key;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_protocol::{Lsn, LsnRange, SegmentSize, SystemId, TimelineId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{MemoryStore, ObjectStore, list_all};

use super::*;

const SEGMENT: u64 = 16 << 20;

async fn archive(store: &Arc<MemoryStore>) -> Archive {
    let key = KeyFile::from_secret(Secret::generate().expect("random bits"));
    Archive::open_or_begin(store.clone(), vec![key], SystemId(1), SegmentSize::DEFAULT)
        .await
        .expect("an archive")
}

async fn put(archive: &Archive, key: ObjectKey) {
    let payload = Bytes::from_static(b"payload");
    archive.put_payload(&key, payload).await.expect("stored");
}

fn id(day: i8) -> BackupId {
    let begun = jiff::civil::date(2026, 1, day).at(0, 0, 0, 0);
    let begun = begun.to_zoned(jiff::tz::TimeZone::UTC).expect("a time");
    BackupId::new(begun.timestamp(), 7)
}

fn segment(number: u64) -> LsnRange {
    LsnRange::new(Lsn(number * SEGMENT), Lsn((number + 1) * SEGMENT))
}

/// Two backups, two segments, a chunk that one of them replaced and one that none did.
async fn filled(store: &Arc<MemoryStore>) -> Archive {
    let archive = archive(store).await;
    let first = TimelineId::FIRST;
    for number in [3, 4] {
        put(&archive, wal_key(first, segment(number), true)).await;
    }
    for start in [4 * SEGMENT, 5 * SEGMENT] {
        let chunk = LsnRange::new(Lsn(start), Lsn(start + 100));
        put(&archive, wal_key(first, chunk, false)).await;
    }
    for day in [1, 2] {
        put(&archive, ObjectKey::BackupPart(id(day), 1)).await;
        put(&archive, ObjectKey::BackupPart(id(day), 2)).await;
        put(&archive, ObjectKey::BackupFiles(id(day))).await;
        put(&archive, ObjectKey::BackupRecord(id(day))).await;
    }
    // One that is being taken.
    put(&archive, ObjectKey::BackupPart(id(3), 1)).await;
    archive
}

async fn run(from: &Archive, to: &Arc<MemoryStore>) -> Result<CopyReport, CopyError> {
    let to: SharedStore = to.clone();
    copy(from, &to, &|_| {}).await
}

#[tokio::test]
async fn a_copy_is_the_same_bytes_and_the_next_run_copies_nothing() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let archive = filled(&from).await;
    let report = run(&archive, &to).await.expect("copied");
    assert!(report.damaged.is_empty());
    let copied = list_all(&*to, "").await.expect("listed");
    assert_eq!(copied.len() as u64, report.objects + 1, "and archive.json");
    for object in &copied {
        let (ours, theirs) = (from.get(&object.key, None), to.get(&object.key, None));
        assert_eq!(ours.await.expect("read"), theirs.await.expect("read"));
    }
    let lacks: Vec<String> = list_all(&*from, "")
        .await
        .expect("listed")
        .into_iter()
        .map(|object| object.key)
        .filter(|key| !copied.iter().any(|object| object.key == *key))
        .collect();
    let chunk = LsnRange::new(Lsn(4 * SEGMENT), Lsn(4 * SEGMENT + 100));
    let expected = [
        archive.name(&ObjectKey::BackupPart(id(3), 1)),
        archive.name(&wal_key(TimelineId::FIRST, chunk, false)),
    ];
    assert_eq!(lacks, expected);
    let again = run(&archive, &to).await.expect("copied");
    assert_eq!((again.objects, again.present), (0, report.objects));
}

#[tokio::test]
async fn what_is_damaged_is_left_out_with_the_backup_it_belongs_to() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let archive = filled(&from).await;
    let part = archive.name(&ObjectKey::BackupPart(id(1), 2));
    let swapped = archive.name(&ObjectKey::BackupFiles(id(2)));
    let wal = archive.name(&wal_key(TimelineId::FIRST, segment(3), true));
    let mut bytes = from.get(&part, None).await.expect("read").to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let other = from.get(&wal, None).await.expect("read");
    for (name, bytes) in [(&part, bytes.into()), (&swapped, other)] {
        from.delete(name).await.expect("removed");
        from.put(name, Body::new(bytes)).await.expect("put");
    }
    let report = run(&archive, &to).await.expect("copied");
    let damaged: Vec<&String> = report.damaged.iter().map(|damaged| &damaged.key).collect();
    assert_eq!(damaged, [&part, &swapped]);
    for day in [1, 2] {
        let record = archive.name(&ObjectKey::BackupRecord(id(day)));
        assert!(to.get(&record, None).await.is_err(), "it would lie");
    }
    assert!(to.get(&wal, None).await.is_ok());
}

#[tokio::test]
async fn another_archive_is_not_written_to() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let ours = filled(&from).await;
    let _ = archive(&to).await;
    let before = list_all(&*to, "").await.expect("listed");
    let refused = run(&ours, &to).await.expect_err("another archive");
    assert!(
        matches!(refused, CopyError::OtherArchive { .. }),
        "{refused}"
    );
    assert_eq!(list_all(&*to, "").await.expect("listed"), before);
}

#[tokio::test]
async fn what_was_pruned_does_not_come_back() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let archive = filled(&from).await;
    let record = PruneRecord {
        version: 1,
        at: jiff::Timestamp::now(),
        by: "test".to_owned(),
        backups: vec![id(1)],
        wal: Vec::new(),
        orphans: Vec::new(),
    };
    let target: SharedStore = to.clone();
    let _ = run(&archive, &to).await.expect("copied");
    let pruned = archive.at(target);
    for object in list_all(&*to, &walvault_layout::backup_prefix(&id(1)))
        .await
        .expect("listed")
    {
        to.delete(&object.key).await.expect("removed");
    }
    pruned
        .put_record(&ObjectKey::Pruned(1), &record)
        .await
        .expect("stored");
    let report = run(&archive, &to).await.expect("copied");
    assert_eq!((report.objects, report.pruned), (0, 4), "{report:?}");
}

#[tokio::test]
async fn a_chunk_stays_behind_only_for_a_segment_that_the_copy_holds() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let archive = filled(&from).await;
    // In the copy it is only a name, and the one that is copied is damaged.
    let unit = archive.name(&wal_key(TimelineId::FIRST, segment(4), true));
    from.delete(&unit).await.expect("removed");
    for store in [&from, &to] {
        let planted = Body::new(Bytes::from_static(b"planted"));
        store.put(&unit, planted).await.expect("put");
    }
    let _ = run(&archive, &to).await.expect("copied");
    let chunk = LsnRange::new(Lsn(4 * SEGMENT), Lsn(4 * SEGMENT + 100));
    let chunk = archive.name(&wal_key(TimelineId::FIRST, chunk, false));
    assert!(to.get(&chunk, None).await.is_ok());
}

/// A busy archive: whenever a chunk is read, it has just been merged into a longer one.
#[derive(Debug)]
struct Busy {
    archive: Archive,
    /// The chunks that take the place of one another.
    chunks: Vec<LsnRange>,
}

#[async_trait]
impl Hooks for Busy {
    async fn asked(
        &self,
        store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        if operation != Operation::Get {
            return Ok(());
        }
        let archive = &self.archive;
        let key_of = |range: &LsnRange| wal_key(TimelineId::FIRST, *range, false);
        let at = self
            .chunks
            .iter()
            .position(|range| archive.name(&key_of(range)) == key);
        if let Some(longer) = at.and_then(|at| self.chunks.get(at + 1)) {
            put(archive, key_of(longer)).await;
            store.delete(key).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn chunks_that_are_merged_while_they_are_copied_are_followed() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let inner = archive(&from).await;
    let chunks: Vec<LsnRange> = (1..6)
        .map(|length| LsnRange::new(Lsn(4 * SEGMENT), Lsn(4 * SEGMENT + 100 * length)))
        .collect();
    put(&inner, wal_key(TimelineId::FIRST, chunks[0], false)).await;
    let last = inner.name(&wal_key(TimelineId::FIRST, chunks[4], false));
    let busy = Busy {
        archive: inner.clone(),
        chunks,
    };
    let archive = inner.at(Arc::new(Hooked::over(from.clone(), busy)));
    let report = run(&archive, &to).await.expect("copied");
    assert!(to.get(&last, None).await.is_ok(), "{report:?}");
    let tail = list_all(&*to, "tail/").await.expect("listed");
    assert_eq!(tail.len(), 1);
}
