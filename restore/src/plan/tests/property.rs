//! Plans of random pasts and targets, held against the model.

use proptest::prelude::*;
use walvault_archive::Catalog;
use walvault_protocol::LsnRange;

use super::super::*;
use super::model::{NOON, Past, Record, Recovery, SECOND, START, Source, cut, records};
use super::run;
use crate::marks::ArchiveMarks;
use crate::target::{Point, Target, TimelineChoice};
use crate::testing;

fn kinds(count: usize) -> impl Strategy<Value = Vec<(u8, u64, i64)>> {
    // Records so long that a few of them fill a segment.
    let length = (0u64..20).prop_map(|length| length * 2000);
    prop::collection::vec((0u8..7, length, -2i64..8), 1..count)
}

fn pasts() -> impl Strategy<Value = Past> {
    let cuts = prop::collection::vec((100_000u64..900_000, prop::bool::weighted(0.04)), 1..40);
    let backups = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            0usize..6,
            -3i64..4,
            any::<bool>(),
        ),
        0..4,
    );
    let second = prop::option::of((any::<prop::sample::Index>(), kinds(40)));
    (kinds(80), second, cuts, backups).prop_map(|(first, second, cuts, backups)| {
        let first = records(START, first, 100, NOON);
        let second = second.map(|(fork, kinds)| {
            let fork = &first[fork.index(first.len())];
            // Where the clock stood: it goes on over a promotion.
            let time = first
                .iter()
                .rev()
                .find_map(|record| record.mark.as_ref())
                .map_or(NOON, |(time, _)| time.unix_micros());
            (fork.end, records(fork.end.0, kinds, 500, time))
        });
        let end = |records: &[Record]| records.last().expect("one record").end;
        let mut objects = cut(1, Lsn(START), end(&first), &cuts);
        if let Some((fork, second)) = &second {
            objects.extend(cut(2, *fork, end(second), &cuts));
        }
        let mut past = Past {
            first,
            second,
            backups: Vec::new(),
            objects,
        };
        for (number, (place, length, skew, on_second)) in backups.into_iter().enumerate() {
            let (timeline, records) = match &past.second {
                Some((_, second)) if on_second => (2, second),
                _ => (1, &past.first),
            };
            let begins = place.index(records.len());
            let ends = (begins + length).min(records.len() - 1);
            let range = LsnRange::new(records[begins].start, records[ends].end);
            let time = records[..=ends]
                .iter()
                .rev()
                .find_map(|record| record.mark.as_ref());
            let time = time.map_or(NOON, |(time, _)| time.unix_micros()) + skew * SECOND;
            let time = Timestamp::from_microsecond(time).expect("in range");
            past.backups.push(testing::backup(
                number as u16,
                testing::tli(timeline),
                range,
                time,
            ));
        }
        past
    })
}

