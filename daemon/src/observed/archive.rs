//! The archive's contents at the last survey, as metrics, `/status` and notifications tell them.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::inventory::Inventory;
use walvault_protocol::SystemId;

use crate::drills::DrillSeen;

/// What the archive held.
#[derive(Debug, Clone, Serialize)]
pub struct Survey {
    /// When it was looked at.
    pub at: Timestamp,
    /// How long that took.
    pub seconds: f64,
    /// Whose archive it is.
    pub system_id: SystemId,
    /// What it held; without the gaps that prunes left on purpose.
    #[serde(flatten)]
    pub inventory: Inventory,
    /// The newest drill of each scenario.
    pub drills: Vec<DrillSeen>,
}
