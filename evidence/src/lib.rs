//! What auditors are shown: the audit trail, and the signed records of drills.
//!
//! Nothing that moves WAL depends on this crate's decisions.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod audit;
pub mod drill;

#[cfg(test)]
mod golden;
