//! What an operator can say about a backup.

use std::fmt;
use std::time::Duration;

use walvault_archive::format::Codec;
use walvault_protocol::replication::BaseBackupOptions;

use super::BackupError;

/// What PostgreSQL refuses as too long, `MAXPGPATH` (`do_pg_backup_start` in `xlog.c`).
const LABEL_MAX: usize = 1024;
/// What PostgreSQL accepts as `MAX_RATE`, in KiB/s (manual, section "Streaming Replication
/// Protocol", `BASE_BACKUP`).
const MAX_RATE: std::ops::RangeInclusive<u32> = 32..=1_048_576;
/// Part sizes that make sense: fewer bytes make more objects than a store likes, more make a
/// backup and a restore hold gigabytes in memory.
const PART_SIZE: std::ops::RangeInclusive<u64> = (1 << 20)..=(512 << 20);

/// How a backup is taken.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// What the operator calls it.
    pub label: Label,
    /// Whether the server makes its checkpoint at once instead of spreading it.
    pub fast_checkpoint: bool,
    /// How long to wait for the checkpoint.
    pub checkpoint_timeout: Duration,
    /// The most KiB a second that the server may send.
    pub max_rate_kib: Option<u32>,
    /// Whether the server checks the checksum of every data page, if the cluster has them.
    pub verify_page_checksums: bool,
    /// Bytes of plaintext in a part.
    pub part_size: u64,
    /// How parts are compressed.
    pub codec: Codec,
    /// Whether retention must leave the backup alone.
    pub keep: bool,
    /// Whether tablespaces "in place" are to come with the data directory: before version 16 the server
    /// leaves them out where links travel as `tablespace_map`.
    pub in_place_tablespaces: bool,
}

impl Default for BackupOptions {
    fn default() -> BackupOptions {
        BackupOptions {
            label: Label::default(),
            fast_checkpoint: true,
            checkpoint_timeout: Duration::from_secs(3600),
            max_rate_kib: None,
            verify_page_checksums: true,
            part_size: 32 << 20,
            codec: Codec::Lz4,
            keep: false,
            in_place_tablespaces: false,
        }
    }
}

impl BackupOptions {
    /// Refuses what cannot work before the server is asked.
    pub(super) fn check(&self) -> Result<(), BackupError> {
        match self.max_rate_kib {
            Some(kib) if !MAX_RATE.contains(&kib) => return Err(BackupError::MaxRate { kib }),
            _ => {}
        }
        if !PART_SIZE.contains(&self.part_size) {
            return Err(BackupError::PartSize {
                bytes: self.part_size,
            });
        }
        Ok(())
    }

    /// What the server is asked for. WAL is none of it: the archive has that.
    pub(super) fn command(&self) -> BaseBackupOptions {
        BaseBackupOptions {
            label: self.label.0.clone(),
            fast_checkpoint: self.fast_checkpoint,
            progress: true,
            max_rate_kib: self.max_rate_kib,
            manifest: true,
            verify_checksums: self.verify_page_checksums,
            tablespace_map: !self.in_place_tablespaces,
        }
    }
}

/// A backup's label: it becomes a line of `backup_label`, so it has no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// Checks a label.
    ///
    /// # Errors
    /// When it is empty, too long for PostgreSQL, or has control characters.
    pub fn new(text: &str) -> Result<Label, BackupError> {
        let refuse = |reason| Err(BackupError::Label { reason });
        if text.trim().is_empty() {
            return refuse("is empty");
        }
        if text.len() > LABEL_MAX {
            return refuse("is longer than 1024 bytes");
        }
        if text.chars().any(char::is_control) {
            return refuse("has control characters");
        }
        Ok(Label(text.to_owned()))
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Label {
    fn default() -> Label {
        Label("walvault".to_owned())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_a_line_of_backup_label() {
        assert!(Label::new("nightly, vor dem Umzug – 2").is_ok());
        for text in [
            "",
            "  ",
            "a\nSTART WAL LOCATION: 0/0",
            "bell\u{7}",
            &"x".repeat(1025),
        ] {
            assert!(Label::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn refuses_what_the_server_would_refuse() {
        let with = |max_rate_kib, part_size| {
            BackupOptions {
                max_rate_kib,
                part_size,
                ..BackupOptions::default()
            }
            .check()
            .is_ok()
        };
        assert!(with(None, 32 << 20));
        assert!(with(Some(32), 32 << 20));
        assert!(!with(Some(31), 32 << 20));
        assert!(!with(Some(2_000_000), 32 << 20));
        assert!(!with(None, 0));
        assert!(!with(None, 1 << 30));
    }
}
