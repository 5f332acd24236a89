//! The audit trail: what was done to an archive, by whom, in a way that cannot be changed unseen.
//!
//! Events go in batches into write-once objects, `audit/<writer>/<number>`. Each batch names the one
//! before it by its SHA-256 and is signed, and the first of a process names the newest batches of
//! other writers, so that a chain cannot be cut short without one of them telling. They are sealed
//! under data keys of their own, for the recipients of `[audit]`: whoever reads the trail need not be
//! able to read anything else. `docs/audit.md` says what this proves and what it does not.

mod batch;
mod chain;
mod event;
pub mod import;
mod log;
pub mod person;
mod pruned;
mod recorder;
mod settings;
mod verify;

pub use batch::{Batch, BatchError, Head};
pub use chain::{Position, Recorded, read_all};
pub use event::{Action, Actor, Event, Outcome};
pub use log::AuditLog;
pub use recorder::{Act, AuditError, Recorder, log, trail};
pub use settings::AuditSettings;
pub use verify::{AuditFinding, AuditReport, ChainReport, FindingKind, read_verified, verify};

#[cfg(test)]
mod tests;
