//! Telling the audit trail how old commits became before they were archived.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use walvault_evidence::audit::{Action, Outcome};
use walvault_store::clock;

use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::schedule::sleep_until;

/// A UTC day, so that a report of one is complete soon after it ended.
const DAY: i64 = 24 * 3600;

/// Tells it at every multiple of `every`, where anything was written since, and at the end of each day. Never
/// returns.
pub async fn keep_telling(every: Duration, metrics: Arc<Metrics>, journal: Journal) -> Infallible {
    loop {
        sleep_until(next(clock::now(), every)).await;
        let today = clock::now().as_second().div_euclid(DAY);
        let begun = metrics.live.series_begins();
        let is_over = begun.is_some_and(|begun| begun.as_second().div_euclid(DAY) < today);
        tell(&metrics, &journal, is_over);
    }
}

/// Tells what was measured since the last time; of an idle server only if `even_if_idle`.
pub fn tell(metrics: &Metrics, journal: &Journal, even_if_idle: bool) {
    if let Some(series) = metrics.live.take_series(even_if_idle) {
        journal.note(Action::Rpo, Outcome::Succeeded, |event| {
            event.with("series", series)
        });
    }
}

/// The next multiple of `every` after `now`, a second at least.
fn next(now: Timestamp, every: Duration) -> Timestamp {
    let every = i64::try_from(every.as_secs()).unwrap_or(DAY).max(1);
    let next = (now.as_second().div_euclid(every) + 1) * every;
    Timestamp::from_second(next).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_at_whole_hours() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let hour = Duration::from_secs(3600);
        assert_eq!(next(at(7201), hour), at(10_800));
        assert_eq!(next(at(7200), hour), at(10_800));
        assert_eq!(next(at(7200), Duration::from_millis(10)), at(7201));
    }
}
