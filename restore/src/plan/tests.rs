//! Plans held against a plain model: PostgreSQL's loop over records, one after the other.

use std::sync::Arc;

use proptest::prelude::*;
use walvault_archive::catalog::WalHeld;
use walvault_archive::catalog::window_start::LOOK_BACK;
use walvault_archive::{Archive, Catalog, Error};
use walvault_protocol::wal::Parameters;
use walvault_protocol::{LsnRange, PgTimestamp, SegmentSize};

use super::*;
use crate::line::Line;
use crate::marks::{ArchiveMarks, MarkSource};
use crate::target::{Point, Target, TimelineChoice};
use crate::testing;

const SECOND: i64 = 1_000_000;
const SEGMENT: u64 = 1 << 20;
const START: u64 = 3 << 20;
const NOON: i64 = 1_795_262_400 * SECOND;

#[derive(Debug, Clone)]
struct Record {
    start: Lsn,
    end: Lsn,
    mark: Option<(PgTimestamp, MarkKind)>,
}

/// Everything a test knows about a cluster's past.
#[derive(Debug, Clone)]
struct Past {
    /// The records of timeline 1.
    first: Vec<Record>,
    /// Where timeline 2 left it, and the records after that.
    second: Option<(Lsn, Vec<Record>)>,
    backups: Vec<BackupRecord>,
    /// Objects: the timeline and the range; what is between them is missing.
    objects: Vec<(u32, LsnRange)>,
}

impl Past {
    /// The records on the way to `timeline`.
    fn line(&self, timeline: u32) -> Vec<Record> {
        match (timeline, &self.second) {
            (2, Some((fork, second))) => {
                let before = self.first.iter().filter(|record| record.end <= *fork);
                before.chain(second).cloned().collect()
            }
            _ => self.first.clone(),
        }
    }

    fn newest_timeline(&self) -> u32 {
        if self.second.is_some() { 2 } else { 1 }
    }

    /// Whether all of a backup was taken before the way to `timeline` left its own.
    fn leads_to(&self, timeline: u32, backup: &BackupRecord) -> bool {
        match &self.second {
            Some((fork, _)) if timeline == 2 && backup.timeline.get() == 1 => {
                backup.start_lsn < *fork && backup.stop_lsn <= *fork
            }
            _ => backup.timeline.get() <= timeline,
        }
    }

    /// Up to where PostgreSQL finds the WAL it asks for: from the first byte of the segment that a
    /// backup starts in to the first that is missing.
    fn reach(&self, timeline: u32, backup: &BackupRecord) -> Lsn {
        self.held_from(timeline, Lsn(backup.start_lsn.0 / SEGMENT * SEGMENT))
    }

    /// Whether the archive has a transaction past the target's time that ended before a backup's
    /// redo point, in as much unbroken WAL before it as is looked at.
    /// `None` where no transaction ended there.
    fn holds_past(&self, timeline: u32, backup: &BackupRecord, target: &Target) -> Option<bool> {
        let segment = backup.start_lsn.0 / SEGMENT;
        let held = |from: &Lsn| self.held_from(timeline, *from) >= backup.start_lsn;
        let looked_at = (0..=LOOK_BACK).rev();
        let mut looked_at =
            looked_at.filter_map(|back| Some(Lsn(segment.checked_sub(back)? * SEGMENT)));
        let from = looked_at.find(held)?;
        let line = self.line(timeline);
        let before = line
            .iter()
            .filter(|record| from <= record.start && record.end <= backup.start_lsn);
        let ends: Vec<PgTimestamp> = before
            .filter_map(|record| Some(record.ends_transaction()?.0))
            .collect();
        let last = ends.last()?;
        let past = ends.iter().rev().find(|time| target.is_past(**time));
        // A clock that was set back by more since reaches the target's time a second time.
        let within_tolerance =
            |past: &PgTimestamp| past.0 - last.0 <= crate::marks::TOLERANCE_MICROS;
        Some(past.is_some_and(within_tolerance))
    }

