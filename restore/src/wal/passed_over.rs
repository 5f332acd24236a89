//! What is held of a segment by its name, and does not open.
//!
//! Whoever may write to the store can put any name. Where other objects hold the WAL, or recovery ends
//! before it, such an object is passed over; otherwise it is damage, and nothing may pass for the end.

use std::collections::BTreeSet;

use walvault_archive::archive::wal_key;
use walvault_archive::catalog::{Catalog, WalHeld};
use walvault_archive::damage::{left_out, opens_nowhere};
use walvault_archive::{Archive, Error};
use walvault_layout::ObjectKey;
use walvault_protocol::{Lsn, LsnRange, TimelineId};

use super::WalFetchError;

#[derive(Debug, Default)]
pub(super) struct PassedOver {
    objects: Vec<(ObjectKey, LsnRange, Error)>,
}

impl PassedOver {
    pub(super) fn count(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        self.objects.iter().any(|(passed, _, _)| passed == key)
    }

    /// Takes in the object at `key`, which holds `range` and failed with `error`; gives the error back if
    /// the object may be sound.
    pub(super) async fn add(
        &mut self,
        archive: &Archive,
        key: ObjectKey,
        range: LsnRange,
        error: WalFetchError,
    ) -> Result<(), WalFetchError> {
        match error {
            WalFetchError::Archive(error) if opens_nowhere(archive, &error).await? => {
                left_out(&archive.name(&key), &error);
                self.objects.push((key, range, error));
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Why the WAL at `lsn` cannot be read, where an object was passed over that holds it by its name.
    pub(super) fn take_error_at(&mut self, lsn: Lsn) -> Option<Error> {
        let holding = self
            .objects
            .iter()
            .position(|(_, range, _)| range.contains(lsn))?;
        Some(self.objects.swap_remove(holding).2)
    }

    /// The catalog without them.
    pub(super) fn without(&self, catalog: Catalog) -> Catalog {
        if self.objects.is_empty() {
            return catalog;
        }
        let is_kept = |timeline: TimelineId, held: &WalHeld| {
            !self.contains(&wal_key(timeline, held.range, held.whole))
        };
        catalog.restricted(&BTreeSet::new(), is_kept)
    }
}
