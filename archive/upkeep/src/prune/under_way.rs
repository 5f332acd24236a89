//! Backups that are not complete yet: what is left of those that nobody goes on with, and the WAL that
//! the others may need.

use std::time::Duration;

use jiff::Timestamp;
use walvault_archive::archive::{Archive, Listed};
use walvault_archive::catalog::{Catalog, TimelineWal};
use walvault_archive::error::Error;
use walvault_layout::backup_prefix;
use walvault_protocol::{Lsn, SegmentNumber};

use crate::retention::before;

/// Backups without a record, told apart by whether they still grow.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// The objects of those that stored none since the grace time began.
    pub(super) left: Vec<Listed>,
    /// When the first of the others was begun.
    begun: Option<Timestamp>,
}

impl UnderWay {
    /// Looks at what is there of each. One that is being taken has stored an object since `grace` began.
    pub(super) async fn look(
        archive: &Archive,
        catalog: &Catalog,
        grace: Timestamp,
    ) -> Result<UnderWay, Error> {
        let mut under_way = UnderWay::default();
        for id in catalog.unfinished() {
            let objects = archive.list(&backup_prefix(id)).await?;
            if objects.iter().all(|object| object.modified < grace) {
                under_way.left.extend(objects);
                continue;
            }
            let stored = objects.iter().map(|object| object.modified);
            let begun = stored.chain(id.begun()).chain(under_way.begun).min();
            under_way.begun = begun;
        }
        Ok(under_way)
    }

    /// From where on one may need `wal`, if one is being taken: from the segment that had been reached
    /// `margin` before it began. One of a standby starts from a checkpoint that may be as old.
    pub(super) fn needs_from(
        &self,
        catalog: &Catalog,
        wal: &TimelineWal,
        margin: Duration,
    ) -> Option<Lsn> {
        let since = before(self.begun?, margin);
        let earlier = wal.objects.iter().filter(|held| held.modified < since);
        let reached = earlier.map(|held| held.range.end).max();
        let size = catalog.segment_size();
        let begin = |lsn| SegmentNumber::containing(lsn, size).start(size);
        Some(reached.map_or(Lsn::INVALID, begin))
    }
}