/// Targets near something that is there.
fn target_in(past: &Past, kind: u8, place: usize, nudge: i64, inclusive: bool) -> Target {
    let line = past.line(past.newest_timeline());
    let record = &line[place % line.len()];
    let near = line[..=place % line.len()]
        .iter()
        .rev()
        .find_map(|record| record.mark.as_ref());
    let micros = near.map_or(NOON, |(time, _)| time.unix_micros()) + nudge;
    let point = match kind {
        0 => Point::End,
        1 => Point::Immediate,
        2 => Point::Lsn(Lsn(record.start.0.saturating_add_signed(nudge * 8))),
        3 => Point::Xid(record.ends_transaction().map_or(90, |(_, xid)| xid)),
        4 => Point::Name(format!("point{}", nudge.unsigned_abs() % 6)),
        _ => Point::Time(Timestamp::from_microsecond(micros).expect("in range")),
    };
    match Target::exclusive(point.clone()) {
        Ok(target) if !inclusive => target,
        _ => Target::inclusive(point),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn plans_say_what_postgresql_does(
        past in pasts(),
        kind in 0u8..8,
        place in 0usize..200,
        nudge in -3i64..4,
        inclusive: bool,
    ) {
        let target = target_in(&past, kind, place, nudge, inclusive);
        let timeline = past.newest_timeline();
        let line = past.line(timeline);
        run(async {
            let archive = past.archive().await;
            let catalog = Catalog::load(&archive).await.expect("a catalog");
            let source = Source { marks: ArchiveMarks::new(&archive, &catalog), past: &past };
            let request = Request { target: target.clone(), timeline: TimelineChoice::Latest, backup: None };
            let planned = plan(&catalog, &source, &request).await;

            let reach = |backup: &BackupRecord| past.reach(timeline, backup);
            let usable = |backup: &&BackupRecord| past.leads_to(timeline, backup) && reach(backup) >= backup.stop_lsn;
            let outcome = |backup: &BackupRecord| past.outcome(timeline, backup, &target);
            // Where the WAL before a backup's end stops, nothing tells one record from another.
            // And before it was begun, PostgreSQL would stop at a state of later.
            let too_early = |backup: &BackupRecord| match target.point {
                Point::Lsn(lsn) => lsn < backup.stop_lsn,
                _ => past.is_too_new(timeline, backup, &target),
            };
            let leads_there = |backup: &&BackupRecord| {
                usable(backup) && !too_early(backup) && matches!(outcome(backup), Recovery::Stops(_))
            };
            match planned {
                Ok(planned) => {
                    let backup = past.backups.iter().find(|backup| backup.id == planned.backup.id).expect("it is there");
                    prop_assert!(usable(&backup));
                    let Recovery::Stops(stop) = outcome(backup) else {
                        return Err(TestCaseError::fail(format!("{target}: {:?}", outcome(backup))));
                    };
                    match target.point {
                        Point::Lsn(lsn) => prop_assert!(planned.stop.lsn == lsn && stop >= lsn),
                        _ => prop_assert_eq!(planned.stop.lsn, stop),
                    }
                    let newest = catalog.backups().iter().rev().find(leads_there).expect("one leads there");
                    prop_assert_eq!(&newest.id, &backup.id);
                    let commits = |record: &&Record| {
                        record.start >= backup.start_lsn
                            && record.end <= planned.stop.lsn
                            && matches!(record.mark, Some((_, MarkKind::Commit { .. })))
                    };
                    let last = line.iter().rev().find(commits).map(|record| record.start);
                    prop_assert_eq!(planned.stop.last_commit.map(|mark| mark.lsn), last);
                }
                Err(PlanError::Archive(error)) => return Err(TestCaseError::fail(error.to_string())),
                Err(error) => {
                    let missed = catalog.backups().iter().find(leads_there);
                    prop_assert!(missed.is_none(), "{}, but {:?} leads there", error, missed);
                }
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The times that `list` tells of a window are targets, also where the server's clock was set back.
    #[test]
    fn both_ends_of_a_window_are_reached(
        mut past in pasts(),
        set_back_at in any::<prop::sample::Index>(),
        seconds in prop_oneof![Just(0i64), 1..300i64],
    ) {
        past.set_clock_back(set_back_at.index(past.first.len()), seconds);
        run(async {
            let archive = past.archive().await;
            let catalog = Catalog::load(&archive).await.expect("a catalog");
            let source = Source { marks: ArchiveMarks::new(&archive, &catalog), past: &past };
            for window in catalog.windows(&archive).await.expect("windows") {
                for time in std::iter::once(window.start_time).chain(window.end_time) {
                    let request = Request {
                        target: Target::inclusive(Point::Time(time)),
                        timeline: TimelineChoice::Id(window.timeline),
                        backup: None,
                    };
                    if let Err(error) = plan(&catalog, &source, &request).await {
                        return Err(TestCaseError::fail(format!("{time} of {window:?}: {error}")));
                    }
                }
            }
            Ok(())
        })?;
    }
}
