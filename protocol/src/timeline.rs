//! Timelines and the history files that tell how one came from another.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lsn::Lsn;

/// A timeline: one line of WAL history, numbered from 1. Displays as eight hexadecimal digits,
/// the way PostgreSQL names files; serialises as a decimal number, the way its manual counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline `initdb` starts.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// `None` for 0, which is no timeline.
    #[must_use]
    pub const fn new(id: u32) -> Option<TimelineId> {
        match NonZeroU32::new(id) {
            Some(id) => Some(TimelineId(id)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for TimelineId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.get())
    }
}

impl<'de> Deserialize<'de> for TimelineId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimelineId, D::Error> {
        TimelineId::new(u32::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("0 is not a timeline"))
    }
}

/// One line of a history file: a timeline that was left, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// The first byte that belongs to the next timeline.
    pub at: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

/// The ancestry of one timeline, as its `.history` file tells it (`timeline.c`, `readTimeLineHistory`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    switches: Vec<TimelineSwitch>,
}

/// A history file that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "history of timeline {timeline}, line {line}: {reason}; compare the file with pg_wal/{timeline}.history on the server"
)]
pub struct TimelineHistoryError {
    /// Whose history.
    pub timeline: TimelineId,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors (timeline 1 has no history file).
    #[must_use]
    pub fn root(timeline: TimelineId) -> TimelineHistory {
        TimelineHistory {
            timeline,
            switches: Vec::new(),
        }
    }

    /// Parses the content of `timeline`'s history file: `parent <tab> switch LSN <tab> reason`,
    /// oldest first, blank lines and `#` comments skipped.
    ///
    /// # Errors
    /// When a line is not of that form, or timelines or positions do not rise.
    pub fn parse(
        timeline: TimelineId,
        content: &[u8],
    ) -> Result<TimelineHistory, TimelineHistoryError> {
        let mut history = TimelineHistory::root(timeline);
        for (index, line) in content.split(|b| *b == b'\n').enumerate() {
            let fail = |reason| TimelineHistoryError {
                timeline,
                line: index + 1,
                reason,
            };
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, char::is_whitespace);
            let parent = words
                .next()
                .and_then(|word| word.parse().ok())
                .and_then(TimelineId::new)
                .ok_or_else(|| fail("it does not begin with a timeline number"))?;
            let at: Lsn = words
                .next()
                .and_then(|word| word.trim().parse().ok())
                .ok_or_else(|| fail("the switch point is not an LSN"))?;
            if let Some(last) = history.switches.last() {
                if parent <= last.timeline {
                    return Err(fail("timeline numbers do not rise"));
                }
                if at < last.at {
                    return Err(fail("switch points go backwards"));
                }
            }
            if parent >= timeline {
                return Err(fail("an ancestor's number is not below the timeline's own"));
            }
            history.switches.push(TimelineSwitch {
                timeline: parent,
                at,
                reason: words.next().unwrap_or_default().trim().to_owned(),
            });
        }
        Ok(history)
    }

    /// Whose history this is.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The timelines left on the way, oldest first.
    #[must_use]
    pub fn switches(&self) -> &[TimelineSwitch] {
        &self.switches
    }

    /// The timeline that the byte at `lsn` belongs to on the way to this one.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.switches
            .iter()
            .find(|switch| lsn < switch.at)
            .map_or(self.timeline, |switch| switch.timeline)
    }

    /// Where `ancestor` was left on the way here; `None` when it is this timeline or no ancestor.
    #[must_use]
    pub fn left_at(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.switches
            .iter()
            .find(|switch| switch.timeline == ancestor)
            .map(|switch| switch.at)
    }

    /// Where this timeline began; `0/0` for one without ancestors.
    #[must_use]
    pub fn begins_at(&self) -> Lsn {
        self.switches
            .last()
            .map_or(Lsn::INVALID, |switch| switch.at)
    }

    /// Whether `timeline` is this one or an ancestor of it.
    #[must_use]
    pub fn passes_through(&self, timeline: TimelineId) -> bool {
        self.timeline == timeline || self.left_at(timeline).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(id: u32) -> TimelineId {
        TimelineId::new(id).expect("not zero")
    }

    #[test]
    fn reads_a_history_as_postgresql_writes_it() {
        let text = b"1\t0/5000148\tno recovery target specified\n\n2\t0/70000A0\tbefore 2026-11-21 06:00:00+00\n";
        let history = TimelineHistory::parse(tli(3), text).expect("a history");
        assert_eq!(history.timeline_at(Lsn(0x0500_0147)), tli(1));
        assert_eq!(history.timeline_at(Lsn(0x0500_0148)), tli(2));
        assert_eq!(history.timeline_at(Lsn(0x0700_00A0)), tli(3));
        assert_eq!(history.left_at(tli(2)), Some(Lsn(0x0700_00A0)));
        assert_eq!(history.begins_at(), Lsn(0x0700_00A0));
        assert!(history.passes_through(tli(1)) && !history.passes_through(tli(4)));
        assert_eq!(
            history.switches()[1].reason,
            "before 2026-11-21 06:00:00+00"
        );
    }

    #[test]
    fn refuses_a_history_that_goes_backwards() {
        for text in [
            "x 0/1 r",
            "1 nowhere r",
            "2\t0/5\tr\n1\t0/6\tr",
            "1\t0/5\tr\n2\t0/4\tr",
            "3\t0/5\tr",
        ] {
            assert!(
                TimelineHistory::parse(tli(3), text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }
}
