use proptest::prelude::*;

use super::*;

fn sizes() -> impl Strategy<Value = SegmentSize> {
    (20u32..=30).prop_map(|shift| SegmentSize::new(1 << shift).expect("a valid size"))
}

fn timelines() -> impl Strategy<Value = TimelineId> {
    (1u32..).prop_map(|id| TimelineId::new(id).expect("not zero"))
}

/// Any position of which there is WAL, with those at both ends.
fn lsns() -> impl Strategy<Value = u64> {
    let last = WAL_END.0 - 1;
    prop_oneof![
        0..=last,
        Just(0),
        Just(last),
        (0..1u64 << 31).prop_map(move |back| last - back)
    ]
}

fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![1..=u64::MAX, 1..1u64 << 20]
}

proptest! {
    #[test]
    fn every_key_round_trips(
        size in sizes(),
        timeline in timelines(),
        lsn in lsns(),
        length in lengths(),
        id: [u8; 16],
        number in 0..100_000_000_u32,
        epoch in 0..10_000_000_000_000_000_u64,
        random: u16,
    ) {
        let lsn = Lsn(lsn);
        let range = LsnRange::new(lsn, lsn.checked_add(length).unwrap_or(WAL_END).min(WAL_END));
        let chunk = LsnRange::new(lsn, range.end.min(lsn + MAX_WAL_OBJECT));
        let backup = BackupId::new(jiff::Timestamp::UNIX_EPOCH, random);
        let drill = DrillId::new(jiff::Timestamp::UNIX_EPOCH, "key-loss", number % 2 == 0, random);
        let drill = drill.expect("a name");
        for key in [
            ObjectKey::Archive,
            ObjectKey::Key(KeyId(id), number),
            ObjectKey::Writer(epoch),
            ObjectKey::Wal(WalObject { timeline, range: unit_containing(lsn, size) }),
            ObjectKey::History(timeline),
            ObjectKey::Tail(timeline, chunk),
            ObjectKey::Gap(timeline, range),
            ObjectKey::BackupPart(backup.clone(), number),
            ObjectKey::BackupManifest(backup.clone()),
            ObjectKey::BackupFiles(backup.clone()),
            ObjectKey::BackupRecord(backup.clone()),
            ObjectKey::Keep(backup.clone(), number),
            ObjectKey::Lock(number),
            ObjectKey::Lease(backup, epoch, number),
            ObjectKey::Pruned(number),
            ObjectKey::Verified(number),
            ObjectKey::Audit(AuditWriter(id), number),
            ObjectKey::Drill(drill.clone()),
        ] {
            prop_assert_eq!(ObjectKey::parse(&key.spell(size), size), Some(key));
        }
    }

    /// Whatever the numbers are, a name means what it was spelled for, or nothing.
    #[test]
    fn a_name_out_of_bounds_is_none(
        size in sizes(),
        timeline in timelines(),
        start: u64,
        end: u64,
        id: [u8; 16],
        number: u32,
        epoch: u64,
    ) {
        let range = LsnRange { start: Lsn(start.min(end)), end: Lsn(start.max(end)) };
        let backup = BackupId::new(jiff::Timestamp::UNIX_EPOCH, 0);
        let (fits, few) = (
            !range.is_empty() && range.end <= WAL_END,
            number < 100_000_000,
        );
        let unit = unit_containing(range.start, size);
        let is_chunk = fits && range.len() <= MAX_WAL_OBJECT;
        for (key, is_name) in [
            (ObjectKey::Wal(WalObject { timeline, range: unit }), unit.end <= WAL_END),
            (ObjectKey::Tail(timeline, range), is_chunk),
            (ObjectKey::Gap(timeline, range), fits),
            (ObjectKey::Key(KeyId(id), number), few),
            (ObjectKey::Writer(epoch), epoch < 10_000_000_000_000_000),
            (ObjectKey::BackupPart(backup.clone(), number), few),
            (ObjectKey::Keep(backup.clone(), number), few),
            (ObjectKey::Lease(backup, 1, number), few),
            (ObjectKey::Lock(number), few),
            (ObjectKey::Pruned(number), few),
            (ObjectKey::Verified(number), few),
            (ObjectKey::Audit(AuditWriter(id), number), few),
        ] {
            let expected = is_name.then(|| key.clone());
            prop_assert_eq!(ObjectKey::parse(&key.spell(size), size), expected);
        }
    }

    #[test]
    fn digits_where_names_have_them_never_panic(
        size in sizes(),
        timeline in "[0-9A-F]{8}",
        segment in "[0-9A-F]{24}",
        start in "[0-9A-F]{16}",
        end in "[F]{10}[0-9A-F]{6}",
        number in "[0-9]{1,20}",
    ) {
        for name in [
            format!("wal/{timeline}/{segment}"),
            format!("wal/{timeline}/{timeline}FFFFFFFF{}", &segment[..8]),
            format!("wal/{timeline}/{segment}.{start}-{end}"),
            format!("wal/{timeline}.history"),
            format!("tail/{timeline}/{segment}/{end}-{}", &start[..8]),
            format!("gaps/{timeline}/{start}-{end}"),
            format!("writers/{number}"),
            format!("pruned/{number}"),
            format!("verified/{number}"),
            format!("locks/upkeep/{number}"),
            format!("keys/000102030405060708090a0b0c0d0e0f/{number}"),
            format!("audit/000102030405060708090a0b0c0d0e0f/{number}"),
            format!("backups/20261121T063000Z-9f3c/keep/{number}"),
            format!("backups/20261121T063000Z-9f3c/part-{number}"),
        ] {
            if let Some(key) = ObjectKey::parse(&name, size) {
                prop_assert_eq!(key.spell(size), name);
            }
        }
    }

    #[test]
    fn parse_accepts_only_what_spell_writes(text in "[a-z0-9A-F/.\\-]{0,80}", size in sizes()) {
        if let Some(key) = ObjectKey::parse(&text, size) {
            prop_assert_eq!(key.spell(size), text);
        }
    }
}

