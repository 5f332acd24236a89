//! Archives in memory, filled by the code that fills real ones.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use walvault_archive::archive::WalPut;
use walvault_archive::format::Codec;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_archive::record::{BackupRecord, commit_index};
use walvault_archive::{Archive, WalCut, archive};
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::wal::WalMark;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, ServerVersion, SystemId, TimelineId};
use walvault_store::{MemoryStore, SharedStore};

use crate::plan::{PlannedBackup, Replay, RestorePlan, Stop};

/// The system whose archive it is.
pub(crate) const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);

/// A timeline.
pub(crate) fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).expect("not zero")
}

/// A range.
pub(crate) fn range(start: u64, end: u64) -> LsnRange {
    LsnRange::new(Lsn(start), Lsn(end))
}

/// A secret of its own for every archive.
pub(crate) fn key() -> KeyFile {
    KeyFile::from_secret(Secret::generate().expect("random bits"))
}

/// A new archive in `store`.
pub(crate) async fn archive_in(store: SharedStore, size: SegmentSize) -> Archive {
    Archive::open_or_begin(store, vec![key()], SYSTEM, size)
        .await
        .expect("an archive")
}

/// A new archive in memory.
pub(crate) async fn archive(size: SegmentSize) -> Archive {
    archive_in(Arc::new(MemoryStore::new()), size).await
}

/// Stores a run of WAL with its marks.
pub(crate) async fn put_wal(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
    whole: bool,
    bytes: &[u8],
    marks: &[WalMark],
) {
    let key = archive::wal_key(timeline, range, whole);
    let plain = vec![Bytes::copy_from_slice(bytes)];
    let sealer = archive.sealer(Codec::Lz4).await.expect("a key");
    let sealed = sealer
        .seal(
            archive::kind_of(&key),
            &archive.name(&key),
            &plain,
            &commit_index::encode(marks),
        )
        .expect("sealed");
    let put = WalPut {
        timeline,
        range,
        cut: if whole { WalCut::Unit } else { WalCut::Chunk },
        sealed,
    };
    archive.put_wal(&put).await.expect("stored");
}

/// Stores a timeline's history.
pub(crate) async fn put_history(archive: &Archive, timeline: TimelineId, text: &str) {
    let content = Bytes::copy_from_slice(text.as_bytes());
    archive
        .put_payload(&ObjectKey::History(timeline), content)
        .await
        .expect("stored");
}

/// A backup's record with nothing in it.
pub(crate) fn backup(
    random: u16,
    timeline: TimelineId,
    range: LsnRange,
    stopped_at: Timestamp,
) -> BackupRecord {
    BackupRecord {
        version: 1,
        id: BackupId::new(stopped_at, random),
        kind: "full".to_owned(),
        label: "test".to_owned(),
        system_id: SYSTEM,
        server_version: ServerVersion(150_000),
        timeline,
        start_lsn: range.start,
        stop_lsn: range.end,
        started_at: stopped_at,
        stopped_at,
        size: 0,
        stored_size: 0,
        file_count: 0,
        tablespaces: Vec::new(),
        part_count: 0,
        kept: false,
        warnings: Vec::new(),
    }
}

/// Stores a backup's record.
pub(crate) async fn put_backup(archive: &Archive, record: &BackupRecord) {
    let key = ObjectKey::BackupRecord(record.id.clone());
    archive.put_record(&key, record).await.expect("stored");
}

/// A plan that stops there, of a backup with nothing in it.
pub(crate) fn plan_to(stop: Stop) -> RestorePlan {
    let nowhere = LsnRange::new(Lsn(0), Lsn(0));
    let backup = backup(1, TimelineId::FIRST, nowhere, Timestamp::UNIX_EPOCH);
    RestorePlan {
        backup: PlannedBackup::from(&backup),
        target: String::new(),
        timeline: TimelineId::FIRST,
        timelines: Vec::new(),
        replay: Replay {
            from: Lsn(0),
            to: stop.lsn,
            bytes: stop.lsn.0,
            objects: 0,
            stored_bytes: 0,
        },
        stop,
        tablespaces: Vec::new(),
        databases: Vec::new(),
        settings: Vec::new(),
        changed: Vec::new(),
        warnings: Vec::new(),
    }
}
