//! How long it takes until data is back: what restores and drills measured.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::record::DrillRecord;
use walvault_archive::record::drill::DrillOutcome;

use super::acts::Tally;
use super::{Sources, Span};

/// What was measured within a span.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Recovery {
    /// The longest time from the beginning of a drill until the cluster was at its target, in seconds.
    pub rto_worst_seconds: Option<f64>,
    /// The objective when it was last measured, where one was set.
    pub rto_objective_seconds: Option<f64>,
    /// Whether every drill kept it; `None` where none was set, or measured.
    pub rto_kept: Option<bool>,
    /// The longest time that rebuilding a data directory took a restore, in seconds.
    pub restore_worst_seconds: Option<f64>,
    /// Restores.
    pub restores: Tally,
    /// Drills that passed.
    pub drills_passed: usize,
    /// Drills that failed.
    pub drills_failed: usize,
    /// When the last one passed, whether within the span or before.
    pub last_passed: Option<Timestamp>,
    /// Their records, those begun first in front.
    pub drills: Vec<DrillRecord>,
    /// Records that could not be read, and why.
    pub unread: Vec<String>,
}

impl Recovery {
    /// What was read.
    #[must_use]
    pub fn of(sources: &Sources, restores: Tally, span: &Span) -> Recovery {
        let within = |drill: &&DrillRecord| span.holds(drill.started);
        let drills: Vec<DrillRecord> = sources.drills.iter().filter(within).cloned().collect();
        let count = |outcome| drills.iter().filter(|it| it.outcome == outcome).count();
        let measured = drills.iter().filter_map(|drill| drill.measured.rto_seconds);
        let kept: Vec<bool> = drills
            .iter()
            .filter_map(|it| it.objectives.rto_kept)
            .collect();
        let passed = sources.drills.iter();
        let passed = passed.filter(|it| it.outcome == DrillOutcome::Passed && it.ended < span.to);
        Recovery {
            rto_worst_seconds: measured.max_by(f64::total_cmp),
            rto_objective_seconds: drills.iter().rev().find_map(|it| it.objectives.rto_seconds),
            rto_kept: (!kept.is_empty()).then(|| kept.iter().all(|kept| *kept)),
            restore_worst_seconds: restores.longest(),
            restores,
            drills_passed: count(DrillOutcome::Passed),
            drills_failed: count(DrillOutcome::Failed),
            last_passed: passed.map(|drill| drill.ended).max(),
            unread: sources.drills_unread.clone(),
            drills,
        }
    }
}
