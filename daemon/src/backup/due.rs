//! Which backup is due, told by what the archive holds: the sidecar remembers nothing.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
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

/// By how much a clock may be set back: hours that are had again call for no backup twice. A backup
/// from further ahead does not count.
const SKEW: SignedDuration = SignedDuration::from_hours(24);

/// What is due while `timeline` is being written, by what was `seen` in the archive. A gap calls for a
/// backup always; everything else only where there is a `schedule`, for without one somebody else
/// decides.
#[must_use]
pub fn due(seen: &Seen, timeline: TimelineId, schedule: Option<&Schedule>, now: Timestamp) -> Due {
    // A backup that claims to be of the future was taken by a clock that was ahead, or by nobody. It
    // does not put the next backup off.
    let latest = now.checked_add(SKEW).unwrap_or(Timestamp::MAX);
    let taken = |backup: &&BackupSeen| backup.started_at <= latest;
    let backups: Vec<&BackupSeen> = seen.backups.iter().filter(taken).collect();
    if let Some(gap) = open_gap(seen, latest) {
        return Due::Now(Reason::Gap { end: gap.range.end });
    }
    let Some(schedule) = schedule else {
        return Due::No;
    };
    let Some(last) = backups.iter().map(|backup| backup.started_at).max() else {
        return Due::Now(Reason::First);
    };
    if !backups.iter().any(|backup| is_of(backup, timeline, seen)) {
        return Due::Now(Reason::Timeline(timeline));
    }
    match schedule.due_after(last.min(now)) {
        Some(at) if at <= now => Due::Now(Reason::Schedule),
        Some(at) => Due::At(at),
        None => Due::No,
    }
}

/// The last gap that no backup follows. A backup that cannot be read, and whose name is later than
/// `latest`, follows none.
fn open_gap(seen: &Seen, latest: Timestamp) -> Option<&GapSeen> {
    let follows = |backup: &BackupSeen, gap: &GapSeen| match backup.place {
        Some(place) => place >= (gap.timeline, gap.range.end),
        None => (gap.noticed_at..=latest).contains(&backup.started_at),
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
