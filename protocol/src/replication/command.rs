//! The texts of replication commands (`repl_gram.y`), as each server version reads them.
//!
//! Slot names are quoted though they need no escaping: one may be a keyword.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use super::slot::{SlotName, SlotOptions};
use crate::identity::ServerVersion;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// The first version whose options stand in parentheses, and which has `READ_REPLICATION_SLOT`.
pub const PARENTHESES_SINCE: ServerVersion = ServerVersion(150_000);

/// `CREATE_REPLICATION_SLOT … PHYSICAL`.
#[must_use]
pub fn create_physical_slot(
    version: ServerVersion,
    name: &SlotName,
    options: SlotOptions,
) -> String {
    let temporary = if options.temporary { " TEMPORARY" } else { "" };
    let reserve = match (options.reserve_wal, version >= PARENTHESES_SINCE) {
        (false, _) => "",
        (true, false) => " RESERVE_WAL",
        (true, true) => " (RESERVE_WAL)",
    };
    format!("CREATE_REPLICATION_SLOT \"{name}\"{temporary} PHYSICAL{reserve}")
}

/// `READ_REPLICATION_SLOT`, known since [`PARENTHESES_SINCE`].
#[must_use]
pub fn read_slot(name: &SlotName) -> String {
    format!("READ_REPLICATION_SLOT \"{name}\"")
}

/// `DROP_REPLICATION_SLOT`.
#[must_use]
pub fn drop_slot(name: &SlotName) -> String {
    format!("DROP_REPLICATION_SLOT \"{name}\"")
}

/// `START_REPLICATION … PHYSICAL`.
#[must_use]
pub fn start_replication(slot: Option<&SlotName>, start: Lsn, timeline: TimelineId) -> String {
    let slot = slot.map_or_else(String::new, |name| format!("SLOT \"{name}\" "));
    format!(
        "START_REPLICATION {slot}PHYSICAL {start} TIMELINE {}",
        timeline.get()
    )
}

/// `TIMELINE_HISTORY`.
#[must_use]
pub fn timeline_history(timeline: TimelineId) -> String {
    format!("TIMELINE_HISTORY {}", timeline.get())
}

/// `SHOW`; `None` when `name` is not the name of a parameter.
#[must_use]
pub fn show(name: &str) -> Option<String> {
    let word = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    name.split('.').all(word).then(|| format!("SHOW {name}"))
}

/// What to ask of `BASE_BACKUP`. WAL is never included and the server never waits for its
/// archiver: the WAL is in the archive by way of streaming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Written into `backup_label`.
    pub label: String,
    /// Whether to write the first checkpoint at once, or spread it out.
    pub fast_checkpoint: bool,
    /// Whether the server estimates sizes beforehand and reports progress.
    pub progress: bool,
    /// The most KiB a second the server sends, within [`BaseBackupOptions::MAX_RATE_KIB`].
    pub max_rate_kib: Option<u32>,
    /// Whether to end with a manifest, with a CRC-32C for each file.
    pub manifest: bool,
    /// Whether the server verifies the checksums of the pages it reads.
    pub verify_checksums: bool,
    /// Whether links in `pg_tblspc` travel as the file `tablespace_map`.
    pub tablespace_map: bool,
}

impl Default for BaseBackupOptions {
    fn default() -> BaseBackupOptions {
        BaseBackupOptions {
            label: "walvault".to_owned(),
            fast_checkpoint: false,
            progress: true,
            max_rate_kib: None,
            manifest: true,
            verify_checksums: true,
            tablespace_map: true,
        }
    }
}

impl BaseBackupOptions {
    /// The rates PostgreSQL accepts (`MAX_RATE_LOWER`, `MAX_RATE_UPPER`).
    pub const MAX_RATE_KIB: RangeInclusive<u32> = 32..=1_048_576;

    /// The command for a server of `version`.
    #[must_use]
    pub fn command(&self, version: ServerVersion) -> String {
        let label = self.label.replace('\'', "''");
        if version >= PARENTHESES_SINCE {
            self.parenthesised(&label)
        } else {
            self.words(&label)
        }
    }

    fn parenthesised(&self, label: &str) -> String {
        let checkpoint = if self.fast_checkpoint {
            "fast"
        } else {
            "spread"
        };
        let flag = |on: bool| if on { "true" } else { "false" };
        let mut options = format!(
            "LABEL '{label}', PROGRESS {}, CHECKPOINT '{checkpoint}', WAL false, WAIT false, \
             TABLESPACE_MAP {}, VERIFY_CHECKSUMS {}",
            flag(self.progress),
            flag(self.tablespace_map),
            flag(self.verify_checksums),
        );
        if let Some(rate) = self.max_rate_kib {
            let _ = write!(options, ", MAX_RATE {rate}");
        }
        if self.manifest {
            options.push_str(", MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'");
        }
        format!("BASE_BACKUP ({options})")
    }

    fn words(&self, label: &str) -> String {
        let mut command = format!("BASE_BACKUP LABEL '{label}'");
        for (wanted, word) in [
            (self.progress, " PROGRESS"),
            (self.fast_checkpoint, " FAST"),
            (true, " NOWAIT"),
            (self.tablespace_map, " TABLESPACE_MAP"),
            (!self.verify_checksums, " NOVERIFY_CHECKSUMS"),
            (self.manifest, " MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"),
        ] {
            if wanted {
                command.push_str(word);
            }
        }
        if let Some(rate) = self.max_rate_kib {
            let _ = write!(command, " MAX_RATE {rate}");
        }
        command
    }
}
