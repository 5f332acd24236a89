//! What is known of drills, and of the canaries that they look for.

use jiff::Timestamp;
use prometheus::{Gauge, GaugeVec, Opts};
use walvault_store::clock;

use super::{Metrics, New, registered};
use crate::drills::DrillSeen;

/// Metrics of `[drill]`.
pub struct DrillMetrics {
    /// When the newest drill was begun, by scenario.
    pub last_timestamp_seconds: GaugeVec,
    /// When the newest one was begun that passed, by scenario.
    pub last_success_timestamp_seconds: GaugeVec,
    /// 1 when the newest one passed, by scenario.
    pub last_passed: GaugeVec,
    /// How long it took, by scenario.
    pub last_duration_seconds: GaugeVec,
    /// How long until the cluster was at the target, by scenario.
    pub last_rto_seconds: GaugeVec,
    /// What would have been lost at most, by scenario.
    pub last_rpo_seconds: GaugeVec,
    /// When the last canary was written.
    pub canary_last_timestamp_seconds: Gauge,
}

impl DrillMetrics {
    pub(super) fn new(new: &New<'_>) -> DrillMetrics {
        let of_scenario = |name: &str, help: &str| {
            registered(new.0, GaugeVec::new(Opts::new(name, help), &["scenario"]))
        };
        DrillMetrics {
            last_timestamp_seconds: of_scenario(
                "walvault_drill_last_timestamp_seconds",
                "When the newest drill was begun, in seconds since 1970.",
            ),
            last_success_timestamp_seconds: of_scenario(
                "walvault_drill_last_success_timestamp_seconds",
                "When the newest drill that passed was begun, in seconds since 1970; 0 when none did.",
            ),
            last_passed: of_scenario(
                "walvault_drill_last_passed",
                "1 when the newest drill passed, 0 when it failed.",
            ),
            last_duration_seconds: of_scenario(
                "walvault_drill_last_duration_seconds",
                "How long the newest drill took, where its record is for this host to read.",
            ),
            last_rto_seconds: of_scenario(
                "walvault_drill_last_rto_seconds",
                "How long the newest drill took until the cluster was at its target.",
            ),
            last_rpo_seconds: of_scenario(
                "walvault_drill_last_rpo_seconds",
                "The most that would have been lost by the newest drill.",
            ),
            canary_last_timestamp_seconds: new.gauge(
                "walvault_canary_last_timestamp_seconds",
                "When the last canary was written into WAL, in seconds since 1970; 0 before the first.",
            ),
        }
    }
}

impl Metrics {
    /// Takes in the newest drill of each scenario.
    pub(super) fn drilled(&self, drills: &[DrillSeen]) {
        let metrics = &self.drills;
        for drill in drills {
            let scenario = &[drill.scenario.as_str()];
            let set = |gauge: &GaugeVec, value: f64| gauge.with_label_values(scenario).set(value);
            set(&metrics.last_timestamp_seconds, seconds(drill.begun));
            let passed = drill.last_passed.map_or(0.0, seconds);
            set(&metrics.last_success_timestamp_seconds, passed);
            set(&metrics.last_passed, f64::from(u8::from(drill.passed)));
            for (gauge, value) in [
                (&metrics.last_duration_seconds, drill.seconds),
                (&metrics.last_rto_seconds, drill.rto_seconds),
                (&metrics.last_rpo_seconds, drill.rpo_seconds),
            ] {
                match value {
                    Some(value) => set(gauge, value),
                    // What an earlier drill took says nothing of this one.
                    None => drop(gauge.remove_label_values(scenario)),
                }
            }
        }
    }

    /// A canary was written just now.
    pub fn canary_written(&self) {
        let now = seconds(clock::now());
        self.drills.canary_last_timestamp_seconds.set(now);
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
