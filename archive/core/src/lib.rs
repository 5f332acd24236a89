//! What walvault stores.
//!
//! Owns the format of every stored object, sealing and opening, data keys, stored records, and the
//! catalog that reads an archive's contents off its listing. Object stores lie below it, upkeep and
//! evidence above. It knows no sockets to PostgreSQL.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod archive;
pub mod canary;
pub mod catalog;
pub mod coverage;
pub mod damage;
pub mod error;
pub mod fence;
pub mod format;
pub mod inventory;
pub mod keep;
pub mod key_usage;
pub mod keys;
pub mod record;
pub mod seal;

pub use archive::{Archive, StoredWal, WalCut, WalPut};
pub use catalog::Catalog;
pub use coverage::Coverage;
pub use error::Error;

#[cfg(test)]
mod vectors;
