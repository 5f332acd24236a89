use walvault_protocol::segment::SegmentNumber;
use walvault_protocol::{ServerVersion, SystemId};

use super::*;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).expect("not zero")
}

fn listed(key: ObjectKey) -> Listed {
    Listed {
        key,
        size: 100,
        modified: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn segment(timeline: u32, number: u64) -> Listed {
    let range = SegmentNumber(number).range(SIZE);
    listed(ObjectKey::Wal(WalObject {
        timeline: tli(timeline),
        range,
    }))
}

fn chunk(timeline: u32, start: u64, end: u64) -> Listed {
    listed(ObjectKey::Tail(
        tli(timeline),
        LsnRange::new(Lsn(start), Lsn(end)),
    ))
}

fn catalog(listing: &[Listed], histories: &[(u32, &str)]) -> Catalog {
    let mut catalog = Catalog::from_listing(SIZE, listing);
    for (timeline, text) in histories {
        let history = TimelineHistory::parse(tli(*timeline), text.as_bytes()).expect("a history");
        catalog.histories.insert(tli(*timeline), history);
    }
    catalog
}

#[test]
fn replay_reaches_the_first_hole() {
    let catalog = catalog(
        &[
            segment(1, 3),
            segment(1, 4),
            chunk(1, 0x500_0000, 0x500_0100),
            segment(1, 6),
        ],
        &[],
    );
    let history = catalog.history(tli(1));
    assert_eq!(catalog.reach(&history, Lsn(0x300_0028)), Lsn(0x500_0100));
    assert_eq!(catalog.reach(&history, Lsn(0x600_0000)), Lsn(0x700_0000));
    assert_eq!(catalog.reach(&history, Lsn(0x200_0000)), Lsn(0x200_0000));
}

/// The record of a backup with these random digits in its id.
pub(super) fn backup(random: u16) -> BackupRecord {
    BackupRecord {
        version: 1,
        id: BackupId::new(jiff::Timestamp::UNIX_EPOCH, random),
        kind: "full".to_owned(),
        label: String::new(),
        system_id: SystemId(1),
        server_version: ServerVersion(150_000),
        timeline: tli(1),
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
        warnings: Vec::new(),
    }
}

#[test]
fn replay_begins_at_the_beginning_of_a_segment() {
    let record = |timeline, start, end| BackupRecord {
        timeline: tli(timeline),
        start_lsn: Lsn(start),
        stop_lsn: Lsn(end),
        ..backup(1)
    };
    let fork = [(2, "1\t0/4400000\tfork\n")];
    // Timeline 2 is held from its first byte on; what is before that is timeline 1's, if anyone's.
    let second = chunk(2, 0x440_0000, 0x490_0000);
    let lacking = catalog(&[segment(1, 2), second.clone()], &fork);
    let held = catalog(&[chunk(1, 0x400_0000, 0x480_0000), second], &fork);
    for (start, end) in [(0x440_0028, 0x480_0000), (0x480_0028, 0x490_0000)] {
        let backup = record(2, start, end);
        let reach = |catalog: &Catalog| catalog.reach_from(&catalog.history(tli(2)), &backup);
        assert_eq!(reach(&lacking), Lsn(0x400_0000));
        assert_eq!(reach(&held), Lsn(0x490_0000));
    }
    // What timeline 1 went on to write is no beginning of timeline 2's.
    let abandoned = record(1, 0x440_0028, 0x480_0000);
    let without_its_beginning = catalog(&[chunk(1, 0x440_0000, 0x480_0000)], &[]);
    let history = without_its_beginning.history(tli(1));
    assert!(without_its_beginning.reach_from(&history, &abandoned) < abandoned.start_lsn);
}

#[test]
fn replay_crosses_to_the_timeline_that_forked() {
    // Timeline 2 forked in the middle of segment 4; its own copy of segment 4 is whole, timeline
    // 1's was only ever a tail, and timeline 1 went on past the fork.
    let listing = [
        segment(1, 3),
        chunk(1, 0x400_0000, 0x480_0000),
        segment(2, 4),
        chunk(2, 0x500_0000, 0x500_0200),
    ];
    let catalog = catalog(&listing, &[(2, "1\t0/4400000\tfork\n")]);
    assert_eq!(
        catalog.reach(&catalog.history(tli(2)), Lsn(0x300_0000)),
        Lsn(0x500_0200)
    );
    // The abandoned branch is still there.
    assert_eq!(
        catalog.reach(&catalog.history(tli(1)), Lsn(0x300_0000)),
        Lsn(0x480_0000)
    );
    let path = catalog.path_objects(tli(2), Lsn(0x300_0000), Lsn(0x500_0200));
    let timelines: Vec<u32> = path.iter().map(|(timeline, _)| timeline.get()).collect();
    assert_eq!(timelines, [1, 1, 2, 2]);
}

#[test]
fn a_descendants_copy_fills_in_below_the_switch() {
    let catalog = catalog(
        &[segment(1, 3), segment(2, 4)],
        &[(2, "1\t0/4400000\tfork\n")],
    );
    assert_eq!(
        catalog.reach(&catalog.history(tli(2)), Lsn(0x300_0000)),
        Lsn(0x500_0000)
    );
}

#[test]
fn whole_units_are_preferred_to_chunks() {
    let listing = [
        chunk(1, 0x300_0000, 0x300_0100),
        chunk(1, 0x300_0100, 0x400_0000),
        segment(1, 3),
    ];
    let catalog = catalog(&listing, &[]);
    let path = catalog.path_objects(tli(1), Lsn(0x300_0028), Lsn(0x400_0000));
    assert_eq!(path.len(), 1);
    assert!(path[0].1.whole);
}

#[tokio::test]
async fn what_does_not_open_is_left_out() -> Result<(), crate::Error> {
    use walvault_store::{Body, ObjectStore as _, memory::MemoryStore};
    let key = crate::keys::KeyFile::from_secret(crate::keys::Secret::generate()?);
    let store = std::sync::Arc::new(MemoryStore::new());
    let archive = crate::Archive::open_or_begin(
        store.clone(),
        vec![key],
        walvault_protocol::SystemId(1),
        walvault_protocol::SegmentSize::DEFAULT,
    )
    .await?;
    for planted in [
        "backups/20990101T000000Z-ffff/record",
        "gaps/00000001/0000000000000100-0000000000000200",
        "wal/000000FF.history",
        "wal/00000001/00000001FFFFFFFF000000FF",
        "pruned/00000001",
    ] {
        let junk = Body::new(bytes::Bytes::from_static(b"junk"));
        store.put(planted, junk).await?;
    }
    let catalog = crate::Catalog::load(&archive).await?;
    assert!(catalog.backups().is_empty() && catalog.histories().is_empty());
    assert!(catalog.windows(&archive).await?.is_empty());
    assert_eq!(
        crate::Catalog::load_wal(&archive).await?.latest_timeline(),
        None
    );
    let seen = crate::catalog::Seen::look(&archive, walvault_protocol::TimelineId::FIRST).await?;
    assert!(seen.backups.is_empty() && seen.gaps.is_empty());
    assert!(
        crate::Catalog::load_whole(&archive).await.is_err(),
        "a prune is strict"
    );
    Ok(())
}

#[tokio::test]
async fn a_timeline_of_which_wal_opens_exists_without_its_history() -> Result<(), crate::Error> {
    use walvault_store::{Body, ObjectStore as _, memory::MemoryStore};
    let key = crate::keys::KeyFile::from_secret(crate::keys::Secret::generate()?);
    let store = std::sync::Arc::new(MemoryStore::new());
    let archive =
        crate::Archive::open_or_begin(store.clone(), vec![key], SystemId(1), SIZE).await?;
    for timeline in [1, 2] {
        let range = SegmentNumber(3).range(SIZE);
        let key = crate::archive::wal_key(tli(timeline), range, true);
        let payload = bytes::Bytes::from_static(b"wal");
        archive.put_payload(&key, payload).await?;
    }
    for planted in [
        "wal/00000002.history",
        "wal/00000003/000000030000000000000003",
        "wal/00000004.history",
    ] {
        let junk = Body::new(bytes::Bytes::from_static(b"junk"));
        store.put(planted, junk).await?;
    }
    for catalog in [
        crate::Catalog::load(&archive).await?,
        crate::Catalog::load_wal(&archive).await?,
    ] {
        assert_eq!(catalog.latest_timeline(), Some(tli(2)));
        assert_eq!(catalog.unread_histories(), &BTreeSet::from([tli(2)]));
        let named: Vec<_> = catalog.timelines_without_history().collect();
        assert_eq!(named, [tli(3)]);
    }
    store.delete("wal/00000002.history").await?;
    let catalog = crate::Catalog::load(&archive).await?;
    assert_eq!(
        catalog.latest_timeline(),
        Some(tli(2)),
        "its history is gone"
    );
    Ok(())
}

#[tokio::test]
async fn the_record_of_a_gap_that_does_not_open_tells_of_none() -> Result<(), crate::Error> {
    use walvault_store::{Body, ObjectStore as _, memory::MemoryStore};
    let key = crate::keys::KeyFile::from_secret(crate::keys::Secret::generate()?);
    let store = std::sync::Arc::new(MemoryStore::new());
    let archive =
        crate::Archive::open_or_begin(store.clone(), vec![key], SystemId(1), SIZE).await?;
    let range = LsnRange::new(Lsn(0x400_0000), Lsn(0x800_0000));
    let gap = GapRecord {
        version: 1,
        timeline: tli(1),
        range,
        cause: "lost".to_owned(),
        noticed_at: jiff::Timestamp::UNIX_EPOCH,
    };
    archive
        .put_record(&ObjectKey::Gap(tli(1), range), &gap)
        .await?;
    let planted = "gaps/00000001/0000000009000000-000000000A000000";
    let junk = Body::new(bytes::Bytes::from_static(b"junk"));
    store.put(planted, junk).await?;
    let catalog = crate::Catalog::load_wal(&archive).await?;
    let at = |lsn| catalog.gap_at(tli(1), Lsn(lsn), Lsn(u64::MAX));
    assert_eq!(at(0x400_0000), Some(range.end));
    assert_eq!(at(0x900_0000), None);
    Ok(())
}
