//! What was found out about the archive before a stream begins.

use std::collections::BTreeSet;

use walvault_archive::Catalog;
use walvault_archive::archive::wal_key;
use walvault_layout::{ObjectKey, unit_containing};
use walvault_protocol::{Lsn, TimelineId};

use super::resume::Resume;

/// Where a stream begins, and what is known of the WAL before it.
#[derive(Debug, Clone, Copy)]
pub struct Begin<'a> {
    /// The position, and up to where the archive holds the WAL.
    pub place: Resume,
    /// Which of the archive's objects were opened and compared.
    pub proven: &'a Proven,
}

/// Which of the archive's WAL this process has opened, and found to be this server's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proven {
    /// Whether the newest object is proven: the chunks before it may give way to the server's own
    /// WAL.
    pub newest: bool,
    /// Where the archive's last record begins, where it ends with a whole unit.
    pub last_record: Option<Lsn>,
    /// The whole units that open: their chunks may go. By their first byte.
    pub units: BTreeSet<Lsn>,
}

impl Proven {
    /// These proofs, and the whole units of `catalog` from `start` on: this process stored them, and
    /// their seal was opened when a replica was brought them.
    #[must_use]
    pub fn from_here(&self, catalog: &Catalog, timeline: TimelineId, start: Lsn) -> Proven {
        let stored = superseding(catalog, timeline).map(|(unit, _)| unit);
        let stored = stored.filter(|unit| *unit >= start);
        Proven {
            units: self.units.iter().copied().chain(stored).collect(),
            ..self.clone()
        }
    }
}

/// The whole units of which the archive holds chunks as well.
pub fn superseding(
    catalog: &Catalog,
    timeline: TimelineId,
) -> impl Iterator<Item = (Lsn, ObjectKey)> {
    let size = catalog.segment_size();
    let objects = catalog
        .wal(timeline)
        .map(|wal| wal.objects.as_slice())
        .unwrap_or_default();
    let chunked: BTreeSet<Lsn> = objects
        .iter()
        .filter(|held| !held.whole)
        .map(|held| unit_containing(held.range.start, size).start)
        .collect();
    objects
        .iter()
        .filter(move |held| held.whole && chunked.contains(&held.range.start))
        .map(move |held| (held.range.start, wal_key(timeline, held.range, true)))
}
