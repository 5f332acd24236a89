//! walvault, the operator's tool: lists an archive, plans a restore, carries it out, and serves
//! WAL to a server in recovery.
//!
//! Data flows one way: the catalog and the commit indexes make a [`plan::RestorePlan`], a value
//! that can be printed; [`materialise`] turns its backup into a data directory; [`wal`] then hands
//! PostgreSQL what it replays. [`drill`] does all of it and throws the result away. Only
//! `keys`, `keep` and its kin, `prune`, `verify` and `drill` write to an archive, and `restore` its hold.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod access;
pub mod cli;
pub mod command;
pub mod drill;
pub mod estimate;
pub mod exit;
pub mod export;
pub mod line;
pub mod marks;
pub mod materialise;
pub mod noted;
pub mod place;
pub mod plan;
pub mod prediction;
pub mod prefetch;
pub mod program;
pub mod protect;
pub mod report;
pub mod reporting;
pub mod runtime;
pub mod settings;
pub mod shell;
pub mod target;
pub mod trial;
pub mod wal;

#[cfg(test)]
mod testing;
