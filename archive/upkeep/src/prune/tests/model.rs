//! The plain model: which segments of which timelines are held, and what follows for restores.
//!
//! It knows nothing of catalogs and coverage. A segment of a line is read from the timeline that
//! the line is on at the segment's end: a switch point lies in the middle of a segment, and the
//! timeline that begins there has that segment whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use proptest::test_runner::TestCaseError;
use walvault_archive::archive::wal_key;
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::{Lsn, LsnRange, TimelineId};

use super::history::SEGMENT;
use crate::retention::{RetentionPolicy, before};

/// Where in a segment a timeline is left.
const SWITCH: u64 = 0x8_0000;

/// A backup, in segments.
#[derive(Debug, Clone)]
pub struct Backup {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub first: u64,
    pub last: u64,
    pub stopped_at: Timestamp,
    pub kept: bool,
    pub objects: Vec<ObjectKey>,
}

/// What must be so after a prune as well.
#[derive(Debug)]
pub struct Promised {
    /// Backups that stay.
    pub backups: BTreeSet<BackupId>,
    /// Segments of timelines that are restored from some backup.
    restorable: Vec<(TimelineId, u64)>,
    /// How far each backup reaches on each line; `None` where a policy may shorten it.
    reaches: Option<BTreeMap<(BackupId, TimelineId), u64>>,
}

/// What is held.
#[derive(Debug)]
pub struct Model {
    /// Each timeline's parent, and the first segment that is its own.
    timelines: BTreeMap<TimelineId, (Option<TimelineId>, u64)>,
    held: BTreeMap<(TimelineId, u64), Timestamp>,
    next: u64,
    /// Oldest first.
    pub backups: Vec<Backup>,
}

impl Model {
    pub fn new() -> Model {
        Model {
            timelines: BTreeMap::from([(TimelineId::FIRST, (None, 1))]),
            held: BTreeMap::new(),
            next: 1,
            backups: Vec::new(),
        }
    }

    /// The timeline that is written.
    pub fn timeline(&self) -> TimelineId {
        *self.timelines.keys().next_back().expect("there is one")
    }

    pub fn next_segment(&self) -> u64 {
        self.next
    }

    /// Archives the next segment.
    pub fn write(&mut self, now: Timestamp) -> (TimelineId, u64) {
        let place = (self.timeline(), self.next);
        self.held.insert(place, now);
        self.next += 1;
        place
    }

    pub fn skip(&mut self, count: u64) {
        self.next += count;
    }

    /// Begins a timeline so many segments back; returns it and its history file.
    pub fn fork(&mut self, back: u64) -> (TimelineId, String) {
        let parent = self.timeline();
        let (_, parents_first) = self.timelines[&parent];
        let first = self.next.saturating_sub(back).max(parents_first);
        let timeline = TimelineId::new(parent.get() + 1).expect("not zero");
        self.timelines.insert(timeline, (Some(parent), first));
        self.next = first;
        let mut lines = Vec::new();
        let mut child = timeline;
        while let (Some(parent), first) = self.timelines[&child] {
            let at = Lsn(first * SEGMENT + SWITCH);
            lines.push(format!("{}\t{at}\tpromoted\n", parent.get()));
            child = parent;
        }
        lines.reverse();
        (timeline, lines.concat())
    }

    /// The timeline that a segment is read from on the way to `line`.
    fn read_from(&self, line: TimelineId, segment: u64) -> TimelineId {
        match self.timelines[&line] {
            (Some(parent), first) if segment < first => self.read_from(parent, segment),
            _ => line,
        }
    }

    fn on_line(&self, line: TimelineId, backup: &Backup) -> bool {
        let mut child = line;
        while child != backup.timeline {
            let (Some(parent), first) = self.timelines[&child] else {
                return false;
            };
            if parent == backup.timeline {
                return first >= backup.last;
            }
            child = parent;
        }
        true
    }

    /// The first segment that replay of a backup lacks on the way to `line`.
    fn reach(&self, line: TimelineId, backup: &Backup) -> u64 {
        let held = |segment: &u64| {
            let from = self.read_from(line, *segment);
            self.held.contains_key(&(from, *segment))
        };
        (backup.first..)
            .find(|segment| !held(segment))
            .expect("it ends")
    }

    fn is_restorable(&self, line: TimelineId, segment: u64) -> bool {
        self.backups.iter().any(|backup| {
            self.on_line(line, backup)
                && backup.last <= segment
                && segment < self.reach(line, backup)
        })
    }

