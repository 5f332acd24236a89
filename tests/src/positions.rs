//! A server's positions in WAL, as walvault's own type.

use walvault_harness::Postgres;
use walvault_protocol::Lsn;

/// Positions that a server reports.
pub trait Positions {
    /// The end of the WAL that the server has flushed, or received if it is a standby.
    ///
    /// # Panics
    /// When the server cannot be asked.
    fn flushed(&self) -> Lsn;

    /// The position that the walvaultd which streams from it reported to be in the archive.
    fn archived(&self) -> Option<Lsn>;
}

impl Positions for Postgres {
    fn flushed(&self) -> Lsn {
        self.value(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
             ELSE pg_current_wal_flush_lsn() END",
        )
    }

    fn archived(&self) -> Option<Lsn> {
        self.reported_by_walvault().parse().ok()
    }
}
