//! What auditors are shown: the audit trail, and the signed records of drills.
//!
//! Nothing that moves WAL depends on this crate's decisions.

pub mod audit;
pub mod drill;

#[cfg(test)]
mod golden;
