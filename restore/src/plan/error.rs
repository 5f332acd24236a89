//! Why a target cannot be reached, and what can.

use std::fmt;

use jiff::Timestamp;
use walvault_archive::catalog::Unreadable;
use walvault_layout::BackupId;
use walvault_protocol::wal::WalMark;
use walvault_protocol::{Lsn, LsnRange, TimelineId};

use super::candidate::Candidate;
use crate::exit::{CommandError, DAMAGED, REFUSED};
use crate::target::{Point, Target, format_instant};

/// An end of what can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// The backup that leads there.
    pub backup: BackupId,
    /// Where that backup begins.
    pub start_lsn: Lsn,
    /// The position.
    pub lsn: Lsn,
    /// The transaction end that is nearest to it, if the WAL holds any.
    pub transaction: Option<Timestamp>,
    /// When the backup had been read.
    pub stopped_at: Timestamp,
}

impl Nearest {
    pub(super) fn new(
        candidate: &Candidate<'_>,
        lsn: Lsn,
        transaction: Option<WalMark>,
    ) -> Box<Nearest> {
        Box::new(Nearest {
            backup: candidate.backup.id.clone(),
            start_lsn: candidate.backup.start_lsn,
            lsn,
            transaction: transaction
                .and_then(|mark| Timestamp::from_microsecond(mark.time.unix_micros()).ok()),
            stopped_at: candidate.backup.stopped_at,
        })
    }

    /// In words that follow "the WAL ends at …".
    fn last_commit(&self) -> String {
        match self.transaction {
            Some(time) => format!("with the last transaction of {}", format_instant(time)),
            None => format!("with no transaction since backup {}", self.backup),
        }
    }
}

/// Why a restore is not begun.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An index or the WAL itself could not be read.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
    /// There is nothing to begin with.
    #[error("the archive holds no finished base backup; take one with 'walvaultd backup'")]
    NoBackup,
    /// The backup, or the only ones there are.
    #[error(
        "{} does not open, so that backup cannot be restored: {}; 'walvault list' shows the others",
        .0.object, .0.reason
    )]
    BackupUnreadable(Unreadable),
    /// The newest timeline exists, and nobody can say which backups lead to it.
    #[error(
        "WAL of timeline {} opens, and its history wal/{timeline}.history is missing, damaged or not for this host to read: it cannot be told what leads to the newest timeline; bring the history back from a copy or an older version, or give {} to recover without what was written on timeline {}",
        timeline.get(), older(*known), timeline.get()
    )]
    HistoryUnread {
        /// The timeline.
        timeline: TimelineId,
        /// The newest before it that recovery can follow.
        known: Option<TimelineId>,
    },
    /// No such backup.
    #[error("the archive holds no backup {id}; it has {}", list(known))]
    UnknownBackup {
        /// As asked for.
        id: BackupId,
        /// Those there are.
        known: Vec<BackupId>,
    },
    /// No such timeline.
    #[error("the archive holds nothing of timeline {}; the latest is {}", timeline.get(), latest.map_or(0, TimelineId::get))]
    UnknownTimeline {
        /// As asked for.
        timeline: TimelineId,
        /// The newest held.
        latest: Option<TimelineId>,
    },
    /// The line does not pass through a backup.
    #[error(
        "no backup leads to timeline {}: backup {backup} was taken on timeline {}, after the other left it or on another branch; give --target-timeline current to stay on the backup's own",
        timeline.get(), backup_timeline.get()
    )]
    NotOnTimeline {
        /// The timeline to be followed.
        timeline: TimelineId,
        /// The newest backup that would have been used.
        backup: BackupId,
        /// Where it was taken.
        backup_timeline: TimelineId,
    },
    /// Not even the WAL of the backup is held.
    #[error(
        "backup {backup} cannot be restored: the archive lacks WAL {missing}, and without it the backup is not consistent; restore the missing objects from a copy of the archive, or take a new backup"
    )]
    BackupBroken {
        /// The newest backup.
        backup: BackupId,
        /// What is missing first.
        missing: LsnRange,
    },
    /// Too early.
    #[error(
        "{target} is before the first backup that could lead to it: {}",
        describe_first(target, first)
    )]
    BeforeBackups {
        /// What was asked for.
        target: Target,
        /// The first that can be reached.
        first: Box<Nearest>,
    },
    /// Too late.
    #[error("{target} is {}", describe_last(target, last))]
    PastEnd {
        /// What was asked for.
        target: Target,
        /// The last that can be reached.
        last: Box<Nearest>,
    },
    /// In a hole.
    #[error(
        "{target} is inside a gap: the archive lacks WAL from {} to {}; {}",
        gap.start, gap.end, describe_gap(before, after.as_deref())
    )]
    InGap {
        /// What was asked for.
        target: Target,
        /// From the end of what can be replayed to where a later backup begins.
        gap: LsnRange,
        /// The last that can be reached before it.
        before: Box<Nearest>,
        /// The first that can be reached after it.
        after: Option<Box<Nearest>>,
    },
    /// Nothing in the WAL has that name or number.
    #[error(
        "{target} is not in the archive: none is found from its backups on to the end of the WAL at {}, {}; check it against the server's log, and 'walvault list' for what is held",
        last.lsn, last.last_commit()
    )]
    NotFound {
        /// What was asked for.
        target: Target,
        /// The end of what was searched.
        last: Box<Nearest>,
    },
    /// PostgreSQL ends recovery where the server was started with `wal_level = minimal`.
    #[error(
        "{target} cannot be recovered from backup {backup}: at LSN {lsn} the server was started with wal_level = minimal, and replay ends there; give --target-lsn {lsn} --target-exclusive for what comes before, and take a base backup now for what comes after"
    )]
    WalLevelMinimal {
        /// What was asked for.
        target: Target,
        /// The newest backup that could have led to it.
        backup: BackupId,
        /// Where the record is.
        lsn: Lsn,
    },
    /// The archive does not show what was archived once.
    #[error(
        "this would recover up to LSN {lsn}, with the last transaction of {}, and not up to {asked}, as --at-least wants: the store may have lost its newest objects, or keep them back; look at its versions, at another copy of the archive, and at other timelines in 'walvault list'", format_instant(*last)
    )]
    Behind {
        /// What was known to be archived.
        asked: String,
        /// Where recovery would stop.
        lsn: Lsn,
        /// The last transaction before.
        last: Timestamp,
    },
    /// Another timeline has it.
    #[error("{source}; timeline {0} does reach it: give --target-timeline {0}", timeline.get())]
    Elsewhere {
        /// Why this one does not.
        source: Box<PlanError>,
        /// Which one does.
        timeline: TimelineId,
    },
}