#[test]
fn keys_look_as_documented() {
    let size = SegmentSize::DEFAULT;
    let range = LsnRange::new(Lsn(0x0300_0028), Lsn(0x0300_1000));
    let spelled = |key: ObjectKey| key.spell(size);
    assert_eq!(
        spelled(ObjectKey::Tail(TimelineId::FIRST, range)),
        "tail/00000001/000000010000000000000003/0000000003001000-00000FD8"
    );
    assert_eq!(
        spelled(ObjectKey::Wal(WalObject {
            timeline: TimelineId::FIRST,
            range: unit_containing(Lsn(0x0300_0028), size),
        })),
        "wal/00000001/000000010000000000000003"
    );
    assert_eq!(
        spelled(ObjectKey::History(TimelineId::FIRST)),
        "wal/00000001.history"
    );
}

#[test]
fn a_merged_chunk_is_listed_after_those_it_holds() {
    let spelled = |start: u64, end: u64| {
        let range = LsnRange::new(Lsn(start), Lsn(end));
        ObjectKey::Tail(TimelineId::FIRST, range).spell(SegmentSize::DEFAULT)
    };
    let chunks = [
        spelled(0x28, 0x100),
        spelled(0x100, 0xFFF),
        spelled(0xFFF, 0x10_0000),
    ];
    let merged = spelled(0x28, 0x10_0000);
    assert!(chunks.iter().all(|chunk| *chunk < merged));
    assert!(merged < spelled(0x10_0000, 0x10_0001));
}

#[test]
fn a_drills_name_tells_what_it_was_and_how_it_went() {
    let begun: jiff::Timestamp = "2026-11-21T06:30:07Z".parse().expect("a time");
    let id = DrillId::new(begun, "system-failure", false, 0x9f3c).expect("a name");
    assert_eq!(id.as_str(), "20261121T063007Z-system-failure-failed-9f3c");
    assert_eq!(
        (id.begun(), id.scenario(), id.passed()),
        (Some(begun), "system-failure", false)
    );
    let passed = DrillId::new(begun, "site-loss", true, 1).expect("a name");
    assert_eq!((passed.scenario(), passed.passed()), ("site-loss", true));
    assert_eq!(DrillId::new(begun, "../audit", true, 1), None);
    for bad in [
        "20261121T063007Z--passed-9f3c",
        "20261121T063007Z-passed-9f3c",
        "20261121T063007Z-key-loss-perhaps-9f3c",
        "20261121T063007Z-key-loss-passed-9f3",
        "2026-key-loss-passed-9f3c",
    ] {
        assert_eq!(DrillId::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_backups_name_tells_when_it_was_begun() {
    let begun: jiff::Timestamp = "2026-11-21T06:30:07Z".parse().expect("a time");
    assert_eq!(BackupId::new(begun, 0x9f3c).begun(), Some(begun));
    let none = BackupId::parse("20261399T063000Z-9f3c").expect("the form of a name");
    assert_eq!(none.begun(), None);
}

/// Names that no walvault wrote, each of which stopped a program once.
#[test]
fn names_that_were_planted_are_none() {
    for name in [
        "wal/00000001/00000001FFFFFFFF000000FF",
        "tail/00000001/00000001FFFFFFFF000000FF/FFFFFFFFFFFFFFFF-00FFFFFF",
        "gaps/00000001/0000000000000000-FFFFFFFFFFFFFFFF",
        "writers/18446744073709551615",
        "writers/99999999999999999",
        "audit/000102030405060708090a0b0c0d0e0f/4294967295",
        "keys/000102030405060708090a0b0c0d0e0f/4294967295",
        "locks/upkeep/4294967295",
        "pruned/4294967295",
        "verified/4294967295",
        "backups/20261121T063000Z-9f3c/keep/4294967295",
        "backups/20261121T063000Z-9f3c/part-4294967295",
    ] {
        let parsed = ObjectKey::parse(name, SegmentSize::DEFAULT);
        assert_eq!(parsed, None, "{name}");
    }
}
