//! One backup held against a target: where recovery from it would stop.

use jiff::Timestamp;
use walvault_archive::Error;
use walvault_archive::catalog::window_start::{LOOK_BACK, whole_micros};
use walvault_archive::record::BackupRecord;
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, PgTimestamp};

use super::way::Way;
use super::{Stop, StopMark, StopReason};
use crate::line::{Line, Piece};
use crate::marks::{MarkSource, Search, TOLERANCE_MICROS, is_transaction_end};
use crate::target::{Point, Target};

/// How many of the last objects are looked through for the time of the newest transaction.
const NEAR_END: usize = 512;
/// No record of a change is longer, page headers included: a path has at most 1024 bytes.
const LONGEST_CHANGE: u64 = 2048;

/// A backup and the line it lies on.
pub(super) struct Candidate<'a> {
    pub(super) backup: &'a BackupRecord,
    pub(super) line: Line<'a>,
    /// How far replay can go; before the backup's start when it cannot begin.
    pub(super) reach: Lsn,
    pieces: Vec<Piece>,
}

/// What becomes of recovery from a backup.
pub(super) enum Verdict {
    /// It stops at the target.
    Reached(Box<Stop>),
    /// The target comes before the cluster is consistent: an older backup is needed.
    TooNew,
    /// The WAL ends, or has a hole, before the target.
    NotReached,
    /// Not even the WAL up to the backup's own end is held.
    Broken,
}

