//! Which backup is due, told by what the archive holds: the sidecar remembers nothing.

use std::fmt;

use jiff::Timestamp;
use walvault_archive::catalog::{BackupSeen, GapSeen, Seen};
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

/// What is due while `timeline` is being written, by what was `seen` in the archive. A gap calls for a
/// backup always; everything else only where there is a `schedule`, for without one somebody else
/// decides.
#[must_use]
pub fn due(seen: &Seen, timeline: TimelineId, schedule: Option<&Schedule>, now: Timestamp) -> Due {
    if let Some(gap) = open_gap(seen) {
        return Due::Now(Reason::Gap { end: gap.range.end });
    }
    let Some(schedule) = schedule else {
        return Due::No;
    };
    let Some(last) = seen.backups.iter().map(|backup| backup.started_at).max() else {
        return Due::Now(Reason::First);
    };
    if !seen
        .backups
        .iter()
        .any(|backup| is_of(backup, timeline, seen))
    {
        return Due::Now(Reason::Timeline(timeline));
    }
    // A backup that claims to be of the future says nothing about when the next one is due.
    match schedule.due_after(last.min(now)) {
        Some(at) if at <= now => Due::Now(Reason::Schedule),
        Some(at) => Due::At(at),
        None => Due::No,
    }
}

/// The last gap that no backup follows.
fn open_gap(seen: &Seen) -> Option<&GapSeen> {
    let follows = |backup: &BackupSeen, gap: &GapSeen| match backup.place {
        Some(place) => place >= (gap.timeline, gap.range.end),
        None => backup.started_at >= gap.noticed_at,
    };
    let is_open = |gap: &&GapSeen| !seen.backups.iter().any(|backup| follows(backup, gap));
    let open = seen.gaps.iter().filter(is_open);
    open.max_by_key(|gap| (gap.timeline, gap.range.end))
}

/// Whether a backup was taken on a timeline, or on one that came after it.
fn is_of(backup: &BackupSeen, timeline: TimelineId, seen: &Seen) -> bool {
    match backup.place {
        Some((of, _)) => of >= timeline,
        None => seen
            .timeline_begun
            .is_none_or(|begun| backup.started_at >= begun),
    }
}

#[cfg(test)]
mod tests;
