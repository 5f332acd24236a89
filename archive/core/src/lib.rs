//! What walvault stores, and where.
//!
//! Owns the format of every stored object, sealing and opening, data keys, object stores, the
//! layout of an archive, and the catalog that reads an archive's contents off its listing. It
//! knows no sockets to PostgreSQL.

pub mod archive;
pub mod audit;
mod aws;
pub mod backoff;
pub mod canary;
pub mod catalog;
pub mod chance;
pub mod clock;
pub mod compute;
pub mod config;
pub mod copy;
pub mod coverage;
mod damage;
pub mod drill;
mod endpoint;
pub mod error;
pub mod fence;
pub mod format;
pub mod keep;
pub mod key_usage;
pub mod keys;
pub mod layout;
pub mod lock;
pub mod prune;
pub mod record;
pub mod retention;
pub mod seal;
pub mod simulated;
pub mod store;
pub mod verify;

pub use archive::{Archive, StoredWal, WalCut, WalPut};
pub use backoff::Backoff;
pub use catalog::Catalog;
pub use coverage::Coverage;
pub use error::Error;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod vectors;
