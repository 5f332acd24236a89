//! WAL record by record: each record's CRC, and the chain from record to record, across segments
//! and timelines.

use futures_util::{StreamExt, stream};
use walvault_archive::archive::wal_key;
use walvault_archive::catalog::{Catalog, WalHeld};
use walvault_archive::error::Error;
use walvault_layout::ObjectKey;
use walvault_protocol::wal::{ScanStart, WalScanner};
use walvault_protocol::{Lsn, LsnRange, SegmentNumber, TimelineId};
use walvault_store::compute;

use super::{Finding, FindingKind, Run};

/// How many objects are fetched ahead at most.
const AHEAD: usize = 4;

/// Bytes of a WAL page where it has its default size; a scan begins at one.
const PAGE: u64 = 8192;

/// A run of WAL out of one object.
#[derive(Debug, Clone)]
struct Piece {
    key: ObjectKey,
    name: String,
    held: WalHeld,
    span: LsnRange,
}

/// Reads all WAL that is wanted on the way to each timeline, and notes what was read.
pub(super) async fn check(run: &mut Run, catalog: &Catalog) -> Result<(), Error> {
    let timelines: Vec<TimelineId> = catalog.timelines().map(|(timeline, _)| timeline).collect();
    for timeline in timelines {
        let due = due(run, &pieces(run, catalog, timeline));
        let mut chain = Chain::new(run, timeline);
        let archive = run.archive.clone();
        let fetch = |piece: Piece| {
            let archive = archive.clone();
            async move {
                let got = archive.get_with_digest(&piece.key).await;
                (piece, got)
            }
        };
        let largest = due.iter().map(|piece| piece.held.range.len()).max();
        let ahead = run.at_once(largest.unwrap_or_default(), AHEAD);
        let mut fetched = stream::iter(due).map(fetch).buffered(ahead);
        while let Some((piece, got)) = fetched.next().await {
            let (name, size) = (piece.name.clone(), piece.held.size);
            let got = match got {
                Ok((opened, sha256)) => {
                    let scanned = compute::elsewhere(move || {
                        let taken = chain.take(&piece, &opened.payload);
                        (chain, taken)
                    });
                    let taken;
                    (chain, taken) = scanned.await;
                    if let Err(finding) = taken {
                        run.note(name, size, Err(finding));
                        continue;
                    }
                    Ok(sha256)
                }
                Err(error) => {
                    chain.break_off();
                    Err(error)
                }
            };
            // What leads from an ancestor to several timelines is read on the way to each.
            if let Some(outcome) = run.settle(&name, got)? {
                run.note(name, size, outcome);
            }
        }
    }
    Ok(())
}

/// The WAL on the way to a timeline, from where it was left by its ancestor on: runs between holes.
fn pieces(run: &Run, catalog: &Catalog, timeline: TimelineId) -> Vec<Piece> {
    let size = catalog.segment_size();
    let history = catalog.history(timeline);
    let segment = |lsn: Lsn| SegmentNumber::containing(lsn, size).range(size);
    let ranges = catalog.wal(timeline).map(|wal| wal.coverage.ranges());
    let begins = history
        .switches()
        .last()
        .map(|switch| segment(switch.at).start);
    let wanted = run.scope.backup.as_ref().map(|id| {
        let record = catalog.backups().iter().find(|record| record.id == *id);
        record
            .filter(|record| record.timeline == timeline)
            .map(|record| record.wal_needed(size))
    });
    let mut pieces = Vec::new();
    for range in ranges.unwrap_or_default() {
        let (mut at, mut end) = (range.start, range.end);
        // The segment that the timeline began in may be held by its ancestor alone, in part.
        if let Some(begins) = begins.filter(|begins| *begins < at && at <= segment(*begins).end) {
            at = begins;
        }
        match wanted {
            None => {}
            Some(Some(wanted)) => (at, end) = (at.max(wanted.start), end.min(wanted.end)),
            Some(None) => continue,
        }
        for (on, held) in catalog.path_objects(timeline, at, end.max(at)) {
            let limit = history
                .left_at(history.timeline_at(at))
                .unwrap_or(end)
                .min(end);
            let span = LsnRange::new(at, held.range.end.min(limit));
            at = span.end;
            let key = wal_key(on, held.range, held.whole);
            pieces.push(Piece {
                name: run.archive.name(&key),
                key,
                held,
                span,
            });
        }
    }
    pieces
}

/// The pieces to read: those that are wanted, and the one before each, since a record may begin there.
fn due(run: &Run, pieces: &[Piece]) -> Vec<Piece> {
    let is_wanted = |piece: &Piece| run.wanted.contains(&piece.name);
    let next = pieces.iter().skip(1).map(Some).chain([None]);
    pieces
        .iter()
        .zip(next)
        .filter(|(piece, next)| is_wanted(piece) || next.is_some_and(is_wanted))
        .map(|(piece, _)| piece.clone())
        .collect()
}

/// A scan that begins anew after every break.
struct Chain {
    start: ScanStart,
    scanner: Option<WalScanner>,
}

impl Chain {
    fn new(run: &Run, timeline: TimelineId) -> Chain {
        let start = ScanStart {
            system_id: run.archive.record().system_id,
            segment_size: run.archive.segment_size(),
            timeline,
            start: Lsn::INVALID,
        };
        Chain {
            start,
            scanner: None,
        }
    }

    fn break_off(&mut self) {
        self.scanner = None;
    }

    fn take(&mut self, piece: &Piece, payload: &[u8]) -> Result<(), Finding> {
        let wrong = |detail: String| Finding {
            kind: FindingKind::Content,
            object: piece.name.clone(),
            detail,
        };
        let (held, expected) = (payload.len(), piece.held.range.len());
        if held as u64 != expected {
            self.scanner = None;
            return Err(wrong(format!(
                "it holds {held} bytes of WAL and its name says {expected}"
            )));
        }
        let offset = |lsn: Lsn| lsn.saturating_sub(piece.held.range.start) as usize;
        let mut bytes = &payload[offset(piece.span.start)..offset(piece.span.end)];
        let follows = |scanner: &WalScanner| scanner.position() == piece.span.start;
        let mut scanner = match self.scanner.take().filter(follows) {
            Some(scanner) => scanner,
            None => {
                let start = piece.span.start.0.next_multiple_of(PAGE);
                let skipped = (start - piece.span.start.0) as usize;
                bytes = bytes.get(skipped..).unwrap_or_default();
                WalScanner::new(ScanStart {
                    start: Lsn(start),
                    ..self.start
                })
            }
        };
        let scanned = scanner.push(bytes);
        let _ = scanner.take_marks();
        match scanned {
            Ok(()) => {
                self.scanner = Some(scanner);
                Ok(())
            }
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}
