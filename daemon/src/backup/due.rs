//! Which backup is due, told by what the archive holds: the sidecar remembers nothing.

use std::fmt;

use jiff::Timestamp;
use walvault_archive::record::{BackupRecord, GapRecord};
use walvault_protocol::{Lsn, TimelineId};

use crate::schedule::Schedule;

/// Why a backup is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// WAL was lost before it was archived, and only a backup begins the recovery window anew.
    Gap {
        /// Where WAL goes on.
        end: Lsn,
    },
    /// The archive holds no backup.
    First,
    /// The server went on on a new timeline, and every backup is of an older one.
    Timeline(TimelineId),
    /// The schedule says so.
    Schedule,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Gap { end } => write!(f, "WAL was lost before {end}"),
            Reason::First => f.write_str("first backup"),
            Reason::Timeline(timeline) => {
                write!(f, "switch to timeline {}", timeline.get())
            }
            Reason::Schedule => f.write_str("scheduled"),
        }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A backup, now.
    Now(Reason),
    /// A backup, then.
    At(Timestamp),
    /// None until something happens.
    No,
}

/// What is due while `timeline` is being written, in an archive that holds these complete
/// `backups` and `gaps`. A gap calls for a backup always; everything else only where there is a
/// `schedule`, for without one somebody else decides.
#[must_use]
pub fn due(
    backups: &[BackupRecord],
    gaps: &[GapRecord],
    timeline: TimelineId,
    schedule: Option<&Schedule>,
    now: Timestamp,
) -> Due {
    let place = |backup: &BackupRecord| (backup.timeline, backup.start_lsn);
    let furthest = backups.iter().map(place).max();
    let after_gap = gaps.iter().map(|gap| (gap.timeline, gap.range.end)).max();
    if let Some((on, end)) = after_gap
        && furthest < Some((on, end))
    {
        return Due::Now(Reason::Gap { end });
    }
    let Some(schedule) = schedule else {
        return Due::No;
    };
    let Some(last) = backups.iter().map(|backup| backup.started_at).max() else {
        return Due::Now(Reason::First);
    };
    if backups.iter().all(|backup| backup.timeline < timeline) {
        return Due::Now(Reason::Timeline(timeline));
    }
    // A backup that claims to be of the future says nothing about when the next one is due.
    match schedule.due_after(last.min(now)) {
        Some(at) if at <= now => Due::Now(Reason::Schedule),
        Some(at) => Due::At(at),
        None => Due::No,
    }
}

#[cfg(test)]
mod tests;
