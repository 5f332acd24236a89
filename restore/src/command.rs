//! The commands, one file each: they connect what the rest of the crate does to the command line.

mod arguments;
pub mod audit;
pub mod copy;
pub mod drill;
pub mod export;
pub mod install;
pub mod keep;
pub mod keys;
pub mod list;
pub mod prune;
pub mod report;
pub mod restore;
pub mod settle;
pub mod show;
pub mod verify;
pub mod wal_fetch;
