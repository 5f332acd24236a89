//! When a recovery window begins, by the server's clock.
//!
//! A backup holds every transaction that ended before its end. The first instant that it leads to is
//! the time of the newest of these, which commit indexes tell. The clock of the machine that took the
//! backup counts where no index tells of any.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use walvault_layout::BackupId;
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, TimelineHistory, TimelineId};

use super::{Catalog, WalHeld};
use crate::archive::{Archive, wal_key};
use crate::damage::left_out;
use crate::error::Error;
use crate::record::BackupRecord;

/// How many segments before a backup are looked through for transactions that its files hold.
pub const LOOK_BACK: u64 = 16;
/// How far the times of transactions may be out of the order of their records: each takes its time a
/// moment before its record is written. By more than that the server's clock was set back.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// The same, signed.
const SET_BACK: SignedDuration = SignedDuration::from_secs(CLOCK_TOLERANCE.as_secs().cast_signed());
/// How many objects before a backup's end are read at once.
const AT_ONCE: usize = 16;
/// How many objects behind a backup are looked through for the first transaction.
const LOOK_AHEAD: usize = 16;

/// What WAL told of when windows begin, from one look to the next: WAL before a backup's end does
/// not change.
#[derive(Debug, Default)]
pub struct WindowStarts {
    known: Mutex<BTreeMap<BackupId, Option<Timestamp>>>,
}

impl WindowStarts {
    pub(super) fn keep_only(&self, backups: &[BackupRecord]) {
        let is_there = |id: &BackupId| backups.iter().any(|backup| backup.id == *id);
        self.known().retain(|id, _| is_there(id));
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<BackupId, Option<Timestamp>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    /// Where the unbroken WAL before `lsn` begins: at the beginning of a segment, at most `segments`
    /// before the one of `lsn`. `None` where WAL is missing in that one already.
    #[must_use]
    pub fn unbroken_before(
        &self,
        history: &TimelineHistory,
        lsn: Lsn,
        segments: u64,
    ) -> Option<Lsn> {
        let size = self.segment_size.bytes();
        let segment = lsn.0 / size;
        let begins = |back: u64| Some(Lsn(segment.checked_sub(back)? * size));
        (0..=segments)
            .rev()
            .filter_map(begins)
            .find(|from| self.reach(history, *from) >= lsn)
    }

    /// The first instant that `backup` leads to, in whole microseconds, which are what a target may
    /// have. `end` is how far replay can go on the way to `history`'s timeline.
    pub(super) async fn window_start(
        &self,
        archive: &Archive,
        history: &TimelineHistory,
        backup: &BackupRecord,
        end: Lsn,
        starts: &WindowStarts,
    ) -> Result<Timestamp, Error> {
        let known = starts.known().get(&backup.id).copied();
        let newest = match known {
            Some(newest) => newest,
            None => self.newest_end(archive, history, backup).await?,
        };
        let _ = starts.known().insert(backup.id.clone(), newest);
        if let Some(newest) = newest {
            return Ok(newest);
        }
        let stopped_at = whole_micros(backup.stopped_at);
        let path = self.path_objects(history.timeline(), backup.stop_lsn, end);
        for (timeline, held) in path.into_iter().take(LOOK_AHEAD) {
            let ends = self.ends_within(archive, history, timeline, &held).await?;
            let first = ends.iter().find(|end| end.start >= backup.stop_lsn);
            if let Some(first) = first.and_then(time) {
                return Ok(first.min(stopped_at));
            }
        }
        Ok(stopped_at)
    }

    /// The time of the newest transaction that `backup` holds, as far as the WAL before its end tells. Of
    /// those before its redo point, a time that is far ahead of the last one's is of a clock that was set
    /// back since, and comes again. What replay meets before the backup's end counts whatever its clock
    /// was: recovery would stop there.
    async fn newest_end(
        &self,
        archive: &Archive,
        history: &TimelineHistory,
        backup: &BackupRecord,
    ) -> Result<Option<Timestamp>, Error> {
        let from = self
            .unbroken_before(history, backup.start_lsn, LOOK_BACK)
            .unwrap_or(backup.start_lsn);
        let path = self.path_objects(history.timeline(), from, backup.stop_lsn);
        let newest_first = path.into_iter().rev();
        let read = |(timeline, held): (TimelineId, WalHeld)| async move {
            self.ends_within(archive, history, timeline, &held).await
        };
        let mut objects = stream::iter(newest_first.map(read)).buffered(AT_ONCE);
        let (mut newest, mut last): (Option<Timestamp>, Option<Timestamp>) = (None, None);
        while let Some(ends) = objects.next().await {
            let ends = ends?;
            let held_by_it = ends.iter().rev().filter(|end| end.start < backup.stop_lsn);
            for end in held_by_it {
                let Some(time) = time(end) else { continue };
                if end.start < backup.start_lsn {
                    let last = *last.get_or_insert(time);
                    if time.duration_since(last) > SET_BACK {
                        continue;
                    }
                }
                newest = newest.max(Some(time));
            }
        }
        Ok(newest)
    }

    /// The transaction ends of one object, on the way of `history`. One that does not open is left out.
    pub(super) async fn ends_within(
        &self,
        archive: &Archive,
        history: &TimelineHistory,
        timeline: TimelineId,
        held: &WalHeld,
    ) -> Result<Vec<WalMark>, Error> {
        let mut marks = match self.marks(archive, timeline, held).await {
            Ok(marks) => marks,
            Err(error) if error.is_transient() || error.is_missing() => return Err(error),
            Err(error) => {
                let key = wal_key(timeline, held.range, held.whole);
                left_out(&archive.name(&key), &error);
                return Ok(Vec::new());
            }
        };
        // What a timeline wrote after it was left is on no way to another.
        let left = history.left_at(timeline).unwrap_or(Lsn(u64::MAX));
        marks.retain(|mark| {
            matches!(mark.kind, MarkKind::Commit { .. } | MarkKind::Abort { .. })
                && mark.end <= left
        });
        Ok(marks)
    }
}

fn time(mark: &WalMark) -> Option<Timestamp> {
    Timestamp::from_microsecond(mark.time.unix_micros()).ok()
}

/// The first whole microsecond that is not before `time`.
#[must_use]
pub fn whole_micros(time: Timestamp) -> Timestamp {
    let up = time.as_nanosecond().div_euclid(1000) + i128::from(time.as_nanosecond() % 1000 != 0);
    let micros = i64::try_from(up).ok();
    micros
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .unwrap_or(time)
}
