use std::time::Duration;

use walvault_archive::layout::BackupId;
use walvault_protocol::{LsnRange, ServerVersion, SystemId};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn backup(on: u32, start: u64, started: &str) -> BackupRecord {
    BackupRecord {
        version: 1,
        id: BackupId::new(at(started), 1),
        kind: "full".to_owned(),
        label: String::new(),
        system_id: SystemId(1),
        server_version: ServerVersion(150_000),
        timeline: timeline(on),
        start_lsn: Lsn(start),
        stop_lsn: Lsn(start + 0x100),
        started_at: at(started),
        stopped_at: at(started),
        size: 0,
        stored_size: 0,
        file_count: 0,
        tablespaces: Vec::new(),
        part_count: 0,
        kept: false,
    }
}

fn gap(on: u32, start: u64, end: u64) -> GapRecord {
    GapRecord {
        version: 1,
        timeline: timeline(on),
        range: LsnRange::new(Lsn(start), Lsn(end)),
        cause: String::new(),
        noticed_at: at("2026-11-21T00:00:00Z"),
    }
}

fn nightly() -> Schedule {
    Schedule::new("0 2 * * *", "UTC", Duration::ZERO).unwrap()
}

fn on_schedule(backups: &[BackupRecord], gaps: &[GapRecord], on: u32, now: &str) -> Due {
    due(backups, gaps, timeline(on), Some(&nightly()), at(now))
}

#[test]
fn an_archive_without_a_backup_gets_one_at_once() {
    let now = "2026-11-21T12:00:00Z";
    assert_eq!(on_schedule(&[], &[], 1, now), Due::Now(Reason::First));
    assert_eq!(due(&[], &[], timeline(1), None, at(now)), Due::No);
}

#[test]
fn runs_are_reckoned_from_the_newest_backup() {
    let backups = [
        backup(1, 0x300, "2026-11-20T02:00:07Z"),
        backup(1, 0x100, "2026-11-18T02:00:07Z"),
    ];
    assert_eq!(
        on_schedule(&backups, &[], 1, "2026-11-20T02:30:00Z"),
        Due::At(at("2026-11-21T02:00:00Z"))
    );
    // However many were missed while nobody was there, one backup answers for them.
    let late = "2026-12-24T12:00:00Z";
    assert_eq!(
        on_schedule(&backups, &[], 1, late),
        Due::Now(Reason::Schedule)
    );
    let caught_up = [backup(1, 0x500, late)];
    assert_eq!(
        on_schedule(&caught_up, &[], 1, late),
        Due::At(at("2026-12-25T02:00:00Z"))
    );
}

#[test]
fn a_clock_that_was_ahead_stops_no_schedule() {
    let ahead = [backup(1, 0x300, "2036-01-01T00:00:00Z")];
    assert_eq!(
        on_schedule(&ahead, &[], 1, "2026-11-20T12:00:00Z"),
        Due::At(at("2026-11-21T02:00:00Z"))
    );
}

#[test]
fn a_gap_calls_for_a_backup_after_it_even_without_a_schedule() {
    let now = "2026-11-20T02:30:00Z";
    let backups = [backup(1, 0x300, "2026-11-20T02:00:07Z")];
    let gaps = [gap(1, 0x400, 0x600), gap(1, 0x100, 0x200)];
    let end = Lsn(0x600);
    assert_eq!(
        on_schedule(&backups, &gaps, 1, now),
        Due::Now(Reason::Gap { end })
    );
    assert_eq!(
        due(&backups, &gaps, timeline(1), None, at(now)),
        Due::Now(Reason::Gap { end })
    );
    for after in [
        backup(1, 0x600, "2026-11-20T02:20:00Z"),
        backup(2, 0x580, "2026-11-20T02:20:00Z"),
    ] {
        let backups = [backups[0].clone(), after];
        assert_eq!(due(&backups, &gaps, timeline(2), None, at(now)), Due::No);
    }
}

#[test]
fn a_new_timeline_gets_a_backup_of_its_own() {
    let now = "2026-11-20T02:30:00Z";
    let old = backup(1, 0x300, "2026-11-20T02:00:07Z");
    assert_eq!(
        on_schedule(std::slice::from_ref(&old), &[], 2, now),
        Due::Now(Reason::Timeline(timeline(2)))
    );
    let both = [old, backup(2, 0x900, "2026-11-20T02:20:00Z")];
    assert!(matches!(on_schedule(&both, &[], 2, now), Due::At(_)));
}
