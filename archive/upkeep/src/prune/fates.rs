//! Which backups stay: the counting rules, the window, what was said, and the newest.

use std::collections::BTreeMap;

use jiff::Timestamp;
use walvault_archive::catalog::Catalog;
use walvault_archive::keep::Keeps;
use walvault_archive::record::BackupRecord;
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, TimelineHistory, TimelineId};

use super::BackupFate;
use crate::lease::Leases;
use crate::retention::{Candidate, RetentionPolicy, Rule};

/// Judges every complete backup of `catalog`. `locked` are those whose record the store does not
/// let go, `leases` of those that somebody reads.
pub(super) fn judge(
    catalog: &Catalog,
    policy: &RetentionPolicy,
    locked: &BTreeMap<BackupId, Timestamp>,
    leases: &Leases,
    now: Timestamp,
) -> Vec<BackupFate> {
    let lines = Lines::of(catalog);
    let sound: Vec<&BackupRecord> = catalog
        .backups()
        .iter()
        .filter(|backup| lines.is_restorable(backup))
        .collect();
    let candidates: Vec<Candidate> = sound
        .iter()
        .map(|backup| Candidate {
            id: backup.id.clone(),
            stopped_at: backup.stopped_at,
        })
        .collect();
    let mut kept = policy.count(&candidates);
    let mut keep = |id: &BackupId, rule: Rule| kept.entry(id.clone()).or_default().push(rule);
    if let Some(start) = policy.window_start(now) {
        for backup in catalog.backups() {
            if backup.stopped_at >= start {
                keep(&backup.id, Rule::Window);
            }
        }
        for backup in lines.pivots(&sound, start) {
            keep(&backup.id, Rule::Window);
        }
    }
    for backup in lines.newest(&sound) {
        keep(&backup.id, Rule::Newest);
    }
    for backup in catalog.backups() {
        let keeps = catalog.notes(&backup.id).map(|notes| &notes.keeps);
        if backup.kept {
            keep(&backup.id, Rule::Kept);
        }
        if keeps.is_some_and(Keeps::is_in_doubt) {
            keep(&backup.id, Rule::KeepsMissing);
        }
        for hold in keeps.iter().flat_map(|keeps| keeps.active(now)) {
            let (number, reason) = (hold.number, hold.reason.clone());
            keep(&backup.id, Rule::Hold { number, reason });
        }
        if let Some(until) = leases.good.get(&backup.id) {
            keep(&backup.id, Rule::Leased { until: *until });
        }
        let mut untold = catalog.unread_histories().iter();
        if let Some(timeline) = untold.find(|timeline| **timeline > backup.timeline) {
            let timeline = *timeline;
            keep(&backup.id, Rule::HistoryUnread { timeline });
        }
        if !policy.is_set() || sound.is_empty() {
            keep(&backup.id, Rule::NoPolicy);
        }
        if let Some(until) = locked.get(&backup.id) {
            keep(&backup.id, Rule::Locked { until: *until });
        }
    }
    let fate = |backup: &BackupRecord| {
        let mut kept_by = kept.remove(&backup.id).unwrap_or_default();
        kept_by.dedup();
        let goes = kept_by.is_empty();
        BackupFate {
            id: backup.id.clone(),
            stop_time: backup.stopped_at,
            timeline: backup.timeline,
            stored_size: backup.stored_size,
            goes,
            kept_by,
            freed_by: goes.then(|| policy.why_free(now)),
        }
    };
    catalog.backups().iter().map(fate).collect()
}

/// The backups that begin a window at `start`: on each line that was still written then, the
/// newest that ended by `start`.
pub(super) fn begin_window<'a>(
    catalog: &'a Catalog,
    backups: &[&'a BackupRecord],
    start: Timestamp,
) -> Vec<&'a BackupRecord> {
    Lines::of(catalog).pivots(backups, start)
}

/// The ways to every timeline that exists, as far as is proven. WAL that is named of a later one than
/// [`Catalog::latest_timeline`] decides about no backup.
struct Lines<'a> {
    catalog: &'a Catalog,
    histories: Vec<TimelineHistory>,
}

impl<'a> Lines<'a> {
    fn of(catalog: &'a Catalog) -> Lines<'a> {
        let held = catalog.timelines().map(|(timeline, _)| timeline);
        let backed_up = catalog.backups().iter().map(|backup| backup.timeline);
        let mut known: Vec<TimelineId> = held
            .chain(catalog.histories().keys().copied())
            .chain(backed_up)
            .collect();
        let latest = catalog.latest_timeline();
        known.retain(|timeline| Some(*timeline) <= latest);
        known.sort_unstable();
        known.dedup();
        Lines {
            catalog,
            histories: known.into_iter().map(|id| catalog.history(id)).collect(),
        }
    }

    fn pivots<'b>(&self, backups: &[&'b BackupRecord], start: Timestamp) -> Vec<&'b BackupRecord> {
        let lines = self.histories.iter().enumerate();
        let alive = lines.filter(|(index, history)| {
            let newest = index + 1 == self.histories.len();
            newest || self.written_until(history.timeline()) >= Some(start)
        });
        let mut pivots: Vec<&BackupRecord> = alive
            .filter_map(|(_, history)| {
                backups
                    .iter()
                    .copied()
                    .filter(|backup| backup.stopped_at <= start && holds(history, backup))
                    .max_by(|a, b| (a.stopped_at, &a.id).cmp(&(b.stopped_at, &b.id)))
            })
            .collect();
        pivots.sort_by(|a, b| a.id.cmp(&b.id));
        pivots.dedup_by(|a, b| a.id == b.id);
        pivots
    }

    /// The newest of all, and the newest on the way to the newest timeline.
    fn newest<'b>(&self, backups: &[&'b BackupRecord]) -> Vec<&'b BackupRecord> {
        let newest = |among: &mut dyn Iterator<Item = &'b BackupRecord>| {
            among.max_by(|a, b| (a.stopped_at, &a.id).cmp(&(b.stopped_at, &b.id)))
        };
        let of_all = newest(&mut backups.iter().copied());
        let on_line = self.histories.last().and_then(|history| {
            newest(
                &mut backups
                    .iter()
                    .copied()
                    .filter(|backup| holds(history, backup)),
            )
        });
        let mut found: Vec<&BackupRecord> = of_all.into_iter().chain(on_line).collect();
        found.dedup_by(|a, b| a.id == b.id);
        found
    }

    /// When the newest WAL of a timeline was stored: nothing in it was committed later.
    fn written_until(&self, timeline: TimelineId) -> Option<Timestamp> {
        let wal = self.catalog.wal(timeline)?;
        wal.objects.iter().map(|held| held.modified).max()
    }

    /// Whether all the WAL is held that makes a backup consistent.
    fn is_restorable(&self, backup: &BackupRecord) -> bool {
        let reaches = |history: &TimelineHistory| {
            holds(history, backup) && self.catalog.reach_from(history, backup) >= backup.stop_lsn
        };
        self.histories.iter().any(reaches)
    }
}

/// Whether all of a backup lies on the way to a timeline.
fn holds(history: &TimelineHistory, backup: &BackupRecord) -> bool {
    let left = history.left_at(backup.timeline);
    history.timeline_at(backup.start_lsn) == backup.timeline
        && left.unwrap_or(Lsn(u64::MAX)) >= backup.stop_lsn
}
