//! walvaultd, the sidecar: streams WAL and takes base backups into the archive.

pub mod app;
pub mod backup;
pub mod command;
pub mod pipeline;
pub mod schedule;
pub mod stream;