impl<'a> Candidate<'a> {
    pub(super) fn new(backup: &'a BackupRecord, line: Line<'a>) -> Candidate<'a> {
        let reach = line.reach_from(backup);
        let pieces = line.pieces(backup.start_lsn, reach);
        Candidate {
            backup,
            line,
            reach,
            pieces,
        }
    }

    /// Follows recovery to where it stops.
    pub(super) async fn judge(
        &self,
        target: &Target,
        source: &impl MarkSource,
    ) -> Result<Verdict, Error> {
        if self.reach < self.backup.stop_lsn {
            return Ok(Verdict::Broken);
        }
        let stop = match &target.point {
            Point::End => Found::Stop(self.reach, StopReason::EndOfWal, None),
            Point::Immediate => Found::Stop(self.backup.stop_lsn, StopReason::Consistent, None),
            Point::Lsn(lsn) => self.at_lsn(*lsn, target, source).await?,
            // What was committed between such a time and the backup is in the backup's files, whether
            // or not PostgreSQL would notice.
            Point::Time(time) if self.is_too_new(*time, target, source).await? => {
                return Ok(Verdict::TooNew);
            }
            Point::Time(time) => match self.search(source).first_past(target).await? {
                Some(mark) => Found::before(mark),
                None => self.at_last(*time, target, source).await?,
            },
            Point::Xid(wanted) => {
                let is_it = |mark: &WalMark| match mark.kind {
                    MarkKind::Commit { xid } | MarkKind::Abort { xid } => xid == *wanted,
                    _ => false,
                };
                match self.search(source).first(is_it).await? {
                    Some(mark) if target.inclusive => Found::after(mark),
                    Some(mark) => Found::before(mark),
                    None => Found::Nothing,
                }
            }
            Point::Name(wanted) => {
                let is_it = |mark: &WalMark| matches!(&mark.kind, MarkKind::RestorePoint { name } if name == wanted);
                match self.search(source).first(is_it).await? {
                    Some(mark) => Found::after(mark),
                    None => Found::Nothing,
                }
            }
        };
        match stop {
            Found::Nothing => Ok(Verdict::NotReached),
            // "requested recovery stop point is before consistent recovery point"
            Found::Stop(lsn, ..) if lsn < self.backup.stop_lsn => Ok(Verdict::TooNew),
            Found::Stop(lsn, reason, at) => Ok(Verdict::Reached(Box::new(Stop {
                lsn,
                reason,
                at: at.as_ref().map(StopMark::from),
                last_commit: self.last_commit(lsn, source).await?,
                next_commit: self.next_commit(lsn, source).await?,
            }))),
        }
    }

    /// Recovery stops before (exclusive) or after the first record that begins at or after `lsn`.
    async fn at_lsn(
        &self,
        lsn: Lsn,
        target: &Target,
        source: &impl MarkSource,
    ) -> Result<Found, Error> {
        let reason = match target.inclusive {
            true => StopReason::AfterRecord,
            false => StopReason::BeforeRecord,
        };
        if lsn < self.backup.stop_lsn {
            return Ok(Found::Stop(lsn, reason, None));
        }
        if lsn >= self.reach {
            return Ok(Found::Nothing);
        }
        // Any mark that begins late enough proves it; the last object is the likeliest to have one.
        let proven = match self.pieces.split_last() {
            Some((last, _)) => {
                let last = Search::new(source, std::slice::from_ref(last), self.backup.start_lsn);
                last.last(|mark| mark.start >= lsn).await?.is_some()
            }
            None => false,
        };
        match proven || source.holds_record(&self.line, lsn, self.reach).await? {
            true => Ok(Found::Stop(lsn, reason, None)),
            false => Ok(Found::Nothing),
        }
    }

    /// The last commit whose record ends by `lsn`.
    async fn last_commit(
        &self,
        lsn: Lsn,
        source: &impl MarkSource,
    ) -> Result<Option<StopMark>, Error> {
        let end = self.pieces.partition_point(|piece| piece.span.start < lsn);
        let commit =
            |mark: &WalMark| matches!(mark.kind, MarkKind::Commit { .. }) && mark.end <= lsn;
        let search = Search::new(source, &self.pieces[..end], self.backup.start_lsn);
        Ok(search.last(commit).await?.as_ref().map(StopMark::from))
    }

    /// The first commit whose record ends behind `lsn`.
    async fn next_commit(
        &self,
        lsn: Lsn,
        source: &impl MarkSource,
    ) -> Result<Option<StopMark>, Error> {
        let begin = self.pieces.partition_point(|piece| piece.span.end <= lsn);
        let commit =
            |mark: &WalMark| matches!(mark.kind, MarkKind::Commit { .. }) && mark.end > lsn;
        let search = Search::new(source, &self.pieces[begin..], self.backup.start_lsn);
        Ok(search.first(commit).await?.as_ref().map(StopMark::from))
    }

    /// Recovery to a time ends at the first transaction end past it. Behind the last of the archive there
    /// is none, so that the time of the last itself is reached by its place instead: see
    /// [`super::RestorePlan::recovery_target`].
    async fn at_last(
        &self,
        time: Timestamp,
        target: &Target,
        source: &impl MarkSource,
    ) -> Result<Found, Error> {
        if !target.inclusive {
            return Ok(Found::Nothing);
        }
        let last = self.last_transaction(source).await?;
        // Where none ended after the backup, its consistent state is that of the time at which its
        // recovery window begins.
        let Some(last) = last.filter(|last| last.start >= self.backup.stop_lsn) else {
            return Ok(match self.begins_at(time, source).await? {
                true => Found::Stop(self.backup.stop_lsn, StopReason::Consistent, None),
                false => Found::Nothing,
            });
        };
        // Where the clock was set back, it may be the time of another than the last.
        let wanted = PgTimestamp::from_unix_micros(time.as_microsecond());
        let near = &self.pieces[self.pieces.len().saturating_sub(NEAR_END)..];
        let search = Search::new(source, near, self.backup.start_lsn);
        let is_it = |mark: &WalMark| is_transaction_end(mark) && mark.time == wanted;
        let is_known = search.last(is_it).await?.is_some() || self.begins_at(time, source).await?;
        Ok(match is_known {
            true => Found::after(last),
            false => Found::Nothing,
        })
    }

    /// Whether `time` is that of a transaction that the backup holds, as far as the WAL tells of any,
    /// and else of the backup's end.
    async fn begins_at(&self, time: Timestamp, source: &impl MarkSource) -> Result<bool, Error> {
        let wanted = PgTimestamp::from_unix_micros(time.as_microsecond());
        let from = self.unbroken_before().unwrap_or(self.backup.start_lsn);
        let pieces = self.line.pieces(from, self.backup.stop_lsn);
        // A record that ends there counts, wherever it begins.
        let search = Search::new(source, &pieces, Lsn::INVALID);
        let is_it = |mark: &WalMark| is_transaction_end(mark) && mark.time == wanted;
        Ok(match search.last(is_transaction_end).await? {
            Some(_) => search.last(is_it).await?.is_some(),
            None => time == whole_micros(self.backup.stopped_at),
        })
    }

    /// Whether the backup holds what came after `time`. The WAL tells, by the server's clock. When the
    /// backup was begun is told by the clock of whoever took it, and counts where the WAL tells nothing.
    async fn is_too_new(
        &self,
        time: Timestamp,
        target: &Target,
        source: &impl MarkSource,
    ) -> Result<bool, Error> {
        if let Some(holds_past) = self.holds_past(target, source).await? {
            return Ok(holds_past);
        }
        if time >= self.backup.started_at {
            return Ok(false);
        }
        // One that ended by then, after replay began: the backup was begun before, by the same clock.
        let first = self.search(source).first(is_transaction_end).await?;
        Ok(first.is_none_or(|first| target.is_past(first.time)))
    }

    /// Whether a transaction ended past the time of `target` before replay begins. The backup's
    /// files hold it, and recovery never sees its record. `None` where no WAL tells of any.
    async fn holds_past(
        &self,
        target: &Target,
        source: &impl MarkSource,
    ) -> Result<Option<bool>, Error> {
        // What lies before a hole is not the last that was committed.
        let Some(from) = self.unbroken_before() else {
            return Ok(None);
        };
        let is_past = |mark: &WalMark| is_transaction_end(mark) && target.is_past(mark.time);
        let pieces = self.line.pieces(from, self.backup.start_lsn);
        // A record that ends there counts, wherever it begins.
        let search = Search::new(source, &pieces, Lsn::INVALID);
        let Some(last) = search.last(is_transaction_end).await? else {
            return Ok(None);
        };
        // Was the clock set back since, that time came again later.
        let past = search.last(is_past).await?;
        Ok(Some(past.is_some_and(|past| {
            past.time.0.saturating_sub(last.time.0) <= TOLERANCE_MICROS
        })))
    }

    /// Where the WAL begins that is looked through for transactions that the backup's files hold.
    fn unbroken_before(&self) -> Option<Lsn> {
        self.line.unbroken_before(self.backup.start_lsn, LOOK_BACK)
    }

    /// What replay meets on its way to `stop`.
    pub(super) async fn way_to(&self, stop: &Stop, source: &impl MarkSource) -> Result<Way, Error> {
        let limit = Lsn(stop.lsn.0.saturating_add(LONGEST_CHANGE));
        let end = self
            .pieces
            .partition_point(|piece| piece.span.start < limit);
        let search = Search::new(source, &self.pieces[..end], self.backup.start_lsn);
        let changes = search.changes().await?;
        let (mut replayed, behind): (Vec<WalMark>, Vec<WalMark>) = changes
            .into_iter()
            .partition(|change| change.start < stop.lsn);
        // Recovery to an LSN replays the first record that begins there or later, whatever it is.
        if let (StopReason::AfterRecord, None, Some(next)) =
            (stop.reason, &stop.at, behind.into_iter().next())
            && !source
                .holds_record(&self.line, stop.lsn, next.start)
                .await?
        {
            replayed.push(next);
        }
        Ok(Way::of(&replayed))
    }

    /// How many objects are read to replay up to `lsn`, and their bytes as they are stored.
    pub(super) fn stored_to(&self, lsn: Lsn) -> (u64, u64) {
        let read = self.pieces.iter().filter(|piece| piece.span.start < lsn);
        read.fold((0, 0), |(count, bytes), piece| {
            (count + 1, bytes + piece.held.size)
        })
    }

    /// The last transaction end that can be replayed.
    pub(super) async fn last_transaction(
        &self,
        source: &impl MarkSource,
    ) -> Result<Option<WalMark>, Error> {
        self.search(source).last(is_transaction_end).await
    }

    /// The first transaction end after the cluster is consistent.
    pub(super) async fn first_transaction(
        &self,
        source: &impl MarkSource,
    ) -> Result<Option<WalMark>, Error> {
        let stop = self.backup.stop_lsn;
        self.search(source)
            .first(|mark| is_transaction_end(mark) && mark.start >= stop)
            .await
    }

    fn search<'s, S: MarkSource>(&'s self, source: &'s S) -> Search<'s, S> {
        Search::new(source, &self.pieces, self.backup.start_lsn)
    }
}

/// Where recovery stops, if it does.
enum Found {
    Stop(Lsn, StopReason, Option<WalMark>),
    Nothing,
}

impl Found {
    fn before(mark: WalMark) -> Found {
        Found::Stop(mark.start, StopReason::BeforeRecord, Some(mark))
    }

    fn after(mark: WalMark) -> Found {
        Found::Stop(mark.end, StopReason::AfterRecord, Some(mark))
    }
}
