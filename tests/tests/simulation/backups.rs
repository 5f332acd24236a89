//! The model of base backups: which are there, where they lead, and the WAL that has to stay for them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::{Lsn, SegmentNumber, TimelineId};
use walvault_upkeep::retention::{RetentionPolicy, before};

use crate::world::State;

/// A base backup that was taken, whether or not it was completed or is still there.
#[derive(Debug, Clone)]
pub struct Backup {
    pub id: BackupId,
    /// Index of its timeline.
    pub line: usize,
    pub start: Lsn,
    pub stop: Lsn,
    pub stopped_at: Timestamp,
}

impl State {
    pub fn promised(&self, line: usize) -> Lsn {
        self.promises.get(&line).copied().unwrap_or(Lsn::INVALID)
    }

    /// Whether a backup is complete and there.
    pub fn is_listed(&self, id: &BackupId) -> bool {
        self.complete().contains(id)
    }

    fn listed(&self) -> impl Iterator<Item = &Backup> {
        let complete = self.complete();
        let backups = self.backups.iter();
        backups.filter(move |backup| complete.contains(&backup.id))
    }

    /// The backups whose record is there, and their list of files: a PUT that is repeated may bring the
    /// record of one back that was pruned.
    pub fn complete(&self) -> BTreeSet<BackupId> {
        let size = self.segment();
        let keys = self.objects.keys();
        let keys: Vec<ObjectKey> = keys.filter_map(|key| ObjectKey::parse(key, size)).collect();
        let files = keys.iter().filter_map(|key| match key {
            ObjectKey::BackupFiles(id) => Some(id),
            _ => None,
        });
        let files: BTreeSet<&BackupId> = files.collect();
        let records = keys.iter().filter_map(|key| match key {
            ObjectKey::BackupRecord(id) => Some(id),
            _ => None,
        });
        records.filter(|id| files.contains(id)).cloned().collect()
    }

    /// When a backup's list of files was stored.
    pub fn files_stored(&self, id: &BackupId) -> Option<Timestamp> {
        let key = ObjectKey::BackupFiles(id.clone()).spell(self.segment());
        self.stored.get(&key).copied()
    }

    /// The complete backups that `line` can be restored from: taken on it, or on an ancestor before
    /// that was left.
    pub fn leading_to(&self, line: usize) -> impl Iterator<Item = &Backup> {
        let mut left = vec![(line, Lsn(u64::MAX))];
        let mut at = line;
        while let Some((parent, place)) = self.lines[at].parent {
            left.push((parent, place));
            at = parent;
        }
        self.listed().filter(move |backup| {
            let place = left.iter().find(|(line, _)| *line == backup.line);
            place.is_some_and(|(_, place)| *place >= backup.stop)
        })
    }

    /// From where on the WAL of `line` has to be there; `None` where a prune may have taken all of it.
    pub fn needed_from(&self, line: usize) -> Option<Lsn> {
        if self.pruners.is_empty() {
            return Some(self.lines[0].writer.start);
        }
        let first = |lsn| {
            SegmentNumber::containing(lsn, self.segment())
                .range(self.segment())
                .start
        };
        let newest = || {
            (0..self.lines.len())
                .rev()
                .find(|line| self.is_known(*line))
        };
        let oldest = self
            .leading_to(line)
            .map(|backup| first(backup.start))
            .min();
        // Nobody has taken a backup of the newest timeline yet, and everything of it stays.
        oldest.or_else(|| {
            let begin = match self.lines[line].parent {
                Some((_, left)) => first(left),
                None => self.lines[0].writer.start,
            };
            (newest() == Some(line)).then_some(begin)
        })
    }

    /// Whether the archive has anything of a timeline.
    fn is_known(&self, line: usize) -> bool {
        let timeline = TimelineId::new(line as u32 + 1).expect("not zero");
        let size = self.segment();
        let history = ObjectKey::History(timeline);
        let mut keys = self.objects.keys();
        self.promises.contains_key(&line)
            || keys.any(|key| ObjectKey::parse(key, size).as_ref() == Some(&history))
    }

    /// The backups that `policy` keeps by what it says of them, whatever is done later.
    pub fn kept_by(&self, policy: &RetentionPolicy, now: Timestamp) -> Vec<BackupId> {
        let mut newest_first: Vec<&Backup> = self.listed().collect();
        newest_first.sort_by_key(|backup| std::cmp::Reverse(backup.stopped_at));
        let last = policy.keep_last.unwrap_or(1).max(1) as usize;
        let within = |backup: &Backup| {
            policy
                .window
                .is_some_and(|window| backup.stopped_at > before(now, window))
        };
        let kept = newest_first.iter().enumerate();
        kept.filter(|(place, backup)| *place < last || within(backup))
            .map(|(_, backup)| backup.id.clone())
            .collect()
    }

    /// Where the last record before `lsn` begins.
    pub fn record_before(&self, line: usize, lsn: Lsn) -> Lsn {
        let places = self.places(line);
        let before = places.filter(|(end, _)| *end <= lsn);
        before.map(|(_, start)| start).max().unwrap_or(Lsn::INVALID)
    }
}
