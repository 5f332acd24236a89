//! Where a stream is stored.

use std::collections::BTreeSet;

use walvault_archive::{Archive, Catalog};
use walvault_protocol::{Lsn, TimelineId};

/// An archive that a stream is stored in, as it stands when the stream begins.
pub struct Destination<'a> {
    /// The archive, in one place.
    pub archive: Archive,
    /// What it holds; `None` when it does not answer: it is brought later what it misses.
    pub catalog: Option<&'a Catalog>,
    /// Whether it holds all that any other place holds.
    pub whole: bool,
    /// The whole units that open in this replica, of which it holds chunks as well; `None` where there
    /// is only one store, and [`Proven`](super::Proven) tells.
    pub units: Option<&'a BTreeSet<(TimelineId, Lsn)>>,
}

impl<'a> Destination<'a> {
    /// The archive in the only place where it is.
    #[must_use]
    pub fn only(archive: &Archive, catalog: &'a Catalog) -> Vec<Destination<'a>> {
        vec![Destination {
            archive: archive.clone(),
            catalog: Some(catalog),
            whole: true,
            units: None,
        }]
    }
}