    /// Whether `time` is that of a transaction that a backup holds, as far as is looked at before it,
    /// or of its end where no transaction ended there.
    fn begins_at(&self, timeline: u32, backup: &BackupRecord, time: Timestamp) -> bool {
        let segment = backup.start_lsn.0 / SEGMENT;
        let held = |from: &Lsn| self.held_from(timeline, *from) >= backup.start_lsn;
        let from = (0..=LOOK_BACK)
            .rev()
            .filter_map(|back| Some(Lsn(segment.checked_sub(back)? * SEGMENT)))
            .find(held)
            .unwrap_or(backup.start_lsn);
        let line = self.line(timeline);
        let held = |record: &&Record| from <= record.start && record.end <= backup.stop_lsn;
        let mut ends = line
            .iter()
            .filter(held)
            .filter_map(Record::ends_transaction)
            .map(|(ended, _)| ended.unix_micros())
            .peekable();
        match ends.peek() {
            Some(_) => ends.any(|ended| ended == time.as_microsecond()),
            None => time == backup.stopped_at,
        }
    }

    /// What PostgreSQL does from a backup on, with what a plan makes of the times that a window shows.
    fn outcome(&self, timeline: u32, backup: &BackupRecord, target: &Target) -> Recovery {
        let (line, reach) = (self.line(timeline), self.reach(timeline, backup));
        match (recover(&line, backup, reach, target), &target.point) {
            (Recovery::EndsBeforeTarget, Point::Time(time)) if target.inclusive => {
                match at_last(&line, backup, reach, *time) {
                    None if self.begins_at(timeline, backup, *time) => {
                        Recovery::Stops(backup.stop_lsn)
                    }
                    stops => stops.unwrap_or(Recovery::EndsBeforeTarget),
                }
            }
            (recovery, _) => recovery,
        }
    }

    /// Whether a backup was begun after the target's time: as the WAL tells, or by its own clock.
    fn is_too_new(&self, timeline: u32, backup: &BackupRecord, target: &Target) -> bool {
        let Point::Time(time) = target.point else {
            return false;
        };
        let reach = self.reach(timeline, backup);
        let first = || {
            let line = self.line(timeline);
            let mut replayed = line
                .into_iter()
                .filter(|record| backup.start_lsn <= record.start && record.end <= reach);
            replayed.find_map(|record| Some(record.ends_transaction()?.0))
        };
        self.holds_past(timeline, backup, target)
            .unwrap_or_else(|| {
                time < backup.started_at && first().is_none_or(|first| target.is_past(first))
            })
    }

    /// The end of what is held without a hole from `from` on.
    fn held_from(&self, timeline: u32, from: Lsn) -> Lsn {
        let fork = self
            .second
            .as_ref()
            .map_or(Lsn(u64::MAX), |(fork, _)| *fork);
        let on_the_way = self
            .objects
            .iter()
            .filter_map(|(on, range)| match (on, timeline) {
                (1, 2) => Some(LsnRange {
                    start: range.start,
                    end: range.end.min(fork),
                }),
                _ => (*on == timeline).then_some(*range),
            });
        let on_the_way: Vec<LsnRange> = on_the_way.collect();
        let mut at = from;
        while let Some(next) = on_the_way
            .iter()
            .find(|range| range.start <= at && at < range.end)
        {
            at = next.end;
        }
        at
    }

    async fn archive(&self) -> Archive {
        let archive = testing::archive(SegmentSize::new(SEGMENT).expect("a size")).await;
        if let Some((fork, _)) = &self.second {
            testing::put_history(&archive, testing::tli(2), &format!("1\t{fork}\tforked\n")).await;
        }
        for (timeline, range) in &self.objects {
            let records = match (timeline, &self.second) {
                (2, Some((_, second))) => second,
                _ => &self.first,
            };
            let ends_within =
                |record: &&Record| range.start < record.end && record.end <= range.end;
            let marks: Vec<WalMark> = records
                .iter()
                .filter(ends_within)
                .filter_map(Record::to_mark)
                .collect();
            testing::put_wal(
                &archive,
                testing::tli(*timeline),
                *range,
                false,
                &[],
                &marks,
            )
            .await;
        }
        for backup in &self.backups {
            testing::put_backup(&archive, backup).await;
        }
        archive
    }
}

impl Record {
    fn to_mark(&self) -> Option<WalMark> {
        let (time, kind) = self.mark.clone()?;
        Some(WalMark {
            start: self.start,
            end: self.end,
            time,
            kind,
        })
    }

    fn ends_transaction(&self) -> Option<(PgTimestamp, u32)> {
        match &self.mark {
            Some((time, MarkKind::Commit { xid } | MarkKind::Abort { xid })) => Some((*time, *xid)),
            _ => None,
        }
    }
}

/// What PostgreSQL does from a backup on.
#[derive(Debug, PartialEq, Eq)]
enum Recovery {
    Stops(Lsn),
    BeforeConsistency,
    EndsBeforeTarget,
}

