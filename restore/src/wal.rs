//! One file of WAL, put together from what an archive holds of it.
//!
//! A segment that is stored whole is one object. Otherwise it is assembled from its pieces and
//! chunks, as far as they reach from its start without a hole, and filled with zeros: PostgreSQL
//! takes those for the end of the WAL. Memory holds one object at a time, as it is stored.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use walvault_archive::archive::wal_key;
use walvault_archive::catalog::{Catalog, WalHeld};
use walvault_archive::record::PruneRecord;
use walvault_archive::{Archive, Error};
use walvault_layout::{
    MAX_WAL_OBJECT, ObjectKey, PRUNED_PREFIX, WAL_PREFIX, WalObject, tail_prefix,
    tail_timeline_prefix, wal_prefix,
};
use walvault_protocol::segment::segment_name;
use walvault_protocol::{Lsn, LsnRange, SegmentNumber, TimelineId, WalFileName};

use crate::line::{Line, Piece};

mod file;
pub mod local;

pub use file::{WalFile, is_leftover};

/// How often a segment is looked at again when its chunks vanish, because they are merged or it is
/// stored whole, before any more of it was read.
const LOOKS: u32 = 5;

/// Whether a file of WAL is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It was written.
    Found,
    /// The archive was asked and does not hold it.
    Absent,
}

/// Why a file of WAL was not fetched, though the archive may hold it.
#[derive(Debug, thiserror::Error)]
pub enum WalFetchError {
    /// The archive did not give it.
    #[error(transparent)]
    Archive(#[from] Error),
    /// It could not be written.
    #[error("cannot write {path}: {source}; make room, and check the permissions of the directory")]
    Write {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// PostgreSQL never asks for this.
    #[error(
        "'{0}' is not the name of a WAL segment or a timeline history; use this command as restore_command, with %f and %p"
    )]
    Name(String),
    /// It changed each time it was looked at.
    #[error("{0} changed while it was read, {LOOKS} times; try again")]
    Unstable(String),
    /// PostgreSQL would take it for the end of the WAL, and it is none.
    #[error(
        "the archive holds nothing of WAL segment {segment}, but WAL from {behind} on, which a recovery that ends here would lose: bring the segment back from a replica or another copy ('walvault copy'), or restore to an earlier target"
    )]
    Hole {
        /// The segment.
        segment: String,
        /// Where the next WAL begins that is held of its timeline.
        behind: Lsn,
    },
}

impl WalFetchError {
    /// Whether an object was looked for and is proven absent.
    fn is_missing(&self) -> bool {
        matches!(self, WalFetchError::Archive(error) if error.is_missing())
    }
}

/// Fetches the file that PostgreSQL calls `name` into `file`.
///
/// # Errors
/// When it cannot be told whether the archive has it, or it cannot be read or written.
pub async fn fetch(
    archive: &Archive,
    name: &str,
    file: &mut WalFile,
) -> Result<Fetched, WalFetchError> {
    match WalFileName::parse(name, archive.segment_size()) {
        Some(WalFileName::Segment(timeline, number)) => {
            segment(archive, timeline, number, file).await
        }
        Some(WalFileName::History(timeline)) => history(archive, timeline, file).await,
        // Written by PostgreSQL's own archiver; what they hold is in segments and backups.
        Some(WalFileName::Partial(..) | WalFileName::BackupHistory(..)) => Ok(Fetched::Absent),
        None => Err(WalFetchError::Name(name.to_owned())),
    }
}

/// Fetches the history of `timeline`. Anybody may have put one that does not open, and PostgreSQL asks for
/// timelines that there never were: one of which no WAL opens either is absent.
async fn history(
    archive: &Archive,
    timeline: TimelineId,
    file: &mut WalFile,
) -> Result<Fetched, WalFetchError> {
    let error = match archive.history_file(timeline).await {
        Ok(content) => {
            file.write_at(0, &content)?;
            return Ok(Fetched::Found);
        }
        Err(error) if error.is_missing() => return Ok(Fetched::Absent),
        Err(error) if error.is_transient() || error.is_withheld() => return Err(error.into()),
        Err(error) => error,
    };
    let mut listing = archive.list(&tail_timeline_prefix(timeline)).await?;
    listing.extend(archive.list(&wal_prefix(timeline)).await?);
    let catalog = Catalog::from_listing(archive.segment_size(), &listing);
    if catalog.proves(archive, timeline).await? {
        return Err(error.into());
    }
    tracing::warn!(timeline = timeline.get(), %error, "no WAL of the timeline opens either: there is no such timeline");
    Ok(Fetched::Absent)
}

