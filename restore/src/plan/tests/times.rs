//! Times: what tells whether a backup leads to one, and those that PostgreSQL would not reach.

use jiff::Timestamp;
use walvault_archive::Catalog;

use super::super::*;
use super::model::{NOON, SECOND};
use super::{at, planned, quiet_past, refusal, run, time_at};
use crate::target::{Point, Target};

/// The sidecar's clock is behind the server's: what the backup holds is told by the WAL.
#[test]
fn a_time_before_a_transaction_that_the_backup_holds_is_refused() {
    let mut past = quiet_past();
    let backup = &mut past.backups[0];
    (backup.start_lsn, backup.stop_lsn) = (past.first[100].start, past.first[110].end);
    backup.started_at = Timestamp::from_microsecond(NOON).expect("in range");
    // Nothing ends a transaction until well after the backup.
    for record in &mut past.first[100..150] {
        record.mark = None;
    }
    let refused = refusal(&past, time_at(90));
    assert!(refused.contains("before the first backup"), "{refused}");
    let planned = planned(&past, time_at(120)).expect("within reach");
    assert_eq!(planned.stop.lsn, past.first[150].start);
}

/// The sidecar's clock is an hour ahead of the server's.
#[test]
fn a_time_that_a_backup_leads_to_is_known_by_the_servers_clock() {
    let mut past = quiet_past();
    let ahead =
        |micros: i64| Timestamp::from_microsecond(micros + 3600 * SECOND).expect("in range");
    let backup = &mut past.backups[0];
    (backup.started_at, backup.stopped_at) = (ahead(NOON), ahead(NOON + 3 * SECOND));
    // Nothing of before the backup is archived.
    let reached = planned(&past, time_at(60)).expect("within reach");
    assert_eq!(reached.stop.at.and_then(|mark| mark.time), Some(at(61)));
    assert!(refusal(&past, time_at(-1)).contains("before the first backup"));
    // And where it is.
    let backup = &mut past.backups[0];
    (backup.start_lsn, backup.stop_lsn) = (past.first[100].start, past.first[102].end);
    assert!(planned(&past, time_at(110)).is_ok());
    assert!(refusal(&past, time_at(90)).contains("before the first backup"));
}

/// `list` tells the time of the last commit. Nothing that is later shows PostgreSQL that it is there.
#[test]
fn the_time_of_the_last_transaction_is_reached_by_its_place() {
    let past = quiet_past();
    let last = past.first.last().expect("one");
    let point = time_at(600);
    let planned = planned(&past, point.clone()).expect("within reach");
    assert_eq!(planned.stop.lsn, last.end);
    let target = planned.recovery_target(&Target::inclusive(point));
    assert_eq!(target, Target::inclusive(Point::Lsn(last.start)));
    // Another time stays as it is.
    let earlier = Target::inclusive(time_at(300));
    let planned = super::planned(&past, earlier.point.clone()).expect("within reach");
    assert_eq!(planned.recovery_target(&earlier), earlier);
}

/// Nothing was committed since the backup: where its window begins, it ends.
#[test]
fn the_time_at_which_a_window_begins_is_reached_though_nothing_follows() {
    let mut past = quiet_past();
    for record in &mut past.first[3..] {
        record.mark = None;
    }
    let begins = planned(&past, time_at(3)).expect("within reach");
    let consistent = past.backups[0].stop_lsn;
    assert_eq!(
        (begins.stop.lsn, begins.stop.reason),
        (consistent, StopReason::Consistent)
    );
    let target = begins.recovery_target(&Target::inclusive(time_at(3)));
    assert_eq!(target.point, Point::Immediate);
    for other in [2, 4] {
        assert!(planned(&past, time_at(other)).is_err(), "{other}");
    }
    // Where no transaction tells, the backup's own time does.
    for record in &mut past.first {
        record.mark = None;
    }
    past.backups[0].stopped_at = at(30);
    assert!(planned(&past, time_at(30)).is_ok());
    assert!(planned(&past, time_at(31)).is_err());
}

/// `list` and the page print the ends of a window; each is a target, as it is printed.
#[test]
fn the_window_of_a_clock_that_was_set_back_is_reached_to_the_digit() {
    // Before the backup, while it was taken, and behind it; by less and by more than the tolerance.
    for index in [50, 95, 105, 300] {
        for seconds in [30, 90, 1000] {
            let mut past = quiet_past();
            let backup = &mut past.backups[0];
            (backup.start_lsn, backup.stop_lsn) = (past.first[100].start, past.first[110].end);
            past.set_clock_back(index, seconds);
            let windows = run(async {
                let archive = past.archive().await;
                let catalog = Catalog::load(&archive).await.expect("a catalog");
                catalog.windows(&archive).await.expect("windows")
            });
            let end = windows[0].end_time.expect("a commit");
            for time in [windows[0].start_time, end] {
                let planned = planned(&past, Point::Time(time));
                assert!(planned.is_ok(), "{index}, {seconds}, {time}: {planned:?}");
            }
        }
    }
}
