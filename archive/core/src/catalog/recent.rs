//! The part of the catalog that a stream goes on from.
//!
//! An archive may hold years of WAL. A stream that begins again needs the last of it: what lies
//! behind the slot, and whether another server was promoted since.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use walvault_layout::{GAPS_PREFIX, ObjectKey, TAIL_PREFIX, WAL_END, WAL_PREFIX, unit_containing};
use walvault_protocol::{Lsn, LsnRange, SegmentNumber, TimelineHistory, TimelineId};

use super::Catalog;
use crate::archive::{Archive, Listed, wal_key};
use crate::damage::{Damage, left_out};
use crate::error::Error;

/// Units older than that of which chunks are still there are looked for, the newest; the chunks of
/// others stay for a prune.
const OLDER_UNITS: usize = 16;

impl Catalog {
    /// As [`Catalog::load_wal`], of WAL on the way to `history`'s timeline from the segment before
    /// `from` on; of units before that, those of which there are chunks as well. Histories are read
    /// of newer timelines alone.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load_recent(
        archive: &Archive,
        history: &TimelineHistory,
        from: Lsn,
    ) -> Result<Catalog, Error> {
        let size = archive.segment_size();
        let segment = SegmentNumber::containing(from, size).start(size);
        let first = Lsn(segment.0.saturating_sub(size.bytes()));
        // Chunks go away once their unit is stored whole: listed in this order, none is missed.
        let tail = archive.list(TAIL_PREFIX).await?;
        let left = history.switches().iter().filter(|switch| switch.at > first);
        let path = left
            .map(|switch| switch.timeline)
            .chain([history.timeline()]);
        let recent = try_join_all(
            path.map(|timeline| archive.list_units(timeline, LsnRange::new(first, WAL_END))),
        );
        let older = try_join_all(older_units(archive, &tail, history, first));
        let gaps = archive.list(GAPS_PREFIX);
        let newer = newer_histories(archive, history.timeline());
        let (recent, older, mut gaps, newer) = tokio::try_join!(recent, older, gaps, newer)?;
        // Each is opened, and a stream goes on over none that ended before.
        gaps.retain(|gap| matches!(gap.key, ObjectKey::Gap(_, range) if range.end > first));
        let wal = recent.into_iter().chain(older).flatten();
        let wal: Vec<Listed> = wal.chain(newer).collect();
        let listing = wal.iter().chain(&tail).chain(&gaps);
        let mut catalog = Catalog::from_listing(size, listing);
        let damage = Damage::left_out();
        let doubtful = catalog.read_histories(archive, &wal, true, &damage).await?;
        catalog.prove(archive, doubtful, true).await?;
        for (object, error) in damage.into_found() {
            left_out(&object, &error);
        }
        Ok(catalog)
    }
}

/// Looks for the units before `first` of which `tail` has chunks.
fn older_units<'a>(
    archive: &'a Archive,
    tail: &[Listed],
    history: &TimelineHistory,
    first: Lsn,
) -> impl Iterator<Item = impl Future<Output = Result<Vec<Listed>, Error>> + 'a> + 'a {
    let size = archive.segment_size();
    let units: BTreeSet<(Lsn, TimelineId)> = tail
        .iter()
        .filter_map(|chunk| match chunk.key {
            ObjectKey::Tail(timeline, range) => {
                Some((unit_containing(range.start, size).start, timeline))
            }
            _ => None,
        })
        .filter(|(unit, timeline)| *unit < first && history.passes_through(*timeline))
        .collect();
    let newest: Vec<_> = units.into_iter().rev().take(OLDER_UNITS).collect();
    newest.into_iter().map(move |(unit, timeline)| {
        let key = wal_key(timeline, unit_containing(unit, size), true);
        async move {
            let mut found = archive.list(&archive.name(&key)).await?;
            found.retain(|object| object.key == key);
            Ok(found)
        }
    })
}

/// The histories of timelines after `timeline`. One request, where there is none.
async fn newer_histories(archive: &Archive, timeline: TimelineId) -> Result<Vec<Listed>, Error> {
    let mut found = Vec::new();
    // Both `.history` and `/` come before a digit.
    let mut after = format!("{WAL_PREFIX}{timeline}0");
    loop {
        let page = archive.store().list(WAL_PREFIX, Some(&after)).await?;
        let Some(last) = page.objects.last().map(|last| last.key.clone()) else {
            return Ok(found);
        };
        for object in page.objects {
            if let Some(key @ ObjectKey::History(_)) =
                ObjectKey::parse(&object.key, archive.segment_size())
            {
                found.push(Listed {
                    key,
                    size: object.size,
                    modified: object.modified,
                });
            }
        }
        if page.next.is_none() {
            return Ok(found);
        }
        // Over the rest of that timeline's WAL.
        let beyond = last
            .get(..WAL_PREFIX.len() + 8)
            .map(|begin| format!("{begin}0"));
        after = beyond.unwrap_or_default().max(last);
    }
}

#[cfg(test)]
mod tests;
