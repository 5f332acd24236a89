//! Holes in the WAL that is held, and what made them.

use std::time::Duration;

use walvault_layout::{PRUNED_PREFIX, TAIL_PREFIX, WAL_PREFIX};
use walvault_protocol::{LsnRange, TimelineId};
use walvault_store::clock;

use super::Catalog;
use crate::archive::Archive;
use crate::coverage::Coverage;
use crate::damage::left_out;
use crate::error::Error;
use crate::record::PruneRecord;

/// For how long what follows a hole has to be stored before the hole is told at once.
const SETTLED_SECONDS: i64 = 300;
/// How long an upload that its successors overtook is waited for otherwise.
const OVERTAKEN: Duration = Duration::from_secs(3);

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
        let holes = holes.into_iter().map(explained).collect();
        self.lasting(archive, holes).await
    }

    /// Those of `holes` that are there a little later as well. Several objects are stored at once, so
    /// that one may be on its way while its successors are there.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn lasting(
        &self,
        archive: &Archive,
        mut holes: Vec<Hole>,
    ) -> Result<Vec<Hole>, Error> {
        let now = clock::now();
        let is_fresh = |hole: &Hole| {
            let held = self.wal(hole.timeline).map(|wal| &wal.objects);
            let mut behind = held
                .into_iter()
                .flatten()
                .filter(|held| held.range.start >= hole.range.end);
            // By whichever clock is ahead.
            behind.next().is_some_and(|held| {
                now.duration_since(held.modified).as_secs().abs() < SETTLED_SECONDS
            })
        };
        if !holes.iter().any(|hole| !hole.pruned && is_fresh(hole)) {
            return Ok(holes);
        }
        tokio::time::sleep(OVERTAKEN).await;
        // Chunks go once their unit is stored: listed in this order, none is missed.
        let mut listing = archive.list(TAIL_PREFIX).await?;
        listing.extend(archive.list(WAL_PREFIX).await?);
        let later = Catalog::from_listing(self.segment_size, &listing);
        holes.retain(|hole| {
            let held = later.wal(hole.timeline);
            !held.is_some_and(|wal| wal.coverage.covers(&hole.range))
        });
        Ok(holes)
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
