//! Holes in the WAL that is held, and what made them.

use walvault_layout::PRUNED_PREFIX;
use walvault_protocol::{LsnRange, TimelineId};

use super::Catalog;
use crate::archive::Archive;
use crate::coverage::Coverage;
use crate::damage::left_out;
use crate::error::Error;
use crate::record::PruneRecord;

/// A run of WAL that is not held, between what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The timeline.
    pub timeline: TimelineId,
    /// What is not held.
    pub range: LsnRange,
    /// Whether prunes removed it, as `wal_window` lets them; else objects are missing.
    pub pruned: bool,
}

impl Catalog {
    /// The holes that were not recorded as gaps, by timeline and position.
    ///
    /// # Errors
    /// When what prunes removed cannot be read.
    pub async fn unrecorded_holes(&self, archive: &Archive) -> Result<Vec<Hole>, Error> {
        let holes = self.holes_beyond(|_| Coverage::default());
        if holes.is_empty() {
            return Ok(holes);
        }
        let mut pruned: Vec<PruneRecord> = Vec::new();
        for object in archive.list(PRUNED_PREFIX).await? {
            match archive.get_record(&object.key).await {
                Ok(record) => pruned.push(record),
                Err(error) if error.is_transient() || error.is_missing() => return Err(error),
                // What it removed counts as missing.
                Err(error) => left_out(&archive.name(&object.key), &error),
            }
        }
        let removed = |timeline: TimelineId| -> Coverage {
            let removed = pruned.iter().flat_map(|record| &record.wal);
            removed
                .filter(|wal| wal.timeline == timeline)
                .map(|wal| wal.range)
                .collect()
        };
        let missing = self.holes_beyond(removed);
        let explained = |hole: Hole| Hole {
            pruned: !missing.contains(&hole),
            ..hole
        };
        Ok(holes.into_iter().map(explained).collect())
    }

    /// The holes that neither recorded gaps nor what `removed` says of a timeline cover.
    pub fn holes_beyond(&self, removed: impl Fn(TimelineId) -> Coverage) -> Vec<Hole> {
        let mut holes = Vec::new();
        for (timeline, wal) in self.timelines() {
            let mut explained = removed(timeline);
            for gap in self.gaps().iter().filter(|gap| gap.timeline == timeline) {
                explained.insert(gap.range);
            }
            let beyond = wal.coverage.holes().into_iter();
            let beyond = beyond.filter(|hole| !explained.covers(hole));
            holes.extend(beyond.map(|range| Hole {
                timeline,
                range,
                pruned: false,
            }));
        }
        holes
    }
}
