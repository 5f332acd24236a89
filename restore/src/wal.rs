//! One file of WAL, put together from what an archive holds of it.
//!
//! A segment that is stored whole is one object. Otherwise it is assembled from its pieces and
//! chunks, as far as they reach from its start without a hole, and filled with zeros: PostgreSQL
//! takes those for the end of the WAL. A hole that is not the end is refused, and so is what does not
//! open, unless other objects hold it. Memory holds one object at a time, as it is stored.

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
mod hole;
pub mod local;
mod passed_over;

pub use file::{WalFile, is_leftover};
use hole::Behind;
use passed_over::PassedOver;

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

/// Which hole in the WAL a recovery may take for its end, though more is held behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// None.
    Refused,
    /// One that begins there or later: the plan of the recovery ended there.
    EndAt(Lsn),
    /// One within a segment: a standby replays what is before it, and streams the rest.
    Streamed,
}

impl Holes {
    /// Whether a hole that begins at `at` is none to look into; `whole` says whether it is all of a
    /// segment.
    fn allow(self, at: Lsn, whole: bool) -> bool {
        match self {
            Holes::Refused => false,
            Holes::EndAt(end) => at >= end,
            Holes::Streamed => !whole,
        }
    }
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
        "the archive lacks WAL from {missing} on, in segment {segment}, but holds WAL from {behind} on, which a recovery that ends here would lose: bring the missing WAL back from a replica or another copy ('walvault copy'), or restore to a target before {missing}"
    )]
    Hole {
        /// The segment.
        segment: String,
        /// The first byte that is missing.
        missing: Lsn,
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

/// Fetches the file that PostgreSQL calls `name` into `file`. `holes` says where recovery may end
/// before the WAL does.
///
/// # Errors
/// When it cannot be told whether the archive has it, it cannot be read or written, or a segment has
/// a hole that would pass for the end of the WAL.
pub async fn fetch(
    archive: &Archive,
    name: &str,
    holes: Holes,
    file: &mut WalFile,
) -> Result<Fetched, WalFetchError> {
    match WalFileName::parse(name, archive.segment_size()) {
        Some(WalFileName::Segment(timeline, number)) => {
            segment(archive, timeline, number, holes, file).await
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
    // What does not open is found again by whoever asks for the segment.
    let mut passed = PassedOver::default();
    Ok(end == range.end
        && assemble(archive, range, range.start, &pieces, &mut passed, file).await? >= end)
}

async fn segment(
    archive: &Archive,
    timeline: TimelineId,
    number: SegmentNumber,
    holes: Holes,
    file: &mut WalFile,
) -> Result<Fetched, WalFetchError> {
    let size = archive.segment_size();
    let range = number.range(size);
    let (mut at, mut looks, mut is_sure) = (range.start, 0, false);
    let mut passed = PassedOver::default();
    while looks < LOOKS {
        if opened_whole(archive, timeline, range, &mut passed, file).await? {
            return Ok(Fetched::Found);
        }
        let Beginning {
            mut pieces,
            goes_on,
            is_switch,
        } = beginning(archive, timeline, range, &passed).await?;
        let end = pieces.last().map_or(range.start, |piece| piece.span.end);
        // Chunks go as soon as the segment is stored whole. That it is not, after they were
        // listed, proves that none of them had gone before.
        if end < range.end && opened_whole(archive, timeline, range, &mut passed, file).await? {
            return Ok(Fetched::Found);
        }
        if pieces.is_empty() && !is_nowhere(archive, timeline, range, &passed).await? {
            looks += 1;
            continue;
        }
        if end < range.end && !holes.allow(end, pieces.is_empty()) {
            if let Some(error) = passed.take_error_at(end) {
                return Err(error.into());
            }
            match hole::behind(archive, timeline, range, end, goes_on).await? {
                Behind::Nothing => {}
                // A chunk was merged into another while the chunks were listed.
                Behind::Held => {
                    looks += 1;
                    continue;
                }
                Behind::Lost(behind) if is_sure => {
                    return Err(WalFetchError::Hole {
                        segment: segment_name(timeline, number, size),
                        missing: end,
                        behind,
                    });
                }
                // What follows may have come to the archive before it: by now it is there as well.
                Behind::Lost(_) => {
                    is_sure = true;
                    continue;
                }
            }
        }
        if pieces.is_empty() && !is_switch {
            return Ok(Fetched::Absent);
        }
        // What was read before a chunk went is not read again, so that each look comes further.
        pieces.retain(|piece| piece.span.end > at);
        let before = passed.count();
        let reached = assemble(archive, range, at, &pieces, &mut passed, file).await?;
        if reached >= end {
            return Ok(Fetched::Found);
        }
        let got_on = reached > at || passed.count() > before;
        looks = if got_on { 0 } else { looks + 1 };
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
    passed: &PassedOver,
) -> Result<bool, Error> {
    if archive.store().replicas().is_empty() {
        return Ok(true);
    }
    let end = range.end.min(range.start + MAX_WAL_OBJECT);
    let unit = wal_key(timeline, LsnRange::new(range.start, end), true);
    // A place that holds no archive, such as an empty mount point, is away for this.
    if !passed.contains(&unit) && archive.store().head(&archive.name(&unit)).await?.is_some() {
        return Ok(false);
    }
    for place in archive.each() {
        let beginning = beginning(&place, timeline, range, passed).await?;
        if !beginning.pieces.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The whole segment, where it is one object that opens.
async fn opened_whole(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
    passed: &mut PassedOver,
    file: &mut WalFile,
) -> Result<bool, WalFetchError> {
    let key = ObjectKey::Wal(WalObject { timeline, range });
    if passed.contains(&key) {
        return Ok(false);
    }
    match whole(archive, timeline, range, file).await {
        Ok(is_held) => Ok(is_held),
        Err(error) => passed.add(archive, key, range, error).await.map(|()| false),
    }
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

/// What is held of a segment from its start on.
struct Beginning {
    /// What to assemble it from, in order, up to the first hole.
    pieces: Vec<Piece>,
    /// Whether WAL behind that hole was seen.
    goes_on: bool,
    /// Whether its timeline begins where it does, nothing of it is held, and its ancestor went on.
    is_switch: bool,
}

async fn beginning(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
    passed: &PassedOver,
) -> Result<Beginning, Error> {
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
    let catalog = passed.without(Catalog::from_listing(size, &listing));
    let line = Line::new(&catalog, timeline);
    let pieces = line.pieces(range.start, range.end);
    let end = pieces.last().map_or(range.start, |piece| piece.span.end);
    if end == range.end || !forks_within(archive, timeline, LsnRange::new(end, range.end)).await? {
        return Ok(Beginning {
            pieces,
            goes_on: line.end() > end,
            is_switch: false,
        });
    }
    // PostgreSQL reads the segment in which a timeline began from that timeline; below the switch
    // point its ancestor's bytes are the same, and more of them may be held. Where nothing of the
    // timeline is held, it would take its ancestor's segment instead (`XLogFileReadAnyTLI`), and
    // replay what that wrote behind the switch.
    let catalog = passed.without(Catalog::load_wal(archive).await?);
    let line = Line::new(&catalog, timeline);
    let pieces = line.pieces(range.start, range.end);
    let end = pieces.last().map_or(range.start, |piece| piece.span.end);
    let history = catalog.history(timeline);
    let begins = history.begins_at() == range.start && pieces.is_empty();
    let mut ancestors = history.switches().iter().map(|switch| switch.timeline);
    let went_on = ancestors.any(|ancestor| {
        catalog
            .wal(ancestor)
            .is_some_and(|wal| wal.coverage.unbroken_to(range.start) > range.start)
    });
    Ok(Beginning {
        pieces,
        goes_on: line.end() > end,
        is_switch: begins && went_on,
    })
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
/// their end if one of them has gone, or is passed over from now on.
async fn assemble(
    archive: &Archive,
    range: LsnRange,
    mut at: Lsn,
    pieces: &[Piece],
    passed: &mut PassedOver,
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
        let error = match archive.read(&key, take).await {
            Ok(()) if missing.load(Ordering::Relaxed) == 0 => {
                at = span.end;
                continue;
            }
            Ok(()) => too_short(archive, &key),
            Err(error) if error.is_missing() => return Ok(at),
            Err(error) => error,
        };
        passed.add(archive, key, held.range, error).await?;
        return Ok(at);
    }
    // What was read of an object that does not open to its end may go further.
    file.set_len(at - range.start)?;
    file.set_len(range.len())?;
    Ok(at)
}

#[cfg(test)]
mod tests;
