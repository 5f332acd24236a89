//! A plain model: a cluster's past, and PostgreSQL's loop over records, one after the other.

use std::sync::Arc;

use walvault_archive::catalog::WalHeld;
use walvault_archive::catalog::window_start::LOOK_BACK;
use walvault_archive::{Archive, Error};
use walvault_protocol::{LsnRange, PgTimestamp, SegmentSize};

use super::super::*;
use crate::line::Line;
use crate::marks::{ArchiveMarks, MarkSource};
use crate::target::{Point, Target};
use crate::testing;

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const SEGMENT: u64 = 1 << 20;
pub(super) const START: u64 = 3 << 20;
pub(super) const NOON: i64 = 1_795_262_400 * SECOND;

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) mark: Option<(PgTimestamp, MarkKind)>,
}

/// Everything a test knows about a cluster's past.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// The records of timeline 1.
    pub(super) first: Vec<Record>,
    /// Where timeline 2 left it, and the records after that.
    pub(super) second: Option<(Lsn, Vec<Record>)>,
    pub(super) backups: Vec<BackupRecord>,
    /// Objects: the timeline and the range; what is between them is missing.
    pub(super) objects: Vec<(u32, LsnRange)>,
}

impl Past {
    /// The records on the way to `timeline`.
    pub(super) fn line(&self, timeline: u32) -> Vec<Record> {
        match (timeline, &self.second) {
            (2, Some((fork, second))) => {
                let before = self.first.iter().filter(|record| record.end <= *fork);
                before.chain(second).cloned().collect()
            }
            _ => self.first.clone(),
        }
    }

    /// From the record at `index` of timeline 1 on, and on timeline 2, the server's clock is `seconds` behind.
    pub(super) fn set_clock_back(&mut self, index: usize, seconds: i64) {
        let second = self.second.iter_mut().flat_map(|(_, records)| records);
        for record in self.first[index..].iter_mut().chain(second) {
            if let Some((time, _)) = &mut record.mark {
                time.0 -= seconds * SECOND;
            }
        }
    }

    pub(super) fn newest_timeline(&self) -> u32 {
        if self.second.is_some() { 2 } else { 1 }
    }

    /// Whether all of a backup was taken before the way to `timeline` left its own.
    pub(super) fn leads_to(&self, timeline: u32, backup: &BackupRecord) -> bool {
        match &self.second {
            Some((fork, _)) if timeline == 2 && backup.timeline.get() == 1 => {
                backup.start_lsn < *fork && backup.stop_lsn <= *fork
            }
            _ => backup.timeline.get() <= timeline,
        }
    }

    /// Up to where PostgreSQL finds the WAL it asks for: from the first byte of the segment that a
    /// backup starts in to the first that is missing.
    pub(super) fn reach(&self, timeline: u32, backup: &BackupRecord) -> Lsn {
        self.held_from(timeline, Lsn(backup.start_lsn.0 / SEGMENT * SEGMENT))
    }

    /// Where the WAL before a backup begins that is looked at.
    pub(super) fn unbroken_before(&self, timeline: u32, backup: &BackupRecord) -> Option<Lsn> {
        let segment = backup.start_lsn.0 / SEGMENT;
        let begins = |back| Some(Lsn(segment.checked_sub(back)? * SEGMENT));
        let mut looked_at = (0..=LOOK_BACK).rev().filter_map(begins);
        looked_at.find(|from| self.held_from(timeline, *from) >= backup.start_lsn)
    }

