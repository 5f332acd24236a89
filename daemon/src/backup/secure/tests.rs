use std::sync::Arc;

use bytes::Bytes;
use walvault_archive::archive::wal_key;
use walvault_archive::format::{Codec, Kind};
use walvault_archive::keys::KeyFile;
use walvault_archive::{WalCut, WalPut};
use walvault_layout::ObjectKey;
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::MemoryStore;

use super::*;

pub(in crate::backup) const MIB: u64 = 1 << 20;

pub(in crate::backup) async fn archive() -> Archive {
    let home = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&home.path().join("key")).unwrap();
    let size = SegmentSize::new(MIB).unwrap();
    Archive::open_or_begin(Arc::new(MemoryStore::new()), vec![key], SystemId(1), size)
        .await
        .unwrap()
}

pub(in crate::backup) async fn put(
    archive: &Archive,
    timeline: u32,
    start: u64,
    end: u64,
    whole: bool,
) {
    let timeline = TimelineId::new(timeline).unwrap();
    let range = LsnRange::new(Lsn(start), Lsn(end));
    let kind = if whole { Kind::Wal } else { Kind::Tail };
    let name = archive.name(&wal_key(timeline, range, whole));
    let plain = vec![Bytes::from_static(b"wal")];
    let sealed = archive
        .sealer(Codec::Lz4)
        .await
        .unwrap()
        .seal(kind, &name, &plain, b"")
        .unwrap();
    archive
        .put_wal(&WalPut {
            timeline,
            range,
            cut: if whole { WalCut::Unit } else { WalCut::Chunk },
            sealed,
        })
        .await
        .unwrap();
}

pub(in crate::backup) fn watched(archive: &Archive) -> Watched {
    Watched::new(archive.clone(), Patience::default())
}

pub(in crate::backup) const NEEDED: LsnRange = LsnRange {
    start: Lsn(5 * MIB),
    end: Lsn(7 * MIB + 300),
};

#[tokio::test(start_paused = true)]
async fn waits_until_segments_and_chunks_join() {
    let archive = archive().await;
    // On either side, and on another timeline: none of it counts.
    put(&archive, 1, 3 * MIB, 4 * MIB, true).await;
    put(&archive, 1, 8 * MIB, 9 * MIB, true).await;
    put(&archive, 2, 6 * MIB, 7 * MIB, true).await;
    let mut waiting = tokio::spawn({
        let mut watched = watched(&archive);
        async move { watched.secure(TimelineId::FIRST, NEEDED).await }
    });
    // Slower than the limit in all, but never standing still for so long.
    for (start, end, whole) in [
        (5 * MIB, 6 * MIB, true),
        (6 * MIB, 7 * MIB, true),
        (7 * MIB, 7 * MIB + 100, false),
        (7 * MIB + 100, 7 * MIB + 400, false),
    ] {
        tokio::time::timeout(Duration::from_secs(45), &mut waiting)
            .await
            .expect_err("waits");
        put(&archive, 1, start, end, whole).await;
    }
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn gives_up_when_the_archive_stands_still() {
    let archive = archive().await;
    put(&archive, 1, 5 * MIB, 6 * MIB, true).await;
    // Beyond a hole.
    put(&archive, 1, 7 * MIB, 8 * MIB, true).await;
    let before = Instant::now();
    let error = watched(&archive)
        .secure(TimelineId::FIRST, NEEDED)
        .await
        .unwrap_err();
    assert!(before.elapsed() >= Duration::from_secs(60));
    let text = error.to_string();
    assert!(
        text.contains("only up to 0/600000") && text.contains("pg_replication_slots"),
        "{text}"
    );
}

#[tokio::test]
async fn the_first_segment_of_all_has_none_before_it() {
    let archive = archive().await;
    put(&archive, 1, 0, MIB, true).await;
    let needed = LsnRange::new(Lsn(0), Lsn(1000));
    watched(&archive)
        .secure(TimelineId::FIRST, needed)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_beginning_of_the_first_segment() {
    let archive = archive().await;
    let (begin, middle, end) = (NEEDED.start.0, NEEDED.start.0 + 4000, 6 * MIB);
    put(&archive, 1, middle, end, false).await;
    put(&archive, 1, end, 7 * MIB, true).await;
    put(&archive, 1, 7 * MIB, 8 * MIB, true).await;
    let lacks = watched(&archive).secure(TimelineId::FIRST, NEEDED).await;
    let error = lacks.unwrap_err().to_string();
    assert!(error.contains("only up to 0/500000"), "{error}");
    put(&archive, 1, begin, middle, false).await;
    let held = watched(&archive).secure(TimelineId::FIRST, NEEDED).await;
    held.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_beginning_of_the_first_segment_may_be_an_ancestors() {
    let archive = archive().await;
    let fork = NEEDED.start.0 + 4000;
    let second = TimelineId::new(2).unwrap();
    put(&archive, 2, fork, 6 * MIB, false).await;
    put(&archive, 2, 6 * MIB, 7 * MIB, true).await;
    put(&archive, 2, 7 * MIB, 8 * MIB, true).await;
    // Written behind the fork: not on the way to timeline 2.
    put(&archive, 1, fork, fork + 9000, false).await;
    let history = format!("1\t{}\tfork\n", Lsn(fork));
    let key = ObjectKey::History(second);
    archive.put_payload(&key, history.into()).await.unwrap();
    let lacks = watched(&archive).secure(second, NEEDED).await;
    assert!(
        lacks
            .unwrap_err()
            .to_string()
            .contains("only up to 0/500000")
    );
    put(&archive, 1, NEEDED.start.0, fork, false).await;
    watched(&archive).secure(second, NEEDED).await.unwrap();
}
