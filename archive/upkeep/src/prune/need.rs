//! Which WAL the backups that stay are restored with.

use walvault_archive::catalog::Catalog;
use walvault_archive::record::BackupRecord;
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, LsnRange, TimelineId};

/// The WAL that one backup needs.
#[derive(Debug, Clone)]
struct Need<'a> {
    backup: &'a BackupRecord,
    /// The start of the segment that replay begins in: PostgreSQL asks for whole segments.
    from: Lsn,
    /// The last byte that makes it consistent, for a backup that is restored to its own end only;
    /// else all that follows is needed.
    trimmed_at: Option<Lsn>,
}

/// The WAL that all backups that stay need.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    catalog: &'a Catalog,
    /// Oldest first.
    needs: Vec<Need<'a>>,
}

impl<'a> Needs<'a> {
    /// Of `backups`; those that `trim` says of are restored to their own end only.
    pub(super) fn of(
        catalog: &'a Catalog,
        backups: impl IntoIterator<Item = &'a BackupRecord>,
        trim: impl Fn(&BackupRecord) -> bool,
    ) -> Needs<'a> {
        let size = catalog.segment_size();
        let need = |backup: &'a BackupRecord| Need {
            backup,
            from: backup.wal_needed(size).start,
            trimmed_at: trim(backup).then_some(backup.stop_lsn),
        };
        let mut needs: Vec<Need<'a>> = backups.into_iter().map(need).collect();
        needs.sort_by_key(|need| need.from);
        Needs { catalog, needs }
    }

    /// The oldest backup that is restored with any of `range` on `timeline`.
    pub(super) fn who(&self, timeline: TimelineId, range: LsnRange) -> Option<&'a BackupId> {
        self.needs
            .iter()
            .find(|need| self.needs(need, timeline, range))
            .map(|need| &need.backup.id)
    }

    /// Whether a backup that stays leads to `timeline` at all, trimmed or not.
    pub(super) fn leads_to(&self, timeline: TimelineId) -> bool {
        self.needs
            .iter()
            .any(|need| self.reachable(need, timeline).is_some())
    }

    /// Whether all that stays on the way to `timeline` begins at or after `lsn`.
    pub(super) fn begins_after(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        let mut on_the_way = self
            .needs
            .iter()
            .filter(|need| self.reachable(need, timeline).is_some())
            .peekable();
        on_the_way.peek().is_some() && on_the_way.all(|need| lsn <= need.from)
    }

    fn needs(&self, need: &Need<'_>, timeline: TimelineId, range: LsnRange) -> bool {
        let Some(limit) = self.reachable(need, timeline) else {
            return false;
        };
        let within_line = range.end > need.from && range.start < limit;
        within_line
            && need
                .trimmed_at
                // The byte at its end tells PostgreSQL that the record before it was the last.
                .is_none_or(|end| range.start <= end)
    }

    /// Up to where WAL of `timeline` is of use to a backup; `None` when it is not at all.
    fn reachable(&self, need: &Need<'_>, timeline: TimelineId) -> Option<Lsn> {
        let own = need.backup.timeline;
        if timeline == own {
            return Some(Lsn(u64::MAX));
        }
        if timeline > own {
            // A descendant that left the backup's timeline after the backup.
            let left = self.catalog.history(timeline).left_at(own)?;
            return (left >= need.backup.stop_lsn).then_some(Lsn(u64::MAX));
        }
        // An ancestor, up to where it was left: the segment that replay begins in may reach back.
        self.catalog.history(own).left_at(timeline)
    }
}
