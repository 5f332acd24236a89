//! Whether a server stopped where its plan said that it would.

use walvault_archive::record::BackupRecord;
use walvault_archive::{Archive, Catalog, Error};
use walvault_protocol::Lsn;

use crate::line::Line;
use crate::plan::{RestorePlan, Stop, StopMark, StopReason};
use crate::trial::Reached;

pub mod scan;

use scan::LastRecord;

/// The longest page header, `SizeOfXLogLongPHD`: it may lie between the end of a record and the
/// beginning of the next.
const HEADER: u64 = 40;

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server is where the plan led.
    There,
    /// It is elsewhere.
    Elsewhere,
    /// Neither the server nor its log tells where it is.
    Untold,
}

impl Verdict {
    fn of(is_there: bool) -> Verdict {
        match is_there {
            true => Verdict::There,
            false => Verdict::Elsewhere,
        }
    }
}

/// What should have been reached, in words, and whether `reached` is it. `last` is the last whole
/// record before the plan's end, where it is known; it counts where the plan leads to the end of
/// the WAL.
#[must_use]
pub fn compare(
    plan: &RestorePlan,
    reached: &Reached,
    last: Option<LastRecord>,
) -> (Verdict, String) {
    let (is_there, expected) = by_position(plan, reached.lsn, last.map(|last| last.end));
    // A backup of a standby is consistent where its copy of pg_control says, at the backup's end at most.
    let is_consistent = plan.stop.reason == StopReason::Consistent
        && reached
            .stopping
            .as_ref()
            .is_some_and(|said| said.contains("reaching consistency"));
    let is_there = is_there || is_consistent;
    let verdict = match reached.asked {
        true => Verdict::of(is_there),
        false => by_log(&plan.stop, reached, last),
    };
    (verdict, expected)
}

/// Compares what the log says of a server that could not be asked, or has stopped.
fn by_log(stop: &Stop, reached: &Reached, last: Option<LastRecord>) -> Verdict {
    if stop.reason == StopReason::EndOfWal {
        return match (reached.last_record, last) {
            // WAL was archived since the plan, and the log does not tell where this record ends.
            (Some(record), Some(last)) if last.start < record => Verdict::Untold,
            (Some(record), Some(last)) => Verdict::of(record == last.start),
            _ => Verdict::Untold,
        };
    }
    // The messages of recoveryStopsBefore and recoveryStopsAfter in xlogrecovery.c.
    let Some(said) = &reached.stopping else {
        return Verdict::Elsewhere;
    };
    let place = match stop.reason {
        StopReason::BeforeRecord => "stopping before ",
        _ => "stopping after ",
    };
    let named = |mark: &StopMark| match (mark.xid, &mark.name) {
        (Some(xid), _) => said.contains(place) && said.contains(&format!("transaction {xid},")),
        (None, Some(name)) => said.contains(&format!("restore point \"{name}\"")),
        (None, None) => false,
    };
    let stopped_at = || {
        let lsn = said.split('"').nth(1);
        lsn.and_then(|lsn| lsn.parse::<Lsn>().ok())
    };
    match &stop.at {
        // The last transaction of the archive is reached by its LSN.
        Some(mark) if said.contains("stopping after WAL location") => {
            Verdict::of(stopped_at() == Some(mark.lsn))
        }
        Some(mark) => Verdict::of(named(mark)),
        None if stop.reason == StopReason::Consistent => {
            Verdict::of(said.contains("reaching consistency"))
        }
        None => {
            Verdict::of(said.contains(place) && stopped_at().is_some_and(|lsn| stop.lsn <= lsn))
        }
    }
}

