//! What was said about keeping a backup.

use serde::{Deserialize, Serialize};

/// `backups/<id>/keep/<number>`: one change of what keeps a backup. Numbers count from 1 without a
/// hole; what was said last counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// When it was said, by the clock of the machine it was said on.
    pub at: jiff::Timestamp,
    /// Who said it, such as `postgres@host`.
    pub by: String,
    /// What.
    #[serde(flatten)]
    pub change: KeepChange,
}

/// What a [`KeepRecord`] changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum KeepChange {
    /// Retention leaves it alone.
    Keep,
    /// Retention may free it again.
    Unkeep,
    /// A legal hold, which is known by the number of this record: it stays whatever retention and
    /// `unkeep` say, until the hold ends or is released.
    Hold {
        /// Why.
        reason: String,
        /// When it ends by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<jiff::Timestamp>,
    },
    /// The end of a hold.
    Release {
        /// Its number.
        hold: u32,
    },
}
