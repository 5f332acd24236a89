//! What keeps an archive sound and no larger than it has to be: verification, retention, pruning,
//! the replication of what a replica lacks, the lock of whoever changes what is kept,
//! and the leases of whoever reads it for long.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod copy;
pub mod lease;
pub mod lock;
pub mod prune;
pub mod retention;
pub mod verify;