/// `PerformWalRecovery`, `recoveryStopsBefore` and `recoveryStopsAfter`, record by record.
fn recover(line: &[Record], backup: &BackupRecord, reach: Lsn, target: &Target) -> Recovery {
    let consistent = |replayed: Lsn| replayed >= backup.stop_lsn;
    let mut replayed = backup.start_lsn;
    if target.point == Point::Immediate {
        return Recovery::Stops(backup.stop_lsn);
    }
    for record in line {
        if record.start < backup.start_lsn || record.end > reach {
            continue;
        }
        let stops_before = match &target.point {
            Point::Lsn(lsn) => !target.inclusive && record.start >= *lsn,
            Point::Time(time) => {
                let time = PgTimestamp::from_unix_micros(time.as_microsecond());
                let is_past = |(ended, _)| {
                    if target.inclusive {
                        ended > time
                    } else {
                        ended >= time
                    }
                };
                record.ends_transaction().is_some_and(is_past)
            }
            Point::Xid(xid) => {
                !target.inclusive
                    && record
                        .ends_transaction()
                        .is_some_and(|(_, ended)| ended == *xid)
            }
            _ => false,
        };
        if stops_before {
            return if consistent(replayed) {
                Recovery::Stops(record.start)
            } else {
                Recovery::BeforeConsistency
            };
        }
        replayed = record.end;
        let stops_after = match &target.point {
            Point::Lsn(lsn) => target.inclusive && record.start >= *lsn,
            Point::Xid(xid) => {
                target.inclusive
                    && record
                        .ends_transaction()
                        .is_some_and(|(_, ended)| ended == *xid)
            }
            Point::Name(name) => {
                matches!(&record.mark, Some((_, MarkKind::RestorePoint { name: found })) if found == name)
            }
            _ => false,
        };
        if stops_after {
            return if consistent(replayed) {
                Recovery::Stops(replayed)
            } else {
                Recovery::BeforeConsistency
            };
        }
    }
    match target.point {
        Point::End => Recovery::Stops(reach),
        _ => Recovery::EndsBeforeTarget,
    }
}

/// The time of the last transaction is reached by its place, though PostgreSQL would not reach it.
/// `None` where none ended after the backup.
fn at_last(
    line: &[Record],
    backup: &BackupRecord,
    reach: Lsn,
    time: Timestamp,
) -> Option<Recovery> {
    let replayed = |record: &&Record| record.start >= backup.start_lsn && record.end <= reach;
    let ends = line.iter().filter(replayed).filter_map(|record| {
        let (ended, _) = record.ends_transaction()?;
        Some((ended.unix_micros(), record.end))
    });
    let ends: Vec<(i64, Lsn)> = ends.collect();
    let time = time.as_microsecond();
    let (last, end) = ends.last().filter(|(_, end)| *end > backup.stop_lsn)?;
    let is_it = ends.iter().any(|(ended, _)| *ended == time)
        && last + crate::marks::TOLERANCE_MICROS >= time;
    Some(match is_it {
        true => Recovery::Stops(*end),
        false => Recovery::EndsBeforeTarget,
    })
}

/// Marks out of the archive; whether there is a record is asked of the model, as its objects hold
/// no WAL.
struct Source<'a> {
    marks: ArchiveMarks<'a>,
    past: &'a Past,
}

impl MarkSource for Source<'_> {
    async fn marks(&self, timeline: TimelineId, held: &WalHeld) -> Result<Arc<[WalMark]>, Error> {
        self.marks.marks(timeline, held).await
    }

    async fn holds_record(&self, line: &Line<'_>, lsn: Lsn, end: Lsn) -> Result<bool, Error> {
        let records = self.past.line(line.timeline().get());
        Ok(records
            .iter()
            .any(|record| record.start >= lsn && record.end <= end))
    }
}

fn records(from: u64, kinds: Vec<(u8, u64, i64)>, mut xid: u32, mut time: i64) -> Vec<Record> {
    let mut at = from;
    let mut record = |(kind, length, step): (u8, u64, i64)| {
        let start = Lsn(at);
        at += 24 + 8 * length;
        // Times rise, give or take a little.
        time += step * SECOND;
        xid += 1;
        let stamp = PgTimestamp::from_unix_micros(time);
        let mark = match kind {
            0..3 => Some((stamp, MarkKind::Commit { xid })),
            3 => Some((stamp, MarkKind::Abort { xid })),
            4 => Some((
                stamp,
                MarkKind::RestorePoint {
                    name: format!("point{}", xid % 5),
                },
            )),
            _ => None,
        };
        Record {
            start,
            end: Lsn(at),
            mark,
        }
    };
    kinds.into_iter().map(&mut record).collect()
}