/// Whether a server that went beyond the end of `plan` stopped at the end of a whole record that
/// was archived since: `restore_command` hands out whatever is there when it is asked.
///
/// # Errors
/// When the archive cannot be read.
pub async fn was_archived_since(
    archive: &Archive,
    plan: &RestorePlan,
    backup: &BackupRecord,
    reached: &Reached,
) -> Result<bool, Error> {
    let beyond = |lsn: &Lsn| reached.asked && *lsn > plan.stop.lsn;
    let Some(lsn) = reached.lsn.filter(beyond) else {
        return Ok(false);
    };
    if plan.stop.reason != StopReason::EndOfWal {
        return Ok(false);
    }
    let catalog = Catalog::load(archive).await?;
    let line = Line::new(&catalog, plan.timeline);
    if line.reach_from(backup) < lsn {
        return Ok(false);
    }
    let last = scan::last_record(archive, &line, (plan.replay.from, lsn)).await?;
    Ok(last.is_some_and(|last| last.end == lsn))
}

fn by_position(plan: &RestorePlan, reached: Option<Lsn>, end: Option<Lsn>) -> (bool, String) {
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
    use super::*;
    use crate::testing;

    fn plan(reason: StopReason, lsn: u64, marked: bool) -> RestorePlan {
        let mark = StopMark {
            lsn: Lsn(lsn),
            time: None,
            xid: None,
            name: None,
        };
        testing::plan_to(Stop {
            lsn: Lsn(lsn),
            reason,
            at: marked.then_some(mark),
            last_commit: None,
            next_commit: None,
        })
    }

    #[test]
    fn a_record_too_few_and_a_record_too_many_are_found() {
        let is = |reason, marked, reached: u64, end: Option<u64>| {
            let plan = plan(reason, 10_000, marked);
            by_position(&plan, Some(Lsn(reached)), end.map(Lsn)).0
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
        let nothing = by_position(&plan(AfterRecord, 10_000, true), None, None);
        assert!(!nothing.0);
    }

    #[test]
    fn a_server_that_has_stopped_is_judged_by_its_log() {
        let told = |stopping: Option<&str>, last_record: Option<u64>| Reached {
            lsn: None,
            time: None,
            timeline: None,
            promoted: false,
            seconds_to_consistent: None,
            seconds_to_target: 0.0,
            asked: false,
            stopping: stopping.map(str::to_owned),
            last_record: last_record.map(Lsn),
            without_own_settings: None,
        };
        let mut transaction = plan(StopReason::BeforeRecord, 10_000, true);
        if let Some(mark) = &mut transaction.stop.at {
            mark.xid = Some(726);
        }
        let is = |plan: &RestorePlan, reached: &Reached| {
            let last = LastRecord {
                start: Lsn(9_900),
                end: Lsn(9_960),
            };
            compare(plan, reached, Some(last)).0
        };
        for (said, verdict) in [
            (
                "recovery stopping before commit of transaction 726, time x",
                Verdict::There,
            ),
            (
                "recovery stopping before commit of transaction 72, time x",
                Verdict::Elsewhere,
            ),
            (
                "recovery stopping after commit of transaction 726, time x",
                Verdict::Elsewhere,
            ),
        ] {
            assert_eq!(is(&transaction, &told(Some(said), None)), verdict, "{said}");
        }
        assert_eq!(is(&transaction, &told(None, None)), Verdict::Elsewhere);
        let at_lsn = plan(StopReason::AfterRecord, 0x1000, false);
        let said = "recovery stopping after WAL location (LSN) \"0/1010\"";
        assert_eq!(is(&at_lsn, &told(Some(said), None)), Verdict::There);
        let said = "recovery stopping after WAL location (LSN) \"0/F00\"";
        assert_eq!(is(&at_lsn, &told(Some(said), None)), Verdict::Elsewhere);
        let end = plan(StopReason::EndOfWal, 10_000, false);
        assert_eq!(is(&end, &told(None, Some(9_900))), Verdict::There);
        assert_eq!(is(&end, &told(None, Some(9_000))), Verdict::Elsewhere);
        assert_eq!(is(&end, &told(None, Some(9_960))), Verdict::Untold);
        assert_eq!(is(&end, &told(None, None)), Verdict::Untold);
    }
}