impl CommandError for PlanError {
    fn exit_code(&self) -> u8 {
        match self {
            PlanError::Archive(error) => error.exit_code(),
            PlanError::BackupUnreadable(record) if !record.withheld && !record.foreign => DAMAGED,
            PlanError::HistoryUnread { .. } => DAMAGED,
            _ => REFUSED,
        }
    }
}

impl PlanError {
    /// Whether an object that was listed is gone: another listing may have what took its place.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, PlanError::Archive(error) if error.is_missing())
    }

    /// Whether the target is out of reach on the timeline that was followed, and may be within
    /// reach on another.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            PlanError::BeforeBackups { .. }
                | PlanError::PastEnd { .. }
                | PlanError::InGap { .. }
                | PlanError::NotFound { .. }
                | PlanError::NotOnTimeline { .. }
        )
    }
}

fn older(known: Option<TimelineId>) -> String {
    match known {
        Some(timeline) => format!("--target-timeline {}", timeline.get()),
        None => "--target-timeline".to_owned(),
    }
}

fn list(known: &[BackupId]) -> impl fmt::Display {
    // The newest are the likeliest to be meant.
    let names: Vec<&str> = known.iter().rev().take(5).map(BackupId::as_str).collect();
    let more = known.len() - names.len();
    match more {
        0 => names.join(", "),
        _ => format!("{} and {more} older", names.join(", ")),
    }
}

fn describe_first(target: &Target, first: &Nearest) -> String {
    let (backup, lsn) = (&first.backup, first.lsn);
    match target.point {
        Point::Time(_) => format!(
            "backup {backup} is consistent from {} on; give a later time, or --backup {backup} --target-immediate",
            format_instant(first.stopped_at)
        ),
        _ => format!(
            "backup {backup} is consistent from LSN {lsn} on; give a later target, or --backup {backup} --target-immediate"
        ),
    }
}

fn describe_last(target: &Target, last: &Nearest) -> String {
    let advice = "PostgreSQL fails when WAL ends before the target; give an earlier one, or none to recover everything";
    match target.point {
        Point::Time(_) => format!(
            "after the last commit in the archive: the WAL ends at {}, {}, and nothing later tells recovery to stop; {advice}",
            last.lsn,
            last.last_commit()
        ),
        _ => format!(
            "past the end of the archive: no record begins there or later, the WAL ends at {}, {}; {advice}",
            last.lsn,
            last.last_commit()
        ),
    }
}

fn describe_gap(before: &Nearest, after: Option<&Nearest>) -> String {
    let before = format!(
        "what can be reached before it ends at {}, {}; --backup {} without a target recovers all of that",
        before.lsn,
        before.last_commit(),
        before.backup
    );
    match after {
        Some(after) => format!(
            "{before}; what can be reached after it begins with backup {}, consistent from {} on, LSN {}",
            after.backup,
            format_instant(after.stopped_at),
            after.lsn
        ),
        None => format!("{before}; no backup follows it: take one now"),
    }
}
