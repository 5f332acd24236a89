//! The sidecar's commands.

pub mod backup;
pub mod check;
pub mod health;
pub mod init;
pub mod run;
