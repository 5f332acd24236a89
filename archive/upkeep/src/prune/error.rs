//! Why nothing was pruned.

use jiff::Timestamp;
use walvault_archive::error::Error;

/// Why a prune was not planned, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] Error),
    /// A record says what stays or why WAL is missing, and does not open.
    #[error(
        "{object} does not open, so it cannot be told what it keeps, and nothing was removed: {reason}; bring the object back from a copy or an older version, or delete it if nothing depends on it"
    )]
    Unreadable {
        /// The object's name.
        object: String,
        /// Why it does not open.
        reason: Box<Error>,
    },
    /// The policy.
    #[error(
        "this policy would remove every backup: all its counts and its window are 0; set at least one of them, or leave them out to remove none"
    )]
    RemovesEverything,
    /// A schedule would remove more at once than it may.
    #[error(
        "{going} of {all} backups would go at once, and [retention] share lets a schedule remove {:.0} % of them: look at 'walvault prune --dry-run', and run 'walvault prune' if it is right", share * 100.0
    )]
    TooMuch {
        /// The backups that would go.
        going: usize,
        /// All backups.
        all: usize,
        /// The part that may go.
        share: f64,
    },
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
