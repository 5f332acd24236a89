//! The streaming pipeline: `socket → receive → chunk → seal → store`, and the watermark back.
//!
//! Each stage is a file that says what it owns. Data flows one way; only the watermark travels
//! back and becomes the flush position.

use std::time::Duration;

use walvault_archive::format::Codec;
use walvault_config::Ack;

mod catch_up;
pub mod chunker;
pub mod destination;
pub mod group_commit;
pub mod proven;
pub mod pump;
pub mod removals;
mod resume;
pub mod source;
pub mod tail_ledger;
mod tail_merge;
pub mod upload;
pub mod watermark;
pub mod watermarks;

pub use catch_up::{Brought, CatchUp};
pub use chunker::{Chunker, Cut};
pub use destination::Destination;
pub use proven::{Begin, Proven};
pub use pump::{Impassable, Pump, PumpEnd, PumpError, Reports};
pub use removals::Removals;
pub use resume::Resume;
pub use source::WalSource;
pub use watermark::{Durable, Watermark};
pub use watermarks::Watermarks;

/// What the operator decided.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long WAL may wait for more before it is cut into a chunk.
    pub max_delay: Duration,
    /// Bytes that may be in memory at once; beyond them the socket is not read.
    pub memory: u64,
    /// Whole units, and as many chunks, that are stored at once.
    pub uploads: usize,
    /// Which of several archives WAL must be in to be reported as flushed.
    pub ack: Ack,
    /// How long the server may be silent until it counts as lost; it is asked for an answer after
    /// half of that, as a standby does.
    pub receiver_timeout: Duration,
    /// How objects are compressed.
    pub codec: Codec,
}
