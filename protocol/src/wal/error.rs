//! What can be wrong with WAL, and what the operator does about it.

use std::fmt;

use crate::identity::SystemId;
use crate::lsn::Lsn;
use crate::segment::SegmentSize;
use crate::timeline::TimelineId;

/// Bytes that are not the WAL they should be.
///
/// Each variant names the page or the record by its LSN; what the scanner reported complete
/// before it ([`super::WalScanner::complete_to`]) stays good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The scan was to start inside a page.
    #[error(
        "WAL cannot be read from {lsn}, which is not the start of a page; start at the first byte of its segment"
    )]
    Start {
        /// Where the scan was to start.
        lsn: Lsn,
    },
    /// A page of a PostgreSQL version that is not known, or no page at all.
    #[error("the WAL page at {page} has the magic number {found:#06X}, which no PostgreSQL from 13 to 18 writes; {}, or use a release of walvault that knows this PostgreSQL", Inspect(.page))]
    Magic {
        /// The page.
        page: Lsn,
        /// `xlp_magic`.
        found: u16,
    },
    /// A page of another PostgreSQL version than the pages before.
    #[error("the WAL page at {page} has the magic number {found:#06X}, the pages before it have {expected:#06X}; {}", Inspect(.page))]
    MagicChanged {
        /// The page.
        page: Lsn,
        /// `xlp_magic`.
        found: u16,
        /// `xlp_magic` of the first page.
        expected: u16,
    },
    /// Unknown page flags, or a segment's first page without the long header.
    #[error("the WAL page at {page} has the flags {found:#06X}, which do not belong there; {}", Inspect(.page))]
    PageFlags {
        /// The page.
        page: Lsn,
        /// `xlp_info`.
        found: u16,
    },
    /// A page that belongs elsewhere: bytes were left out, or a recycled segment's were sent.
    #[error("the WAL page at {page} says that it is the page at {found}; {}", Inspect(.page))]
    PageAddress {
        /// Where the page stands in the stream.
        page: Lsn,
        /// `xlp_pageaddr`.
        found: Lsn,
    },
    /// A page of a timeline later than the one that is read.
    #[error("the WAL page at {page} is of timeline {found}, but timeline {} is being read; compare with SELECT timeline_id FROM pg_control_checkpoint() on the server, and start again on the timeline it names", .stream.get())]
    TimelineAhead {
        /// The page.
        page: Lsn,
        /// `xlp_tli`.
        found: u32,
        /// The timeline that is read.
        stream: TimelineId,
    },
    /// A page of an earlier timeline than the page before it.
    #[error("the WAL page at {page} is of timeline {found}, after pages of timeline {previous}; {}", Inspect(.page))]
    TimelineBack {
        /// The page.
        page: Lsn,
        /// `xlp_tli`.
        found: u32,
        /// `xlp_tli` of the page before.
        previous: u32,
    },
    /// WAL of another cluster.
    #[error(
        "the WAL at {page} is of the system {found}, not {expected}; check that the configured server is the one this archive belongs to"
    )]
    SystemId {
        /// The page.
        page: Lsn,
        /// `xlp_sysid`.
        found: SystemId,
        /// The system whose WAL was asked for.
        expected: SystemId,
    },
    /// WAL in segments of another size.
    #[error("the WAL at {page} is in segments of {found} bytes, not of {}; check SHOW wal_segment_size on the server this archive belongs to", .expected.bytes())]
    SegmentSize {
        /// The page.
        page: Lsn,
        /// `xlp_seg_size`.
        found: u32,
        /// The size that was announced.
        expected: SegmentSize,
    },
    /// WAL in pages of a size that PostgreSQL does not have, or of another size than before.
    #[error(
        "the WAL at {page} is in pages of {found} bytes, which does not fit; check SHOW wal_block_size on the server, and start at the first byte of a segment where it is not 8192"
    )]
    BlockSize {
        /// The page.
        page: Lsn,
        /// `xlp_xlog_blcksz`.
        found: u32,
    },
    /// A page should continue a record and does not.
    #[error("the WAL page at {page} does not continue the record at {record}, which lacks {left} bytes; {}", Inspect(.record))]
    ContinuationMissing {
        /// The page.
        page: Lsn,
        /// The record; for one that began before the scan, where the scan started.
        record: Lsn,
        /// How many of its bytes are to come.
        left: u32,
    },
    /// A page continues a record that is longer or shorter than the one under way.
    #[error("the WAL page at {page} continues a record with {found} bytes, but the record at {record} lacks {left}; {}", Inspect(.record))]
    ContinuationLength {
        /// The page.
        page: Lsn,
        /// The record; for one that began before the scan, where the scan started.
        record: Lsn,
        /// How many of its bytes are to come.
        left: u32,
        /// `xlp_rem_len`.
        found: u32,
    },
    /// A page continues a record though none is under way.
    #[error("the WAL page at {page} continues a record with {found} bytes, but the record before it is complete; {}", Inspect(.page))]
    ContinuationUnexpected {
        /// The page.
        page: Lsn,
        /// `xlp_rem_len`.
        found: u32,
    },
    /// A record's length that no record can have; 0 is where WAL ends.
    #[error("the WAL record at {record} claims a length of {found} bytes; {}", Inspect(.record))]
    RecordLength {
        /// The record.
        record: Lsn,
        /// `xl_tot_len`.
        found: u32,
    },
    /// A record of a resource manager that this PostgreSQL version does not have.
    #[error("the WAL record at {record} is of the resource manager {found}, which this PostgreSQL does not have; {}", Inspect(.record))]
    ResourceManager {
        /// The record.
        record: Lsn,
        /// `xl_rmid`.
        found: u8,
    },
    /// A record that does not follow the one before it.
    #[error("the WAL record at {record} follows a record at {found}, but the one before it is at {expected}; {}", Inspect(.record))]
    Previous {
        /// The record.
        record: Lsn,
        /// `xl_prev`.
        found: Lsn,
        /// Where the record before it started.
        expected: Lsn,
    },
    /// A record that claims to follow a later one.
    #[error("the WAL record at {record} claims to follow a record at {found}; {}", Inspect(.record))]
    PreviousAhead {
        /// The record.
        record: Lsn,
        /// `xl_prev`.
        found: Lsn,
    },
    /// A record's bytes are not the bytes that PostgreSQL wrote.
    #[error("the WAL record at {record} has the CRC-32C {computed:08X}, its header says {stored:08X}; {}", Inspect(.record))]
    Crc {
        /// The record.
        record: Lsn,
        /// `xl_crc`.
        stored: u32,
        /// Over the bytes that arrived.
        computed: u32,
    },
    /// A record was abandoned by crash recovery, and what follows does not say so.
    #[error("the WAL record at {record} should mark the abandoned record at {abandoned}, but does not; {}", Inspect(.record))]
    Overwrite {
        /// The record.
        record: Lsn,
        /// The record that was abandoned.
        abandoned: Lsn,
    },
    /// A transaction's end or a restore point, intact but not laid out as this version lays it out.
    #[error("the WAL record at {record} is intact, but its time and transaction cannot be read; {}, and report what it prints as a defect of walvault", Inspect(.record))]
    Contents {
        /// The record.
        record: Lsn,
    },
}

