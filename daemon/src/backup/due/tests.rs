use std::time::Duration;

use walvault_protocol::LsnRange;

use super::*;

const NOW: &str = "2026-11-20T02:30:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn backup(on: u32, start: u64, started: &str) -> BackupSeen {
    BackupSeen {
        started_at: at(started),
        place: Some((timeline(on), Lsn(start))),
    }
}

/// One whose record is not for this host to read.
fn withheld(started: &str) -> BackupSeen {
    BackupSeen {
        started_at: at(started),
        place: None,
    }
}

fn gap(on: u32, start: u64, end: u64) -> GapSeen {
    GapSeen {
        timeline: timeline(on),
        range: LsnRange::new(Lsn(start), Lsn(end)),
        noticed_at: at("2026-11-20T02:10:00Z"),
    }
}

fn seen(backups: &[BackupSeen], gaps: &[GapSeen]) -> Seen {
    Seen {
        backups: backups.to_vec(),
        gaps: gaps.to_vec(),
        timeline_begun: None,
    }
}

fn nightly(seen: &Seen, on: u32, now: &str) -> Due {
    let schedule = Schedule::new("0 2 * * *", "UTC", Duration::ZERO).unwrap();
    due(seen, timeline(on), Some(&schedule), at(now))
}

fn without_schedule(seen: &Seen, on: u32) -> Due {
    due(seen, timeline(on), None, at(NOW))
}

#[test]
fn an_archive_without_a_backup_gets_one_at_once() {
    let empty = seen(&[], &[]);
    assert_eq!(nightly(&empty, 1, NOW), Due::Now(Reason::First));
    assert_eq!(without_schedule(&empty, 1), Due::No);
}

#[test]
fn runs_are_reckoned_from_the_newest_backup() {
    let backups = seen(
        &[
            backup(1, 0x300, "2026-11-20T02:00:07Z"),
            backup(1, 0x100, "2026-11-18T02:00:07Z"),
        ],
        &[],
    );
    assert_eq!(
        nightly(&backups, 1, NOW),
        Due::At(at("2026-11-21T02:00:00Z"))
    );
    // However many were missed while nobody was there, one backup answers for them.
    let late = "2026-12-24T12:00:00Z";
    assert_eq!(nightly(&backups, 1, late), Due::Now(Reason::Schedule));
    let caught_up = seen(&[backup(1, 0x500, late)], &[]);
    assert_eq!(
        nightly(&caught_up, 1, late),
        Due::At(at("2026-12-25T02:00:00Z"))
    );
}

#[test]
fn a_clock_that_was_ahead_stops_no_schedule() {
    let future = backup(1, 0x300, "2036-01-01T00:00:00Z");
    let ahead = seen(&[future], &[]);
    assert_eq!(nightly(&ahead, 1, NOW), Due::Now(Reason::First));
    let followed = seen(&[future, backup(1, 0x400, "2026-11-20T02:00:07Z")], &[]);
    let next = at("2026-11-21T02:00:00Z");
    assert_eq!(nightly(&followed, 1, NOW), Due::At(next));
    // What was promised comes true when its time comes.
    assert_eq!(
        nightly(&followed, 1, &next.to_string()),
        Due::Now(Reason::Schedule)
    );
}

#[test]
fn a_name_of_the_future_stops_neither_schedule_nor_the_backup_after_a_gap() {
    let future = withheld("2999-01-01T00:00:00Z");
    let known = withheld("2026-11-20T02:00:07Z");
    let gapped = seen(&[known, future], &[gap(1, 0x400, 0x600)]);
    let needed = Due::Now(Reason::Gap { end: Lsn(0x600) });
    assert_eq!(without_schedule(&gapped, 1), needed);
    let planned = seen(&[known, future], &[]);
    let mut now = at(NOW);
    for _ in 0..3 {
        match nightly(&planned, 1, &now.to_string()) {
            Due::At(then) => now = then,
            due => {
                assert_eq!(due, Due::Now(Reason::Schedule));
                return;
            }
        }
    }
    panic!("the backup of {now} never came to be due");
}

#[test]
fn a_gap_calls_for_a_backup_after_it_even_without_a_schedule() {
    let before = backup(1, 0x300, "2026-11-20T02:00:07Z");
    let gaps = [gap(1, 0x400, 0x600), gap(1, 0x100, 0x200)];
    let gapped = seen(&[before], &gaps);
    let needed = Due::Now(Reason::Gap { end: Lsn(0x600) });
    assert_eq!(nightly(&gapped, 1, NOW), needed);
    assert_eq!(without_schedule(&gapped, 1), needed);
    for after in [
        backup(1, 0x600, "2026-11-20T02:20:00Z"),
        backup(2, 0x580, "2026-11-20T02:20:00Z"),
        withheld("2026-11-20T02:20:00Z"),
    ] {
        let mended = seen(&[before, after], &gaps);
        assert_eq!(without_schedule(&mended, 2), Due::No, "{after:?}");
    }
    let unreadable = seen(&[withheld("2026-11-20T02:00:07Z")], &gaps);
    assert_eq!(without_schedule(&unreadable, 1), needed);
}

#[test]
fn a_new_timeline_gets_a_backup_of_its_own() {
    let old = backup(1, 0x300, "2026-11-20T02:00:07Z");
    let switched = Due::Now(Reason::Timeline(timeline(2)));
    assert_eq!(nightly(&seen(&[old], &[]), 2, NOW), switched);
    let both = seen(&[old, backup(2, 0x900, "2026-11-20T02:20:00Z")], &[]);
    assert!(matches!(nightly(&both, 2, NOW), Due::At(_)));
}

#[test]
fn what_cannot_be_read_is_told_by_its_time() {
    let switched_at = Some(at("2026-11-20T02:10:00Z"));
    let mut backups = seen(&[withheld("2026-11-20T02:00:07Z")], &[]);
    assert!(matches!(nightly(&backups, 1, NOW), Due::At(_)));
    backups.timeline_begun = switched_at;
    assert_eq!(
        nightly(&backups, 2, NOW),
        Due::Now(Reason::Timeline(timeline(2)))
    );
    backups.backups.push(withheld("2026-11-20T02:20:00Z"));
    assert!(matches!(nightly(&backups, 2, NOW), Due::At(_)));
}