    /// What a prune at `now` has to leave.
    pub fn promised(&self, policy: &RetentionPolicy, now: Timestamp) -> Promised {
        let start = policy.window.map(|window| before(now, window));
        let newest_first = || self.backups.iter().rev();
        let mut backups: BTreeSet<BackupId> = BTreeSet::new();
        let counted = newest_first().take(policy.keep_last.unwrap_or(0) as usize);
        backups.extend(counted.map(|backup| backup.id.clone()));
        backups.extend(newest_first().take(1).map(|backup| backup.id.clone()));
        let days = policy.daily.unwrap_or(0) as usize;
        let mut seen = BTreeSet::new();
        for backup in newest_first() {
            let day = backup.stopped_at.as_second().div_euclid(86_400);
            if !seen.contains(&day) && seen.len() < days {
                seen.insert(day);
                backups.insert(backup.id.clone());
            }
        }
        for backup in &self.backups {
            let in_window = start.is_some_and(|start| backup.stopped_at >= start);
            if backup.kept || in_window || !policy.is_set() {
                backups.insert(backup.id.clone());
            }
        }
        let in_window =
            |(_, at): &(&(TimelineId, u64), &Timestamp)| start.is_some_and(|start| **at > start);
        let restorable = self
            .held
            .iter()
            .filter(in_window)
            .map(|(place, _)| *place)
            .filter(|(timeline, segment)| self.is_restorable(*timeline, *segment))
            .collect();
        Promised {
            backups,
            restorable,
            reaches: policy.wal_window.is_none().then(|| self.reaches()),
        }
    }

    fn reaches(&self) -> BTreeMap<(BackupId, TimelineId), u64> {
        let mut reaches = BTreeMap::new();
        for backup in &self.backups {
            for line in self
                .timelines
                .keys()
                .filter(|line| self.on_line(**line, backup))
            {
                reaches.insert((backup.id.clone(), *line), self.reach(*line, backup));
            }
        }
        reaches
    }

    /// Takes in what a prune left, and holds it against what was promised.
    pub fn observe(
        &mut self,
        listed: &BTreeSet<BackupId>,
        objects: &HashSet<ObjectKey>,
        promised: &Promised,
    ) -> Result<(), TestCaseError> {
        let fail = |reason: String| Err(TestCaseError::fail(reason));
        self.held.retain(|(timeline, segment), _| {
            let range = LsnRange::new(Lsn(segment * SEGMENT), Lsn((segment + 1) * SEGMENT));
            objects.contains(&wal_key(*timeline, range, true))
        });
        self.backups.retain(|backup| listed.contains(&backup.id));
        if let Some(gone) = promised.backups.difference(listed).next() {
            return fail(format!("{gone} was promised and is gone"));
        }
        for backup in &self.backups {
            if let Some(lost) = backup.objects.iter().find(|key| !objects.contains(key)) {
                return fail(format!("{} is listed and lacks {lost:?}", backup.id));
            }
            if self.reach(backup.timeline, backup) <= backup.last {
                return fail(format!("{} is listed and lacks WAL", backup.id));
            }
        }
        for (timeline, segment) in &promised.restorable {
            if !self.is_restorable(*timeline, *segment) {
                return fail(format!(
                    "segment {segment} of timeline {timeline:?} is in the window and cannot be restored any more"
                ));
            }
        }
        let now = self.reaches();
        for (of, then) in promised.reaches.iter().flatten() {
            if now.get(of).is_some_and(|now| now < then) {
                return fail(format!(
                    "{of:?} reached {then} and now reaches {:?}",
                    now[of]
                ));
            }
        }
        Ok(())
    }

    /// After a prune that ran to its end, nothing stays that no rule keeps.
    pub fn nothing_is_too_much(
        &self,
        policy: &RetentionPolicy,
        listed: &BTreeSet<BackupId>,
    ) -> Result<(), TestCaseError> {
        let counts_alone = policy.window.is_none() && policy.daily.is_none();
        let (Some(count), true) = (policy.keep_last, counts_alone) else {
            return Ok(());
        };
        let latest = self.timeline();
        let on_latest = self.backups.iter().rev().find(|b| self.on_line(latest, b));
        for (age, backup) in self.backups.iter().rev().enumerate() {
            let is_newest = on_latest.is_some_and(|newest| newest.id == backup.id);
            let stays = age < count as usize || backup.kept || is_newest;
            if !stays && listed.contains(&backup.id) {
                let reason = format!("{} stays and no rule keeps it", backup.id);
                return Err(TestCaseError::fail(reason));
            }
        }
        Ok(())
    }
}
