//! The time of day.

use jiff::Timestamp;

use crate::simulated;

/// The time: the machine's, or that of the simulation that this thread is in.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the seam")]
pub fn now() -> Timestamp {
    simulated::ask(|simulation| simulation.begin + simulation.begun.elapsed())
        .unwrap_or_else(Timestamp::now)
}
