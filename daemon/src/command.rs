//! The sidecar's commands.

pub mod backup;
pub mod check;
pub mod init;
pub mod run;
