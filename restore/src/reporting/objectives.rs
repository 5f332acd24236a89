//! How long it takes until data is back: what restores and drills measured.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::record::DrillRecord;
use walvault_archive::record::drill::DrillOutcome;

use super::Span;
use super::acts::Tally;

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
    pub fn of(
        records: &[DrillRecord],
        unread: &[String],
        restores: Tally,
        span: &Span,
    ) -> Recovery {
        let within = |drill: &&DrillRecord| span.holds(drill.started);
        let drills: Vec<DrillRecord> = records.iter().filter(within).cloned().collect();
        let count = |outcome| drills.iter().filter(|it| it.outcome == outcome).count();
        let measured = drills.iter().filter_map(|drill| drill.measured.rto_seconds);
        let kept: Vec<bool> = drills
            .iter()
            .filter_map(|it| it.objectives.rto_kept)
            .collect();
        let passed = records.iter();
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
            unread: unread.to_vec(),
            drills,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::reporting::Kind;
    use crate::reporting::span::Asked;

    /// One that was begun in this hour and took so long to its target.
    fn drill(hour: u32, passed: bool, rto: Option<f64>) -> DrillRecord {
        let outcome = if passed { "passed" } else { "failed" };
        let record = serde_json::json!({
            "version": 1,
            "id": format!("20260301T{hour:02}0000Z-system-failure-{outcome}-0000"),
            "scenario": "system-failure",
            "outcome": outcome,
            "started": format!("2026-03-01T{hour:02}:00:00Z"),
            "ended": format!("2026-03-01T{hour:02}:10:00Z"),
            "seconds": 600.0,
            "host": "db1",
            "operator": "Ann",
            "program": "walvault",
            "archive": "file:///a",
            "target": { "asked": "the end" },
            "measured": { "rto_seconds": rto },
            "objectives": { "rto_seconds": 300.0, "rpo_seconds": 60.0, "rto_kept": rto.map(|it| it <= 300.0) },
        });
        serde_json::from_value(record).expect("a record")
    }

    fn recovery(drills: &[DrillRecord]) -> Recovery {
        let asked = Asked {
            from: Some("2026-03-01T06:00:00Z".to_owned()),
            to: Some("2026-03-01T18:00:00Z".to_owned()),
            time_zone: None,
        };
        let early = Timestamp::UNIX_EPOCH;
        let chosen = Span::choose(Kind::Daily, &asked, Timestamp::now(), early);
        let (span, _) = chosen.expect("a span");
        Recovery::of(drills, &[], Tally::default(), &span)
    }

    #[test]
    fn the_slowest_drill_of_the_span_counts_and_the_last_that_passed_before_its_end() {
        let drills = [
            drill(1, true, Some(900.0)),
            drill(7, true, Some(100.0)),
            drill(8, false, Some(400.0)),
            drill(9, false, None),
            drill(20, true, Some(800.0)),
        ];
        let told = recovery(&drills);
        assert_eq!((told.drills_passed, told.drills_failed), (1, 2));
        assert_eq!(told.rto_worst_seconds, Some(400.0));
        assert_eq!(
            (told.rto_objective_seconds, told.rto_kept),
            (Some(300.0), Some(false))
        );
        assert_eq!(told.last_passed, Some(drills[1].ended));
        // What passed long ago is still the last.
        let told = recovery(&drills[..1]);
        assert_eq!((told.drills_passed, told.rto_worst_seconds), (0, None));
        assert_eq!(
            (told.rto_kept, told.last_passed),
            (None, Some(drills[0].ended))
        );
    }
}
