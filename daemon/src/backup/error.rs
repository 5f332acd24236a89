//! Why there is no backup.

use std::io;
use std::time::Duration;

use walvault_archive::Error as ArchiveError;
use walvault_archive::record::FilePath;
use walvault_layout::BackupId;
use walvault_protocol::client::ClientError;
use walvault_protocol::manifest::ManifestError;
use walvault_protocol::replication::SlotName;
use walvault_protocol::{Lsn, LsnRange, SystemId, TimelineId};

use super::warnings::Warnings;

/// Why a backup was not taken. Whatever was stored of it is listed nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A label that PostgreSQL would refuse, or that would break `backup_label`.
    #[error("the backup's label {reason}; give another --label")]
    Label {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A rate that PostgreSQL does not know.
    #[error(
        "a backup cannot be limited to {kib} KiB/s; set [backup] max_rate between 32 KiB/s and 1 GiB/s, or leave it out"
    )]
    MaxRate {
        /// As asked for.
        kib: u32,
    },
    /// Parts of a size that cannot work.
    #[error(
        "a backup cannot have parts of {bytes} bytes; set [backup] part_size between 1 MiB and 512 MiB"
    )]
    PartSize {
        /// As asked for.
        bytes: u64,
    },
    /// Another backup of the server is being taken.
    #[error(
        "another backup of this server is being taken: it holds the replication slot '{slot}'; wait for its end, or end its WAL sender (pg_stat_replication shows it with state 'backup')"
    )]
    Busy {
        /// The slot that a backup holds while it is taken.
        slot: SlotName,
    },
    /// The server refused, or could not be asked.
    #[error(transparent)]
    Server(ClientError),
    /// The checkpoint that every backup begins with did not end.
    #[error("the server's checkpoint did not end within {} s; take the backup with a fast checkpoint ([backup] checkpoint = \"fast\"), or wait longer ([backup] checkpoint_timeout)", waited.as_secs())]
    Checkpoint {
        /// How long was waited.
        waited: Duration,
    },
    /// The server went away, or gave up, while it was sending.
    #[error(
        "the backup ended after {received} bytes: {source}; nothing of it counts: take it again"
    )]
    Interrupted {
        /// Bytes received until then.
        received: u64,
        /// What happened.
        source: ClientError,
    },
    /// The server found data pages whose checksums are wrong.
    #[error(
        "the server found damaged data pages: {}. Repair them, or restore from an earlier backup; --no-verify-checksums, or [backup] verify_checksums = false, stores them as they are",
        or_source(.warnings, .source)
    )]
    PageChecksums {
        /// What the server said.
        source: ClientError,
        /// Which files and blocks it warned of.
        warnings: Vec<String>,
    },
    /// The server took up another timeline in the meantime.
    #[error("the server went from timeline {start} to {end} during the backup; take it again")]
    TimelineChanged {
        /// At the start.
        start: TimelineId,
        /// At the end.
        end: TimelineId,
    },
    /// A tar archive that is cut short or no tar archive.
    #[error(
        "the tar archive of {archive} that the server sent is broken: {source}; take the backup again"
    )]
    Tar {
        /// Which one.
        archive: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A name that leads out of the data directory, or an entry that no data directory has.
    #[error(
        "the server sent '{path}', which {reason}; remove it from the server's data directory and take the backup again"
    )]
    Entry {
        /// The entry.
        path: FilePath,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// PostgreSQL's manifest cannot be relied on.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// PostgreSQL's manifest is of something else.
    #[error(
        "the backup_manifest is of {found}, this backup is of {expected}; take the backup again"
    )]
    ManifestOf {
        /// As the manifest says.
        found: String,
        /// As the server said.
        expected: String,
    },
    /// A file is not what PostgreSQL says it sent.
    #[error(
        "file '{path}' {difference}; it was altered between the server and here: check the network and the memory of both machines, and take the backup again"
    )]
    File {
        /// The file.
        path: FilePath,
        /// How it differs.
        difference: Difference,
    },
    /// The archive did not take it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The WAL that the backup needs does not arrive.
    #[error(
        "the backup is stored, but the WAL {range} of timeline {timeline} that it needs is archived only up to {reached}, and nothing came for {} s; see in pg_replication_slots which process holds the slot (active_pid), whether the walvaultd behind it runs and its store answers, then take the backup again",
        waited.as_secs()
    )]
    WalStalled {
        /// The timeline.
        timeline: TimelineId,
        /// What is needed.
        range: LsnRange,
        /// How far the archive has it.
        reached: Lsn,
        /// How long nothing came.
        waited: Duration,
    },
    /// What the backup needs was there, and is gone.
    #[error(
        "a prune removed {what} while backup {backup} was taken, which needs it; take the backup again, and set grace in [retention] to longer than backups take"
    )]
    Pruned {
        /// The backup.
        backup: BackupId,
        /// What is gone.
        what: String,
    },
    /// The WAL that the backup needs could not be brought into the archive.
    #[error("the backup is stored, but its WAL could not be archived: {0}")]
    Wal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How a file differs from what PostgreSQL's manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The manifest lists it, and it did not come.
    #[error("is in the backup_manifest and was not received")]
    NotReceived,
    /// It came, and the manifest does not list it.
    #[error("was received and is not in the backup_manifest")]
    NotListed,
    /// It came twice.
    #[error("was received twice")]
    Twice,
    /// Its size.
    #[error("has {received} bytes, and {listed} in the backup_manifest")]
    Size {
        /// As received.
        received: u64,
        /// As listed.
        listed: u64,
    },
    /// Its checksum.
    #[error("has the CRC-32C {received}, and {listed} in the backup_manifest")]
    Checksum {
        /// As received.
        received: String,
        /// As listed.
        listed: String,
    },
    /// The manifest has no CRC-32C of it.
    #[error("has no CRC-32C in the backup_manifest")]
    NoChecksum,
}

impl BackupError {
    /// Names the cluster a manifest is of.
    pub(super) fn other_system(found: SystemId, expected: SystemId) -> BackupError {
        BackupError::ManifestOf {
            found: format!("the system {found}"),
            expected: format!("the system {expected}"),
        }
    }

    pub(super) fn file(path: &FilePath, difference: Difference) -> BackupError {
        BackupError::File {
            path: path.clone(),
            difference,
        }
    }
}

/// `ERRCODE_DATA_CORRUPTED`: how `basebackup.c` ends a backup in which pages failed.
const DATA_CORRUPTED: &str = "XX001";

/// Sorts what the client reports by when it happened, after `received` bytes.
pub(super) fn of_client(source: ClientError, received: u64, warnings: Warnings) -> BackupError {
    match source.sqlstate() {
        Some(DATA_CORRUPTED) => BackupError::PageChecksums {
            source,
            warnings: warnings.into_lines(),
        },
        _ if received > 0 => BackupError::Interrupted { received, source },
        _ => BackupError::Server(source),
    }
}

/// What the server warned of, or, where it did not, how it ended the backup.
fn or_source(warnings: &[String], source: &ClientError) -> String {
    match warnings {
        [] => source.to_string(),
        warnings => warnings.join("; "),
    }
}
