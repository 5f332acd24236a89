//! Recovery windows: unbroken spans in which every instant can be restored.

use serde::Serialize;
use walvault_layout::BackupId;
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, TimelineHistory, TimelineId};

use super::window_start::WindowStarts;
use super::{Catalog, WalHeld};
use crate::archive::Archive;
use crate::error::Error;

/// A span in which every instant can be restored, from a backup's consistency point on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryWindow {
    /// The oldest backup whose consistency point begins it.
    pub backup: BackupId,
    /// The timeline that its end is on.
    pub timeline: TimelineId,
    /// The backup's end: nothing before it is consistent.
    pub start_lsn: Lsn,
    /// The end of what can be replayed without a hole.
    pub end_lsn: Lsn,
    /// The first instant in it, by the server's clock: the time of the newest transaction that the
    /// backup holds. Where WAL tells of none, when the backup had been read.
    pub start_time: jiff::Timestamp,
    /// The last commit within it, when it holds one. Its first instant, where the server's clock was set
    /// back to before that.
    pub end_time: Option<jiff::Timestamp>,
}

impl Catalog {
    /// The recovery windows, oldest first: one for each unbroken run of WAL that a backup leads
    /// into, on each timeline that none of the others continues.
    ///
    /// # Errors
    /// When a commit index cannot be read.
    pub async fn windows(&self, archive: &Archive) -> Result<Vec<RecoveryWindow>, Error> {
        self.windows_since(archive, &WindowStarts::default()).await
    }

    /// As [`Catalog::windows`], for who looks again and again: what was read before is in `starts`.
    ///
    /// # Errors
    /// As [`Catalog::windows`].
    pub async fn windows_since(
        &self,
        archive: &Archive,
        starts: &WindowStarts,
    ) -> Result<Vec<RecoveryWindow>, Error> {
        starts.keep_only(self.backups());
        let mut windows: Vec<RecoveryWindow> = Vec::new();
        for backup in self.backups() {
            for timeline in self.tips_from(backup.timeline, backup.stop_lsn) {
                let history = self.history(timeline);
                let end = self.reach_from(&history, backup);
                let end = self.passable(&history, backup.stop_lsn, end);
                if end < backup.stop_lsn {
                    continue;
                }
                let known = windows
                    .iter()
                    .any(|window| window.timeline == timeline && window.end_lsn == end);
                if !known {
                    let end_time = self
                        .last_commit(archive, timeline, backup.stop_lsn, end)
                        .await?;
                    let start_time = self
                        .window_start(archive, &history, backup, end, starts)
                        .await?;
                    windows.push(RecoveryWindow {
                        backup: backup.id.clone(),
                        timeline,
                        start_lsn: backup.stop_lsn,
                        end_lsn: end,
                        start_time,
                        end_time: end_time.map(|end| end.max(start_time)),
                    });
                }
            }
        }
        Ok(windows)
    }

    /// `end`, or the first gap after `from` on the way there: of some gaps the WAL is held, and does not lead over
    /// them.
    fn passable(&self, history: &TimelineHistory, from: Lsn, end: Lsn) -> Lsn {
        let gaps = self.gaps().iter();
        let gaps = gaps.filter(|gap| history.timeline_at(gap.range.start) == gap.timeline);
        let begins = gaps.map(|gap| gap.range.start).filter(|at| *at >= from);
        begins.fold(end, Lsn::min)
    }

    /// The timelines that pass through `lsn` of `timeline` and that no other timeline held
    /// continues at or beyond their own end.
    #[must_use]
    pub fn tips_from(&self, timeline: TimelineId, lsn: Lsn) -> Vec<TimelineId> {
        let passes = |candidate: TimelineId| {
            let history = self.history(candidate);
            candidate == timeline || history.left_at(timeline).is_some_and(|left| left >= lsn)
        };
        let known: Vec<TimelineId> = self
            .timelines()
            .map(|(timeline, _)| timeline)
            .chain(self.histories().keys().copied())
            .filter(|candidate| passes(*candidate))
            .collect();
        let continued = |candidate: TimelineId| {
            let end = self
                .wal(candidate)
                .and_then(|wal| wal.coverage.end())
                .unwrap_or(Lsn::INVALID);
            known.iter().any(|other| {
                self.history(*other)
                    .left_at(candidate)
                    .is_some_and(|left| left >= end)
            })
        };
        let mut tips: Vec<TimelineId> = known
            .iter()
            .copied()
            .filter(|tip| !continued(*tip))
            .collect();
        tips.sort_unstable();
        tips.dedup();
        tips
    }

    /// The time of the newest commit whose record ends in `(from, to]` on the way to `timeline`.
    async fn last_commit(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    ) -> Result<Option<jiff::Timestamp>, Error> {
        let history = self.history(timeline);
        for (on, held) in self.path_objects(timeline, from, to).into_iter().rev() {
            let ends = self.ends_within(archive, &history, on, &held).await?;
            let commit = |mark: &&WalMark| {
                matches!(mark.kind, MarkKind::Commit { .. }) && from < mark.end && mark.end <= to
            };
            if let Some(mark) = ends.iter().rev().find(commit) {
                return Ok(jiff::Timestamp::from_microsecond(mark.time.unix_micros()).ok());
            }
        }
        Ok(None)
    }

    /// The fewest objects that hold `[from, to)` on the way to `timeline`, in order: whole units
    /// where they are held, chunks elsewhere.
    #[must_use]
    pub fn path_objects(
        &self,
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    ) -> Vec<(TimelineId, WalHeld)> {
        let history = self.history(timeline);
        let mut path = Vec::new();
        let mut at = from;
        while at < to {
            let on = history.timeline_at(at);
            let limit = history.left_at(on).unwrap_or(Lsn(u64::MAX)).min(to);
            let next = self.wal(on).and_then(|wal| furthest(&wal.objects, at));
            match next {
                Some(held) => {
                    at = held.range.end.min(limit);
                    path.push((on, held.clone()));
                }
                // The bytes below a switch point may be held by the descendant's copy alone.
                None => match self.descendant_copy(&history, on, at) {
                    Some((timeline, held)) => {
                        at = held.range.end.min(limit);
                        path.push((timeline, held));
                    }
                    None => break,
                },
            }
        }
        path
    }

    fn descendant_copy(
        &self,
        history: &TimelineHistory,
        on: TimelineId,
        at: Lsn,
    ) -> Option<(TimelineId, WalHeld)> {
        let later = history
            .switches()
            .iter()
            .map(|switch| switch.timeline)
            .chain([history.timeline()]);
        later
            .filter(|timeline| *timeline > on)
            .find_map(|timeline| {
                Some((
                    timeline,
                    furthest(&self.wal(timeline)?.objects, at)?.clone(),
                ))
            })
    }
}

/// Of the objects that hold the byte at `lsn`, the one that reaches furthest. An object is never
/// longer than the largest WAL object, so that only a few before `lsn` are looked at.
pub(super) fn furthest(objects: &[WalHeld], lsn: Lsn) -> Option<&WalHeld> {
    let end = objects.partition_point(|held| held.range.start <= lsn);
    let nearest = lsn.0.saturating_sub(walvault_layout::MAX_WAL_OBJECT);
    objects[..end]
        .iter()
        .rev()
        .take_while(|held| held.range.start.0 >= nearest)
        .filter(|held| held.range.contains(lsn))
        .max_by_key(|held| held.range.end)
}
