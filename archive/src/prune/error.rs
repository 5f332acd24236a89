//! Why nothing was pruned.

use jiff::Timestamp;

use crate::error::Error;

/// Why a prune was not planned, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] Error),
    /// The policy.
    #[error(
        "this policy would remove every backup: all its counts and its window are 0; set at least one of them, or leave them out to remove none"
    )]
    RemovesEverything,
    /// The clock went back.
    #[error(
        "the archive holds something of {newest}, but it is {now} by this machine's clock: periods cannot be told; correct the clock, or pass --ignore-clock"
    )]
    ClockBehind {
        /// The newest time in the archive.
        newest: Timestamp,
        /// The time here.
        now: Timestamp,
    },
    /// The clock is ahead of the store's.
    #[error(
        "it is {store} by the store's clock, but {now} by this machine's: periods cannot be told; correct the clock, or pass --ignore-clock"
    )]
    ClockAhead {
        /// The time there.
        store: Timestamp,
        /// The time here.
        now: Timestamp,
    },
}
