//! What can be restored: backups, recovery windows, WAL and the gaps in it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::catalog::RecoveryWindow;
use walvault_archive::keep::Hold;
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::{Lsn, LsnRange, TimelineId};

use super::{Sources, Span};

/// It, when the archive was read.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Coverage {
    /// Complete backups, oldest first.
    pub backups: Vec<BackupHeld>,
    /// Spans in which every instant can be restored; `None` where backups could not be opened.
    pub windows: Option<Vec<RecoveryWindow>>,
    /// The WAL of each timeline.
    pub timelines: Vec<TimelineHeld>,
    /// WAL that is missing between what is held.
    pub gaps: Vec<Gap>,
    /// Why no more than names could be read.
    pub withheld: Option<String>,
}

/// A complete backup.
#[derive(Debug, Clone, Serialize)]
pub struct BackupHeld {
    /// Its name.
    pub id: BackupId,
    /// When it was begun.
    pub begun_at: Option<Timestamp>,
    /// When its data had been read.
    pub stopped_at: Option<Timestamp>,
    /// Bytes of its files.
    pub size: Option<u64>,
    /// Bytes of its objects.
    pub stored_size: Option<u64>,
    /// Legal holds on it that were not released.
    pub holds: Vec<Hold>,
    /// Whether `keep` keeps it.
    pub kept: bool,
}

/// The WAL of one timeline.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineHeld {
    /// Which.
    pub timeline: TimelineId,
    /// Runs without a hole, each from its first byte to the one after its last.
    pub runs: Vec<Run>,
}

/// A run of WAL.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Run {
    /// Its first byte.
    pub start_lsn: Lsn,
    /// The byte after its last.
    pub end_lsn: Lsn,
}

/// WAL that is missing.
#[derive(Debug, Clone, Serialize)]
pub struct Gap {
    /// On which timeline.
    pub timeline: TimelineId,
    /// What is missing.
    #[serde(flatten)]
    pub run: Run,
    /// Why.
    pub cause: String,
    /// When that was noticed.
    pub noticed_at: Option<Timestamp>,
    /// Whether retention removed it, as it was told to.
    pub pruned: bool,
}

impl From<LsnRange> for Run {
    fn from(range: LsnRange) -> Run {
        Run {
            start_lsn: range.start,
            end_lsn: range.end,
        }
    }
}

impl Coverage {
    /// What was read.
    #[must_use]
    pub fn of(sources: &Sources) -> Coverage {
        let held = &sources.held;
        let timelines = held
            .catalog
            .timelines()
            .map(|(timeline, wal)| TimelineHeld {
                timeline,
                runs: wal
                    .coverage
                    .ranges()
                    .iter()
                    .copied()
                    .map(Run::from)
                    .collect(),
            });
        Coverage {
            backups: backups(sources),
            windows: held.windows.clone(),
            timelines: timelines.collect(),
            gaps: gaps(sources),
            withheld: held.withheld.clone(),
        }
    }

    /// Gaps that nobody wanted and that were noticed in a span.
    pub fn noticed<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = &'a Gap> {
        let noticed = |gap: &&Gap| gap.noticed_at.is_some_and(|at| span.holds(at));
        self.gaps.iter().filter(noticed)
    }
}

fn backups(sources: &Sources) -> Vec<BackupHeld> {
    let held = &sources.held;
    if held.withheld.is_none() {
        let catalog = &held.catalog;
        let backup = |record: &walvault_archive::record::BackupRecord| {
            let keeps = catalog.notes(&record.id).map(|notes| &notes.keeps);
            BackupHeld {
                id: record.id.clone(),
                begun_at: Some(record.started_at),
                stopped_at: Some(record.stopped_at),
                size: Some(record.size),
                stored_size: Some(record.stored_size),
                holds: keeps.map_or_else(Vec::new, |keeps| keeps.holds.clone()),
                kept: record.kept || keeps.is_some_and(|keeps| keeps.kept),
            }
        };
        return catalog.backups().iter().map(backup).collect();
    }
    let complete = sources
        .listing
        .iter()
        .filter_map(|listed| match &listed.key {
            ObjectKey::BackupRecord(id) => Some(id.clone()),
            _ => None,
        });
    let named: BTreeSet<BackupId> = complete.collect();
    let backup = |id: BackupId| BackupHeld {
        begun_at: id.begun(),
        id,
        stopped_at: None,
        size: None,
        stored_size: None,
        holds: Vec::new(),
        kept: false,
    };
    named.into_iter().map(backup).collect()
}

fn gaps(sources: &Sources) -> Vec<Gap> {
    let held = &sources.held;
    let mut gaps: Vec<Gap> = Vec::new();
    if held.withheld.is_none() {
        gaps.extend(held.catalog.gaps().iter().map(|record| Gap {
            timeline: record.timeline,
            run: record.range.into(),
            cause: record.cause.clone(),
            noticed_at: Some(record.noticed_at),
            pruned: false,
        }));
        gaps.extend(held.holes.iter().map(|hole| Gap {
            timeline: hole.timeline,
            run: hole.range.into(),
            cause: match hole.pruned {
                true => "removed by a prune".to_owned(),
                false => "objects are missing from the archive".to_owned(),
            },
            noticed_at: None,
            pruned: hole.pruned,
        }));
    } else {
        // What retention removed on purpose cannot be told from what is missing.
        for listed in &sources.listing {
            if let ObjectKey::Gap(timeline, range) = listed.key {
                gaps.push(Gap {
                    timeline,
                    run: range.into(),
                    cause: "recorded; the record is not for the identities given here".to_owned(),
                    noticed_at: Some(listed.modified),
                    pruned: false,
                });
            }
        }
    }
    gaps.sort_by_key(|gap| (gap.timeline, gap.run.start_lsn));
    gaps
}
