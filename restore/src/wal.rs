//! One file of WAL, put together from what an archive holds of it.
//!
//! A segment that is stored whole is one object. Otherwise it is assembled from its pieces and
//! chunks, as far as they reach from its start without a hole, and filled with zeros: PostgreSQL
//! takes those for the end of the WAL. Memory holds one object at a time, as it is stored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use walvault_archive::archive::wal_key;
use walvault_archive::catalog::Catalog;
use walvault_archive::{Archive, Error};
use walvault_layout::{
    MAX_WAL_OBJECT, ObjectKey, WAL_PREFIX, WalObject, tail_prefix, tail_timeline_prefix, wal_prefix,
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
    let (mut at, mut looks) = (range.start, 0);
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
        if pieces.is_empty() {
            return Ok(Fetched::Absent);
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