/// Cuts `[from, to)` into objects of random lengths, none beyond its segment, and leaves some of
/// them out.
fn cut(timeline: u32, from: Lsn, to: Lsn, cuts: &[(u64, bool)]) -> Vec<(u32, LsnRange)> {
    let mut objects = Vec::new();
    let mut at = from;
    for (length, is_missing) in cuts.iter().cycle().take(200) {
        let segment_end = (at.0 / SEGMENT + 1) * SEGMENT;
        let end = Lsn((at.0 + 16 + length).min(to.0).min(segment_end));
        if at < end && !is_missing {
            objects.push((timeline, LsnRange::new(at, end)));
        }
        at = end;
    }
    objects
}

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
            let time = first
                .last()
                .and_then(|record| record.mark.as_ref())
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

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work)
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

/// A minute of WAL in an object, a commit a second, one backup at the start.
fn quiet_past() -> Past {
    let first = records(START, vec![(0, 2, 1); 600], 100, NOON);
    let end = first.last().expect("one").end;
    let stopped_at = Timestamp::from_microsecond(NOON + 3 * SECOND).expect("in range");
    let mut backup = testing::backup(
        1,
        testing::tli(1),
        LsnRange::new(Lsn(START), first[2].end),
        stopped_at,
    );
    backup.started_at = Timestamp::from_microsecond(NOON).expect("in range");
    Past {
        objects: cut(1, Lsn(START), end, &[(2384, false)]),
        first,
        second: None,
        backups: vec![backup],
    }
}

fn refusal(past: &Past, point: Point) -> String {
    planned(past, point).expect_err("out of reach").to_string()
}

fn planned(past: &Past, point: Point) -> Result<RestorePlan, PlanError> {
    run(async {
        let archive = past.archive().await;
        let catalog = Catalog::load(&archive).await.expect("a catalog");
        let source = Source {
            marks: ArchiveMarks::new(&archive, &catalog),
            past,
        };
        let request = Request {
            target: Target::inclusive(point),
            timeline: TimelineChoice::Latest,
            backup: None,
        };
        plan(&catalog, &source, &request).await
    })
}

fn time_at(seconds: i64) -> Point {
    Point::Time(at(seconds))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_microsecond(NOON + seconds * SECOND).expect("in range")
}

#[test]
fn refusals_say_why_and_what_can_be_reached() {
    let mut past = quiet_past();
    let early = refusal(&past, time_at(1));
    assert!(
        early.contains("before the first backup")
            && early.contains("consistent from 2026-11-21 12:00:03+00"),
        "{early}"
    );
    // No transaction ended so early, but what the backup holds is later.
    assert!(refusal(&past, time_at(-3600)).contains("before the first backup"));
    let late = refusal(&past, time_at(601));
    assert!(
        late.contains("after the last commit") && late.contains("2026-11-21 12:10:00+00"),
        "{late}"
    );
    let end = past.first.last().expect("one").end;
    let late = refusal(&past, Point::Lsn(end));
    assert!(
        late.contains("past the end of the archive") && late.contains(&end.to_string()),
        "{late}"
    );
    assert!(refusal(&past, Point::Xid(99)).contains("transaction 99 is not in the archive"));
    past.objects.remove(5);
    let gap = refusal(&past, time_at(500));
    assert!(
        gap.contains("inside a gap") && gap.contains("take one now"),
        "{gap}"
    );
    past.objects.clear();
    assert!(refusal(&past, Point::End).contains("lacks WAL [0/300000, "));
    // All that the backup replays is held, but not the header of the segment it begins in.
    let backup = &mut past.backups[0];
    (backup.start_lsn, backup.stop_lsn) = (past.first[100].start, past.first[110].end);
    let from = backup.start_lsn;
    past.objects = cut(1, from, end, &[(2384, false)]);
    assert!(refusal(&past, Point::End).contains("lacks WAL [0/300000, "));
    past.backups.clear();
    assert!(refusal(&past, Point::End).contains("no finished base backup"));
}

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
    let planned = super::tests::planned(&past, earlier.point.clone()).expect("within reach");
    assert_eq!(planned.recovery_target(&earlier), earlier);
}

