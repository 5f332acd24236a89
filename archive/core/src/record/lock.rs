//! Who changes what is kept.

use serde::{Deserialize, Serialize};

/// `locks/upkeep/<number>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// Who has it, such as `walvault prune, process 71 of postgres@host`.
    pub holder: String,
    /// When it was taken.
    pub taken_at: jiff::Timestamp,
    /// When it is no longer good.
    pub expires_at: jiff::Timestamp,
    /// 64 random bits, hexadecimal, so that no two records are alike.
    pub token: String,
}