/// Fetches a segment into `file` if it is stored whole, so that nothing will ever be added to it;
/// `false` if not. Costs one request where it is one object.
///
/// # Errors
/// As [`fetch`].
pub async fn fetch_whole(
    archive: &Archive,
    timeline: TimelineId,
    number: SegmentNumber,
    file: &mut WalFile,
) -> Result<bool, WalFetchError> {
    let size = archive.segment_size();
    let range = number.range(size);
    if range.len() <= MAX_WAL_OBJECT {
        return whole(archive, timeline, range, file).await;
    }
    let name = segment_name(timeline, number, size);
    let listing = archive
        .list(&format!("{WAL_PREFIX}{timeline}/{name}."))
        .await?;
    let catalog = Catalog::from_listing(size, &listing);
    let pieces = Line::new(&catalog, timeline).pieces(range.start, range.end);
    let end = pieces.last().map_or(range.start, |piece| piece.span.end);
    Ok(end == range.end && assemble(archive, range, range.start, &pieces, file).await? >= end)
}

async fn segment(
    archive: &Archive,
    timeline: TimelineId,
    number: SegmentNumber,
    file: &mut WalFile,
) -> Result<Fetched, WalFetchError> {
    let size = archive.segment_size();
    let range = number.range(size);
    let (mut at, mut looks, mut is_sure) = (range.start, 0, false);
    while looks < LOOKS {
        if whole(archive, timeline, range, file).await? {
            return Ok(Fetched::Found);
        }
        let mut pieces = pieces(archive, timeline, range).await?;
        let end = pieces.last().map_or(range.start, |piece| piece.span.end);
        // Chunks go as soon as the segment is stored whole. That it is not, after they were
        // listed, proves that none of them had gone before.
        if end < range.end && whole(archive, timeline, range, file).await? {
            return Ok(Fetched::Found);
        }
        if pieces.is_empty() && !is_nowhere(archive, timeline, range).await? {
            looks += 1;
            continue;
        }
        if pieces.is_empty() {
            match held_behind(archive, timeline, range).await? {
                None => return Ok(Fetched::Absent),
                Some(behind) if is_sure => {
                    let segment = segment_name(timeline, number, size);
                    return Err(WalFetchError::Hole { segment, behind });
                }
                // What follows may have come to the archive before it: by now it is there as well.
                Some(_) => is_sure = true,
            }
            continue;
        }
        // What was read before a chunk went is not read again, so that each look comes further.
        pieces.retain(|piece| piece.span.end > at);
        let reached = assemble(archive, range, at, &pieces, file).await?;
        if reached >= end {
            return Ok(Fetched::Found);
        }
        looks = if reached > at { 0 } else { looks + 1 };
        at = reached;
    }
    Err(WalFetchError::Unstable(segment_name(
        timeline, number, size,
    )))
}

