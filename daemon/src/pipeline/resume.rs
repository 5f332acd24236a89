//! Where a stream begins.

use walvault_protocol::{Lsn, SegmentNumber, SegmentSize, TimelineId};

/// Where streaming goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The timeline to ask for.
    pub timeline: TimelineId,
    /// The first byte to store: where a unit begins.
    pub start: Lsn,
    /// Up to where the archive holds the WAL without a hole.
    pub archived_to: Lsn,
}

impl Resume {
    /// The first byte to ask for: where the segment begins. Which rest of a segment is unused, its
    /// switch alone says, which may be in an earlier unit.
    #[must_use]
    pub fn segment_start(&self, size: SegmentSize) -> Lsn {
        SegmentNumber::containing(self.start, size).start(size)
    }
}
