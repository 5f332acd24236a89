//! Scans that do not start where a segment does.

use super::super::synthetic::{MAGICS, RM_HEAP, Writer};
use super::super::{WalError, WalScanner, page, record};
use super::scan_from;
use crate::lsn::Lsn;

/// The size of a page in bytes.
const PAGE: u64 = 8192;

/// Wherever a page's end splits a switch, and wherever in the rest of its segment the scan starts.
#[test]
fn the_unused_rest_of_a_segment_is_passed_over() {
    for on_first_page in (8..record::HEADER).step_by(8) {
        let mut writer = Writer::new(PAGE as usize, MAGICS[0]);
        let body = PAGE as usize - page::LONG - record::HEADER - on_first_page;
        writer.record(RM_HEAP, 0, 1, &vec![1; body]);
        writer.switch(0);
        let commit = writer.commit(7, 7);
        for pages in [1, 2, 80] {
            let start = writer.start + pages * PAGE;
            let scan = scan_from(&writer, start, std::iter::repeat(777));
            assert_eq!(scan.result, Ok(()), "{on_first_page}, {start}");
            assert_eq!(scan.complete_to, commit.1);
            let marks: Vec<_> = scan
                .marks
                .iter()
                .map(|mark| (mark.start, mark.end))
                .collect();
            assert_eq!(marks, [commit], "{on_first_page}, {start}");
        }
    }
}

/// As `pg_resetwal` leaves WAL.
#[test]
fn wal_that_begins_anew_is_told_once_and_only_of_the_first_record() {
    let mut writer = Writer::new(PAGE as usize, MAGICS[0]);
    let before = writer.previous;
    writer.previous = Lsn(0);
    let (first, _) = writer.record(RM_HEAP, 0, 1, &[1; 100]);
    writer.commit(7, 7);
    for piece in [1, 777, writer.bytes.len()] {
        let mut scanner = WalScanner::new(writer.scan_start()).after(before);
        let mut told = Vec::new();
        for bytes in writer.bytes.chunks(piece) {
            scanner.push(bytes).expect("WAL");
            told.extend(scanner.take_new_beginning());
        }
        assert_eq!(told, [first]);
    }
    // What follows another record is none.
    let mut writer = Writer::new(PAGE as usize, MAGICS[0]);
    writer.commit(7, 7);
    let mut scanner = WalScanner::new(writer.scan_start()).after(before);
    scanner.push(&writer.bytes).expect("WAL");
    assert_eq!(scanner.take_new_beginning(), None);
    writer.previous = Lsn(0);
    let (anew, _) = writer.commit(7, 8);
    let mut scanner = WalScanner::new(writer.scan_start());
    let refused = scanner.push(&writer.bytes).expect_err("it follows none");
    assert_eq!(refused.lsn(), anew);
}

/// Behind what cannot have been a switch, zeros are no unused rest.
#[test]
fn zeros_behind_another_record_are_refused() {
    let mut writer = Writer::new(PAGE as usize, MAGICS[0]);
    let (_, end) = writer.record(RM_HEAP, 0, 1, &[1; 8500]);
    writer.bytes.resize(writer.offset(end) + 100_000, 0);
    let scanned = scan_from(&writer, writer.start + PAGE, std::iter::repeat(777));
    let refused = WalError::RecordLength {
        record: end,
        found: 0,
    };
    assert_eq!(scanned.result, Err(refused));
}
