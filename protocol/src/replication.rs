//! The replication protocol without its sockets: commands, copy-both, base backups, slots.
//!
//! Manual, chapter "Frontend/Backend Protocol", section "Streaming Replication Protocol";
//! the server's side is `walsender.c` and `basebackup.c`.

pub mod answers;
pub mod base_backup;
pub mod command;
pub mod copy_both;
pub mod slot;
pub mod status;
pub mod wal_message;

#[cfg(test)]
mod tests;

pub use answers::{HistoryFile, SlotPosition, SystemIdentity, TimelineEnd};
pub use base_backup::{BackupEnd, BackupEvent, BackupStart, Tablespace};
pub use command::BaseBackupOptions;
pub use slot::{SlotName, SlotNameError, SlotOptions};
pub use status::{DurablePosition, StandbyStatus};
pub use wal_message::{Keepalive, WalData, WalMessage};
