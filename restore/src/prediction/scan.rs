//! Reading the archive's WAL for what no index has: where the last whole record ends, and canaries.

use jiff::Timestamp;
use walvault_archive::canary;
use walvault_archive::record::Canary;
use walvault_archive::{Archive, Error};
use walvault_protocol::wal::{ScanStart, WalScanner};
use walvault_protocol::{Lsn, SegmentNumber};

use crate::line::Line;

/// How many segments are read for a canary where none are known to be written.
const FEW: u32 = 4;
/// And where they are: as much WAL as passes between two on the busiest server.
const MANY: u32 = 4096;

/// How many segments may pass without the beginning of a record: one has at most 1 GiB.
const LONGEST_RECORD: u32 = 64;

/// What the end of the WAL shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The last whole record before the place.
    pub last: Option<LastRecord>,
    /// The newest canary before it.
    pub canary: Option<Canary>,
}

/// The last whole record of a run of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// Its first byte.
    pub start: Lsn,
    /// The LSN after it.
    pub end: Lsn,
}

/// Reads the WAL on `line` backwards from `to`, segment by segment, no further than `from`, until there is a
/// canary. `written` says whether there should be one.
///
/// # Errors
/// When the archive cannot be read.
pub async fn backwards(
    archive: &Archive,
    line: &Line<'_>,
    (from, to): (Lsn, Lsn),
    written: bool,
) -> Result<Seen, Error> {
    let size = archive.segment_size();
    let mut seen = Seen::default();
    let mut end = to;
    let most = if written { MANY } else { FEW };
    for _ in 0..most {
        if end <= from {
            break;
        }
        let start = SegmentNumber::containing(Lsn(end.0 - 1), size).start(size);
        let (last, canary) = segment(archive, line, start, end).await?;
        if end == to {
            seen.last = last;
        }
        seen.canary = canary.filter(|canary| canary.lsn >= from);
        if seen.canary.is_some() {
            break;
        }
        end = start;
    }
    Ok(seen)
}

/// The last whole record on `line` that ends by `to`; read backwards, no further than the segment
/// of `from`.
///
/// # Errors
/// When the archive cannot be read.
pub async fn last_record(
    archive: &Archive,
    line: &Line<'_>,
    (from, to): (Lsn, Lsn),
) -> Result<Option<LastRecord>, Error> {
    let size = archive.segment_size();
    let least = SegmentNumber::containing(from, size).start(size);
    let mut start = to;
    for _ in 0..LONGEST_RECORD {
        if start <= least {
            break;
        }
        start = SegmentNumber::containing(Lsn(start.0 - 1), size).start(size);
        let (last, _) = segment(archive, line, start, to).await?;
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

/// Scans from `start`, where a segment begins, up to `end`.
async fn segment(
    archive: &Archive,
    line: &Line<'_>,
    start: Lsn,
    end: Lsn,
) -> Result<(Option<LastRecord>, Option<Canary>), Error> {
    let scan = ScanStart {
        system_id: archive.record().system_id,
        segment_size: archive.segment_size(),
        timeline: line.timeline(),
        start,
    };
    let mut scanner = WalScanner::new(scan).listening();
    let mut newest = None;
    for piece in line.pieces(start, end) {
        let wal = piece.held.wal(archive, piece.timeline, piece.span).await?;
        // Damage ends the scan; replay finds it as well, and says what it is.
        let pushed = wal.is_some_and(|bytes| scanner.push(&bytes).is_ok());
        for message in scanner.take_messages() {
            let time = canary::read(&message.prefix, &message.text);
            newest = time.map(|time| canary_at(message.start, time)).or(newest);
        }
        if !pushed {
            break;
        }
    }
    let end = scanner.complete_to();
    let last = scanner.last_complete_record();
    Ok((last.map(|start| LastRecord { start, end }), newest))
}

fn canary_at(lsn: Lsn, time: Timestamp) -> Canary {
    Canary { lsn, time }
}
