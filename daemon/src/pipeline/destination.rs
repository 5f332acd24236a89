//! Where a stream is stored.

use walvault_archive::{Archive, Catalog};

/// An archive that a stream is stored in, as it stands when the stream begins.
pub struct Destination<'a> {
    /// The archive, in one place.
    pub archive: Archive,
    /// What it holds; `None` when it does not answer: it is brought later what it misses.
    pub catalog: Option<&'a Catalog>,
    /// Whether it holds all that any other place holds.
    pub whole: bool,
    /// Whether it is the only store: then [`Proven`](super::Proven) tells which of its whole units open.
    /// In a replica, whoever compares it with the others finds that out.
    pub only: bool,
}

impl<'a> Destination<'a> {
    /// The archive in the only place where it is.
    #[must_use]
    pub fn only(archive: &Archive, catalog: &'a Catalog) -> Vec<Destination<'a>> {
        vec![Destination {
            archive: archive.clone(),
            catalog: Some(catalog),
            whole: true,
            only: true,
        }]
    }
}
