//! The scanner: takes WAL in pieces of any size and proves it record by record.
//!
//! It owns the alternation of page headers and record bytes, and holds no more of either than a
//! header, so that memory is bounded and the common case is one CRC over each record's bytes where
//! they lie.

use super::error::WalError;
use super::mark::{WalMark, WalMessage};
use super::page::{DEFAULT_BLOCK, LONG, PageHeader, PageRules, SHORT, WalVersion};
use super::record::{Complete, Records};
use crate::identity::SystemId;
use crate::lsn::Lsn;
use crate::segment::SegmentSize;
use crate::timeline::TimelineId;

/// Where a scan starts, and whose WAL it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanStart {
    /// The cluster that wrote the WAL.
    pub system_id: SystemId,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// The timeline that is read; pages of its ancestors may come first.
    pub timeline: TimelineId,
    /// The first byte: the start of a segment, or of any page where pages have their default size
    /// of 8 KiB. Only from the start of a segment on is everything proved: the unused rest of a segment
    /// is zeros at best, and known by the switch before it.
    pub start: Lsn,
}

/// Validates WAL in flight and notes the places where recovery could stop.
///
/// Give it the bytes in order with [`WalScanner::push`], in pieces of any size: how they are cut
/// changes nothing. A record that began before the start is passed over unchecked, and zeros that
/// the scan starts in are taken for the unused rest of their segment.
#[derive(Debug, Clone)]
pub struct WalScanner {
    segment_size: SegmentSize,
    position: Lsn,
    complete_to: Lsn,
    rules: PageRules,
    header: [u8; LONG],
    filled: usize,
    /// The page whose header has been read; `None` where the next one's begins or goes on.
    page: Option<OpenPage>,
    /// The end of the unused rest of a segment that is being passed over.
    skip_to: Option<Lsn>,
    records: Records,
    failed: Option<WalError>,
}

#[derive(Debug, Clone, Copy)]
struct OpenPage {
    version: WalVersion,
    left: usize,
}

