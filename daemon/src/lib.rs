//! walvaultd, the sidecar: streams WAL and takes base backups into the archive.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod admin;
pub mod app;
pub mod backup;
pub mod command;
pub mod copies;
pub mod drills;
pub mod health;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod observed;
pub mod pipeline;
pub mod rotation;
pub mod samples;
pub mod schedule;
pub mod status;
pub mod stream;
pub mod survey;
pub mod upkeep;
