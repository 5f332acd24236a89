//! The replication slot as the server describes it.

use std::time::Duration;

/// What `pg_replication_slots` says of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// What PostgreSQL promises.
    pub status: WalStatus,
    /// Bytes of WAL kept for the slot.
    pub retained: u64,
    /// Bytes that can still be written before the slot is in danger; `None` without a limit.
    pub safe: Option<u64>,
    /// Bytes that are free on the disk of `pg_wal`; `None` where that cannot be seen.
    pub disk: Option<u64>,
    /// The end of the server's WAL.
    pub server_end: u64,
}

impl SlotState {
    /// Bytes that can still be written before a limit that is known ends it: the slot's, or the disk's.
    #[must_use]
    pub fn headroom(&self) -> Option<u64> {
        self.safe.into_iter().chain(self.disk).min()
    }

    /// Whether the disk is full before the slot's own limit is reached.
    #[must_use]
    pub fn disk_ends_it(&self) -> bool {
        self.disk
            .is_some_and(|free| self.safe.is_none_or(|safe| free < safe))
    }
}

/// `wal_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Kept for the slot alone.
    Extended,
    /// May go with the next checkpoint.
    Unreserved,
    /// Gone.
    Lost,
}

impl WalStatus {
    /// The column's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WalStatus::Reserved => "reserved",
            WalStatus::Extended => "extended",
            WalStatus::Unreserved => "unreserved",
            WalStatus::Lost => "lost",
        }
    }

    /// Reads the column; `None` when the slot never reserved any WAL.
    #[must_use]
    pub fn parse(text: &str) -> Option<WalStatus> {
        match text {
            "reserved" => Some(WalStatus::Reserved),
            "extended" => Some(WalStatus::Extended),
            "unreserved" => Some(WalStatus::Unreserved),
            "lost" => Some(WalStatus::Lost),
            _ => None,
        }
    }
}

/// How the slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing to say.
    Safe,
    /// It will be lost, in about this time at the rate at which WAL is written now.
    Endangered {
        /// `None` when no WAL is written.
        left: Option<Duration>,
    },
    /// It is lost, or will be with the next checkpoint.
    Lost,
}
