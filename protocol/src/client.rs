//! Sessions with a PostgreSQL server: SQL and physical replication.
//!
//! Owns sockets, TLS and connection parameters. What travels over the socket is encoded, decoded
//! and kept in order by [`crate::handshake`], [`crate::auth`] and [`crate::replication`].

mod backup_stream;
mod connect;
mod connection;
mod conninfo;
mod error;
mod passfile;
mod session;
mod socket;
mod tls;
mod wal_stream;

pub use backup_stream::BackupStream;
pub use conninfo::{ConnInfo, ConnInfoError};
pub use error::ClientError;
pub use session::{Mode, Session, StartReplication};
#[cfg(feature = "synthetic")]
pub use socket::Dial;
pub use wal_stream::WalStream;

pub use crate::message::{QueryResult, ServerError};
pub use crate::replication::{
    BackupEnd, BackupEvent, BackupStart, BaseBackupOptions, DurablePosition, HistoryFile,
    Keepalive, SlotName, SlotNameError, SlotOptions, SlotPosition, StandbyStatus, SystemIdentity,
    Tablespace, TimelineEnd, WalData, WalMessage,
};