impl WalError {
    /// The page or the record that is wrong.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        match self {
            WalError::Start { lsn } => *lsn,
            WalError::Magic { page, .. }
            | WalError::MagicChanged { page, .. }
            | WalError::PageFlags { page, .. }
            | WalError::PageAddress { page, .. }
            | WalError::TimelineAhead { page, .. }
            | WalError::TimelineBack { page, .. }
            | WalError::SystemId { page, .. }
            | WalError::SegmentSize { page, .. }
            | WalError::BlockSize { page, .. }
            | WalError::ContinuationMissing { page, .. }
            | WalError::ContinuationLength { page, .. }
            | WalError::ContinuationUnexpected { page, .. } => *page,
            WalError::RecordLength { record, .. }
            | WalError::ResourceManager { record, .. }
            | WalError::Previous { record, .. }
            | WalError::PreviousAhead { record, .. }
            | WalError::Crc { record, .. }
            | WalError::Overwrite { record, .. }
            | WalError::Contents { record } => *record,
        }
    }
}

/// What to do about bytes that are wrong in themselves.
struct Inspect<'a>(&'a Lsn);

impl fmt::Display for Inspect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lsn = self.0;
        write!(
            f,
            "it was not acknowledged: run pg_waldump --start={lsn} on the server to see whether its own WAL is intact"
        )
    }
}