/// Whether each place says that it holds nothing that the segment at `range` begins with. A listing of all
/// leaves out a place that does not answer, so the others do not prove what that one lacks.
async fn is_nowhere(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
) -> Result<bool, Error> {
    if archive.store().replicas().is_empty() {
        return Ok(true);
    }
    let end = range.end.min(range.start + MAX_WAL_OBJECT);
    let unit = wal_key(timeline, LsnRange::new(range.start, end), true);
    // A place that holds no archive, such as an empty mount point, is away for this.
    if archive.store().head(&archive.name(&unit)).await?.is_some() {
        return Ok(false);
    }
    for place in archive.each() {
        if !pieces(&place, timeline, range).await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where the WAL begins that a recovery would lose which took the absent segment at `range` for the end of
/// the WAL. `None` where nothing follows, or recovery is planned to end here: at a recorded gap, and
/// where a prune left a backup with the WAL up to here alone.
async fn held_behind(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
) -> Result<Option<Lsn>, Error> {
    if !goes_on(archive, timeline, range).await? {
        return Ok(None);
    }
    let catalog = Catalog::load(archive).await?;
    let is_behind =
        |on: TimelineId, held: &WalHeld| on == timeline && held.range.start >= range.end;
    let behind = catalog.restricted(&BTreeSet::new(), is_behind);
    let first = behind
        .wal(timeline)
        .and_then(|wal| wal.coverage.ranges().first());
    let Some(first) = first else {
        return Ok(None);
    };
    let is_recorded = catalog
        .gaps()
        .iter()
        .any(|gap| gap.timeline == timeline && gap.range.contains(range.start));
    // Anybody may have put names: what does not open is no WAL.
    if is_recorded || !behind.proves(archive, timeline).await? {
        return Ok(None);
    }
    let holes = catalog.unrecorded_holes(archive).await?;
    let is_lost = holes
        .iter()
        .any(|hole| hole.timeline == timeline && hole.range.contains(range.start) && !hole.pruned);
    let is_lost = is_lost || was_pruned(archive, &catalog, timeline, range.start).await?;
    Ok(is_lost.then_some(first.start))
}

/// Whether there are names of WAL of a timeline behind the segment at `range`: a page of each kind tells.
async fn goes_on(archive: &Archive, timeline: TimelineId, range: LsnRange) -> Result<bool, Error> {
    let (size, store) = (archive.segment_size(), archive.store());
    let name = segment_name(timeline, SegmentNumber::containing(range.start, size), size);
    let chunks = tail_prefix(timeline, range.start, size);
    // Chunks first: one goes only when the piece that holds its WAL is there.
    let prefix = tail_timeline_prefix(timeline);
    let tail = store.list(&prefix, Some(&chunks)).await?;
    if !tail.objects.is_empty() {
        return Ok(true);
    }
    let prefix = wal_prefix(timeline);
    let after = format!("{prefix}{name}");
    let wal = store.list(&prefix, Some(&after)).await?;
    Ok(!wal.objects.is_empty())
}

/// Whether a prune removed the WAL at `at` and before it, while a recovery was on its way through it.
async fn was_pruned(
    archive: &Archive,
    catalog: &Catalog,
    timeline: TimelineId,
    at: Lsn,
) -> Result<bool, Error> {
    let before = Lsn(at.0.saturating_sub(1));
    let held = catalog.wal(timeline);
    if held.is_some_and(|wal| wal.coverage.holding(before).is_some()) {
        return Ok(false);
    }
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

/// The whole segment, where it is one object.
async fn whole(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
    file: &mut WalFile,
) -> Result<bool, WalFetchError> {
    if range.len() > MAX_WAL_OBJECT {
        return Ok(false);
    }
    let mut writer = file.writer(0);
    let key = ObjectKey::Wal(WalObject { timeline, range });
    match archive.read(&key, move |bytes| writer.write(bytes)).await {
        Ok(()) if file.length()? == range.len() => Ok(true),
        Ok(()) => Err(too_short(archive, &key)),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

fn too_short(archive: &Archive, key: &ObjectKey) -> WalFetchError {
    WalFetchError::Archive(Error::Record {
        url: archive.url().to_owned(),
        key: archive.name(key),
        reason: "it does not hold as much WAL as its name says".to_owned(),
    })
}

/// What to assemble a segment from, in order, up to the first hole.
async fn pieces(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
) -> Result<Vec<Piece>, Error> {
    let size = archive.segment_size();
    // Chunks first: one goes only when the piece that holds its WAL is there.
    let mut listing = archive
        .list(&tail_prefix(timeline, range.start, size))
        .await?;
    if range.len() > MAX_WAL_OBJECT {
        let name = segment_name(timeline, SegmentNumber::containing(range.start, size), size);
        listing.extend(
            archive
                .list(&format!("{WAL_PREFIX}{timeline}/{name}."))
                .await?,
        );
    }
    if listing.is_empty() {
        return Ok(Vec::new());
    }
    let catalog = Catalog::from_listing(size, &listing);
    let pieces = Line::new(&catalog, timeline).pieces(range.start, range.end);
    let end = pieces.last().map_or(range.start, |piece| piece.span.end);
    if end < range.end && forks_within(archive, timeline, LsnRange::new(end, range.end)).await? {
        // PostgreSQL reads the segment in which a timeline began from that timeline; below the
        // switch point its ancestor's bytes are the same, and more of them may be held.
        let catalog = Catalog::load_wal(archive).await?;
        return Ok(Line::new(&catalog, timeline).pieces(range.start, range.end));
    }
    Ok(pieces)
}

/// Whether `timeline` began within `range`.
async fn forks_within(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
) -> Result<bool, Error> {
    if timeline == TimelineId::FIRST {
        return Ok(false);
    }
    match archive.history(timeline).await {
        Ok(history) => Ok(range.contains(history.begins_at())),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes `pieces` to a file that holds the WAL up to `at`, and returns how far it does then: not to
/// their end if one of them has gone.
async fn assemble(
    archive: &Archive,
    range: LsnRange,
    mut at: Lsn,
    pieces: &[Piece],
    file: &mut WalFile,
) -> Result<Lsn, WalFetchError> {
    for Piece {
        timeline,
        held,
        span,
    } in pieces
    {
        let key = wal_key(*timeline, held.range, held.whole);
        // What lies before the span within the object is passed over, what lies behind it too.
        let mut skip = span.start - held.range.start;
        let mut left = span.len();
        let missing = Arc::new(AtomicU64::new(left));
        let mut writer = file.writer(span.start - range.start);
        let rest = missing.clone();
        let take = move |bytes: &[u8]| {
            let passed = skip.min(bytes.len() as u64);
            skip -= passed;
            let bytes = &bytes[passed as usize..];
            let taken = left.min(bytes.len() as u64);
            left -= taken;
            rest.store(left, Ordering::Relaxed);
            writer.write(&bytes[..taken as usize])
        };
        match archive.read(&key, take).await {
            Ok(()) if missing.load(Ordering::Relaxed) == 0 => at = span.end,
            Ok(()) => return Err(too_short(archive, &key)),
            Err(error) if error.is_missing() => return Ok(at),
            Err(error) => return Err(error),
        }
    }
    file.set_len(range.len())?;
    Ok(at)
}

#[cfg(test)]
mod tests;
