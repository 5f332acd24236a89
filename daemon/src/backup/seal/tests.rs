use std::collections::VecDeque;
use std::time::Duration;

use walvault_archive::format::Codec;
use walvault_archive::keys::KeyFile;
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::MemoryStore;

use super::*;

const PART: u64 = 64 << 10;

async fn archive() -> Archive {
    let home = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&home.path().join("key")).unwrap();
    Archive::open_or_begin(
        Arc::new(MemoryStore::new()),
        vec![key],
        SystemId(1),
        SegmentSize::DEFAULT,
    )
    .await
    .unwrap()
}

/// Feeds parts of `content` to a store that takes one only when `wait_for` of them wait and no more
/// come. Returns how many parts waited at most, and what they held at most.
async fn slow_store(parts: u32, content: Vec<u8>, wait_for: usize) -> (usize, usize) {
    let archive = archive().await;
    let id = BackupId::new(jiff::Timestamp::now(), 1);
    let sealer = archive.sealer(Codec::Lz4).await.unwrap();
    let (mut feed, mut sealed, mut threads) = start(&archive, &id, sealer, PART);
    let feeding = tokio::task::spawn_blocking(move || {
        for part in 0..parts {
            for bytes in content.chunks(1000) {
                feed.write(part, bytes).unwrap();
            }
        }
        feed.finish().unwrap();
    });
    let mut waiting: VecDeque<SealedPart> = VecDeque::new();
    let (mut most, mut largest, mut numbers) = (0, 0, Vec::new());
    loop {
        match tokio::time::timeout(Duration::from_millis(100), sealed.recv()).await {
            Ok(Some(part)) => {
                numbers.push(part.number);
                waiting.push_back(part);
                most = most.max(waiting.len());
                largest = largest.max(
                    waiting
                        .iter()
                        .map(|part| part.object.body.bytes.len())
                        .sum(),
                );
            }
            Ok(None) => break,
            Err(_) if waiting.len() >= wait_for => drop(waiting.pop_front()),
            Err(_) => {}
        }
    }
    feeding.await.unwrap();
    while let Some(ended) = threads.join_next().await {
        ended.unwrap();
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=parts).collect::<Vec<_>>());
    (most, largest)
}

fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..PART).map(next).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_makes_the_server_wait() {
    let (most, largest) = slow_store(9, noise(), 3).await;
    assert_eq!(most, 3);
    // Headers and tags come on top of what does not compress.
    assert!(
        largest as u64 <= PARTS_IN_MEMORY * (PART + 1024),
        "{largest}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compression_saves_makes_room_for_more_parts() {
    let (most, largest) = slow_store(30, vec![7; PART as usize], 4).await;
    assert!(most >= 4, "{most}");
    assert!(largest as u64 <= PARTS_IN_MEMORY * PART, "{largest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_ends_when_nobody_stores() {
    let archive = archive().await;
    let id = BackupId::new(jiff::Timestamp::now(), 1);
    let sealer = archive.sealer(Codec::Lz4).await.unwrap();
    let (mut feed, sealed, mut threads) = start(&archive, &id, sealer, PART);
    drop(sealed);
    let feeding = tokio::task::spawn_blocking(move || {
        let noise = noise();
        (0..100)
            .find_map(|part| feed.write(part, &noise).err())
            .map(|error| error.kind())
    });
    assert_eq!(feeding.await.unwrap(), Some(io::ErrorKind::BrokenPipe));
    while let Some(ended) = threads.join_next().await {
        ended.unwrap();
    }
}
