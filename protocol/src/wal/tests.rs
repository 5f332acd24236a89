use proptest::prelude::*;

use super::mark::*;
use super::synthetic::{MAGICS, RM_HEAP, SYSTEM, Writer, XACT_HAS_INFO};
use super::*;
use crate::lsn::Lsn;
use crate::timestamp::PgTimestamp;

mod starts;

/// Everything a scan tells.
#[derive(Debug, Clone, PartialEq)]
struct Scan {
    result: Result<(), WalError>,
    complete_to: Lsn,
    marks: Vec<WalMark>,
}

fn scan(writer: &Writer, pieces: impl Iterator<Item = usize>) -> Scan {
    scan_from(writer, writer.start, pieces)
}

fn scan_from(writer: &Writer, start: Lsn, mut pieces: impl Iterator<Item = usize>) -> Scan {
    let mut scanner = WalScanner::new(ScanStart {
        start,
        ..writer.scan_start()
    });
    let mut bytes = &writer.bytes[writer.offset(start)..];
    let mut marks = Vec::new();
    let mut result = Ok(());
    while !bytes.is_empty() && result.is_ok() {
        let length = pieces
            .next()
            .map_or(bytes.len(), |length| length.min(bytes.len()));
        result = scanner.push(&bytes[..length]);
        marks.extend(scanner.take_marks());
        bytes = &bytes[length..];
        assert!(scanner.complete_to() <= scanner.position());
        let complete_to = scanner.complete_to();
        assert!(
            marks
                .last()
                .is_none_or(|mark: &WalMark| mark.end <= complete_to)
        );
    }
    if result.is_ok() {
        assert_eq!(scanner.position(), writer.position());
    } else {
        assert_eq!(scanner.push(b"more"), result, "the first error stays");
    }
    let complete_to = scanner.complete_to();
    Scan {
        result,
        complete_to,
        marks,
    }
}

fn whole(writer: &Writer) -> Scan {
    scan(writer, std::iter::empty())
}

/// One thing that PostgreSQL does.
#[derive(Debug, Clone)]
enum Act {
    Heap(usize),
    Commit(u32, i64),
    Switch,
    Crash(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        12 => (0usize..300).prop_map(Act::Heap),
        3 => (300usize..40_000).prop_map(Act::Heap),
        8 => (any::<u32>(), any::<i64>()).prop_map(|(xid, time)| Act::Commit(xid, time)),
        1 => Just(Act::Switch),
        1 => (1usize..3).prop_map(Act::Crash),
    ];
    proptest::collection::vec(act, 1..40)
}

fn written() -> impl Strategy<Value = (Writer, Vec<WalMark>)> {
    (
        acts(),
        10u32..=16,
        proptest::sample::select(MAGICS.as_slice()),
    )
        .prop_map(|(acts, block, magic)| {
            let mut writer = Writer::new(1 << block, magic);
            let mut marks = Vec::new();
            for act in acts {
                match act {
                    Act::Heap(length) => {
                        writer.record(RM_HEAP, 0x20, 3, &vec![0x5A; length]);
                    }
                    Act::Commit(xid, time) => {
                        let (start, end) = writer.commit(xid, time);
                        let kind = MarkKind::Commit { xid };
                        marks.push(WalMark {
                            start,
                            end,
                            time: PgTimestamp(time),
                            kind,
                        });
                    }
                    Act::Switch => writer.switch(0),
                    Act::Crash(pages) => {
                        let broken = writer.crash_inside_record(pages);
                        overwrite(&mut writer, broken);
                    }
                }
            }
            (writer, marks)
        })
}

