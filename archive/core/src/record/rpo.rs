//! How old the oldest commit became that was not in the archive, over time.
//!
//! A sidecar measures it every second and notes what it saw in the audit trail, in events whose action
//! is `rpo`. What no sample covers was watched by nobody, and is not known.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walvault_protocol::Lsn;

/// What an event `rpo` has under `series` in its details.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpoSeries {
    /// `[objectives] rpo`, in seconds, when it was measured.
    pub objective_seconds: f64,
    /// In order of time, of at most five minutes each, or longer where nothing happened.
    pub samples: Vec<RpoSample>,
    /// When the objective was not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breaches: Vec<RpoBreach>,
    /// When the host's clock was set, or the machine suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock_steps: Vec<ClockStep>,
}

/// A stretch of time in which it was measured throughout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpoSample {
    /// Its beginning, by the clock of the sidecar's host.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// The highest value, in seconds.
    pub worst_seconds: f64,
    /// The mean over time, in seconds.
    pub mean_seconds: f64,
    /// The watermark at its end.
    pub archived_to: Lsn,
}

/// A stretch of time in which it was above the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpoBreach {
    /// When it was first seen above.
    pub from: Timestamp,
    /// When it was seen within again, or the series ended.
    pub to: Timestamp,
    /// The highest value, in seconds.
    pub worst_seconds: f64,
    /// Whether it goes on beyond the series.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
}

/// The host's clock went on by more or less than time did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClockStep {
    /// What the clock showed after it.
    pub at: Timestamp,
    /// By how much it was off; negative where the clock was set back.
    pub seconds: f64,
}
