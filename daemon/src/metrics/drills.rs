//! What is known of drills, and of the canaries that they look for.

use prometheus::GaugeVec;
use walvault_store::clock;

use super::{Metrics, seconds};
use crate::drills::DrillSeen;

impl Metrics {
    /// Takes in the newest drill of each scenario.
    pub(super) fn drilled(&self, drills: &[DrillSeen]) {
        for drill in drills {
            let scenario = &[drill.scenario.as_str()];
            let set = |gauge: &GaugeVec, value: f64| gauge.with_label_values(scenario).set(value);
            set(&self.drill_last_timestamp_seconds, seconds(drill.begun));
            let passed = drill.last_passed.map_or(0.0, seconds);
            set(&self.drill_last_success_timestamp_seconds, passed);
            set(&self.drill_last_passed, f64::from(u8::from(drill.passed)));
            for (gauge, value) in [
                (&self.drill_last_duration_seconds, drill.seconds),
                (&self.drill_last_rto_seconds, drill.rto_seconds),
                (&self.drill_last_rpo_seconds, drill.rpo_seconds),
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
        self.canary_last_timestamp_seconds.set(now);
    }
}