fn overwrite(writer: &mut Writer, broken: Lsn) {
    let mut data = broken.0.to_le_bytes().to_vec();
    data.extend(7i64.to_le_bytes());
    writer.main_data(RM_XLOG, XLOG_OVERWRITE_CONTRECORD, 0, &data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn how_the_bytes_are_cut_changes_nothing(
        (writer, marks) in written(),
        pieces in proptest::collection::vec(1usize..5000, 1..20),
    ) {
        let expected = Scan { result: Ok(()), complete_to: writer.position(), marks };
        prop_assert_eq!(&whole(&writer), &expected);
        prop_assert_eq!(&scan(&writer, pieces.into_iter().cycle()), &expected);
        prop_assert_eq!(&scan(&writer, std::iter::repeat(1)), &expected);
    }

    #[test]
    fn a_changed_bit_in_a_record_never_passes(
        (mut writer, _) in written(),
        record: proptest::sample::Index,
        place: proptest::sample::Index,
        bit in 0u8..8,
    ) {
        let (start, data_end, _) = *record.get(&writer.records);
        let mut offset = writer.offset(start) + place.index((data_end - start) as usize);
        // Page headers inside the record have tests of their own.
        let in_page = (writer.start.0 as usize + offset) % writer.block;
        if in_page < page::LONG {
            offset = (offset + page::LONG - in_page).min(writer.offset(data_end) - 1);
        }
        writer.bytes[offset] ^= 1 << bit;
        let whole = whole(&writer);
        // A length that grew may wait for bytes that were not pushed, but is not complete.
        prop_assert!(whole.result.is_err() || whole.complete_to <= start);
        prop_assert!(whole.complete_to <= start);
        prop_assert_eq!(scan(&writer, std::iter::repeat(1)), whole);
    }

    #[test]
    fn random_bytes_never_panic(
        (mut writer, _) in written(),
        noise in proptest::collection::vec(any::<u8>(), 0..3000),
        at: proptest::sample::Index,
    ) {
        let at = at.index(writer.bytes.len());
        writer.bytes.truncate(at);
        writer.bytes.extend(noise);
        let whole = whole(&writer);
        prop_assert_eq!(scan(&writer, std::iter::repeat(1)), whole);
    }

    #[test]
    fn a_start_inside_a_record_waits_for_the_next((writer, marks) in written()) {
        let pages = writer.bytes.len().div_ceil(writer.block);
        for page in 0..pages {
            let start = writer.start + (page * writer.block) as u64;
            // Page sizes other than the default are learnt at the start of a segment only.
            let known = writer.block == 8192 || start.0.is_multiple_of(writer.segment.bytes());
            if known {
                let later: Vec<_> = marks.iter().filter(|mark| mark.start >= start).cloned().collect();
                let scan = scan_from(&writer, start, std::iter::repeat(777));
                prop_assert_eq!(scan.result, Ok(()));
                prop_assert_eq!(scan.marks, later);
            }
        }
    }
}

/// A transaction's end with every section that can stand before the prepared transaction's xid.
fn prepared_end(sections: u32, stats_item: usize) -> Vec<u8> {
    let mut data = 42i64.to_le_bytes().to_vec();
    data.extend((sections | HAS_TWOPHASE).to_le_bytes());
    if sections & HAS_DATABASE != 0 {
        data.extend([1; 8]);
    }
    for (section, item, count) in [
        (HAS_SUBXACTS, 4, 5000),
        (HAS_RELATIONS, 12, 3),
        (HAS_DROPPED_STATS, stats_item, 2),
        (HAS_INVALIDATIONS, 16, 700),
    ] {
        if sections & section != 0 {
            data.extend((count as u32).to_le_bytes());
            data.resize(data.len() + item * count, 0xEE);
        }
    }
    data.extend(77u32.to_le_bytes());
    data.extend(b"the gid and the origin follow\0");
    data
}

#[test]
fn a_prepared_transaction_is_found_behind_every_combination_of_sections() {
    let all = [
        HAS_DATABASE,
        HAS_SUBXACTS,
        HAS_RELATIONS,
        HAS_DROPPED_STATS,
        HAS_INVALIDATIONS,
    ];
    for (magic, stats_item) in [(0xD110, 12), (0xD116, 12), (0xD118, 16)] {
        let mut writer = Writer::new(8192, magic);
        for combination in 0..1u32 << all.len() {
            let chosen = all
                .iter()
                .enumerate()
                .filter(|(bit, _)| combination >> bit & 1 == 1);
            let sections = chosen.map(|(_, section)| section).sum();
            let data = prepared_end(sections, stats_item);
            writer.main_data(RM_XACT, XACT_COMMIT_PREPARED | XACT_HAS_INFO, 5, &data);
            writer.main_data(RM_XACT, XACT_ABORT_PREPARED | XACT_HAS_INFO, 5, &data);
        }
        let scan = whole(&writer);
        assert_eq!(scan.result, Ok(()));
        assert_eq!(scan.marks.len(), 2 << all.len());
        for (index, mark) in scan.marks.iter().enumerate() {
            let commit = MarkKind::Commit { xid: 77 };
            let abort = MarkKind::Abort { xid: 77 };
            assert_eq!(mark.kind, if index % 2 == 0 { commit } else { abort });
            assert_eq!(mark.time, PgTimestamp(42));
        }
    }
}

#[test]
fn fragments_before_the_main_data_are_passed_over() {
    let mut writer = Writer::new(8192, 0xD110);
    let mut body = vec![253, 1, 0, 252, 9, 0, 0, 0, 255, 8];
    body.extend(5i64.to_le_bytes());
    writer.record(RM_XACT, XACT_ABORT, 31, &body);
    let mut point = 6i64.to_le_bytes().to_vec();
    point.extend(b"before the migration");
    point.resize(8 + NAME_SIZE, 0);
    writer.main_data(RM_XLOG, XLOG_RESTORE_POINT, 0, &point);
    let kinds: Vec<_> = whole(&writer)
        .marks
        .into_iter()
        .map(|mark| (mark.time.0, mark.kind))
        .collect();
    let name = "before the migration".to_owned();
    assert_eq!(
        kinds,
        [
            (5, MarkKind::Abort { xid: 31 }),
            (6, MarkKind::RestorePoint { name })
        ]
    );
}

#[test]
fn new_tablespaces_and_parameters_are_marks() {
    let mut writer = Writer::new(8192, 0xD110);
    let long = format!("/{}", "d".repeat(1000));
    writer.create_tablespace(16_385, "/data/ts");
    writer.create_tablespace(16_386, &long);
    writer.create_tablespace(16_387, "");
    // XLOG_TBLSPC_DROP.
    writer.main_data(RM_TABLESPACE, 0x10, 7, &16_385u32.to_le_bytes());
    let parameters = Parameters {
        max_connections: 150,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 0,
        max_locks_per_transaction: 64,
        wal_level: 1,
    };
    writer.change_parameters(&parameters);
    let tablespace = |oid, location: &str| MarkKind::Tablespace {
        oid,
        location: location.to_owned(),
    };
    let expected = [
        tablespace(16_385, "/data/ts"),
        tablespace(16_386, &long),
        tablespace(16_387, ""),
        MarkKind::Parameters(parameters),
    ];
    for pieces in [1, 7, 20_000] {
        let scan = scan(&writer, std::iter::repeat(pieces));
        let kinds: Vec<_> = scan.marks.into_iter().map(|mark| mark.kind).collect();
        assert_eq!((scan.result, kinds.as_slice()), (Ok(()), &expected[..]));
    }
}

#[test]
fn new_databases_and_full_page_writes_are_marks() {
    let copy = |oid, tablespace, template| {
        MarkKind::Database(DatabaseDirectory {
            oid,
            tablespace,
            template,
        })
    };
    for (magic, logged) in [
        (0xD106, false),
        (0xD10D, false),
        (0xD110, true),
        (0xD118, true),
    ] {
        let mut writer = Writer::new(8192, magic);
        writer.create_database(16_400, 1663, Some(1));
        writer.change_full_page_writes(false);
        // XLOG_DBASE_DROP: one tablespace of one database. Its number is another's from 15 on.
        let dropped: Vec<u8> = [16_400u32, 1, 1663].map(u32::to_le_bytes).concat();
        writer.main_data(RM_DATABASE, if logged { 0x20 } else { 0x10 }, 7, &dropped);
        if logged {
            writer.create_database(16_401, 16_385, None);
        }
        writer.change_full_page_writes(true);
        let mut expected = vec![
            copy(16_400, 1663, Some(1)),
            MarkKind::FullPageWrites { on: false },
        ];
        expected.extend(logged.then(|| copy(16_401, 16_385, None)));
        expected.push(MarkKind::FullPageWrites { on: true });
        for pieces in [1, 7, 20_000] {
            let scan = scan(&writer, std::iter::repeat(pieces));
            assert!(scan.marks.iter().all(|mark| !mark.kind.has_time()));
            let kinds: Vec<_> = scan.marks.into_iter().map(|mark| mark.kind).collect();
            assert_eq!((scan.result, &kinds), (Ok(()), &expected), "{magic:X}");
        }
    }
}

#[test]
fn the_last_whole_record_is_known() {
    let mut writer = Writer::new(8192, 0xD110);
    let (first, end) = writer.commit(1, 1);
    writer.record(RM_HEAP, 0, 3, &[0x5A; 100]);
    let mut scanner = WalScanner::new(writer.scan_start());
    assert_eq!(scanner.last_complete_record(), None);
    // The second record has begun and is not whole.
    scanner
        .push(&writer.bytes[..writer.offset(end) + 40])
        .expect("WAL");
    assert_eq!(scanner.last_complete_record(), Some(first));
    assert_eq!(scanner.complete_to(), end);
}

#[test]
fn a_commit_without_its_time_is_refused() {
    let mut writer = Writer::new(8192, 0xD110);
    let (record, _) = writer.main_data(RM_XACT, XACT_COMMIT, 5, &[0; 7]);
    assert_eq!(whole(&writer).result, Err(WalError::Contents { record }));
}

#[test]
fn the_rest_of_a_switched_segment_may_hold_anything() {
    let mut writer = Writer::new(8192, 0xD110);
    writer.commit(1, 1);
    writer.switch(0xCC);
    assert_eq!(whole(&writer).complete_to, Lsn(6 << 20));
    let (_, end) = writer.commit(2, 2);
    let scan = whole(&writer);
    assert_eq!(
        (scan.result, scan.complete_to, scan.marks.len()),
        (Ok(()), end, 2)
    );
}

#[test]
fn an_abandoned_record_has_to_be_named() {
    let mut writer = Writer::new(8192, 0xD110);
    writer.commit(1, 1);
    let broken = writer.crash_inside_record(2);
    let unmarked = writer.clone();

    let mut good = writer.clone();
    overwrite(&mut good, broken);
    let (_, end) = good.commit(2, 2);
    let scan = whole(&good);
    assert_eq!(
        (scan.result, scan.complete_to, scan.marks.len()),
        (Ok(()), end, 2)
    );

    overwrite(&mut writer, broken + 8);
    let record = writer.previous;
    let error = WalError::Overwrite {
        record,
        abandoned: broken,
    };
    assert_eq!(whole(&writer).result, Err(error));

    let mut unnamed = unmarked;
    let (record, _) = unnamed.commit(2, 2);
    let error = WalError::Overwrite {
        record,
        abandoned: broken,
    };
    assert_eq!(whole(&unnamed).result, Err(error));
}

/// Three pages, the third inside a record that the second began; then one change.
fn altered(page: usize, offset: usize, bytes: &[u8]) -> (Lsn, WalError) {
    let mut writer = Writer::new(8192, 0xD110);
    writer.timeline = 2;
    writer.record(RM_HEAP, 0, 1, &vec![1; 8192 - page::LONG - record::HEADER]);
    writer.record(RM_HEAP, 0, 1, &vec![2; 10_000]);
    let at = page * writer.block + offset;
    writer.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    let error = whole(&writer).result.expect_err("it was altered");
    let lsn = writer.start + (page * writer.block) as u64;
    assert!(
        error.lsn() <= lsn + 8192 && error.to_string().contains("; "),
        "{error}"
    );
    (lsn, error)
}

#[test]
fn page_headers_have_to_fit() {
    let (page, error) = altered(0, 0, &[0, 0]);
    assert_eq!(error, WalError::Magic { page, found: 0 });
    let (page, error) = altered(1, 0, &0xD113u16.to_le_bytes());
    assert_eq!(
        error,
        WalError::MagicChanged {
            page,
            found: 0xD113,
            expected: 0xD110
        }
    );
    let (page, error) = altered(1, 2, &[0x10, 0]);
    assert_eq!(error, WalError::PageFlags { page, found: 0x10 });
    let (page, error) = altered(0, 2, &[0, 0]);
    assert_eq!(error, WalError::PageFlags { page, found: 0 });
    let (page, error) = altered(1, 4, &[3, 0, 0, 0]);
    assert!(matches!(error, WalError::TimelineAhead { page: at, found: 3, .. } if at == page));
    let (page, error) = altered(1, 4, &[1, 0, 0, 0]);
    assert_eq!(
        error,
        WalError::TimelineBack {
            page,
            found: 1,
            previous: 2
        }
    );
    let (page, error) = altered(1, 8, &[0; 8]);
    assert_eq!(
        error,
        WalError::PageAddress {
            page,
            found: Lsn(0)
        }
    );
    let (page, error) = altered(0, 24, &[0; 8]);
    assert_eq!(
        error,
        WalError::SystemId {
            page,
            found: crate::SystemId(0),
            expected: SYSTEM
        }
    );
    let (page, error) = altered(0, 32, &[0; 4]);
    assert!(matches!(error, WalError::SegmentSize { page: at, found: 0, .. } if at == page));
    let (page, error) = altered(0, 36, &[0; 4]);
    assert_eq!(error, WalError::BlockSize { page, found: 0 });
}

#[test]
fn continuations_have_to_fit_the_record_under_way() {
    let (page, error) = altered(2, 2, &[0, 0]);
    let record = Lsn(page.0 - 8192 + page::SHORT as u64);
    let left = (10_000 + record::HEADER - (8192 - page::SHORT)) as u32;
    assert_eq!(error, WalError::ContinuationMissing { page, record, left });
    let (page, error) = altered(2, 16, &[1, 2, 0, 0]);
    assert_eq!(
        error,
        WalError::ContinuationLength {
            page,
            record,
            left,
            found: 0x201
        }
    );
    let (page, error) = altered(1, 2, &[1, 0]);
    assert_eq!(error, WalError::ContinuationUnexpected { page, found: 0 });
}

#[test]
fn record_headers_have_to_fit() {
    // The record at the start of the second page.
    let at = page::SHORT;
    let (page, error) = altered(1, at, &[23, 0, 0, 0]);
    let record = page + at as u64;
    assert_eq!(error, WalError::RecordLength { record, found: 23 });
    let (_, error) = altered(1, at, &u32::MAX.to_le_bytes());
    assert_eq!(
        error,
        WalError::RecordLength {
            record,
            found: u32::MAX
        }
    );
    let (_, error) = altered(1, at + 8, &[0; 8]);
    assert!(
        matches!(error, WalError::Previous { found: Lsn(0), .. }),
        "{error}"
    );
    let (_, error) = altered(1, at + 17, &[22]);
    assert_eq!(error, WalError::ResourceManager { record, found: 22 });
    let (_, error) = altered(1, at + 17, &[128]);
    assert!(matches!(error, WalError::Crc { .. }), "{error}");
    let (page, error) = altered(0, page::LONG + 8, &u64::MAX.to_le_bytes());
    let record = page + page::LONG as u64;
    assert_eq!(
        error,
        WalError::PreviousAhead {
            record,
            found: Lsn(u64::MAX)
        }
    );
}

#[test]
fn a_scan_starts_at_a_page() {
    let writer = Writer::new(8192, 0xD110);
    for lsn in [Lsn(writer.start.0 + 8), Lsn(u64::MAX - 8191)] {
        let mut scanner = WalScanner::new(ScanStart {
            start: lsn,
            ..writer.scan_start()
        });
        assert_eq!(scanner.push(&[0; 100]), Err(WalError::Start { lsn }));
    }
}

#[test]
fn errors_name_the_record_and_what_to_do() {
    let error = WalError::Crc {
        record: Lsn(0x0500_0028),
        stored: 1,
        computed: 0xABCD,
    };
    assert_eq!(
        error.to_string(),
        "the WAL record at 0/5000028 has the CRC-32C 0000ABCD, its header says 00000001; it was not \
         acknowledged: run pg_waldump --start=0/5000028 on the server to see whether its own WAL is \
         intact"
    );
}

/// `xl_logical_message`, then the prefix with its zero byte and the text.
fn message(prefix: &str, text: &str) -> Vec<u8> {
    let mut data = vec![0; 8];
    data.extend((prefix.len() as u64 + 1).to_le_bytes());
    data.extend((text.len() as u64).to_le_bytes());
    data.extend(prefix.as_bytes());
    data.push(0);
    data.extend(text.as_bytes());
    data
}

#[test]
fn short_messages_are_noted_when_they_are_asked_for() {
    const RM_LOGICALMSG: u8 = 21;
    let mut writer = Writer::new(8192, MAGICS[0]);
    writer.main_data(RM_LOGICALMSG, 0, 0, &message("other", &"long".repeat(1000)));
    let (start, _) = writer.main_data(RM_LOGICALMSG, 0, 0, &message("walvault", "canary"));
    writer.commit(7, 1);
    writer.main_data(RM_LOGICALMSG, 0, 0, &message("", ""));
    for piece in [1, 7, writer.bytes.len()] {
        let mut scanner = WalScanner::new(writer.scan_start()).listening();
        let mut messages = Vec::new();
        for bytes in writer.bytes.chunks(piece) {
            scanner.push(bytes).expect("WAL");
            messages.extend(scanner.take_messages());
        }
        let [first, last] = messages.as_slice() else {
            panic!("two are short: {messages:?}");
        };
        assert_eq!((first.start, first.prefix.as_str()), (start, "walvault"));
        assert_eq!((first.text.as_str(), last.text.as_str()), ("canary", ""));
        assert_eq!(scanner.take_marks().len(), 1);
    }
    let mut deaf = WalScanner::new(writer.scan_start());
    deaf.push(&writer.bytes).expect("WAL");
    assert_eq!(deaf.take_messages(), []);
}

/// The second segment of a writer, scanned on its own by who knows where the first one ends.
#[test]
fn a_scan_that_follows_a_record_has_to_find_it_named() {
    let mut writer = Writer::new(8192, 0xD110);
    writer.commit(1, 1);
    writer.switch(0);
    let switched = writer.position();
    let mut first = WalScanner::new(writer.scan_start());
    first.push(&writer.bytes).expect("sound WAL");
    let last = first.last_record().expect("a record");
    assert_eq!(last, writer.previous);

    writer.commit(2, 2);
    let start = ScanStart {
        start: switched,
        ..writer.scan_start()
    };
    let rest = &writer.bytes[writer.offset(switched)..];
    let mut follows = WalScanner::new(start).after(last);
    assert_eq!(follows.push(rest), Ok(()));
    let mut other = WalScanner::new(start).after(Lsn(last.0 - 8));
    assert_eq!(
        other.push(rest),
        Err(WalError::Previous {
            record: follows.last_record().expect("a record"),
            found: last,
            expected: Lsn(last.0 - 8),
        })
    );
}
