//! WAL that is gone from between other WAL.

use walvault_archive::record::{GapRecord, PruneRecord, PrunedWal};

use super::*;

async fn assert_hole(archive: &Archive) {
    let hole = fetched(archive, NAME).await.expect_err("a hole");
    assert!(
        matches!(&hole, WalFetchError::Hole { segment, missing, behind }
            if segment == NAME && missing.0 == SEGMENT && behind.0 == SEGMENT + MIB),
        "{hole}"
    );
}

#[tokio::test]
async fn a_segment_that_is_gone_from_between_others_is_not_the_end() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT - MIB, SEGMENT, true).await;
    assert_absent(&archive, NAME).await;
    put(&archive, 1, SEGMENT + MIB, SEGMENT + MIB + 1000, false).await;
    assert_hole(&archive).await;
    for outside in [
        "000000010000000000000001",
        "000000010000000000000005",
        "000000020000000000000003",
    ] {
        assert_absent(&archive, outside).await;
    }
    // Where its cause is recorded, recovery is planned to end.
    put_gap(&archive, range(SEGMENT, SEGMENT + MIB)).await;
    assert_absent(&archive, NAME).await;
}

/// Records a gap on timeline 1.
async fn put_gap(archive: &Archive, range: LsnRange) {
    let gap = GapRecord {
        version: 1,
        timeline: tli(1),
        range,
        cause: "removed by the server".to_owned(),
        noticed_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let key = ObjectKey::Gap(gap.timeline, gap.range);
    archive.put_record(&key, &gap).await.expect("stored");
}

#[tokio::test]
async fn a_planted_name_behind_the_end_does_not_stop_recovery() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT - MIB, SEGMENT, true).await;
    let body = Body::new(Bytes::from_static(b"planted"));
    let planted = "wal/00000001/0000000100000000000000F0";
    archive.store().put(planted, body).await.expect("put");
    assert_absent(&archive, NAME).await;
}

#[tokio::test]
async fn what_a_prune_removed_on_the_way_is_not_the_end() {
    let pruned = PruneRecord {
        version: 1,
        at: jiff::Timestamp::UNIX_EPOCH,
        by: "a test".to_owned(),
        backups: Vec::new(),
        wal: vec![PrunedWal {
            timeline: tli(1),
            range: range(MIB, SEGMENT + MIB),
        }],
        orphans: Vec::new(),
    };
    let record = ObjectKey::Pruned(1);
    // The WAL before it went as well.
    let passed = archive(size()).await;
    passed.put_record(&record, &pruned).await.expect("stored");
    put(&passed, 1, SEGMENT + MIB, SEGMENT + MIB + 1000, false).await;
    assert_hole(&passed).await;
    // A backup was left with its own WAL: it is restored up to there.
    let kept = archive(size()).await;
    kept.put_record(&record, &pruned).await.expect("stored");
    put(&kept, 1, SEGMENT - MIB, SEGMENT, true).await;
    put(&kept, 1, SEGMENT + MIB, SEGMENT + MIB + 1000, false).await;
    assert_absent(&kept, NAME).await;
}

#[tokio::test]
async fn the_end_of_a_segment_that_is_gone_is_a_hole_where_more_follows() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT, SEGMENT + 5000, false).await;
    assert_eq!(found(&archive, NAME).await, padded(5000));
    put(&archive, 1, SEGMENT + MIB, SEGMENT + MIB + 1000, false).await;
    let error = fetched(&archive, NAME).await.expect_err("a hole");
    assert!(
        matches!(&error, WalFetchError::Hole { missing, behind, .. }
            if missing.0 == SEGMENT + 5000 && behind.0 == SEGMENT + MIB),
        "{error}"
    );
    // Where its cause is recorded, recovery is planned to end.
    put_gap(&archive, range(SEGMENT + 5000, SEGMENT + MIB)).await;
    assert_eq!(found(&archive, NAME).await, padded(5000));
}

/// The second of two histories of one segment: its own first WAL is not archived yet, and what the
/// first wrote behind the switch must not be replayed in its place.
#[tokio::test]
async fn a_timeline_without_wal_yet_ends_at_its_switch_point() {
    for fork in [SEGMENT + 0x4000, SEGMENT] {
        let archive = archive(size()).await;
        put(&archive, 1, SEGMENT - MIB, SEGMENT, true).await;
        put(&archive, 1, SEGMENT, SEGMENT + MIB, true).await;
        let history = format!("1\t{}\tforked\n", Lsn(fork));
        put_history(&archive, tli(2), &history).await;
        let second = found(&archive, "000000020000000000000003").await;
        assert!(second == padded(fork - SEGMENT), "{}", Lsn(fork));
        assert_eq!(found(&archive, NAME).await, padded(MIB));
        assert_absent(&archive, "000000020000000000000004").await;
    }
}

/// No timeline alone has WAL on both sides of such a hole.
#[tokio::test]
async fn a_hole_at_a_switch_point_is_a_hole() {
    let fork = SEGMENT + 0x4000;
    for (first_ends, second_begins) in [(fork - 500, fork), (fork, fork + 500)] {
        let archive = archive(size()).await;
        let history = format!("1\t{}\tforked\n", Lsn(fork));
        put_history(&archive, tli(2), &history).await;
        put(&archive, 1, SEGMENT, first_ends, false).await;
        put(&archive, 2, second_begins, fork + 1000, false).await;
        let error = fetched(&archive, "000000020000000000000003").await;
        assert!(
            matches!(&error, Err(WalFetchError::Hole { missing, behind, .. })
                if missing.0 == first_ends && behind.0 == second_begins),
            "{error:?}"
        );
    }
}
