use std::sync::Arc;

use bytes::Bytes;
use walvault_archive::WalPut;
use walvault_archive::archive::wal_key;
use walvault_archive::format::{Codec, Kind};
use walvault_archive::keys::KeyFile;
use walvault_archive::store::MemoryStore;
use walvault_protocol::{SegmentSize, SystemId};

use super::*;

const MIB: u64 = 1 << 20;

async fn archive() -> Archive {
    let home = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&home.path().join("key")).unwrap();
    let size = SegmentSize::new(MIB).unwrap();
    Archive::open_or_begin(Arc::new(MemoryStore::new()), vec![key], SystemId(1), size)
        .await
        .unwrap()
}

async fn put(archive: &Archive, timeline: u32, start: u64, end: u64, whole: bool) {
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
            whole,
            sealed,
        })
        .await
        .unwrap();
}

fn watched(archive: &Archive) -> Watched {
    Watched::new(archive.clone(), Patience::default())
}

const NEEDED: LsnRange = LsnRange {
    start: Lsn(5 * MIB + 40),
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
        text.contains("only up to 0/600000") && text.contains("walvaultd run"),
        "{text}"
    );
}

#[tokio::test]
async fn the_first_segment_of_all_has_none_before_it() {
    let archive = archive().await;
    put(&archive, 1, 0, MIB, true).await;
    let needed = LsnRange::new(Lsn(40), Lsn(1000));
    watched(&archive)
        .secure(TimelineId::FIRST, needed)
        .await
        .unwrap();
}
