//! A line of history: the WAL that recovery would replay on its way to one timeline.

use walvault_archive::catalog::{Catalog, WalHeld};
use walvault_archive::record::BackupRecord;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, TimelineHistory, TimelineId};

/// The way to one timeline, over its ancestors.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    catalog: &'a Catalog,
    history: TimelineHistory,
}

/// One object on the way, and the run of WAL that is taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The timeline it is stored under.
    pub timeline: TimelineId,
    /// The object.
    pub held: WalHeld,
    /// What is taken from it.
    pub span: LsnRange,
}

impl<'a> Line<'a> {
    /// The way to `timeline`.
    #[must_use]
    pub fn new(catalog: &'a Catalog, timeline: TimelineId) -> Line<'a> {
        Line {
            catalog,
            history: catalog.history(timeline),
        }
    }

    /// The timeline it leads to.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.history.timeline()
    }

    /// The size of the cluster's segments.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.catalog.segment_size()
    }

    /// Whether all of `backup` lies on it: begun and ended before its timeline was left.
    #[must_use]
    pub fn holds(&self, backup: &BackupRecord) -> bool {
        self.history.timeline_at(backup.start_lsn) == backup.timeline
            && self
                .history
                .left_at(backup.timeline)
                .is_none_or(|left| backup.stop_lsn <= left)
    }

    /// How far replay can go from `backup` without a hole; before its start when replay cannot begin.
    #[must_use]
    pub fn reach_from(&self, backup: &BackupRecord) -> Lsn {
        self.catalog.reach_from(&self.history, backup)
    }

    /// Where the unbroken WAL before `lsn` begins: see [`Catalog::unbroken_before`].
    #[must_use]
    pub fn unbroken_before(&self, lsn: Lsn, segments: u64) -> Option<Lsn> {
        self.catalog.unbroken_before(&self.history, lsn, segments)
    }

    /// The end of everything held on it, holes or not.
    #[must_use]
    pub fn end(&self) -> Lsn {
        let end = |timeline: TimelineId| {
            let held = self
                .catalog
                .wal(timeline)
                .and_then(|wal| wal.coverage.end());
            let left = self.history.left_at(timeline).unwrap_or(Lsn(u64::MAX));
            held.map_or(Lsn::INVALID, |held| held.min(left))
        };
        let ancestors = self.history.switches().iter().map(|switch| switch.timeline);
        ancestors
            .chain([self.timeline()])
            .map(end)
            .max()
            .unwrap_or(Lsn::INVALID)
    }

    /// The timelines that WAL `[from, to)` is on, in order.
    #[must_use]
    pub fn timelines(&self, from: Lsn, to: Lsn) -> Vec<TimelineId> {
        let first = self.history.timeline_at(from);
        let switches = self.history.switches().iter();
        let entered = switches.filter(|switch| from < switch.at && switch.at < to);
        let next = entered.map(|switch| self.history.timeline_at(switch.at));
        let mut timelines: Vec<TimelineId> = std::iter::once(first).chain(next).collect();
        timelines.dedup();
        timelines
    }

    /// The fewest objects that hold `[from, to)`, up to the first hole.
    #[must_use]
    pub fn pieces(&self, from: Lsn, to: Lsn) -> Vec<Piece> {
        let mut at = from;
        let piece = |(timeline, held): (TimelineId, WalHeld)| {
            let on = self.history.timeline_at(at);
            let limit = self.history.left_at(on).unwrap_or(Lsn(u64::MAX)).min(to);
            let span = LsnRange::new(at, held.range.end.min(limit));
            at = span.end;
            Piece {
                timeline,
                held,
                span,
            }
        };
        let path = self.catalog.path_objects(self.timeline(), from, to);
        path.into_iter().map(piece).collect()
    }
}