#[test]
fn what_replay_meets_on_its_way_is_in_the_plan() {
    let mut past = quiet_past();
    let zero = PgTimestamp(0);
    let tablespace = |location: &str| MarkKind::Tablespace {
        oid: 16_385,
        location: location.to_owned(),
    };
    let parameters = |max_connections, wal_level| {
        MarkKind::Parameters(Parameters {
            max_connections,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            wal_level,
        })
    };
    past.first[50].mark = Some((zero, tablespace("")));
    past.first[51].mark = Some((zero, tablespace("/data/ts")));
    past.first[52].mark = Some((zero, parameters(200, 1)));
    past.first[53].mark = Some((zero, parameters(150, 1)));
    let (before, after) = (past.first[51].start, past.first[60].start);
    let early = planned(&past, Point::Lsn(past.first[49].start)).expect("within reach");
    assert!(early.tablespaces.is_empty() && early.settings.is_empty());
    // That record itself is replayed: the target is inclusive.
    let at = planned(&past, Point::Lsn(before)).expect("within reach");
    assert_eq!((at.tablespaces.len(), at.settings.len()), (1, 0));
    let late = planned(&past, Point::Lsn(after)).expect("within reach");
    let made = NewTablespace {
        oid: 16_385,
        location: "/data/ts".to_owned(),
        lsn: before,
    };
    assert_eq!(late.tablespaces, [made]);
    let connections = NeededSetting {
        name: "max_connections",
        value: 200,
        lsn: past.first[52].start,
    };
    assert_eq!((late.settings[0], late.settings.len()), (connections, 5));

    past.first[55].mark = Some((zero, parameters(150, 0)));
    let refused = refusal(&past, Point::End);
    let lsn = past.first[55].start.to_string();
    assert!(
        refused.contains("wal_level = minimal") && refused.contains(&lsn),
        "{refused}"
    );
    assert!(planned(&past, Point::Lsn(past.first[54].start)).is_ok());
}

#[test]
fn another_timeline_that_has_the_target_is_named() {
    let mut past = quiet_past();
    let fork = past.first[100].end;
    let second = records(fork.0, vec![(0, 2, 1); 10], 900, NOON + 100 * SECOND);
    past.objects.extend(cut(
        2,
        fork,
        second.last().expect("one").end,
        &[(200, false)],
    ));
    past.second = Some((fork, second));
    let refused = refusal(&past, Point::Xid(500));
    assert!(
        refused.ends_with("timeline 1 does reach it: give --target-timeline 1"),
        "{refused}"
    );
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

/// Recovery would end on timeline 1, and what a promoted server wrote would be lost unsaid.
#[test]
fn a_newest_timeline_without_a_history_is_not_passed_over_unsaid() {
    let past = quiet_past();
    run(async {
        let archive = past.archive().await;
        let planned = async |timeline| {
            let catalog = Catalog::load(&archive).await.expect("a catalog");
            let marks = ArchiveMarks::new(&archive, &catalog);
            let target = Target::inclusive(Point::End);
            let backup = None;
            let request = Request {
                target,
                timeline,
                backup,
            };
            plan(&catalog, &marks, &request).await
        };
        // A name is no timeline.
        let planted = walvault_store::Body::new(bytes::Bytes::from_static(b"planted"));
        let name = "wal/00000003/000000030000000000000003";
        archive.store().put(name, planted).await.expect("put");
        let plan = planned(TimelineChoice::Latest).await.expect("a plan");
        assert_eq!(plan.timeline, testing::tli(1));
        assert!(
            plan.warnings[0].contains("timeline 3"),
            "{:?}",
            plan.warnings
        );

        let unit = LsnRange::new(Lsn(START), Lsn(START + SEGMENT));
        let wal = vec![7; 1 << 20];
        testing::put_wal(&archive, testing::tli(2), unit, true, &wal, &[]).await;
        let refused = planned(TimelineChoice::Latest)
            .await
            .expect_err("which one?");
        assert!(
            matches!(refused, PlanError::HistoryUnread { .. }),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("--target-timeline 1"),
            "{refused}"
        );
        let older = planned(TimelineChoice::Id(testing::tli(1))).await;
        assert_eq!(older.expect("a plan").timeline, testing::tli(1));
        testing::put_history(&archive, testing::tli(2), "1\t0/3100000\tfork\n").await;
        let found = planned(TimelineChoice::Latest).await;
        assert!(
            !matches!(found, Err(PlanError::HistoryUnread { .. })),
            "{found:?}"
        );
    });
}
