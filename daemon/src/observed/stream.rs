//! The stream of WAL: its positions, and what interrupted it.

use walvault_protocol::{Lsn, TimelineId};

/// Where the stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamState {
    /// The timeline that is streamed; `None` before streaming began.
    pub timeline: Option<TimelineId>,
    /// The end of what was received.
    pub received: Lsn,
    /// The watermark.
    pub durable: Lsn,
    /// The end of the server's WAL, as it last said.
    pub server_end: Lsn,
    /// Bytes in memory.
    pub memory: u64,
}

/// Why streaming ended or did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interruption {
    /// The label of `walvault_stream_errors_total`.
    pub kind: &'static str,
    /// The error, for people.
    pub reason: String,
    /// Why the archive's keys cannot be used, if that is the reason.
    pub key_trouble: Option<String>,
    /// Whether nothing is archived until somebody decides which side is right.
    pub conflict: bool,
}
