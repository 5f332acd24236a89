//! Whether a drill stopped where the plan said that it would.

use walvault_protocol::Lsn;

use crate::plan::{RestorePlan, Stop, StopReason};

/// The longest page header, `SizeOfXLogLongPHD`: it may lie between the end of a record and the beginning of
/// the next.
const HEADER: u64 = 40;

/// What should have been reached, in words, and whether `reached` is it. `end` is the end of the last whole
/// record before the plan's, where it is known.
pub(super) fn compare(
    plan: &RestorePlan,
    reached: Option<Lsn>,
    end: Option<Lsn>,
) -> (bool, String) {
    let Stop {
        lsn, reason, at, ..
    } = &plan.stop;
    let lsn = *lsn;
    let within =
        |from: Lsn, to: Lsn| reached.is_some_and(|reached| from <= reached && reached <= to);
    let header_before = Lsn(lsn.0.saturating_sub(HEADER));
    match (reason, at) {
        (StopReason::BeforeRecord, Some(_)) => (
            within(header_before, lsn),
            format!("up to the record at {lsn}"),
        ),
        (StopReason::AfterRecord, Some(_)) => (
            within(lsn, lsn),
            format!("up to the end of the record, {lsn}"),
        ),
        // No mark says where the record is that PostgreSQL stops at, only that there is one.
        (StopReason::BeforeRecord, None) => (
            reached.is_some_and(|reached| header_before <= reached),
            format!("up to the first record at or after {lsn}"),
        ),
        (StopReason::AfterRecord, None) => (
            reached.is_some_and(|reached| lsn < reached),
            format!("to the end of the first record at or after {lsn}"),
        ),
        (StopReason::Consistent, _) => (
            reached.is_some_and(|reached| lsn <= reached),
            format!("consistent at {lsn}"),
        ),
        (StopReason::EndOfWal, _) => match end {
            Some(end) => (within(end, end), format!("the last whole record, {end}")),
            None => (within(Lsn(0), lsn), format!("no further than {lsn}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use walvault_archive::layout::BackupId;
    use walvault_protocol::TimelineId;

    use super::*;
    use crate::plan::{PlannedBackup, Replay, StopMark};

    fn plan(reason: StopReason, lsn: u64, marked: bool) -> RestorePlan {
        let mark = StopMark {
            lsn: Lsn(lsn),
            time: None,
            xid: None,
            name: None,
        };
        let backup = BackupId::parse("20261121T063000Z-9f3c").expect("a name");
        RestorePlan {
            backup: PlannedBackup {
                id: backup,
                label: String::new(),
                timeline: TimelineId::FIRST,
                start_lsn: Lsn(0),
                stop_lsn: Lsn(0),
                stopped_at: jiff::Timestamp::UNIX_EPOCH,
                size: 0,
                stored_size: 0,
                file_count: 0,
            },
            target: String::new(),
            timeline: TimelineId::FIRST,
            timelines: Vec::new(),
            replay: Replay {
                from: Lsn(0),
                to: Lsn(lsn),
                bytes: lsn,
                objects: 0,
                stored_bytes: 0,
            },
            stop: Stop {
                lsn: Lsn(lsn),
                reason,
                at: marked.then_some(mark),
                last_commit: None,
                next_commit: None,
            },
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_record_too_few_and_a_record_too_many_are_found() {
        let is = |reason, marked, reached: u64, end: Option<u64>| {
            let plan = plan(reason, 10_000, marked);
            compare(&plan, Some(Lsn(reached)), end.map(Lsn)).0
        };
        use StopReason::{AfterRecord, BeforeRecord, Consistent, EndOfWal};
        for (reason, reached) in [
            (BeforeRecord, 10_000),
            (BeforeRecord, 9_960),
            (AfterRecord, 10_000),
        ] {
            assert!(is(reason, true, reached, None), "{reason:?} {reached}");
        }
        for (reason, reached) in [
            (BeforeRecord, 9_952),
            (BeforeRecord, 10_008),
            (AfterRecord, 9_992),
            (AfterRecord, 10_008),
        ] {
            assert!(!is(reason, true, reached, None), "{reason:?} {reached}");
        }
        assert!(is(BeforeRecord, false, 10_040, None) && !is(AfterRecord, false, 10_000, None));
        assert!(is(Consistent, false, 10_040, None) && !is(Consistent, false, 9_992, None));
        assert!(
            is(EndOfWal, false, 9_984, Some(9_984)) && !is(EndOfWal, false, 9_976, Some(9_984))
        );
        assert!(!is(EndOfWal, false, 10_008, None));
        let nothing = compare(&plan(AfterRecord, 10_000, true), None, None);
        assert!(!nothing.0);
    }
}
