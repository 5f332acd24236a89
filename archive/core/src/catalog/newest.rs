//! The WAL that was stored last.

use std::cmp::Reverse;

use walvault_layout::ObjectKey;
use walvault_protocol::{LsnRange, TimelineHistory};

use super::Catalog;
use crate::archive::wal_key;

impl Catalog {
    /// The objects that hold the newest of `range` on the timelines of `history`, newest first: as many
    /// as have no more than `most` bytes together, as they are stored.
    #[must_use]
    pub fn newest(&self, history: &TimelineHistory, range: LsnRange, most: u64) -> Vec<ObjectKey> {
        let on_the_way = self
            .timelines()
            .filter(|(timeline, _)| history.passes_through(*timeline));
        let mut held: Vec<_> = on_the_way
            .flat_map(|(timeline, wal)| wal.objects.iter().map(move |held| (timeline, held)))
            .filter(|(_, held)| held.range.end > range.start && held.range.start < range.end)
            .collect();
        held.sort_by_key(|(_, held)| Reverse(held.range.start));
        let mut stored = 0;
        held.into_iter()
            .take_while(|(_, held)| {
                stored += held.size;
                stored <= most
            })
            .map(|(timeline, held)| wal_key(timeline, held.range, held.whole))
            .collect()
    }
}
