//! The sidecar's commands.

pub mod backup;
pub mod run;
