//! How each place stands when a stream begins.

use std::time::Duration;

use walvault_archive::{Archive, Catalog, Error};
use walvault_store::StoreError;

use crate::pipeline::{CatchUp, Destination};

/// How long a place may take to say what it holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A place that holds the archive, or is to.
pub struct Place {
    archive: Archive,
    /// What it holds; `None` when it does not say, or holds nothing yet.
    catalog: Option<Catalog>,
    /// Whether it holds all that any place does.
    whole: bool,
}

impl Place {
    /// As the stream sees it.
    #[must_use]
    pub fn destination(&self) -> Destination<'_> {
        Destination {
            archive: self.archive.clone(),
            catalog: self.catalog.as_ref(),
            whole: self.whole,
        }
    }
}

/// Looks at every place of `archive`, where there are several; `union` is what all of them hold
/// together.
///
/// # Errors
/// When a place holds another archive, or none answers.
pub async fn look(
    archive: &Archive,
    union: &Catalog,
    copies: &CatchUp,
) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    let Some(replicas) = copies.replicas() else {
        return Ok(places);
    };
    for (place, one) in archive.each().into_iter().enumerate() {
        let catalog = match replicas.admits(place).await {
            Ok(()) => read(&one).await,
            Err(refused @ StoreError::Refused { .. }) => return Err(refused.into()),
            Err(error) => {
                tracing::warn!(%error, "streaming without this copy of the archive for now");
                None
            }
        };
        places.push(Place {
            whole: catalog.as_ref().is_some_and(|own| is_whole(own, union)),
            archive: one,
            catalog,
        });
    }
    if places.iter().all(|place| place.catalog.is_none()) {
        let reason = "none of the places that hold the archive says what it holds";
        return Err(StoreError::unavailable(archive.url(), "list", "", reason).into());
    }
    Ok(places)
}

async fn read(one: &Archive) -> Option<Catalog> {
    match tokio::time::timeout(PATIENCE, Catalog::load_wal(one)).await {
        Ok(Ok(catalog)) => Some(catalog),
        Ok(Err(error)) => {
            tracing::warn!(archive = one.url(), %error, "streaming without this copy of the archive for now");
            None
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            tracing::warn!(
                archive = one.url(),
                seconds,
                "streaming without this copy of the archive, which does not say what it holds"
            );
            None
        }
    }
}

/// Whether `own` has all the WAL that `union` has.
fn is_whole(own: &Catalog, union: &Catalog) -> bool {
    union.timelines().all(|(timeline, wal)| {
        let held = own.wal(timeline).map(|held| &held.coverage);
        let mut ranges = wal.coverage.ranges().iter();
        ranges.all(|range| held.is_some_and(|held| held.covers(range)))
    })
}
