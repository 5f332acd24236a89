//! Names that hold nothing that opens.

use super::*;

/// The file below `name`, in which nothing opens.
async fn plant(archive: &Archive, name: &str) {
    let body = Body::new(Bytes::from_static(b"planted"));
    archive.store().put(name, body).await.expect("put");
}

const UNIT: &str = "wal/00000001/000000010000000000000003";

/// The name of the chunk that holds this run of the segment.
fn chunk(archive: &Archive, start: u64, end: u64) -> String {
    archive.name(&ObjectKey::Tail(
        tli(1),
        range(SEGMENT + start, SEGMENT + end),
    ))
}

#[tokio::test]
async fn a_planted_segment_takes_no_chunks_away() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT, SEGMENT + 9000, false).await;
    plant(&archive, UNIT).await;
    // The plan of the restore left the planted one out, and a standby streams on.
    for holes in [Holes::EndAt(Lsn(SEGMENT + 9000)), Holes::Streamed] {
        let fetched = fetched_over(&archive, NAME, holes).await.expect("fetched");
        assert!(fetched == Some(padded(9000)), "{holes:?}");
    }
    // Without a plan it may be the segment itself that was damaged.
    for holes in [Holes::EndAt(Lsn(SEGMENT + 9001)), Holes::Refused] {
        let error = fetched_over(&archive, NAME, holes)
            .await
            .expect_err("damage");
        assert!(error.to_string().contains(UNIT), "{error}");
    }
}

#[tokio::test]
async fn a_segment_that_is_damaged_and_in_no_chunk_is_not_absent() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT - MIB, SEGMENT, true).await;
    plant(&archive, UNIT).await;
    for holes in [Holes::Refused, Holes::Streamed] {
        let error = fetched_over(&archive, NAME, holes)
            .await
            .expect_err("damage");
        assert!(error.to_string().contains(UNIT), "{error}");
    }
    // The plan ended before it.
    let end = Holes::EndAt(Lsn(SEGMENT));
    assert_eq!(
        fetched_over(&archive, NAME, end).await.expect("asked"),
        None
    );
}

#[tokio::test]
async fn planted_chunks_hide_none_that_hold_the_same_wal() {
    let archive = archive(size()).await;
    for (start, end) in [(0, 4000), (4000, 9000), (9000, 12_345)] {
        put(&archive, 1, SEGMENT + start, SEGMENT + end, false).await;
    }
    for (start, end) in [(0, 9001), (0, 5000), (4000, 12_345), (9000, 12_000)] {
        plant(&archive, &chunk(&archive, start, end)).await;
    }
    assert_eq!(found(&archive, NAME).await, padded(12_345));
}

/// As much of it as opens is not left in the file behind what else is held.
#[tokio::test]
async fn what_was_read_of_a_damaged_segment_does_not_stay() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT, SEGMENT + 9000, false).await;
    put(&archive, 1, SEGMENT, SEGMENT + MIB, true).await;
    let sealed = archive.store().get(UNIT, None).await.expect("stored");
    let mut bytes = sealed.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    archive.store().delete(UNIT).await.expect("deleted");
    let body = Body::new(Bytes::from(bytes));
    archive.store().put(UNIT, body).await.expect("put");
    let end = Holes::EndAt(Lsn(SEGMENT + 9000));
    let fetched = fetched_over(&archive, NAME, end).await.expect("fetched");
    assert!(fetched == Some(padded(9000)));
}