    /// Whether the archive has a transaction past the target's time that ended before a backup's
    /// redo point, in as much unbroken WAL before it as is looked at.
    /// `None` where no transaction ended there.
    pub(super) fn holds_past(
        &self,
        timeline: u32,
        backup: &BackupRecord,
        target: &Target,
    ) -> Option<bool> {
        let from = self.unbroken_before(timeline, backup)?;
        let line = self.line(timeline);
        let before = line
            .iter()
            .filter(|record| from < record.end && record.end <= backup.start_lsn);
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
    pub(super) fn begins_at(&self, timeline: u32, backup: &BackupRecord, time: Timestamp) -> bool {
        let from = self
            .unbroken_before(timeline, backup)
            .unwrap_or(backup.start_lsn);
        let line = self.line(timeline);
        let held = |record: &&Record| from < record.end && record.end <= backup.stop_lsn;
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
    pub(super) fn outcome(
        &self,
        timeline: u32,
        backup: &BackupRecord,
        target: &Target,
    ) -> Recovery {
        let (line, reach) = (self.line(timeline), self.reach(timeline, backup));
        match (recover(&line, backup, reach, target), &target.point) {
            (Recovery::EndsBeforeTarget, Point::Time(time)) if target.inclusive => {
                let begins = self.begins_at(timeline, backup, *time);
                at_last(&line, backup, reach, *time, begins)
            }
            (recovery, _) => recovery,
        }
    }

    /// Whether a backup was begun after the target's time: as the WAL tells, or by its own clock.
    pub(super) fn is_too_new(&self, timeline: u32, backup: &BackupRecord, target: &Target) -> bool {
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
    pub(super) fn held_from(&self, timeline: u32, from: Lsn) -> Lsn {
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

    pub(super) async fn archive(&self) -> Archive {
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
    pub(super) fn to_mark(&self) -> Option<WalMark> {
        let (time, kind) = self.mark.clone()?;
        Some(WalMark {
            start: self.start,
            end: self.end,
            time,
            kind,
        })
    }

    pub(super) fn ends_transaction(&self) -> Option<(PgTimestamp, u32)> {
        match &self.mark {
            Some((time, MarkKind::Commit { xid } | MarkKind::Abort { xid })) => Some((*time, *xid)),
            _ => None,
        }
    }
}

/// What PostgreSQL does from a backup on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    Stops(Lsn),
    BeforeConsistency,
    EndsBeforeTarget,
}

/// `PerformWalRecovery`, `recoveryStopsBefore` and `recoveryStopsAfter`, record by record.
pub(super) fn recover(
    line: &[Record],
    backup: &BackupRecord,
    reach: Lsn,
    target: &Target,
) -> Recovery {
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

/// The time of the last transaction is reached by its place, though PostgreSQL would not reach it. So is
/// the time at which a window `begins`, or the backup's end where no transaction ended after that.
pub(super) fn at_last(
    line: &[Record],
    backup: &BackupRecord,
    reach: Lsn,
    time: Timestamp,
    begins: bool,
) -> Recovery {
    let replayed = |record: &&Record| record.start >= backup.start_lsn && record.end <= reach;
    let ends = line.iter().filter(replayed).filter_map(|record| {
        let (ended, _) = record.ends_transaction()?;
        Some((ended.unix_micros(), record.end))
    });
    let ends: Vec<(i64, Lsn)> = ends.collect();
    let time = time.as_microsecond();
    let is_known = begins || ends.iter().any(|(ended, _)| *ended == time);
    match ends.last().filter(|(_, end)| *end > backup.stop_lsn) {
        None if begins => Recovery::Stops(backup.stop_lsn),
        Some((_, end)) if is_known => Recovery::Stops(*end),
        _ => Recovery::EndsBeforeTarget,
    }
}

/// Marks out of the archive; whether there is a record is asked of the model, as its objects hold
/// no WAL.
pub(super) struct Source<'a> {
    pub(super) marks: ArchiveMarks<'a>,
    pub(super) past: &'a Past,
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

pub(super) fn records(
    from: u64,
    kinds: Vec<(u8, u64, i64)>,
    mut xid: u32,
    mut time: i64,
) -> Vec<Record> {
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
pub(super) fn cut(timeline: u32, from: Lsn, to: Lsn, cuts: &[(u64, bool)]) -> Vec<(u32, LsnRange)> {
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
