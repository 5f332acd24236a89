//! Changes that replay brings along: settings of the server that wrote the WAL, and databases.

use super::page::u32_at;

/// What a server that replays WAL must not have less of than the one that wrote it
/// (`xl_parameter_change` of `src/include/access/xlog_internal.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `max_connections`
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: u32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
}

impl Parameters {
    /// The bytes of `xl_parameter_change` that are read.
    pub(super) const SIZE: usize = 6 * size_of::<u32>();

    pub(super) fn read<const N: usize>(record: &[u8; N]) -> Parameters {
        let number = |index: usize| u32_at(record, index * size_of::<u32>());
        Parameters {
            max_connections: number(0),
            max_worker_processes: number(1),
            max_wal_senders: number(2),
            max_prepared_transactions: number(3),
            max_locks_per_transaction: number(4),
            wal_level: number(5),
        }
    }

    /// Whether no replay passes over the record: from there on WAL lacks what `wal_level = minimal` leaves out
    /// (`WAL_LEVEL_MINIMAL` of `src/include/access/xlog.h`).
    #[must_use]
    pub fn ends_replay(&self) -> bool {
        self.wal_level == 0
    }
}

/// A directory of a database that replay makes (`xl_dbase_create_…` of
/// `src/include/commands/dbcommands_xlog.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseDirectory {
    /// The database.
    pub oid: u32,
    /// The tablespace that the directory is in.
    pub tablespace: u32,
    /// The database whose directory replay copies: before PostgreSQL 15, and with
    /// `STRATEGY = file_copy`. `None` where WAL holds the new database's pages. The database itself
    /// where it was moved (`ALTER DATABASE … SET TABLESPACE`).
    pub template: Option<u32>,
}

impl DatabaseDirectory {
    /// The bytes of `xl_dbase_create_file_copy_rec` that are read: up to `src_db_id`.
    pub(super) const COPIED: usize = 3 * size_of::<u32>();
    /// The bytes of `xl_dbase_create_wal_log_rec`.
    pub(super) const LOGGED: usize = 2 * size_of::<u32>();

    pub(super) fn read<const N: usize>(record: &[u8; N], copied: bool) -> DatabaseDirectory {
        DatabaseDirectory {
            oid: u32_at(record, 0),
            tablespace: u32_at(record, 4),
            template: copied.then(|| u32_at(record, 8)),
        }
    }
}
