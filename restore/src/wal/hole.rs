//! What lies behind a hole in the WAL of a line, and whether recovery may take the hole for the end.

use std::collections::BTreeSet;

use walvault_archive::catalog::{Catalog, Hole, WalHeld};
use walvault_archive::record::PruneRecord;
use walvault_archive::{Archive, Error};
use walvault_layout::{PRUNED_PREFIX, tail_prefix, tail_timeline_prefix, wal_prefix};
use walvault_protocol::segment::segment_name;
use walvault_protocol::{Lsn, LsnRange, SegmentNumber, TimelineId};

/// What is behind a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// Nothing, or recovery is planned to end at the hole: at a recorded gap, and where a prune left a
    /// backup with the WAL up to there alone.
    Nothing,
    /// There is no hole: another look shows more.
    Held,
    /// WAL from there on, which a recovery that ends at the hole would lose.
    Lost(Lsn),
}

/// What is behind the hole that begins at `at`, in the segment at `range` of `timeline`. `is_seen`
/// says that WAL behind it was listed already.
pub(super) async fn behind(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
    at: Lsn,
    is_seen: bool,
) -> Result<Behind, Error> {
    if !is_seen && !goes_on(archive, timeline, range).await? {
        return Ok(Behind::Nothing);
    }
    let catalog = Catalog::load(archive).await?;
    let history = catalog.history(timeline);
    // No recovery reads a timeline's segments before the one it began in.
    if range.end <= history.begins_at() {
        return Ok(Behind::Nothing);
    }
    if catalog.reach(&history, at) > at {
        return Ok(Behind::Held);
    }
    let on = history.timeline_at(at);
    let is_recorded = catalog
        .gaps()
        .iter()
        .any(|gap| gap.timeline == on && gap.range.contains(at));
    if is_recorded {
        return Ok(Behind::Nothing);
    }
    let is_behind = |of: TimelineId, held: &WalHeld| {
        held.range.start >= at && (of == timeline || history.timeline_at(held.range.start) == of)
    };
    let behind = catalog.restricted(&BTreeSet::new(), is_behind);
    let mut first = None;
    for (of, wal) in behind.timelines() {
        let start = wal.coverage.ranges().first().map(|range| range.start);
        // Anybody may have put names: what does not open is no WAL.
        if let Some(start) = start
            && first.is_none_or(|first| start < first)
            && behind.proves(archive, of).await?
        {
            first = Some(start);
        }
    }
    let Some(first) = first else {
        return Ok(Behind::Nothing);
    };
    // Around a switch point no timeline alone has WAL on both sides of the hole.
    let is_at_switch = on != timeline || at == history.begins_at();
    let is_lost = match is_at_switch && at > range.start {
        true => is_lost_at_switch(archive, &catalog, on, LsnRange::new(at, first)).await?,
        false => is_lost(archive, &catalog, on, at).await?,
    };
    Ok(match is_lost {
        true => Behind::Lost(first),
        false => Behind::Nothing,
    })
}

async fn is_lost_at_switch(
    archive: &Archive,
    catalog: &Catalog,
    timeline: TimelineId,
    range: LsnRange,
) -> Result<bool, Error> {
    if removed_by_prune(archive, timeline, range.start).await? {
        return Ok(false);
    }
    let hole = Hole {
        timeline,
        range,
        pruned: false,
    };
    let lasting = catalog.lasting(archive, vec![hole]).await?;
    Ok(!lasting.is_empty())
}

/// Whether there was WAL in the hole at `at`, and no prune left it.
async fn is_lost(
    archive: &Archive,
    catalog: &Catalog,
    timeline: TimelineId,
    at: Lsn,
) -> Result<bool, Error> {
    let holes = catalog.unrecorded_holes(archive).await?;
    let is_hole = holes
        .iter()
        .any(|hole| hole.timeline == timeline && hole.range.contains(at) && !hole.pruned);
    // Where a prune took what is before it as well, a recovery was on its way through it.
    let before = Lsn(at.0.saturating_sub(1));
    let held = catalog.wal(timeline);
    let is_held_before = held.is_some_and(|wal| wal.coverage.holding(before).is_some());
    Ok(is_hole || (!is_held_before && removed_by_prune(archive, timeline, at).await?))
}

/// Whether there are names of WAL of a timeline behind the segment at `range`: a page of each kind tells.
async fn goes_on(archive: &Archive, timeline: TimelineId, range: LsnRange) -> Result<bool, Error> {
    let (size, store) = (archive.segment_size(), archive.store());
    let name = segment_name(timeline, SegmentNumber::containing(range.start, size), size);
    let chunks = tail_prefix(timeline, range.start, size);
    // Chunks first: one goes only when the piece that holds its WAL is there.
    let prefix = tail_timeline_prefix(timeline);
    // Names of the segment itself come after its prefix.
    let after = format!("{chunks}~");
    let tail = store.list(&prefix, Some(&after)).await?;
    if !tail.objects.is_empty() {
        return Ok(true);
    }
    let prefix = wal_prefix(timeline);
    let after = format!("{prefix}{name}~");
    let wal = store.list(&prefix, Some(&after)).await?;
    Ok(!wal.objects.is_empty())
}

/// Whether a prune removed the WAL at `at`.
async fn removed_by_prune(archive: &Archive, timeline: TimelineId, at: Lsn) -> Result<bool, Error> {
    for object in archive.list(PRUNED_PREFIX).await? {
        let removed = match archive.get_record::<PruneRecord>(&object.key).await {
            Ok(record) => record.wal,
            Err(error) if error.is_transient() => return Err(error),
            // Anybody may have put it.
            Err(_) => continue,
        };
        let names_it = removed
            .iter()
            .any(|wal| wal.timeline == timeline && wal.range.contains(at));
        if names_it {
            return Ok(true);
        }
    }
    Ok(false)
}