impl WalScanner {
    /// A scan of the WAL from `start` on. That it starts in a good place is checked by the first
    /// [`WalScanner::push`].
    #[must_use]
    pub fn new(start: ScanStart) -> WalScanner {
        let lsn = start.start;
        // The upper bound keeps all arithmetic on positions below from overflowing.
        let aligned = lsn.0.is_multiple_of(u64::from(DEFAULT_BLOCK)) && lsn.0 < 1 << 63;
        WalScanner {
            segment_size: start.segment_size,
            position: lsn,
            complete_to: lsn,
            rules: PageRules::new(start),
            header: [0; LONG],
            filled: 0,
            page: None,
            skip_to: None,
            records: Records::new(lsn),
            failed: (!aligned).then_some(WalError::Start { lsn }),
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// When they are not the WAL that should be there. What was reported complete before stays
    /// good; the scan is over, and every further call gives the same error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.scan(bytes)
            .inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// The start plus everything pushed; after an error it no longer moves.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// The end of the last record that is complete and intact, or of the segment whose rest it
    /// declared unused. Before the first it is the start. Never ahead of
    /// [`WalScanner::position`].
    #[must_use]
    pub const fn complete_to(&self) -> Lsn {
        self.complete_to
    }

    /// The marks that were completed since the last call, in the order of the WAL.
    #[must_use]
    pub fn take_marks(&mut self) -> Vec<WalMark> {
        self.records.take_marks()
    }

    /// It, noting messages too: short ones, which [`WalScanner::take_messages`] gives.
    #[must_use]
    pub fn listening(mut self) -> WalScanner {
        self.records.listens = true;
        self
    }

    /// It, knowing that the record before the start begins at `record`: the first record has to
    /// name that position (`xl_prev`), unless the server overwrote an unfinished one there, or WAL
    /// begins anew: see [`WalScanner::take_new_beginning`].
    #[must_use]
    pub fn after(mut self, record: Lsn) -> WalScanner {
        self.records.follow(Some(record));
        self
    }

    /// The scan's first record, once it is complete, where it says that it follows no record: initdb
    /// and `pg_resetwal` begin WAL so. Replay does not pass from the WAL before it to that record.
    /// Told once.
    #[must_use]
    pub fn take_new_beginning(&mut self) -> Option<Lsn> {
        self.records.take_new_beginning()
    }

    /// Where the last record begins that was read or is under way; `None` before the first.
    #[must_use]
    pub fn last_record(&self) -> Option<Lsn> {
        self.records.last_record()
    }

    /// Where the record begins that ends at [`WalScanner::complete_to`], if one does and it began
    /// within the scan.
    #[must_use]
    pub fn last_complete_record(&self) -> Option<Lsn> {
        self.records.last_complete()
    }

    /// The messages that were completed since the last call, in the order of the WAL.
    #[must_use]
    pub fn take_messages(&mut self) -> Vec<WalMessage> {
        self.records.take_messages()
    }

    fn scan(&mut self, mut bytes: &[u8]) -> Result<(), WalError> {
        while !bytes.is_empty() {
            let used = if let Some(end) = self.skip_to {
                self.skip(end, bytes)
            } else if let Some(page) = self.page {
                self.page_body(page, bytes)?
            } else {
                self.page_header(bytes)?
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Gathers a page's header.
    fn page_header(&mut self, bytes: &[u8]) -> Result<usize, WalError> {
        let needed = match self.filled {
            filled if filled < SHORT => SHORT,
            _ => PageHeader::size(&self.header),
        };
        let length = bytes.len().min(needed - self.filled);
        self.header[self.filled..self.filled + length].copy_from_slice(&bytes[..length]);
        self.filled += length;
        if self.filled >= SHORT && self.filled == PageHeader::size(&self.header) {
            let page = Lsn(self.position.0 + length as u64 - self.filled as u64);
            self.enter_page(page)?;
        }
        self.position = self.position + length as u64;
        Ok(length)
    }

    fn enter_page(&mut self, page: Lsn) -> Result<(), WalError> {
        let header = PageHeader::read(&self.header);
        let is_first = self.rules.is_at_first_page();
        let segment_end = self.segment_end(page);
        if is_first
            && segment_end > page
            && self.header[..self.filled].iter().all(|byte| *byte == 0)
        {
            self.skip_to = Some(segment_end);
            self.filled = 0;
            return Ok(());
        }
        let kind = self.rules.check(page, &header)?;
        if header.overwrites() {
            if is_first {
                // The record before the start was never finished, and is not the one named here.
                self.records.follow(None);
            }
            self.records.abandon();
        }
        let found = header.record_left;
        match self.records.under_way() {
            Some((record, left)) if !header.continues() => {
                return Err(WalError::ContinuationMissing { page, record, left });
            }
            Some((record, left)) if found != left => {
                return Err(WalError::ContinuationLength {
                    page,
                    record,
                    left,
                    found,
                });
            }
            Some(_) => {}
            None if header.continues() && is_first => self.records.begin_inside(page, found)?,
            None if header.continues() || found != 0 => {
                return Err(WalError::ContinuationUnexpected { page, found });
            }
            None => {}
        }
        self.page = Some(OpenPage {
            version: kind.version,
            left: kind.block_size as usize - self.filled,
        });
        self.filled = 0;
        Ok(())
    }

    /// Reads records up to the end of the page, or of what is here of it.
    fn page_body(&mut self, page: OpenPage, bytes: &[u8]) -> Result<usize, WalError> {
        let body = &bytes[..bytes.len().min(page.left)];
        let mut used = 0;
        while used < body.len() && self.skip_to.is_none() {
            let rest = &body[used..];
            let (length, complete) = self.records.step(self.position, rest, page.version)?;
            used += length;
            self.position = self.position + length as u64;
            if let Some(complete) = complete {
                self.complete(complete);
            }
        }
        let left = page.left - used;
        self.page = (left > 0).then_some(OpenPage { left, ..page });
        Ok(used)
    }

    fn complete(&mut self, record: Complete) {
        self.complete_to = record.end;
        let segment_end = self.segment_end(record.end);
        if record.is_switch && segment_end > record.end {
            self.skip_to = Some(segment_end);
        }
    }

    /// The end of the segment that `lsn` lies in; `lsn` itself at the start of one.
    fn segment_end(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0.next_multiple_of(self.segment_size.bytes()))
    }

    /// Passes over what follows a segment switch.
    ///
    /// PostgreSQL fills it with zeros, page headers included, but does not look at it again: after
    /// a crash in the middle of that, the rest of a recycled segment stays there for good.
    fn skip(&mut self, end: Lsn, bytes: &[u8]) -> usize {
        let length = bytes.len().min((end - self.position) as usize);
        self.position = self.position + length as u64;
        if self.position == end {
            self.skip_to = None;
            self.page = None;
            self.complete_to = end;
        }
        length
    }
}
