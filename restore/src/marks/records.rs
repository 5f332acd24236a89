//! Whether the archive holds a record that begins at or after a position.
//!
//! Recovery to an LSN ends at the first record that begins there or later, and it is fatal to
//! PostgreSQL if none does. Commit indexes know transaction ends alone, so that the WAL itself is
//! read where they do not tell.

use walvault_archive::{Archive, Error};
use walvault_protocol::wal::{ScanStart, WalScanner};
use walvault_protocol::{Lsn, SegmentNumber};

use crate::line::Line;

/// Sizes of page headers, `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD` of `xlog_internal.h`.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
/// `XLOG_BLCKSZ` as PostgreSQL is built everywhere.
const PAGE: u64 = 8192;
/// Records begin at multiples of this, and none is shorter than three of it.
const ALIGNMENT: usize = 8;

/// Whether a whole record begins at or after `lsn` and ends by `end`. In doubt, as behind damaged
/// WAL, it says no.
pub(super) async fn holds_record(
    archive: &Archive,
    line: &Line<'_>,
    lsn: Lsn,
    end: Lsn,
) -> Result<bool, Error> {
    let size = archive.segment_size();
    let start = SegmentNumber::containing(lsn, size).start(size);
    let mut records = Records {
        scanner: WalScanner::new(ScanStart {
            system_id: archive.record().system_id,
            segment_size: size,
            timeline: line.timeline(),
            start,
        }),
        scan_start: start,
        lsn,
        segment: size.bytes(),
        to_pass: 1,
    };
    for piece in line.pieces(start, end) {
        let wal = piece.held.wal(archive, piece.timeline, piece.span).await?;
        match wal.and_then(|bytes| records.push(&bytes)) {
            Some(true) => return Ok(true),
            Some(false) => {}
            None => return Ok(false),
        }
    }
    Ok(false)
}

struct Records {
    scanner: WalScanner,
    scan_start: Lsn,
    lsn: Lsn,
    segment: u64,
    /// Records that must end before the one that ends next is known to begin late enough.
    to_pass: u32,
}

impl Records {
    /// Whether the record looked for has ended; `None` if the WAL is damaged.
    fn push(&mut self, bytes: &[u8]) -> Option<bool> {
        let ahead = self.lsn.saturating_sub(self.scanner.position());
        let (before, after) = bytes.split_at(bytes.len().min(ahead as usize));
        self.scanner.push(before).ok()?;
        if self.scanner.position() < self.lsn {
            return Some(false);
        }
        if !before.is_empty() || self.scanner.position() == self.scan_start {
            let complete = self.scanner.complete_to();
            let known = complete > self.scan_start;
            self.to_pass = u32::from(!(known && self.next_start(complete) >= self.lsn));
        }
        // No two records end within one step.
        for step in after.chunks(ALIGNMENT) {
            let before = self.scanner.complete_to();
            self.scanner.push(step).ok()?;
            let complete = self.scanner.complete_to();
            // The unused end of a segment counts as no record.
            if complete > before && !complete.0.is_multiple_of(self.segment) {
                if self.to_pass == 0 {
                    return Some(true);
                }
                self.to_pass -= 1;
            }
        }
        Some(false)
    }

    /// Where a record after one that ends at `end` begins.
    fn next_start(&self, end: Lsn) -> Lsn {
        match end.0 {
            at if at.is_multiple_of(self.segment) => Lsn(at + LONG_HEADER),
            at if at.is_multiple_of(PAGE) => Lsn(at + SHORT_HEADER),
            at => Lsn(at),
        }
    }
}

#[cfg(test)]
mod tests;
