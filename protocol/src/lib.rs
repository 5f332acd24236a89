//! PostgreSQL on the wire and in WAL.
//!
//! Owns the vocabulary every other crate speaks ([`Lsn`], [`SegmentSize`], [`TimelineId`],
//! [`SystemId`]), the decoders of everything PostgreSQL sends, and, behind the feature `client`,
//! the sockets. It does not know what an archive is.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod auth;
#[cfg(feature = "client")]
pub mod client;
pub mod codec;
pub mod control_file;
pub mod data_page;
pub mod handshake;
pub mod identity;
pub mod lsn;
pub mod manifest;
pub mod message;
pub mod replication;
pub mod segment;
pub mod timeline;
pub mod timestamp;
pub mod wal;

pub use control_file::{ControlFile, ControlFileError};
pub use identity::{ServerVersion, SystemId};
pub use lsn::{Lsn, LsnRange};
pub use segment::{SegmentNumber, SegmentSize, WalFileName};
pub use timeline::{TimelineHistory, TimelineId};
pub use timestamp::PgTimestamp;
